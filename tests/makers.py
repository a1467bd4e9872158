"""Make small raw data in the published layouts from random numbers."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

EVENTS_SHAPE = (8, 224, 224)


def write_npz(path: Path, **arrays: Any) -> None:
    """Write a compressed npz; create its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def events_between(
    rng: np.random.Generator, count: int, height: int, width: int
) -> NDArray[np.uint8]:
    """Return random events (row, column, step) that fit into the published window."""
    rows = rng.integers(17, max(18, min(240, height)), count)
    columns = rng.integers(17, max(18, min(240, width)), count)
    return np.stack([rows, columns, rng.integers(1, 9, count)], axis=1).astype(np.uint8)


def make_es_imagenet(root: Path, *, train: int = 12, val: int = 4, seed: int = 0) -> Path:
    """Write raw ES-ImageNet under ``root``: manifests, train/class{K}/, val/."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        lines = []
        for number in range(count):
            label = int(rng.integers(0, 1000))
            height, width = (254, 180) if number % 2 else (191, 254)
            name = (
                f"class{label}/class{label}_{number}.npz"
                if split == "train"
                else f"ILSVRC2012_val_{number:08d}.npz"
            )
            write_npz(
                root / split / name,
                pos=events_between(rng, 900, height, width),
                neg=events_between(rng, 1100, height, width),
            )
            lines.append(f"{name} {label} {height} {width}\n")
        if count:
            (root / f"{split}label.txt").write_text("".join(lines))
    return root


def make_es_ucf101(root: Path, *, clips: int = 6, folders: bool = False, seed: int = 0) -> Path:
    """Write raw ES-UCF101 clips of two classes to ``root`` itself or to class folders there."""
    rng = np.random.default_rng(seed)
    for number in range(clips):
        name = ("Archery", "PushUps")[number % 2]
        frames = (rng.random((2, 30, 256, 342)) < 0.05).astype(np.uint8)
        folder = root / name if folders else root
        write_npz(folder / f"v_{name}_g{number // 2 + 1:02d}_c01.npz", arr_0=frames)
    return root


def published_es_imagenet_frames(path: Path, height: int, width: int) -> NDArray[np.uint8]:
    """Read a raw file as the published loader does, in plain code: uint8 (8, 2, 224, 224)."""
    canvas = np.zeros((8, 2, 256, 256), np.uint8)
    with np.load(path) as raw:
        for polarity, key in enumerate(("pos", "neg")):
            rows, columns, steps = raw[key].astype(int).T
            canvas[
                steps - 1, polarity, rows + (254 - height) // 2, columns + (254 - width) // 2
            ] = 1
    return canvas[:, :, 16:240, 16:240]


def tree_digest(root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file under a folder by its relative path."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def picture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Draw squares of random colours, so that there are edges everywhere: uint8 (H, W, 3)."""
    colours = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return np.ascontiguousarray(colours.repeat(8, 0).repeat(8, 1)[:height, :width])


def make_images(root: Path, *, train: int = 4, val: int = 2, seed: int = 0) -> Path:
    """Write images of two classes in split folders with class folders."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            wnid = ("n01440764", "n02119789")[number % 2]
            size = (120, 96) if number % 2 else (80, 140)
            path = root / split / wnid / f"{wnid}_{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(rng, *size)).save(path, "JPEG", quality=90)
    return root


def make_clips(root: Path, *, clips: int = 5, frames: int = 6, seed: int = 0) -> Path:
    """Write clips of two classes as folders of grey frames in which squares move."""
    rng = np.random.default_rng(seed)
    for number in range(clips):
        name = ("Archery", "PushUps")[number % 2]
        folder = root / f"v_{name}_g{number // 2 + 1:02d}_c01"
        folder.mkdir(parents=True, exist_ok=True)
        scene = picture(rng, 48, 64 + 3 * frames)[..., 0]
        for frame in range(frames):
            moved = scene[:, 3 * frame : 3 * frame + 64]
            Image.fromarray(moved).save(folder / f"frame{frame:06d}.jpg", quality=90)
    return root


def tar(path: Path, files: dict[str, bytes], **fields: Any) -> Path:
    """Write a tar of files by names."""
    with tarfile.open(path, "w", format=fields.get("format", tarfile.PAX_FORMAT)) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip of files by names."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder by their paths."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
