"""Run a recipe: its stages in order, each from the weights of the one before, then the test.

A run is finished by calling it again, whatever stopped it: stages that are done are left alone, the
one that was broken off goes on from its last whole epoch, to the same weights bit for bit (CPU).
"""

import platform
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

from eventdata.errors import MismatchError, OptionError
from eventdata.store.read import Store, open_store
from train.data import Data, open_data
from train.folder import RunFolder, read_json, telling_write_errors, weight_facts, write, write_json
from train.memory import keep_pages
from train.recipe import FRESH, SCRATCH, Machine, Recipe, with_absolute_paths
from train.settings import to_toml
from train.stage import StageRun, build_network, is_first


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
        OptionError: a store is missing or of the wrong kind, or a device isn't there.
        MismatchError: the folder holds another run.
        InputError: data, a checkpoint or the folder can't be used.
        DivergedError: a loss that is no number.
    """
    recipe = with_absolute_paths(recipe)
    folder = RunFolder(Path(out).absolute())
    devices = check_machine(recipe.machine)
    stores = open_stores(recipe, data, images)
    with telling_write_errors(folder.root):
        if is_first():
            begin(folder, recipe, stores)
        if folder.result.exists():
            return cast(dict[str, Any], read_json(folder.result))
        on_cpu = recipe.machine.accelerator == "cpu" or not torch.cuda.is_available()
        if on_cpu and recipe.machine.keep_pages:
            keep_pages()
        return _run_stages(recipe, folder, stores, devices, say if say and is_first() else _silent)


def check_machine(machine: Machine) -> int:
    """Devices a node; OptionError where what is asked for isn't there."""
    gpus = torch.cuda.device_count()
    if machine.accelerator == "gpu" and not gpus:
        raise OptionError(
            "machine.accelerator is gpu, but torch finds no GPU here; leave it out, set it to cpu, "
            "or install a torch with CUDA"
        )
    on_gpu = gpus > 0 and machine.accelerator != "cpu"
    if on_gpu and machine.devices > gpus:
        raise OptionError(f"machine.devices is {machine.devices}, but there are {gpus} GPUs here")
    return machine.devices or (gpus if on_gpu else 1)


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
                f"{place}: holds {found} {'images' if found == 'image' else 'frames'}, but "
                f"{recipe.pipeline} takes a store of "
                f"{'still images' if wanted == 'image' else 'event frames'} as --{name}"
            )
    return stores


def begin(folder: RunFolder, recipe: Recipe, stores: dict[str, Store]) -> None:
    """Write config.toml, or check that the run in the folder is this one.

    Raises:
        MismatchError: another run, with what differs; or no run at all.
    """
    table = tomllib.loads(recipe.document()) | {
        "stores": {
            name: {"path": store.files.where, "sha256": store.header.parameters_sha256}
            for name, store in stores.items()
        }
    }
    if not folder.config.exists():
        if folder.root.exists() and any(folder.root.iterdir()):
            raise MismatchError(f"{folder.root}: holds something else than a run; choose another")
        write(folder.config, to_toml(table))
        return
    try:
        found = tomllib.loads(folder.config.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise MismatchError(f"{folder.config}: is damaged; choose another folder") from None
    here, there = _flat(table), _flat(found)
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
    devices: int,
    say: Callable[[str], Any],
) -> dict[str, Any]:
    parts = open_parts(recipe, stores)
    for stage in recipe.stages.values():  # what can't be built is told before hours of training
        with torch.device("meta"):
            build_network(recipe, stage, parts[stage.data])
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
            seconds += float(weight_facts(source).get("seconds", 0))
        current = StageRun(name, stage, recipe, folder, data, devices, seconds)
        told.append(current.train(source))
        seconds += told[-1]["train_seconds"]
        say(
            "{name}: {kind}, {epochs} epochs, best held-out top-1 {best_top1:.1%} in epoch "
            "{best_epoch}; {train_seconds:.0f} s of training".format(**told[-1])
        )
    result = {
        "recipe": recipe.name,
        "label": recipe.run.label or (SCRATCH if SCRATCH in recipe.stages else recipe.name),
        "store": stores["data"].header.parameters_sha256,
        "seed": recipe.run.seed,
        "protocol": recipe.run.protocol,
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


def _silent(_: str) -> None: ...


def open_parts(recipe: Recipe, stores: dict[str, Store]) -> dict[str, Data]:
    """What is trained on, selected by and tested on, of each store."""
    parts: dict[str, Data] = {}
    for name, store in stores.items():
        parts[name] = open_data(
            store.files.where,
            share=recipe.run.held_out,
            seed=recipe.run.split_seed,
            also=parts["data"].held if parts else frozenset(),
            published=recipe.run.protocol == "published",
        )
    return parts
