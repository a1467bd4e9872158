"""Train one stage with Lightning's Trainer, or resume it."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from eventdata.dataset import FrameDataset
from eventdata.errors import EventDataError, InputError
from train.calibrate import recalibrate, table
from train.data import Data, Epoch, epoch_steps
from train.networks.layers import channels_last, recompute
from train.networks.sync_norm import synchronise_norms
from train.neurons.surrogate import sharpen
from train.operations import Operations, measure
from train.runs.calibration import calibrate_stage, stage_of
from train.runs.cost import Cost, cost_of, cpu_seconds
from train.runs.ema import MovingAverage
from train.runs.facts import model_facts
from train.runs.folder import (
    StageFolder,
    number_in,
    read_json,
    weight_facts,
    write,
    write_json,
)
from train.runs.module import Classifier, prepare
from train.runs.plan import RunPlan
from train.runs.record import Record
from train.runs.teacher import Teacher
from train.runs.trainer import Feed, interruptible, make_trainer
from train.settings import Stage
from train.transfer import Report, transfer
from train.weights import Weights, load_state, read_weights

MEASURED = 64  # samples for firing rates and operations
DECAYS_DIFFER = 1e-3  # more than the rounding of a decay that is stored as its logit


def is_first() -> bool:
    """Return whether this process is the one that writes, of those that train together."""
    # Lightning knows the environment variables of every launcher.
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """One stage of a plan, to be trained or tested."""

    plan: RunPlan
    name: str
    folder: StageFolder
    """Folder that the stage writes."""
    before: Cost
    """Cost of the training behind the weights that this stage starts from."""
    teacher: "StageRun | None" = None
    """The finished stage that teaches this one."""
    more_samples: bool = False
    """Whether its weights have learned from other samples than those of the last stage's store."""

    @property
    def stage(self) -> Stage:
        """The stage's settings."""
        return self.plan.recipe.stages[self.name]

    @property
    def data(self) -> Data:
        """The parts of the stage's store."""
        return self.plan.parts[self.stage.data]

    @cached_property
    def module(self) -> Classifier:
        """The stage's network with all that trains it."""
        recipe, network = self.plan.recipe, self.plan.networks[self.name]
        if recipe.run.sync_norm:
            synchronise_norms(network)
        recompute(network, recipe.machine.recompute)
        network.pack_spikes = recipe.machine.pack_spikes
        return Classifier(
            channels_last(network),
            self.stage,
            name=self.name,
            classes=len(self.data.classes),
            class_weights=self._class_weights(),
            epoch_steps=epoch_steps(
                len(self.data.train) // self.stage.batch_size, self.stage.epoch_share
            ),
            seed=recipe.run.seed,
            log_every=recipe.machine.log_every,
            binary=self.data.train.sample_format.is_packed,
            teacher=self._teacher(),
        )

    def _teacher(self) -> Teacher | None:
        if self.teacher is None:
            return None
        self.teacher._load_kept()
        network, own = self.plan.networks[self.teacher.name], self.teacher.stage
        binary = self.data.train.sample_format.is_packed
        return Teacher.of(network, own, self.stage, binary=binary)

    def _class_weights(self) -> Tensor | None:
        """Return the weight of each class in the loss, 0 for those without samples."""
        if self.stage.class_weights == "none":
            return None
        counts = np.bincount(self.data.train.labels, minlength=len(self.data.classes))
        each = counts.sum() / np.count_nonzero(counts)
        return torch.from_numpy(np.where(counts, each / counts.clip(1), 0)).float()

    def train(self, source: Path | None, say: Callable[[str], Any]) -> dict[str, Any]:
        """Train the stage, or finish it.

        Args:
            source: file with the weights to start from; None starts from fresh weights.
            say: called with a report of the weights that were taken from the source.

        Returns:
            The content of stage.json.
        """
        if self.folder.result.exists():
            return self._result()
        average = MovingAverage(self.stage.ema) if self.stage.ema and self.stage.epochs else None
        facts = model_facts(
            self.plan.recipe,
            self.name,
            classes=self.data.classes,
            header=self.plan.stores[self.stage.data].header,
            sample=self.data.train.sample_format,
        )
        facts |= {"kind": self.stage.neuron.kind, "seconds": self.before.seconds or 0.0}
        digest = self.plan.stores[self.stage.data].digest
        facts |= {"store": digest, "more_samples": self.more_samples}
        log_every = self.plan.recipe.machine.log_every
        record = Record(self.folder, facts, log_every=log_every, average=average)
        trainer = self._trainer([record] if average is None else [average, record])
        feed = Feed(self.plan, self.stage)
        resumed = self.folder.state.exists()
        if not resumed:
            started, cpu = time.monotonic(), cpu_seconds()
            record.multiply_adds = self._start(trainer, source, say) * self.plan.world
            record.train_seconds = time.monotonic() - started
            record.cpu_seconds = (cpu_seconds() - cpu) * self.plan.world
            with interruptible():
                trainer.validate(self.module, feed, verbose=False)
        state = self.folder.state if resumed else None
        try:
            if not self.stage.epochs:
                record.keep_untrained(trainer, self.module)
            else:
                with interruptible():
                    trainer.fit(self.module, feed, ckpt_path=state, weights_only=True)
        except EventDataError:
            raise
        except Exception as error:
            if state is None or record.has_started:
                raise
            raise InputError(
                f"{state}: is damaged or of another network ({type(error).__name__}: {error}); "
                "delete it to train its stage again from the start"
            ) from error
        result = {
            "name": self.name,
            "data": self.stage.data,
            "kind": self.stage.neuron.kind,
            "epochs": self.stage.epochs,
            "train_seconds": record.train_seconds,
            "evaluation_seconds": record.evaluation_seconds,
            "waiting_seconds": record.waiting_seconds,
            "cpu_seconds": record.cpu_seconds,
            "before": self.before.as_dict(),
            "best_epoch": record.best_epoch,
            "best_top1": record.best,
            "samples": {"train": len(self.data.train), "select": len(self.data.select)},
            "predicted_classes": self.module.predicted_classes,
        }
        if trainer.is_global_zero:
            samples = trainer.global_step * self.stage.batch_size
            operations = self._measure(trainer.strategy.root_device)
            result["trained_samples"] = samples
            multiply_adds = operations.training_multiply_adds
            additions = operations.training_additions
            if self.teacher is not None:
                answers = self.teacher._measure(trainer.strategy.root_device)
                multiply_adds += answers.multiplications
                additions += answers.additions - answers.multiplications
            result["calibration_multiply_adds"] = record.multiply_adds
            result["multiply_adds"] = record.multiply_adds + samples * multiply_adds
            result["additions"] = samples * additions
            write_json(self.folder.result, result)
        trainer.strategy.barrier()
        return result

    def _result(self) -> dict[str, Any]:
        """Return the stage.json of the finished stage; raise InputError if it is not sound."""
        result = read_json(self.folder.result)
        try:
            result = {"waiting_seconds": 0.0, **result}  # older versions did not record it
            for key in ("train_seconds", "waiting_seconds", "best_epoch"):
                number_in(result, key)
            cost_of(result)
            number_in(result, "best_top1", most=1)
            own = {"name": self.name, "kind": self.stage.neuron.kind, "epochs": self.stage.epochs}
            for key, value in own.items():
                if result.get(key) != value:
                    raise ValueError(f"{key} is not {value}")
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{self.folder.result}: is damaged ({error}); delete it, then run the same command "
                "again"
            ) from None
        return result

    def test(self) -> dict[str, Any] | None:
        """Return the measures of the kept weights on the test set; None if the store has none."""
        if self.data.test is None:
            return None
        self._load_kept()
        with interruptible():
            self._trainer([]).test(self.module, Feed(self.plan, self.stage), verbose=False)
        scores = self.module.scores
        kept: dict[str, Any] = {
            key: scores[key] for key in ("top1", "top5", "balanced", "loss") if key in scores
        }
        return {"samples": len(self.data.test), **kept, "confusion": self.module.confusion}

    def _trainer(self, callbacks: list[Callback]) -> Trainer:
        return make_trainer(self.plan, self.stage, self.name, self.folder, callbacks)

    def _start(self, trainer: Trainer, source: Path | None, say: Callable[[str], Any]) -> float:
        """Load the source's weights, fit them to the neurons and the norms to the data.

        Returns:
            The multiply-adds of the calibration on one device, in convolutions and matrix products.
        """
        network, multiply_adds = self.module.network, 0.0
        weights = None
        if source is not None:
            weights, facts = read_weights(source), weight_facts(source)
            untrained = not self.stage.epochs and self.stage.calibrate == "none"
            weights.check(self.plan.recipe.network, self.stage.neuron, exact=untrained)
            classes = facts.get("classes", self.data.classes)
            try:
                report = transfer(
                    network,
                    weights.state,
                    stem=self.stage.stem,
                    part=self.stage.take,
                    same_classes=classes == self.data.classes,
                )
            except InputError as error:
                raise InputError(f"{source}: {error}") from None
            if not self.stage.epochs:
                self._check_untrained(source, report, facts.get("kind"))
            say(f"{self.name}: weights from {source}\n{report.summary()}")
            if facts.get("kind") == "ann" and (note := self._unused_decay(report.of("taken"))):
                say(f"note: {note}")
            if is_first():
                write(self.folder.root / "transfer.txt", f"from {source}\n{report}\n")
        # Each device calibrates by itself, all on the same samples. Its batches have the size of
        # training, because the memory is known to hold them.
        device, size = trainer.strategy.root_device, self.plan.device_batch(self.stage)
        if weights is not None and self.stage.calibrate != "none":
            multiply_adds = self._calibrate(weights, size, device, say)
        if self.stage.recalibrate:
            count = self.stage.recalibrate * self.plan.world
            batches = self._inputs(self.data.train, size, count, device)
            with trainer.precision_plugin.forward_context():
                recalibrate(network.to(device), batches)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the caller reads the clock next
        return multiply_adds

    def _unused_decay(self, taken: Iterable[str]) -> str:
        """Return a note if the decays that were taken are not those of the setting, else ""."""
        state, own = self.module.network.state_dict(), self.stage.neuron.decay
        decays = [torch.sigmoid(state[key]) for key in taken if key.endswith("neuron.decay")]
        other = next((float(one) for one in decays if abs(one - own) > DECAYS_DIFFER), None)
        if other is None:
            return ""
        return (
            f"{self.name}.neuron.decay={own:g} is not used, because decays are weights, and those "
            f"of the source are {other:.3g}; set neuron.decay in its stage, too, or "
            f"{self.name}.neuron.learn_decay=false"
        )

    def _calibrate(
        self, weights: Weights, size: int, device: torch.device, say: Callable[[str], Any]
    ) -> float:
        """Calibrate the network to the one that its weights come from; return the multiply-adds."""
        earlier, guess = self.plan.recipe.stages.get(self.stage.weights), ""
        if earlier is None:
            on_frames = len(self.data.shape) == 4
            earlier, guess = stage_of(weights, self.stage, on_frames=on_frames)
        if guess:
            say(f"note: {weights.path} {guess}")
        network = self.plan.networks[self.name].to(device)
        count = -(-self.stage.calibrate_samples // size)
        frames = self._frames(self.data.train, size, count, device)
        with FlopCounterMode(display=False) as counter:  # its flops are two a multiply-add
            outcomes = calibrate_stage(self.plan, self.stage, network, weights, earlier, frames)
        say(f"{self.name}: share of the outputs' energy that calibrated neurons keep")
        say(table(outcomes))
        if is_first():
            rows = [outcome.as_dict() for outcome in outcomes]
            write_json(self.folder.root / "calibrate.json", rows)
        return float(counter.get_total_flops() / 2)

    def _check_untrained(self, source: Path, report: Report, kind: Any) -> None:
        """Raise InputError if weights that will not be trained are not those of the source."""
        fresh = [
            key
            for key in report.of("fresh")
            if not key.endswith(("neuron.decay", "num_batches_tracked"))
        ]
        problem = ""
        if fresh:
            reasons = {reason for key, reason in report.of("fresh").items() if key in fresh}
            problem = f"{', '.join(fresh[:4])} would stay random ({', '.join(sorted(reasons))})"
        elif self.stage.neuron.kind == "ann" and kind in ("liaf", "lif"):
            problem = f"the weights were trained with {kind} neurons, and those here are ann"
        if problem:
            raise InputError(
                f"{source}: {self.name} does not train its weights, but {problem}; pass other "
                f"weights, or set {self.name}.epochs"
            )

    def _frames(
        self, part: FrameDataset, size: int, count: int, device: torch.device
    ) -> Iterator[Tensor]:
        """Yield `count` batches of a part as stored."""
        epoch = Epoch(
            part=part,
            batch_size=size,
            steps=self.stage.steps,
            downscale=self.stage.downscale,
            align=self.stage.align,
            shuffle_by=(self.plan.recipe.run.seed, 0),
            device=device,
        )
        for frames, _ in islice(epoch, count):
            yield frames

    def _inputs(
        self, part: FrameDataset, size: int, count: int, device: torch.device
    ) -> Iterator[Tensor]:
        """Yield `count` batches of a part as the network sees them, without augmentation."""
        for frames in self._frames(part, size, count, device):
            yield prepare(frames, self.stage)

    def _load_kept(self) -> None:
        """Load the kept weights; raise InputError if they are not those of this stage."""
        path = self.folder.weights(self.stage.keep)
        network, state = self.module.network, load_state(path)
        try:
            network.load_state_dict(state)
            first = min(1, self.stage.epochs)
            epoch = number_in(weight_facts(path), "epoch", first, self.stage.epochs)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{path}: is not of stage {self.name} ({reason}); delete {self.folder.root} to "
                "train that stage again from the start"
            ) from None
        sharpen(network, int(epoch) - 1, self.stage.epochs)

    def _measure(self, device: torch.device) -> Operations:
        """Write and return the operations of the kept weights on some held-out samples."""
        self._load_kept()
        network = self.module.network.to(device)
        size = min(len(self.data.select), 16)
        inputs = self._inputs(self.data.select, size, MEASURED // size, device)
        operations = measure(network, inputs)
        write_json(self.folder.root / "operations.json", operations.as_dict())
        network.cpu()  # the next stage needs the device's memory
        return operations
