"""Compare methods of training on small real data.

    python tools/experiments.py pictures tiny_imagenet_20.zip WORK --results docs/results.md
    python tools/experiments.py nmnist nmnist_550.zip WORK --results docs/results.md
    python tools/experiments.py ucf101 UCF101_FOLDER WORK --results docs/results.md

The program makes the stores, runs every method with every seed and writes a table. Finished runs
are kept, so the same command resumes an interrupted comparison or adds seeds. The methods of a seed
take turns, so that a busy spell of the machine hits all of them. With --jobs, several runs share
the cores, which suits small networks better than several threads for each.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import click
import torch

import eventdata
from train.report import report
from train.results import read_run
from train.tables import markdown, methods

HEADER = """# Results

Each table compares methods of training and was written by the command above it. The recipes and the
protocol are in docs/training.md. Times are those of one machine; they include pretraining but not
evaluation.
"""


@dataclass(frozen=True)
class Method:
    """A method of training: a command's words, and the store of its pictures."""

    label: str
    words: tuple[str, ...]
    images: Path | None = None


@dataclass(frozen=True)
class Comparison:
    """Methods that are tested on the same store."""

    name: str
    store: Path
    methods: tuple[Method, ...]
    changes: tuple[str, ...] = ()
    """Settings of the recipe in every run."""


def pictures(archive: Path, work: Path) -> list[Comparison]:
    """Prepare ten classes of Tiny ImageNet at 32 pixels for pipe-D and pipe-S."""
    side, folder = 32, work / "pictures"
    if not folder.exists():
        unpack_pictures(archive, folder, 10)
    events, rgb, grey = (work / f"{name}.zarr" for name in ("events", "rgb", "grey"))
    eventdata.convert(
        "imagenet",
        folder,
        events,
        long_side=side,
        crop=side,
        min_events=0,
        resampling="area",
    )
    eventdata.convert("images", folder, rgb, short_side=side, crop=side)
    eventdata.convert("images", events, grey, grey_from_events=True)
    recipe_d, recipe_s = ("--recipe", "pipe-d-small"), ("--recipe", "pipe-s-small")
    return [
        Comparison(
            "pipe-D",
            events,
            (
                Method("scratch", ("scratch", *recipe_d)),
                Method("pipe-D, RGB", ("pipe-d", *recipe_d), rgb),
                Method("pipe-D, grey", ("pipe-d", *recipe_d), grey),
            ),
        ),
        Comparison(
            "pipe-S",
            rgb,
            (Method("scratch", ("scratch", *recipe_s)), Method("pipe-S", ("pipe-s", *recipe_s))),
        ),
    ]


def unpack_pictures(archive: Path, folder: Path, classes: int) -> None:
    """Unpack the first classes of an archive ROOT/SPLIT/CLASS/*.JPEG."""
    with zipfile.ZipFile(archive) as zipped:
        files = [PurePosixPath(name) for name in zipped.namelist() if name.endswith(".JPEG")]
        chosen = sorted({path.parts[-2] for path in files})[:classes]
        for path in files:
            if path.parts[-2] in chosen:
                target = folder.joinpath(*path.parts[-3:])
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(zipped.read(str(path)))


def nmnist(archive: Path, work: Path) -> list[Comparison]:
    """Prepare N-MNIST, an archive of NMNIST/{Train,Test}/DIGIT/*.bin, in eight steps."""
    if not (work / "NMNIST").exists():
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(work)
    store = work / "nmnist.zarr"
    eventdata.convert("tonic:NMNIST", work, store, frames=8)
    recipe = ("--recipe", "pipe-d-small-events")
    changes = ("all.batch_size=16", "all.augment.flip=0")
    few = ("--set", "lif.learning_rate=0.05")  # 26 steps per epoch
    methods = (
        Method("scratch", ("scratch", *recipe)),
        Method("pipe-D, events", ("pipe-d", *recipe, *few)),
    )
    return [Comparison("pipe-D", store, methods, changes)]


def ucf101(folder: Path, work: Path) -> list[Comparison]:
    """Prepare the first fold of UCF101 from UCF-101/CLASS/*.avi and ucfTrainTestlist/."""
    store = work / "ucf101.zarr"
    lists = folder / "ucfTrainTestlist"
    eventdata.convert("ucf101", folder / "UCF-101", store, splits=lists, fold=1)
    recipe = ("--recipe", "ucf101-small")
    takes = {"CNN": "encoder", "RNN": "decoder", "CRNN": "both"}
    methods = [Method("scratch", ("scratch", *recipe))]
    for name, part in takes.items():
        methods.append(Method(f"pipe-D, {name}", ("pipe-d", *recipe, "--set", f"lif.take={part}")))
    return [Comparison("pipe-D", store, tuple(methods))]


DATA: dict[str, Callable[[Path, Path], list[Comparison]]] = {
    "pictures": pictures,
    "nmnist": nmnist,
    "ucf101": ucf101,
}


def machine(jobs: int) -> str:
    """Describe the machine of the measurements."""
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    device = ", ".join(gpus) or f"{os.cpu_count()} cores, {jobs} runs at a time"
    return f"{device}; {platform.system()}, torch {torch.__version__}"


def run(
    comparison: Comparison,
    method: Method,
    seed: int,
    folder: Path,
    changes: Sequence[str],
    threads: int,
) -> None:
    """Train or resume one method with one seed."""
    words = [*method.words, "--data", str(comparison.store), "--out", str(folder)]
    if method.images is not None:
        words += ["--images", str(method.images)]
    labels = [f"run.seed={seed}", f"run.label={json.dumps(method.label)}"]
    for change in (*labels, *comparison.changes, *changes):
        words += ["--set", change]
    click.secho(f"{comparison.name}: {method.label}, seed {seed}", bold=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, "-m", "train", *words], check=True, env=environment)


def run_all(
    comparison: Comparison, work: Path, seeds: int, jobs: int, changes: Sequence[str]
) -> list[Path]:
    """Run every method with every seed, ``jobs`` at a time; return the runs' folders.

    After the first failure no more runs are started.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    folders = []
    with ThreadPoolExecutor(jobs) as pool:
        running = []
        for seed in range(seeds):
            for method in comparison.methods:
                label = method.label.replace(", ", "-")
                folder = work / "runs" / comparison.name / f"{label}-{seed}"
                running.append(pool.submit(run, comparison, method, seed, folder, changes, threads))
                folders.append(folder)
        try:
            for future in running:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return folders


def append_results(
    results: Path, title: str, folders: list[Path], rows: str, words: str, jobs: int
) -> None:
    """Add a table with its command and machine to a Markdown file."""
    samples = json.loads((folders[0] / "result.json").read_text())["stages"][-1]["samples"]
    seeds = len({read_run(folder).seed for folder in folders})
    text = (
        f"\n## {title}\n\n`{words}`\n\n{machine(jobs)}. {samples['train']} samples to train on, "
        f"{samples['select']} held out; {seeds} seeds (mean ± deviation).\n\n{rows}"
    )
    if not results.exists():
        results.write_text(HEADER)
    with results.open("a") as file:
        file.write(text)


@click.command()
@click.argument("data", type=click.Choice(list(DATA)))
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("work", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Runs at the same time."
)
@click.option("--only", metavar="COMPARISON", help="Comparison to run; all by default.")
@click.option("--method", "labels", multiple=True, help="Methods to run; all by default.")
@click.option(
    "--set", "changes", multiple=True, metavar="STAGE.KEY=VALUE", help="Setting for every run."
)
@click.option(
    "--results",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Markdown file to append the table to.",
)
def main(
    data: str,
    source: Path,
    work: Path,
    seeds: int,
    jobs: int,
    only: str | None,
    labels: tuple[str, ...],
    changes: tuple[str, ...],
    results: Path | None,
) -> None:
    """Compare methods of training on the DATA in SOURCE; stores and runs go to WORK."""
    work.mkdir(parents=True, exist_ok=True)
    comparisons = DATA[data](source, work)
    names = [comparison.name for comparison in comparisons]
    if only not in (None, *names):
        raise click.BadParameter(
            f"unknown comparison {only!r}; choose from {', '.join(names)}", param_hint="--only"
        )
    known = [method.label for comparison in comparisons for method in comparison.methods]
    for label in set(labels) - set(known):
        raise click.BadParameter(
            f"unknown method {label!r}; choose from {'; '.join(known)}", param_hint="--method"
        )
    for comparison in comparisons:
        if only not in (None, comparison.name):
            continue
        if labels:
            chosen = tuple(method for method in comparison.methods if method.label in labels)
            comparison = replace(comparison, methods=chosen)
        folders = run_all(comparison, work, seeds, jobs, changes)
        rows = markdown(methods(report(folders, work / "report" / comparison.name)))
        click.echo(rows)
        if results is not None:
            words = ["python", "tools/experiments.py", data, source.name, "WORK"]
            words += ["--seeds", str(seeds), "--jobs", str(jobs), "--only", comparison.name]
            words += [word for label in labels for word in ("--method", label)]
            words += [word for change in changes for word in ("--set", change)]
            title = f"{comparison.name}: {source.stem}"
            append_results(results, title, folders, rows, shlex.join(words), jobs)


if __name__ == "__main__":
    main()
