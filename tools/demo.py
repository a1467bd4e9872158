"""The main job from end to end, on real data that comes with scikit-learn.

    make demo        (or: python tools/demo.py FOLDER)

Handwritten digits become raw events in ES-ImageNet's published layout, these one verified store,
the store pictures and batches for torch. Each command is shown as a user would type it.
"""

import subprocess
import time
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

import eventdata
from eventdata.errors import LeftOutError
from eventdata.kernels.odg import OdgSettings, image_events, scaled_size

DIGITS = 1000
VALIDATION = 5  # every fifth digit


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Run the demonstration in FOLDER."""
    started = time.monotonic()
    raw, store = folder / "raw", folder / "digits.zarr"
    say(f"{DIGITS} handwritten digits -> raw events in ES-ImageNet's layout: {raw}")
    make_raw(raw)
    run("eventdata", "convert", "es-imagenet", raw, store, "--overwrite")
    run("eventdata", "verify", store, "--against", raw)
    run("eventdata", "info", store)
    run("eventdata", "show", store, "--split", "val", "--index", "0:16", "-o", folder / "sheet.png")
    run("eventdata", "show", store, "--split", "val", "--index", "0", "-o", folder / "moving.gif")
    say("batches for torch:")
    dataset = eventdata.FrameDataset(store, split="train")
    start = time.monotonic()
    for frames, _ in DataLoader(dataset, batch_size=64, shuffle=True):
        shape = tuple(frames.shape)
    speed = len(dataset) / (time.monotonic() - start)
    click.echo(f"{dataset}\nlast batch {shape}, {speed:,.0f} samples/s by one process")
    say(f"done in {time.monotonic() - started:.0f} s; look at {folder}/sheet.png and moving.gif")


def make_raw(root: Path) -> None:
    """Raw events of the digits, as the published generator lays them out."""
    digits = load_digits()
    settings = OdgSettings(mode="published")
    manifests: dict[str, list[str]] = {"train": [], "val": []}
    order = np.random.default_rng(0).permutation(len(digits.target))
    for number in range(DIGITS):
        image = enlarge(digits.images[order[number]])
        label = int(digits.target[order[number]])
        try:
            pos, neg = image_events(image, settings)
        except LeftOutError:
            continue
        split = "train" if number % VALIDATION else "val"
        name = f"class{label}/class{label}_{number}.npz"
        (root / split / name).parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(root / split / name, pos=pos, neg=neg)
        height, width = scaled_size(image.shape[0], image.shape[1], settings)
        manifests[split].append(f"{name} {label} {height} {width}\n")
    for split, lines in manifests.items():
        (root / f"{split}label.txt").write_text("".join(lines))


def enlarge(digit: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A digit of 8x8 pixels (0 to 16) at 254x254 with smooth, sharp strokes: uint8."""
    small = Image.fromarray((digit * (255 / 16)).astype(np.uint8))
    large = np.asarray(small.resize((254, 254), Image.Resampling.BICUBIC), np.float64)
    return np.clip(12 * (large - 110), 0, 255).astype(np.uint8)


def say(text: str) -> None:
    """A line that stands out."""
    click.secho(f"\n{text}", bold=True)


def run(*words: object) -> None:
    """Show a command, then run it."""
    line = [str(word) for word in words]
    click.secho(f"\n$ {' '.join(line)}", fg="cyan")
    subprocess.run(line, check=True)


if __name__ == "__main__":
    main()
