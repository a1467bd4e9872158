"""A stage of training as a Lightning module: input, loss, optimiser, changes at each epoch.

Nothing here draws from the global random state: augmentation is seeded by (seed, epoch, batch,
device), so that a resumed run computes the same as an uninterrupted one.

Legend: N samples, T steps, P polarities, C channels, H rows, W columns.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from eventdata.errors import EventDataError
from train.augment import augment, mixup
from train.neurons.surrogate import sharpen
from train.runs.resume import check_state
from train.runs.schedule import rate_factor
from train.settings import Stage
from train.transfer import freeze, thaw

Batch = tuple[Tensor, Tensor]

IMAGE_MEAN, IMAGE_DEVIATION = 0.45, 0.225  # roughly those of photographs
IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).reshape(2, 3, 1, 1)
"""Mean and deviation of the colours, (2, C, 1, 1)."""


class DivergedError(EventDataError):
    """A loss that is not finite."""


def prepare(
    frames: Tensor, stage: Stage, seed: int | None = None, *, binary: bool = False
) -> Tensor:
    """Return the floating-point input of the network for a batch.

    Args:
        frames: a batch of `train.data.Epoch`: frames (N, T, P, H, W) or images (N, C, H, W).
            Images are normalised to a mean of about 0.
        stage: the settings of the stage.
        seed: random seed of the augmentation; None: no augmentation.
        binary: see `train.augment.augment`.
    """
    x = frames if frames.ndim == 5 else _normalise(frames, stage)
    x = x if seed is None else augment(x, stage.augment, seed, binary=binary)
    if frames.ndim == 5 and stage.collapse is not None:
        parts = x.reshape(len(x), stage.collapse, -1, *x.shape[2:])
        return parts.sum(dim=2, dtype=torch.float)
    return x.float()


def _normalise(images: Tensor, stage: Stage) -> Tensor:
    bright = images.float() / 255
    if stage.normalise == "grey":
        return (bright - IMAGE_MEAN) / IMAGE_DEVIATION
    mean, deviation = IMAGENET.to(images.device)
    normalised: Tensor = (bright - mean) / deviation
    return normalised


def share_statistics(network: nn.Module) -> None:
    """Replace the running statistics of batch norms by their mean over all devices."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for statistic in (norm.running_mean, norm.running_var):
                if statistic is not None:
                    dist.all_reduce(statistic)
                    statistic /= dist.get_world_size()


def divergence(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Return the mean Kullback-Leibler divergence of logits (N, classes) from a teacher's.

    Both are divided by the temperature, and the divergence is multiplied by its square, so that
    the size of the gradient hardly depends on it.
    """
    own, theirs = (functional.log_softmax(x.float() / temperature, 1) for x in (logits, wanted))
    mean = functional.kl_div(own, theirs, reduction="batchmean", log_target=True)
    return mean * temperature**2


class ClassCounts(Metric):
    """Counts of each class: its samples, the samples taken for it, and both at once.

    torchmetrics counts pairs of classes, which takes gigabytes for a thousand classes on a device
    that has to be deterministic.
    """

    counts: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(3, classes), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch of logits (N, classes) and labels (N,)."""
        taken = logits.argmax(dim=1)
        ones = torch.ones_like(labels, dtype=self.counts.dtype)
        for row, (index, values) in enumerate(
            ((labels, ones), (taken, ones), (labels, (taken == labels).to(ones.dtype)))
        ):
            self.counts[row].index_add_(0, index, values)

    def compute(self) -> Tensor:
        """Return the counts (3, classes)."""
        return self.counts


def balanced_accuracy(samples: Tensor, hits: Tensor) -> float:
    """Return the mean accuracy of the classes that have samples; both counts are (classes,)."""
    present = samples > 0
    return float((hits[present] / samples[present]).mean())


class Classifier(LightningModule):
    """A network that learns to classify."""

    class_weights: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        stage: Stage,
        *,
        name: str,
        classes: int,
        epoch_steps: int,
        seed: int,
        log_every: int = 1,
        binary: bool = False,
        class_weights: Tensor | None = None,
        teacher: Callable[[Tensor, int], Tensor] | None = None,
    ) -> None:
        """
        Args:
            network: a network that maps floating-point (N, T, P, H, W) or (N, C, H, W) to
                (N, classes).
            stage: the settings of the stage.
            name: name of the stage, for messages.
            classes: number of classes.
            epoch_steps: optimiser steps in each epoch.
            seed: random seed of the augmentation.
            log_every: batches between readings of the loss, each of which waits for the device.
            binary: whether frames hold only 0 and 1, as those of binary stores do.
            class_weights: the weight of each class in the loss (classes,); None: equal weights.
            teacher: function that returns a teacher's logits for the frames of a batch and the
                seed of their augmentation.
        """
        super().__init__()
        self.network = network
        self.stage, self.name = stage, name
        self.classes, self.epoch_steps, self.seed = classes, epoch_steps, seed
        self.log_every, self.binary, self.teacher = log_every, binary, teacher
        self.mixup = stage.augment.scaled().mixup
        self.frozen: list[str] = []
        self.step_loss = float("nan")
        self.scores: dict[str, float] = {}
        self.confusion: list[list[int]] = []
        self.predicted_classes = 0
        """The number of classes that the last evaluation has predicted."""
        self.register_buffer("class_weights", class_weights, persistent=False)
        top = {"top1": 1} | ({"top5": 5} if classes > 5 else {})
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.measures = MetricCollection(
            {key: MulticlassAccuracy(classes, top_k=k, average="micro") for key, k in top.items()}
        )
        self.loss = MeanMetric(nan_strategy="disable")
        self.counts = ClassCounts(classes)
        self.matrix = MulticlassConfusionMatrix(classes)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_state(checkpoint, self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits

    def on_train_epoch_start(self) -> None:
        epoch = self.current_epoch
        sharpen(self.network, epoch, self.stage.epochs)
        thaw(self.network, self.frozen)
        frozen = self.stage.freeze if epoch < self.stage.freeze_epochs else ()
        self.frozen = freeze(self.network, frozen)
        self.train_loss.reset()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        frames, labels = batch
        entropy = (self.seed, self.current_epoch, index, self.global_rank)
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        x, targets = prepare(frames, self.stage, seed, binary=self.binary), labels
        if self.mixup:
            one_hot = functional.one_hot(labels, self.classes).to(x.dtype)
            x, targets = mixup(x, one_hot, self.mixup, seed)
        logits = self(x)
        loss = functional.cross_entropy(
            logits,
            targets,
            self.class_weights,
            label_smoothing=self.stage.label_smoothing,
        )
        if self.teacher is not None:
            apart = divergence(logits, self.teacher(frames, seed), self.stage.temperature)
            loss = torch.lerp(loss, apart, self.stage.teacher_weight)
        self.train_loss.update(loss.detach())
        if (index + 1) % self.log_every == 0:
            self.step_loss = loss.item()
            self._check(self.step_loss, f"batch {index + 1}")
            self.log("loss", self.step_loss, prog_bar=True, logger=False, batch_size=len(labels))
        return loss

    def on_train_epoch_end(self) -> None:
        self.scores["train_loss"] = float(self.train_loss.compute())
        self._check(self.scores["train_loss"], "its mean")
        self._check(self.scores.get("loss", 0.0), "on the held-out samples")
        # Spikes hide this from the loss: nan is not above the threshold, so the spike is 0.
        for name, values in self.network.state_dict().items():
            if values.is_floating_point() and not values.isfinite().all():
                raise self._diverged(f"{name} is not finite after")

    def _check(self, loss: float, where: str) -> None:
        if not np.isfinite(loss):
            raise self._diverged(f"the loss ({where}) is {loss} in")

    def _diverged(self, what: str) -> DivergedError:
        kept = ". The weights of the last whole epoch are kept" if self.current_epoch else ""
        return DivergedError(
            f"{what} epoch {self.current_epoch + 1} of stage {self.name}{kept}; start a new run "
            "with a lower learning_rate, or with warmup"
        )

    def _evaluate(self, batch: Batch) -> Tensor:
        frames, labels = batch
        logits: Tensor = self(prepare(frames, self.stage)).float()
        self.measures.update(logits, labels)
        self.counts.update(logits, labels)
        # Without weights, which this nan_strategy ignores.
        self.loss.update(functional.cross_entropy(logits, labels, reduction="none"))
        return logits

    def _finish(self) -> None:
        values = {key: float(value) for key, value in self.measures.compute().items()}
        samples, predicted, hits = self.counts.compute()
        self.predicted_classes = int((predicted > 0).sum())
        values["balanced"] = balanced_accuracy(samples, hits)
        self.scores |= {"loss": float(self.loss.compute()), **values}
        self.log("top1", values["top1"], prog_bar=True, logger=False, sync_dist=True)
        self.measures.reset()
        self.counts.reset()
        self.loss.reset()

    def validation_step(self, batch: Batch, index: int) -> None:
        self._evaluate(batch)

    def on_validation_start(self) -> None:
        share_statistics(self.network)

    def on_validation_epoch_end(self) -> None:
        self._finish()

    def test_step(self, batch: Batch, index: int) -> None:
        self.matrix.update(self._evaluate(batch), batch[1])

    def on_test_epoch_end(self) -> None:
        self._finish()
        self.confusion = self.matrix.compute().tolist()
        self.matrix.reset()

    def configure_optimizers(self) -> Any:
        s = self.stage
        learning = [p for p in self.network.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in learning if p.ndim > 1], "weight_decay": s.weight_decay},
            {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer: torch.optim.Optimizer
        if s.optimizer == "sgd":
            optimizer = torch.optim.SGD(
                groups, s.learning_rate, s.momentum, nesterov=s.nesterov and s.momentum > 0
            )
        else:
            optimizer = torch.optim.AdamW(groups, s.learning_rate, (s.momentum, 0.999))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_factor(s, step, self.epoch_steps)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
