"""Other ways to read the frames of samples: what users would otherwise take.

A peer prepares what it reads, in a folder of its own, and then reads a sample by its number (those
of Zarr stores also many by theirs): frames (8, 2, 224, 224) of zeros and ones as ours, but for
SpikingJelly's. What its frames cache holds of
such a sample are counts (8, 2, 256, 256) in eight frames of as many events each; that is restated
in plain code, because its datasets can't be imported without torchvision.
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

from tools.bench.published import RawFile, frames

Read = Callable[[Any], object]  # by number; of a Zarr store also by a list of numbers
SIDE = 256
STEPS = 8


def peers(split: Path, files: list[RawFile], folder: Path) -> tuple[dict[str, Read], list[str]]:
    """Readers by name, and which peers can't be had here, and why.

    split: of a store; files: the raw files of its samples, in their order.
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
    """The folder, made."""
    folder.mkdir(parents=True)
    return folder


def published_frames(files: list[RawFile], folder: Path) -> Read:
    """The published frames: a compressed npz of dense int8 each."""
    for number, raw in enumerate(files):
        np.savez_compressed(folder / f"{number}.npz", frames(raw).view(np.int8))

    def read(index: int) -> object:
        with np.load(folder / f"{index}.npz") as data:
            return data["arr_0"]

    return read


def spikingjelly_cache(files: list[RawFile], folder: Path) -> list[Path]:
    """The files of SpikingJelly's cache: a compressed npz of float64 counts each (2.0.0)."""
    paths = [folder / f"{number}.npz" for number in range(len(files))]
    for path, raw in zip(paths, files, strict=True):
        np.savez_compressed(path, frames=frames_of_as_many_events(raw))
    return paths


def frames_of_as_many_events(raw: RawFile) -> NDArray[np.float64]:
    """Its ESImageNet(data_type="frame", frames_number=8, split_by="number"): (8, 2, 256, 256)."""
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
    """Its `load_npz_frames`."""
    with np.load(path) as data:
        found: NDArray[np.float64] = data["frames"]
    return found.astype(np.float32)


def tonic_cache(files: list[RawFile], folder: Path) -> Read:
    """Tonic's cache on disk: an HDF5 file each, lzf."""
    dense = [(frames(raw), 0) for raw in files]
    cached = DiskCachedDataset(dense, cache_path=str(folder))
    for index in range(len(dense)):
        cached[index]
    reads: Read = cached.__getitem__
    return reads


def by_zarr(split: Path, settings: Mapping[str, str]) -> Read:
    """The store by zarr-python, with a codec pipeline of its own or another's."""
    with zarr.config.set(dict(settings)):
        array = zarr.open_array(split / "frames", mode="r")
    return lambda index: unpacked(np.asarray(array.oindex[index]))


def by_tensorstore(split: Path) -> Read:
    """The store by TensorStore, which decodes several samples by several threads."""
    spec = {"driver": "zarr3", "kvstore": f"file://{split}/frames/"}
    array = tensorstore.open(spec, open=True).result()
    return lambda index: unpacked(array[index].read().result())


def unpacked(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(..., 1, P, H, W) of bytes as (..., T, P, H, W) of bits."""
    return np.unpackbits(packed, axis=-4, count=STEPS)
