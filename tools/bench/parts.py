"""Show what reading and converting ES-ImageNet spend above their floors, part by part.

    python tools/bench/parts.py RAW_ES_IMAGENET [--runs 7] [--output result.json]

Each row adds a step to the row before it, so that the difference is the cost of that step. All of
it is CPU time of one thread, which other programs disturb less than elapsed time.
"""

import tempfile
import time
from pathlib import Path

import click
import numpy as np
import zstandard
from isal import isal_zlib

import eventdata
from eventdata.formats.npz import parse_npz, read_npz
from eventdata.raw.es_imagenet import MAX_ARRAY_BYTES, EsImageNet
from eventdata.raw.one_sample import read_sample
from eventdata.store.read import read_samples
from eventdata.store.shard import ShardBuilder
from tools.bench.convert import copy_files, members
from tools.bench.loader import decompress
from tools.bench.peers import raw_files
from tools.bench.report import Method, measure, output_option, report, runs_option

COPIES = 8
BATCH, GROUP, CONVERTED = 64, 10, 17  # samples of a batch, and of a call of each program
KEYS = ("pos", "neg")


def by_cpu(method: Method) -> tuple[float, float]:
    """Return the seconds of CPU time that a method took, and its result."""
    start = time.process_time()
    samples = method()
    return time.process_time() - start, samples


def reading_parts(dataset: eventdata.FrameDataset) -> dict[str, Method]:
    """Return the steps of reading packed batches in random order."""
    order = np.random.default_rng(0).permutation(len(dataset)).tolist() * COPIES
    stored = dataset.stored[order].tolist()
    compress = zstandard.ZstdCompressor(level=1).compress
    chunks = [compress(dataset.packed(index)[0]) for index in order]
    shape = (BATCH, *dataset.sample_format.packed_shape)
    batches = [np.zeros(shape, np.uint8) for _ in range(4)]  # as many as FrameLoader uses
    loader = eventdata.FrameLoader(
        dataset.subset(order), BATCH, shuffle=True, seed=0, layout="packed", threads=1
    )

    def files() -> int:
        for index in stored:
            dataset.reader.chunks(index)  # type: ignore[attr-defined]  # of a local store
        return len(stored)

    def groups(used: int) -> int:
        for start in range(0, len(stored), GROUP):
            part = stored[start : start + GROUP]
            place = start // GROUP % (used * 6)
            read_samples(
                dataset.reader, part, batches[place // 6][place % 6 * GROUP :][: len(part)]
            )
        return len(stored)

    return {
        "reading: zstd only": lambda: decompress(chunks),
        "reading: files, places and checksums only": files,
        "reading: both, in groups, into one batch": lambda: groups(1),
        "reading: the same into four batches": lambda: groups(4),
        "reading: FrameLoader, packed, 1 thread": lambda: sum(len(y) for _, y in loader),
    }


def converting_parts(root: Path, out: Path) -> dict[str, Method]:
    """Return the steps of converting raw files."""
    source = EsImageNet(root)
    listing = source.splits()
    for samples in listing.values():
        samples.inspect_files()
    rows = [(samples, i) for samples in listing.values() for i in range(len(samples))]
    packed = np.zeros((CONVERTED, *source.sample_format.packed_shape), np.uint8)
    paths = [path for path, _, _ in raw_files(root)]
    contents = [path.read_bytes() for path in paths]
    places = [members(path) for path in paths]
    for number, row in enumerate(rows[:CONVERTED]):
        read_sample(source, *row, packed[number])

    def each(step: object) -> Method:
        def run() -> int:
            for number in range(len(rows)):
                step(number)  # type: ignore[operator]
            return len(rows)

        return run

    def inflate(number: int) -> None:
        for start, size, whole in places[number]:
            isal_zlib.decompress(contents[number][start : start + size], -15, whole)

    def read(number: int) -> None:
        samples, index = rows[number]
        source.read(samples.row(index), packed[number % CONVERTED])

    def build() -> int:
        builder = ShardBuilder(source.sample_format, len(rows))
        for start in range(0, len(rows), CONVERTED):
            slots = range(start, min(start + CONVERTED, len(rows)))
            builder.add(zip(slots, packed, strict=False))
        builder.finish()
        return len(rows)

    def convert() -> int:
        done = eventdata.convert("es-imagenet", root, out, overwrite=True)
        return sum(done.samples.values())

    return {
        "converting: read only": each(lambda number: paths[number].read_bytes()),
        "converting: inflate only": each(inflate),
        "converting: inflate, headers, checksums": each(
            lambda number: parse_npz(contents[number], KEYS, MAX_ARRAY_BYTES)
        ),
        "converting: the same from files": each(
            lambda number: read_npz(paths[number], KEYS, MAX_ARRAY_BYTES)
        ),
        "converting: the same, and bits set and counted": each(read),
        "converting: the same, and files checked": each(
            lambda number: read_sample(source, *rows[number], packed[number % CONVERTED])
        ),
        "converting: zstd and checksums only": build,
        "converting: eventdata convert, all threads": convert,
    }


@click.command()
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@runs_option(7)
@output_option
def main(root: Path, runs: int, output: Path | None) -> None:
    """Measure the parts of reading and converting the raw files under ROOT."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = copy_files(root, folder / "raw", COPIES)
        eventdata.convert("es-imagenet", root, folder / "store.zarr")
        dataset = eventdata.FrameDataset(folder / "store.zarr", "train")
        methods = reading_parts(dataset) | converting_parts(raw, folder / "out.zarr")
        timings = measure(methods, runs, timed=by_cpu)
    title = "Reading and converting ES-ImageNet, CPU time by part"
    report(title, timings, "reading: zstd only", {}, output)


if __name__ == "__main__":
    main()
