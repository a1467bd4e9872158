"""Reading one random ES-ImageNet sample as dense frames: ours beside what users would take.

    python tools/bench_loader.py RAW_ES_IMAGENET [--runs 7] [--output result.json]

All ways give the same frames of the same samples in the same random order. The floor is bare zstd
decompression of the sample's chunk, plus writing the dense frames once at the speed of a copy.
"""

import tempfile
from pathlib import Path

import click
import numpy as np
import tensorstore
import zarr
import zstandard
from measuring import copy_bandwidth, measure, report
from published import RawFile, frames, raw_files

import eventdata

DENSE_BYTES = 8 * 2 * 224 * 224


@click.command()
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--runs", default=7, show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here.")
def main(root: Path, runs: int, output: Path | None) -> None:
    """Measure all ways on the training samples of the raw files under ROOT, in one run."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "store.zarr")
        eventdata.convert("es-imagenet", root, store)
        dataset = eventdata.FrameDataset(store, "train")
        files = [raw for raw in raw_files(root) if raw[0].is_relative_to(root / "train")]
        order = np.random.default_rng(0).permutation(len(dataset)).tolist()
        array = zarr.open_array(store / "train" / "frames", mode="r")
        spec = {"driver": "zarr3", "kvstore": f"file://{store}/train/frames/"}
        tensors = tensorstore.open(spec, open=True).result()
        frames_files = save_dense(files, Path(folder, "dense"))
        compress = zstandard.ZstdCompressor(level=1).compress
        chunks = [compress(dataset.packed(index)[0]) for index in order]

        def ours() -> int:
            for index in order:
                dataset[index]
            return len(order)

        def ours_in_batches() -> int:
            for start in range(0, len(order), 16):
                dataset.__getitems__(order[start : start + 16])
            return len(order)

        def published_raw() -> int:
            for index in order:
                frames(files[index], np.float32)
            return len(order)

        def published_frames() -> int:
            for index in order:
                with np.load(frames_files[index]) as data:
                    _ = data["arr_0"]
            return len(order)

        def by_zarr() -> int:
            for index in order:
                np.unpackbits(np.asarray(array[index]), axis=0, count=8)
            return len(order)

        def by_tensorstore() -> int:
            for index in order:
                np.unpackbits(tensors[index].read().result(), axis=0, count=8)
            return len(order)

        def floor() -> int:
            decompress = zstandard.ZstdDecompressor().decompress
            for chunk in chunks:
                decompress(chunk)
            return len(order)

        timings = measure(
            {
                "FrameDataset[i]": ours,
                "FrameDataset, 16 at a time": ours_in_batches,
                "published loader from raw npz": published_raw,
                "published dense frames npz": published_frames,
                "zarr-python, unpackbits": by_zarr,
                "tensorstore, unpackbits": by_tensorstore,
                "floor: zstd alone": floor,
            },
            runs,
        )
    bandwidth = copy_bandwidth()
    facts = {
        "samples": len(order),
        "dense bytes a sample": f"{DENSE_BYTES:,}",
        "packed bytes a sample": f"{sum(map(len, chunks)) // len(chunks):,}",
        "floor of writing dense frames, ms": f"{1000 * DENSE_BYTES / bandwidth:.3f}",
        "copy bandwidth, GB/s": f"{bandwidth / 1e9:.1f}",
    }
    report("Reading a random sample as dense frames", timings, "FrameDataset[i]", facts, output)


def save_dense(files: list[RawFile], folder: Path) -> list[Path]:
    """The published frames, one compressed npz of dense int8 a sample."""
    folder.mkdir()
    paths = [folder / f"{number}.npz" for number in range(len(files))]
    for path, raw in zip(paths, files, strict=True):
        np.savez_compressed(path, frames(raw).view(np.int8))
    return paths


if __name__ == "__main__":
    main()
