"""Measure ways of doing the same work beside each other: runs in turn, medians, ratios, floors."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ResultFile(click.Path):
    """A path of a JSON file, told before hours of measuring where it can't be written."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.suffix != ".json":
            self.fail(f"{path}: give it the ending .json; others may lie beside it", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"{path}: there is no such folder", param, ctx)
        return path


output_option = click.option("--output", type=ResultFile(), help="Write JSON here.")


def runs_option(runs: int) -> Callable[[Any], Any]:
    """How often each way is timed."""
    return click.option("--runs", type=click.IntRange(1), default=runs, show_default=True)


@dataclass(frozen=True)
class Timing:
    """Milliseconds a sample (or whatever a way counts) of several runs."""

    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the runs."""
        return statistics.median(self.runs)

    @property
    def spread(self) -> float:
        """Half the distance between the slowest and the fastest run, over the median."""
        return (max(self.runs) - min(self.runs)) / 2 / self.median


Way = Callable[[], float]


def by_clock(way: Way) -> tuple[float, float]:
    """Seconds that a way took, and what it returned."""
    start = time.perf_counter()
    samples = way()
    return time.perf_counter() - start, samples


def measure(
    ways: Mapping[str, Way],
    runs: int,
    tidy: Callable[[], None] | None = None,
    timed: Callable[[Way], tuple[float, float]] = by_clock,
) -> dict[str, Timing]:
    """Time each way ``runs`` times after one run to warm up; a way returns its number of samples.

    The ways take turns, so that a busy spell of the machine hits all of them. tidy: called after
    each way, off the clock. timed: calls a way and says how long it took.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(runs + 1):
        for name, way in ways.items():
            seconds, samples = timed(way)
            if run:
                times[name].append(1000 * seconds / samples)
            if tidy is not None:
                tidy()
    return {name: Timing(tuple(values)) for name, values in times.items()}


def copy_bandwidth(threads: int = 1) -> float:
    """Bytes a second of copying 256 MB in memory, read and written bytes both counted."""
    source = np.ones((threads, (1 << 28) // threads), np.uint8)
    target = np.empty_like(source)
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(4):
            start = time.perf_counter()
            list(pool.map(np.copyto, target, source))
            seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(seconds)


def resident(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at its peak, VmSize of addresses (Linux).

    The peak that `resource` tells begins with that of the process it was forked from.
    """
    match = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    if match is None:
        raise OSError(f"/proc/self/status has no {field}")
    return int(match[1]) * 1024


def machine(packages: Sequence[str] = ()) -> dict[str, str]:
    """What the figures were measured on, and with which versions of these packages."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def report(
    title: str,
    timings: Mapping[str, Timing],
    ours: str,
    facts: Mapping[str, object],
    output: Path | None,
    *,
    floors: Mapping[str, float] | None = None,
    unit: str = "ms/sample",
    missing: Sequence[str] = (),
    packages: Sequence[str] = (),
) -> None:
    """Print a table of times, of how many times as fast ``ours`` is, and of floors.

    floors: by way, the time that its work takes at the least. missing: ways that could not be
    measured here, and why. packages: whose versions matter. With ``output``, a path of a JSON file,
    that is written (times under the unit's name: "ms/sample" is ms_per_sample), and beside it the
    table as Markdown and, with matplotlib, a plot as SVG.
    """
    summary = summarise(timings, ours, floors or {})
    here = machine(packages)
    head = ("way", unit, "spread", "over ours", *(("floor", "over floor") if floors else ()))
    rows = [(name, *cells(way)) for name, way in summary.items()]
    told = {**facts, **here, **({"not measured": "; ".join(missing)} if missing else {})}
    show(title, head, rows, told)
    if output is None:
        return
    result = {
        "title": title,
        "machine": here,
        "facts": dict(facts),
        "not_measured": list(missing),
        unit.replace("/", "_per_"): summary,
    }
    write(output, result, markdown(title, head, rows, told), plot(title, summary, unit))


Summary = Mapping[str, Mapping[str, Any]]


def summarise(
    timings: Mapping[str, Timing], ours: str, floors: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """By way its figures, as the JSON has them."""
    return {
        name: {
            "median": timing.median,
            "spread": timing.spread,
            "over_ours": timing.median / timings[ours].median,
            "floor": floors.get(name),
            "over_floor": timing.median / floors[name] if name in floors else None,
            "runs": timing.runs,
        }
        for name, timing in timings.items()
    }


def cells(way: Mapping[str, Any]) -> tuple[str, ...]:
    """What the table has of a way."""
    floor, over_floor = way["floor"], way["over_floor"]
    return (
        f"{way['median']:.3f}",
        f"{way['spread']:.0%}",
        f"{way['over_ours']:.2f}",
        *(() if floor is None else (f"{floor:.3f}", f"{over_floor:.2f}")),
    )


def show(
    title: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    facts: Mapping[str, object],
) -> None:
    """Print a table, its first column text and the others numbers, and the facts."""
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for number, heading in enumerate(head):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console()
    console.width = max(console.width, 120)  # in a file or a pipe too
    console.print(table)
    for key, value in facts.items():
        console.print(f"{key}: {value}", highlight=False)


def markdown(
    title: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    facts: Mapping[str, object],
) -> str:
    """The same as Markdown."""
    filled = [(*row, *[""] * (len(head) - len(row))) for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in (head, *filled)]
    lines.insert(1, "|---" + "|---:" * (len(head) - 1) + "|")
    told = [f"- {key}: {value}" for key, value in facts.items()]
    return "\n".join([f"# {title}", "", *lines, "", *told, ""])


def write(output: Path, result: Mapping[str, Any], text: str, figure: Figure | None) -> None:
    """Write a result as JSON, and beside it its Markdown and its plot, if there is one."""
    output.write_text(json.dumps(result, indent=1))
    output.with_suffix(".md").write_text(text)
    if figure is not None:
        from matplotlib import rc_context

        with rc_context({"svg.hashsalt": "bench"}):
            figure.savefig(output.with_suffix(".svg"), metadata={"Date": None})
    print(f"written: {output}, and beside it .md" + (" and .svg" if figure is not None else ""))


def new_figure(height: float) -> Figure | None:
    """An empty figure; None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    return Figure(figsize=(8, height), layout="constrained")


def plot(title: str, summary: Summary, unit: str) -> Figure | None:
    """A bar a way on a logarithmic scale: the median, the range of its runs, its floor."""
    figure = new_figure(1 + 0.32 * len(summary))
    if figure is None:
        return None
    axes = figure.subplots()
    for row, way in enumerate(summary.values()):
        axes.barh(row, way["median"], color="#56b4e9")
        axes.plot([min(way["runs"]), max(way["runs"])], [row, row], color="black", linewidth=1)
        if way["floor"] is not None:
            axes.plot([way["floor"]] * 2, [row - 0.4, row + 0.4], color="#d55e00", linewidth=2)
    axes.set_yticks(range(len(summary)), labels=list(summary))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(f"{unit} (median and range of runs; orange: floor)")
    axes.set_title(title, fontsize=10)
    return figure
