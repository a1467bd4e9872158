"""Run a recipe: its stages in order, each from the weights of the one before, then the test.

To resume a run, whatever stopped it, run it again: finished stages are skipped, and the stage that
was interrupted resumes after its last whole epoch, to the same weights bit for bit (on a CPU).
"""

import platform
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from eventdata.errors import EventDataError
from eventdata.store.read import open_store
from train.neurons.memory import keep_pages
from train.recipe import Recipe, default_recipe, load_method
from train.runs.cost import FREE, Cost, cost_of
from train.runs.folder import (
    RunFolder,
    StageFolder,
    read_json,
    weight_facts,
    write,
    write_json,
    writing_run,
)
from train.runs.plan import RunPlan, make_plan
from train.runs.stage import StageRun, is_first
from train.settings import FRESH
from train.weights import find_weights


def train(
    method: str,
    out: str | Path,
    *,
    data: str,
    images: str | None = None,
    recipe: str | None = None,
    changes: Iterable[str] = (),
    say: Callable[[str], Any] | None = None,
) -> dict[str, Any]:
    """Train by a method: the command `eventdata train`.

    Args:
        method: pipe-s, pipe-d or scratch.
        out, data, images, say: see `run`.
        recipe: name of a recipe or path of a TOML file; None: `train.recipe.default_recipe`.
        changes: changes to the recipe, each ``stage.key=value``.

    Returns:
        The content of result.json.

    Raises:
        EventDataError: see `train.recipe.load` and `run`.
    """
    if recipe is None:
        on_images = open_store(data).header.representation == "image"
        recipe = default_recipe(method, on_images=on_images, with_images=images is not None)
    return run(load_method(method, recipe, changes), out, data=data, images=images, say=say)


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    data: str,
    images: str | None = None,
    say: Callable[[str], Any] | None = None,
) -> dict[str, Any]:
    """Run a recipe on stores, or resume the run that the folder holds.

    Args:
        recipe: a recipe from `train.recipe.load`.
        out: folder of the run; it is made if it is missing.
        data: store for the last stage and for the test.
        images: store of still images, for stages that learn from them.
        say: called with each line of progress for a person.

    Returns:
        The content of result.json.

    Raises:
        OptionError: the recipe does not fit the stores or the machine, or config.toml can't hold a
            setting or the path of a store.
        MismatchError: the folder holds another run.
        InputError: data, a checkpoint or the folder can't be used, or another process trains in
            the folder.
        DivergedError: the loss is not finite.
    """
    plan = make_plan(recipe, data=data, images=images)
    document = plan.document  # fails here, before anything is written
    folder = RunFolder(Path(out).absolute())
    say = say if say and is_first() else lambda _: None
    if images is not None and "images" not in plan.stores:
        say(f"{recipe.label}: has no stage on still images, so --images is not used")
    for name, data_parts in plan.parts.items():
        for text in data_parts.notes:
            say(f"note: {plan.stores[name].files.where} {text}")
    then = "run the same command again to resume after the last whole epoch"
    with warnings.catch_warnings(), writing_run(folder.root, then):
        # Lightning calls torch in a way that torch is about to remove.
        warnings.filterwarnings("ignore", ".isinstance.treespec, LeafSpec", FutureWarning)
        if is_first():
            folder.check_free_or_run()
        extends = _extends(recipe)
        # Every process asks before the first one writes its config.toml.
        extended = folder.result.exists() and folder.check_same(document, extends)
        if folder.result.exists() and not extended:
            say(f"{folder.root}: has finished already")
            return folder.read_result()
        on_cpu = recipe.machine.accelerator == "cpu" or not torch.cuda.is_available()
        if on_cpu and recipe.machine.keep_pages:
            keep_pages()
        with folder.locked(recipe.stages) if is_first() else nullcontext():
            if is_first():
                if folder.check_same(document, extends):
                    say(f"{extends}: resumes with {recipe.stages[extends].epochs} epochs")
                    folder.reopen(extends)
                write(folder.config, document)
            return _run_stages(plan, folder, say)


def _extends(recipe: Recipe) -> str:
    """Return the stage that may be trained for more epochs, "" if there is none.

    It is the last one, because no other builds on it. A ReLU that sharpens has ended as a spike.
    """
    last = list(recipe.stages)[-1]
    return "" if recipe.stages[last].neuron.activation == "sharpened_relu" else last


def _run_stages(plan: RunPlan, folder: RunFolder, say: Callable[[str], Any]) -> dict[str, Any]:
    recipe = plan.recipe
    results: list[dict[str, Any]] = []
    cost = before = FREE
    runs: dict[str, StageRun] = {}
    uncounted: list[str] = []  # files with weights whose cost is not known
    counted: set[Path] = set()  # files with weights that stages have started from
    more_samples = _uses_pictures(plan)
    for name, stage in recipe.stages.items():
        source = None
        if stage.weights in recipe.stages:
            which = recipe.stages[stage.weights].keep
            source = folder.stage(stage.weights).weights(which)
        elif stage.weights != FRESH:
            source = find_weights(stage.weights)
            if source not in counted:  # a file may start one stage and teach another
                counted.add(source)
                facts = weight_facts(source)
                seen = facts.get("store"), facts.get("more_samples")
                more_samples |= seen != (plan.stores["data"].digest, False)
                into = _cost_into(source)
                before += into
                cost += into
                if into is FREE:
                    uncounted.append(source.name)
                    say(f"note: {name} starts from {source.name}, whose training is not counted")
        say(f"{name}: augmentation: {stage.augment.summary()}")
        say(f"{name}: {plan.parts[stage.data].summary()}")
        current = StageRun(
            plan=plan,
            name=name,
            folder=folder.stage(name),
            before=cost,
            teacher=runs.get(stage.teacher),
            more_samples=more_samples,
        )
        runs[name] = current
        result = current.train(source, say)
        results.append(result)
        cost += cost_of(result)
        waiting = result["waiting_seconds"] / max(result["train_seconds"], 1e-9)
        say(
            "{name}: {kind}, {epochs} epoch{plural}, best held-out top-1 {best_top1:.1%} in epoch "
            "{best_epoch}; {train_seconds:.0f} s of training, {waiting:.0%} of it waiting for "
            "input".format(**result, waiting=waiting, plural="s" * (result["epochs"] != 1))
        )
        if result.get("predicted_classes") == 1:
            say(f"note: {name} takes all held-out samples for the same class")
    summary: dict[str, Any] = {
        "recipe": recipe.name,
        "label": recipe.label,
        "store": plan.stores["data"].digest,
        "seed": recipe.run.seed,
        "protocol": recipe.run.protocol,
        "held_out": [
            recipe.run.held_out,
            recipe.run.split_seed,
            *([recipe.run.test_share] if "test" in plan.parts["data"].drawn else []),
        ],
        "parts": plan.parts["data"].counts,
        "drawn": list(plan.parts["data"].drawn),
        "notes": [text for one in plan.parts.values() for text in one.notes],
        "more_samples": more_samples,
        "uncounted": uncounted,
        "stages": results,
        "seconds_before": before.seconds,
        "train_seconds": cost.seconds,
        "cost": cost.as_dict(),
        "test": current.test(),
        "machine": {
            "system": platform.platform(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())],
        },
    }
    if is_first():
        folder.sync()
        write_json(folder.result, summary)
    if summary["test"]:
        test = summary["test"]
        top5 = ", top-5 {top5:.1%}".format(**test) if "top5" in test else ""
        say(
            f"test: top-1 {test['top1']:.1%}{top5}, balanced over classes {test['balanced']:.1%}; "
            f"{test['samples']} samples"
        )
        if sum(map(any, zip(*test["confusion"], strict=True))) == 1:
            say("note: the network takes all test samples for the same class")
    say(f"{folder.root}: finished, {cost.seconds:.0f} s of training in total")
    return summary


def _uses_pictures(plan: RunPlan) -> bool:
    """Return whether a stage learns from pictures that are not made of the events of `data`."""
    images = plan.stores.get("images")
    return images is not None and not images.header.parameters.get("grey_from_events")


def _cost_into(weights: Path) -> Cost:
    """Return the cost of the training behind a run's weights: that of their whole stage.

    The best weights record only the seconds until their epoch; the last weights record all.
    """
    last = weights.with_name("last.safetensors")
    of_a_stage = weights.name == "best.safetensors" and last.is_file()
    facts = weight_facts(last if of_a_stage else weights)
    found = StageFolder(weights.parent).result
    if "seconds" not in facts:  # of another program, or of no training
        return FREE
    rest = Cost()
    with suppress(EventDataError, AttributeError, ValueError):
        stage = read_json(found)
        rest = Cost.read(stage.get("before")) + cost_of(stage)
    return replace(rest, seconds=float(facts["seconds"]))
