"""Tiny stores of random samples for tests of training; each class has a bright quadrant."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import eventdata
from eventdata.raw.source import Sample, Samples
from eventdata.store.layout import SampleFormat

T, SIDE, CLASSES = 4, 16, 3
FLOATING = ("voxel", "timesurface")

TINY_RECIPE = """pipeline = "pipe-d"
[network]
name = "vgg"
width = 4
plan = [[1], [2]]
[machine]
accelerator = "cpu"
log_every = 1
threads = 1
keep_pages = false
[run]
held_out = 0.2
"""
"""The beginning of test recipes: a small network on a CPU; `[run]` and stages may follow."""


@dataclass(frozen=True)
class Drawn:
    """A source whose classes differ in the place of most of their events or their light."""

    kind: str = "binary"
    """A representation, or "wide" for counts that need uint16."""
    counts: tuple[tuple[str, int], ...] = (("train", 60), ("test", 24))
    names: str = "s{:03}"
    channels: int = 2
    first_label: int = 0
    n_classes: int = CLASSES
    side: int = SIDE
    trace: str = ""
    """Placements of ODG, as if that had made the frames."""
    dataset = "drawn"

    @property
    def classes(self) -> list[str]:
        return [f"c{number}" for number in range(self.n_classes)]

    @property
    def sample_format(self) -> SampleFormat:
        steps = None if self.kind == "image" else T
        wide = self.kind == "wide"
        return SampleFormat(
            representation="count" if wide else self.kind,
            steps=steps,
            channels=self.channels,
            height=self.side,
            width=self.side,
            dtype="uint16" if wide else "float16" if self.kind in FLOATING else "uint8",
        )

    @property
    def parameters(self) -> dict[str, object]:
        counts = [list(count) for count in self.counts]
        trace = {"trace": self.trace} if self.trace else {}
        return {"source": "drawn", "kind": self.kind, "counts": counts, **trace}

    def splits(self) -> dict[str, Samples]:
        listing = {}
        for split, count in self.counts:
            labels = np.arange(count) % CLASSES + self.first_label
            listing[split] = Samples(
                names=[f"{split}/{self.names.format(number)}" for number in range(count)],
                labels=labels.astype(np.int32),
                paths=[""] * count,
                details=np.arange(count, dtype=np.int64)[:, None],
            )
        return listing

    def read(self, sample: Sample, out: NDArray[np.uint8]) -> int:
        rng = np.random.default_rng([len(sample.name), sample.details[0]])
        row, column = divmod(sample.label % CLASSES, 2)
        chance = np.full((self.side, self.side), 0.1)
        half = self.side // 2
        chance[row * half : (row + 1) * half, column * half : (column + 1) * half] = 0.5
        if self.kind == "image":
            light = chance[..., None] * rng.uniform(100, 400, (self.side, self.side, self.channels))
            out[0] = light.astype(np.uint8)
            return 0
        frames = rng.random((T, self.channels, self.side, self.side)) < chance
        if self.kind in ("count", "wide"):
            out[:] = np.moveaxis(frames, 1, -1) * (1 if self.kind == "count" else 300)
        elif self.kind in FLOATING:
            sign = rng.choice([-1, 1], frames.shape) if self.kind == "voxel" else 1
            out[:] = np.moveaxis(frames * sign * rng.uniform(0.1, 1, frames.shape), 1, -1)
        else:
            out[:] = np.moveaxis(np.packbits(frames, axis=0), 1, -1)
        return int(frames.sum())


def make_store(path: Path, **settings: Any) -> str:
    """Make a store of random samples and return its path."""
    eventdata.convert(Drawn(**settings), "", path)
    return str(path)
