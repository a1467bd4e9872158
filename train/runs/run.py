"""Run a recipe: its stages in order, each from the weights of the one before, then the test.

A run is finished by calling it again, whatever stopped it: stages that are done are left alone, the
one that was broken off goes on from its last whole epoch, to the same weights bit for bit (CPU).
"""

import os
import platform
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eventdata.errors import InputError, MismatchError, OptionError
from eventdata.files.local import read_plain
from eventdata.store.read import Store, open_store
from train.data import Data, open_data
from train.neurons.memory import keep_pages
from train.recipe import (
    FRESH,
    MAX_BYTES,
    Recipe,
    Stage,
    default_recipe,
    load_way,
    with_absolute_paths,
)
from train.runs.folder import (
    RunFolder,
    read_json,
    telling_write_errors,
    weight_facts,
    write,
    write_json,
)
from train.runs.stage import StageRun, build_network, device_batch, is_first
from train.settings import Table, parse_toml, to_toml
from train.transfer import freeze


def train(
    way: str,
    out: str | Path,
    *,
    data: str,
    images: str | None = None,
    recipe: str | None = None,
    changes: Iterable[str] = (),
    say: Callable[[str], Any] | None = None,
) -> dict[str, Any]:
    """Train by a way: `eventdata train`.

    Args:
        way: pipe-s, pipe-d or scratch.
        out, data, images, say: see `run`.
        recipe: a recipe's name or its file; None: `train.recipe.default_recipe`.
        changes: to the recipe, ``stage.key=value``.

    Raises:
        OptionError: of the recipe or a change.
        EventDataError: as `run`.
    """
    if recipe is None:
        on_images = open_store(data).header.representation == "image"
        recipe = default_recipe(way, on_images=on_images, with_images=images is not None)
    return run(load_way(way, recipe, changes), out, data=data, images=images, say=say)


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    data: str,
    images: str | None = None,
    say: Callable[[str], Any] | None = None,
) -> dict[str, Any]:
    """Run a recipe on stores into a folder, or finish it; the content of its result.json.

    Args:
        recipe: from `train.recipe.load`.
        out: the run's folder; made if need be.
        data: the store that is trained on in the end and tested on.
        images: the store of still images, where the recipe has stages on it.
        say: called with a line for a person, now and then.

    Raises:
        OptionError: a store is missing or of the wrong kind, a device isn't there, the network or
            a batch can't be made, or config.toml can't hold a setting or a store's path.
        MismatchError: the folder holds another run.
        InputError: data, a checkpoint or the folder can't be used, or another call trains in it.
        DivergedError: a loss that is no number.
    """
    recipe = with_absolute_paths(recipe)
    folder = RunFolder(Path(out).absolute())
    devices = check_machine(recipe)
    stores = open_stores(recipe, data, images)
    say = say if say and is_first() else _silent
    if images is not None and "images" not in stores:
        say(f"{recipe.label}: has no stage on still images, --images is not used")
    then = "the run goes on from its last whole epoch"
    with warnings.catch_warnings(), telling_write_errors(folder.root, then):
        # Lightning asks torch in a way that torch is about to give up.
        warnings.filterwarnings("ignore", ".isinstance.treespec, LeafSpec", FutureWarning)
        config = config_of(recipe, stores)
        document = to_toml(config)  # what can't be written is told before anything is
        if is_first():
            check_folder(folder, config)
        if folder.result.exists():
            say(f"{folder.root}: has finished already")
            return _finished(folder)
        parts = open_parts(recipe, stores)
        check_stages(recipe, parts, devices)
        on_cpu = recipe.machine.accelerator == "cpu" or not torch.cuda.is_available()
        if on_cpu and recipe.machine.keep_pages:
            keep_pages()
        with folder.locked(recipe.stages) if is_first() else nullcontext():
            if is_first():
                check_folder(folder, config)  # again: another call may have come in between
                write(folder.config, document)
            return _run_stages(recipe, folder, stores, parts, devices, say)


def _finished(folder: RunFolder) -> dict[str, Any]:
    """The result of a run that has finished."""
    result = read_json(folder.result)
    if not isinstance(result, dict):
        raise InputError(f"{folder.result}: is damaged; delete it and call the same again")
    return result


def check_machine(recipe: Recipe) -> int:
    """Devices a node; OptionError where what is asked for isn't there."""
    machine, gpus = recipe.machine, torch.cuda.device_count()
    if machine.accelerator == "gpu" and not gpus:
        raise OptionError(
            "machine.accelerator is gpu, but torch finds no GPU here; leave it out, set it to cpu, "
            "or install a torch with CUDA"
        )
    on_gpu = gpus > 0 and machine.accelerator != "cpu"
    if on_gpu and machine.devices > gpus:
        raise OptionError(f"machine.devices is {machine.devices}, but there are {gpus} GPUs here")
    if not on_gpu and recipe.run.precision == "16-mixed":
        raise OptionError(
            "run.precision is 16-mixed, which needs a GPU; set it to bf16-mixed or 32-true"
        )
    devices = machine.devices or (gpus if on_gpu else 1)
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun's
        return devices
    started = int(os.environ["WORLD_SIZE"])
    if started != devices * machine.nodes:
        raise OptionError(
            f"torchrun has started {started} processes, but machine.devices x machine.nodes is "
            f"{devices} x {machine.nodes}; say the same by --set machine.devices=... and "
            "--set machine.nodes=..."
        )
    return devices


def check_stages(recipe: Recipe, parts: dict[str, Data], devices: int) -> None:
    """OptionError for a stage that can't be trained on its data, before hours of training."""
    for name, stage in recipe.stages.items():
        data = parts[stage.data]
        with torch.device("meta"):
            network = build_network(recipe, stage, data)
            freeze(network, stage.freeze)
        batch = device_batch(stage, devices * recipe.machine.nodes)
        if recipe.run.sync_norm:  # norms see the samples of all devices
            batch *= devices * recipe.machine.nodes
        if stage.batch_size > len(data.train):
            raise OptionError(
                f"{name}: batch_size is {stage.batch_size}, more than the {len(data.train)} "
                "samples to train on"
            )
        steps = data.train.sample_format.steps
        if steps is not None:
            taken = steps if stage.steps is None else stage.steps
            if taken > steps:
                raise OptionError(f"{name}: steps is {taken}, but the store's frames are {steps}")
            if stage.collapse is not None and taken % stage.collapse:
                raise OptionError(
                    f"{name}: collapse is {stage.collapse}, which {taken} steps can't share evenly"
                )
        check_input(network, name, stage, data, batch)


def check_input(network: nn.Module, name: str, stage: Stage, data: Data, batch: int) -> None:
    """OptionError where a network on torch's meta device can't learn from a batch of the stage."""
    *steps, channels, height, width = data.shape
    taken = [stage.collapse or stage.steps or steps[0]] if steps else []
    shape = (*taken, channels, height // stage.downscale, width // stage.downscale)
    try:
        out = network(torch.empty((batch, *shape), device="meta"))
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise OptionError(
            f"{name}: the network can't take samples of {'x'.join(map(str, shape))}, which are "
            f"downscaled by {stage.downscale}, in batches of {batch} ({reason}); see stage and "
            "network of the recipe"
        ) from None
    if not out.requires_grad:
        raise OptionError(f"{name}: freeze leaves nothing to train; name fewer parts in it")


def open_stores(recipe: Recipe, data: str, images: str | None) -> dict[str, Store]:
    """The stores the recipe's stages use, opened, by the name they have there.

    Raises:
        OptionError: one is missing, or of another kind than the recipe is for.
    """
    used = {stage.data for stage in recipe.stages.values()}
    places = {"data": data, "images": images}
    stores: dict[str, Store] = {}
    for name in ("data", "images"):
        place = places[name]
        if name not in {*used, "data"}:
            continue
        if place is None:
            stage = next(key for key, stage in recipe.stages.items() if stage.data == name)
            raise OptionError(
                f"{recipe.name}: its stage {stage} learns from still images: give a store of them "
                "with --images (made by `eventdata convert images`)"
            )
        stores[name] = open_store(place)
        wanted = "image" if name == "images" or recipe.pipeline == "pipe-s" else "event"
        found = stores[name].header.representation
        if (found == "image") != (wanted == "image"):
            raise OptionError(
                f"{place}: holds {'still images' if found == 'image' else f'{found} frames'}, but "
                f"{recipe.pipeline} takes a store of "
                f"{'still images' if wanted == 'image' else 'event frames'} as --{name}"
            )
    return stores


def config_of(recipe: Recipe, stores: dict[str, Store]) -> Table:
    """The content of config.toml: the recipe, and the stores with their digests."""
    return parse_toml(recipe.document()) | {
        "stores": {
            name: {"path": store.files.where, "sha256": store.digest}
            for name, store in stores.items()
        }
    }


def check_folder(folder: RunFolder, config: Table) -> None:
    """Check that a run can be in the folder: there is none yet, none that was trained, or this one.

    Raises:
        MismatchError: another run, with what differs; or no run at all.
    """
    if not folder.config.exists():
        if not folder.is_free():
            raise MismatchError(f"{folder.root}: holds something else than a run; choose another")
        return
    if not folder.has_begun():
        return
    try:
        found = parse_toml(read_plain(folder.config, MAX_BYTES).decode())
    except (OSError, ValueError):
        raise MismatchError(f"{folder.config}: is damaged; choose another folder") from None
    here, there = _flat(config), _flat(found)
    different = [
        f"{key} is {there.get(key)!r} there, {here.get(key)!r} in this call"
        for key in sorted({*here, *there})
        if here.get(key) != there.get(key)
        and not key.startswith("machine.")
        and not key.endswith(".path")
    ]
    if different:
        raise MismatchError(
            f"{folder.root}: holds another run: {'; '.join(different[:5])}; call with the same, or "
            "choose another folder"
        )


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _run_stages(
    recipe: Recipe,
    folder: RunFolder,
    stores: dict[str, Store],
    parts: dict[str, Data],
    devices: int,
    say: Callable[[str], Any],
) -> dict[str, Any]:
    told = []
    seconds = 0.0
    for name, stage in recipe.stages.items():
        data = parts[stage.data]
        source = None
        if stage.weights in recipe.stages:
            which = recipe.stages[stage.weights].keep
            source = folder.stage(stage.weights).weights(which)
        elif stage.weights != FRESH:
            source = Path(stage.weights)
            seconds += _seconds_into(source)
        current = StageRun(name, stage, recipe, folder, data, devices, seconds)
        told.append(current.train(source, say))
        seconds += told[-1]["train_seconds"]
        say(
            "{name}: {kind}, {epochs} epochs, best held-out top-1 {best_top1:.1%} in epoch "
            "{best_epoch}; {train_seconds:.0f} s of training, {waiting:.0%} of it waiting for "
            "input".format(**told[-1], waiting=waiting_share(told[-1]))
        )
    result = {
        "recipe": recipe.name,
        "label": recipe.label,
        "store": stores["data"].digest,
        "seed": recipe.run.seed,
        "protocol": recipe.run.protocol,
        "held_out": [recipe.run.held_out, recipe.run.split_seed],
        "stages": told,
        "seconds_before": seconds - sum(stage["train_seconds"] for stage in told),
        "train_seconds": seconds,
        "test": current.test(),
        "machine": {
            "system": platform.platform(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())],
        },
    }
    if is_first():
        write_json(folder.result, result)
    if result["test"]:
        say(
            "test: top-1 {top1:.1%}, top-5 {top5:.1%} of {samples} samples".format(**result["test"])
        )
    say(f"{folder.root}: finished, {seconds:.0f} s of training in all")
    return result


def _seconds_into(weights: Path) -> float:
    """Seconds of training that led to weights of ours: those of the whole stage, as in a pipeline.

    The best weights themselves know those until their epoch alone.
    """
    last = weights.with_name("last.safetensors")
    of_a_stage = weights.name == "best.safetensors" and last.is_file()
    return float(weight_facts(last if of_a_stage else weights).get("seconds", 0))


def waiting_share(stage: dict[str, Any]) -> float:
    """Of a stage's training, the share of time that it has waited for input."""
    return float(stage["waiting_seconds"] / max(stage["train_seconds"], 1e-9))


def _silent(_: str) -> None: ...


def open_parts(recipe: Recipe, stores: dict[str, Store]) -> dict[str, Data]:
    """What is trained on, selected by and tested on, of each store."""
    parts: dict[str, Data] = {}
    for name, store in stores.items():
        parts[name] = open_data(
            store.files.where,
            share=recipe.run.held_out,
            seed=recipe.run.split_seed,
            later=parts.get("data"),
            published=recipe.run.protocol == "published",
        )
    return parts
