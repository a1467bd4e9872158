"""Converting raw ES-ImageNet, one worker: ours beside the published script and zarr-python.

    python tools/bench_convert.py RAW_ES_IMAGENET [--runs 5] [--output result.json]

Ours is the whole of `eventdata.convert`, from the manifest to the complete store. The floor is what
any way must do for these bytes: read and inflate each file (ISA-L), and compress the packed
frames (zstd level 1).
"""

import shutil
import struct
import tempfile
import uuid
import zipfile
from pathlib import Path

import click
import numpy as np
import zarr
import zarr.codecs
import zstandard
from isal import isal_zlib
from measuring import measure, report
from published import RawFile, frames, raw_files

import eventdata
from eventdata.raw.es_imagenet import EsImageNet


def published(files: list[RawFile], out: Path) -> int:
    """Dense int8 frames, one compressed npz a sample."""
    for number, raw in enumerate(files):
        np.savez_compressed(out / f"{number}.npz", frames(raw).view(np.int8))
    return len(files)


def by_zarr(files: list[RawFile], out: Path) -> int:
    """The same store's frames, packed by NumPy and written by zarr-python."""
    array = zarr.create_array(
        out / "frames",
        shape=(len(files), 1, 2, 224, 224),
        dtype="uint8",
        chunks=(1, 1, 2, 224, 224),
        shards=(512, 1, 2, 224, 224),
        filters=[zarr.codecs.TransposeCodec(order=(0, 1, 3, 4, 2))],
        compressors=[zarr.codecs.ZstdCodec(level=1), zarr.codecs.Crc32cCodec()],
    )
    for start in range(0, len(files), 512):
        part = files[start : start + 512]
        packed = [np.packbits(frames(raw), axis=1).swapaxes(0, 1) for raw in part]
        array[start : start + len(part)] = np.stack(packed)
    return len(files)


def ours(root: Path, out: Path) -> int:
    """The whole conversion."""
    return sum(eventdata.convert("es-imagenet", root, out / "store.zarr").samples.values())


Member = tuple[int, int, int]  # start of the deflated bytes, their number, bytes when inflated


def members(path: Path) -> list[Member]:
    """Where the arrays of an npz lie in it."""
    data = path.read_bytes()
    found = []
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name, extra = struct.unpack_from("<HH", data, info.header_offset + 26)
            start = info.header_offset + 30 + name + extra
            found.append((start, info.compress_size, info.file_size))
    return found


def floor(files: list[RawFile], places: list[list[Member]], planes: list[bytes]) -> int:
    """Read, inflate, compress; nothing between."""
    compress = zstandard.ZstdCompressor(level=1).compress
    for (path, _, _), arrays, plane in zip(files, places, planes, strict=True):
        data = path.read_bytes()
        for start, packed, size in arrays:
            isal_zlib.decompress(data[start : start + packed], -15, size)
        compress(plane)
    return len(files)


@click.command()
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--copies", default=16, show_default=True, help="How often to have each file.")
@click.option("--runs", default=5, show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here.")
def main(root: Path, copies: int, runs: int, output: Path | None) -> None:
    """Measure all ways on the raw files under ROOT, in one run.

    A handful of samples says more of the cost of opening a store than of converting; so each file
    is there --copies times.
    """
    with tempfile.TemporaryDirectory() as folder:
        measure_on(copy_files(root, Path(folder, "raw"), copies), Path(folder), runs, output)


def copy_files(root: Path, target: Path, copies: int) -> Path:
    """Raw data in which each file under ``root`` is several times, as a link where that goes."""
    for split in ("train", "val"):
        lines = []
        for line in (root / f"{split}label.txt").read_text().splitlines():
            name, facts = line.split(maxsplit=1)
            for copy in range(copies):
                place = target / split / f"copy{copy}" / name
                place.parent.mkdir(parents=True, exist_ok=True)
                try:
                    place.hardlink_to((root / split / name).resolve())
                except OSError:  # on another disk
                    shutil.copyfile(root / split / name, place)
                lines.append(f"copy{copy}/{name} {facts}\n")
        (target / f"{split}label.txt").write_text("".join(lines))
    return target


def measure_on(root: Path, scratch: Path, runs: int, output: Path | None) -> None:
    """Measure, and tell."""
    files = raw_files(root)
    source = EsImageNet(root)
    packed = np.empty(source.sample_format.packed_shape, np.uint8)
    planes = []
    for samples in source.splits().values():
        for index in range(len(samples)):
            source.read(samples.row(index), packed)
            planes.append(packed[0].tobytes())
    places = [members(path) for path, _, _ in files]

    def fresh() -> Path:
        place = scratch / uuid.uuid4().hex
        place.mkdir()
        return place

    timings = measure(
        {
            "eventdata convert": lambda: ours(root, fresh()),
            "published script (dense int8, npz)": lambda: published(files, fresh()),
            "NumPy packbits, zarr-python": lambda: by_zarr(files, fresh()),
            "floor: read, inflate, zstd": lambda: floor(files, places, planes),
        },
        runs,
    )
    store = fresh()
    ours(root, store)
    stored = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    raw = sum(path.stat().st_size for path, _, _ in files)
    facts = {
        "samples": len(files),
        "raw bytes": f"{raw:,}",
        "store bytes": f"{stored:,} ({stored / raw:.3f} of raw)",
        "floor bytes a sample": f"{raw // len(files):,} read, {stored // len(files):,} written",
    }
    floors = {"eventdata convert": timings["floor: read, inflate, zstd"].median}
    report(
        "Converting raw ES-ImageNet, one worker",
        timings,
        "eventdata convert",
        facts,
        output,
        floors=floors,
        packages=("numcodecs", "numpy", "zarr", "zstandard"),
    )


if __name__ == "__main__":
    main()
