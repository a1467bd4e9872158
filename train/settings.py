"""The settings of recipes: of a run, of its machine, and of a stage of training."""

from dataclasses import dataclass, replace
from typing import Literal

from eventdata.errors import OptionError
from eventdata.settings import Settings, options_of, reference, setting
from train.augment import Augmentation
from train.networks.layers import Packing, Recompute
from train.neurons.neuron import NeuronSettings

FRESH = "fresh"
CHECKPOINT = "checkpoint"  # a file that the user has to name
TIMM = "timm:"
MAX_EPOCHS = 100_000


@dataclass(frozen=True, kw_only=True)
class Run(Settings):
    """Settings that decide the result, in addition to the stages."""

    seed: int = setting(0, "Random seed of weights, order and augmentation.", least=0, most=2**31)
    label: str = setting("", "Name in a report. Default: the training method and the recipe.")
    protocol: Literal["correct", "published"] = setting(
        "correct",
        "`correct`: models are selected on a held-out part of the training set, and the test set "
        "is read once, at the end. `published`: the test set selects the models; use it only to "
        "compare with published figures.",
    )
    held_out: float = setting(
        0.1,
        "Share of each class's training samples to hold out, if the store has no split for "
        "it and the protocol is `correct`.",
        least=0.01,
        most=0.5,
    )
    test_share: float = setting(
        0.2,
        "Share of each class's samples to draw for the test, if the store has neither a "
        "split test nor val.",
        least=0.01,
        most=0.5,
    )
    split_seed: int = setting(
        0,
        "Random seed for drawing these parts. It is independent of `seed`, so that runs with "
        "different seeds can be compared.",
        least=0,
        most=2**31,
    )
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = setting(
        "32-true", "Floating-point precision; `16-mixed` needs a GPU."
    )
    deterministic: bool = setting(
        False, "On a GPU, use only kernels that always give the same bits, as a CPU's always do."
    )
    sync_norm: bool = setting(
        False, "With several devices, normalise batches over the samples of all devices."
    )


@dataclass(frozen=True, kw_only=True)
class Machine(Settings):
    """Settings of the machine, which may change whenever a run is resumed."""

    accelerator: Literal["auto", "cpu", "gpu"] = setting("auto", "Kind of device.")
    devices: int = setting(1, "Devices in each node; 0: all of them.", least=0)
    nodes: int = setting(1, "Number of nodes.", least=1)
    threads: int = setting(2, "Threads per device that read samples.", least=1, most=256)
    log_every: int = setting(
        10,
        "Interval between rows of steps.csv. Each row waits for the device.",
        unit="batches",
        least=1,
    )
    keep_pages: bool = setting(
        True, "On a CPU, let malloc keep the memory of freed tensors, which saves time."
    )
    recompute: Recompute = setting(
        "nothing",
        "Use less memory and more time by computing activations again in the backward pass. "
        "`blocks`: keep only the input of each block of the network. `time`: keep only the input "
        "of neurons that run as a loop in torch, without a kernel for the device.",
    )
    pack_spikes: Packing = setting(
        "auto",
        "Keep spikes for the backward pass as bits; `auto`: only on a CPU. On a GPU this saves "
        "memory and costs time.",
    )


@dataclass(frozen=True, kw_only=True)
class Stage(Settings):
    """Settings of one stage of training."""

    data: Literal["data", "images"] = setting("data", "Store of the stage: `--data` or `--images`.")
    neuron: NeuronSettings = setting(factory=NeuronSettings)

    weights: str = setting(
        FRESH,
        "Origin of the initial weights: `fresh`, the name of an earlier stage, the path of a "
        "checkpoint, or `timm:NAME` for a model of timm.",
    )
    take: Literal["both", "encoder", "decoder"] = setting("both", "Part of `weights` to load.")
    stem: Literal["mean", "fresh"] = setting(
        "mean",
        "Stem for an input with other channels: the mean over the channels of the source, or "
        "fresh weights.",
    )
    keep: Literal["best", "last"] = setting(
        "best", "Epoch whose weights the next stage and the test use."
    )
    recalibrate: int = setting(
        0,
        "Batches for computing batch-norm statistics before the first step; 0: none.",
        unit="batches",
        least=0,
        most=MAX_EPOCHS,
    )
    calibrate: Literal["none", "channels", "refit"] = setting(
        "none",
        "Calibrate spiking neurons to the source of the weights before the first step, without "
        "labels. `channels`: choose the threshold and the amplitude of each channel. `refit`: "
        "refit convolutions and norms in closed form as well.",
    )
    calibrate_samples: int = setting(
        1024,
        "Training samples for `calibrate`. All of them are in memory at once.",
        unit="samples",
        least=16,
        most=1_000_000,
    )
    freeze: tuple[str, ...] = setting(
        (), "Parts whose weights do not change in the first epochs; their norms still do."
    )
    freeze_epochs: int = setting(
        0, "Duration of `freeze`.", unit="epochs", least=0, most=MAX_EPOCHS
    )

    epochs: int = setting(
        1,
        "Duration of the stage. 0: keep the weights of the source, after `recalibrate` or "
        "`calibrate`.",
        unit="epochs",
        least=0,
        most=MAX_EPOCHS,
    )
    epoch_share: float = setting(
        1.0,
        "Share of the training samples in an epoch, others in each. It suits stages that are "
        "shorter than one pass over a large data set.",
        above=0,
        most=1,
    )
    batch_size: int = setting(64, "Samples per step, over all devices.", unit="samples", least=1)
    accumulate: int = setting(
        1, "Parts of a batch, computed one after the other to save memory.", least=1
    )
    optimizer: Literal["sgd", "adamw"] = setting("sgd", "Optimiser.")
    learning_rate: float = setting(0.1, "Highest learning rate.", least=0, most=1000)
    momentum: float = setting(
        0.9, "Momentum of `sgd`, or first beta (below 1) of `adamw`.", least=0, most=1
    )
    nesterov: bool = setting(False, "Use Nesterov momentum with `sgd`.")
    weight_decay: float = setting(
        0.0,
        "Weight decay of convolutions, linear layers and LSTMs, not of norms, biases and neurons.",
        least=0,
        most=1000,
    )
    schedule: Literal["constant", "step", "cosine", "one-cycle"] = setting(
        "constant", "Schedule of the learning rate."
    )
    milestones: tuple[int, ...] = setting(
        (), "Epochs after which `step` multiplies the learning rate by `gamma`.", unit="epochs"
    )
    gamma: float = setting(0.1, "Factor for the learning rate at each milestone.", least=0, most=1)
    warmup: float = setting(
        0.0,
        "Time in which the learning rate rises to its highest value; for `one-cycle` a share of "
        "all steps.",
        unit="epochs",
        least=0,
        most=MAX_EPOCHS,
    )
    label_smoothing: float = setting(0.0, "Label smoothing of the loss.", least=0, most=0.9)
    teacher: str = setting(
        "",
        "Earlier stage on the same store whose network teaches this one: its answers to the same "
        "augmented batch are learned as well. Or a file of weights, or `timm:NAME`, for the same "
        "network with ann neurons, which on event frames sees their sum. Empty: none.",
    )
    teacher_weight: float = setting(
        1.0, "Share of the teacher in the loss; the labels have the rest.", above=0, most=1
    )
    temperature: float = setting(
        2.0, "Temperature at which the teacher's answers are learned.", above=0, most=100
    )
    class_weights: Literal["none", "balanced"] = setting(
        "none",
        "Weights of the classes in the loss. `balanced`: in inverse proportion to their samples.",
    )
    sampling: Literal["uniform", "balanced"] = setting(
        "uniform",
        "Samples drawn in an epoch. `uniform`: each sample once. `balanced`: the same number from "
        "each class, so that samples of rare classes repeat.",
    )
    ema: float = setting(
        0.0,
        "Decay of the moving average of weights that is evaluated and kept; 0: no average.",
        least=0,
        most=0.99999,
    )

    steps: int | None = setting(
        None,
        "Event frames: use only this number of first steps; all by default. Images: number of "
        "steps T that see the image.",
        unit="steps",
        least=1,
        most=10_000,
    )
    collapse: int | None = setting(
        None,
        "Event frames: sum neighbouring frames, so that this number of steps remains. With 1, an "
        "ann learns from events at 1/T of the cost.",
        unit="steps",
        least=1,
    )
    downscale: int = setting(
        1,
        "Divisor of rows and columns, by max-pooling of event frames, by the mean of images.",
        least=1,
    )
    align: bool = setting(
        False,
        "Event frames of ODG (es-imagenet, imagenet): move each step back by the placement of its "
        "image, so that the events of an edge meet at the same pixels.",
    )
    normalise: Literal["grey", "imagenet"] = setting(
        "grey",
        "Images: the same mean and deviation for all channels, or those of ImageNet's colours, as "
        "for weights of torchvision and timm.",
    )
    augment: Augmentation = setting(factory=Augmentation)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % self.accumulate:
            raise OptionError(
                f"batch_size is {self.batch_size}, which accumulate={self.accumulate} does not "
                "divide; choose a multiple of it"
            )
        if not self.epochs and self.neuron.activation == "sharpened_relu":
            raise OptionError(
                "epochs is 0, but the activation sharpened_relu sharpens over the epochs; set "
                "epochs, or another neuron.activation"
            )
        if self.optimizer == "adamw" and self.momentum == 1:
            raise OptionError("momentum is 1, but adamw uses it as a beta; set it below 1")
        if self.schedule == "step" and not self.milestones:
            raise OptionError("schedule is step without milestones; set them, such as [30, 60]")
        if self.schedule != "step" and (self.milestones or self.gamma != Stage.gamma):
            raise OptionError(
                f"milestones and gamma need schedule=step, but schedule is {self.schedule}; "
                f"remove them, or set milestones=[] and gamma={Stage.gamma}"
            )
        if bool(self.freeze) != bool(self.freeze_epochs):
            raise OptionError(
                "freeze and freeze_epochs need each other; set the parts and the number of epochs, "
                "or remove both (freeze=[], freeze_epochs=0)"
            )
        unused = (self.teacher_weight, self.temperature) != (
            Stage.teacher_weight,
            Stage.temperature,
        )
        if unused and not self.teacher:
            raise OptionError(
                "teacher_weight and temperature need teacher; name an earlier stage, or set "
                f"teacher_weight={Stage.teacher_weight} and temperature={Stage.temperature}"
            )
        if self.weights == FRESH and self.take != "both":
            raise OptionError(
                f"take is {self.take}, but weights are fresh; set weights to an earlier stage or a "
                "file, or set take=both"
            )
        if self.calibrate != "none":
            self._check_calibration()
        elif self.calibrate_samples != Stage.calibrate_samples:
            raise OptionError(
                "calibrate_samples needs calibrate; set calibrate=channels or calibrate=refit, or "
                f"set calibrate_samples={Stage.calibrate_samples}"
            )
        if self.schedule == "one-cycle" and self.warmup >= 1:
            raise OptionError(
                f"warmup is {self.warmup}, but one-cycle uses it as a share of all steps; set it "
                "below 1"
            )

    def without_source(self) -> "Stage":
        """Return these settings without those that need another network."""
        return replace(self, **{key: getattr(Stage, key) for key in OF_SOURCES})

    def _check_calibration(self) -> None:
        """Raise OptionError if the stage has nothing to calibrate, or nothing to calibrate by."""
        problem = ""
        if self.neuron.kind == "ann":
            problem = "the neurons are of the kind ann, which has no threshold"
        elif self.neuron.threshold <= 0:
            problem = f"neuron.threshold is {self.neuron.threshold}, not above 0"
        elif self.weights == FRESH:
            problem = "the weights are fresh, so that there is no network to agree with"
        elif self.stem == "fresh" or self.take == "decoder":
            part = "stem" if self.stem == "fresh" else "encoder"
            problem = f"the {part} is fresh, so that there is no trained one to agree with"
        elif self.recalibrate:
            raise OptionError(
                f"recalibrate is {self.recalibrate}, but calibrate computes the batch-norm "
                "statistics itself; set recalibrate=0"
            )
        if problem:
            raise OptionError(f"calibrate is {self.calibrate}, but {problem}; set calibrate=none")


OF_SOURCES = (
    *("weights", "take", "calibrate", "calibrate_samples"),
    *("teacher", "teacher_weight", "temperature"),
)
"""Settings that concern another network: the source of the weights, or the teacher."""


def reference_page() -> str:
    """Return the page docs/training-keys.md: every key of a recipe with its values and default."""
    page = [
        "# Keys of recipes",
        "`python -m train.settings > docs/training-keys.md` writes this page. "
        "[training.md](training.md) describes recipes; `--set TABLE.KEY=VALUE` changes a key.",
    ]
    for title, cls in (
        ("`[run]`", Run),
        ("`[machine]`", Machine),
        ("`[defaults]`, `[stages.NAME]` and `[scratch]`", Stage),
    ):
        page += [f"## {title}", reference(options_of(cls), lambda option: option.key).rstrip()]
    return "\n\n".join(page)


if __name__ == "__main__":
    print(reference_page())
