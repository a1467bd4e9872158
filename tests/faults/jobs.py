"""The jobs that faults are tried on: convert, generate and train, on small data.

A job is a command as a user runs it. Its results must not depend on how often it was stopped. These
are all bytes of a store and of raw files, and the weights, tables and test of a run; seconds differ
from call to call, and so do the files that hold them.
"""

import contextlib
import csv
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from tests.drawn import TINY_RECIPE, make_store
from tests.makers import make_es_imagenet, make_images, tree_digest

OUT = "OUT"
"""Stands for the output path in a job's words."""

RECIPE = (
    TINY_RECIPE
    + """
[defaults]
batch_size = 16
epochs = 2
augment = { crop = 0.1, mixup = 0.2 }
[stages.pretrain]
data = "images"
neuron = { kind = "ann" }
[stages.lif]
weights = "pretrain"
recalibrate = 2
ema = 0.9
augment = { event_drop = 0.2 }
"""
)

Content = dict[str, str]


@dataclass(frozen=True)
class Job:
    """A command, and functions that judge its output.

    inputs: the folder that it reads; content: what must be the same at the end; finished:
    whether the output claims to be complete; kept: units of work that the output records as
    done.
    """

    name: str
    words: tuple[str, ...]
    inputs: Path
    content: Callable[[Path], Content]
    finished: Callable[[Path], bool]
    kept: Callable[[Path], int]

    def arguments(self, out: Path) -> list[str]:
        """Return the words of the command."""
        return [str(out) if word == OUT else word for word in self.words]

    def command(self, out: Path) -> list[str]:
        """Return the command line of a call in its own process."""
        return [sys.executable, "-m", "eventdata", *self.arguments(out)]


def convert_job(folder: Path, *, samples: int = 128, workers: int = 2) -> Job:
    """Convert raw ES-ImageNet to a store in shards of four samples."""
    raw = folder / f"raw-{samples}"
    if not raw.exists():
        make_es_imagenet(raw, train=samples * 3 // 4, val=samples // 4)
    words = ("convert", "es-imagenet", str(raw), OUT, "--shard-size", "4")
    return Job(
        name="convert",
        words=(*words, "--workers", str(workers)),
        inputs=raw,
        content=tree_digest,
        finished=lambda out: _says(out / "zarr.json", "attributes", "eventdata", "complete"),
        kept=lambda out: sum(len(record["events"]) for record in _records(out)),
    )


def generate_job(folder: Path, *, samples: int = 128, workers: int = 2) -> Job:
    """Generate raw ES-ImageNet files from images, in batches of 64."""
    images = folder / f"images-{samples}"
    if not images.exists():
        make_images(images, train=samples * 3 // 4, val=samples // 4)
    words = ("generate", "es-imagenet", str(images), OUT, "--min-events", "20")
    return Job(
        name="generate",
        words=(*words, "--workers", str(workers)),
        inputs=images,
        content=tree_digest,
        finished=lambda out: _says(out / "generated.json", "complete"),
        kept=lambda out: sum(len(record["lines"]) for record in _records(out)),
    )


def train_job(folder: Path) -> Job:
    """Train pipe-D from still images: two stages of two epochs."""
    stores = folder / "stores"
    if not stores.exists():
        make_store(stores / "events.zarr")
        make_store(stores / "images.zarr", kind="image", channels=3)
        (stores / "tiny.toml").write_text(RECIPE)
    events, images, recipe = (
        str(stores / name) for name in ("events.zarr", "images.zarr", "tiny.toml")
    )
    words = ("train", "pipe-d", "--data", events, "--images", images, "--recipe", recipe)
    return Job(
        name="train",
        words=(*words, "--out", OUT),
        inputs=stores,
        content=run_content,
        finished=lambda out: (out / "result.json").exists(),
        kept=lambda out: sum(
            len(path.read_text().splitlines()) for path in out.glob("*/epochs.csv")
        ),
    )


def run_content(run: Path) -> Content:
    """Return digests of a run's weights, its tables without their seconds, and its test."""
    content = {}
    for path in sorted(run.glob("*/*.safetensors")):
        with safe_open(path, "np") as file:
            for key in sorted(file.keys()):
                name = f"{path.relative_to(run)}:{key}"
                content[name] = hashlib.sha256(file.get_tensor(key).tobytes()).hexdigest()
    for path in sorted(run.glob("*/*.csv")):
        with path.open(newline="") as table:
            rows = [
                {key: float(row[key]) for key in row if row[key] and "seconds" not in key}
                for row in csv.DictReader(table)
            ]
        content[str(path.relative_to(run))] = json.dumps(rows)
    content["test"] = json.dumps(json.loads((run / "result.json").read_text())["test"])
    return content


def without_work(content: Content) -> Content:
    """Return the content without the .work folder, which a kill at the very end leaves."""
    return {key: value for key, value in content.items() if not key.startswith(".work/")}


def leftovers(out: Path, temporary: Path) -> list[str]:
    """Return the files that only an unfinished call may have, here and among temporary files."""
    inside = [
        str(path.relative_to(out))
        for path in out.rglob("*")
        if path.name == ".work" or path.suffix in (".tmp", ".part")
    ]
    return inside + [path.name for path in temporary.iterdir()]


def _says(path: Path, *keys: str) -> bool:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return False
    for key in keys:
        found = found[key]
    return found is True


def _records(out: Path) -> Iterator[dict[str, list[object]]]:
    for path in sorted(out.glob(".work/*.json")):
        with contextlib.suppress(FileNotFoundError):  # removed by a call that is finishing
            yield json.loads(path.read_bytes())
