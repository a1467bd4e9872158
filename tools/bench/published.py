"""The published way to read ES-ImageNet, restated plainly: what our tools are measured beside."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RawFile = tuple[Path, int, int]  # path, image height, image width


def raw_files(root: Path) -> list[RawFile]:
    """The files that the manifests of raw ES-ImageNet list."""
    found = []
    for split in ("train", "val"):
        manifest = root / f"{split}label.txt"
        if manifest.is_file():
            for line in manifest.read_text().splitlines():
                name, _, height, width = line.split()
                found.append((root / split / name, int(height), int(width)))
    return found


def frames(raw: RawFile, dtype: type = np.uint8) -> NDArray[Any]:
    """numpy.load, scatter into a dense (2, 8, 256, 256) array, crop: (2, 8, 224, 224)."""
    path, height, width = raw
    canvas: NDArray[Any] = np.zeros((2, 8, 256, 256), dtype)
    with np.load(path) as data:
        for polarity, key in enumerate(("pos", "neg")):
            events = data[key].astype(np.int64)
            rows = events[:, 0] + (254 - height) // 2
            columns = events[:, 1] + (254 - width) // 2
            canvas[polarity, events[:, 2] - 1, rows, columns] = 1
    return canvas[:, :, 16:240, 16:240]
