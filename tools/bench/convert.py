"""Convert raw ES-ImageNet: `eventdata convert` against its baselines.

    python tools/bench/convert.py RAW_ES_IMAGENET [--runs 5] [--output result.json]
    python tools/bench/convert.py RAW_ES_IMAGENET --growth events      time per event, by events
    python tools/bench/convert.py RAW_ES_IMAGENET --growth workers     time per sample, by workers

Ours is a whole `eventdata.convert` with one worker, from the manifest to the complete store. The
floor is what any method must do for these bytes: read and inflate each file (ISA-L) and compress
the packed frames (zstd level 1). Ours and the floor convert all files. The baselines take over ten
times as long per sample, so they convert only some of the files.
"""

import os
import shutil
import struct
import tempfile
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import zarr
import zarr.codecs
import zstandard
from isal import isal_zlib

import eventdata
from eventdata.raw.es_imagenet import EsImageNet
from tools.bench.peers import (
    RawFile,
    frames,
    published_frames,
    raw_files,
    spikingjelly_cache,
    tonic_cache,
)
from tools.bench.report import measure, output_option, report, runs_option

OURS, FLOOR = "eventdata convert", "floor: read, inflate, zstd"
PACKAGES = ("numcodecs", "numpy", "tonic", "zarr", "zstandard")
PEER_SAMPLES = 512
FACTORS = (0.25, 0.5, 1, 2, 4)


def by_zarr(files: list[RawFile], out: Path) -> int:
    """Write the same frames, packed by NumPy and written by zarr-python."""
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


def ours(root: Path, out: Path, workers: int = 1) -> int:
    """Convert everything and return the number of samples."""
    done = eventdata.convert("es-imagenet", root, out / "store.zarr", workers=workers)
    return sum(done.samples.values())


Member = tuple[int, int, int]  # start of the deflated bytes, their number, bytes when inflated


def members(path: Path) -> list[Member]:
    """Return the places of an npz file's arrays."""
    data = path.read_bytes()
    found = []
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name, extra = struct.unpack_from("<HH", data, info.header_offset + 26)
            start = info.header_offset + 30 + name + extra
            found.append((start, info.compress_size, info.file_size))
    return found


def floor(files: list[RawFile], places: list[list[Member]], planes: list[bytes]) -> int:
    """Read, inflate and compress, and do nothing else."""
    compress = zstandard.ZstdCompressor(level=1).compress
    for (path, _, _), arrays, plane in zip(files, places, planes, strict=True):
        data = path.read_bytes()
        for start, packed, size in arrays:
            isal_zlib.decompress(data[start : start + packed], -15, size)
        compress(plane)
    return len(files)


@click.command()
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--copies", default=64, show_default=True, help="Copies of each file.")
@runs_option(5)
@click.option("--growth", type=click.Choice(["events", "workers"]), help="Measure growth instead.")
@output_option
def main(root: Path, copies: int, runs: int, growth: str | None, output: Path | None) -> None:
    """Measure all methods on the raw files under ROOT, in one run.

    A few samples would measure the cost of opening a store, so each file is converted --copies
    times.
    """
    with tempfile.TemporaryDirectory() as folder:
        if growth == "events":
            over_events(root, copies, Path(folder), runs, output)
            return
        raw = copy_files(root, Path(folder, "raw"), copies)
        if growth == "workers":
            over_workers(raw, Path(folder), runs, output)
        else:
            against_baselines(raw, Path(folder), runs, output)


def copy_files(root: Path, target: Path, copies: int) -> Path:
    """Make raw data with several copies of each file under ``root``, as links if possible."""
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


class Outputs:
    """A new folder for each conversion; all are removed after it is timed."""

    def __init__(self, scratch: Path) -> None:
        self.home = scratch / "outputs"

    def new(self) -> Path:
        """Create the folder of a conversion."""
        place = self.home / uuid.uuid4().hex
        place.mkdir(parents=True)
        return place

    def remove(self) -> None:
        """Remove the folders of all conversions so far."""
        shutil.rmtree(self.home, ignore_errors=True)


def against_baselines(root: Path, scratch: Path, runs: int, output: Path | None) -> None:
    """Measure ours, the floor and the baselines per sample."""
    files = raw_files(root)
    some = files[:: max(1, len(files) // PEER_SAMPLES)]
    source = EsImageNet(root)
    packed = np.empty(source.sample_format.packed_shape, np.uint8)
    planes = []
    for samples in source.splits().values():
        for index in range(len(samples)):
            source.read(samples.row(index), packed)
            planes.append(packed[0].tobytes())
    places = [members(path) for path, _, _ in files]
    outputs = Outputs(scratch)

    def peer(method: Callable[[list[RawFile], Path], object]) -> Callable[[], int]:
        def convert_some() -> int:
            method(some, outputs.new())
            return len(some)

        return convert_some

    timings = measure(
        {
            OURS: lambda: ours(root, outputs.new()),
            "published script (dense int8, npz)": peer(published_frames),
            "NumPy packbits, zarr-python": peer(by_zarr),
            "SpikingJelly's frames cache, restated": peer(spikingjelly_cache),
            "Tonic DiskCachedDataset": peer(tonic_cache),
            FLOOR: lambda: floor(files, places, planes),
        },
        runs,
        tidy=outputs.remove,
    )
    store = outputs.new()
    ours(root, store)
    stored = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    raw = sum(path.stat().st_size for path, _, _ in files)
    facts = {
        "samples": f"{len(files):,}; baselines {len(some):,}",
        "raw bytes": f"{raw:,}",
        "store bytes": f"{stored:,} ({stored / raw:.3f} of raw)",
        "floor bytes a sample": f"{raw // len(files):,} read, {stored // len(files):,} written",
    }
    title = "Converting raw ES-ImageNet, one worker"
    floors = {OURS: timings[FLOOR].median}
    report(title, timings, OURS, facts, output, floors=floors, packages=PACKAGES)


def over_events(root: Path, copies: int, scratch: Path, runs: int, output: Path | None) -> None:
    """Measure time per thousand events, with 0.25 to 4 times the events of real samples."""
    outputs = Outputs(scratch)
    methods: dict[str, Callable[[], float]] = {}
    numbers = {}
    for factor in FACTORS:
        name = f"events x {factor:g}"
        raw = copy_files(root, scratch / f"raw{factor:g}", 1)
        numbers[name] = sum(change_events(path, factor) for path, _, _ in raw_files(raw))
        many = copy_files(raw, scratch / f"many{factor:g}", copies)
        methods[name] = _counted(many, outputs, copies * numbers[name] / 1000)
    timings = measure(methods, runs, tidy=outputs.remove)
    samples = len(raw_files(root))
    facts = {
        "samples": f"{samples * copies:,}",
        "events a sample": ", ".join(f"{number // samples:,}" for number in numbers.values()),
    }
    title = "Converting raw ES-ImageNet, by the number of events"
    unit = "ms/1000 events"
    report(title, timings, "events x 1", facts, output, unit=unit, packages=PACKAGES)


def _counted(root: Path, outputs: Outputs, events: float) -> Callable[[], float]:
    def convert_all() -> float:
        ours(root, outputs.new())
        return events

    return convert_all


def change_events(path: Path, factor: float) -> int:
    """Keep part of a file's events or repeat them at other steps; return their number."""
    with np.load(path) as data:
        arrays = {key: data[key] for key in ("pos", "neg")}
    for key, events in arrays.items():
        copies = [events[:: round(1 / min(factor, 1))]]
        for turn in range(1, round(factor)):
            moved = events.copy()
            moved[:, 2] = (events[:, 2] - 1 + turn) % 8 + 1
            copies.append(moved)
        arrays[key] = np.concatenate(copies)
    path.unlink()  # it may be a link
    with path.open("xb") as file:
        np.savez_compressed(file, **arrays)
    return sum(map(len, arrays.values()))


def over_workers(root: Path, scratch: Path, runs: int, output: Path | None) -> None:
    """Measure time per sample, with one worker up to one per core."""
    outputs = Outputs(scratch)
    cores = os.cpu_count() or 1
    numbers = [workers for workers in (1, 2, 4, 8, 16, 32) if workers <= max(cores, 2)]
    methods = {f"{n} workers": _by_workers(root, outputs, n) for n in numbers}
    timings = measure(methods, runs, tidy=outputs.remove)
    facts = {"samples": f"{len(raw_files(root)):,}"}
    title = "Converting raw ES-ImageNet, by the number of workers"
    report(title, timings, f"{numbers[0]} workers", facts, output, packages=PACKAGES)


def _by_workers(root: Path, outputs: Outputs, workers: int) -> Callable[[], int]:
    return lambda: ours(root, outputs.new(), workers)


if __name__ == "__main__":
    main()
