"""Baselines: other methods to read raw ES-ImageNet and to read frames from a cache.

The published loader is restated in plain code. A peer writes its cache into a folder of its own and
then reads a sample by its number; readers of Zarr stores also accept several numbers. All return
zeros and ones (8, 2, 224, 224) except SpikingJelly, whose cache holds counts (8, 2, 256, 256) in
eight frames of equally many events. Its format is restated too, because its datasets can't be
imported without torchvision.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
import zarr
from numpy.typing import NDArray
from tonic import DiskCachedDataset

RawFile = tuple[Path, int, int]  # path, image height, image width
Read = Callable[[Any], object]  # takes a number; for a Zarr store also a list of numbers
SIDE = 256
STEPS = 8


def raw_files(root: Path) -> list[RawFile]:
    """Return the files listed in the manifests of raw ES-ImageNet."""
    found = []
    for split in ("train", "val"):
        manifest = root / f"{split}label.txt"
        if manifest.is_file():
            for line in manifest.read_text().splitlines():
                name, _, height, width = line.split()
                found.append((root / split / name, int(height), int(width)))
    return found


def frames(raw: RawFile, dtype: type = np.uint8) -> NDArray[Any]:
    """Load a file as the published loader does: scatter and crop to (2, 8, 224, 224)."""
    path, height, width = raw
    canvas: NDArray[Any] = np.zeros((2, 8, 256, 256), dtype)
    with np.load(path) as data:
        for polarity, key in enumerate(("pos", "neg")):
            events = data[key].astype(np.int64)
            rows = events[:, 0] + (254 - height) // 2
            columns = events[:, 1] + (254 - width) // 2
            canvas[polarity, events[:, 2] - 1, rows, columns] = 1
    return canvas[:, :, 16:240, 16:240]


def peers(split: Path, files: list[RawFile], folder: Path) -> tuple[dict[str, Read], list[str]]:
    """Return the readers by name, and the missing ones with the reason.

    Args:
        split: Folder of a store's split.
        files: The raw files of its samples, in order.
        folder: Folder for the caches.
    """
    cache = spikingjelly_cache(files, new(folder / "spikingjelly"))
    readers: dict[str, Read] = {
        "published loader from raw npz": lambda index: frames(files[index], np.float32),
        "published dense frames npz": published_frames(files, new(folder / "published")),
        "SpikingJelly's frames cache, restated": lambda index: load_npz_frames(cache[index]),
        "Tonic DiskCachedDataset": tonic_cache(files, new(folder / "tonic")),
        "zarr-python, unpackbits": by_zarr(split, {}),
        "TensorStore, unpackbits": by_tensorstore(split),
    }
    missing = []
    optional: dict[str, tuple[str, Callable[[Any], Read]]] = {
        "zarrs, unpackbits": (
            "zarrs",
            lambda _: by_zarr(split, {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}),
        ),
        "SpikingJelly's frames cache": (
            "spikingjelly.datasets.utils",
            lambda utils: lambda index: utils.load_npz_frames(cache[index]),
        ),
    }
    for name, (module, reader) in optional.items():
        try:
            readers[name] = reader(import_module(module))
        except ImportError as error:
            missing.append(f"{name} ({error})")
    return readers, missing


def new(folder: Path) -> Path:
    """Create a folder and return it."""
    folder.mkdir(parents=True)
    return folder


def published_frames(files: list[RawFile], folder: Path) -> Read:
    """Write the published frames, a compressed npz of dense int8 for each sample."""
    for number, raw in enumerate(files):
        np.savez_compressed(folder / f"{number}.npz", frames(raw).view(np.int8))

    def read(index: int) -> object:
        with np.load(folder / f"{index}.npz") as data:
            return data["arr_0"]

    return read


def spikingjelly_cache(files: list[RawFile], folder: Path) -> list[Path]:
    """Write SpikingJelly's cache (2.0.0), a compressed npz of float64 counts for each sample."""
    paths = [folder / f"{number}.npz" for number in range(len(files))]
    for path, raw in zip(paths, files, strict=True):
        np.savez_compressed(path, frames=equal_count_frames(raw))
    return paths


def equal_count_frames(raw: RawFile) -> NDArray[np.float64]:
    """Restate ESImageNet(data_type="frame", frames_number=8, split_by="number")."""
    with np.load(raw[0]) as data:
        events = [np.insert(data[key], 3, p, axis=1) for p, key in enumerate(("neg", "pos"))]
    merged = np.concatenate(events).astype(np.int64)
    rows, columns, _, polarity = merged[np.argsort(merged[:, 2])].T
    place = polarity * SIDE * SIDE + rows * SIDE + columns
    share = len(place) // STEPS
    bounds = [share * step for step in range(STEPS)] + [len(place)]
    counts = [
        np.bincount(place[start:stop], minlength=2 * SIDE * SIDE)
        for start, stop in pairwise(bounds)
    ]
    return np.stack(counts).reshape(STEPS, 2, SIDE, SIDE).astype(np.float64)


def load_npz_frames(path: Path) -> NDArray[np.float32]:
    """Restate SpikingJelly's `load_npz_frames`."""
    with np.load(path) as data:
        found: NDArray[np.float64] = data["frames"]
    return found.astype(np.float32)


def tonic_cache(files: list[RawFile], folder: Path) -> Read:
    """Write Tonic's disk cache, an HDF5 file with lzf for each sample."""
    dense = [(frames(raw), 0) for raw in files]
    cached = DiskCachedDataset(dense, cache_path=str(folder))
    for index in range(len(dense)):
        cached[index]
    reads: Read = cached.__getitem__
    return reads


def by_zarr(split: Path, settings: Mapping[str, str]) -> Read:
    """Read the store with zarr-python, with its own or another codec pipeline."""
    with zarr.config.set(dict(settings)):
        array = zarr.open_array(split / "frames", mode="r")
    return lambda index: unpacked(np.asarray(array.oindex[index]))


def by_tensorstore(split: Path) -> Read:
    """Read the store with TensorStore, which decodes several samples in several threads."""
    spec = {"driver": "zarr3", "kvstore": f"file://{split}/frames/"}
    array = tensorstore.open(spec, open=True).result()
    return lambda index: unpacked(array[index].read().result())


def unpacked(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Unpack bytes (..., 1, P, H, W) to bits (..., T, P, H, W)."""
    return np.unpackbits(packed, axis=-4, count=STEPS)
