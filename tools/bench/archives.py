"""Convert from archives and from the unpacked folder, in turns in one run.

    python tools/bench/archives.py --images DIR --es-imagenet DIR [--output result.json]

Each row is a whole `eventdata.convert` with one worker on the same files: listing or index,
reading, decoding, writing. The files lie in the page cache. A sample of raw ES-ImageNet takes much
less time than an image, so that the cost of an archive shows.
"""

import io
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import click

import eventdata
from tools.bench.convert import Outputs, copy_files
from tools.bench.report import Timing, measure, output_option, report, runs_option

FOLDER = "folder"
Files = Iterable[tuple[str, bytes]]


def write_tar(path: Path, files: Files) -> Path:
    """Write a tar of files by names."""
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_zip(path: Path, files: Files, method: int) -> Path:
    """Write a zip of files by names."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return path


def files_in(folder: Path) -> Files:
    """Yield the files below a folder by their paths, sorted."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def image_inputs(folder: Path, scratch: Path) -> dict[str, Path]:
    """Write class folders of images as each kind of archive; return the inputs by name."""
    labels = {path.name: number for number, path in enumerate(sorted(folder.iterdir()))}
    tars = scratch / "tars"
    tars.mkdir()
    classes = []
    for name in labels:
        inner = write_tar(scratch / "inner.tar", files_in(folder / name))
        classes.append((f"{name}.tar", inner.read_bytes()))
    write_tar(tars / "ILSVRC2012_img_train.tar", classes)
    shard = []
    for name, data in files_in(folder):
        wnid, _, last = name.partition("/")
        key = last.rpartition(".")[0]
        shard += [(f"{key}.jpg", data), (f"{key}.cls", str(labels[wnid]).encode())]
    return {
        FOLDER: folder,
        "tar of tars": tars,
        "tar": write_tar(scratch / "raw.tar", files_in(folder)),
        "zip, deflated": write_zip(scratch / "raw.zip", files_in(folder), zipfile.ZIP_DEFLATED),
        "WebDataset": write_tar(scratch / "train-000000.tar", shard),
        **parquet_input(folder, labels, scratch),
    }


def parquet_input(folder: Path, labels: dict[str, int], scratch: Path) -> dict[str, Path]:
    """Write a Parquet shard as the hub does, with 100 rows in a group; nothing without pyarrow."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return {}
    files = list(files_in(folder))
    images = [{"bytes": data, "path": name.rpartition("/")[2]} for name, data in files]
    rows = {"image": images, "label": [labels[name.partition("/")[0]] for name, _ in files]}
    path = scratch / "train-00000-of-00001.parquet"
    parquet.write_table(pyarrow.table(rows), path, row_group_size=100)
    return {"Parquet": path}


def raw_inputs(folder: Path, scratch: Path, copies: int) -> dict[str, Path]:
    """Write raw ES-ImageNet, several copies of each file, as a folder, a tar and a zip."""
    linked = copy_files(folder, scratch / "linked", copies)
    raw = Path(shutil.copytree(linked, scratch / "raw"))  # the same bytes to read as the archives
    return {
        FOLDER: raw,
        "tar": write_tar(scratch / "es.tar", files_in(raw)),
        "zip, stored": write_zip(scratch / "es.zip", files_in(raw), zipfile.ZIP_STORED),
    }


def compare(
    source: str, inputs: dict[str, Path], scratch: Path, runs: int
) -> tuple[dict[str, Timing], int]:
    """Return the time per sample of each input, and the number of samples."""
    outputs = Outputs(scratch)

    def converting(place: Path) -> Callable[[], int]:
        def run() -> int:
            done = eventdata.convert(source, place, outputs.new() / "store.zarr")
            return sum(done.samples.values())

        return run

    methods = {name: converting(place) for name, place in inputs.items()}
    return measure(methods, runs, tidy=outputs.remove), methods[FOLDER]()


@click.command()
@click.option("--images", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--es-imagenet", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--copies", default=16, show_default=True, help="Copies of each raw file.")
@runs_option(5)
@output_option
def main(
    images: Path | None, es_imagenet: Path | None, copies: int, runs: int, output: Path | None
) -> None:
    """Measure on class folders of images under --images and raw files under --es-imagenet."""
    for source, folder in (("imagenet", images), ("es-imagenet", es_imagenet)):
        if folder is None:
            continue
        with tempfile.TemporaryDirectory() as place:
            scratch = Path(place)
            if source == "imagenet":
                local = Path(shutil.copytree(folder, scratch / "images"))
                inputs = image_inputs(local, scratch)
            else:
                inputs = raw_inputs(folder, scratch, copies)
            timings, samples = compare(source, inputs, scratch, runs)
        report(
            f"eventdata convert {source}, one worker, by its input",
            timings,
            FOLDER,
            {"samples": f"{samples:,}"},
            output and output.with_stem(f"{output.stem}-{source}"),
            packages=("numpy", "pyarrow", "zstandard"),
        )


if __name__ == "__main__":
    main()
