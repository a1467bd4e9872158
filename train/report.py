"""The time-accuracy benchmark: runs compared by accuracy over training time, with pretraining.

Accuracy is that of the last stage on the samples that select models. Its clock starts at the
training time of all stages before it. A run's target is the best accuracy of its baseline: the run
from scratch with the same seed, the best one if there are several, or without one the mean over the
seeds of all runs from scratch.
"""

import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from eventdata.errors import EventDataError, InputError, OptionError, printable
from eventdata.raw.listing import safe_relative
from train.recipe import SCRATCH
from train.runs.folder import (
    RunFolder,
    number_in,
    read_json,
    read_rows,
    write,
    write_json,
    writing_run,
)

COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours for colour-blind readers (Okabe and Ito 2008); black is training from scratch."""
MARKERS = "osD^vPX"

Point = tuple[float, float]


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
    seconds_before: float
    """Training time before the last stage."""
    seconds: float
    """Training time of all stages."""
    curve: tuple[Point, ...]
    """Seconds and accuracy before the last stage and after each of its epochs."""
    test: float | None
    """Accuracy on the test set."""
    synaptic: float | None
    """Operations per sample (`train.operations`)."""

    @property
    def best(self) -> float:
        """The best accuracy of the curve."""
        return max(accuracy for _, accuracy in self.curve)

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
        last = result["stages"][-1]
        before = number_in(result, "train_seconds") - number_in(last, "train_seconds")
        if before < 0:
            raise ValueError("its last stage took longer than all stages together")
        if not safe_relative(last["name"]):
            raise ValueError("the name of its last stage is not valid")
        rows = read_rows(folder.stage(last["name"]).epochs)
        operations = folder.stage(last["name"]).root / "operations.json"
        run = RunResult(
            folder=str(path),
            label=result["label"],
            scratch=last["name"] == SCRATCH,
            seed=result["seed"],
            store=result["store"],
            protocol=result["protocol"],
            held_out=tuple(result.get("held_out") or ()),
            machine=dict(result["machine"]),
            seconds_before=before,
            seconds=number_in(result, "train_seconds"),
            curve=tuple(
                (before + number_in(row, "train_seconds"), number_in(row, "top1", most=1))
                for row in rows
            ),
            test=number_in(result["test"], "top1", most=1) if result["test"] else None,
            synaptic=number_in(read_json(operations), "synaptic") if operations.exists() else None,
        )
        texts = all(isinstance(text, str) for text in (run.label, run.store, run.protocol))
        if not (texts and isinstance(run.seed, int) and run.curve):
            raise ValueError("it has no label, no seed or no rows in epochs.csv")
    except EventDataError:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{folder.result}: is damaged ({reason})") from None
    return replace(run, label=printable(run.label))


def targets(runs: Sequence[RunResult]) -> list[float | None]:
    """Return the target accuracy of each run; None if no run is from scratch."""
    best: dict[int, float] = {}
    for run in runs:
        if run.scratch:
            best[run.seed] = max(run.best, best.get(run.seed, 0.0))
    return [best.get(run.seed, mean(best.values())) if best else None for run in runs]


def distinguish(runs: Sequence[RunResult]) -> list[RunResult]:
    """Return the runs, with the folder in the label of those that share label and seed."""
    counts = Counter((run.label, run.seed) for run in runs)
    return [
        replace(run, label=f"{run.label} ({printable(run.folder)})")
        if counts[run.label, run.seed] > 1
        else run
        for run in runs
    ]


def summarise(runs: Sequence[RunResult]) -> list[dict[str, Any]]:
    """Return a row per label, in the order of the runs: mean and sample deviation over seeds."""
    times = [
        None if target is None else run.seconds_to(target)
        for run, target in zip(runs, targets(runs), strict=True)
    ]
    baseline = {run.seed: t for run, t in zip(runs, times, strict=True) if run.scratch and t}
    rows = []
    for label in dict.fromkeys(run.label for run in runs):
        own = [run for run in runs if run.label == label]
        reached = [
            t for run, t in zip(runs, times, strict=True) if run.label == label and t is not None
        ]
        speed_up = None
        if baseline and len(reached) == len(own) and mean(reached):
            slow = mean(baseline.get(run.seed, mean(baseline.values())) for run in own)
            speed_up = slow / mean(reached)
        rows.append(
            {
                "way": label,  # the key in report.json
                "seeds": len(own),
                "test": _statistics(run.test for run in own),
                "best": _statistics(run.best for run in own),
                "seconds": _statistics(run.seconds for run in own),
                "seconds_before": _statistics(run.seconds_before for run in own),
                "reached": len(reached),
                "seconds_to_target": _statistics(reached),
                "speed_up": speed_up,
                "synaptic": _statistics(run.synaptic for run in own),
            }
        )
    return rows


def _statistics(values: Iterable[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"mean": mean(known), "spread": stdev(known) if len(known) > 1 else 0.0}


HEAD = (
    "method | seeds | test accuracy (%) | best held-out accuracy (%) | training time (s) | before "
    "the last stage (s) | time to the baseline's best (s) | speed-up | operations per sample (M)"
)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows of `summarise` as a Markdown table."""

    def cell(value: Mapping[str, float] | None, show: Callable[[float], str], many: bool) -> str:
        spread = f" ± {show(value['spread'])}" if value and many else ""
        return show(value["mean"]) + spread if value else "-"

    def percent(value: float) -> str:
        return f"{100 * value:.1f}"

    def whole(value: float) -> str:
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"

    lines = [HEAD, " | ".join(["---", *["---:"] * HEAD.count("|")])]
    for row in rows:
        many = row["seeds"] > 1
        time = cell(row["seconds_to_target"], whole, row["reached"] > 1)
        if row["reached"] < row["seeds"]:
            time = f"{time} ({row['reached']} of {row['seeds']} reach it)"
        cells = (
            row["way"].replace("|", "\\|"),
            str(row["seeds"]),
            cell(row["test"], percent, many),
            cell(row["best"], percent, many),
            cell(row["seconds"], whole, many),
            cell(row["seconds_before"], whole, False),
            time,
            "-" if row["speed_up"] is None else f"{row['speed_up']:.2f}",
            cell(row["synaptic"], lambda value: f"{value / 1e6:.3g}", False),
        )
        lines.append(" | ".join(cells))
    return "".join(f"| {line} |\n" for line in lines)


def note(runs: Sequence[RunResult]) -> str:
    """Return the note below the table: a warning if the machines differ, else nothing."""
    if all(run.machine == runs[0].machine for run in runs):
        return ""
    return "\nThe runs used different machines, so their times can't be compared.\n"


def plot(runs: Sequence[RunResult], out: Path) -> None:
    """Write report.png and report.svg: accuracy over training time, a line per run."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    runs = sorted(runs, key=lambda run: not run.scratch)
    labels = list(dict.fromkeys(run.label for run in runs))
    drawn: set[str] = set()
    for run in runs:
        number = labels.index(run.label) + (not runs[0].scratch)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        seconds, accuracy = zip(*run.curve, strict=True)
        percent = [100 * value for value in accumulate(accuracy, max)]
        # A dollar would start a formula. Of several seeds one is in the legend.
        label = None if run.label in drawn else run.label.replace("$", r"\$")
        drawn.add(run.label)
        axes.step(seconds, percent, where="post", color=colour, alpha=0.35)
        axes.plot(seconds, percent, marker, color=colour, markersize=4, label=label)
    goals = [target for target in targets(runs) if target is not None]
    if goals:
        axes.axhline(100 * mean(goals), color="#777777", linestyle=":", label="best from scratch")
    axes.set_xlabel("training time with pretraining (s)")
    axes.set_ylabel("best held-out accuracy so far (%)")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, loc="lower right")
    vectors, pixels = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "report"}):
        figure.savefig(vectors, format="svg", metadata={"Date": None})
    figure.savefig(pixels, format="png", dpi=150)
    write(out / "report.svg", vectors.getvalue())
    write(out / "report.png", pixels.getvalue())


def report(folders: Sequence[str | Path], out: str | Path) -> list[dict[str, Any]]:
    """Compare finished runs in report.md, report.json, report.png and report.svg.

    Args:
        folders: the runs' folders; a folder that is given twice, under any path, counts once.
        out: the folder to write to, created if missing.

    Returns:
        The rows of the table (`summarise`).

    Raises:
        OptionError: there are no runs.
        InputError: a run has not finished; runs differ in store, protocol or held-out samples; or
            the folder can't be written.
    """
    if not folders:
        raise OptionError("there are no runs to report on; pass the folder of at least one run")
    once: dict[str, str | Path] = {}
    for folder in folders:
        once.setdefault(os.path.realpath(folder), folder)
    runs = distinguish([read_run(folder) for folder in once.values()])
    first = runs[0]
    for run in runs:
        held_out_known = bool(run.held_out and first.held_out)
        for what, same in (
            ("on another store", run.store == first.store),
            ("by another protocol", run.protocol == first.protocol),
            ("with other samples held out", not held_out_known or run.held_out == first.held_out),
        ):
            if not same:
                raise InputError(
                    f"{run.folder} was trained {what} than {first.folder}, so their times and "
                    "accuracies can't be compared; report on them separately"
                )
    rows = summarise(runs)
    out = Path(out)
    with writing_run(out):
        write(out / "report.md", table(rows) + note(runs))
        details = [{"way": run.label, **vars(run), "best": run.best} for run in runs]
        write_json(out / "report.json", {"ways": rows, "runs": details})
        plot(runs, out)
    return rows
