"""The source `recordings` reads class folders of event files, whole or cut, in every format."""

import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner
from tonic.transforms import ToFrame

import eventdata
from eventdata.cli import main
from eventdata.conversion import convert
from eventdata.errors import InputError, OptionError
from eventdata.formats.recording import read_events
from eventdata.raw import reading
from eventdata.units import LATEST
from tests.makers import write_npz
from tests.source_contract import SourceContract

W, H = 16, 12
SIZES = {  # of real recordings whose files do not contain the size
    "faces_easy_0001.bin": "240x180",
    "sample_ncars.dat": "120x100",
    "sample_nmnist.bin": "34x34",
}
RECORDINGS = [
    "DVS128-2017-03-21-short.aedat",
    "davis.aedat4",
    "dvs.es",
    "evt2_sample.raw",
    "sample.aedat4",
    *SIZES,
]


def columns(rng, count=400, start=0, length=1000):
    """Return ordered random events of the small sensor that begin and end with the interval."""
    t = np.sort(rng.integers(start, start + length, count))
    t[0], t[-1] = start, start + length - 1
    x, y = rng.integers(0, W, count), rng.integers(0, H, count)
    return {"x": x, "y": y, "t": t, "p": rng.integers(0, 2, count)}


def make_recordings(root: Path, *, lengths=(1000,) * 5, seed=0) -> Path:
    """Write recordings of two classes; each length is in microseconds."""
    rng = np.random.default_rng(seed)
    for number, length in enumerate(lengths):
        name = ("left", "right")[number % 2]
        events = columns(rng, start=7_000 * number, length=length)
        write_npz(root / name / f"{number}.npz", **events)
    return root


class Whole(SourceContract):
    source = "recordings"
    options: ClassVar[dict[str, Any]] = {"frames": 10, "sensor_size": "16x12"}
    other: ClassVar[dict[str, Any]] = {
        "overlap": 0.5,
        "frames": 9,
        "merge_polarities": True,
        "representation": "count",
        "sensor_size": "17x12",
        "transform": ["Decimation(n=2)"],
        "every": 500,
    }

    def make(self, folder):
        return make_recordings(folder / "raw")

    def file_of_a_sample(self, raw):
        return raw / "left" / "2.npz"

    def damage(self, raw):
        path = self.file_of_a_sample(raw)
        path.write_bytes(path.read_bytes()[:300])
        return "left/2.npz"


class TestWhole(Whole):
    pass


class TestCut(Whole):
    """A file has several samples, so it is opened when samples are listed."""

    options: ClassVar[dict[str, Any]] = {
        "every": 300,
        "window": 50,
        "steps": 6,
        "representation": "count",
        "sensor_size": "16x12",
    }
    other: ClassVar[dict[str, Any]] = {
        "overlap": 10,
        "every": 400,
        "window": 60,
        "count_dtype": "uint16",
        "include_incomplete": True,
        "steps": 5,
    }


class TestTransformed(Whole):
    options: ClassVar[dict[str, Any]] = {
        "events_per_frame": 50,
        "steps": 3,
        "representation": "count",
        "sensor_size": "16x12",
        "transform": ["Denoise(filter_time=200)", "Downsample(spatial_factor=0.5)"],
    }
    other: ClassVar[dict[str, Any]] = {
        "transform": ["Denoise(filter_time=100)", "Downsample(spatial_factor=0.5)"],
        "steps": 4,
    }


class TestEventBins(Whole):
    options: ClassVar[dict[str, Any]] = {"n_event_bins": 5, "every": 300, "sensor_size": "16x12"}
    other: ClassVar[dict[str, Any]] = {"n_event_bins": 6, "overlap": 0.5}


@pytest.mark.parametrize("name", RECORDINGS)
def test_real_recordings_give_tonics_frames(shared, tmp_path, name):
    path = tmp_path / "raw" / "only" / name
    path.parent.mkdir(parents=True)
    shutil.copy(shared / "recordings" / name, path)
    out = tmp_path / "out.zarr"
    options = {"representation": "count", "count_dtype": "uint16"}
    if name in SIZES:
        with pytest.raises(OptionError, match="does not state its sensor size"):
            convert("recordings", path.parents[1], out, frames=3)
        options["sensor_size"] = SIZES[name]
    size = tuple(int(side) for side in SIZES[name].split("x")) if name in SIZES else None
    events, size = read_events(path, size)
    each = len(events) // 7
    result = convert("recordings", path.parents[1], out, events_per_frame=each, steps=8, **options)
    assert result.samples == {"all": 1}
    ds = eventdata.FrameDataset(out, "all")
    frames, label = ds[0]
    assert (ds.names, ds.classes, label) == ([f"only/{name}"], ["only"], 0)
    theirs = ToFrame(sensor_size=(*size, 2), event_count=each)(events)[:, ::-1]  # p -> channel
    np.testing.assert_array_equal(frames.numpy()[:7], theirs)
    assert not frames[7].any()
    assert ds.event_counts[0] == theirs.sum()
    assert eventdata.verify(out, against=path.parents[1]).ok


def expected_counts(events, starts, length):
    """Count the events in [start, start + length) for each start, (T, P, H, W)."""
    frames = np.zeros((len(starts), 2, H, W), np.int64)
    for step, start in enumerate(starts):
        chosen = {
            key: v[(events["t"] >= start) & (events["t"] < start + length)]
            for key, v in events.items()
        }
        np.add.at(frames, (step, 1 - chosen["p"], chosen["y"], chosen["x"]), 1)
    return frames


def test_pieces_are_windows_of_the_recording(tmp_path):
    """A piece begins at its own time, even if its first event comes later."""
    raw, out = tmp_path / "raw", tmp_path / "out.zarr"
    events = columns(np.random.default_rng(1), length=1050)
    keep = (events["t"] < 100) | (events["t"] >= 150)  # the second piece begins late
    keep &= (events["t"] < 400) | (events["t"] >= 600)  # and two are empty
    events = {key: value[keep] for key, value in events.items()}
    write_npz(raw / "a" / "long.npz", **events)
    short = columns(np.random.default_rng(2), count=20, length=60)
    write_npz(raw / "b" / "short.npz", **short)
    options = {"every": 100, "window": 25, "representation": "count", "sensor_size": (W, H)}
    result = convert("recordings", raw, out, **options)
    assert "long.npz: its times are read as microseconds" in result.notes[0]
    assert result.notes[1:] == [
        "all: skipped 50 us at the ends of recordings, less than --every each",
        "all: skipped 2 samples without events; the numbers of the others count them",
    ]
    ds = eventdata.FrameDataset(out, "all")
    numbers = [0, 1, 2, 3, 6, 7, 8, 9]
    assert ds.names == [*(f"a/long.npz#{i}" for i in numbers), "b/short.npz#0"]
    assert ds.labels.tolist() == [0] * 8 + [1]
    for index, number in enumerate(numbers):
        expected = expected_counts(events, np.arange(4) * 25 + 100 * number, 25)
        np.testing.assert_array_equal(ds[index][0].numpy(), expected)
    assert ds.event_counts[1] == np.sum((events["t"] >= 100) & (events["t"] < 200)) > 0
    np.testing.assert_array_equal(ds[8][0].numpy(), expected_counts(short, np.arange(4) * 25, 25))

    bins = tmp_path / "bins.zarr"
    convert("recordings", raw, bins, **{**options, "window": None, "frames": 4})
    same = eventdata.FrameDataset(bins, "all")
    for index in range(9):
        np.testing.assert_array_equal(same[index][0].numpy(), ds[index][0].numpy())


def test_a_recording_is_read_once_for_all_its_pieces(tmp_path, monkeypatch):
    raw = make_recordings(tmp_path / "raw", lengths=(2000, 1500))
    read = []
    real = reading.read_recording
    monkeypatch.setattr(
        reading, "read_recording", lambda path, options: read.append(path) or real(path, options)
    )
    result = convert(
        "recordings", raw, tmp_path / "out.zarr", every=100, frames=4, sensor_size="16x12"
    )
    assert result.samples == {"all": 35}
    assert len(read) == 4  # when listed and when converted
    assert reading.open_again.cache_info().maxsize == 1


def test_cut_samples_are_counted_in_a_note(tmp_path):
    raw = make_recordings(tmp_path / "raw", lengths=(1000, 400, 900))
    options = {"window": 100, "sensor_size": "16x12", "steps": 5, "time_unit": "us"}
    for workers in (1, 2):
        result = convert(
            "recordings",
            raw,
            tmp_path / f"{workers}.zarr",
            workers=workers,
            shard_size=1,
            **options,
        )
        assert result.notes == ["2 samples: longer than 5 frames; the rest was cut"]


def test_polarities_are_merged(tmp_path):
    raw = make_recordings(tmp_path / "raw")
    one, two = tmp_path / "one.zarr", tmp_path / "two.zarr"
    options = {"frames": 10, "sensor_size": "16x12"}
    convert("recordings", raw, one, merge_polarities=True, **options)
    convert("recordings", raw, two, **options)
    merged, both = eventdata.FrameDataset(one, "all"), eventdata.FrameDataset(two, "all")
    assert merged.attrs["polarity"] == ["merged"]
    assert both.attrs["polarity"] == ["positive", "negative"]
    for index in range(5):
        expected = both[index][0].amax(1, keepdim=True)
        np.testing.assert_array_equal(merged[index][0].numpy(), expected.numpy())
    picture = tmp_path / "one.png"
    shown = CliRunner().invoke(main, ["show", str(one), "--index", "0:4", "-o", str(picture)])
    assert shown.exit_code == 0, shown.output
    assert picture.stat().st_size > 0


def test_counts_never_wrap(tmp_path):
    n = 300
    many = {"x": [1] * n, "y": [2] * n, "t": range(n), "p": [1] * n}
    write_npz(tmp_path / "raw" / "a" / "b.npz", **{k: np.array(v) for k, v in many.items()})
    options = {"frames": 1, "representation": "count", "sensor_size": "16x12"}
    out = tmp_path / "out.zarr"
    with pytest.raises(InputError, match=r"b\.npz: the pixel x=1, y=2 has more .*wider type"):
        convert("recordings", tmp_path / "raw", out, **options)
    convert("recordings", tmp_path / "raw", out, count_dtype="uint16", overwrite=True, **options)
    assert eventdata.FrameDataset(out, "all").packed(0)[0, 2, 1, 0] == n


def test_split_folders_give_the_splits(tmp_path):
    for folder in ("Test", "train", "validation"):
        make_recordings(tmp_path / "raw" / folder, lengths=(500,) * 3)
    (tmp_path / "raw" / ".cache" / "x").mkdir(parents=True)
    write_npz(tmp_path / "raw" / "train" / "left" / "inside" / "9.npz", x=np.zeros(0))
    options = {"frames": 4, "sensor_size": "16x12", "on_error": "skip"}
    out = tmp_path / "out.zarr"
    result = convert("recordings", tmp_path / "raw", out, **options)
    assert list(result.samples.items()) == [("train", 4), ("val", 3), ("test", 3)]
    names = eventdata.open_store(out).split("train").sample_names.tolist()
    assert names == ["left/0.npz", "left/2.npz", "left/inside/9.npz", "right/1.npz"]
    one = convert("recordings", tmp_path / "raw", tmp_path / "one.zarr", split="val", **options)
    assert one.samples == {"val": 3}
    with pytest.raises(OptionError, match="no split 'all'; choose from train, val, test"):
        convert("recordings", tmp_path / "raw", tmp_path / "no.zarr", split="all", **options)
    make_recordings(tmp_path / "raw" / "val")
    with pytest.raises(InputError, match="a second folder for the split val"):
        convert("recordings", tmp_path / "raw", tmp_path / "no.zarr", **options)


def test_recordings_of_two_sensors_are_refused(shared, tmp_path):
    for name in ("dvs.es", "davis.aedat4"):
        (tmp_path / "raw" / name[:3]).mkdir(parents=True)
        shutil.copy(shared / "recordings" / name, tmp_path / "raw" / name[:3])
    both = r"dvs\.es: a sensor of 320x240 pixels, not 346x260"
    for every in (None, 100_000):
        with pytest.raises(InputError, match=both):
            convert("recordings", tmp_path / "raw", tmp_path / "out.zarr", frames=4, every=every)
    result = convert(
        "recordings", tmp_path / "raw", tmp_path / "skip.zarr", frames=4, on_error="skip"
    )
    assert (result.samples, result.skipped) == ({"all": 2}, 1)


def test_the_first_readable_recording_gives_the_size(shared, tmp_path):
    folder = tmp_path / "raw" / "a"
    folder.mkdir(parents=True)
    (folder / "0.es").write_bytes(b"Event")
    with pytest.raises(InputError, match=r"0\.es: not an Event Stream file"):
        convert("recordings", tmp_path / "raw", tmp_path / "out.zarr", frames=4, on_error="skip")
    shutil.copy(shared / "recordings" / "dvs.es", folder / "1.es")
    out = tmp_path / "out.zarr"
    result = convert("recordings", tmp_path / "raw", out, frames=4, on_error="skip")
    assert (result.samples, result.skipped) == ({"all": 2}, 1)
    assert eventdata.FrameDataset(out, "all")[0][0].shape == (4, 2, 240, 320)


def test_unusable_folders_are_refused(tmp_path):
    out = tmp_path / "out.zarr"
    with pytest.raises(InputError, match="no such folder"):
        convert("recordings", tmp_path / "none", out, frames=4)
    (tmp_path / "raw" / "a").mkdir(parents=True)
    (tmp_path / "raw" / "a" / "notes.txt").write_text("no events")
    with pytest.raises(InputError, match="no class folders with event files in it"):
        convert("recordings", tmp_path / "raw", out, frames=4)
    write_npz(tmp_path / "raw" / "loose.npz", x=np.zeros(0))
    with pytest.raises(InputError, match=r"loose\.npz: lies in no class folder"):
        convert("recordings", tmp_path / "raw", out, frames=4)
    assert not out.exists()


def test_a_recording_without_events_is_an_error(tmp_path):
    none = np.zeros(0, np.int64)
    write_npz(tmp_path / "raw" / "a" / "b.npz", x=none, y=none, t=none, p=none)
    for every in (None, 100):
        with pytest.raises(InputError, match=r"b\.npz: no events in it"):
            convert(
                "recordings",
                tmp_path / "raw",
                tmp_path / "out.zarr",
                frames=4,
                every=every,
                sensor_size="16x12",
            )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "choose exactly one of --frames T, .* not none"),
        ({"frames": 3, "window": 9}, "not frames and window"),
        ({"window": 9}, "pass --steps T"),
        ({"events_per_frame": 9, "every": 50}, "pass --steps T"),
        ({"frames": 3, "steps": 2}, "steps need --window"),
        ({"frames": 3, "count_dtype": "uint8"}, "count-dtype needs --representation count"),
        ({"frames": 3, "representation": "count", "count_dtype": "int8"}, "choose uint8, uint16"),
        ({"frames": 3, "sensor_size": "16"}, "WIDTHxHEIGHT"),
        ({"frames": 0}, "frames is 0"),
        ({"frames": 3, "transform": ["Denoise(filter_time='abc')"]}, "fails"),
        ({"frames": 3, "transform": ["Decimation(n=0)"]}, "fails"),
        ({"frames": 3, "transform": ["Denoise(filter_time=1, filter_time=2)"]}, "write it as"),
        ({"frames": 3, "transform": ["Downsample(spatial_factor=(1, 2, 3))"]}, "two for the sides"),
        ({"frames": 3, "transform": ["Downsample(target_size=(100000, 9))"]}, "makes 100000 x 9"),
        ({"frames": 60000, "sensor_size": "9000x9000"}, r"takes [\d.]+ GB"),
        ({"frames": 3, "sensor_size": "0x5"}, "choose 1 to"),
        ({"frames": 3, "every": 0}, "every is 0"),
        ({"frames": 3, "every": 10**30}, "every is 1000.*: choose 1 to 2305843009213693952"),
        ({"frames": 3, "every": 5, "transform": ["TimeAlignment()"]}, "changes times"),
        ({"frames": 3, "transform": ["Downsample(spatial_factor=-1)"]}, "a number above 0"),
        ({"frames": 3, "transform": ["CenterCrop(size=0)"]}, "makes 0 x 0 pixels"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, options, message):
    raw = make_recordings(tmp_path / "raw", lengths=(100,))
    given = {"sensor_size": "16x12", **options}
    out = tmp_path / "out.zarr"
    with pytest.raises(OptionError, match=message):
        convert("recordings", raw, out, **given)
    assert not out.exists()


@pytest.mark.parametrize("every", [2**59, 2**60, LATEST - 1, LATEST])
@pytest.mark.parametrize(
    "options",
    [
        {"frames": 2},
        {"frames": 1, "overlap": 0.99},
        {"window": 2**50, "steps": 2},
        {"window": 10**30, "steps": 2},
        {"window": LATEST, "steps": 2, "overlap": LATEST - 1},
        {"events_per_frame": 10**30, "steps": 2},
    ],
)
def test_the_longest_recordings_lose_no_event(tmp_path, every, options):
    """Every event of a piece is in its frames at the largest times that `check_events` accepts."""
    rng = np.random.default_rng(0)
    expected = []
    for number, (first, last) in enumerate([(1 - LATEST, LATEST - 1), (LATEST - 9, LATEST - 1)]):
        t = [first + (last - first) * i // 29 for i in range(30)]
        write_npz(tmp_path / f"raw/{number}/1.npz", **{**columns(rng, 30), "t": np.array(t)})
        pieces = [(one - first) // every for one in t]
        whole = (last - first + 1) // every or 1
        expected += [pieces.count(piece) for piece in range(whole) if piece in pieces]
    out, given = tmp_path / "out.zarr", {"sensor_size": "16x12", "representation": "count"}
    given["time_unit"] = "us"  # the times suggest none
    convert("recordings", tmp_path / "raw", out, every=every, **given, **options)
    found = eventdata.open_store(out).splits["all"].event_counts.tolist()
    if "window" not in options:
        assert found == expected
    else:  # the rest of a piece is in no frame, and longer pieces are cut
        assert len(found) == len(expected)
        assert found[-1] == 30


def test_the_command_line_converts_and_verifies(tmp_path):
    raw = make_recordings(tmp_path / "raw", lengths=(1000, 600))
    out = tmp_path / "out.zarr"
    words = f"convert recordings {raw} {out} --every 300 --window 100 --overlap 50 --workers 1"
    words += " --sensor-size 16x12 --representation count --count-dtype uint16 --merge-polarities"
    words += " --transform Denoise(filter_time=200) --transform Downsample(spatial_factor=0.5)"
    result = CliRunner().invoke(main, words.split())
    assert result.exit_code == 0, result.output
    ds = eventdata.FrameDataset(out, "all")
    assert (len(ds), ds[0][0].shape) == (5, (5, 1, 6, 8))
    assert ds.attrs["parameters"]["transform"] == [
        "Denoise(filter_time=200)",
        "Downsample(spatial_factor=0.5)",
    ]
    checked = CliRunner().invoke(
        main, ["verify", str(out), "--against", str(raw), "--workers", "1"]
    )
    assert checked.exit_code == 0, checked.output
    assert "5 compared" in checked.output
