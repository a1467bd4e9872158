"""Load a trained network with everything that decides its outputs.

The files of a run state it in their header (`train.runs.facts.model_facts`); for files of other
programs a recipe states it.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eventdata.errors import InputError, OptionError
from eventdata.settings import from_table, table_of
from eventdata.store.layout import SampleFormat, whole_number
from train.networks.layers import Network
from train.neurons.surrogate import sharpen
from train.recipe import Recipe, load
from train.runs.facts import reading_header
from train.runs.folder import RunFolder, number_in, weight_facts
from train.runs.plan import build_network, input_shape
from train.settings import CHECKPOINT, Stage
from train.weights import Weights, contents, find_weights, read_weights


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How the samples of a run's store were made."""

    dataset: str
    sample: SampleFormat
    """Representation, steps, channels, height and width of a sample in the store."""
    parameters: Mapping[str, Any]
    """The settings of the conversion, as in the store's header."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The facts about a loaded network."""

    classes: list[str]
    """Class names by output. Files of other programs have no names, only numbers."""
    recipe: Recipe
    """Settings of the network and of the stage that trained it."""
    stage: str
    """Name of that stage, the only one in the recipe."""
    framing: Framing | None
    """How the input was made; None if the file does not state it, like those of other programs."""
    file: Path

    @property
    def settings(self) -> Stage:
        """The settings of the stage: neurons, steps, collapse, downscale, align."""
        return self.recipe.stages[self.stage]


def load_model(
    path: str | Path,
    recipe: str | None = None,
    *,
    stage: str | None = None,
    changes: Iterable[str] = (),
    classes: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[Network, ModelInfo]:
    """Load a trained network, in evaluation mode, on the CPU.

    Args:
        path: folder of a run; a file of weights of this package or of another program; or
            `timm:NAME`.
        recipe: name or path of the recipe with the settings of a file that does not state them,
            such as published-liaf18 or torchvision-resnet18.
        stage: stage of the run or of the recipe. Default: the last one of a run; of a recipe the
            one that starts from a checkpoint, if there is one.
        changes: changes to the recipe, each ``stage.key=value``.
        classes: class names for a file that does not state them. Default: numbers.
        size: H and W of the input, for a crnn whose file does not state them.

    Returns:
        The network, which maps float frames (N, T, P, H, W) or images (N, C, H, W) to logits
        (N, classes), and the facts about it.

    Raises:
        InputError: the file can't be read, the weights do not fit the network, or are not finite.
        OptionError: settings are missing, or are not those of the weights.
    """
    file, stage = _file_of(path, stage)
    weights, facts = read_weights(file), weight_facts(file)
    if recipe is None:
        if list(changes):
            raise OptionError("changes need a recipe; pass recipe, too")
        info = _info_of(facts, weights, path)
    else:
        loaded = load(recipe, changes=changes, check_weights=False)
        info = _with_recipe(loaded, stage, facts, weights, classes)
    with torch.device("meta"):  # shapes only, so that no file can make this large or slow
        network = _build(info, weights, size)
    _fill(network, info, weights)
    last = epoch = max(info.settings.epochs, 1)
    with suppress(ValueError):  # other files have the weights of the end
        epoch = int(number_in(facts, "epoch", 1, last))
    sharpen(network, epoch - 1, last)
    if info.framing is not None:
        network.sample_shape = input_shape(info.settings, info.framing.sample.dense_shape)
    return network.eval(), info


def _file_of(path: str | Path, stage: str | None) -> tuple[Path, str | None]:
    """Return the file with the weights at a path, and their stage if it is a run's."""
    found = find_weights(path)
    if not found.is_dir():
        return found, stage
    folder = RunFolder(found)
    stages = load(str(folder.config), check_weights=False).stages
    stage = stage or list(stages)[-1]
    if stage not in stages:
        raise OptionError(f"{path} has no stage {stage!r}: choose {', '.join(stages)}")
    file = folder.stage(stage).weights(stages[stage].keep)
    if not file.exists():
        raise InputError(
            f"{path} has no weights of stage {stage} yet; run its command again to resume"
        )
    return file, stage


def _deciding(stage: Stage) -> dict[str, Any]:
    """Return the settings of a stage that decide the outputs of a network with given weights."""
    inputs = ("steps", "collapse", "downscale", "align", "normalise")
    return {key: getattr(stage, key) for key in inputs} | table_of(stage.neuron)


def _info_of(facts: Mapping[str, Any], weights: Weights, path: str | Path) -> ModelInfo:
    """Return what the header of a file states.

    Raises:
        OptionError: it states nothing, or not everything.
        InputError: it is damaged.
    """
    if "settings" not in facts:
        config = Path(path) / "config.toml"
        old = f" An older version wrote it. Pass recipe={str(config)!r}" if config.is_file() else ""
        names = weights.recipes or "the recipe that it was trained with"
        raise OptionError(
            f"{weights.path} holds {weights.form.title if weights.form else 'weights'} without "
            "the settings of neurons and input, which decide the outputs."
            + (old or f" Pass recipe=..., for these weights {names}")
        )
    with reading_header(weights.path):
        framing = _framing_of(facts)
        stage = from_table(Stage, facts["settings"], "settings")
        texts = [facts[key] for key in ("recipe", "pipeline", "stage")]
        classes, network = facts["classes"], facts["network"]
        if not all(isinstance(text, str) for text in (*texts, *classes, network["name"])):
            raise TypeError("a name is not text")
        if sum(network.get("depths", ())) > len(weights.state):
            raise ValueError("it names more layers than the file has")
        return ModelInfo(
            classes=list(classes),
            recipe=Recipe(
                name=texts[0],
                pipeline="pipe-s" if texts[1] == "pipe-s" else "pipe-d",
                network=dict(network),
                stages={texts[2]: stage},
            ),
            stage=texts[2],
            framing=framing,
            file=weights.path,
        )


def _framing_of(facts: Mapping[str, Any]) -> Framing | None:
    if "framing" not in facts:
        return None
    framing = facts["framing"]
    sample = framing["sample"]
    sides = [sample[key] for key in ("channels", "height", "width")]
    for number in [*sides, *([] if sample["steps"] is None else [sample["steps"]])]:
        whole_number(number, least=1)
    return Framing(
        dataset=str(framing["dataset"]),
        sample=SampleFormat(**sample),
        parameters=dict(framing["parameters"]),
    )


def _with_recipe(
    recipe: Recipe,
    stage: str | None,
    facts: Mapping[str, Any],
    weights: Weights,
    classes: Sequence[str] | None,
) -> ModelInfo:
    """Return what a recipe states of a file; raise OptionError if the file contradicts it."""
    starts = [name for name, one in recipe.stages.items() if one.weights == CHECKPOINT]
    stage = stage or [*recipe.stages, *starts][-1]
    if stage not in recipe.stages:
        raise OptionError(
            f"the recipe {recipe.name} has no stage {stage!r}: choose {', '.join(recipe.stages)}"
        )
    settings = recipe.stages[stage]
    weights.check(recipe.network, settings.neuron, exact=True)
    mine = recipe.network | _deciding(settings)
    with reading_header(weights.path):
        framing = _framing_of(facts)
        stated = dict(facts.get("network", {}))
        stated |= {"kind": facts["kind"]} if "kind" in facts else {}
        if "settings" in facts:
            stated |= _deciding(from_table(Stage, facts["settings"], "settings"))
    if different := [key for key in stated if key in mine and mine[key] != stated[key]]:
        raise OptionError(
            f"{weights.path} was trained with "
            + ", ".join(f"{key}={stated[key]!s:.40}" for key in different)
            + f", but the recipe {recipe.name} has "
            + ", ".join(f"{key}={mine[key]}" for key in different)
            + "; pass the recipe that it was trained with"
        )
    outputs = len(_entry(weights, "fc.weight"))
    names = list(classes if classes is not None else facts.get("classes", map(str, range(outputs))))
    if len(names) != outputs:
        raise OptionError(f"{weights.path} has {outputs} classes, not the {len(names)} named")
    recipe = replace(recipe, stages={stage: settings.without_source()})
    return ModelInfo(
        classes=names,
        recipe=recipe,
        stage=stage,
        framing=framing,
        file=weights.path,
    )


def _entry(weights: Weights, name: str) -> Tensor:
    """Return the entry whose key ends in a name; raise InputError without one."""
    for key, value in weights.state.items():
        if f".{key}".endswith(f".{name}") and value.ndim > 1:
            return value
    raise InputError(
        f"{weights.path} holds no network of this package or of a known program: no {name} among "
        f"its {contents(weights.state)}"
    )


def _build(info: ModelInfo, weights: Weights, size: tuple[int, int] | None) -> Network:
    recipe, settings = info.recipe, info.settings
    if info.framing is not None:
        shape = info.framing.sample.dense_shape
    else:
        channels = _entry(weights, "stem.conv.weight").shape[1]
        still = recipe.pipeline == "pipe-s" or settings.data == "images"
        height, width = (side * settings.downscale for side in size or (256, 342))
        shape = (channels, height, width) if still else (1, channels, height, width)
    return build_network(recipe, settings, shape=shape, classes=len(info.classes))


def _fill(network: nn.Module, info: ModelInfo, weights: Weights) -> None:
    """Give a network on the device meta its weights; raise InputError if they do not fit."""
    own, state = network.state_dict(), dict(weights.state)
    for key, value in own.items():
        if key in state:
            continue
        if key.endswith("num_batches_tracked"):  # which old versions of torch did not save
            state[key] = torch.zeros((), dtype=value.dtype)
        elif key.endswith("neuron.decay") and info.settings.neuron.kind == "ann":
            state[key] = torch.full(value.shape, info.settings.neuron.decay).logit()
    problems = [f"{key} is missing" for key in own if key not in state]
    problems += [f"{key} is not in the network" for key in state if key not in own]
    problems += [
        f"{key} is {tuple(state[key].shape)} there and {tuple(value.shape)} here"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 4} more problems" if len(problems) > 4 else ""
        raise InputError(
            f"{weights.path} does not fit the network {info.recipe.network['name']}: "
            f"{'; '.join(problems[:4])}{more}. The file has {contents(weights.state)}; the "
            f"network has {contents(own)}. Pass the recipe and the settings that it was trained "
            "with"
        )
    ready = {key: state[key].to(value.dtype).clone() for key, value in own.items()}
    if wrong := [key for key, value in ready.items() if not value.isfinite().all()]:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise InputError(
            f"{weights.path} has weights that are NaN or infinite: {', '.join(wrong[:4])}{more}; "
            "pass weights from before the training diverged"
        )
    network.load_state_dict(ready, assign=True)
