"""The callback that records a stage: its figures, its time, its weights, its state."""

import io
import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from eventdata.errors import InputError
from train.checkpoint import check_torch_file
from train.data import Epoch
from train.runs.cost import MOST, cpu_seconds
from train.runs.ema import MovingAverage
from train.runs.folder import (
    Row,
    StageFolder,
    number_in,
    read_rows,
    weight_facts,
    write,
    write_rows,
    write_weights,
)
from train.runs.module import Classifier

_SECONDS = ("train_seconds", "evaluation_seconds", "waiting_seconds")
_STATE = ("rows", *_SECONDS, "cpu_seconds", "multiply_adds", "best", "best_epoch")
OLDER = {"waiting_seconds": 0, "multiply_adds": 0}
"""Values for the states of older versions, which did not record them."""


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, written whole.

    Lightning writes them without a sync through the system's folder of temporary files, where a
    kill leaves them behind.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint that `load_checkpoint` reads."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write(Path(path), content.getvalue())

    def load_checkpoint(self, path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
        """Return the content of a checkpoint; raise InputError if it can't be read."""
        try:
            check_torch_file(Path(path))
            return dict(super().load_checkpoint(path, *args, **options))
        except Exception as error:  # torch raises a dozen kinds
            raise InputError(
                f"{path}: is damaged ({str(error).partition('. ')[0]}); delete it to train its "
                "stage again from the start"
            ) from error


class Record(Checkpoint):
    """The callback that writes a stage's folder (`train.runs.folder`).

    Training time excludes evaluation, which is timed apart, saving and starting. The time in which
    training waited for the next batch is a part of it, and is recorded, too. CPU seconds are those
    of the same periods on all devices, with the threads that read samples.

    The state is saved after all files that it refers to; a repeated epoch overwrites the files of
    an interrupted one. Only the best weights are saved later: on a device that is not deterministic
    a repeated epoch may be worse, and the best weights until then would be lost.
    """

    def __init__(
        self,
        folder: StageFolder,
        facts: dict[str, Any],
        *,
        log_every: int,
        average: MovingAverage | None = None,
    ) -> None:
        """
        Args:
            folder: the stage's folder.
            facts: facts to write with the weights; `seconds` is the training time before this
                stage.
            log_every: batches between rows of steps.csv.
            average: the average whose weights are kept instead of the network's.
        """
        self.folder, self.facts, self.log_every, self.average = folder, facts, log_every, average
        self.rows: list[Row] = []
        self.step_rows: list[Row] = []
        self.train_seconds = 0.0
        self.evaluation_seconds = 0.0
        self.waiting_seconds = 0.0
        self.cpu_seconds: float | None = 0.0
        """None if an older version, which did not record it, has begun the stage."""
        self.multiply_adds = 0.0
        """Those of the calibration, before the first step."""
        self.best = -1.0
        self.best_epoch = 0
        self.mark: float | None = None
        self.cpu_mark = 0.0
        self.has_started = False

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for row in state_dict["rows"]:
            for key, value in row.items():
                if not isinstance(value, float):  # a loss before the first step may be inf
                    number_in(row, key)
                if not key.isidentifier():
                    raise ValueError(f"a row has a column {key!r}")
        self.rows = list(state_dict["rows"])
        for name in _SECONDS:
            setattr(self, name, number_in(OLDER | state_dict, name))
        self.multiply_adds = number_in(OLDER | state_dict, "multiply_adds", most=MOST)
        known = state_dict.get("cpu_seconds") is not None
        self.cpu_seconds = number_in(state_dict, "cpu_seconds") if known else None
        self.best = number_in(state_dict, "best", most=1)
        self.best_epoch = int(number_in(state_dict, "best_epoch"))

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        # A process that was killed right after saving the state did not save the best weights.
        facts = weight_facts(self.folder.weights("last"))
        if (
            trainer.is_global_zero
            and facts.get("epoch") == self.best_epoch
            and weight_facts(self.folder.weights("best")) != facts
        ):
            self._keep_last_as_best()

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.has_started = True
        known = read_rows(self.folder.steps)
        # Rows after the state belong to the interrupted epoch.
        self.step_rows = [row for row in known if row.get("step", math.inf) <= trainer.global_step]

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.mark = _now(module)
        self.cpu_mark = cpu_seconds()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        assert isinstance(module, Classifier)
        if (index + 1) % self.log_every or not trainer.is_global_zero:
            return
        assert self.mark is not None
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "train_seconds": self.train_seconds + time.monotonic() - self.mark,
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "loss": module.step_loss,
        }
        self.step_rows.append(row)
        self._chart(trainer, {"step/loss": row["loss"], "step/rate": row["learning_rate"]})

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        now = _now(module)
        if self.mark is not None:
            self.train_seconds += now - self.mark
            if self.cpu_seconds is not None:
                self.cpu_seconds += _of_all_devices(trainer, cpu_seconds() - self.cpu_mark)
            assert isinstance(trainer.train_dataloader, Epoch)
            self.waiting_seconds += trainer.train_dataloader.waited
        self.mark = now

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        assert self.mark is not None
        now = _now(module)
        self.evaluation_seconds += now - self.mark
        self.mark = None
        if not trainer.global_step:  # before the first step
            assert isinstance(module, Classifier)
            self.rows = [self._row(0, 0, module)]

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, Classifier)
        epoch = trainer.current_epoch + 1
        self.rows.append(self._row(epoch, trainer.global_step, module))
        better = self._write_last(trainer, module, epoch)
        trainer.save_checkpoint(self.folder.state)
        if better and trainer.is_global_zero:
            self._keep_last_as_best()

    def keep_untrained(self, trainer: Trainer, module: Classifier) -> None:
        """Write the weights of a stage without epochs, after its evaluation."""
        self._write_last(trainer, module, 0)
        if trainer.is_global_zero:
            self._keep_last_as_best()

    def _write_last(self, trainer: Trainer, module: Classifier, epoch: int) -> bool:
        """Write the weights and the tables after an epoch; return whether it is the best one."""
        row = self.rows[-1]
        better = row["top1"] > self.best
        if better:
            self.best, self.best_epoch = row["top1"], epoch
        if trainer.is_global_zero:
            facts = self.facts | {"epoch": epoch, "top1": row["top1"]}
            facts["seconds"] += self.train_seconds
            weights = self.average.average if self.average else module.network.state_dict()
            write_weights(self.folder.weights("last"), weights, facts)
            write_rows(self.folder.steps, self.step_rows)
            write_rows(self.folder.epochs, self.rows)
            self._chart(trainer, {f"epoch/{key}": value for key, value in row.items()})
        return better

    def _keep_last_as_best(self) -> None:
        write(self.folder.weights("best"), self.folder.weights("last").read_bytes())

    def _row(self, epoch: int, step: int, module: Classifier) -> Row:
        return {
            "epoch": epoch,
            "step": step,
            "train_seconds": self.train_seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "waiting_seconds": self.waiting_seconds,
            **({} if self.cpu_seconds is None else {"cpu_seconds": self.cpu_seconds}),
            **module.scores,
        }

    @staticmethod
    def _chart(trainer: Trainer, figures: dict[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(figures, trainer.global_step)


def _of_all_devices(trainer: Trainer, seconds: float) -> float:
    """Return the sum of a figure over the processes that train together."""
    if trainer.world_size == 1:
        return seconds
    mine = torch.tensor(seconds, device=trainer.strategy.root_device)
    return float(trainer.strategy.reduce(mine, reduce_op="sum"))


def _now(module: LightningModule) -> float:
    """Return the time in seconds at which the device has finished its work."""
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
    return time.monotonic()
