"""Compare methods of training on small real data.

    python tools/experiments.py pictures tiny_imagenet_20.zip WORK --results docs/results.md
    python tools/experiments.py nmnist nmnist_550.zip WORK --results docs/results.md
    python tools/experiments.py ucf101 UCF101_FOLDER WORK --results docs/results.md

The program makes the stores, runs every method with every seed and writes a table. Finished runs
are kept, so the same command resumes an interrupted comparison or adds seeds. The methods of a seed
take turns, so that a busy spell of the machine hits all of them. With --jobs, several runs share
the cores, which suits small networks better than several threads for each.

With --search, baselines are tuned as `tools.baselines` says, on at most SEARCH_CLASSES classes of
pictures. Everything of one data set, with five seeds of each pipeline and three of each baseline:

    python tools/experiments.py pictures tiny_imagenet_20.zip WORK --classes 20 \\
        --search --seeds 5 --baseline-seeds 3
"""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from eventdata.settings import parse_sides
from tools.baselines import HELD_OUT, LENGTHS, TRIAL, Baseline, Changes, combined, one_by_one
from tools.comparisons import DATA, Choice, Comparison, Method, as_run, only
from train.report import report
from train.results import read_run
from train.tables import markdown, methods

SEARCH_CLASSES = 10
"""Classes of pictures on which baselines are searched, the same ones as for the pipelines."""

HEADER = """# Results

Each table compares methods of training and was written by the command above it. The recipes and the
protocol are in docs/training.md. Times are those of one machine; they include pretraining but not
evaluation.
"""


def machine(jobs: int) -> str:
    """Describe the machine of the measurements."""
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    device = ", ".join(gpus) or f"{os.cpu_count()} cores, {jobs} runs at a time"
    return f"{device}; {platform.system()}, torch {torch.__version__}"


@dataclass(frozen=True)
class Runner:
    """Runs the methods of a comparison; finished runs are not repeated."""

    comparison: Comparison
    work: Path
    jobs: int
    """Runs at the same time."""
    changes: tuple[str, ...]
    """Settings of every run."""

    @property
    def folder(self) -> Path:
        """The folder of the runs' folders."""
        return self.work / "runs" / self.comparison.name

    def run(self, methods: Sequence[tuple[Method, int]]) -> list[Path]:
        """Run methods, each with its number of seeds; return the runs' folders.

        The methods of a seed take turns. After the first failure no more runs are started.
        """
        most = max((seeds for _, seeds in methods), default=0)
        pairs = [(method, n) for n in range(most) for method, seeds in methods if n < seeds]
        with ThreadPoolExecutor(self.jobs) as pool:
            running = [pool.submit(self._train, method, seed) for method, seed in pairs]
            try:
                return [future.result() for future in running]
            finally:
                pool.shutdown(cancel_futures=True)

    def _train(self, method: Method, seed: int) -> Path:
        """Train or resume one method with one seed; return its folder."""
        label = method.label.replace(", ", "-")
        folder = self.folder / f"{label}-{seed}"
        words = [*method.words, "--data", str(self.comparison.store), "--out", str(folder)]
        if method.images is not None:
            words += ["--images", str(method.images)]
        labels = (f"run.seed={seed}", f"run.label={json.dumps(method.label)}")
        for change in (*labels, *self.changes):
            words += ["--set", change]
        click.secho(f"{self.comparison.name}: {method.label}, seed {seed}", bold=True)
        threads = max(1, len(os.sched_getaffinity(0)) // self.jobs)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run([sys.executable, "-m", "train", *words], check=True, env=environment)
        return folder

    def search(self) -> Changes:
        """Search the baseline's settings with one seed; return those that are best."""
        comparison = self.comparison
        unchanged = Baseline(comparison.recipe, comparison.changes, length=TRIAL)
        tried = self._try(one_by_one(unchanged, comparison.few))
        tried += self._try(combined(tried))
        tried += self._try([replace(unchanged, changes=one) for one in comparison.tried])
        best, _ = max(tried, key=lambda pair: pair[1])
        report(sorted(self.folder.iterdir()), self.work / "report" / comparison.name)
        return best.changes

    def _try(self, baselines: list[Baseline]) -> list[tuple[Baseline, float]]:
        """Return baselines with their accuracies on held-out samples."""
        folders = self.run([(self._method(one), 1) for one in baselines])
        accuracies = [read_run(folder).held_out_accuracy for folder in folders]
        return list(zip(baselines, accuracies, strict=True))

    def baselines(self, tuned: Changes) -> list[Method]:
        """Return the recipe's own baseline, and the tuned one in all lengths."""
        own = Baseline(self.comparison.recipe, self.comparison.changes)
        every = [replace(own, changes=tuned, length=length) for length in LENGTHS]
        return [self._method(one) for one in dict.fromkeys([own, *every])]

    def _method(self, baseline: Baseline) -> Method:
        """Return a baseline as a method, after writing its recipe."""
        recipe = baseline.recipe()
        path = self.work / "recipes" / self.comparison.name / f"{baseline.label}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(recipe.document())
        return Method(baseline.label, (recipe.pipeline, "--recipe", str(path)))


def append_results(
    results: Path, title: str, folders: list[Path], rows: str, words: str, jobs: int
) -> None:
    """Add a table with its command and machine to a Markdown file."""
    samples = json.loads((folders[0] / "result.json").read_text())["stages"][-1]["samples"]
    text = (
        f"\n## {title}\n\n`{words}`\n\n{machine(jobs)}. {samples['train']} samples to train on, "
        f"{samples['select']} held out; mean ± deviation over seeds.\n\n{rows}"
    )
    if not results.exists():
        results.write_text(HEADER)
    with results.open("a") as file:
        file.write(text)


def _sides(ctx: click.Context, param: click.Parameter, text: str | None) -> Any:
    """Return the sides in a text like 64x86, or like 64 for a square."""
    if text is None:
        return None
    try:
        return parse_sides(text if "x" in text else f"{text}x{text}")
    except ValueError:
        raise click.BadParameter(f"{text!r} is not ROWSxCOLUMNS") from None


FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("data", type=click.Choice(list(DATA)))
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("work", type=click.Path(file_okay=False, path_type=Path))
@click.option("--classes", type=click.IntRange(2), default=10, help="Classes of pictures; 10.")
@click.option("--classes-from", "first_class", type=click.IntRange(0), default=0, help="First one.")
@click.option("--size", metavar="ROWSxCOLUMNS", callback=_sides, help="Size of the samples.")
@click.option("--splits", type=click.Path(exists=True, path_type=Path), help="ucfTrainTestlist.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--search", is_flag=True, help="Tune the baselines first.")
@click.option(
    "--baseline-seeds",
    type=click.IntRange(1),
    help="Seeds of each baseline after the search; --seeds by default.",
)
@click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Runs at the same time."
)
@click.option("--only", "name", metavar="COMPARISON", help="Comparison to run; all by default.")
@click.option("--method", "labels", multiple=True, help="Methods to run; all by default.")
@click.option(
    "--set", "changes", multiple=True, metavar="STAGE.KEY=VALUE", help="Setting for every run."
)
@click.option("--results", type=FILE, help="Markdown file to append the table to.")
def main(
    data: str,
    source: Path,
    work: Path,
    seeds: int,
    search: bool,
    baseline_seeds: int | None,
    jobs: int,
    name: str | None,
    labels: tuple[str, ...],
    changes: tuple[str, ...],
    results: Path | None,
    **choice: Any,
) -> None:
    """Compare methods of training on the DATA in SOURCE; stores and runs go to WORK."""
    (work / "search").mkdir(parents=True, exist_ok=True)
    chosen = Choice(**choice)
    comparisons = DATA[data](source, work, chosen)
    names = [comparison.name for comparison in comparisons]
    if name not in (None, *names):
        raise click.BadParameter(
            f"unknown comparison {name!r}; choose from {', '.join(names)}", param_hint="--only"
        )
    known = [method.label for comparison in comparisons for method in comparison.methods]
    for label in set(labels) - set(known):
        raise click.BadParameter(
            f"unknown method {label!r}; choose from {'; '.join(known)}", param_hint="--method"
        )
    searches = comparisons
    if search and chosen.classes > SEARCH_CLASSES:
        searches = DATA[data](source, work / "search", replace(chosen, classes=SEARCH_CLASSES))
    for n, comparison in enumerate(comparisons):
        if name not in (None, comparison.name):
            continue
        chosen_ones = [(one, seeds) for one in as_run(only(comparison, labels))]
        runner = Runner(comparison, work, jobs, changes)
        if search:
            trials = (*changes, f"run.held_out={HELD_OUT}")
            tuned = Runner(searches[n], work / "search", jobs, trials).search()
            baselines = [(one, baseline_seeds or seeds) for one in runner.baselines(tuned)]
            chosen_ones = [
                *baselines,
                *(pair for pair in chosen_ones if pair[0].label != "scratch"),
            ]
        folders = runner.run(chosen_ones)
        rows = markdown(methods(report(folders, work / "report" / comparison.name)))
        click.echo(rows)
        if results is not None:
            given = click.get_current_context().params
            words = shlex.join(_words(data, source, comparison.name, given))
            title = f"{comparison.name}: {source.stem}"
            append_results(results, title, folders, rows, words, jobs)


def _words(data: str, source: Path, name: str, given: dict[str, Any]) -> list[str]:
    """Return the command that runs one comparison."""
    words = ["python", "tools/experiments.py", data, source.name, "WORK"]
    for option in click.get_current_context().command.params:
        value = {**given, "name": name}[str(option.name)]
        if not isinstance(option, click.Option) or option.name == "results":
            continue
        if value == option.default or value in (None, ()):
            continue
        if option.is_flag:
            words.append(option.opts[0])
            continue
        for each in value if option.multiple else [value]:
            text = "x".join(map(str, each)) if isinstance(each, tuple) else str(each)
            words += [option.opts[0], text]
    return words


if __name__ == "__main__":
    main()
