"""Check an installed package in a folder of its own: python -P smoke.py FOLDER

It imports nothing from the repository. It converts, verifies, shows, loads and trains for an epoch
by the installed command, and loads every recipe and every file that the packages bring along.
"""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

import eventdata
import train
from train.recipe import load, recipe_names

DATA = ("eventdata/py.typed", "eventdata/page.html", "train/py.typed", "train/recipes/digits.toml")
QUICK = ("scratch.epochs=1", "all.batch_size=4", "network.width=4", "machine.accelerator=cpu")


def main(folder: Path) -> None:
    """Run the checks; end with an error at the first that fails."""
    for package in (eventdata, train):
        place = Path(package.__file__ or "").resolve()
        if not place.is_relative_to(Path(sys.prefix).resolve()):
            raise SystemExit(f"{place} is not in {sys.prefix}; run python -P {sys.argv[0]}")
    for name in DATA:
        package_name, _, path = name.partition("/")
        if not files(package_name).joinpath(path).is_file():
            raise SystemExit(f"{name} is missing in the installed package")
    for recipe in recipe_names():
        load(recipe, check_weights=False)
    print(f"eventdata {eventdata.__version__} with {len(recipe_names())} recipes in {sys.prefix}")

    images, raw, store, run = (folder / name for name in ("images", "raw", "es.zarr", "run"))
    draw(images)
    command("generate", "es-imagenet", images, raw, "--min-events", 0)
    command("convert", "es-imagenet", raw, store)
    command("verify", store, "--against", raw)
    command("info", store)
    command("show", store, "--split", "val", "--index", "0:2", "-o", folder / "samples.html")
    dataset = eventdata.FrameDataset(store, "train")
    shapes = [tuple(frames.shape) for frames, _ in eventdata.FrameLoader(dataset, 8)]
    if shapes != [(8, 8, 2, 224, 224), (8, 8, 2, 224, 224)]:
        raise SystemExit(f"batches have the shapes {shapes}")
    small = folder / "small.zarr"
    size = ("--long-side", 32, "--crop", 32, "--min-events", 0, "--resampling", "area")
    command("convert", "imagenet", images, small, *size)
    changes = [word for change in QUICK for word in ("--set", change)]
    recipe_words = ("--recipe", "pipe-d-small-events", "--data", small, "-o", run)
    command("train", "scratch", *recipe_words, *changes)
    command("report", run, "-o", folder / "report.html")
    print("the installed package works")


def draw(images: Path) -> None:
    """Draw images of two classes, 8 for training and 4 for validation of each."""
    random = np.random.default_rng(0)
    for split, count in {"train": 8, "val": 4}.items():
        for name, slope in {"flat": 0, "steep": 2}.items():
            path = images / split / name
            path.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                row, column = np.mgrid[:128, :128]
                bright = np.sin((row + slope * column) / 8 + random.uniform(0, 6)) > 0
                Image.fromarray((200 * bright).astype(np.uint8)).save(path / f"{number}.png")


def command(*words: object) -> None:
    """Print and run a command of the installed package."""
    line = ["eventdata", *map(str, words)]
    print("$", *line, flush=True)
    subprocess.run([Path(sys.executable).parent / line[0], *line[1:]], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
