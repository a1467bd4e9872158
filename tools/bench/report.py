"""Compare methods that do the same work: interleaved runs, medians, ratios, floors."""

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
    """A path for a JSON file, checked before hours of measuring."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.suffix != ".json":
            self.fail(f"{path}: must end in .json; choose another name", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"{path}: the folder does not exist; create it first", param, ctx)
        return path


output_option = click.option(
    "--output", type=ResultFile(), help="JSON file for the result; .md and .svg go next to it."
)


def runs_option(runs: int) -> Callable[[Any], Any]:
    """Return the option for the number of timed runs of each method."""
    return click.option(
        "--runs", type=click.IntRange(1), default=runs, show_default=True, help="Timed runs."
    )


@dataclass(frozen=True)
class Timing:
    """Milliseconds per unit of work in each of several runs."""

    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        """Return the median of the runs."""
        return statistics.median(self.runs)

    @property
    def spread(self) -> float:
        """Return half the distance between the slowest and fastest run, over the median."""
        return (max(self.runs) - min(self.runs)) / 2 / self.median


Method = Callable[[], float]


def by_clock(method: Method) -> tuple[float, float]:
    """Return the seconds that a method took, and its result."""
    start = time.perf_counter()
    samples = method()
    return time.perf_counter() - start, samples


def measure(
    methods: Mapping[str, Method],
    runs: int,
    tidy: Callable[[], None] | None = None,
    timed: Callable[[Method], tuple[float, float]] = by_clock,
) -> dict[str, Timing]:
    """Time each method ``runs`` times, after one run to warm up.

    The methods take turns, so that a busy spell of the machine hits all of them. Every second turn
    has the reverse order, because a method finds the caches as the one before has left them.

    Args:
        methods: Functions by name; each returns its number of samples.
        runs: Timed runs of each method.
        tidy: A function to call after each method, outside the measured time.
        timed: A function that calls a method and returns its seconds and its result.
    """
    names = list(methods)
    times: dict[str, list[float]] = {name: [] for name in names}
    for run in range(runs + 1):
        for name in names[:: (-1) ** run]:
            seconds, samples = timed(methods[name])
            if run:
                times[name].append(1000 * seconds / samples)
            if tidy is not None:
                tidy()
    return {name: Timing(tuple(values)) for name, values in times.items()}


def copy_bandwidth(threads: int = 1) -> float:
    """Return the bytes per second of a 256 MB copy, counting read and written bytes."""
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
    """Return bytes of this process on Linux: VmRSS now, VmHWM at its peak, VmSize of addresses.

    The peak from `resource` starts at that of the parent process, so it can't be used.
    """
    match = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    if match is None:
        raise OSError(f"/proc/self/status has no {field}")
    return int(match[1]) * 1024


def machine(packages: Sequence[str] = ()) -> dict[str, str]:
    """Describe this machine, with the versions of these packages."""
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
    """Print a table of times, ratios to ``ours`` and floors, and publish it.

    Args:
        title: Heading of the table.
        timings: Timings by method.
        ours: The method that the ratios refer to.
        facts: What else was measured.
        output: JSON file to write; times are in it as "ms_per_sample" for "ms/sample".
        floors: The least time that a method's work can take, by method.
        unit: Unit of the times.
        missing: Methods that could not be measured here, with the reason.
        packages: Packages whose versions matter.
    """
    summary = summarise(timings, ours, floors or {})
    here = machine(packages)
    head = ("method", unit, "spread", "over ours", *(("floor", "over floor") if floors else ()))
    rows = [(name, *cells(method)) for name, method in summary.items()]
    notes = {**facts, **here, **({"not measured": "; ".join(missing)} if missing else {})}
    result = {
        "title": title,
        "machine": here,
        "facts": dict(facts),
        "not_measured": list(missing),
        unit.replace("/", "_per_"): summary,
    }
    publish(title, head, rows, notes, output, result, lambda: plot(title, summary, unit))


def publish(
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    facts: Mapping[str, object],
    output: Path | None,
    result: Mapping[str, Any],
    draw: Callable[[], Figure | None],
) -> None:
    """Print a table and facts; with ``output``, write JSON, Markdown and, if possible, a plot."""
    show(title, head, rows, facts)
    if output is not None:
        write(output, result, markdown(title, head, rows, facts), draw())


Summary = Mapping[str, Mapping[str, Any]]


def summarise(
    timings: Mapping[str, Timing], ours: str, floors: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Return the figures of each method for the JSON file."""
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


def cells(method: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a method's cells of the table."""
    floor, over_floor = method["floor"], method["over_floor"]
    return (
        f"{method['median']:.3f}",
        f"{method['spread']:.0%}",
        f"{method['over_ours']:.2f}",
        *(() if floor is None else (f"{floor:.3f}", f"{over_floor:.2f}")),
    )


def show(
    title: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    facts: Mapping[str, object],
) -> None:
    """Print a table, whose first column is text and the others numbers, and facts."""
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
    """Return the same as Markdown."""
    filled = [(*row, *[""] * (len(head) - len(row))) for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in (head, *filled)]
    lines.insert(1, "|---" + "|---:" * (len(head) - 1) + "|")
    notes = [f"- {key}: {value}" for key, value in facts.items()]
    return "\n".join([f"# {title}", "", *lines, "", *notes, ""])


def write(output: Path, result: Mapping[str, Any], text: str, figure: Figure | None) -> None:
    """Write a result as JSON, with its Markdown and its plot next to it."""
    output.write_text(json.dumps(result, indent=1))
    output.with_suffix(".md").write_text(text)
    if figure is not None:
        from matplotlib import rc_context

        with rc_context({"svg.hashsalt": "bench"}):
            figure.savefig(output.with_suffix(".svg"), metadata={"Date": None})
    print(f"written: {output} and .md" + (" and .svg" if figure is not None else ""))


def new_figure(height: float) -> Figure | None:
    """Return an empty figure, or None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    return Figure(figsize=(8, height), layout="constrained")


def plot(title: str, summary: Summary, unit: str) -> Figure | None:
    """Draw a bar for each method on a logarithmic scale: median, range of runs, floor."""
    figure = new_figure(1 + 0.32 * len(summary))
    if figure is None:
        return None
    axes = figure.subplots()
    for row, method in enumerate(summary.values()):
        axes.barh(row, method["median"], color="#56b4e9")
        axes.plot(
            [min(method["runs"]), max(method["runs"])], [row, row], color="black", linewidth=1
        )
        if method["floor"] is not None:
            axes.plot([method["floor"]] * 2, [row - 0.4, row + 0.4], color="#d55e00", linewidth=2)
    axes.set_yticks(range(len(summary)), labels=list(summary))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(f"{unit} (median and range of runs; orange: floor)")
    axes.set_title(title, fontsize=10)
    return figure
