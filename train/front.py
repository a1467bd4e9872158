"""The front of accuracy over the cost of training, for reports with several methods.

A method is on the front of its group if no other method of the group costs at most as much and has
a higher accuracy on the held-out samples. The best baseline is chosen by the same accuracy; its
mean test accuracy is the target of the other methods, which reach it or not with their whole
training. So no method is chosen by the samples that its test accuracy is reported on. If a cheaper
baseline reaches the target, too, a speed-up is one over that baseline. A baseline that has not
learned anything gives no target.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, Literal

from train.results import RunResult
from train.runs.cost import Cost
from train.runs.folder import write
from train.tables import Table, percent, ratio, whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Group = Literal["baseline", "same samples", "more samples"]
"""Baselines; other methods on the samples of one store; those that learned from others, too."""

MEASURES: Mapping[str, tuple[str, float, Callable[[Cost], float | None]]] = {
    "seconds": ("wall time (s)", 1.0, lambda cost: cost.seconds),
    "cpu_seconds": ("CPU time (s)", 1.0, lambda cost: cost.cpu_seconds),
    "operations": ("operations (G)", 1e9, lambda cost: cost.operations),
}
"""For each measure of cost its title, its unit, and its figure in a cost."""

STYLES: Mapping[Group, tuple[str, str]] = {
    "baseline": ("#000000", "o"),
    "same samples": ("#0072b2", "s"),
    "more samples": ("#d55e00", "D"),
}
HEAD = (
    *("method", "group", "seeds", "held-out accuracy (%)", "test accuracy (%)"),
    *(title for title, _, _ in MEASURES.values()),
    *("on the front of", "speed-up, wall", "speed-up, CPU", "speed-up, operations"),
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A method: the means over its seeds."""

    label: str
    group: Group
    seeds: int
    held_out: float
    """Accuracy of the tested weights on the held-out samples."""
    test: float | None
    spread: float
    """Deviation of the test accuracy over seeds."""
    costs: Mapping[str, float | None]
    """The cost of the whole training by measure; None if a run lacks it."""
    useless: bool = False
    """Whether a run is known to have learned nothing."""

    def reaches(self, target: "Entry") -> bool:
        """Return whether it tests as well as another method."""
        return None not in (self.test, target.test) and (self.test or 0.0) >= (target.test or 0.0)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures, for JSON."""
        return vars(self)


def entries(runs: Sequence[RunResult]) -> list[Entry]:
    """Return an entry for each label, in the order of the runs."""
    found = []
    for label in dict.fromkeys(run.label for run in runs):
        own = [run for run in runs if run.label == label]
        tests = [run.test.top1 for run in own if run.test is not None]
        group: Group = "more samples" if any(run.more_samples for run in own) else "same samples"
        costs = {}
        for key, (_, _, of) in MEASURES.items():
            values = [value for run in own if (value := of(run.cost)) is not None]
            costs[key] = mean(values) if len(values) == len(own) else None
        found.append(
            Entry(
                label=label,
                group="baseline" if any(run.scratch for run in own) else group,
                seeds=len(own),
                held_out=mean(run.held_out_accuracy for run in own),
                test=mean(tests) if len(tests) == len(own) else None,
                spread=stdev(tests) if len(tests) == len(own) > 1 else 0.0,
                costs=costs,
                useless=any(run.useless for run in own),
            )
        )
    return found


def front(methods: Sequence[Entry], measure: str) -> list[Entry]:
    """Return the methods of the fronts of all groups, by rising cost."""
    known = [entry for entry in methods if entry.costs[measure] is not None]
    chosen: list[Entry] = []
    for entry in sorted(known, key=lambda entry: (entry.costs[measure] or 0.0, -entry.held_out)):
        cheaper = [other for other in chosen if other.group == entry.group]
        if all(entry.held_out > other.held_out for other in cheaper):
            chosen.append(entry)
    return chosen


def best_baseline(methods: Sequence[Entry]) -> Entry | None:
    """Return the baseline with the highest accuracy on the held-out samples.

    Returns:
        None if there are no baselines, or if that one has not learned anything.
    """
    baselines = [entry for entry in methods if entry.group == "baseline"]
    best = max(baselines, key=lambda entry: entry.held_out, default=None)
    return None if best is None or best.useless else best


def speed_up(methods: Sequence[Entry], entry: Entry, measure: str) -> float | None:
    """Return the cost of the cheapest baseline that tests as well as the best, over a method's.

    Returns:
        None if the method does not test as well or is a baseline, or a cost is unknown.
    """
    target, cost = best_baseline(methods), entry.costs[measure]
    if target is None or not cost or not entry.reaches(target) or entry.group == "baseline":
        return None
    slow = [
        one.costs[measure] for one in methods if one.group == "baseline" and one.reaches(target)
    ]
    return None if None in slow else min(filter(None, slow), default=0.0) / cost


def table(methods: Sequence[Entry]) -> Table:
    """Return the table of the front, with the speed-up of methods that reach the best baseline."""
    target = best_baseline(methods)
    fronts = {measure: front(methods, measure) for measure in MEASURES}
    names = dict(zip(MEASURES, ("wall", "CPU", "operations"), strict=True))
    rows = []
    for entry in methods:
        spread = f" ± {percent(entry.spread)}" if entry.seeds > 1 else ""
        rows.append(
            (
                entry.label,
                entry.group,
                str(entry.seeds),
                percent(entry.held_out),
                "-" if entry.test is None else percent(entry.test) + spread,
                *(
                    "-" if (cost := entry.costs[key]) is None else whole(cost / unit)
                    for key, (_, unit, _) in MEASURES.items()
                ),
                ", ".join(names[key] for key in MEASURES if entry in fronts[key]) or "-",
                *(ratio(speed_up(methods, entry, measure)) for measure in MEASURES),
            )
        )
    text = (
        "Means over seeds of the whole training. A method is on the front of its group if no "
        "cheaper method of it has as high an accuracy on the held-out samples."
    )
    if target is not None and target.test is not None:
        text += (
            f" The best baseline on the held-out samples is {target.label}. Speed-ups are those of "
            f"methods that reach its mean test accuracy of {percent(target.test)} %: the cost of "
            "the cheapest baseline that reaches it, over theirs."
        )
    return Table(title="Front of accuracy over cost", head=HEAD, rows=rows, text=text, words=2)


def plot(methods: Sequence[Entry], out: Path) -> None:
    """Write front.png and front.svg: test accuracy over each cost, the fronts as lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    target = best_baseline(methods)
    for axes, (measure, (title, unit, _)) in zip(
        figure.subplots(1, len(MEASURES), sharey=True), MEASURES.items(), strict=True
    ):
        on_front = front(methods, measure)
        for group, (colour, marker) in STYLES.items():
            own = [entry for entry in methods if entry.group == group]
            for style, shown in ((marker, own), ("-", [e for e in on_front if e.group == group])):
                points = [
                    (cost / unit, 100 * entry.test, 100 * entry.spread)
                    for entry in shown
                    if (cost := entry.costs[measure]) is not None and entry.test is not None
                ]
                xs, ys, spreads = zip(*points, strict=True) if points else ((), (), ())
                label = group if points and style == marker else None
                axes.errorbar(xs, ys, spreads, fmt=style, ms=5, color=colour, label=label)
        if target is not None and target.test is not None:
            axes.axhline(100 * target.test, color="#777777", linestyle=":", label="best baseline")
        axes.set_xlabel(title)
        axes.locator_params(axis="x", nbins=6)  # labels of large numbers are wide
        axes.set_xlim(left=0)
        axes.grid(alpha=0.2)
    if axes.get_legend_handles_labels()[0]:  # there are none before a run has finished
        axes.legend(frameon=False, loc="best")
    figure.axes[0].set_ylabel("test accuracy (%)")
    save(figure, out, "front", dpi=120)


def save(figure: "Figure", out: Path, name: str, dpi: int) -> None:
    """Write a figure as NAME.svg and NAME.png, the same bytes for the same figure."""
    import matplotlib

    vectors, pixels = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(vectors, format="svg", metadata={"Date": None})
    figure.savefig(pixels, format="png", dpi=dpi)
    write(out / f"{name}.svg", vectors.getvalue())
    write(out / f"{name}.png", pixels.getvalue())
