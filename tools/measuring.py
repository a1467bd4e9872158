"""Measure ways of doing the same work beside each other: runs in turn, medians, ratios."""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class Timing:
    """Milliseconds a sample of several runs."""

    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the runs."""
        return statistics.median(self.runs)

    @property
    def spread(self) -> float:
        """Half the distance between the slowest and the fastest run, over the median."""
        return (max(self.runs) - min(self.runs)) / 2 / self.median


def measure(ways: Mapping[str, Callable[[], int]], runs: int) -> dict[str, Timing]:
    """Time each way ``runs`` times after one run to warm up; a way returns its number of samples.

    The ways take turns, so that a busy spell of the machine hits all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(runs + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            samples = way()
            seconds = time.perf_counter() - start
            if run:
                times[name].append(1000 * seconds / samples)
    return {name: Timing(tuple(values)) for name, values in times.items()}


def copy_bandwidth() -> float:
    """Bytes a second of copying 256 MB in memory, read and written bytes both counted."""
    source = np.ones(1 << 28, np.uint8)
    target = np.empty_like(source)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(seconds)


def report(
    title: str,
    timings: Mapping[str, Timing],
    ours: str,
    facts: Mapping[str, object],
    output: Path | None,
) -> None:
    """Print a table of times and of how many times as fast ``ours`` is; write JSON if asked."""
    table = Table("way", title=title, title_justify="left", box=None, header_style="bold")
    for column in ("ms/sample", "spread", "over ours"):
        table.add_column(column, justify="right")
    for name, timing in timings.items():
        ratio = timing.median / timings[ours].median
        table.add_row(escape(name), f"{timing.median:.3f}", f"{timing.spread:.0%}", f"{ratio:.2f}")
    console = Console()
    console.print(table)
    for key, value in facts.items():
        console.print(f"{key}: {value}", highlight=False)
    if output is not None:
        result = {
            "title": title,
            "machine": {"system": platform.platform(), "python": platform.python_version()},
            "facts": dict(facts),
            "ms_per_sample": {
                name: {
                    "median": timing.median,
                    "spread": timing.spread,
                    "over_ours": timing.median / timings[ours].median,
                    "runs": timing.runs,
                }
                for name, timing in timings.items()
            },
        }
        output.write_text(json.dumps(result, indent=1))
        console.print(f"written: {output}")
