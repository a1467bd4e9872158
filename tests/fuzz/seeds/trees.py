"""An input is a folder, as a `Tree`: the path of each file in it and its bytes."""

import io
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tree = dict[str, bytes]
Real = Path | None
"""The folder of real data, where there is one."""
REAL_FILES = 3  # taken of each kind


def tree_of(root: Path) -> Tree:
    """The files below a folder."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def write_tree(root: Path, tree: Tree) -> None:
    """The files into a folder, of one age each time: stores know the age of their input."""
    root.mkdir(parents=True, exist_ok=True)
    for name, data in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (1e9, 1e9))


def real_files(real: Real, pattern: str, size: int = 1 << 21) -> list[Tree]:
    """The first few real files of a pattern, each a tree, none larger than ``size``."""
    paths = sorted(real.glob(pattern)) if real else []
    small = (path for path in paths if path.stat().st_size <= size)
    return [{path.name: path.read_bytes()} for path in itertools.islice(small, REAL_FILES)]


def drawn() -> np.random.Generator:
    """Random numbers, the same each time."""
    return np.random.default_rng(0)


def npz(**arrays: NDArray[Any]) -> bytes:
    """A compressed npz."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    """An npy file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()
