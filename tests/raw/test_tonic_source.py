"""The source `tonic:NAME` reads Tonic's classes, gives its frames and downloads nothing."""

import os
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest
import tonic.datasets
from tonic.io import make_structured_array, read_mnist_file
from tonic.transforms import Compose, Denoise, Downsample, ToFrame

import eventdata
from eventdata.conversion import convert
from eventdata.errors import InputError, MismatchError, OptionError
from eventdata.raw.tonic import split_arguments
from tests.makers import tree_digest
from tests.source_contract import SourceContract

SIZE = (34, 34, 2)


@pytest.fixture(scope="module")
def nmnist(shared, tmp_path_factory):
    """Write every tenth recording of each split to Tonic's folders."""
    root = tmp_path_factory.mktemp("nmnist")
    with zipfile.ZipFile(shared / "nmnist_550.zip") as archive:
        archive.extractall(root, sorted(archive.namelist())[::10])
    return root


def write_gestures(root, *, samples=6, split="Train", users=2, seed=0):
    """Write DVS-Gesture as Tonic stores it: npy files of x, y, p and t in ms, a folder per user."""
    rng = np.random.default_rng(seed)
    for number in range(samples):
        t = np.sort(rng.integers(0, 500, 200))
        xy = rng.integers(0, 128, (2, 200))
        folder = root / "DVSGesture" / f"ibmGesture{split}" / f"user{number % users:02d}_lab"
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{number}.npy", np.stack([*xy, rng.integers(0, 2, 200), t], axis=1))
    return root


class TestGestures(SourceContract):
    """The contract for a dataset with one file per sample."""

    source = "tonic:DVSGesture"
    options: ClassVar[dict[str, Any]] = {"frames": 10}
    other: ClassVar[dict[str, Any]] = {
        "overlap": 0.5,
        "frames": 9,
        "merge_polarities": True,
        "representation": "count",
        "transform": ["Downsample(spatial_factor=0.5)"],
    }

    def make(self, folder):
        return write_gestures(folder / "raw")

    def file_of_a_sample(self, raw):
        return raw / "DVSGesture" / "ibmGestureTrain" / "user00_lab" / "2.npy"

    def damage(self, raw):
        path = self.file_of_a_sample(raw)
        path.write_bytes(path.read_bytes()[:300])
        return "ibmGestureTrain/user00_lab/2.npy"


@pytest.mark.parametrize("workers", [1, 2])
def test_frames_are_those_of_tonic(nmnist, tmp_path, workers):
    out = tmp_path / "out.zarr"
    result = convert(
        "tonic:NMNIST",
        nmnist,
        out,
        workers=workers,
        shard_size=8,
        events_per_frame=300,
        steps=12,
        representation="count",
    )
    assert result.samples == {"train": 45, "test": 10}
    to_frame = ToFrame(sensor_size=SIZE, event_count=300)
    cut = 0
    for split, folder in (("train", "Train"), ("test", "Test")):
        ds = eventdata.FrameDataset(out, split)
        files = sorted((nmnist / "NMNIST" / folder).rglob("*.bin"))
        assert ds.names == [path.relative_to(nmnist / "NMNIST").as_posix() for path in files]
        assert ds.classes == tonic.datasets.NMNIST.classes
        for index, path in enumerate(files):
            frames, label = ds[index]
            events = read_mnist_file(str(path), dtype=tonic.datasets.NMNIST.dtype)
            theirs = to_frame(events)[:, ::-1]  # p is the channel
            cut += len(theirs) > 12
            kept = theirs[:12]
            np.testing.assert_array_equal(frames.numpy()[: len(kept)], kept)
            assert not frames[len(kept) :].any()
            assert label == int(path.parent.name)
    assert cut > 0
    assert f"{cut} samples: longer than 12 frames; the rest was cut" in result.notes
    assert sum("Tonic's own check of NMNIST misses" in note for note in result.notes) == 2


def test_windows_are_tonics_and_the_one_it_drops(nmnist, tmp_path):
    out = tmp_path / "out.zarr"
    convert(
        "tonic:NMNIST", nmnist, out, split="test", window=25_000, include_incomplete=True, steps=14
    )
    ds = eventdata.FrameDataset(out, "test")
    to_frame = ToFrame(sensor_size=SIZE, time_window=25_000, include_incomplete=True)
    for index, name in enumerate(ds.names):
        events = read_mnist_file(str(nmnist / "NMNIST" / name), dtype=tonic.datasets.NMNIST.dtype)
        theirs = to_frame(events)[:, ::-1] > 0
        frames = ds[index][0].numpy()
        # Tonic omits a window that begins with the last event (see kernels/test_framing.py).
        assert frames[len(theirs) :].sum() <= 1
        np.testing.assert_array_equal(frames[: len(theirs)], theirs)


def test_transforms_are_those_of_tonic(nmnist, tmp_path):
    out = tmp_path / "out.zarr"
    convert(
        "tonic:NMNIST",
        nmnist,
        out,
        split="test",
        events_per_frame=200,
        steps=4,
        representation="count",
        transform=["Denoise(filter_time=10000)", "Downsample(spatial_factor=0.5)"],
    )
    pipeline = Compose(
        [
            Denoise(filter_time=10000),
            Downsample(spatial_factor=0.5),
            ToFrame(sensor_size=(17, 17, 2), event_count=200),
        ]
    )
    ds = eventdata.FrameDataset(out, "test")
    assert ds[0][0].shape == (4, 2, 17, 17)
    for index, name in enumerate(ds.names):
        events = read_mnist_file(str(nmnist / "NMNIST" / name), dtype=tonic.datasets.NMNIST.dtype)
        theirs = pipeline(events)[:4, ::-1]
        np.testing.assert_array_equal(ds[index][0].numpy()[: len(theirs)], theirs)
    assert eventdata.verify(out, against=nmnist, samples=3).ok


def test_a_clock_that_falls_is_mended_with_a_note(tmp_path):
    """Left-over events before the clock starts anew are skipped."""
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 1000, 5980))  # ms
    x, y, p = (rng.integers(0, side, 5980) for side in (128, 128, 2))
    events = np.stack([x, y, p, t], axis=1)
    before = events[:20].copy()
    before[:, 3] += 600_000
    for name, rows in (("clean", events), ("stale", np.concatenate([before, events]))):
        folder = tmp_path / name / "DVSGesture" / "ibmGestureTrain" / "user00_lab"
        folder.mkdir(parents=True)
        np.save(folder / "0.npy", rows)
        convert("tonic:DVSGesture", tmp_path / name, tmp_path / f"{name}.zarr", frames=10)
    clean, mended = (
        eventdata.FrameDataset(tmp_path / f"{name}.zarr", "train") for name in ("clean", "stale")
    )
    np.testing.assert_array_equal(mended[0][0].numpy(), clean[0][0].numpy())
    notes = convert(
        "tonic:DVSGesture", tmp_path / "stale", tmp_path / "stale.zarr", frames=10, overwrite=True
    ).notes
    assert any("at event 20 time falls from" in note and "20 events" in note for note in notes)


def test_order_and_labels_do_not_depend_on_the_file_system(tmp_path, monkeypatch):
    """Tonic lists DVS-Gesture in the file system's order, which workers may see differently."""
    raw = write_gestures(tmp_path / "raw", samples=11)
    first = tmp_path / "first.zarr"
    convert("tonic:DVSGesture", raw, first, frames=5)
    walks = []

    def walk(folder):
        walks.append(folder)
        for path, folders, files in os.walk(folder):
            yield path, folders, sorted(files, reverse=len(walks) % 2 == 0)

    monkeypatch.setattr(tonic.datasets.dvsgesture, "os", SimpleNamespace(walk=walk, path=os.path))
    second = tmp_path / "second.zarr"
    convert("tonic:DVSGesture", raw, second, frames=5)
    assert len(walks) == 2  # in another order when listed and when read
    assert tree_digest(second) == tree_digest(first)
    ds = eventdata.FrameDataset(first, "train")
    assert ds.names == sorted(ds.names)
    assert ds.labels.tolist() == [int(Path(name).stem) for name in ds.names]
    assert ds.classes == tonic.datasets.DVSGesture.classes


def test_recordings_may_have_different_sizes(shared, tmp_path):
    """Tonic has no sensor size and no class names for N-Caltech101."""
    for number, name in enumerate(("Faces_easy", "accordion", "Faces_easy")):
        path = tmp_path / "NCALTECH101" / "Caltech101" / name / f"image_{number:04d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shared / "recordings" / "faces_easy_0001.bin", path)
    out = tmp_path / "out.zarr"
    with pytest.raises(OptionError, match="differ in size; pass --sensor-size"):
        convert("tonic:NCALTECH101", tmp_path, out, frames=4)
    result = convert("tonic:NCALTECH101", tmp_path, out, frames=4, sensor_size="240x180")
    assert result.samples == {"all": 3}
    ds = eventdata.FrameDataset(out, "all")
    assert (ds.classes, ds.labels.tolist()) == (["Faces_easy", "accordion"], [0, 0, 1])
    assert ds[0][0].shape == (4, 2, 180, 240)
    assert eventdata.verify(out, against=tmp_path).ok
    with pytest.raises(InputError, match="off the sensor of 100x100 pixels"):
        convert("tonic:NCALTECH101", tmp_path, out, frames=4, sensor_size="100x100", overwrite=True)


def test_aedat4_is_read(shared, tmp_path):
    """CIFAR10-DVS has a mapping of classes, and a decoder that aborts on damaged files."""
    pytest.importorskip("aedat")
    for name in ("truck", "cat"):
        (tmp_path / "CIFAR10DVS" / name).mkdir(parents=True)
        shutil.copy(shared / "recordings" / "sample.aedat4", tmp_path / "CIFAR10DVS" / name)
    out = tmp_path / "out.zarr"
    options = {"frames": 4, "sensor_size": "320x240"}
    convert("tonic:CIFAR10DVS", tmp_path, out, **options)
    ds = eventdata.FrameDataset(out, "all")
    assert [ds.classes[label] for label in ds.labels] == ["cat", "truck"]
    assert len(ds.classes) == 10
    damaged = tmp_path / "CIFAR10DVS" / "cat" / "sample.aedat4"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"cat/sample\.aedat4: a truncated or damaged"):
        convert("tonic:CIFAR10DVS", tmp_path, tmp_path / "no.zarr", **options)


def test_spikes_of_a_cochlea_are_read(tmp_path):
    """SHD has one row, one polarity and one file for all samples, with the labels inside."""
    folder = tmp_path / "SHD"
    folder.mkdir()
    rng = np.random.default_rng(0)
    spikes = [
        (np.sort(rng.random(50)).astype(np.float32), rng.integers(0, 700, 50)) for _ in range(4)
    ]
    with h5py.File(folder / "shd_test.h5", "w") as file:
        for column, (name, kind) in enumerate((("times", np.float32), ("units", np.uint16))):
            values = file.create_dataset(f"spikes/{name}", (4,), h5py.vlen_dtype(kind))
            for number in range(4):
                values[number] = spikes[number][column]
        file["labels"] = np.array([1, 0, 2, 1])
        file["extra/keys"] = np.array([b"zero", b"one", b"two"])
        file["extra/speaker"] = np.zeros(4)
    out = tmp_path / "out.zarr"
    result = convert("tonic:SHD", tmp_path, out, window=100_000, steps=10, representation="count")
    assert result.samples == {"test": 4}
    ds = eventdata.FrameDataset(out, "test")
    assert (ds.names, ds.labels.tolist()) == (["0", "1", "2", "3"], [1, 0, 2, 1])
    assert (ds.classes, ds.attrs["polarity"]) == (["zero", "one", "two"], ["merged"])
    for index in range(4):
        columns = (spikes[index][0].astype(np.float64) * 1e6, spikes[index][1], 1)
        events = make_structured_array(*columns, dtype=tonic.datasets.SHD.dtype)
        theirs = ToFrame(sensor_size=(700, 1, 1), time_window=100_000)(events)
        frames = ds[index][0].numpy()
        assert frames.shape == (10, 1, 1, 700)
        np.testing.assert_array_equal(frames[: len(theirs), 0, 0], theirs[:, 0])
    assert eventdata.verify(out, against=tmp_path).ok
    (folder / "shd_test.h5").touch()
    with pytest.raises(MismatchError, match="changed since"):
        convert("tonic:SHD", tmp_path, out, window=100_000, steps=10, representation="count")
    with h5py.File(folder / "shd_test.h5", "a") as file:
        del file["spikes"]
    with pytest.raises(InputError, match=r"SHD: Tonic can't read the labels of SHD \(KeyError"):
        convert("tonic:SHD", tmp_path, out, frames=3)


def test_events_in_tonics_memory_are_read(tmp_path):
    folder = tmp_path / "POKERDVS" / "pips_train" / "he"
    folder.mkdir(parents=True)
    events = np.array([[5, 1, 2, 1], [9, 3, 4, 0]])
    np.save(folder / "0.npy", events)  # t, x, y, p
    out = tmp_path / "out.zarr"
    assert convert("tonic:POKERDVS", tmp_path, out, frames=1).samples == {"train": 1}
    ds = eventdata.FrameDataset(out, "train")
    assert ds.classes[ds.labels[0]] == "he"
    assert ds[0][0].nonzero().tolist() == [[0, 0, 2, 1], [0, 1, 4, 3]]


def test_missing_data_is_not_downloaded(tmp_path, monkeypatch):
    def reach_out(*args, **kwargs):
        raise AssertionError("reached for the network")

    monkeypatch.setattr("urllib.request.urlopen", reach_out)
    monkeypatch.setattr("requests.get", reach_out)
    names = [name for name in tonic.datasets.__all__ if name not in REFUSED]
    assert len(names) >= 10
    for name in names:
        with pytest.raises(InputError) as error:
            convert(f"tonic:{name}", tmp_path, tmp_path / "out.zarr", frames=3)
        assert str(tmp_path / (name if name != "SMNIST" else "smnist")) in str(error.value)
        for given in split_arguments(name).values():
            words = "".join(f", {key}={value!r}" for key, value in given.items())
            assert f"tonic.datasets.{name}('{tmp_path}'{words})" in str(error.value)
    assert list(tmp_path.iterdir()) == []


REFUSED = ["DAVISDATA", "DSEC", "EBSSA", "MVSEC", "NERDD", "TUMVIE", "ThreeET_Eyetracking", "VPR"]


@pytest.mark.parametrize("name", [*REFUSED, "nmnist", "Dataset", ""])
def test_other_data_sets_are_refused(tmp_path, name):
    with pytest.raises(OptionError, match="(is not events|has no dataset)"):
        convert(f"tonic:{name}", tmp_path, tmp_path / "out.zarr", frames=3)


def test_targets_that_are_not_classes_are_refused(tmp_path, monkeypatch):
    class Boxes(tonic.dataset.Dataset):
        sensor_size = (4, 4, 2)

        def __init__(self, save_to):
            super().__init__(save_to)
            self._check_exists()

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return None, np.zeros(4)

    (tmp_path / "Boxes").mkdir()
    monkeypatch.setattr(tonic.datasets, "POKERDVS", Boxes)
    with pytest.raises(OptionError, match="labels that are not classes"):
        convert("tonic:POKERDVS", tmp_path, tmp_path / "out.zarr", frames=3)


def test_a_download_that_a_class_starts_is_stopped(tmp_path, monkeypatch):
    class Eager(tonic.datasets.POKERDVS):
        def __init__(self, save_to):
            tonic.dataset.Dataset.__init__(self, save_to)
            self.download()

    monkeypatch.setattr(tonic.datasets, "POKERDVS", Eager)
    with pytest.raises(InputError, match="finds no Eager in this folder"):
        convert("tonic:POKERDVS", tmp_path, tmp_path / "out.zarr", frames=3)


def test_only_existing_splits_are_read(nmnist, tmp_path):
    shutil.copytree(nmnist / "NMNIST" / "Test", tmp_path / "NMNIST" / "Test")
    out = tmp_path / "out.zarr"
    result = convert("tonic:NMNIST", tmp_path, out, frames=3)
    assert result.samples == {"test": 10}
    (note,) = (note for note in result.notes if note.startswith("no split train: "))
    assert f"tonic.datasets.NMNIST('{tmp_path}', train=True)" in note
    result = convert("tonic:NMNIST", tmp_path, tmp_path / "alone.zarr", frames=3, split="test")
    assert not any("train" in note for note in result.notes)
    with pytest.raises(InputError, match="Train: Tonic finds no NMNIST in this folder"):
        convert("tonic:NMNIST", tmp_path, out, frames=3, split="train")
    with pytest.raises(OptionError, match="no split 'val'; choose from train, test"):
        convert("tonic:NMNIST", tmp_path, out, frames=3, split="val")


def test_later_files_are_found(tmp_path):
    raw = write_gestures(tmp_path / "raw", samples=3)
    out = tmp_path / "out.zarr"
    convert("tonic:DVSGesture", raw, out, frames=3)
    write_gestures(raw, samples=5)
    with pytest.raises(MismatchError, match="train has 3 samples in the store, 5 in the input"):
        convert("tonic:DVSGesture", raw, out, frames=3)
    result = convert("tonic:DVSGesture", raw, out, frames=3, overwrite=True)
    assert result.samples == {"train": 5}


def test_files_that_tonic_cannot_read_are_errors(tmp_path):
    raw = write_gestures(tmp_path / "raw", samples=3)
    folder = raw / "DVSGesture" / "ibmGestureTrain" / "user00_lab"
    np.save(folder / "0.npy", np.zeros((0, 4), int))
    np.save(folder / "2.npy", np.array([[200, 1, 1, 5]]))
    out = tmp_path / "out.zarr"
    with pytest.raises(InputError, match=r"0\.npy: no events in it"):
        convert("tonic:DVSGesture", raw, out, frames=3)
    convert("tonic:DVSGesture", raw, out, frames=3, on_error="skip")
    reasons = (out / "skipped.json").read_text()
    assert "1 of 1 event lies off the sensor of 128x128 pixels" in reasons
    assert eventdata.open_store(out).split("train").valid.tolist() == [False, False, True]
