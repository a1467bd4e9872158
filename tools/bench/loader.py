"""Read ES-ImageNet in random order as dense frames: FrameLoader against its baselines.

    python tools/bench/loader.py RAW_ES_IMAGENET [--runs 7] [--device cuda] [--output result.json]

All methods read the same samples in the same random order, from files in the page cache. The floor
of our methods is zstd decompression of the same chunks and, for dense frames, one write of them at
the speed of a copy. Floors for two threads are measured with two threads.
"""

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import zstandard
from torch.utils.data import DataLoader

import eventdata
from tools.bench.peers import Read, peers, raw_files
from tools.bench.report import copy_bandwidth, measure, output_option, report, runs_option

DENSE_BYTES = 8 * 2 * 224 * 224
OURS = "FrameLoader, uint8"
ZSTD, ZSTD_BY_TWO = "floor: zstd only", "zstd only, 2 threads"
PACKAGES = ("eventdata", "torch", "numba", "zstandard", "numcodecs", "zarr", "tensorstore", "tonic")
# Options of FrameLoader, and bytes written for each value of a dense frame.
LOADERS: dict[str, tuple[dict[str, Any], int]] = {
    "uint8": ({}, 1),
    "uint8, time first": ({"layout": "TNPHW"}, 1),
    "bfloat16": ({"dtype": torch.bfloat16}, 2),
    "float32": ({"dtype": torch.float32}, 4),
    "packed": ({"layout": "packed"}, 0),
}

Method = Callable[[], int]


@click.command()
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@runs_option(7)
@click.option("--batch-size", default=64, show_default=True)
@click.option(
    "--repeats", default=64, show_default=True, help="Repeats of each sample in an epoch."
)
@click.option("--device", default="cpu", show_default=True, help="Device that unpacks the batches.")
@output_option
def main(
    root: Path, runs: int, batch_size: int, repeats: int, device: str, output: Path | None
) -> None:
    """Measure all methods on the training samples of the raw files under ROOT, in one run.

    An epoch of few samples would measure the start of threads, so it has each sample --repeats
    times. Use --repeats 4 to see the cost of starting and ending an epoch.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        eventdata.convert("es-imagenet", root, folder / "store.zarr")
        dataset = eventdata.FrameDataset(folder / "store.zarr", "train")
        files = [raw for raw in raw_files(root) if raw[0].is_relative_to(root / "train")]
        order = np.random.default_rng(0).permutation(len(dataset)).tolist()
        compress = zstandard.ZstdCompressor(level=1).compress
        chunks = [compress(dataset.packed(index)[0]) for index in order]

        others, missing = peers(folder / "store.zarr" / "train", files, folder)
        many = dataset.subset(order * repeats)
        methods = our_loaders(many, batch_size, device)
        methods["FrameDataset[i]"] = one_by_one(dataset.__getitem__, order)
        for name, collate in (("", None), (", eventdata.collate", eventdata.collate)):
            methods[f"FrameDataset in torch's DataLoader{name}"] = batches(
                DataLoader(many, batch_size, pin_memory=device != "cpu", collate_fn=collate), device
            )
        methods |= {name: one_by_one(read, order) for name, read in others.items()}
        methods |= {
            f"{name}, in batches": in_batches(read, order, batch_size)
            for name, read in others.items()
            if "unpackbits" in name
        }
        with ThreadPoolExecutor(2) as threads:
            halves = [chunks[::2] * repeats, chunks[1::2] * repeats]
            methods[ZSTD] = lambda: decompress(chunks * repeats)
            methods[ZSTD_BY_TWO] = lambda: sum(threads.map(decompress, halves))
            timings = measure(methods, runs)
    bandwidths = {threads: copy_bandwidth(threads) for threads in (1, 2)}
    zstd = {1: timings[ZSTD].median, 2: timings[ZSTD_BY_TWO].median}
    floors = {
        loader_name(kind, threads): zstd[threads]
        + 1000 * times * DENSE_BYTES / bandwidths[threads] * (device == "cpu")
        for kind, (_, times) in LOADERS.items()
        for threads in (1, 2)
    }
    two = loader_name("uint8", 2)
    facts = {
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "samples": f"{len(order)}, in loaders {repeats} times each, batches of {batch_size}",
        "dense bytes a sample": f"{DENSE_BYTES:,}",
        "compressed bytes a sample": f"{sum(map(len, chunks)) // len(chunks):,}",
        "copy bandwidth, GB/s": f"{bandwidths[1] / 1e9:.1f}",
        "copy bandwidth by two threads, GB/s": f"{bandwidths[2] / 1e9:.1f}",
        "two threads over one": f"{timings[OURS].median / timings[two].median:.2f}",
        "two threads over one, floors": f"{floors[OURS] / floors[two]:.2f}",
        "zstd only, over packed": f"{zstd[1] / timings[loader_name('packed', 1)].median:.2f}",
    }
    title = "Reading random samples as dense frames"
    report(title, timings, OURS, facts, output, floors=floors, missing=missing, packages=PACKAGES)


def loader_name(kind: str, threads: int) -> str:
    """Return the name of a loader in the table."""
    return f"FrameLoader, {kind}" + (f", {threads} threads" if threads > 1 else "")


def our_loaders(dataset: eventdata.FrameDataset, batch_size: int, device: str) -> dict[str, Method]:
    """Return loaders for every kind of batch, with one thread and with two."""
    return {
        loader_name(kind, threads): batches(
            eventdata.FrameLoader(
                dataset, batch_size, shuffle=True, device=device, threads=threads, **options
            ),
            device,
        )
        for threads in (1, 2)
        for kind, (options, _) in LOADERS.items()
    }


def batches(loader: Any, device: str) -> Method:
    """Return a method that reads an epoch and waits for the last batch on the device."""

    def read() -> int:
        count = 0
        for frames, labels in loader:
            frames.to(device, non_blocking=True)  # only DataLoader leaves them on the CPU
            count += len(labels)
        if device != "cpu":
            torch.cuda.synchronize(device)
        return count

    return read


def one_by_one(read: Read, order: list[int]) -> Method:
    """Return a method that reads samples by number."""

    def read_all() -> int:
        for index in order:
            read(index)
        return len(order)

    return read_all


def in_batches(read: Read, order: list[int], batch_size: int) -> Method:
    """Return a method that reads samples by lists of numbers."""
    lists = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    def read_all() -> int:
        for numbers in lists:
            read(numbers)
        return len(order)

    return read_all


def decompress(chunks: list[bytes]) -> int:
    """Decompress all chunks with zstd."""
    decompressor = zstandard.ZstdDecompressor()
    for chunk in chunks:
        decompressor.decompress(chunk)
    return len(chunks)


if __name__ == "__main__":
    main()
