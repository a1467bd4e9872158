"""Finished runs, read from their folders for a report."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eventdata.errors import EventDataError, InputError, printable
from eventdata.raw.listing import safe_relative
from train.recipe import SCRATCH
from train.runs.cost import KEYS, MOST, Cost, cost_of
from train.runs.folder import RunFolder, StageFolder, number_in, read_json, read_rows, weight_facts

LEVEL = 0.01
"""Largest probability with which guessing the most frequent class may look like learning."""

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Accuracy on the test set, and what guessing would reach there."""

    top1: float
    samples: int | None = None
    confusion: Sequence[Sequence[int]] = ()
    """(K, K), a row for each true class; empty if the run did not record it."""

    @property
    def chance(self) -> float | None:
        """The share of the most frequent class, which is what guessing it reaches; or None."""
        if not self.samples or not self.confusion:
            return None
        return max(map(sum, self.confusion)) / self.samples

    @property
    def needed(self) -> int | None:
        """The least number of hits that guessing reaches with a probability below LEVEL."""
        chance = self.chance
        return None if chance is None or not self.samples else least_hits(self.samples, chance)

    @property
    def learned(self) -> bool | None:
        """Whether the accuracy is significantly above chance; None if this is not known."""
        if self.needed is None or not self.samples:
            return None
        return round(self.top1 * self.samples) >= self.needed


def least_hits(samples: int, chance: float) -> int:
    """Return the least k for which P(hits >= k) < LEVEL, where hits are binomial.

    Args:
        samples: number of samples.
        chance: probability of a hit.

    Returns:
        `samples` + 1 if even as many hits as samples are not that rare.
    """
    if chance >= 1:
        return samples + 1
    tail = 0.0
    for hits in range(samples, -1, -1):
        ways = math.lgamma(samples + 1) - math.lgamma(hits + 1) - math.lgamma(samples - hits + 1)
        tail += math.exp(ways + hits * math.log(chance) + (samples - hits) * math.log1p(-chance))
        if tail >= LEVEL:
            return hits + 1
    return 0


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One finished run."""

    folder: str
    label: str
    """Name of the training method; runs that differ only in the seed share it."""
    scratch: bool
    seed: int
    store: str
    """Digest of the store of the last stage."""
    protocol: str
    """Protocol by which models were selected."""
    held_out: tuple[float, ...]
    """Share held out and seed of its draw; empty for runs that did not record them."""
    machine: Mapping[str, Any]
    stages: Mapping[str, Cost]
    """Cost of each stage; a first entry `earlier` is that of training outside this run."""
    before: Cost
    """Cost of all training before the last stage."""
    cost: Cost
    """Cost of the whole training."""
    curve: tuple[Point, ...]
    """Seconds and accuracy before the last stage and after each of its epochs."""
    costs: tuple[Cost, ...]
    """The cost until each point of the curve."""
    held_out_accuracy: float
    """Accuracy of the tested weights on the samples that select models."""
    test: Score | None
    synaptic: float | None
    """Operations per sample (`train.operations`)."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Share of nonzero outputs of each layer of neurons."""
    classes: Sequence[str] = ()
    """Class names by number; empty if the run did not record them."""
    notes: Sequence[str] = ()
    more_samples: bool = False
    """Whether it has, or may have, learned from other samples than those of its store."""
    uncounted: Sequence[str] = ()
    """Files with initial weights whose training is not in the cost."""

    @property
    def useless(self) -> bool:
        """Whether it is known to have learned nothing."""
        return self.test is not None and self.test.learned is False

    @property
    def best(self) -> float:
        """The best accuracy of the curve."""
        return max(accuracy for _, accuracy in self.curve)

    def cost_to(self, target: float) -> Cost | None:
        """Return the cost at which the accuracy first reaches a target, or None."""
        points = zip(self.curve, self.costs, strict=True)
        return next((cost for (_, accuracy), cost in points if accuracy >= target), None)

    def seconds_to(self, target: float) -> float | None:
        """Return the time at which the accuracy first reaches a target, or None."""
        return next((seconds for seconds, accuracy in self.curve if accuracy >= target), None)


def read_run(path: str | Path) -> RunResult:
    """Read a run's folder.

    Raises:
        InputError: the folder is not that of a run, or the run is unfinished or damaged.
    """
    folder = RunFolder(Path(path))
    # By os.path, because Path raises for a name that is too long.
    finished, begun = (os.path.exists(file) for file in (folder.result, folder.config))  # noqa: PTH110
    if not finished:
        what = "has not finished; run the same `eventdata train` again"
        raise InputError(f"{path}: {what if begun else 'is not the folder of a run'}")
    result = read_json(folder.result)
    try:
        run = _read(str(path), folder, result)
        texts = all(isinstance(text, str) for text in (run.label, run.store, run.protocol))
        if not (texts and isinstance(run.seed, int) and run.curve):
            raise ValueError("it has no label, no seed or no rows in epochs.csv")
    except EventDataError:
        raise
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{folder.result}: is damaged ({reason})") from None
    return replace(run, label=printable(run.label))


def _read(path: str, folder: RunFolder, result: Mapping[str, Any]) -> RunResult:
    last = result["stages"][-1]
    if not safe_relative(last["name"]):
        raise ValueError("the name of its last stage is not valid")
    total = Cost.read({**(result.get("cost") or {}), "seconds": number_in(result, "train_seconds")})
    before = _minus(total, cost_of({**last, "train_seconds": number_in(last, "train_seconds")}))
    stages = {printable(str(stage["name"])): cost_of(stage) for stage in result["stages"]}
    earlier = number_in({"seconds_before": 0} | dict(result), "seconds_before")
    if earlier:
        stages = {"earlier": replace(Cost.read(last.get("before")), seconds=earlier), **stages}
    own = folder.stage(last["name"])
    rows = read_rows(own.epochs)
    work = {"calibration_multiply_adds": 0, **last}  # older versions did not record it
    of_last = cost_of(last)
    most = of_last.multiply_adds or 0
    calibration = number_in(work, "calibration_multiply_adds", most=most)
    costs = [_until(row, rows[-1], of_last, calibration) for row in rows]
    operations = own.root / "operations.json"
    measured = read_json(operations) if operations.exists() else {}
    test = result["test"]
    return RunResult(
        folder=path,
        label=result["label"],
        scratch=last["name"] == SCRATCH,
        seed=result["seed"],
        store=result["store"],
        protocol=result["protocol"],
        held_out=tuple(result.get("held_out") or ()),
        machine=dict(result["machine"]),
        stages=stages,
        before=before,
        cost=total,
        curve=tuple(
            (
                (before.seconds or 0) + number_in(row, "train_seconds"),
                number_in(row, "top1", most=1),
            )
            for row in rows
        ),
        costs=tuple(before + cost for cost in costs),
        held_out_accuracy=_kept(own, rows),
        test=_test(test) if test else None,
        synaptic=number_in(measured, "synaptic") if measured else None,
        rates={
            printable(str(name)): number_in(measured["rates"], name, most=1)
            for name in measured.get("rates") or {}
        },
        classes=_classes(own),
        notes=[printable(str(note)) for note in result.get("notes") or ()],
        more_samples=result.get("more_samples") is True,
        uncounted=[printable(str(name)) for name in result.get("uncounted") or ()],
    )


def _kept(stage: StageFolder, rows: Sequence[Mapping[str, float]]) -> float:
    """Return the accuracy on the held-out samples after the epoch whose weights were tested."""
    settings = weight_facts(stage.weights("last")).get("settings") or {}
    trained = rows[1:] or rows  # the weights before the first epoch are kept if there is no other
    if settings.get("keep") == "last":
        trained = trained[-1:]
    return max(number_in(row, "top1", most=1) for row in trained)


def _minus(total: Cost, last: Cost) -> Cost:
    """Return the cost before the last stage; raise ValueError if it is below 0."""
    left: dict[str, float | None] = {}
    for key in KEYS:
        whole, part = getattr(total, key), getattr(last, key)
        left[key] = None if whole is None or part is None else max(whole - part, 0.0)
        if whole is not None and part is not None and part > whole * (1 + 1e-9):
            raise ValueError("its last stage took longer than all stages together")
    return Cost(**left)


def _until(
    row: Mapping[str, float], last: Mapping[str, float], stage: Cost, calibration: float
) -> Cost:
    """Return the cost of the last stage until a row of epochs.csv.

    Its work is even over steps, after the calibration, which comes before the first one. A stage
    without steps has no other work.
    """
    share = None
    if "step" in row and "step" in last:
        steps = last["step"]
        share = number_in(row, "step", most=steps) / steps if steps else 1.0

    def part(work: float | None, first: float = 0.0) -> float | None:
        return None if share is None or work is None else first + share * (work - first)

    return Cost(
        seconds=number_in(row, "train_seconds"),
        cpu_seconds=number_in(row, "cpu_seconds", most=MOST) if "cpu_seconds" in row else None,
        multiply_adds=part(stage.multiply_adds, calibration),
        additions=part(stage.additions),
    )


def _test(test: Mapping[str, Any]) -> Score:
    samples = int(number_in(test, "samples", least=1)) if "samples" in test else None
    rows = test.get("confusion") or ()
    confusion = [[int(number_in({"count": n}, "count")) for n in row] for row in rows]
    if any(len(row) != len(confusion) for row in confusion):
        raise ValueError("its confusion matrix is not square")
    if confusion and sum(map(sum, confusion)) != samples:
        raise ValueError("its confusion matrix has not as many samples as the test")
    return Score(top1=number_in(test, "top1", most=1), samples=samples, confusion=confusion)


def _classes(stage: StageFolder) -> list[str]:
    names = weight_facts(stage.weights("last")).get("classes")
    return [printable(str(name)) for name in names] if isinstance(names, list) else []
