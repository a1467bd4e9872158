"""Train one stage with Lightning's Trainer, or resume it."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from eventdata.dataset import FrameDataset
from eventdata.errors import EventDataError, InputError
from train.calibrate import recalibrate, table
from train.data import Data, Epoch
from train.networks.layers import channels_last, recompute
from train.networks.sync_norm import synchronise_norms
from train.neurons.surrogate import sharpen
from train.operations import Operations, measure
from train.runs.calibration import calibrate_stage
from train.runs.cost import Cost, cost_of, cpu_seconds
from train.runs.ema import MovingAverage
from train.runs.facts import model_facts
from train.runs.folder import (
    CHARTS,
    StageFolder,
    number_in,
    read_json,
    weight_facts,
    write,
    write_json,
)
from train.runs.module import Classifier, prepare
from train.runs.plan import RunPlan
from train.runs.record import Record, WholeCheckpoints
from train.settings import Stage
from train.transfer import transfer
from train.weights import load_state, read_weights

MEASURED = 64  # samples for firing rates and operations


def is_first() -> bool:
    """Return whether this process is the one that writes, of those that train together."""
    # Lightning knows the environment variables of every launcher.
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


class Feed(LightningDataModule):
    """The data of a stage as batches for the device that asks."""

    def __init__(self, plan: RunPlan, stage: Stage) -> None:
        super().__init__()
        self.plan, self.stage = plan, stage

    def _batches(self, part: FrameDataset | None, seed: int | None = None) -> Epoch:
        """Return the batches of a part: shuffled for training with a seed, else in order."""
        trainer = self.trainer
        assert trainer is not None
        assert part is not None
        return Epoch(
            part=part,
            batch_size=self.plan.device_batch(self.stage),
            steps=self.stage.steps,
            downscale=self.stage.downscale,
            shuffle_by=None if seed is None else (seed, trainer.current_epoch),
            balanced=self.stage.sampling == "balanced",
            multiple=1 if seed is None else self.stage.accumulate,
            rank=trainer.global_rank,
            devices=self.plan.world,
            threads=self.plan.recipe.machine.threads,
            device=trainer.strategy.root_device,
        )

    def train_dataloader(self) -> Epoch:
        return self._batches(self.plan.parts[self.stage.data].train, self.plan.recipe.run.seed)

    def val_dataloader(self) -> Epoch:
        return self._batches(self.plan.parts[self.stage.data].select)

    def test_dataloader(self) -> Epoch:
        return self._batches(self.plan.parts[self.stage.data].test)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt where Lightning exits by itself, after Ctrl-C or SIGTERM."""
    try:
        yield
    except SystemExit as stop:
        raise KeyboardInterrupt from stop


def _several_devices(*, freezes: bool) -> DDPStrategy:
    """Return the strategy of data-parallel training.

    Frozen parameters have no gradient until they thaw, and DDP must know. Buffers are not
    broadcast: the devices' last batches of an evaluation may differ in number, and
    `share_statistics` averages them instead.
    """
    known = signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    settings: dict[str, Any] = {"find_unused_parameters": freezes, sync: False}
    return DDPStrategy(**settings)


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """One stage of a plan, to be trained or tested."""

    plan: RunPlan
    name: str
    folder: StageFolder
    """Folder that the stage writes."""
    before: Cost
    """Cost of the training behind the weights that this stage starts from."""

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
            epoch_steps=len(self.data.train) // self.stage.batch_size,
            seed=recipe.run.seed,
            log_every=recipe.machine.log_every,
            binary=self.data.train.sample_format.is_packed,
        )

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
        average = MovingAverage(self.stage.ema) if self.stage.ema else None
        facts = model_facts(
            self.plan.recipe,
            self.name,
            classes=self.data.classes,
            header=self.plan.stores[self.stage.data].header,
            sample=self.data.train.sample_format,
        )
        facts |= {"kind": self.stage.neuron.kind, "seconds": self.before.seconds or 0.0}
        log_every = self.plan.recipe.machine.log_every
        record = Record(self.folder, facts, log_every=log_every, average=average)
        trainer = self._trainer([record] if average is None else [average, record])
        feed = Feed(self.plan, self.stage)
        resumed = self.folder.state.exists()
        if not resumed:
            started, cpu = time.monotonic(), cpu_seconds()
            self._start(trainer, source, say)
            record.train_seconds = time.monotonic() - started
            record.cpu_seconds = (cpu_seconds() - cpu) * self.plan.world
            with _interruptible():
                trainer.validate(self.module, feed, verbose=False)
        state = self.folder.state if resumed else None
        try:
            with _interruptible():
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
            result["multiply_adds"] = samples * operations.training_multiply_adds
            result["additions"] = samples * operations.training_additions
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
        with _interruptible():
            self._trainer([]).test(self.module, Feed(self.plan, self.stage), verbose=False)
        scores = self.module.scores
        kept: dict[str, Any] = {
            key: scores[key] for key in ("top1", "top5", "balanced", "loss") if key in scores
        }
        return {"samples": len(self.data.test), **kept, "confusion": self.module.confusion}

    def _trainer(self, callbacks: list[Callback]) -> Trainer:
        machine, run = self.plan.recipe.machine, self.plan.recipe.run
        strategy = _several_devices(freezes=bool(self.stage.freeze_epochs))
        charts = TensorBoardLogger(self.folder.root.parent, CHARTS, self.name)
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        return Trainer(
            accelerator=machine.accelerator if torch.cuda.is_available() else "cpu",
            devices=self.plan.devices,
            num_nodes=machine.nodes,
            strategy=strategy if self.plan.world > 1 else "auto",
            precision=run.precision,
            deterministic=run.deterministic,
            benchmark=not run.deterministic,  # has cuDNN try its kernels; no effect on a CPU
            max_epochs=self.stage.epochs,
            accumulate_grad_batches=self.stage.accumulate,
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            inference_mode=False,  # inference tensors could not be trained on later
            log_every_n_steps=1,
            callbacks=callbacks,
            logger=charts if callbacks else False,
            enable_checkpointing=bool(callbacks),
            plugins=WholeCheckpoints(),
            enable_model_summary=False,
            enable_progress_bar=sys.stderr is not None and sys.stderr.isatty(),
        )

    def _start(self, trainer: Trainer, source: Path | None, say: Callable[[str], Any]) -> None:
        """Load the source's weights and fit the norms to the data."""
        network = self.module.network
        if source is not None:
            weights = read_weights(source)
            weights.check(self.plan.recipe.network, self.stage.neuron)
            classes = weight_facts(source).get("classes", self.data.classes)
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
            say(f"{self.name}: weights from {source}\n{report.summary()}")
            if is_first():
                write(self.folder.root / "transfer.txt", f"from {source}\n{report}\n")
        # Each device calibrates by itself, all on the same samples. Its batches have the size of
        # training, because the memory is known to hold them.
        device, size = trainer.strategy.root_device, self.plan.device_batch(self.stage)
        if source is not None and self.stage.calibrate != "none":
            count = -(-self.stage.calibrate_samples // size)
            frames = self._frames(self.data.train, size, count, device)
            outcomes = calibrate_stage(
                self.plan, self.stage, self.plan.networks[self.name].to(device), source, frames
            )
            say(f"{self.name}: share of the outputs' energy that calibrated neurons keep")
            say(table(outcomes))
            if is_first():
                rows = [outcome.as_dict() for outcome in outcomes]
                write_json(self.folder.root / "calibrate.json", rows)
        if self.stage.recalibrate:
            count = self.stage.recalibrate * self.plan.world
            batches = self._inputs(self.data.train, size, count, device)
            with trainer.precision_plugin.forward_context():
                recalibrate(network.to(device), batches)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the caller reads the clock next

    def _frames(
        self, part: FrameDataset, size: int, count: int, device: torch.device
    ) -> Iterator[Tensor]:
        """Yield `count` batches of a part as stored."""
        epoch = Epoch(
            part=part,
            batch_size=size,
            steps=self.stage.steps,
            downscale=self.stage.downscale,
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
            epoch = number_in(weight_facts(path), "epoch", 1, self.stage.epochs)
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
