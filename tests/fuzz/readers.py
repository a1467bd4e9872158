"""Every reader of untrusted files, as a function of a folder.

``read(folder, out)`` gives the files in ``folder`` to the reader and may write only below ``out``.
It returns or raises an EventDataError; anything else is a finding.
"""

import io
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import eventdata
from eventdata.conversion import plan_job
from eventdata.errors import EventDataError
from eventdata.files.archives.indexes import _read_index, index_of
from eventdata.files.archives.members import read_member
from eventdata.files.inputs import open_input
from eventdata.files.parquet import _group
from eventdata.formats.image import read_picture
from eventdata.formats.recording import read_events
from eventdata.formats.video import read_clip
from eventdata.generation import generate
from eventdata.kernels.framing import Framing
from eventdata.kernels.video import VideoSettings
from eventdata.raw.es_imagenet import EsImageNet
from eventdata.raw.es_ucf101 import EsUcf101
from eventdata.raw.framed import FrameSettings, Stream
from eventdata.raw.one_sample import read_sample
from eventdata.raw.registry import build_source
from eventdata.raw.source import Samples
from eventdata.show import show
from tests.fuzz.seeds import archives, pictures, raw, recordings, stores, training, trees
from tests.fuzz.seeds.trees import Real, Tree
from tools.archives import Limits, unpack

MIB = 1 << 20
HAS_PYARROW = find_spec("pyarrow") is not None


@dataclass(frozen=True)
class Reader:
    """A reader, its sound seeds, and the memory that it may take."""

    seeds: Callable[[Real], list[Tree]]
    read: Callable[[Path, Path], object]
    mib: int = 64
    """A case may take this much memory plus `times` the bytes of its files."""
    times: int = 100
    damage: str = ""
    """Only files whose path begins with this are damaged."""


def _the_file(folder: Path) -> Path:
    """Return the only file, or a missing name if damage has removed it."""
    (path,) = list(folder.iterdir()) or [folder / "gone"]
    return path


def _read_all(source: Any) -> None:
    """List a source's samples and read each of them."""
    job = plan_job(source, shard_size=8, limit=8, on_error="skip")
    packed = np.zeros(job.sample.packed_shape, job.sample.dtype)
    for samples in job.listing.values():
        _read_samples(source, samples, packed)


def _read_samples(source: Any, samples: Samples, packed: Any) -> None:
    for index in range(len(samples)):
        with suppress(EventDataError):
            read_sample(source, samples, index, packed)


def _coordinates(folder: Path, _: Path) -> None:
    source = EsImageNet(folder)
    height, width = np.int64(190), np.int64(254)
    details = np.array([[height, width]])
    sample = Samples(["a"], np.zeros(1, np.int32), [str(_the_file(folder))], details).row(0)
    source.read(sample, np.zeros(source.sample_format.packed_shape, np.uint8))


def _dense(folder: Path, _: Path) -> None:
    steps, height, width = raw.DENSE_SHAPE[1:]
    source = EsUcf101(root=folder, steps=steps, height=height, width=width)
    details = np.empty((1, 0), np.int64)
    sample = Samples(["a"], np.zeros(1, np.int32), [str(_the_file(folder))], details).row(0)
    source.read(sample, np.zeros(source.sample_format.packed_shape, np.uint8))


def _list(source: str, input: str = "", **options: str) -> Callable[[Path, Path], object]:  # noqa: A002
    """List the samples below ``input``; files and folders in ``options`` lie in the same folder."""

    def read(folder: Path, _: Path) -> None:
        paths = {key: folder / name for key, name in options.items() if (folder / name).exists()}
        fold = {"fold": 1} if "splits" in paths else {}
        listed = build_source(source, folder / input, {**paths, **fold})
        for samples in listed.splits().values():
            samples.columns()
        list(listed.classes)

    return read


def _picture(folder: Path, _: Path) -> None:
    with suppress(EventDataError):
        read_picture(_the_file(folder), grey=True)
    read_picture(_the_file(folder))


def _clip(folder: Path, _: Path) -> None:
    read_clip(_the_file(folder), VideoSettings(steps=3, size=(48, 64)))


def _recording(folder: Path, _: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the notes of a recording
        events, size = read_events(_the_file(folder))
    frames = FrameSettings(framing=Framing(frames=4))
    sample = frames.sample_format(size)
    if np.prod(sample.packed_shape) < 16 * MIB:
        frames.fill(Stream.of(events), size, np.zeros(sample.packed_shape, np.uint8))


def _gestures(folder: Path, _: Path) -> None:
    _read_all(build_source("dvs-gesture", folder, {"frames": 4}))


def _recordings(folder: Path, _: Path) -> None:
    options = {"window": 1000, "sensor_size": "32x32"}
    with suppress(EventDataError):
        _read_all(build_source("recordings", folder, {**options, "steps": 4}))
    _read_all(build_source("recordings", folder, {**options, "every": 2000}))


def _tonic(folder: Path, _: Path) -> None:
    name = _the_file(folder).name
    sensor = {"sensor_size": "40x40"} if name == "CIFAR10DVS" else {}
    _read_all(build_source(f"tonic:{name}", folder, {"frames": 2, **sensor}))


def _archive(folder: Path, out: Path) -> None:
    limits = Limits(file_bytes=8 * MIB, total_bytes=16 * MIB)
    unpack([_the_file(folder)], out / "unpacked", limits)


def _in_place(folder: Path, _: Path) -> None:
    """Read the images of an archive; the error of a sample must name it and the archive."""
    path = str(_the_file(folder))
    _read_index.cache_clear()  # all cases have one path and time
    _group.cache_clear()
    source = build_source("images", open_input(path), {"short_side": 24, "crop": 24})
    job = plan_job(source, shard_size=8, limit=8, on_error="skip")
    packed = np.zeros(job.sample.packed_shape, job.sample.dtype)
    for samples in job.listing.values():
        for index, name in enumerate(samples.names):
            try:
                read_sample(source, samples, index, packed)
            except EventDataError as error:
                if path not in str(error):
                    raise AssertionError(f"{name}: {error} does not name {path}") from None
    if not path.endswith(".parquet"):
        _compare(path)


def _compare(path: str) -> None:
    """Raise AssertionError where tarfile or zipfile reads another file in an archive than we do."""
    index = index_of(path)
    for name, content in _by_library(path):
        place = index.find("/".join(part for part in name.split("/") if part not in ("", ".")))
        if place is None:
            raise AssertionError(f"{name!r} is not in the index")
        with suppress(EventDataError):
            if read_member(name, path, place)[0] != content:
                raise AssertionError(f"{name!r} has other bytes")


def _by_library(path: str) -> Iterator[tuple[str, bytes]]:
    """Yield the files that tarfile or zipfile reads in an archive, but not in tars in it."""
    if path.endswith(".zip"):
        with suppress(*LIBRARY_FAULTS), zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                with suppress(*LIBRARY_FAULTS):
                    if not entry.is_dir():
                        yield entry.filename, archive.read(entry)
        return
    with suppress(*LIBRARY_FAULTS), tarfile.open(path, "r:") as tar:
        for info in tar:
            if info.isfile() and not info.name.lower().endswith(".tar"):
                with suppress(*LIBRARY_FAULTS):
                    if content := tar.extractfile(info):
                        yield info.name, content.read(MIB)


LIBRARY_FAULTS = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError),
    *(ValueError, NotImplementedError, RuntimeError, OverflowError, IndexError, MemoryError),
)


def _call(*words: str | Path) -> None:
    """Run the command; its output must be UTF-8 and printable."""
    from eventdata.cli import main

    content = io.BytesIO()
    output = io.TextIOWrapper(content, "utf-8", errors="strict")
    with redirect_stdout(output), redirect_stderr(output), suppress(SystemExit):
        main.main([str(word) for word in words], prog_name="eventdata")
    output.flush()
    for line in content.getvalue().decode().split("\n"):
        if not line.isprintable():
            raise AssertionError(f"printed without escaping: {line!r}")


def _store(folder: Path, out: Path) -> None:
    store = eventdata.open_store(folder)
    _call("info", folder)
    _call("verify", folder, "--workers", "1")
    for name, split in store.splits.items():
        with suppress(EventDataError):
            dataset = eventdata.FrameDataset(folder, name)
            repr(dataset), dataset.names, dataset.event_counts, dataset.shards
            dataset.__getitems__(range(min(3, len(dataset))))
        with suppress(EventDataError):
            show(store, name, f"0:{min(3, len(split))}", out / "sheet.png")


def _grey(folder: Path, _: Path) -> None:
    _read_all(build_source("images", folder, {"grey_from_events": True}))


def _against(folder: Path, _: Path) -> None:
    eventdata.verify(folder / "store", against=folder / "raw")


def _resumed(folder: Path, _: Path) -> None:
    made = stores.store_inputs()[int((folder / "number").read_text())]
    raw, out = folder / "raw", folder / "out"
    eventdata.convert(made.source, raw, out, shard_size=2, **made.options)


def _generated(folder: Path, _: Path) -> None:
    generate("es-imagenet", folder / "raw", folder / "out", min_events=0, on_error="skip")


def _recipe(folder: Path, out: Path) -> None:
    from train.recipe import load

    with suppress(EventDataError):
        load(str(_the_file(folder)), scratch=True)
    recipe = load(str(_the_file(folder)))
    (again := out / "again.toml").write_text(recipe.document(), encoding="utf-8")
    load(str(again))


def _checkpoint(folder: Path, _: Path) -> None:
    import torch
    from torch import nn

    from train import load_model
    from train.runs.folder import weight_facts
    from train.transfer import transfer
    from train.weights import load_state

    path = _the_file(folder)
    weight_facts(path)
    with suppress(EventDataError):
        load_model(path)
    network = nn.Module()
    network.stem = nn.Module()
    network.stem.conv = nn.Conv2d(2, 2, 3)
    network.fc = nn.Linear(2, 4)
    with torch.no_grad():
        transfer(network, load_state(path))


def _run(folder: Path, out: Path) -> None:
    from train.recipe import load
    from train.report import summarise
    from train.results import read_run
    from train.runs.folder import RunFolder
    from train.tables import markdown, methods

    with suppress(EventDataError):
        RunFolder(folder).check_same(load("digits").document())
    with suppress(EventDataError):
        load(str(folder / "config.toml"))
    _call("report", folder, "-o", out / "report")
    markdown(methods(summarise([read_run(folder)])))


def _format(
    suffix: str, *makes: Callable[[], bytes], pattern: str = "none", times: int = 100
) -> Reader:
    """Return a reader of one format; a million pieces of a recording take 100 MiB."""
    trees = recordings.recordings(suffix, *makes, pattern=f"recordings/{pattern}")
    return Reader(trees, _recording, mib=160, times=times)


READERS: Mapping[str, Reader] = {
    "npz-coordinates": Reader(raw.coordinate_files, _coordinates, mib=16),
    "npz-dense": Reader(raw.dense_files, _dense, mib=64),
    "es-imagenet": Reader(raw.es_imagenet, lambda folder, _: _read_all(EsImageNet(folder))),
    "manifests": Reader(raw.manifests, _list("es-imagenet"), times=500),
    "split-lists": Reader(raw.split_lists, _list("ucf101", "clips", splits="lists"), times=500),
    "image-lists": Reader(
        raw.image_lists,
        _list("images", "images", list="list.txt", classes="classes.txt"),
        times=500,
        mib=512,  # a list may imply a million classes by its highest number
    ),
    "pictures": Reader(pictures.pictures, _picture, mib=1024),
    "clips": Reader(pictures.clips, _clip, mib=1024),
    "aedat2": _format(".aedat", recordings.aedat2_file, recordings.davis_file, pattern="*.aedat"),
    "aedat3": _format(".aedat", recordings.aedat3_file),
    "aedat4": _format(
        ".aedat4",
        *(partial(recordings.aedat4_file, packer) for packer in recordings.AEDAT4_PACKERS),
        pattern="*.aedat4",
    ),
    "evt2": _format(".raw", recordings.evt2_file, pattern="evt2*.raw"),
    "evt3": _format(".raw", recordings.evt3_file, pattern="evt3*.raw", times=500),
    "evt21": _format(".raw", recordings.evt21_file, times=500),
    "dat": _format(".dat", recordings.dat_file, recordings.dat1_file, pattern="*.dat"),
    "rosbag": _format(".bag", recordings.bag_file, times=1000),
    "text": _format(".txt", recordings.text_file),
    "csv": _format(".csv", recordings.csv_file),
    "bin": _format(".bin", recordings.bin_file, pattern="*.bin"),
    "es": _format(".es", recordings.es_file, pattern="*.es"),
    "hdf5": _format(
        ".h5",
        *(partial(recordings.hdf5_file, one) for one in ("columns", "table", "compounds")),
        pattern="*.h5",
        times=500,
    ),
    "npz-events": _format(".npz", recordings.npz_events),
    "npz-tables": _format(".npz", lambda: trees.npz(events=recordings.table()), times=500),
    "npy-tables": _format(".npy", lambda: trees.npy(recordings.table())),
    "npy-events": _format(".npy", lambda: trees.npy(recordings.events())),
    "dvs-gesture": Reader(recordings.gesture_folder, _gestures, mib=160),
    "recordings": Reader(recordings.class_folders, _recordings, mib=160),
    "tonic": Reader(recordings.tonic_sets, _tonic),
    "archives": Reader(raw.archives, _archive),
    "tars": Reader(archives.tars, _in_place),
    "zips": Reader(archives.zips, _in_place, mib=512),
    "webdataset": Reader(archives.webdataset, _in_place),
    **({"parquet": Reader(archives.parquet, _in_place, mib=1024)} if HAS_PYARROW else {}),
    "stores": Reader(stores.stores, _store),
    "grey-stores": Reader(stores.odg_stores, _grey),
    "stores-against-raw": Reader(stores.stores_and_inputs, _against, damage="store/"),
    "unfinished-stores": Reader(stores.unfinished_stores, _resumed, damage="out/"),
    "unfinished-raw": Reader(stores.unfinished_raw, _generated, damage="out/"),
    "recipes": Reader(training.recipes, _recipe),
    "checkpoints": Reader(training.checkpoints, _checkpoint),
    "runs": Reader(training.runs, _run),
}
