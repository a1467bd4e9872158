"""Ways of training beside each other on small real data.

    python tools/experiments.py tiny_imagenet_20.zip WORK [--classes 10] [--seeds 3] [--set ...]

On events: from scratch, pipe-D from RGB images, from grey reconstructions and from the events; on
images: from scratch and pipe-S. Makes the stores, runs every way with every seed, and appends to
docs/results.md. Finished runs are not run again, so that a call that was interrupted, or one with
more seeds, goes on. The ways of a seed take turns: a busy spell of the machine hits all of them.
"""

import json
import os
import platform
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import click
import torch

import eventdata
from train.report import read_run, report, table

HEADER = """# Results

Ways of training beside each other, each table by the command above it (docs/training.md has the
recipes and the protocol). Times are those of one machine, pretraining counted, evaluation not.
"""


@dataclass(frozen=True)
class Way:
    """One way of training: a command's words, and where its pictures come from."""

    label: str
    words: tuple[str, ...]
    images: str | None = None


def ways(recipe_d: str, recipe_s: str) -> dict[str, list[Way]]:
    """The ways that are compared with each other, by the store they end on."""
    return {
        "events": [
            Way("scratch", ("scratch", "--recipe", recipe_d)),
            Way("pipe-D, RGB", ("pipe-d", "--recipe", recipe_d), "rgb"),
            Way("pipe-D, grey", ("pipe-d", "--recipe", recipe_d), "grey"),
            Way("pipe-D, events", ("pipe-d", "--recipe", f"{recipe_d}-events")),
        ],
        "rgb": [
            Way("scratch", ("scratch", "--recipe", recipe_s)),
            Way("pipe-S", ("pipe-s", "--recipe", recipe_s)),
        ],
    }


def unpack(archive: Path, folder: Path, classes: int) -> None:
    """The first classes of an archive ROOT/SPLIT/CLASS/*.JPEG as SPLIT/CLASS/*.JPEG."""
    with zipfile.ZipFile(archive) as zipped:
        files = [PurePosixPath(name) for name in zipped.namelist() if name.endswith(".JPEG")]
        chosen = sorted({path.parts[-2] for path in files})[:classes]
        for path in files:
            if path.parts[-2] in chosen:
                target = folder.joinpath(*path.parts[-3:])
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(zipped.read(str(path)))


def make_stores(pictures: Path, work: Path, side: int) -> dict[str, Path]:
    """Events, RGB images and grey reconstructions of the pictures, each of side x side pixels."""
    stores = {name: work / f"{name}.zarr" for name in ("events", "rgb", "grey")}
    eventdata.convert(
        "imagenet",
        pictures,
        stores["events"],
        long_side=side,
        crop=side,
        min_events=0,
        resampling="area",
    )
    eventdata.convert("images", pictures, stores["rgb"], short_side=side, crop=side)
    eventdata.convert("images", stores["events"], stores["grey"], grey_from_events=True)
    return stores


def machine() -> str:
    """What the figures were measured on."""
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    device = ", ".join(gpus) or f"CPU, {os.environ.get('OMP_NUM_THREADS', os.cpu_count())} threads"
    return f"{device}; {platform.system()}, torch {torch.__version__}"


@click.command()
@click.argument("archive", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("work", type=click.Path(file_okay=False, path_type=Path))
@click.option("--classes", type=click.IntRange(2), default=10, show_default=True)
@click.option("--side", type=click.IntRange(16), default=32, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--only", type=click.Choice(["events", "rgb"]), help="Only pipe-D, or only pipe-S.")
@click.option("--pipe-d", "recipe_d", default="pipe-d-small", show_default=True)
@click.option("--pipe-s", "recipe_s", default="pipe-s-small", show_default=True)
@click.option("--set", "changes", multiple=True, metavar="STAGE.KEY=VALUE", help="In every run.")
@click.option("--results", type=click.Path(dir_okay=False, path_type=Path), help="Append to it.")
def main(
    archive: Path,
    work: Path,
    classes: int,
    side: int,
    seeds: int,
    only: str | None,
    recipe_d: str,
    recipe_s: str,
    changes: tuple[str, ...],
    results: Path | None,
) -> None:
    """Compare ways of training on the pictures of ARCHIVE; stores and runs go into WORK."""
    pictures = work / "pictures"
    if not pictures.exists():
        unpack(archive, pictures, classes)
    stores = make_stores(pictures, work, side)
    for store, members in ways(recipe_d, recipe_s).items():
        if only not in (None, store):
            continue
        folders = []
        for seed in range(seeds):
            for way in members:
                folder = work / "runs" / store / f"{way.label.replace(', ', '-')}-{seed}"
                words = [*way.words, "--data", str(stores[store]), "--out", str(folder)]
                if way.images is not None:
                    words += ["--images", str(stores[way.images])]
                for change in (f"run.seed={seed}", f"run.label={json.dumps(way.label)}", *changes):
                    words += ["--set", change]
                click.secho(f"{way.label}, seed {seed}", bold=True)
                subprocess.run([sys.executable, "-m", "train", *words], check=True)
                folders.append(folder)
        rows = report(folders, work / f"report-{store}")
        click.echo(table(rows))
        if results is not None:
            words = [archive.name, "WORK", *(f"--set {change}" for change in changes)]
            words += [f"--classes {classes} --side {side} --seeds {seeds} --only {store}"]
            append_results(results, folders, table(rows), words)


def append_results(results: Path, folders: list[Path], rows: str, words: list[str]) -> None:
    """Add a table with its command and machine to a Markdown file."""
    samples = json.loads((folders[0] / "result.json").read_text())["stages"][-1]["samples"]
    spread = len({read_run(folder).seed for folder in folders})
    text = (
        f"\n## {words[0]}\n\n`python tools/experiments.py {' '.join(words)}`\n\n"
        f"{machine()}. {samples['train']} samples to train on, {samples['select']} held out; "
        f"{spread} seeds (mean ± deviation).\n\n{rows}"
    )
    if not results.exists():
        results.write_text(HEADER)
    with results.open("a") as file:
        file.write(text)


if __name__ == "__main__":
    main()
