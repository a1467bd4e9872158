"""Errors of a failing disk name the file, and no sample is skipped because of them."""

import builtins
import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest

import eventdata
from eventdata.errors import EventDataError, InputError, StoreError
from tests.makers import (
    make_clips,
    make_es_imagenet,
    make_es_ucf101,
    make_images,
    tree_digest,
    write_npz,
)


def make_recordings(root):
    rng = np.random.default_rng(0)
    for number in range(4):
        columns = {"x": rng.integers(0, 16, 200), "y": rng.integers(0, 12, 200)}
        columns |= {"t": np.sort(rng.integers(0, 1000, 200)), "p": rng.integers(0, 2, 200)}
        write_npz(root / ("left", "right")[number % 2] / f"{number}.npz", **columns)
    return root


SOURCES = {
    "es-imagenet": (make_es_imagenet, {}),
    "es-ucf101": (make_es_ucf101, {}),
    "imagenet": (make_images, {"min_events": 20}),
    "images": (make_images, {"short_side": 16, "crop": 16}),
    "ucf101": (make_clips, {"steps": 4, "size": "48x64"}),
    "recordings": (make_recordings, {"frames": 4, "sensor_size": "16x12"}),
}
FAILED = OSError(errno.EIO, os.strerror(errno.EIO))


class Failing(io.FileIO):
    """A file that can be opened but not read."""

    def _fail(self, *_):
        raise FAILED

    read = readall = readinto = _fail


@pytest.fixture(scope="module", params=SOURCES)
def converted(request, tmp_path_factory):
    """Return a source with its raw data, options and the digest of its store."""
    make, options = SOURCES[request.param]
    folder = tmp_path_factory.mktemp("reads")
    raw = make(folder / "raw")
    eventdata.convert(request.param, raw, folder / "whole.zarr", **options)
    return request.param, raw, options, tree_digest(folder / "whole.zarr")


def test_a_file_that_cannot_be_read_is_named(converted, tmp_path, monkeypatch):
    source, raw, options, whole = converted
    path = max(path for path in raw.rglob("*") if path.suffix not in ("", ".txt"))
    real, real_open, real_read = io.open, os.open, os.read
    descriptors = set()

    def note(file, *words, **settings):
        descriptor = real_open(file, *words, **settings)
        descriptors.discard(descriptor)
        if Path(os.fsdecode(file)) == path:
            descriptors.add(descriptor)
        return descriptor

    def fail_to_read(descriptor, count):
        if descriptor in descriptors:
            raise FAILED
        return real_read(descriptor, count)

    def fail(file, mode="r", buffering=-1, *words, **settings):
        if isinstance(file, str | os.PathLike) and Path(file) == path:
            raw_file = Failing(file)
            return raw_file if buffering == 0 else io.BufferedReader(raw_file)
        return real(file, mode, buffering, *words, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(io, "open", fail)
        patched.setattr(builtins, "open", fail)
        patched.setattr(os, "open", note)
        patched.setattr(os, "read", fail_to_read)
        with pytest.raises(InputError, match=path.name):
            eventdata.convert(source, raw, tmp_path / "out.zarr", **options)
    eventdata.convert(source, raw, tmp_path / "out.zarr", **options)
    assert tree_digest(tmp_path / "out.zarr") == whole


def test_no_sample_is_skipped_because_too_many_files_are_open(converted, tmp_path, monkeypatch):
    source, raw, options, whole = converted
    path = max(path for path in raw.rglob("*") if path.suffix not in ("", ".txt"))

    def refusing(real):
        def refuse(file, *words, **settings):
            if isinstance(file, str | os.PathLike) and Path(file) == path:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(file))
            return real(file, *words, **settings)

        return refuse

    with monkeypatch.context() as patched:
        for owner in (io, builtins, os):
            patched.setattr(owner, "open", refusing(owner.open))
        with pytest.raises(EventDataError, match=rf"{path.name}: .*raise the limit on open files"):
            eventdata.convert(source, raw, tmp_path / "out.zarr", on_error="skip", **options)
    eventdata.convert(source, raw, tmp_path / "out.zarr", on_error="skip", **options)
    assert tree_digest(tmp_path / "out.zarr") == whole


@pytest.mark.parametrize(
    "converted", [source for source in SOURCES if source != "es-imagenet"], indirect=True
)  # the source that has a manifest
def test_a_folder_that_cannot_be_listed_is_an_error(converted, tmp_path, monkeypatch):
    """It does not count as empty, because its samples would be missing silently."""
    source, raw, options, whole = converted
    folder = max([raw, *(path for path in raw.rglob("*") if path.is_dir())])

    def failing(real):
        def fail(place="."):
            if os.fspath(place) == str(folder):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
            return real(place)

        return fail

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", failing(os.scandir))
        patched.setattr(os, "listdir", failing(os.listdir))
        with pytest.raises(EventDataError, match=folder.name):
            eventdata.convert(source, raw, tmp_path / "out.zarr", **options)
    eventdata.convert(source, raw, tmp_path / "out.zarr", **options)
    assert tree_digest(tmp_path / "out.zarr") == whole


def test_a_store_on_a_failing_disk_raises_an_error(tmp_path, monkeypatch):
    """A reader raises an error; a memory map would end the process."""
    store = tmp_path / "store.zarr"
    eventdata.convert("es-imagenet", make_es_imagenet(tmp_path / "raw"), store)
    dataset = eventdata.FrameDataset(store)
    dataset[0]

    def fail(*_):
        raise FAILED

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", fail)
        for opened in (dataset, eventdata.FrameDataset(store)):  # the index of a new dataset
            with pytest.raises(StoreError, match="train, shard 0, sample 1: .*Input/output error"):
                opened[1]
        with pytest.raises(StoreError, match="Input/output error"):
            list(eventdata.FrameLoader(dataset, 4))
    dataset[1]


def test_a_shard_truncated_while_it_is_open_raises_an_error(tmp_path):
    store = tmp_path / "store.zarr"
    eventdata.convert("es-imagenet", make_es_imagenet(tmp_path / "raw"), store)
    dataset = eventdata.FrameDataset(store)
    dataset[0]
    os.truncate(store / "train/frames/c/0/0/0/0/0", 10)
    with pytest.raises(StoreError, match="shard 0, sample 11"):
        dataset[11]
