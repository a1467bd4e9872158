"""The time-accuracy benchmark: runs compared by accuracy over training time, with pretraining.

Accuracy is that of the last stage on the samples that select models. Its clock starts at the
training time of all stages before it. A run's target is the best accuracy of its baseline: the run
from scratch with the same seed, the best one if there are several, or without one the mean over the
seeds of all runs from scratch. A baseline that has not learned anything gives no target: its test
accuracy has to be above that of guessing the most frequent class (`train.results.Score`).
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import accumulate, chain
from pathlib import Path
from statistics import mean, stdev
from textwrap import fill
from typing import Any

from eventdata.errors import InputError, OptionError, printable
from train import front
from train.page import Chart, page
from train.results import LEVEL, RunResult, read_run
from train.runs.cost import KEYS, Cost
from train.runs.folder import write, write_json, writing_run
from train.tables import costs, markdown, methods, percent

COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours for colour-blind readers (Okabe and Ito 2008); black is training from scratch."""
MARKERS = "osD^vPX"
LABEL_WIDTH = 90
"""Characters of a line of the legend."""


def targets(runs: Sequence[RunResult]) -> list[float | None]:
    """Return the target accuracy of each run; None if no run is from scratch, or one is useless."""
    baselines = best_baselines(runs)
    if not baselines or any(run.useless for run in baselines.values()):
        return [None] * len(runs)
    best = {seed: run.best for seed, run in baselines.items()}
    return [best.get(run.seed, mean(best.values())) for run in runs]


def best_baselines(runs: Sequence[RunResult]) -> dict[int, RunResult]:
    """Return the best run from scratch of each seed."""
    best: dict[int, RunResult] = {}
    for run in runs:
        if run.scratch and (run.seed not in best or run.best > best[run.seed].best):
            best[run.seed] = run
    return best


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
    goals = targets(runs)
    reached = [
        None if target is None else run.cost_to(target)
        for run, target in zip(runs, goals, strict=True)
    ]
    slow: dict[int, list[Cost]] = {}
    for run, cost in zip(runs, reached, strict=True):
        if run.scratch and cost:
            slow.setdefault(run.seed, []).append(cost)
    rows = []
    for label in dict.fromkeys(run.label for run in runs):
        own = [run for run in runs if run.label == label]
        fast = [
            cost for run, cost in zip(runs, reached, strict=True) if run.label == label and cost
        ]
        rows.append(
            {
                "way": label,  # the key in report.json
                "seeds": len(own),
                "test": _statistics(run.test.top1 if run.test else None for run in own),
                "best": _statistics(run.best for run in own),
                "seconds": _statistics(run.cost.seconds for run in own),
                "seconds_before": _statistics(run.before.seconds for run in own),
                "reached": len(fast) if any(target is not None for target in goals) else None,
                "seconds_to_target": _statistics(cost.seconds for cost in fast),
                "synaptic": _statistics(run.synaptic for run in own),
                "stages": {
                    name: _costs([run.stages[name] for run in own if name in run.stages])
                    for name in dict.fromkeys(name for run in own for name in run.stages)
                },
                "cost": _costs([run.cost for run in own]),
                "cost_to_target": _costs(fast),
                **{
                    key: _speed_up([run.seed for run in own], slow, fast, of)
                    for key, of in SPEED_UPS.items()
                },
            }
        )
    return rows


SPEED_UPS: dict[str, Callable[[Cost], float | None]] = {
    "speed_up": lambda cost: cost.seconds,
    "speed_up_cpu": lambda cost: cost.cpu_seconds,
    "speed_up_operations": lambda cost: cost.operations,
}


def _speed_up(
    seeds: Sequence[int],
    baselines: Mapping[int, Sequence[Cost]],
    fast: Sequence[Cost],
    of: Callable[[Cost], float | None],
) -> float | None:
    """Return the baselines' cost of reaching the target over that of a method's runs.

    Args:
        seeds: the seeds of the runs. One without a baseline is compared with the mean of all.
        baselines: by seed the costs of the baselines that reach the target; the least counts.
        fast: the costs of the runs that reach the target.
        of: the figure to compare.

    Returns:
        None if a run does not reach the target, or a figure is unknown.
    """
    known = {seed: [of(cost) for cost in costs] for seed, costs in baselines.items()}
    costs = [of(cost) for cost in fast]
    if len(fast) < len(seeds) or not known or None in chain(costs, *known.values()):
        return None
    least = {seed: min(value or 0.0 for value in values) for seed, values in known.items()}
    slow = mean(least.get(seed, mean(least.values())) for seed in seeds)
    spent = mean(cost or 0.0 for cost in costs)
    return slow / spent if spent else None


def _costs(costs: Sequence[Cost]) -> dict[str, dict[str, float] | None]:
    """Return the statistics of each figure, None where a run lacks it."""
    found: dict[str, dict[str, float] | None] = {}
    for key in KEYS:
        values = [getattr(cost, key) for cost in costs]
        found[key] = None if None in values else _statistics(values)
    return found


def _statistics(values: Iterable[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"mean": mean(known), "spread": stdev(known) if len(known) > 1 else 0.0}


def notes(runs: Sequence[RunResult]) -> list[str]:
    """Return what a reader of the tables has to know, as sentences."""
    found = []
    for run in best_baselines(runs).values():
        if run.useless and run.test is not None and run.test.chance is not None:
            hits, samples = run.test.needed or 0, run.test.samples or 1
            least = (
                f"{percent(hits / samples)} % or more would show that it has"
                if hits <= samples
                else "so few samples can't show that it has. Test on more"
            )
            found.append(
                f"There is no target and no speed-up, because the baseline {run.label} with seed "
                f"{run.seed} has not learned anything: its test accuracy is "
                f"{percent(run.test.top1)} % on {samples:,} samples, and always guessing the most "
                f"frequent class reaches {percent(run.test.chance)} %. By a binomial test at "
                f"{LEVEL:.0%}, {least}."
            )
        elif run.test is None or run.test.learned is None:
            found.append(
                f"It can't be checked whether the baseline {run.label} with seed {run.seed} has "
                "learned anything, because its run did not record its test samples by class."
            )
    for label, name in dict.fromkeys((run.label, name) for run in runs for name in run.uncounted):
        found.append(f"The cost of {label} does not count the training of {name}.")
    if any(run.machine != runs[0].machine for run in runs):
        found.append("The runs used different machines, so their times can't be compared.")
    if any(None in cost.as_dict().values() for run in runs for cost in run.stages.values()):
        found.append("Costs that an older version did not record are missing, shown as -.")
    return found


def plot(runs: Sequence[RunResult], out: Path) -> None:
    """Write report.png and report.svg: accuracy over training time, a line per run."""
    from matplotlib.figure import Figure

    runs = sorted(runs, key=lambda run: not run.scratch)
    # A dollar would start a formula.
    labels = {run.label: fill(run.label, LABEL_WIDTH).replace("$", r"\$") for run in runs}
    lines = sum(label.count("\n") + 1 for label in labels.values())
    figure = Figure(figsize=(7, 4 + 0.2 * lines), layout="constrained")  # the legend is below
    axes = figure.subplots()
    drawn: set[str] = set()
    for run in runs:
        number = list(labels).index(run.label) + (not runs[0].scratch)
        rounds, colour = divmod(number, len(COLOURS))
        marker = MARKERS[(colour + rounds) % len(MARKERS)]
        seconds, accuracy = zip(*run.curve, strict=True)
        percent = [100 * value for value in accumulate(accuracy, max)]
        label = None if run.label in drawn else labels[run.label]  # of several seeds one
        drawn.add(run.label)
        axes.step(seconds, percent, where="post", color=COLOURS[colour], alpha=0.35)
        axes.plot(seconds, percent, marker, color=COLOURS[colour], markersize=4, label=label)
    goals = [target for target in targets(runs) if target is not None]
    if goals:
        axes.axhline(100 * mean(goals), color="#777777", linestyle=":", label="best from scratch")
    axes.set_xlabel("training time with pretraining (s)")
    axes.set_ylabel("best held-out accuracy so far (%)")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.2)
    figure.legend(frameon=False, loc="outside lower left", fontsize="small")
    front.save(figure, out, "report", dpi=150)


def report(folders: Sequence[str | Path], out: str | Path) -> list[dict[str, Any]]:
    """Compare finished runs in report.html, .md, .json, .png, .svg and front.png, .svg.

    Args:
        folders: the runs' folders; a folder that is given twice, under any path, counts once.
        out: the folder to write to, created if missing; or a file NAME.html for only the page.

    Returns:
        The rows of the table (`summarise`).

    Raises:
        OptionError: there are no runs.
        InputError: a run has not finished; runs differ in store, protocol or held-out samples; or
            the folder can't be written.
    """
    runs = read_runs(folders)
    rows = summarise(runs)
    out = Path(out)
    if is_page(out):
        with writing_run(out.parent):
            write(out, html(runs, rows))
        return rows
    with writing_run(out):
        write(out / "report.html", html(runs, rows))
        write(out / "report.md", text(runs, rows))
        document = {"ways": rows, "runs": [_details(run) for run in runs], "notes": notes(runs)}
        found = front.entries(runs)
        write_json(out / "report.json", document | {"front": [entry.as_dict() for entry in found]})
        plot(runs, out)
        front.plot(found, out)
    return rows


def read_runs(folders: Sequence[str | Path]) -> list[RunResult]:
    """Read the runs of `report`; see there."""
    if not folders:
        raise OptionError("there are no runs to report on; pass the folder of at least one run")
    once: dict[str, str | Path] = {}
    for folder in folders:
        once.setdefault(os.path.realpath(folder), folder)
    runs = distinguish([read_run(folder) for folder in once.values()])
    _check_comparable(runs)
    return runs


def is_page(out: Path) -> bool:
    """Return whether the output is one HTML page instead of a folder."""
    return out.suffix.lower() in (".html", ".htm")


def text(runs: Sequence[RunResult], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the report as Markdown."""
    parts = [markdown(methods(rows)), *(f"{note}\n" for note in notes(runs))]
    for more in (front.table(front.entries(runs)), costs(rows)):
        parts += [f"## {more.title}\n", f"{more.text}\n", markdown(more)]
    return "\n".join(parts)


def html(runs: Sequence[RunResult], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the report as a page (`train.page`)."""
    goals = [target for target in targets(runs) if target is not None]
    charts = []
    for title, of, unit in (
        ("training time with pretraining (s)", SPEED_UPS["speed_up"], 1.0),
        ("CPU time with pretraining (s)", SPEED_UPS["speed_up_cpu"], 1.0),
        ("multiply-adds and additions with pretraining (G)", SPEED_UPS["speed_up_operations"], 1e9),
    ):
        places = []
        for run in runs:
            known = [value / unit for cost in run.costs if (value := of(cost)) is not None]
            places.append(known if len(known) == len(run.curve) else [])
        charts.append(Chart(title=title, places=places))
    return page(
        runs,
        tables=[methods(rows), front.table(front.entries(runs)), costs(rows)],
        charts=charts,
        notes=notes(runs),
        target=mean(goals) if goals else None,
    )


def _details(run: RunResult) -> dict[str, Any]:
    """Return a run for report.json."""
    return {
        "way": run.label,
        **asdict(run),
        "seconds": run.cost.seconds,
        "seconds_before": run.before.seconds,
        "best": run.best,
        "test": run.test and run.test.top1,
        "chance": run.test and run.test.chance,
        "learned": run.test and run.test.learned,
    }


def _check_comparable(runs: Sequence[RunResult]) -> None:
    """Raise InputError if runs differ in store, protocol or held-out samples."""
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
