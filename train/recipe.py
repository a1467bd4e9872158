"""Recipes: a pipeline of training stages in a TOML file, with every key checked.

A stage is a network, data, a schedule, a kind of neuron, and the origin of its weights. A pipeline
is a sequence of stages. A recipe describes a pipeline and its baseline, trained from scratch::

    base = "NAME"        a recipe of this package, from which this one takes what it does not set
    pipeline = "pipe-d"  and name, which defaults to that of the file
    [network]            the network of all stages: a name in train.networks and its settings
    [run]                seed, protocol, precision
    [machine]            settings that do not change the result: devices, threads
    [defaults]           a Stage: settings that all stages share
    [stages.NAME]        a Stage; the stages run in this order
    [scratch]            the baseline: changes to the last stage when it starts from scratch
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from eventdata.errors import InputError, OptionError, reading
from eventdata.files.local import read_plain
from eventdata.settings import Table, from_table, table_of, unknown_key
from train.settings import CHECKPOINT, FRESH, OF_SOURCES, TIMM, Machine, Run, Stage
from train.toml import MAX_BYTES, MAX_DEPTH, merge, parse_toml, to_toml

RECIPES = Path(__file__).parent / "recipes"
SCRATCH = "scratch"
SECTIONS = (
    *("base", "name", "pipeline", "network", "run", "machine", "defaults", "stages", SCRATCH),
    "stores",  # in the config.toml of a run, which is also a recipe
)
INHERITED = (*OF_SOURCES, "stem", "freeze", "freeze_epochs", "recalibrate")
"""Settings that mean nothing for a stage with fresh weights."""

RECALIBRATED = 50
"""Batches for the norms of a file that teaches on frames; they have seen images, or other sums."""

Pipeline = Literal["pipe-s", "pipe-d"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A pipeline with all its settings."""

    name: str
    pipeline: Pipeline
    network: dict[str, Any]
    stages: dict[str, Stage]
    run: Run = field(default_factory=Run)
    machine: Machine = field(default_factory=Machine)

    @property
    def label(self) -> str:
        """The name of its runs in a report: `run.label`, else the method and the recipe."""
        method = SCRATCH if SCRATCH in self.stages else self.pipeline
        named = self.name if self.name.startswith(method) else f"{method} {self.name}"
        return self.run.label or named

    def document(self, **more: Table) -> str:
        """Return the recipe as TOML with every setting; `load` reads it back.

        Args:
            more: further tables to write.
        """
        table = {
            "name": self.name,
            "pipeline": self.pipeline,
            "network": self.network,
            "run": table_of(self.run),
            "machine": table_of(self.machine),
            "stages": {name: table_of(stage) for name, stage in self.stages.items()},
        }
        return to_toml(table | more)


def recipe_names() -> list[str]:
    """Return the names of the recipes in this package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load(
    name: str, *, scratch: bool = False, changes: Iterable[str] = (), check_weights: bool = True
) -> Recipe:
    """Return a recipe by its name or from its file, with changes.

    Args:
        name: one of `recipe_names`, or the path of a TOML file.
        scratch: return the baseline instead of the pipeline. It has one stage `scratch`: the last
            stage with the settings of [scratch] and fresh weights.
        changes: changes such as ``stage.key=value``, see `set_key`. A stage that the last one no
            longer builds on afterwards is skipped, for example because its successor now takes
            its weights from a file.
        check_weights: whether to check that the files with initial weights exist.

    Raises:
        OptionError: no recipe has this name, or a key or value in it is wrong.
        InputError: the file can't be read.
    """
    where = f"recipe {Path(name).stem}"
    table = _on_base(_read(name), where)
    for key in table:
        if key not in SECTIONS:
            raise unknown_key(where, key, SECTIONS)
    sections = {key: table.get(key, {}) for key in ("stages", "defaults", "network", SCRATCH)}
    _check_tables(sections, where)
    _check_tables(sections["stages"], f"{where}: stages")
    if not sections["stages"] or "pipeline" not in table or "name" not in sections["network"]:
        raise OptionError(f"{where}: needs pipeline, network.name and at least one of [stages]")
    stages = {key: merge(sections["defaults"], one) for key, one in sections["stages"].items()}
    last = list(stages.values())[-1]
    own = {key: value for key, value in last.items() if key not in INHERITED}
    baseline = merge(own, sections[SCRATCH])
    if scratch:
        stages = {SCRATCH: baseline}
    if idle := stages.keys() - _needed(stages):
        raise OptionError(
            f"{where}: the last stage does not build on {', '.join(sorted(idle))}; set its weights "
            "to an earlier stage, or remove the stages that it does not need"
        )
    table["stages"] = stages
    ahead = {key: _ahead(stages, key) for key in stages}
    for change in changes:
        set_key(table, change)
    for key in stages:
        _follow_weights(stages, key, ahead[key])
    if not isinstance(table["network"]["name"], str):
        raise OptionError(f"{where}: network.name is {table['network']['name']!r}, not a name")
    if table["pipeline"] not in get_args(Pipeline):
        raise OptionError(f"{where}.pipeline is {table['pipeline']!r}: choose pipe-s, pipe-d")
    for key in stages:
        if not key.replace("-", "").replace("_", "").isalnum() or key in ("all", "tensorboard"):
            raise OptionError(f"{where}: {key!r} can't be the name of a stage; rename it")
    made = {key: from_table(Stage, one, f"{where}: {key}") for key, one in stages.items()}
    needed = _needed(stages)
    made = {key: stage for key, stage in made.items() if key in needed}
    made = _with_teachers(made, on_frames=table["pipeline"] == "pipe-d")
    _check_teachers(made, where, on_frames=table["pipeline"] == "pipe-d")
    recipe = Recipe(
        name=str(table.get("name", Path(name).stem)),
        pipeline=table["pipeline"],
        network=dict(table["network"]),
        stages=_with_sources(made, list(stages), where) if check_weights else made,
        run=from_table(Run, table.get("run", {}), f"{where}: run"),
        machine=from_table(Machine, table.get("machine", {}), f"{where}: machine"),
    )
    checked = dict(recipe.stages)
    if sections[SCRATCH] and not scratch:  # check the baseline, too
        checked[SCRATCH] = from_table(Stage, baseline, f"{where}: {SCRATCH}")
    for key, stage in checked.items():
        if not stage.epochs and stage.weights == FRESH:
            raise OptionError(
                f"{where}: {key}.epochs is 0, but its weights are fresh; set weights or epochs"
            )
        if stage.data == "images" or recipe.pipeline == "pipe-s":
            _check_of_images(stage, f"{where}: {key}")
    return recipe


def _check_tables(tables: Table, where: str) -> None:
    for key, value in tables.items():
        if not isinstance(value, dict):
            raise OptionError(f"{where}: {key} is {value!r}, but must be a table of settings")


def default_recipe(method: str, *, on_images: bool, with_images: bool) -> str:
    """Return the name of the recipe for a training method, if the user names none.

    Args:
        method: pipe-s, pipe-d or scratch.
        on_images: the store of the last stage holds still images, not events.
        with_images: the user gives a store of still images to pretrain on.
    """
    if method == "pipe-s" or (method == SCRATCH and on_images):
        return "pipe-s"
    return "pipe-d-images" if with_images else "pipe-d-events"


def load_method(method: str, name: str, changes: Iterable[str] = ()) -> Recipe:
    """Return a recipe for a training method: pipe-s, pipe-d, or scratch for its baseline.

    Raises:
        OptionError: see `load`; or the recipe is for another pipeline.
    """
    recipe = load(name, scratch=method == SCRATCH, changes=changes)
    if method not in (SCRATCH, recipe.pipeline):
        raise OptionError(f"the recipe {recipe.name} is for {recipe.pipeline}, not {method}")
    return recipe


def set_key(table: Table, change: str) -> None:
    """Apply a change ``stage.key=value`` to the table of a recipe, in place.

    The first word is a stage, `all` for every stage, or network, run or machine; further words lead
    into tables (``lif.augment.flip=0``). The value is TOML; anything else is text.
    """
    path, equals, text = change.partition("=")
    words = path.strip().split(".")
    if not equals or len(words) < 2 or not all(words):
        raise OptionError(f"--set {change!r}: write stage.key=value")
    if len(words) > MAX_DEPTH:
        raise OptionError(f"--set {change!r}: is nested too deeply; write stage.key=value")
    first, *inner, last = words
    stages = table["stages"]
    tops = {**{key: [stages[key]] for key in stages}, "all": list(stages.values())}
    tops |= {key: [table.setdefault(key, {})] for key in ("network", "run", "machine")}
    if first not in tops:
        raise unknown_key(f"--set {change!r}: the recipe", first, tops)
    for target in tops[first]:
        for word in inner:
            target = target.setdefault(word, {})
            if not isinstance(target, dict):
                raise OptionError(f"--set {change!r}: {word} is a value, not a table")
        target[last] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text


def _read(name: str) -> Table:
    path = Path(name)
    if path.suffix != ".toml":
        path = RECIPES / f"{name}.toml"
        if name not in recipe_names():
            raise OptionError(
                f"no recipe is named {name!r}: choose {', '.join(recipe_names())}, or pass the "
                "path of a .toml file"
            )
    try:
        with reading(path):
            return parse_toml(read_plain(path, MAX_BYTES).decode("utf-8"))
    except InputError:
        raise
    except ValueError as error:
        raise OptionError(f"recipe {path} is not TOML: {error}") from None


def _on_base(table: Table, where: str) -> Table:
    """Return a recipe's table merged over the table of its base, if it names one."""
    if "base" not in table:
        return table
    base = table["base"]
    if base not in recipe_names():
        raise OptionError(f"{where}: base is {base!r}: choose {', '.join(recipe_names())}")
    below = _read(base)
    if "base" in below:
        raise OptionError(f"{where}: base is {base!r}, which has a base itself; name one without")
    return merge(below, {key: value for key, value in table.items() if key != "base"})


def _with_sources(stages: dict[str, Stage], names: list[str], where: str) -> dict[str, Stage]:
    """Return stages with absolute paths of checkpoints, so that they mean the same anywhere.

    Args:
        stages: those that are needed.
        names: all stages of the recipe, in order.

    Raises:
        OptionError: a stage lacks an origin of its weights.
    """
    found: dict[str, Stage] = {}
    for name, stage in stages.items():
        source = stage.weights
        if source == CHECKPOINT:
            raise OptionError(
                f"{where}: {name} starts from a checkpoint; pass --set {name}.weights=FILE"
            )
        if source != FRESH and source not in found and not source.startswith(TIMM):
            if not _is_source(source):
                before = names[: names.index(name)] if name in names else []
                known = ", ".join([FRESH, *before])
                raise OptionError(
                    f"{where}: {name}.weights is {source!r}, neither {known} nor a file"
                )
            stage = replace(stage, weights=str(Path(source).resolve()))
        found[name] = stage
    return found


def _ahead(stages: dict[str, Table], name: str) -> list[str]:
    """Return the stages that a stage's weights come from, and before them a file or `fresh`."""
    found = [str(stages[name].get("weights", FRESH))]
    while (last := found[-1]) in stages and last not in found[:-1]:
        found.append(str(stages[last].get("weights", FRESH)))
    return found


def _follow_weights(stages: dict[str, Table], name: str, before: list[str]) -> None:
    """Let a file teach a stage, in place, if changes have put it in the place of its teacher.

    Args:
        stages, name: the stages, and one of them.
        before: the stages that its weights came from before the changes.
    """
    teacher, now = stages[name].get("teacher"), _ahead(stages, name)
    if teacher in before and teacher not in now and now[-1] != FRESH and _is_source(now[-1]):
        stages[name]["teacher"] = now[-1]


def _with_teachers(stages: dict[str, Stage], *, on_frames: bool) -> dict[str, Stage]:
    """Return stages with a stage without epochs for each file that teaches."""
    found: dict[str, Stage] = {}
    for name, stage in stages.items():
        if stage.teacher not in stages and _is_source(stage.teacher):
            frames = on_frames and stage.data == "data"
            teacher = Stage(
                data=stage.data,
                neuron=replace(stage.neuron, kind="ann"),
                weights=stage.teacher,
                recalibrate=RECALIBRATED if frames else 0,
                epochs=0,
                batch_size=stage.batch_size,
                accumulate=stage.accumulate,
                steps=stage.steps if frames else None,
                collapse=1 if frames else None,
                downscale=stage.downscale,
                align=stage.align,
                normalise=stage.normalise,
            )
            known = [key for key, one in found.items() if one == teacher]
            key = known[0] if known else f"{name}-teacher"
            found[key] = teacher
            stage = replace(stage, teacher=key)
        found[name] = stage
    return found


def _is_source(name: str) -> bool:
    """Return whether a name is that of a file or of a model of timm."""
    # os.path, because Path raises for a name that is too long.
    return name.startswith(TIMM) or os.path.isfile(name)  # noqa: PTH113


def _check_teachers(stages: dict[str, Stage], where: str, *, on_frames: bool) -> None:
    """Raise OptionError if the teacher of a stage is not an earlier one that sees its samples."""
    names = list(stages)
    for name, stage in stages.items():
        earlier = names[: names.index(name)]
        if stage.teacher and stage.teacher not in earlier:
            raise OptionError(
                f"{where}: {name}.teacher is {stage.teacher!r}, neither an earlier stage "
                f"({', '.join(earlier) or 'there is none'}) nor a file; correct it"
            )
        frames = on_frames and stage.data == "data"
        for key in ("data", "downscale", *(("steps", "align") if frames else ())):
            mine, theirs = getattr(stage, key), getattr(stages[stage.teacher or name], key)
            if mine != theirs:
                raise OptionError(
                    f"{where}: {name}.{key} is {mine}, but its teacher {stage.teacher} has "
                    f"{theirs}; make them equal, or remove the teacher"
                )


def _check_of_images(stage: Stage, where: str) -> None:
    """Raise OptionError if a stage on still images has settings that act only on frames."""
    for key, value in (
        ("collapse", stage.collapse),
        ("align", stage.align),
        ("augment.time_shift", stage.augment.time_shift),
        ("augment.event_drop", stage.augment.event_drop),
        ("augment.polarity_swap", stage.augment.polarity_swap),
    ):
        if value:
            raise OptionError(
                f"{where}.{key} is {value}, but the stage learns from still images, which have "
                "neither steps nor events; set it only for stages on event frames"
            )


def _needed(stages: dict[str, Table]) -> set[str]:
    """Return the names of the last stage and of all stages that it builds on."""
    needed = {next(reversed(stages))}
    for name in reversed(stages):
        if name in needed:
            needed |= {str(stages[name].get(key, FRESH)) for key in ("weights", "teacher")}
    return needed
