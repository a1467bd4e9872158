"""The time-accuracy benchmark: runs beside each other, pretraining counted.

Accuracy is that of the last stage on the samples that select models; its clock starts where the
training of all stages before it ends. A run's target is the best accuracy of the run from scratch
with its seed (of several the highest; where none has it, of all on average).
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
from eventdata.raw.source import safe_relative
from train.recipe import SCRATCH
from train.runs.folder import (
    RunFolder,
    number_in,
    read_json,
    read_rows,
    telling_write_errors,
    write,
    write_json,
)

COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito 2008: told apart by colour-blind readers; black is training from scratch."""
MARKERS = "osD^vPX"

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One finished run."""

    folder: str
    way: str
    """What it is called: runs that differ in the seed alone share it."""
    scratch: bool
    seed: int
    store: str
    """Digest of the store that it was trained on in the end."""
    protocol: str
    """By which its models were selected."""
    held_out: tuple[float, ...]
    """The share held out, and the seed of its draw; nothing of runs that did not say."""
    machine: Mapping[str, Any]
    """What it was trained on."""
    seconds_before: float
    """Of training before the last stage."""
    seconds: float
    """Of training in all."""
    curve: tuple[Point, ...]
    """Seconds and accuracy after each epoch of the last stage, the start too."""
    test: float | None
    """Accuracy on the test set."""
    synaptic: float | None
    """Operations a sample (train.operations)."""

    @property
    def best(self) -> float:
        """Best accuracy of the curve."""
        return max(accuracy for _, accuracy in self.curve)

    def seconds_to(self, target: float) -> float | None:
        """When the accuracy is first at the target; None where it never is."""
        return next((seconds for seconds, accuracy in self.curve if accuracy >= target), None)


def read_run(path: str | Path) -> RunResult:
    """Read a run's folder; InputError where it is none or has not finished."""
    folder = RunFolder(Path(path))
    # By os.path, because Path raises for a name that is too long.
    finished, begun = (os.path.exists(file) for file in (folder.result, folder.config))  # noqa: PTH110
    if not finished:
        what = "has not finished: call the same `eventdata train` again"
        raise InputError(f"{path}: {what if begun else 'is not the folder of a run'}")
    result = read_json(folder.result)
    try:
        last = result["stages"][-1]
        before = number_in(result, "train_seconds") - number_in(last, "train_seconds")
        if before < 0:
            raise ValueError("its last stage took longer than all")
        if not safe_relative(last["name"]):
            raise ValueError("no stage of a sound name")
        rows = read_rows(folder.stage(last["name"]).epochs)
        operations = folder.stage(last["name"]).root / "operations.json"
        run = RunResult(
            folder=str(path),
            way=result["label"],
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
        texts = all(isinstance(text, str) for text in (run.way, run.store, run.protocol))
        if not (texts and isinstance(run.seed, int) and run.curve):
            raise ValueError("no label, no seed or no rows in epochs.csv")
    except EventDataError:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{folder.result}: is damaged ({reason})") from None
    return replace(run, way=printable(run.way))


def targets(runs: Sequence[RunResult]) -> list[float | None]:
    """By run, the accuracy it is measured by; None where no run is from scratch."""
    own: dict[int, float] = {}
    for run in runs:
        if run.scratch:
            own[run.seed] = max(run.best, own.get(run.seed, 0.0))
    return [own.get(run.seed, mean(own.values())) if own else None for run in runs]


def told_apart(runs: Sequence[RunResult]) -> list[RunResult]:
    """The runs, those that no label and no seed tells apart as ways of their own, by folder."""
    counts = Counter((run.way, run.seed) for run in runs)
    return [
        replace(run, way=f"{run.way} ({printable(run.folder)})")
        if counts[run.way, run.seed] > 1
        else run
        for run in runs
    ]


def summarise(runs: Sequence[RunResult]) -> list[dict[str, Any]]:
    """A row a way, in the order of the runs: means over its seeds, spread (sample deviation)."""
    times = [
        run.seconds_to(target) if target is not None else None
        for run, target in zip(runs, targets(runs), strict=True)
    ]
    scratch = {
        run.seed: time for run, time in zip(runs, times, strict=True) if run.scratch and time
    }
    rows = []
    for way in dict.fromkeys(run.way for run in runs):
        members = [(run, time) for run, time in zip(runs, times, strict=True) if run.way == way]
        reached = [time for _, time in members if time is not None]
        quick = mean(reached) if len(reached) == len(members) else None
        own = [run for run, _ in members]
        rivals = [scratch.get(run.seed, mean(scratch.values())) for run in own] if scratch else []
        rows.append(
            {
                "way": way,
                "seeds": len(own),
                "test": _statistics(run.test for run in own),
                "best": _statistics(run.best for run in own),
                "seconds": _statistics(run.seconds for run in own),
                "seconds_before": _statistics(run.seconds_before for run in own),
                "reached": len(reached),
                "seconds_to_target": _statistics(reached),
                "speed_up": mean(rivals) / quick if rivals and quick else None,
                "synaptic": _statistics(run.synaptic for run in own),
            }
        )
    return rows


def _statistics(values: Iterable[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"mean": mean(known), "spread": stdev(known) if len(known) > 1 else 0.0}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a Markdown table."""

    def cell(value: Mapping[str, float] | None, show: Callable[[float], str], many: bool) -> str:
        if value is None:
            return "-"
        spread = f" ± {show(value['spread'])}" if many else ""
        return f"{show(value['mean'])}{spread}"

    def percent(value: float) -> str:
        return f"{100 * value:.1f}"

    def whole(value: float) -> str:
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"

    lines = [
        "| way | seeds | test top-1 % | best held-out top-1 % | training s | of it before the last "
        "stage s | s to scratch's best | speed-up | synaptic operations a sample, M |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        many = row["seeds"] > 1
        time = cell(row["seconds_to_target"], whole, row["reached"] > 1)
        if row["reached"] < row["seeds"]:
            time = f"{time} ({row['reached']} of {row['seeds']} reach it)"
        cells = [
            row["way"].replace("|", "\\|"),
            str(row["seeds"]),
            cell(row["test"], percent, many),
            cell(row["best"], percent, many),
            cell(row["seconds"], whole, many),
            cell(row["seconds_before"], whole, False),
            time,
            "-" if row["speed_up"] is None else f"{row['speed_up']:.2f}",
            cell(row["synaptic"], lambda value: f"{value / 1e6:.3g}", False),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def note(runs: Sequence[RunResult]) -> str:
    """What has to be said of the table of these runs; mostly nothing."""
    if all(run.machine == runs[0].machine for run in runs):
        return ""
    return "\nThe runs are of different machines: their seconds can't be compared.\n"


def plot(runs: Sequence[RunResult], out: Path) -> None:
    """Accuracy against seconds, a line a run, as report.png and report.svg."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    runs = sorted(runs, key=lambda run: not run.scratch)
    ways = dict.fromkeys(run.way for run in runs)
    for number, way in enumerate(ways, start=0 if runs[0].scratch else 1):
        members = [run for run in runs if run.way == way]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        for index, run in enumerate(members):
            seconds, accuracy = zip(*run.curve, strict=True)
            best = list(accumulate(accuracy, max))
            percent = [100 * value for value in best]
            label = way.replace("$", r"\$") if index == 0 else None  # else it begins a formula
            axes.step(seconds, percent, where="post", color=colour, alpha=0.35)
            axes.plot(seconds, percent, marker, color=colour, markersize=4, label=label)
    aims = [target for target in targets(runs) if target is not None]
    if aims:
        axes.axhline(100 * mean(aims), color="#777777", linestyle=":", linewidth=1)
        axes.annotate(
            "best from scratch",
            (1, 100 * mean(aims)),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            color="#777777",
            fontsize=8,
        )
    axes.set_xlabel("training time, pretraining counted (s)")
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
    """Report on finished runs into a folder: report.md, .json, .png, .svg; the table's rows.

    Args:
        folders: the runs' own; one that is named twice, in whatever way, counts once.
        out: made if need be.

    Raises:
        OptionError: no runs.
        InputError: a run that has not finished, or runs on different stores or by different
            protocols; or the folder can't be written.
    """
    if not folders:
        raise OptionError("there is nothing to report on: give the folder of at least one run")
    once: dict[str, str | Path] = {}
    for folder in folders:
        once.setdefault(os.path.realpath(folder), folder)
    runs = told_apart([read_run(folder) for folder in once.values()])
    for run in runs:
        for what, same in (
            ("on another store", run.store == runs[0].store),
            ("by another protocol", run.protocol == runs[0].protocol),
            (
                "with other samples held out",
                not (run.held_out and runs[0].held_out) or run.held_out == runs[0].held_out,
            ),
        ):
            if not same:
                raise InputError(
                    f"{run.folder} was trained {what} than {runs[0].folder}; their times and "
                    "accuracies can't be compared: report on them apart"
                )
    rows = summarise(runs)
    out = Path(out)
    with telling_write_errors(out):
        write(out / "report.md", table(rows) + note(runs))
        details = [{**vars(run), "best": run.best} for run in runs]
        write_json(out / "report.json", {"ways": rows, "runs": details})
        plot(runs, out)
    return rows
