"""Tuned baselines: the space of settings for training from scratch, and its search.

A pipeline may only be compared with baselines that are tuned as well as it is. The search changes
one setting of the recipe's own baseline at a time (FACTORS, VALUES, VALUES_OF_FRAMES and few steps
first), then several of those that gained. It takes one seed and TRIAL of the baseline's epochs for
each, and compares them by the accuracy on a share HELD_OUT of the training samples. The best
settings are then trained for several lengths (LENGTHS) and with several seeds, next to the recipe's
baseline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from eventdata.settings import from_table, table_of
from train.recipe import SCRATCH, Recipe, load
from train.settings import Stage
from train.toml import merge

TRIAL = 0.5
"""Length of the trials."""

HELD_OUT = 0.2
"""Share of the training samples on which trials are compared."""

FACTORS: Mapping[str, tuple[float, ...]] = {
    "batch_size": (0.5, 2),
    "learning_rate": (0.5, 2),
    "weight_decay": (2,),
}
"""Settings that are multiplied."""

VALUES: Mapping[str, tuple[float | str, ...]] = {
    "schedule": ("cosine", "one-cycle"),
    "neuron.threshold": (0.5, 0.65, 0.8),
    "neuron.decay": (0.25, 0.5, 0.9),
    "label_smoothing": (0.0, 0.1),
    "ema": (0.0, 0.998),
}
"""Values that settings are set to."""

VALUES_OF_FRAMES: Mapping[str, tuple[float | str, ...]] = {"augment.polarity_swap": (0.0, 0.5)}
"""More of them for event frames."""

FEW = "few steps first"
"""All but the last quarter of the epochs have few steps T."""

LENGTHS = (0.5, 1.0, 2.0)
"""Lengths of training, as multiples of the recipe's epochs."""

Changes = tuple[tuple[str, Any], ...]
"""Settings with their values. The value of FEW is the number of steps."""


@dataclass(frozen=True)
class Baseline:
    """The baseline of a recipe with changes."""

    base: str
    """Name of the recipe."""
    always: tuple[str, ...] = ()
    """Settings of every run, such as ``all.batch_size=16``."""
    changes: Changes = ()
    length: float = 1.0

    @property
    def label(self) -> str:
        """Its name in the report."""
        words = [f"{key.rpartition('.')[2]} {value}" for key, value in self.changes]
        return ", ".join(["scratch", *words, *([f"{self.length:g}x"] * (self.length != 1))])

    def recipe(self) -> Recipe:
        """Return the recipe that trains it."""
        own = load(self.base, scratch=True, changes=self.always)
        settings = dict(self.changes)
        steps = settings.pop(FEW, None)
        table = table_of(own.stages[SCRATCH])
        for key, value in settings.items():
            outer, _, inner = key.rpartition(".")
            table = merge(table, {outer: {inner: value}} if outer else {key: value})
        if "schedule" in settings:
            table["warmup"] = 0.25 if settings["schedule"] == "one-cycle" else 0.0
        stage = from_table(Stage, table, SCRATCH)
        epochs = max(2, round(stage.epochs * self.length))
        stages = {SCRATCH: replace(stage, epochs=epochs)}
        if steps:
            last = max(1, epochs // 4)
            fewer = {"steps": steps} if own.pipeline == "pipe-s" else {"collapse": steps}
            stages = {
                "few": replace(stage, epochs=epochs - last, keep="last", **fewer),
                SCRATCH: replace(
                    stage,
                    weights="few",
                    recalibrate=10,
                    epochs=last,
                    schedule="cosine",
                    warmup=0.0,
                    learning_rate=stage.learning_rate * 0.3,
                ),
            }
        return replace(own, stages=stages)


def one_by_one(unchanged: Baseline, few: int) -> list[Baseline]:
    """Return a baseline and those with one changed setting.

    Args:
        unchanged: the baseline of a recipe.
        few: the number of few steps; for frames it divides the number of all steps.
    """
    recipe = unchanged.recipe()
    stage = recipe.stages[SCRATCH]
    changes: list[tuple[str, Any]] = []
    for key, factors in FACTORS.items():
        own = attrgetter(key)(stage)
        changes += [(key, type(own)(own * factor)) for factor in factors]
    more = VALUES_OF_FRAMES if recipe.pipeline == "pipe-d" else {}
    for key, values in {**VALUES, **more}.items():
        changes += [(key, value) for value in values if value != attrgetter(key)(stage)]
    every: list[Changes] = [(), *((change,) for change in [*changes, (FEW, few)])]
    return [replace(unchanged, changes=each) for each in every]


def combined(tried: Sequence[tuple[Baseline, float]]) -> list[Baseline]:
    """Return combinations of changes that gained: of all of them, and of the two best.

    Args:
        tried: the baselines of `one_by_one`, the unchanged one first, and their accuracies.
    """
    unchanged, least = tried[0]
    gains: dict[str, tuple[float, Any]] = {}
    for baseline, accuracy in tried[1:]:
        ((key, value),) = baseline.changes
        if accuracy > gains.get(key, (least, None))[0]:
            gains[key] = (accuracy, value)
    ranked = sorted(gains, key=lambda key: -gains[key][0])
    several = dict.fromkeys(tuple(ranked[:count]) for count in (2, len(ranked)) if len(ranked) > 1)
    return [
        replace(unchanged, changes=tuple((key, gains[key][1]) for key in keys)) for keys in several
    ]
