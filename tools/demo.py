"""Run the whole path from raw events to a trained network, on data from scikit-learn.

    make demo        (or: python tools/demo.py FOLDER)

Handwritten digits become raw events in ES-ImageNet's published layout, and these become one
verified store. The store gives pictures and batches for PyTorch. A spiking network is trained on
them twice: pretrained as an ANN on the images, and from scratch. Each command is printed as a user
would type it.
"""

import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

import eventdata

DIGITS = 1000
VALIDATION = 5  # every fifth digit


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Run the demonstration in FOLDER."""
    started = time.monotonic()
    images, raw, store = folder / "images", folder / "raw", folder / "digits.zarr"
    say(f"{DIGITS} handwritten digits as images: {images}")
    save_digits(images)
    run("eventdata", "generate", "es-imagenet", images, raw)
    run("eventdata", "convert", "es-imagenet", raw, store)
    run("eventdata", "verify", store, "--against", raw)
    run("eventdata", "info", store)
    run("eventdata", "show", store, "--split", "val", "--index", "0:16", "-o", folder / "sheet.png")
    run("eventdata", "show", store, "--split", "val", "--index", "0", "-o", folder / "moving.gif")
    say("batches for torch:")
    dataset = eventdata.FrameDataset(store, split="train")
    click.echo(dataset)
    loaders: dict[str, Iterable[tuple[Any, Any]]] = {
        "torch's DataLoader, one process": DataLoader(dataset, batch_size=64, shuffle=True),
        "FrameLoader, two threads": eventdata.FrameLoader(dataset, 64, shuffle=True),
    }
    for name, loader in loaders.items():
        start = time.monotonic()
        for frames, _ in loader:
            shape = tuple(frames.shape)
        speed = len(dataset) / (time.monotonic() - start)
        click.echo(f"{name}: {speed:,.0f} samples/s, last batch {shape}")
    say("ANN on the images -> LIF on the events (pipe-D), and LIF from scratch:")
    stills, pipe_d, scratch = folder / "images.zarr", folder / "pipe-d", folder / "scratch"
    run("eventdata", "convert", "images", images, stills, "--short-side", 224, "--crop", 224)
    train = ("eventdata", "train")
    recipe = ("--recipe", "digits", "--data", store)
    run(*train, "pipe-d", *recipe, "--images", stills, "-o", pipe_d)
    run(*train, "scratch", *recipe, "-o", scratch)
    run("eventdata", "report", pipe_d, scratch, "-o", folder / "report")
    say(
        f"done in {time.monotonic() - started:.0f} s; look at sheet.png, moving.gif and "
        f"report/report.png in {folder}"
    )


def save_digits(root: Path) -> None:
    """Write digits as images in split folders with a folder per class."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    for number in range(DIGITS):
        split = "train" if number % VALIDATION else "val"
        path = root / split / str(digits.target[order[number]]) / f"{number}.png"
        if not path.exists():  # a second run finds the same input
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(enlarge(digits.images[order[number]])).save(path)


def enlarge(digit: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Scale a digit of 8x8 pixels (0 to 16) to uint8 254x254 with sharp strokes."""
    small = Image.fromarray((digit * (255 / 16)).astype(np.uint8))
    large = np.asarray(small.resize((254, 254), Image.Resampling.BICUBIC), np.float64)
    return np.clip(12 * (large - 110), 0, 255).astype(np.uint8)


def say(text: str) -> None:
    """Print a heading."""
    click.secho(f"\n{text}", bold=True)


def run(*words: object) -> None:
    """Print a command, then run it."""
    line = [str(word) for word in words]
    click.secho(f"\n$ {' '.join(line)}", fg="cyan")
    subprocess.run(line, check=True)


if __name__ == "__main__":
    main()
