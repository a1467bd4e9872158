"""HDF5 and NumPy files of events for the bench of formats, and the libraries that read them."""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.events import Events

Write = Callable[[Path, Events], None]
Read = Callable[[Path], int]  # returns the number of events


def _columns(events: Events, kinds: str = "u2 u2 u4 u1") -> dict[str, NDArray[Any]]:
    return {
        field: events[field].astype(kind) for field, kind in zip("xytp", kinds.split(), strict=True)
    }


def _table(events: Events, order: str, kind: str, second: float = 1) -> NDArray[Any]:
    table = np.stack([events[field] for field in order], axis=1).astype(kind)
    table[:, order.index("t")] /= second
    return table


def _write_columns(path: Path, events: Events, **storage: Any) -> None:
    """Write DSEC's arrangement; Blosc unless ``storage`` says otherwise."""
    storage = storage or dict(import_module("hdf5plugin").Blosc(cname="zstd"))
    with import_module("h5py").File(path, "w") as file:
        for name, column in _columns(events).items():
            file.create_dataset(f"events/{name}", data=column, chunks=True, **storage)


def _write_mvsec(path: Path, events: Events) -> None:
    with import_module("h5py").File(path, "w") as file:
        table = _table(events, "xytp", "f8", 1e6)
        file.create_dataset("davis/left/events", data=table, chunks=True, maxshape=(None, 4))


def _write_v2e(path: Path, events: Events) -> None:
    with import_module("h5py").File(path, "w") as file:
        table = np.stack([events[field] for field in "txyp"], axis=1).astype("u4")
        file.create_dataset("events", data=table, maxshape=(None, 4), compression="gzip")


def _read_h5py(path: Path, *names: str) -> int:
    with import_module("h5py").File(path) as file:
        return max([len(file[name][:]) for name in names])


def _read_numpy(path: Path) -> int:
    loaded = np.load(path)
    return len(loaded if path.suffix == ".npy" else [loaded[name] for name in "xytp"].pop())


def _h5py(*names: str) -> Mapping[str, Read]:
    return {"h5py": lambda path: _read_h5py(path, *names)}


_FOUR = _h5py(*(f"events/{field}" for field in "xytp"))

# By the name of the file: how it is written, and its peers.
CASES: dict[str, tuple[Write, Mapping[str, Read]]] = {
    "dsec.h5": (_write_columns, _FOUR),
    "gzip.h5": (partial(_write_columns, compression="gzip", shuffle=True), _FOUR),
    "mvsec.hdf5": (_write_mvsec, _h5py("davis/left/events")),
    "v2e.h5": (_write_v2e, _h5py("events")),
    "stored.npz": (
        lambda path, events: np.savez(path, allow_pickle=False, **_columns(events, "u2 u2 i8 u1")),
        {"NumPy": _read_numpy},
    ),
    "compressed.npz": (
        lambda path, events: np.savez_compressed(
            path, allow_pickle=False, **_columns(events, "u2 u2 i8 u1")
        ),
        {"NumPy": _read_numpy},
    ),
    "table.npy": (
        lambda path, events: np.save(path, np.stack([events[one] for one in "txyp"], axis=1)),
        {"NumPy": _read_numpy},
    ),
}
