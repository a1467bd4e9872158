"""A recipe with its stores, ready to train: opened, built and checked before the first step."""

import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from inspect import signature

import torch

from eventdata.errors import OptionError
from eventdata.store.read import Store, open_store
from train.align import shifts_of
from train.data import Data, open_data
from train.networks import NETWORKS, OF_THE_DATA, build
from train.networks.layers import Network
from train.recipe import Recipe
from train.settings import Stage
from train.transfer import freeze


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """Everything that a run needs, from `make_plan`."""

    recipe: Recipe
    stores: Mapping[str, Store]
    """Open stores by the name that stages give them: data, images."""
    parts: Mapping[str, Data]
    """The parts of each store."""
    devices: int
    """Devices in each node."""
    networks: Mapping[str, Network]
    """The network of each stage on the CPU, with its initial weights."""

    @property
    def world(self) -> int:
        """The number of devices in all nodes."""
        return self.devices * self.recipe.machine.nodes

    @property
    def document(self) -> str:
        """The text of config.toml: the recipe, and the stores with their digests."""
        stores = {
            name: {"path": store.files.where, "sha256": store.digest}
            for name, store in self.stores.items()
        }
        return self.recipe.document(stores=stores)

    def device_batch(self, stage: Stage) -> int:
        """Return the samples of a batch on one device.

        Raises:
            OptionError: the devices can't share a batch evenly.
        """
        size, rest = divmod(stage.batch_size, self.world * stage.accumulate)
        if rest:
            raise OptionError(
                f"batch_size is {stage.batch_size}, which {self.world} devices with "
                f"accumulate={stage.accumulate} can't share evenly; choose a multiple of "
                f"{self.world * stage.accumulate}"
            )
        return size


def make_plan(recipe: Recipe, *, data: str, images: str | None = None) -> RunPlan:
    """Open a recipe's stores, build its networks, and check that all of them fit.

    Args:
        recipe: a recipe from `train.recipe.load`.
        data: store for the last stage and for the test.
        images: store of still images, for stages that learn from them.

    Raises:
        OptionError: a store is missing or of the wrong kind, a device is missing, or a network or
            a batch can't be made.
        EventDataError: a store can't be read or has too few samples.
    """
    devices = _devices(recipe)
    stores = _open_stores(recipe, data, images)
    parts: dict[str, Data] = {}
    for name, store in stores.items():
        parts[name] = open_data(
            store.files.where,
            share=recipe.run.held_out,
            seed=recipe.run.split_seed,
            test_share=recipe.run.test_share if name == "data" else 0,
            later=parts.get("data"),
            published=recipe.run.protocol == "published",
        )
    networks: dict[str, Network] = {}
    for name, stage in recipe.stages.items():
        torch.manual_seed(recipe.run.seed)  # the initial weights depend only on it
        part = parts[stage.data]
        networks[name] = build_network(recipe, stage, shape=part.shape, classes=len(part.classes))
    plan = RunPlan(recipe=recipe, stores=stores, parts=parts, devices=devices, networks=networks)
    for name in recipe.stages:
        _check_stage(plan, name)
    return plan


def _devices(recipe: Recipe) -> int:
    """Return the devices in each node; raise OptionError if this machine lacks them."""
    machine, gpus = recipe.machine, torch.cuda.device_count()
    if machine.accelerator == "gpu" and not gpus:
        raise OptionError(
            "machine.accelerator is gpu, but torch finds no GPU on this machine; set it to cpu or "
            "auto, or install a torch with CUDA"
        )
    on_gpu = gpus > 0 and machine.accelerator != "cpu"
    if on_gpu and machine.devices > gpus:
        raise OptionError(
            f"machine.devices is {machine.devices}, but this machine has {gpus} GPUs; set it to at "
            f"most {gpus}"
        )
    if not on_gpu and recipe.run.precision == "16-mixed":
        raise OptionError(
            "run.precision is 16-mixed, which needs a GPU; set it to bf16-mixed or 32-true"
        )
    devices = machine.devices or (gpus if on_gpu else 1)
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # not started by torchrun
        return devices
    started = int(os.environ["WORLD_SIZE"])
    if started != devices * machine.nodes:
        raise OptionError(
            f"torchrun has started {started} processes, but machine.devices x machine.nodes is "
            f"{devices} x {machine.nodes}; pass --set machine.devices=... and "
            "--set machine.nodes=... with the numbers that torchrun was given"
        )
    return devices


def _open_stores(recipe: Recipe, data: str, images: str | None) -> dict[str, Store]:
    """Open the stores that stages use, and `data`; raise OptionError for one of a wrong kind."""
    stores: dict[str, Store] = {}
    for name, place in (("data", data), ("images", images)):
        users = [key for key, stage in recipe.stages.items() if stage.data == name]
        if not users and name != "data":
            continue
        if place is None:
            raise OptionError(
                f"{recipe.name}: stage {users[0]} learns from still images; pass a store of them "
                "with --images; `eventdata convert images` makes one"
            )
        stores[name] = open_store(place)
        found = stores[name].header.representation
        needs_images = name == "images" or recipe.pipeline == "pipe-s"
        if (found == "image") != needs_images:
            raise OptionError(
                f"{place}: holds {'still images' if found == 'image' else f'{found} frames'}, but "
                f"{recipe.pipeline} needs a store of "
                f"{'still images' if needs_images else 'event frames'} as --{name}"
            )
    return stores


def build_network(recipe: Recipe, stage: Stage, *, shape: tuple[int, ...], classes: int) -> Network:
    """Return a stage's network.

    Args:
        recipe, stage: the settings.
        shape: the shape of a sample of the stage's store, (T, P, H, W) or (C, H, W).
        classes: the number of classes.

    Raises:
        OptionError: the network lacks a setting, or can't be built with the settings.
    """
    settings = {key: value for key, value in recipe.network.items() if key != "name"}
    name = recipe.network["name"]
    known = signature(NETWORKS[name]).parameters if name in NETWORKS else {}
    *steps, channels, height, width = shape
    if taken := sorted(OF_THE_DATA & settings.keys()):
        raise OptionError(
            f"network.{taken[0]} can't be set in a recipe, because the stage and its data decide "
            "it; remove it from [network]"
        )
    if not steps and "steps" in known:
        settings["steps"] = stage.steps or 1
    if "size" in known:
        settings["size"] = (height // stage.downscale, width // stage.downscale)
    try:
        return build(name, channels=channels, classes=classes, neuron=stage.neuron, **settings)
    except OptionError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise OptionError(
            f"network {name} can't be built with {settings}: {_first_line(error)}"
        ) from error


def _check_stage(plan: RunPlan, name: str) -> None:
    """Raise OptionError if a stage's network can't learn from batches of its data."""
    stage = plan.recipe.stages[name]
    data = plan.parts[stage.data]
    if stage.batch_size > len(data.train):
        parts = plan.world * stage.accumulate  # of a batch
        most = max(2, len(data.train) // (4 * parts))  # at least four steps in an epoch
        change = f"batch_size={parts * (1 << most.bit_length() - 1)}"
        raise OptionError(
            f"{name}: batch_size is {stage.batch_size}, more than the {len(data.train)} samples "
            f"to train on; pass --set all.{change}, or for this stage --set {name}.{change}"
        )
    *steps, channels, _, _ = data.shape
    if steps:
        used = stage.steps or steps[0]
        if used > steps[0]:
            raise OptionError(
                f"{name}: steps is {used}, but the store's samples have {steps[0]}; choose fewer"
            )
        if used % (stage.collapse or 1):
            raise OptionError(
                f"{name}: collapse is {stage.collapse}, which does not divide {used} steps evenly"
            )
        if stage.align:
            store = plan.stores[stage.data]
            # Refuses other frames.
            shifts_of(store.header.parameters, data.train.sample_format, store.files.where)
    elif stage.normalise == "imagenet" and channels != 3:
        raise OptionError(
            f"{name}: normalise is imagenet, but the store's images have {channels} channels, not "
            "3; set it to grey"
        )
    batch = plan.device_batch(stage)
    if plan.recipe.run.sync_norm:  # norms see the samples of all devices
        batch *= plan.world
    shape = input_shape(stage, data.shape)
    if stage.calibrate != "none":
        plan.networks[name].layers()  # refuses a network that can't be calibrated
    network = deepcopy(plan.networks[name]).to("meta")  # shapes only: costs next to nothing
    freeze(network, stage.freeze)
    try:
        out = network(torch.empty((batch, *shape), device="meta"))
    except (RuntimeError, ValueError) as error:
        raise OptionError(
            f"{name}: the network can't take samples of {'x'.join(map(str, shape))}, with "
            f"downscale={stage.downscale}, in batches of {batch} ({_first_line(error)}); change "
            "the recipe's stage or network"
        ) from None
    if not out.requires_grad:
        raise OptionError(f"{name}: freeze leaves nothing to train; name fewer parts in it")


def input_shape(stage: Stage, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a sample as a stage's network sees it.

    Args:
        stage: the settings.
        shape: the shape of a sample of the stage's store, (T, P, H, W) or (C, H, W).
    """
    *steps, channels, height, width = shape
    if steps:
        steps = [stage.collapse or stage.steps or steps[0]]
    return (*steps, channels, height // stage.downscale, width // stage.downscale)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
