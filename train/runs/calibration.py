"""Calibrate the network of a stage to the network that its weights come from."""

from collections.abc import Iterable
from dataclasses import replace

from torch import Tensor

from eventdata.settings import from_table
from train.calibrate import Calibrated, calibrate, recalibrate
from train.networks.layers import Network
from train.neurons.surrogate import sharpen
from train.runs.facts import reading_header
from train.runs.folder import weight_facts
from train.runs.module import prepare
from train.runs.plan import RunPlan, build_network
from train.settings import Stage
from train.weights import Weights


def calibrate_stage(
    plan: RunPlan,
    stage: Stage,
    network: Network,
    weights: Weights,
    earlier: Stage,
    batches: Iterable[Tensor],
) -> list[Calibrated]:
    """Calibrate a stage's network, in place, to the network that its weights come from.

    The norms of the reference adapt to the stage's samples where they have seen others.

    Args:
        plan: the run.
        stage: the stage's settings.
        network: the network after `train.transfer.transfer`.
        weights: the weights that it has been given.
        earlier: the settings that they were trained with.
        batches: batches of `train.data.Epoch`.

    Returns:
        The outcome of each layer of neurons.

    Raises:
        OptionError: the network can't be calibrated.
    """
    data, facts = plan.parts[stage.data], weight_facts(weights.path)
    on_frames = len(data.shape) == 4
    same_store = stage.weights in plan.recipe.stages or (
        facts.get("store") == plan.stores[stage.data].digest
    )
    keys = ("data", "downscale", *(("steps", "align") if on_frames else ("normalise",)))
    same_view = same_store and all(getattr(earlier, key) == getattr(stage, key) for key in keys)
    collapse = earlier.collapse if earlier.data == stage.data else 1
    if on_frames and (stage.steps or data.shape[0]) % (collapse or 1):
        same_view, collapse = False, 1
    view = replace(stage, collapse=collapse if on_frames else None)
    reference = build_network(
        plan.recipe,
        replace(earlier, downscale=stage.downscale),
        shape=data.shape,
        classes=len(data.classes),
    )
    state = network.state_dict()
    reference.load_state_dict(
        {  # only one of the two stages may have learned its decays
            key: weights.state.get(key, own) if key.endswith("neuron.decay") else state[key]
            for key, own in reference.state_dict().items()
        }
    )
    reference.to(next(network.parameters()).device).eval()
    epoch = facts.get("epoch")
    sharpen(reference, epoch - 1 if isinstance(epoch, int) else earlier.epochs, earlier.epochs)
    pairs = [(prepare(frames, stage), prepare(frames, view)) for frames in batches]
    if not same_view:
        recalibrate(reference, (x for _, x in pairs))
    refit = stage.calibrate == "refit"
    return calibrate(network, reference, pairs, refit=refit, seed=plan.recipe.run.seed)


def stage_of(weights: Weights, stage: Stage, *, on_frames: bool) -> tuple[Stage, str]:
    """Return the settings that the weights in a file were trained with, and what was guessed.

    Args:
        weights: the weights.
        stage: the settings of the stage that starts from them.
        on_frames: whether that stage learns from frames.

    Returns:
        The settings, and a sentence for users about the file if it does not state them, or "".

    Raises:
        InputError: the header of the file is damaged.
    """
    facts = weight_facts(weights.path)
    with reading_header(weights.path):
        if "settings" in facts:
            earlier = from_table(Stage, facts["settings"], "settings")
            was_on_frames = earlier.data == "data" and facts["pipeline"] == "pipe-d"
            if "framing" in facts:  # exported weights of other programs have none
                was_on_frames = facts["framing"]["sample"]["steps"] is not None
            if was_on_frames != on_frames:
                return replace(earlier, data="images" if stage.data == "data" else "data"), ""
            return replace(earlier, data=stage.data), ""
        neuron = weights.neuron(stage.neuron)
        if "kind" in facts:  # an older version wrote no more
            neuron = replace(neuron, kind=facts["kind"])
    on_sums = on_frames and neuron.kind == "ann"
    earlier = Stage(data=stage.data, neuron=neuron, steps=stage.steps)
    text = (
        f"does not state how it was trained, and is taken as of {neuron.kind} neurons"
        + " on the sum of the frames" * on_sums
    )
    return replace(earlier, collapse=1 if on_sums else stage.collapse), text
