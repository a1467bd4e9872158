"""Measure how planning, converting, opening and reading grow with the number of samples.

    python tools/bench/growth.py [--sizes 1000,10000,100000,1000000] [--output result.json]

Planning looks up every file of a synthetic raw ES-ImageNet, made of hard links to a few tiny files.
The other steps use small frames that need no file, so that they measure the work around a sample,
which might grow, and not its bytes, which do not. All times are per sample, so linear growth is a
ratio of one. Each step runs in its own process.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from numpy.typing import NDArray

import eventdata
from eventdata.conversion import plan_job
from eventdata.raw.es_imagenet import EsImageNet
from eventdata.raw.source import Sample, Samples
from eventdata.store.layout import SampleFormat
from tools.bench.report import (
    Timing,
    machine,
    new_figure,
    output_option,
    publish,
    resident,
    runs_option,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES = 1000
ROWS = 199  # of raw files that differ
READS = 4096  # samples read at random

Seconds = float


@dataclass(frozen=True)
class Dots:
    """A source of small frames with a few events, made from the sample's number."""

    count: int
    dataset = "dots"
    classes = tuple(f"class{label}" for label in range(CLASSES))
    sample_format = SampleFormat(representation="binary", steps=8, channels=2, height=32, width=32)

    @property
    def parameters(self) -> dict[str, object]:
        """Return the settings."""
        return {"source": "dots", "count": self.count}

    def splits(self) -> dict[str, Samples]:
        """Return the only split."""
        numbers = np.arange(self.count)
        return {
            "train": Samples(
                names=[f"class{number % CLASSES}/{number}" for number in range(self.count)],
                labels=(numbers % CLASSES).astype(np.int32),
                paths=[""] * self.count,
                details=numbers[:, None],
            )
        }

    def read(self, sample: Sample, out: NDArray[np.uint8]) -> int:
        """Write 32 events."""
        out[:] = 0
        out[0, :, sample.details[0] % 32, 0] = 128
        return 32


def raw_names(count: int) -> Iterator[tuple[int, str]]:
    """Yield the numbers and names of raw ES-ImageNet, class by class."""
    for label in range(CLASSES):
        for number in range(label, count, CLASSES):
            yield number, f"class{label}/class{label}_{number}.npz"


def raw_contents() -> list[bytes]:
    """Return the contents of raw files: file ``number`` has its events in row number % ROWS."""
    contents = []
    for row in range(ROWS):
        file = io.BytesIO()
        event = np.array([[row, 100, 1]], np.uint8)
        np.savez(file, pos=event, neg=event)
        contents.append(file.getvalue())
    return contents


def manifest(count: int) -> str:
    """Return the manifest of raw ES-ImageNet."""
    return "".join(f"{name} {number % CLASSES} 190 254\n" for number, name in raw_names(count))


def make_raw(root: Path, count: int) -> Path:
    """Make raw ES-ImageNet with ``count`` names of a few files."""
    train, originals = root / "train", root / "originals"
    originals.mkdir(parents=True)
    for row, content in enumerate(raw_contents()):
        (originals / str(row)).write_bytes(content)
    for label in range(CLASSES):
        (train / f"class{label}").mkdir(parents=True)
    for number, name in raw_names(count):
        (train / name).hardlink_to(originals / str(number % ROWS))
    (root / "trainlabel.txt").write_text(manifest(count))
    return root


def plan(folder: Path, count: int) -> tuple[Seconds, int]:
    """Plan a conversion of raw files."""
    root = folder / "raw"
    if not root.exists():
        make_raw(root, count)
    start = time.perf_counter()
    job = plan_job(EsImageNet(root), shard_size=512, limit=None, on_error="fail")
    return time.perf_counter() - start, job.total


def convert(folder: Path, count: int) -> tuple[Seconds, int]:
    """Convert samples that cost little."""
    start = time.perf_counter()
    eventdata.convert(Dots(count), "", folder / "store.zarr", overwrite=True)
    return time.perf_counter() - start, count


def convert_again(folder: Path, count: int) -> tuple[Seconds, int]:
    """Convert again and find that nothing has changed."""
    start = time.perf_counter()
    done = eventdata.convert(Dots(count), "", folder / "store.zarr")
    seconds = time.perf_counter() - start
    assert done.state == "already complete", done
    return seconds, count


def open_store(folder: Path, count: int) -> tuple[Seconds, int]:
    """Open the store and read all names."""
    dataset = eventdata.FrameDataset  # imports torch before the clock starts
    start = time.perf_counter()
    names = dataset(folder / "store.zarr").names
    return time.perf_counter() - start, len(names)


def read_one(folder: Path, count: int) -> tuple[Seconds, int]:
    """Read random samples, one at a time."""
    dataset = eventdata.FrameDataset(folder / "store.zarr")
    for index in range(0, count, 512):
        dataset[index]
    order = np.random.default_rng(0).integers(0, count, READS).tolist()
    start = time.perf_counter()
    for index in order:
        dataset[index]
    return time.perf_counter() - start, READS


def first_batch(folder: Path, count: int) -> tuple[Seconds, int]:
    """Create a loader, shuffle, and read the first batch."""
    dataset = eventdata.FrameDataset(folder / "store.zarr")
    next(iter(eventdata.FrameLoader(dataset, 64)))  # kernels are loaded
    start = time.perf_counter()
    next(iter(eventdata.FrameLoader(dataset, 64, shuffle=True)))
    return time.perf_counter() - start, count


STEPS: dict[str, Callable[[Path, int], tuple[Seconds, int]]] = {
    "plan": plan,
    "convert": convert,
    "convert_again": convert_again,
    "open": open_store,
    "read": read_one,
    "first_batch": first_batch,
}


def do_step(step: str, folder: str, count: str) -> dict[str, float]:
    """Run a step in this process and return its time and memory."""
    seconds, samples = STEPS[step](Path(folder), int(count))
    return {"us_per_sample": 1e6 * seconds / samples, "peak_bytes": resident("VmHWM")}


def run_step(step: str, folder: Path, count: int) -> tuple[float, float]:
    """Run a step in its own process; return microseconds per sample and peak megabytes."""
    words = [sys.executable, "-m", "tools.bench.growth", "--step", step, str(folder), str(count)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout)
    return result["us_per_sample"], result["peak_bytes"] / 1e6


@click.command()
@click.option("--sizes", default="1000,10000,100000,1000000", show_default=True)
@runs_option(3)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(STEPS)),
    help="Steps to measure; all by default.",
)
@output_option
@click.option("--step", nargs=3, hidden=True, help="Run one step and print its time and memory.")
def main(
    sizes: str,
    runs: int,
    only: tuple[str, ...],
    output: Path | None,
    step: tuple[str, str, str] | None,
) -> None:
    """Measure every step for each number of samples; a step may need earlier ones."""
    if step is not None:
        print(json.dumps(do_step(*step)))
        return
    counts = [int(size) for size in sizes.split(",")]
    steps = {name: todo for name, todo in STEPS.items() if not only or name in only}
    times: dict[str, list[Timing]] = {name: [] for name in steps}
    peaks: dict[str, list[float]] = {name: [] for name in steps}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder_name:
            for name in steps:
                done = [run_step(name, Path(folder_name), count) for _ in range(runs)]
                times[name].append(Timing(tuple(us for us, _ in done)))
                peaks[name].append(max(peak for _, peak in done))
    title = "Microseconds per sample (and peak memory, MB) by number of samples"
    head = ("step", *(f"{count:,}" for count in counts), "last over first", "what")
    rows = [
        (
            name,
            *(
                f"{t.median:.4g} ({mb:,.0f})"
                for t, mb in zip(times[name], peaks[name], strict=True)
            ),
            f"{times[name][-1].median / times[name][0].median:.2f}",
            (todo.__doc__ or "").removesuffix("."),
        )
        for name, todo in steps.items()
    ]
    here = machine()
    result = {
        "title": title,
        "machine": here,
        "samples": counts,
        "us_per_sample": {name: [t.runs for t in found] for name, found in times.items()},
        "peak_mb": peaks,
    }
    publish(title, head, rows, here, output, result, lambda: plot(counts, times))


def plot(counts: list[int], times: dict[str, list[Timing]]) -> Figure | None:
    """Draw a line for each step; it is level if growth is linear."""
    figure = new_figure(4.5)
    if figure is None:
        return None
    axes = figure.subplots()
    for name, found in times.items():
        axes.plot(counts, [timing.median for timing in found], "o-", label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("samples")
    axes.set_ylabel("microseconds per sample")
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
