"""Calibrate the network of a stage to the network that its weights come from."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from train.calibrate import Calibrated, calibrate, recalibrate
from train.networks.layers import Network
from train.neurons.surrogate import sharpen
from train.runs.folder import weight_facts
from train.runs.module import prepare
from train.runs.plan import RunPlan, build_network
from train.settings import Stage


def calibrate_stage(
    plan: RunPlan, stage: Stage, network: Network, source: Path, batches: Iterable[Tensor]
) -> list[Calibrated]:
    """Calibrate a stage's network, in place, to the source that it has its weights from.

    The reference is the network of the earlier stage. A file is taken as a network with the
    activation of this stage; on frames, one with ann neurons is taken as trained on their sum.
    Its norms adapt to the stage's samples where they have seen others.

    Args:
        plan: the run.
        stage: the stage's settings.
        network: the network after `train.transfer.transfer`.
        source: file of the weights.
        batches: batches of `train.data.Epoch`.

    Returns:
        The outcome of each layer of neurons.

    Raises:
        OptionError: the network can't be calibrated.
    """
    data, facts = plan.parts[stage.data], weight_facts(source)
    on_frames = len(data.shape) == 4
    earlier = plan.recipe.stages.get(stage.weights)
    if earlier is None:
        kind = facts.get("kind")
        neuron = replace(stage.neuron, kind=kind if kind in ("liaf", "lif") else "ann")
        earlier = Stage(
            data=stage.data,
            neuron=neuron,
            steps=stage.steps,
            collapse=1 if on_frames and neuron.kind == "ann" else stage.collapse,
        )
        same_view = False
    else:
        keys = ("data", "downscale", "steps" if on_frames else "normalise")
        same_view = all(getattr(earlier, key) == getattr(stage, key) for key in keys)
    collapse = earlier.collapse if earlier.data == stage.data else 1
    if on_frames and (stage.steps or data.shape[0]) % (collapse or 1):
        same_view, collapse = False, 1
    view = replace(stage, collapse=collapse if on_frames else None)
    reference = build_network(plan.recipe, earlier, shape=data.shape, classes=len(data.classes))
    reference.load_state_dict(network.state_dict())
    reference.to(next(network.parameters()).device).eval()
    epoch = facts.get("epoch")
    sharpen(reference, epoch - 1 if isinstance(epoch, int) else earlier.epochs, earlier.epochs)
    pairs = [(prepare(frames, stage), prepare(frames, view)) for frames in batches]
    if not same_view:
        recalibrate(reference, (x for _, x in pairs))
    refit = stage.calibrate == "refit"
    return calibrate(network, reference, pairs, refit=refit, seed=plan.recipe.run.seed)
