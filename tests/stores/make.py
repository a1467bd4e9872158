"""Keep small stores as this version of eventdata writes them; run it once for each release.

    python -m tests.stores.make       writes tests/stores/VERSION.zip

The zip holds the raw data too, drawn at random, so that a later version can convert it again, and
digests of the frames as this version read them.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

import eventdata

TIME = 1_577_836_800  # of change of all raw files: a zip keeps times too coarsely

CONVERSIONS = {
    "binary": ("es-imagenet", {"shard_size": 3}),
    "clips": ("es-ucf101", {"shard_size": 2}),
    "count": ("recordings", {"frames": 5, "sensor_size": "16x12", "representation": "count"}),
    "images": ("images", {"short_side": 16, "crop": 16}),
    "unfinished": ("es-imagenet", {"shard_size": 3}),
}


def set_times(root: Path) -> None:
    """Set the same modification time for all raw files and folders."""
    for path in (root, *root.rglob("*")):
        os.utime(path, (TIME, TIME))


def digests(store: Path) -> dict[str, list[str]]:
    """Return the SHA-256 of each sample's dense frames by split."""
    return {
        split: [
            hashlib.sha256(frames.numpy().tobytes()).hexdigest()
            for frames, _ in eventdata.FrameDataset(store, split)
        ]
        for split in eventdata.open_store(store).splits
    }


def make_raw(root: Path) -> None:
    """Make a few samples for each source."""
    rng = np.random.default_rng(0)
    lines = {"train": [], "val": []}
    for number in range(10):
        split = "val" if number >= 8 else "train"
        events = {key: rng.integers(20, 180, (40, 3)).astype(np.uint8) for key in ("pos", "neg")}
        for rows in events.values():
            rows[:, 2] = rng.integers(1, 9, len(rows))
        path = root / "es-imagenet" / split / f"class{number}" / f"{number}.npz"
        path.parent.mkdir(parents=True)
        np.savez_compressed(path, **events)
        lines[split].append(f"class{number}/{number}.npz {number} 254 200\n")
    for split, text in lines.items():
        (root / "es-imagenet" / f"{split}label.txt").write_text("".join(text))
    for number in range(3):
        frames = np.zeros((2, 30, 256, 342), np.uint8)
        frames[tuple(rng.integers(0, side, 60) for side in frames.shape)] = 1
        name = f"v_{('Archery', 'PushUps')[number % 2]}_g{number + 1:02}_c01.npz"
        (root / "es-ucf101").mkdir(exist_ok=True)
        np.savez_compressed(root / "es-ucf101" / name, arr_0=frames)
    for number in range(4):
        name = ("left", "right")[number % 2]
        columns = {"x": rng.integers(0, 16, 200), "y": rng.integers(0, 12, 200)}
        columns |= {"t": np.sort(rng.integers(0, 1000, 200)), "p": rng.integers(0, 2, 200)}
        path = root / "recordings" / name / f"{number}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **columns)
        picture = root / "images" / "train" / name / f"{number}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(picture)


def stop(done: int, _: int) -> None:
    """Stop a conversion after its first shard; this is a progress function."""
    if done:
        raise KeyboardInterrupt


def main() -> None:
    """Write the zip with its files in order and without times."""
    out = Path(__file__).parent / f"{eventdata.__version__}.zip"
    if out.exists():
        sys.exit(f"{out}: exists already; a release writes its stores only once")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_raw(folder / "raw")
        set_times(folder / "raw")
        found = {}
        for name, (source, options) in CONVERSIONS.items():
            raw, store = folder / "raw" / source, folder / f"{name}.zarr"
            try:
                progress = stop if name == "unfinished" else None
                eventdata.convert(source, raw, store, progress=progress, **options)
            except KeyboardInterrupt:
                continue
            found[name] = digests(store)
        (folder / "unfinished.zarr" / ".work" / "lock").unlink()
        (folder / "frames.json").write_text(json.dumps(found, indent=1))
        with zipfile.ZipFile(folder / "made", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.name != "made":
                    entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(entry, path.read_bytes())
        shutil.copyfile(folder / "made", out)
    print(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
