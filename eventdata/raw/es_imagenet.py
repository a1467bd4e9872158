"""ES-ImageNet as published: a manifest and one small npz of event coordinates a sample.

Lin et al., "ES-ImageNet: A Million Event-Stream Classification Dataset for Spiking Neural
Networks", 2021. A manifest line is ``path label height width``; a file holds ``pos`` and ``neg``,
uint8 (n, 3): row, column, step 1..8. The frames are those of the published loader: centred on a
256x256 canvas, one bit a cell, cropped to [16:240, 16:240].
"""

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.files.archives.paths import unwrapped
from eventdata.files.inputs import folder_in
from eventdata.formats.npz import read_npz
from eventdata.kernels.packing import BAD_STEP, OK, count_ones, scatter_coordinates
from eventdata.raw.listing import read_lines, safe_relative
from eventdata.raw.source import Sample, Samples, SourceSettings
from eventdata.store.layout import Parameters, SampleFormat

MANIFESTS = {"train": "trainlabel.txt", "val": "vallabel.txt"}
CLASSES = 1000
LONG_SIDE = 254
CANVAS = 256
MARGIN = 16
SIDE = CANVAS - 2 * MARGIN
STEPS = 8
# A cell can hold one event a step and polarity: more bytes than this is no sample.
MAX_ARRAY_BYTES = STEPS * CANVAS * CANVAS * 3 + 4096
_WHOLE_NUMBER = re.compile("0*([0-9]{1,9})|-?[0-9]+")  # without a group: signed or too long


@dataclass(frozen=True)
class EsImageNet(SourceSettings):
    """Raw ES-ImageNet under ``root``: manifests there, files in ``train/`` and ``val/``."""

    dataset = "es-imagenet"
    example = "ES-imagenet-0.18/ es.zarr"
    walks = False
    classes = tuple(f"class{label}" for label in range(CLASSES))
    sample_format = SampleFormat("binary", STEPS, 2, SIDE, SIDE)
    parameters: ClassVar[Parameters] = {"source": "es-imagenet", "framing": "published"}

    def splits(self) -> dict[str, Samples]:
        self.check_split(MANIFESTS)
        wanted = [self.only] if self.only else list(MANIFESTS)
        root = unwrapped(self.root)
        present = [split for split in wanted if (root / MANIFESTS[split]).is_file()]
        if not present:
            names = " or ".join(MANIFESTS[split] for split in wanted)
            raise InputError(
                f"{self.root}: no {names} in it; pass the folder that holds the manifests and the "
                "folders train and val (see datasets.md)"
            )
        return {
            split: self._list(root / MANIFESTS[split], unwrapped(folder_in(root, split)))
            for split in present
        }

    def _list(self, manifest: Path, folder: Path) -> Samples:
        lines = read_lines(manifest)
        if not lines:
            raise InputError(f"{manifest}: the manifest is empty; get it again")
        names: list[str] = []
        paths: list[str] = []
        labels = np.zeros(len(lines), np.int32)
        sizes = np.zeros((len(lines), 2), np.int64)
        problems: dict[int, str] = {}
        seen: set[str] = set()
        for index, line in enumerate(lines):
            name, label, height, width, problem = _parse_line(line)
            place = posixpath.normpath(name)  # ./a.npz is a.npz
            if place == name:
                place = name  # one text in memory
            if not problem and place in seen:
                problem = f"{name!r} is listed twice"
            if problem:
                problems[index] = f"{manifest}:{index + 1}: {problem}"
            seen.add(place)
            names.append(name)
            paths.append("" if problem else f"{folder}/{name}")
            labels[index] = label
            sizes[index] = height, width
        return Samples(names, labels, paths, sizes, problems)

    def read(self, sample: Sample, out: NDArray[Any]) -> int:
        arrays = read_npz(sample.path, ("pos", "neg"), MAX_ARRAY_BYTES)
        height, width = sample.details
        shift = (LONG_SIDE - height) // 2, (LONG_SIDE - width) // 2
        out[:] = 0
        for polarity, (key, events) in enumerate(zip(("pos", "neg"), arrays, strict=True)):
            if events.ndim != 2 or events.shape[1] != 3:
                raise InputError(
                    f"{sample.path}: array {key!r} has shape {events.shape}, not (n, 3) = row, "
                    "column, step; generate the file again"
                )
            fault, event = scatter_coordinates(
                np.ascontiguousarray(events), polarity, *shift, CANVAS, MARGIN, out
            )
            if fault != OK:
                row, column, step = events[event].tolist()
                bad = "a step outside 1 to 8" if fault == BAD_STEP else "coordinates off the canvas"
                raise InputError(
                    f"{sample.path}: event {event} of {key!r} (row {row}, column {column}, step "
                    f"{step}; image {height}x{width}) has {bad}; generate the file again"
                )
        if not any(map(len, arrays)):
            raise InputError(f"{sample.path}: no events in it; generate the file again")
        return count_ones(out)


def _parse_line(line: str) -> tuple[str, int, int, int, str]:
    """Return name, label, height, width of a manifest line, and its fault or ""."""
    fields = line.split()
    name = fields[0] if fields else ""
    if len(fields) != 4:
        return name, -1, 0, 0, f"{len(fields)} fields, not 4 (path label height width): {line!r}"
    numbers = [match for match in map(_WHOLE_NUMBER.fullmatch, fields[1:]) if match]
    if len(numbers) != 3:
        return name, -1, 0, 0, f"label, height and width must be whole numbers: {line!r}"
    label, height, width = (int(number[1] or -1) for number in numbers)
    if not 0 <= label < CLASSES:
        return name, -1, 0, 0, f"unknown label {fields[1]}; labels are 0 to {CLASSES - 1}"
    if not (0 < height <= LONG_SIDE and 0 < width <= LONG_SIDE):
        size = "x".join(fields[2:])
        return name, label, 0, 0, f"image size {size} is not within 1 to {LONG_SIDE}"
    if not safe_relative(name):
        return name, label, 0, 0, f"path {name!r} leaves the folder"
    return name, label, height, width, ""
