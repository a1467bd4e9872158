"""Recipes: a pipeline of training stages in a TOML file, every key checked.

A stage is a network, data, a schedule, a kind of neuron, and where its weights come from; a
pipeline is stages in order; a recipe describes a pipeline and its rival trained from scratch::

    base = "NAME"        a recipe of this package: what is not said here is as there
    pipeline = "pipe-d"  and name, where it is not the file's
    [network]            the one network of all stages: a name of train.networks and its settings
    [run]                seed, protocol, precision
    [machine]            what a result does not depend on: devices, threads
    [defaults]           a Stage: what all stages have in common
    [stages.NAME]        a Stage, in order
    [scratch]            the rival: what the last stage is set to when it starts from scratch
"""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from eventdata.errors import InputError, OptionError
from eventdata.files.local import read_plain
from train.augment import Augmentation
from train.networks.layers import Packing, Recompute
from train.neurons.neuron import NeuronSettings
from train.settings import (
    MOST_DEEP,
    Table,
    check_ranges,
    from_table,
    merge,
    parse_toml,
    table_of,
    to_toml,
    unknown_key,
)

RECIPES = Path(__file__).parent / "recipes"
SCRATCH = "scratch"
SECTIONS = (
    *("base", "name", "pipeline", "network", "run", "machine", "defaults", "stages", SCRATCH),
    "stores",  # a run's config.toml has them, and is a recipe all the same
)
FRESH = "fresh"
MAX_BYTES = 1 << 20  # of a recipe's file
MOST_EPOCHS = 100_000

Pipeline = Literal["pipe-s", "pipe-d"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What decides a result besides the stages."""

    seed: int = 0
    """Of weights, order and augmentation."""
    label: str = ""
    """What a report calls it, where that is not the way of training and the recipe."""
    protocol: Literal["correct", "published"] = "correct"
    """correct: models are selected on a held-out part of the training set, the test set is read
    once, at the end. published: no part is held out, the test set selects; for comparison with
    published figures only."""
    held_out: float = 0.1
    """Share of the training samples of each class that is held out (correct protocol, stores
    without a split of their own for that)."""
    split_seed: int = 0
    """Of the choice of the held-out part: the same for all seeds, so that they are comparable."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    deterministic: bool = False
    """On a GPU, only kernels that give the same bits every time. The CPU's do anyway."""
    sync_norm: bool = False
    """Several devices: batch norm over the samples of all, so that they train as one would."""

    def __post_init__(self) -> None:
        check_ranges(self, seed=(0, 2**31), held_out=(0.01, 0.5), split_seed=(0, 2**31))


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run is computed with; may change from call to call of the same run."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    """A node; 0: all there are."""
    nodes: int = 1
    threads: int = 2
    """That read samples, a device."""
    log_every: int = 10
    """Steps between rows of steps.csv. Each waits for the device."""
    keep_pages: bool = True
    """On the CPU: have malloc keep the memory of freed tensors (train.neurons.memory)."""
    recompute: Recompute = "nothing"
    """Less memory for more time: what is not kept for the pass backward but computed again there.
    blocks: all but the input of each of a network's blocks; time: where neurons run as a loop of
    torch's own (no kernel for them on the device), their steps but not their input."""
    pack_spikes: Packing = "auto"
    """Spikes that are kept for the pass backward are kept as bits: always, never, or auto, on the
    CPU alone. On a GPU it saves memory and costs time."""

    def __post_init__(self) -> None:
        check_ranges(self, devices=(0, math.inf), nodes=(1, math.inf), threads=(1, 256))
        check_ranges(self, log_every=(1, math.inf))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training."""

    data: Literal["data", "images"] = "data"
    """Which store: the one of --data or the one of --images."""
    neuron: NeuronSettings = field(default_factory=NeuronSettings)

    weights: str = FRESH
    """Where they come from: `fresh`, the name of an earlier stage, or a checkpoint's path."""
    take: Literal["both", "encoder", "decoder"] = "both"
    """The part of them that is taken."""
    stem: Literal["mean", "fresh"] = "mean"
    """Where the input has other channels: the mean over those of the source, or a fresh stem."""
    keep: Literal["best", "last"] = "best"
    """The weights that go on to the next stage and to the test: of the best or the last epoch."""
    recalibrate: int = 0
    """Batches from which batch-norm statistics are taken before the first step."""
    freeze: tuple[str, ...] = ()
    """Parts that stay as they are in the first epochs (their norms go on following the input)."""
    freeze_epochs: int = 0

    epochs: int = 1
    batch_size: int = 64
    """Samples a step, over all devices."""
    accumulate: int = 1
    """A step's batch is worked on in so many parts, to fit the memory."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    """Of SGD; the first beta of AdamW."""
    nesterov: bool = False
    weight_decay: float = 0.0
    """On weights of convolutions, linear layers and LSTMs; norms, biases and decays have none."""
    schedule: Literal["constant", "step", "cosine", "one-cycle"] = "constant"
    milestones: tuple[int, ...] = ()
    """step: the rate is multiplied by `gamma` once so many epochs are done."""
    gamma: float = 0.1
    warmup: float = 0.0
    """Epochs in which the rate rises to its full height; of one-cycle, a share of all steps."""
    label_smoothing: float = 0.0
    ema: float = 0.0
    """Weights are evaluated and kept as a moving average with this decay; 0: as they are."""

    steps: int | None = None
    """Frames: only the first so many steps. Images: T, the steps that see the image."""
    collapse: int | None = None
    """Frames: neighbours are summed, so that so many steps remain. With 1 an ann learns from events
    at a T-th of the cost."""
    downscale: int = 1
    """Rows and columns are divided by this: frames by max-pooling, images by the mean."""
    augment: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        check_ranges(
            self,
            recalibrate=(0, MOST_EPOCHS),
            freeze_epochs=(0, MOST_EPOCHS),
            epochs=(1, MOST_EPOCHS),
            batch_size=(1, math.inf),
            accumulate=(1, math.inf),
            learning_rate=(0, 1000),
            momentum=(0, 1),
            weight_decay=(0, 1000),
            gamma=(0, 1),
            warmup=(0, MOST_EPOCHS),
            label_smoothing=(0, 0.9),
            ema=(0, 0.99999),
            steps=(1, 10_000),
            collapse=(1, math.inf),
            downscale=(1, math.inf),
        )
        if self.batch_size % self.accumulate:
            raise OptionError(
                f"batch_size is {self.batch_size}, which accumulate={self.accumulate} does not "
                "divide"
            )
        if self.optimizer == "adamw" and self.momentum == 1:
            raise OptionError("momentum is 1: of adamw it is a beta, less than 1")
        if self.schedule == "step" and not self.milestones:
            raise OptionError("schedule is step without milestones: give the epochs, as [30, 60]")
        if self.schedule != "step" and (self.milestones or self.gamma != Stage.gamma):
            raise OptionError(
                f"milestones and gamma go with schedule=step, but schedule is {self.schedule}; "
                f"leave them out, or set milestones=[] and gamma={Stage.gamma}"
            )
        if bool(self.freeze) != bool(self.freeze_epochs):
            raise OptionError(
                "freeze and freeze_epochs go together: name the parts, and in how many epochs they "
                "stay as they are; or leave out both (freeze=[], freeze_epochs=0)"
            )
        if self.weights == FRESH and self.take != "both":
            raise OptionError(
                f"take is {self.take}, but weights are fresh: of them there is nothing to take; "
                "name an earlier stage or a file as weights, or set take=both"
            )
        if self.schedule == "one-cycle" and self.warmup >= 1:
            raise OptionError(
                f"warmup is {self.warmup}: of one-cycle it is a share of all steps, less than 1"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A pipeline, ready to run."""

    name: str
    pipeline: Pipeline
    network: dict[str, Any]
    stages: dict[str, Stage]
    run: Run = field(default_factory=Run)
    machine: Machine = field(default_factory=Machine)

    @property
    def label(self) -> str:
        """What a report calls its runs: `run.label`, else the way of training and the recipe."""
        way = SCRATCH if SCRATCH in self.stages else self.pipeline
        named = self.name if self.name.startswith(way) else f"{way} {self.name}"
        return self.run.label or named

    def document(self) -> str:
        """The recipe as TOML with every setting written out; `load` reads it to the same."""
        table = {
            "name": self.name,
            "pipeline": self.pipeline,
            "network": self.network,
            "run": table_of(self.run),
            "machine": table_of(self.machine),
            "stages": {name: table_of(stage) for name, stage in self.stages.items()},
        }
        return to_toml(table)


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load(name: str, *, scratch: bool = False, changes: Iterable[str] = ()) -> Recipe:
    """A recipe by its name or its file, with changes ``stage.key=value``.

    Args:
        name: one of `recipe_names`, or the path of a TOML file.
        scratch: the rival instead of the pipeline: one stage `scratch`, which is the last stage
            with the settings of [scratch] and fresh weights.
        changes: see `set_key`. A stage that the last one no longer builds on after them (its
            successor has weights from a file, say) is left out.

    Raises:
        OptionError: no recipe of this name, or a key or value in it that is wrong.
        InputError: its file can't be read.
    """
    where = f"recipe {Path(name).stem}"
    table = _on_base(_read(name), where)
    for key in table:
        if key not in SECTIONS:
            raise unknown_key(where, key, SECTIONS)
    for key in ("stages", "defaults", "network", SCRATCH):
        _check_table(table.get(key, {}), f"{where}: [{key}]")
    for key, stage in table.get("stages", {}).items():
        _check_table(stage, f"{where}: [stages.{key}]")
    if not table.get("stages") or "pipeline" not in table or "name" not in table.get("network", {}):
        raise OptionError(f"{where}: needs pipeline, network.name and at least one of [stages]")
    defaults, own = table.pop("defaults", {}), table.pop(SCRATCH, {})
    stages = {key: merge(defaults, stage) for key, stage in table["stages"].items()}
    rival = merge(from_scratch(list(stages.values())[-1]), own)
    if scratch:
        stages = {SCRATCH: rival}
    if idle := stages.keys() - _needed(stages):
        raise OptionError(
            f"{where}: nothing comes of {', '.join(sorted(idle))}: the last stage does not build "
            "on its weights"
        )
    table["stages"] = stages
    for change in changes:
        set_key(table, change)
    if not isinstance(table["network"]["name"], str):
        raise OptionError(f"{where}: network.name is {table['network']['name']!r}, no name")
    recipe = Recipe(
        name=str(table.get("name", Path(name).stem)),
        pipeline=_pipeline(table["pipeline"], where),
        network=dict(table["network"]),
        stages={
            key: from_table(Stage, stage, f"{where}: {key}")
            for key, stage in table["stages"].items()
        },
        run=from_table(Run, table.get("run", {}), f"{where}: run"),
        machine=from_table(Machine, table.get("machine", {}), f"{where}: machine"),
    )
    _check_sources(recipe, where)
    needed = _needed(stages)
    recipe = replace(recipe, stages={k: v for k, v in recipe.stages.items() if k in needed})
    checked = list(recipe.stages.items())
    if own and not scratch:  # checked also where it is not run
        checked.append((SCRATCH, from_table(Stage, rival, f"{where}: {SCRATCH}")))
    for key, one in checked:
        if one.data == "images" or recipe.pipeline == "pipe-s":
            _check_of_images(one, f"{where}: {key}")
    return recipe


def _check_table(value: object, what: str) -> None:
    if not isinstance(value, dict):
        raise OptionError(f"{what} is {value!r}, but has to be a table of settings")


def default_recipe(way: str, *, on_images: bool, with_images: bool) -> str:
    """The recipe of a way of training where none is named.

    Args:
        way: pipe-s, pipe-d or scratch.
        on_images: the store that is trained on in the end is of still images, not of events.
        with_images: there is a store of still images to pretrain on.
    """
    if way == "pipe-s" or (way == SCRATCH and on_images):
        return "pipe-s"
    return "pipe-d-images" if with_images else "pipe-d-events"


def load_way(way: str, name: str, changes: Iterable[str] = ()) -> Recipe:
    """The recipe of a way of training: pipe-s, pipe-d, or scratch (the rival of the recipe named).

    Raises:
        OptionError: as `load`; or the recipe is for another pipeline.
    """
    recipe = load(name, scratch=way == SCRATCH, changes=changes)
    if way not in (SCRATCH, recipe.pipeline):
        raise OptionError(f"the recipe {recipe.name} is for {recipe.pipeline}, not {way}")
    return recipe


def from_scratch(stage: Table) -> Table:
    """A stage's table without what belongs to weights from elsewhere."""
    inherited = ("weights", "take", "stem", "freeze", "freeze_epochs", "recalibrate")
    return {key: value for key, value in stage.items() if key not in inherited}


def set_key(table: Table, change: str) -> None:
    """Apply ``stage.key=value`` to a recipe's table, in place.

    The first word is a stage, `all` for every stage, or network, run or machine; further words lead
    into tables (``lif.augment.flip=0``). The value is TOML; what is not is text.
    """
    path, equals, text = change.partition("=")
    words = path.strip().split(".")
    if not equals or len(words) < 2 or not all(words):
        raise OptionError(f"--set {change!r}: write stage.key=value")
    if len(words) > MOST_DEEP:
        raise OptionError(f"--set {change!r}: is nested too deep")
    first, *inner, last = words
    stages = table["stages"]
    tops = {**{key: [stages[key]] for key in stages}, "all": list(stages.values())}
    tops |= {key: [table.setdefault(key, {})] for key in ("network", "run", "machine")}
    if first not in tops:
        raise unknown_key(f"--set {change!r}: the recipe", first, tops)
    for target in tops[first]:
        for word in inner:
            target = target.setdefault(word, {})
            if not isinstance(target, dict):
                raise OptionError(f"--set {change!r}: {word} is a value, not a table")
        target[last] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text


def _read(name: str) -> Table:
    path = Path(name)
    if path.suffix != ".toml":
        path = RECIPES / f"{name}.toml"
        if name not in recipe_names():
            raise unknown_recipe(name)
    try:
        return parse_toml(read_plain(path, MAX_BYTES).decode("utf-8"))
    except OSError as error:
        raise InputError(f"recipe {path} can't be read ({error.strerror})") from None
    except ValueError as error:
        raise OptionError(f"recipe {path} is not TOML: {error}") from None


def _on_base(table: Table, where: str) -> Table:
    """A recipe's table merged over that of the recipe it names as its base, if any."""
    if "base" not in table:
        return table
    base = table["base"]
    if base not in recipe_names():
        raise OptionError(f"{where}: base is {base!r}: choose {', '.join(recipe_names())}")
    below = _read(base)
    if "base" in below:
        raise OptionError(f"{where}: base is {base!r}, which has a base itself; name one without")
    return merge(below, {key: value for key, value in table.items() if key != "base"})


def unknown_recipe(name: str) -> OptionError:
    """The error of a name that is none of `recipe_names`."""
    return OptionError(
        f"there is no recipe {name!r}; there are {', '.join(recipe_names())}, or give the path of "
        "a .toml file"
    )


def _pipeline(value: Any, where: str) -> Pipeline:
    if value not in ("pipe-s", "pipe-d"):
        raise OptionError(f"{where}.pipeline is {value!r}: choose pipe-s, pipe-d")
    return value  # type: ignore[no-any-return]


def _check_sources(recipe: Recipe, where: str) -> None:
    """Weights come from an earlier stage, a file, or nowhere; names that the folder can have."""
    earlier: list[str] = []
    for name, stage in recipe.stages.items():
        if not name.replace("-", "").replace("_", "").isalnum() or name in ("all", "tensorboard"):
            raise OptionError(f"{where}: {name!r} can't be the name of a stage")
        source = stage.weights
        if source == FRESH or source in earlier:
            earlier.append(name)
            continue
        if source == "checkpoint":
            raise OptionError(
                f"{where}: {name} starts from a checkpoint: give it with --set "
                f"{name}.weights=FILE.safetensors"
            )
        if not os.path.isfile(source):  # noqa: PTH113 Path raises for a name that is too long
            known = ", ".join([FRESH, *earlier])
            raise OptionError(f"{where}: {name}.weights is {source!r}, neither {known} nor a file")
        earlier.append(name)


def _check_of_images(stage: Stage, where: str) -> None:
    """OptionError for what a stage on still images has that does something to frames alone."""
    for key, value in (
        ("collapse", stage.collapse),
        ("augment.time_shift", stage.augment.time_shift),
        ("augment.event_drop", stage.augment.event_drop),
    ):
        if value:
            raise OptionError(
                f"{where}.{key} is {value}, but the stage learns from still images, which have "
                "neither steps nor events; set it for stages on event frames alone"
            )


def _needed(stages: dict[str, Table]) -> set[str]:
    """The last stage and all that it builds on."""
    needed = {next(reversed(stages))}
    for name in reversed(stages):
        if name in needed:
            needed.add(str(stages[name].get("weights", FRESH)))
    return needed


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with the paths of checkpoints made absolute, so that it says the same anywhere."""
    stages = {
        name: replace(stage, weights=str(Path(stage.weights).resolve()))
        if stage.weights != FRESH and stage.weights not in recipe.stages
        else stage
        for name, stage in recipe.stages.items()
    }
    return replace(recipe, stages=stages)
