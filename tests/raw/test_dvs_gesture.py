"""Tests of DVS128 Gesture as published, on small data in exactly its layout."""

import ast
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import eventdata
from eventdata.conversion import convert
from eventdata.errors import InputError, OptionError
from eventdata.raw import dvs_gesture
from eventdata.raw.dvs_gesture import CLASSES
from tests.formats import aedat3
from tests.source_contract import SettingsContract

TRIALS = {
    "train": ("user01_fluorescent", "user02_led"),
    "test": ("user24_lab",),
}


def write_gestures(folder, trials=TRIALS, lines=3, count=2000):
    """Write a data set of that layout; return its events and label lines by recording."""
    rng = np.random.default_rng(5)
    folder.mkdir(parents=True)
    made = {}
    for split, names in trials.items():
        listed = "".join(f"{name}.aedat\n" for name in names)
        (folder / f"trials_to_{split}.txt").write_text(listed)
        for name in names:
            # The clock of one recording turns after 2**31 us.
            first = 2**31 - 500_000 if name.startswith("user02") else 1_000
            events = aedat3.random_events(rng, count, first)
            edges = (first + np.sort(rng.integers(0, 1_000_000, 2 * lines))).tolist()
            edges[-1] = events[-1][2]  # an event at the end is not in the sample
            labels = rng.integers(1, 12, lines).tolist()
            rows = list(zip(labels, edges[::2], edges[1::2], strict=True))
            text = "".join(f"{label},{start},{end}\n" for label, start, end in rows)
            (folder / f"{name}.aedat").write_bytes(aedat3.recording(events, rng))
            header = "class,startTime_usec,endTime_usec\n"
            (folder / f"{name}_labels.csv").write_text(header + text)
            made[name] = (np.array(events), rows)
    return made


class TestDvsGesture(SettingsContract):
    source = "dvs-gesture"
    options: ClassVar[dict[str, Any]] = {"frames": 4}
    other: ClassVar[dict[str, Any]] = {"overlap": 0.5, "frames": 5}

    def make(self, folder):
        write_gestures(folder / "DvsGesture")
        return folder / "DvsGesture"

    def file_of_a_sample(self, raw):
        return raw / "user02_led.aedat"

    def damage(self, raw):
        path = raw / "user24_lab_labels.csv"
        lines = path.read_text().splitlines()
        lines[2] = "12" + lines[2][lines[2].index(",") :]
        path.write_text("\n".join(lines))
        return "user24_lab#1"


def frames_of(events, start, end, steps):
    """Return counts (T, 2, 128, 128) of the events with start <= t < end, brighter first."""
    inside = events[(events[:, 2] >= start) & (events[:, 2] < end)]
    frames = np.zeros((steps, 2, 128, 128), np.int64)
    first, span = inside[0, 2], inside[-1, 2] + 1 - inside[0, 2]
    for x, y, t, p in inside.tolist():
        step = max(k for k in range(steps) if first + k * span // steps <= t)
        frames[step, 1 - p, y, x] += 1
    return frames


@pytest.mark.parametrize("place", ["", "DvsGesture"])
@pytest.mark.parametrize("chunk", [None, 64])
def test_samples_are_the_events_between_the_times(tmp_path, monkeypatch, place, chunk):
    if chunk is not None:
        monkeypatch.setattr("eventdata.formats.aedat3.CHUNK_EVENTS", chunk)
    made = write_gestures(tmp_path / "raw" / place)
    out = tmp_path / "out.zarr"
    convert("dvs-gesture", tmp_path / "raw", out, frames=3, representation="count", workers=1)
    store = eventdata.open_store(out)
    assert store.header.classes == list(CLASSES)
    assert len(CLASSES) == 11
    assert set(store.splits) == {"train", "test"}
    for split, names in TRIALS.items():
        dataset = eventdata.FrameDataset(out, split=split)
        expected = [
            (f"{name}#{number}", label - 1, frames_of(made[name][0], start, end, 3))
            for name in names
            for number, (label, start, end) in enumerate(made[name][1])
        ]
        assert dataset.names == [name for name, _, _ in expected]
        for (frames, label), (_, wanted, counts) in zip(dataset, expected, strict=True):
            assert label == wanted
            np.testing.assert_array_equal(frames.numpy(), counts)


def test_a_recording_is_indexed_once_for_all_its_samples(tmp_path, monkeypatch):
    write_gestures(tmp_path / "raw")
    opened = []
    real = dvs_gesture.read_recording
    monkeypatch.setattr(
        dvs_gesture, "read_recording", lambda path, given: opened.append(path) or real(path, given)
    )
    convert("dvs-gesture", tmp_path / "raw", tmp_path / "out.zarr", frames=2, workers=1)
    assert len(opened) == len(set(opened)) == 3


def test_events_whose_time_falls_are_sorted_with_a_note(tmp_path):
    made = write_gestures(tmp_path / "raw")
    events, ((_, start, end), *_) = made["user24_lab"]
    first, last = np.searchsorted(events[:, 2], (start, end))
    wrong = events.copy()
    wrong[first:last] = events[first:last][::-1]
    stores = {}
    for name, rows in {"right": events, "wrong": wrong}.items():
        content = aedat3.recording([tuple(row) for row in rows.tolist()], np.random.default_rng(0))
        (tmp_path / "raw/user24_lab.aedat").write_bytes(content)
        stores[name] = convert(
            "dvs-gesture", tmp_path / "raw", tmp_path / f"{name}.zarr", frames=3, split="test"
        )
    found, expected = (
        eventdata.FrameDataset(tmp_path / f"{name}.zarr")[0][0].numpy() for name in stores
    )
    np.testing.assert_array_equal(found, expected)
    assert "time falls" not in " ".join(stores["right"].notes)
    assert "time falls" in (notes := " ".join(stores["wrong"].notes))
    assert "user24_lab#0" in notes


def test_one_split_of_two(tmp_path):
    write_gestures(tmp_path / "raw")
    result = convert("dvs-gesture", tmp_path / "raw", tmp_path / "a.zarr", frames=2, split="test")
    assert result.samples == {"test": 3}
    (tmp_path / "raw/trials_to_test.txt").unlink()
    result = convert("dvs-gesture", tmp_path / "raw", tmp_path / "b.zarr", frames=2)
    assert result.samples == {"train": 6}
    notes = " ".join(result.notes)
    assert "trials_to_test.txt: missing, so there is no test" in notes
    assert "skipped 1 recordings that are in no list" in notes
    with pytest.raises(OptionError, match="no split 'test'; choose from train"):
        convert("dvs-gesture", tmp_path / "raw", tmp_path / "c.zarr", frames=2, split="test")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("0,1000,2000", "line 2 of the gestures, '0,1000,2000': the class must be 1 to 11"),
        ("12,1000,2000", "the class must be 1 to 11"),
        ("3,2000,2000", "the end time must be after the start time"),
        ("3,1000", "it is not class,startTime_usec,endTime_usec"),
        ("3,-5,1000", "it is not class,startTime_usec,endTime_usec"),
        ("3,1e3,2e3", "it is not class,startTime_usec,endTime_usec"),
        ("3,1000,9999999999999999999", "a number is too large"),
        ("3,5000000,6000000", "no events from 5,000,000 to 6,000,000 us for user24_lab#1"),
    ],
)
def test_a_wrong_line_is_one_sample_that_fails(tmp_path, line, fault):
    write_gestures(tmp_path / "raw")
    path = tmp_path / "raw/user24_lab_labels.csv"
    lines = path.read_text().splitlines()
    lines[2] = line
    path.write_text("\n".join(lines))
    with pytest.raises(InputError) as error:
        convert("dvs-gesture", tmp_path / "raw", tmp_path / "out.zarr", frames=2, workers=1)
    assert fault in str(error.value)
    assert "user24_lab" in str(error.value)


def test_missing_files(tmp_path):
    write_gestures(tmp_path / "raw")
    out = tmp_path / "out.zarr"
    (tmp_path / "raw/user02_led.aedat").unlink()
    result = convert("dvs-gesture", tmp_path / "raw", out, frames=2)
    assert result.samples == {"train": 3, "test": 3}
    assert "train: 1 of 2 listed recordings are missing, such as user02_led.aedat" in result.notes
    (tmp_path / "raw/user24_lab_labels.csv").unlink()
    with pytest.raises(InputError, match=r"user24_lab_labels.csv: can't be read"):
        convert("dvs-gesture", tmp_path / "raw", out, frames=2, overwrite=True)
    result = convert(
        "dvs-gesture", tmp_path / "raw", out, frames=2, overwrite=True, on_error="skip"
    )
    assert result.skipped == 1
    with pytest.raises(InputError, match="no trials_to_train.txt or trials_to_test.txt"):
        convert("dvs-gesture", tmp_path, out, frames=2)
    for path in (tmp_path / "raw").glob("*.aedat"):
        path.unlink()
    with pytest.raises(InputError, match="no listed recording is in this folder"):
        convert("dvs-gesture", tmp_path / "raw", tmp_path / "new.zarr", frames=2)


@pytest.mark.parametrize(
    ("lists", "fault"),
    [
        ({"train": "a.aedat\na.aedat\n"}, "a.aedat is listed twice; remove one line"),
        ({"train": "a.aedat\n", "test": "a.aedat"}, "a.aedat is in both trials_to_train.txt"),
        ({"train": "../a.aedat\n"}, "'../a.aedat' is not the name of a recording"),
        ({"test": "a.csv\n"}, "'a.csv' is not the name of a recording"),
    ],
)
def test_wrong_lists_are_refused(tmp_path, lists, fault):
    for split, text in lists.items():
        (tmp_path / f"trials_to_{split}.txt").write_text(text)
    with pytest.raises(InputError) as error:
        convert("dvs-gesture", tmp_path, tmp_path / "out.zarr", frames=2)
    assert fault in str(error.value)


def test_a_gesture_that_ends_after_its_recording_has_a_note(tmp_path):
    write_gestures(tmp_path / "raw")
    path = tmp_path / "raw/user24_lab_labels.csv"
    path.write_text("class,startTime_usec,endTime_usec\n1,1000,9000000\n")
    result = convert("dvs-gesture", tmp_path / "raw", tmp_path / "out.zarr", frames=2, workers=1)
    assert any("ends after its recording" in note for note in result.notes)


def spikingjelly_reader():
    """Return SpikingJelly's reader of AEDAT 3.1 without its module, which needs torchvision."""
    found = find_spec("spikingjelly")
    if found is None:
        pytest.skip("SpikingJelly is not installed")
    (folder,) = found.submodule_search_locations
    tree = ast.parse(Path(folder, "datasets/utils.py").read_text())
    (reader,) = (one for one in tree.body if getattr(one, "name", "") == "load_aedat_v3")
    reader.returns, reader.args.args[0].annotation = None, None
    names = {"np": np, "struct": struct}
    exec(compile(ast.Module([reader], []), "utils.py", "exec"), names)
    return names["load_aedat_v3"]


def test_samples_equal_those_of_spikingjelly(tmp_path):
    """SpikingJelly reads the same events; it cuts with this mask (`_split_aedat_files_to_np`)."""
    load_aedat_v3 = spikingjelly_reader()
    made = write_gestures(tmp_path / "raw")
    for name, (_, rows) in made.items():
        theirs = load_aedat_v3(tmp_path / "raw" / f"{name}.aedat")
        path = tmp_path / "raw" / f"{name}.aedat"
        opened = dvs_gesture._open(path, (0, 0), dvs_gesture.DecodeOptions())
        for _, start, end in rows:
            mask = (theirs["t"] >= start) & (theirs["t"] < end)
            ours = opened.between(start, end)
            for field in "xytp":
                np.testing.assert_array_equal(ours[field], theirs[field][mask])
