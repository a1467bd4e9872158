"""The tables of a report, as text for Markdown and HTML."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HEAD = (
    *("method", "seeds", "test accuracy (%)", "best held-out accuracy (%)", "training time (s)"),
    *("before the last stage (s)", "time to the baseline's best (s)", "speed-up"),
    "operations per sample (M)",
)
COSTS = (
    *("method", "stage", "wall time (s)", "CPU time (s)", "multiply-adds (G)", "additions (G)"),
    "both (G)",
)
COUNTED = (
    "Means over seeds. CPU time is that of all cores. Multiply-adds and additions are those of the "
    "training steps, of calibration and of a teacher's answers, with the firing rates of the kept "
    "weights. The statistics of norms before a stage's first step are not counted."
)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of words and numbers, as text."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: str = ""
    """A remark on the figures, below the title."""
    words: int = 1
    """The number of first columns that are not numbers."""


def markdown(table: Table) -> str:
    """Return a table as Markdown."""
    lines = [
        " | ".join(table.head),
        " | ".join(["---:" if place >= table.words else "---" for place in range(len(table.head))]),
    ]
    lines += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in table.rows]
    return "".join(f"| {line} |\n" for line in lines)


def _cell(
    value: Mapping[str, float] | None, show: Callable[[float], str], *, many: bool = False
) -> str:
    spread = f" ± {show(value['spread'])}" if value and many else ""
    return show(value["mean"]) + spread if value else "-"


def percent(value: float) -> str:
    """Return a share in percent."""
    return f"{100 * value:.1f}"


def whole(value: float) -> str:
    """Return a number with about three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio(value: float | None) -> str:
    """Return a ratio, "-" without one."""
    return "-" if value is None else f"{value:.2f}"


def methods(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of methods from the rows of `train.report.summarise`."""
    lines = []
    for row in rows:
        many = row["seeds"] > 1
        time = "-"
        if row["reached"] is not None:
            time = _cell(row["seconds_to_target"], whole, many=row["reached"] > 1)
            if row["reached"] < row["seeds"]:
                time = f"{time} ({row['reached']} of {row['seeds']} reach it)"
        lines.append(
            (
                row["way"],
                str(row["seeds"]),
                _cell(row["test"], percent, many=many),
                _cell(row["best"], percent, many=many),
                _cell(row["seconds"], whole, many=many),
                _cell(row["seconds_before"], whole),
                time,
                ratio(row["speed_up"]),
                _cell(row["synaptic"], lambda value: f"{value / 1e6:.3g}"),
            )
        )
    return Table(title="Methods", head=HEAD, rows=lines)


def costs(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of costs by stage, in total and to the target from the same rows."""

    def cells(cost: Mapping[str, Any]) -> list[str]:
        work = [cost["multiply_adds"], cost["additions"]]
        both = None if None in work else {"mean": sum(value["mean"] for value in work)}
        return [
            _cell(cost["seconds"], whole),
            _cell(cost["cpu_seconds"], whole),
            *(_cell(value, lambda count: f"{count / 1e9:.3g}") for value in [*work, both]),
        ]

    lines = []
    for row in rows:
        lines += [[row["way"], name, *cells(cost)] for name, cost in row["stages"].items()]
        if len(row["stages"]) > 1:
            lines.append([row["way"], "all stages", *cells(row["cost"])])
        if row["reached"] and row["reached"] == row["seeds"]:
            lines.append([row["way"], "to the baseline's best", *cells(row["cost_to_target"])])
            ratios = [row[key] for key in ("speed_up", "speed_up_cpu", "speed_up_operations")]
            wall, cpu, work = map(ratio, ratios)
            lines.append([row["way"], "speed-up", wall, cpu, "", "", work])
    return Table(title="Cost of training", head=COSTS, rows=lines, text=COUNTED, words=2)
