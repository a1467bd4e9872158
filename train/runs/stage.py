"""Train one stage with Lightning's Trainer, or finish it."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from eventdata.dataset import FrameDataset
from eventdata.errors import EventDataError, InputError, OptionError
from train.calibrate import recalibrate
from train.data import Data, Epoch
from train.networks import NETWORKS, OF_THE_DATA, build
from train.networks.layers import Network, recompute
from train.networks.sync_norm import synchronise_norms
from train.neurons.surrogate import sharpen
from train.operations import measure
from train.recipe import Recipe, Stage
from train.runs.ema import MovingAverage
from train.runs.folder import (
    CHARTS,
    RunFolder,
    StageFolder,
    number_in,
    read_json,
    weight_facts,
    write,
    write_json,
)
from train.runs.module import Classifier, prepare
from train.runs.record import Record, WholeCheckpoints
from train.transfer import load_state, transfer

MEASURED = 64  # samples of which firing rates and operations are taken


def build_network(recipe: Recipe, stage: Stage, data: Data) -> Network:
    """The recipe's network with the stage's neurons, for the data's channels and classes.

    Raises:
        OptionError: settings that it does not have or that make no network.
    """
    settings = {key: value for key, value in recipe.network.items() if key != "name"}
    name = recipe.network["name"]
    known = signature(NETWORKS[name]).parameters if name in NETWORKS else {}
    *steps, channels, height, width = data.shape
    if taken := sorted(OF_THE_DATA & settings.keys()):
        raise OptionError(
            f"network.{taken[0]} is not for a recipe: stages and their data decide it"
        )
    if not steps and "steps" in known:
        settings["steps"] = stage.steps or 1
    if "size" in known:
        settings["size"] = (height // stage.downscale, width // stage.downscale)
    try:
        return build(
            name, channels=channels, classes=len(data.classes), neuron=stage.neuron, **settings
        )
    except OptionError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise OptionError(f"network {name} can't be built with {settings}: {reason}") from error


def _channels_last(network: nn.Module) -> nn.Module:
    """The network with its weights in the layout that is fastest, where that is sound.

    oneDNN's backward of a 1x1 convolution with a stride and under eight input channels, channels
    last, writes beside its memory (torch 2.13 on a CPU: wrong gradients, or a crash).
    """
    if any(
        isinstance(conv, nn.Conv2d)
        and conv.kernel_size == (1, 1)
        and conv.stride != (1, 1)
        and conv.in_channels < 8
        for conv in network.modules()
    ):
        return network
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def is_first() -> bool:
    """Whether this process is the one of several that writes."""
    # Lightning knows the variables of every launcher.
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


class Feed(LightningDataModule):
    """A stage's data as batches for the device that asks."""

    def __init__(self, data: Data, stage: Stage, recipe: Recipe) -> None:
        super().__init__()
        self.data, self.stage, self.recipe = data, stage, recipe

    def _batches(self, name: str, shuffle_by: tuple[int, int] | None = None) -> Epoch:
        trainer = self.trainer
        assert trainer is not None
        return Epoch(
            part=getattr(self.data, name),
            batch_size=device_batch(self.stage, trainer.world_size),
            steps=self.stage.steps,
            downscale=self.stage.downscale,
            shuffle_by=shuffle_by,
            multiple=self.stage.accumulate if shuffle_by else 1,
            rank=trainer.global_rank,
            devices=trainer.world_size,
            threads=self.recipe.machine.threads,
            device=trainer.strategy.root_device,
        )

    def train_dataloader(self) -> Epoch:
        assert self.trainer is not None
        return self._batches("train", (self.recipe.run.seed, self.trainer.current_epoch))

    def val_dataloader(self) -> Epoch:
        return self._batches("select")

    def test_dataloader(self) -> Epoch:
        return self._batches("test")


def device_batch(stage: Stage, devices: int) -> int:
    """Samples of a batch on one device; OptionError where they can't be shared out."""
    size, rest = divmod(stage.batch_size, devices * stage.accumulate)
    if rest:
        raise OptionError(
            f"batch_size is {stage.batch_size}, which {devices} devices with "
            f"accumulate={stage.accumulate} can't share evenly"
        )
    return size


@contextmanager
def _stops_told() -> Iterator[None]:
    """Lightning leaves by itself on Ctrl-C, and on SIGTERM as if all were done: tell the caller."""
    try:
        yield
    except SystemExit as stop:
        raise KeyboardInterrupt from stop


def _several_devices(*, freezes: bool) -> DDPStrategy:
    """Data-parallel training. Parts that thaw later have no gradient at first.

    Buffers are left alone: the devices' last batches of an evaluation may differ in number, and
    `share_statistics` does better than a broadcast.
    """
    known = signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    settings: dict[str, Any] = {"find_unused_parameters": freezes, sync: False}
    return DDPStrategy(**settings)


@dataclass
class StageRun:
    """A stage about to be trained, or tested."""

    name: str
    stage: Stage
    recipe: Recipe
    run_folder: RunFolder
    data: Data
    devices: int
    """A node."""
    seconds_before: float
    """Of training that went into the weights this stage starts from."""

    @property
    def folder(self) -> StageFolder:
        """Where it writes."""
        return self.run_folder.stage(self.name)

    def train(self, source: Path | None, say: Callable[[str], Any]) -> dict[str, Any]:
        """Train it from the weights in `source` (None: fresh), or finish it; its stage.json.

        say: is told what became of the source's weights.
        """
        if self.folder.result.exists():
            return self._result()
        average = MovingAverage(self.stage.ema) if self.stage.ema else None
        record = Record(
            self.folder,
            self._facts(),
            log_every=self.recipe.machine.log_every,
            average=average,
        )
        trainer = self._trainer([record] if average is None else [average, record])
        module, feed = self._module(), Feed(self.data, self.stage, self.recipe)
        resumed = self.folder.state.exists()
        if not resumed:
            started = time.monotonic()
            self._start(module.network, trainer, source, say)
            record.train_seconds = time.monotonic() - started
            with _stops_told():
                trainer.validate(module, feed, verbose=False)
        state = self.folder.state if resumed else None
        try:
            with _stops_told():
                trainer.fit(module, feed, ckpt_path=state, weights_only=True)
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
            "best_epoch": record.best_epoch,
            "best_top1": record.best,
            "samples": {"train": len(self.data.train), "select": len(self.data.select)},
        }
        if trainer.is_global_zero:
            self._measure(trainer.strategy.root_device)
            write_json(self.folder.result, result)
        trainer.strategy.barrier()
        return result

    def _result(self) -> dict[str, Any]:
        """The stage.json of the finished stage; InputError where it is none, or of another."""
        result = read_json(self.folder.result)
        try:
            for key in ("train_seconds", "waiting_seconds", "best_epoch"):
                number_in(result, key)
            number_in(result, "best_top1", most=1)
            own = {"name": self.name, "kind": self.stage.neuron.kind, "epochs": self.stage.epochs}
            for key, value in own.items():
                if result.get(key) != value:
                    raise ValueError(f"{key} is not {value}")
        except ValueError as error:
            raise InputError(
                f"{self.folder.result}: is damaged ({error}); delete it and call the same again"
            ) from None
        return dict(result)

    def test(self) -> dict[str, Any] | None:
        """Measures of the kept weights on the test set; None where the store has none."""
        if self.data.test is None:
            return None
        module = self._module()
        self._load_kept(module.network)
        with _stops_told():
            self._trainer([]).test(module, Feed(self.data, self.stage, self.recipe), verbose=False)
        scores = {key: module.scores[key] for key in ("top1", "top5", "loss")}
        return {"samples": len(self.data.test), **scores, "confusion": module.confusion}

    def _module(self) -> Classifier:
        torch.manual_seed(self.recipe.run.seed)
        network = build_network(self.recipe, self.stage, self.data)
        if self.recipe.run.sync_norm:
            synchronise_norms(network)
        recompute(network, self.recipe.machine.recompute)
        network.pack_spikes = self.recipe.machine.pack_spikes
        return Classifier(
            _channels_last(network),
            self.stage,
            name=self.name,
            classes=len(self.data.classes),
            epoch_steps=len(self.data.train) // self.stage.batch_size,
            seed=self.recipe.run.seed,
            log_every=self.recipe.machine.log_every,
            binary=self.data.train.sample_format.representation == "binary",
        )

    def _facts(self) -> dict[str, Any]:
        """What goes with the weights."""
        return {
            "network": self.recipe.network,
            "kind": self.stage.neuron.kind,
            "classes": self.data.classes,
            "seconds": self.seconds_before,
        }

    def _trainer(self, callbacks: list[Callback]) -> Trainer:
        machine, run = self.recipe.machine, self.recipe.run
        several = self.devices * machine.nodes > 1
        strategy = _several_devices(freezes=bool(self.stage.freeze_epochs))
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        return Trainer(
            accelerator=machine.accelerator if torch.cuda.is_available() else "cpu",
            devices=self.devices,
            num_nodes=machine.nodes,
            strategy=strategy if several else "auto",
            precision=run.precision,
            deterministic=run.deterministic,
            benchmark=not run.deterministic,  # cuDNN's: tries its kernels; nothing on a CPU
            max_epochs=self.stage.epochs,
            accumulate_grad_batches=self.stage.accumulate,
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            inference_mode=False,  # its tensors could not be worked on later
            log_every_n_steps=1,
            callbacks=callbacks,
            logger=TensorBoardLogger(self.run_folder.root, CHARTS, self.name)
            if callbacks
            else False,
            enable_checkpointing=bool(callbacks),
            plugins=WholeCheckpoints(),
            enable_model_summary=False,
            enable_progress_bar=sys.stderr is not None and sys.stderr.isatty(),
        )

    def _start(
        self,
        network: nn.Module,
        trainer: Trainer,
        source: Path | None,
        say: Callable[[str], Any],
    ) -> None:
        """Weights from the source, norms fitted to the data."""
        if source is not None:
            state = load_state(source)
            classes = weight_facts(source).get("classes", self.data.classes)
            try:
                report = transfer(
                    network,
                    state,
                    stem=self.stage.stem,
                    part=self.stage.take,
                    same_classes=classes == self.data.classes,
                )
            except InputError as error:
                raise InputError(f"{source}: {error}") from None
            say(f"{self.name}: weights from {source}\n{report.summary()}")
            if is_first():
                write(self.folder.root / "transfer.txt", f"from {source}\n{report}\n")
        if self.stage.recalibrate:
            # Each of several devices by itself, all on the same samples; a batch is one device's
            # share, as in training, for whose size there is the memory.
            device, devices = trainer.strategy.root_device, trainer.world_size
            size = device_batch(self.stage, devices)
            count = self.stage.recalibrate * devices
            with trainer.precision_plugin.forward_context():
                batches = self._inputs(size, self.data.train, count, device)
                recalibrate(network.to(device), batches)
            if device.type == "cuda":
                torch.cuda.synchronize(device)  # the clock is read next

    def _inputs(
        self, size: int, part: FrameDataset, count: int, device: torch.device
    ) -> Iterator[Tensor]:
        """What the network sees of so many batches of a part, without augmentation."""
        epoch = Epoch(
            part=part,
            batch_size=size,
            steps=self.stage.steps,
            downscale=self.stage.downscale,
            shuffle_by=(self.recipe.run.seed, 0),
            device=device,
        )
        for frames, _ in islice(epoch, count):
            yield prepare(frames, self.stage)

    def _load_kept(self, network: nn.Module) -> None:
        """InputError where the kept weights are not those of this stage."""
        path = self.folder.weights(self.stage.keep)
        state = load_state(path)
        try:
            network.load_state_dict(state)
            epoch = number_in(weight_facts(path), "epoch", 1, self.stage.epochs)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{path}: is not of stage {self.name} ({reason}); delete {self.folder.root} to "
                "train that again from the start"
            ) from None
        sharpen(network, int(epoch) - 1, self.stage.epochs)

    def _measure(self, device: torch.device) -> None:
        """Firing rates and operations of the kept weights on some of the held-out samples."""
        network = self._module().network.to(device)
        self._load_kept(network)
        size = min(len(self.data.select), 16)
        inputs = self._inputs(size, self.data.select, MEASURED // size, device)
        write_json(self.folder.root / "operations.json", measure(network, inputs).as_dict())
