"""An input folder as a `Tree`: the path of each file in it and its bytes."""

import io
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tree = dict[str, bytes]
Real = Path | None
"""The folder of real data, if there is one."""
REAL_FILES = 3  # files of each kind


def tree_of(root: Path) -> Tree:
    """Return the files below a folder."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def write_tree(root: Path, tree: Tree) -> None:
    """Write files with a fixed age, because stores record the age of their input."""
    root.mkdir(parents=True, exist_ok=True)
    for name, data in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (1e9, 1e9))


def real_files(real: Real, pattern: str, size: int = 1 << 21) -> list[Tree]:
    """Return the first real files that match a pattern, each as a tree, up to ``size`` bytes."""
    paths = sorted(real.glob(pattern)) if real else []
    small = (path for path in paths if path.stat().st_size <= size)
    return [{path.name: path.read_bytes()} for path in itertools.islice(small, REAL_FILES)]


def drawn() -> np.random.Generator:
    """Return a random generator with a fixed seed."""
    return np.random.default_rng(0)


def npz(**arrays: NDArray[Any]) -> bytes:
    """Return a compressed npz."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    """Return an npy file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()
