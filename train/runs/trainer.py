"""The batches of a stage and its Trainer, from Lightning."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from eventdata.dataset import FrameDataset
from train.data import Epoch
from train.runs.folder import CHARTS, StageFolder
from train.runs.plan import RunPlan
from train.runs.record import WholeCheckpoints
from train.settings import Stage


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
            align=self.stage.align,
            shuffle_by=None if seed is None else (seed, trainer.current_epoch),
            balanced=self.stage.sampling == "balanced",
            multiple=1 if seed is None else self.stage.accumulate,
            share=1.0 if seed is None else self.stage.epoch_share,
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
def interruptible() -> Iterator[None]:
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


def make_trainer(
    plan: RunPlan, stage: Stage, name: str, folder: StageFolder, callbacks: list[Callback]
) -> Trainer:
    """Return the Trainer of a stage; without callbacks it keeps no records."""
    machine, run = plan.recipe.machine, plan.recipe.run
    strategy = _several_devices(freezes=bool(stage.freeze_epochs))
    charts = TensorBoardLogger(folder.root.parent, CHARTS, name)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    return Trainer(
        accelerator=machine.accelerator if torch.cuda.is_available() else "cpu",
        devices=plan.devices,
        num_nodes=machine.nodes,
        strategy=strategy if plan.world > 1 else "auto",
        precision=run.precision,
        deterministic=run.deterministic,
        benchmark=not run.deterministic,  # has cuDNN try its kernels; no effect on a CPU
        max_epochs=stage.epochs,
        accumulate_grad_batches=stage.accumulate,
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
