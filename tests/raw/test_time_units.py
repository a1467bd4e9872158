"""Units of time and events off the sensor, in conversions of recordings and of Tonic's sets."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tonic
from click.testing import CliRunner

import eventdata
from eventdata.cli import main
from eventdata.conversion import convert
from eventdata.errors import InputError, MismatchError, OptionError
from eventdata.files import open_files
from eventdata.formats.recording import read_events
from eventdata.raw.source import collect_notes, count_notes, note_skipped
from eventdata.store.layout import parameters_digest
from eventdata.store.write import existing_header
from tests.makers import write_npz

W, H = 16, 12
OPTIONS = {"window": 5_000, "steps": 10, "sensor_size": "16x12"}
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def columns(seed=0, count=6_000, microseconds=50_000):
    """Return ordered random events of the small sensor, times in whole microseconds."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, microseconds, count))
    x, y = rng.integers(0, W, count), rng.integers(0, H, count)
    return {"x": x, "y": y, "t": t, "p": rng.integers(0, 2, count)}


def in_unit(microseconds, unit, dtype="i8"):
    if dtype == "i8":
        return microseconds * PER_SECOND[unit] // 10**6
    return (microseconds * (PER_SECOND[unit] / 10**6)).astype(dtype)


def expected_frames(events, window=5_000):
    """Return ten binary frames of a window each (T, P, H, W), in plain NumPy."""
    frames = np.zeros((10, 2, H, W), np.uint8)
    step = (events["t"] - events["t"][0]) // window
    filled = (events["t"][-1] - events["t"][0] + 1) // window  # the last one may not be
    inside = step < min(filled, 10)
    chosen = [column[inside] for column in (step, 1 - events["p"], events["y"], events["x"])]
    frames[tuple(chosen)] = 1
    return frames


def store_of(tmp_path, *, folder="raw", name="one.zarr", **options):
    out = tmp_path / name
    result = convert("recordings", tmp_path / folder, out, **OPTIONS, **options)
    return eventdata.FrameDataset(out, "all"), result


CASES = [("us", "i8"), ("us", "f8"), ("us", "f4"), ("ns", "i8"), ("ns", "f8"), ("s", "f8")]


@pytest.mark.parametrize(("unit", "dtype"), [*CASES, ("s", "f4"), ("ms", "f8")])
def test_the_unit_is_found_noted_and_shown(tmp_path, unit, dtype):
    events = columns()
    write_npz(tmp_path / "raw/a/1.npz", **events | {"t": in_unit(events["t"], unit, dtype)})
    ds, result = store_of(tmp_path)
    np.testing.assert_array_equal(ds[0][0].numpy(), expected_frames(events))
    (note,) = result.notes
    name = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}[unit]
    assert (
        f"1.npz: its times are read as {name}, since no unit is stated: the first 6,000 events"
        in note
    )
    shown = CliRunner().invoke(main, ["info", str(tmp_path / "one.zarr")])
    assert f"times of the recordings: {name}" in shown.output
    shown = CliRunner().invoke(main, ["info", str(tmp_path / "one.zarr"), "--json"])
    assert json.loads(shown.output)["time_unit"] == unit
    again = convert("recordings", tmp_path / "raw", tmp_path / "one.zarr", **OPTIONS)
    assert again.state == "already complete"
    assert eventdata.verify(tmp_path / "one.zarr", against=tmp_path / "raw").ok
    given, result = store_of(tmp_path, name="given.zarr", time_unit=unit)
    assert result.notes == []
    np.testing.assert_array_equal(given[0][0].numpy(), ds[0][0].numpy())


@pytest.mark.parametrize("unit", PER_SECOND)
@pytest.mark.parametrize("dtype", ["i8", "f8"])
def test_a_given_unit_is_taken_at_any_rate(tmp_path, unit, dtype):
    """Events an hour apart are in no usual unit, and some units make frames of many seconds."""
    events = columns() | {"t": np.arange(6_000) * 7}
    write_npz(tmp_path / "raw/a/1.npz", **events | {"t": events["t"].astype(dtype)})
    window = 5_000 * 10**6 // PER_SECOND[unit] or 1
    options = {"window": window, "steps": 10, "sensor_size": "16x12", "time_unit": unit}
    convert("recordings", tmp_path / "raw", tmp_path / "one.zarr", **options)
    ds = eventdata.FrameDataset(tmp_path / "one.zarr", "all")
    if unit == "ns":  # rounded to 42 microseconds
        assert ds[0][0].numpy()[7].any()
        return
    np.testing.assert_array_equal(ds[0][0].numpy(), expected_frames(events))
    options["time_unit"] = "us" if unit != "us" else "ms"
    with pytest.raises(MismatchError, match="time_unit"):
        convert("recordings", tmp_path / "raw", tmp_path / "one.zarr", **options)


def test_what_can_not_be_known_is_refused_with_the_spans(tmp_path):
    events = columns(microseconds=15_000_000)  # or nanoseconds: 15 ms
    write_npz(tmp_path / "raw/a/1.npz", **events)
    words = f"convert recordings {tmp_path}/raw {tmp_path}/no.zarr --frames 4 --sensor-size 16x12"
    refused = CliRunner().invoke(main, words.split())
    assert refused.exit_code == 1
    assert (
        "1.npz: the unit of the times is unknown: the first 6,000 events span 1" in refused.output
    )
    assert "pass --time-unit s, ms, us or ns" in " ".join(refused.output.split())
    assert not (tmp_path / "no.zarr").exists()
    done = CliRunner().invoke(main, [*words.split(), "--time-unit", "us"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("every", [None, 10_000])
def test_seconds_since_1970_in_float32_are_refused(tmp_path, every):
    events = columns()
    t = (1.7e9 + events["t"] / 1e6).astype(np.float32)
    write_npz(tmp_path / "raw/a/1.npz", **events | {"t": t})
    with pytest.raises(
        InputError, match=r"1\.npz: the times, about 1\.7e\+09, are floats in steps"
    ):
        store_of(tmp_path, every=every)
    for unit in ("s", "ms"):
        with pytest.raises(InputError, match="all the precision of their type"):
            store_of(tmp_path, every=every, time_unit=unit)
    write_npz(tmp_path / "raw/a/1.npz", **events | {"t": 1.7e9 + events["t"] / 1e6})
    store_of(tmp_path, every=every)


def test_the_rounding_of_float32_is_noted(tmp_path):
    events = columns()
    t = (1_000 + events["t"] / 1e6).astype(np.float32)
    write_npz(tmp_path / "raw/a/1.npz", **events | {"t": t})
    _, result = store_of(tmp_path)
    assert "the first 6,000 events last 50 ms, rounded to 61 us; pass" in result.notes[0]


@pytest.mark.parametrize("every", [None, 10_000])
def test_recordings_of_another_unit_are_refused(tmp_path, every):
    events = columns()
    write_npz(tmp_path / "raw/a/1.npz", **events)
    write_npz(tmp_path / "raw/a/2.npz", **events | {"t": in_unit(events["t"], "s", "f8")})
    message = r"2\.npz: .* suggest seconds, those of the first recording microseconds"
    with pytest.raises(InputError, match=message):
        store_of(tmp_path, every=every)
    _, result = store_of(tmp_path, on_error="skip", name="skip.zarr", every=every)
    assert result.skipped == 1


def test_short_recordings_follow_the_first(tmp_path):
    """Three events suggest no unit, or another one than the first recording."""
    events = columns()
    write_npz(tmp_path / "raw/a/1.npz", **events | {"t": in_unit(events["t"], "us", "f8")})
    few = {key: column[:3] for key, column in events.items()} | {
        "t": np.array([0.0, 9.0, 49_999.0])
    }
    write_npz(tmp_path / "raw/a/2.npz", **few)
    ds, _ = store_of(tmp_path)
    np.testing.assert_array_equal(
        ds[1][0].numpy(), expected_frames(few | {"t": few["t"].astype(int)})
    )


def test_a_unit_of_a_later_file_that_only_its_values_show_is_noted(tmp_path):
    """A file states its unit and the next does not; or it is possible in that of the first."""
    events = columns()
    raw = tmp_path / "raw/a"
    write_npz(raw / "1.npz", x=events["x"], y=events["y"], p=events["p"], t_us=events["t"])
    write_npz(raw / "2.npz", **events)
    _, result = store_of(tmp_path)
    (note,) = [text for text in result.notes if "no unit is stated" in text]
    assert "its times were read as microseconds, since no unit is stated" in note
    dense = columns(count=200_000, microseconds=200_000)
    write_npz(raw / "1.npz", **events)
    write_npz(raw / "2.npz", **dense | {"t": in_unit(dense["t"], "ns")})
    _, result = store_of(tmp_path, name="dense.zarr")
    (note,) = [text for text in result.notes if "suggest nanoseconds" in text]
    assert "read as microseconds as those of the first recording" in note


def test_files_that_state_their_unit_keep_it(shared, tmp_path):
    (tmp_path / "raw/a").mkdir(parents=True)
    shutil.copy(shared / "recordings" / "sample_nmnist.bin", tmp_path / "raw/a/1.bin")
    options = {"frames": 10, "sensor_size": "34x34"}
    out = tmp_path / "one.zarr"
    with pytest.raises(
        OptionError, match=r"1\.bin: its times are in microseconds, .* --time-unit s"
    ):
        convert("recordings", tmp_path / "raw", out, time_unit="s", **options)
    convert("recordings", tmp_path / "raw", out, time_unit="us", **options)
    same = convert("recordings", tmp_path / "raw", out, **options)
    assert (same.state, same.notes) == ("already complete", [])
    with pytest.raises(OptionError, match="omit the time unit 's'"):
        read_events(tmp_path / "raw/a/1.bin", time_unit="s")
    events = columns()
    write_npz(tmp_path / "raw/a/2.npz", **events | {"t": in_unit(events["t"], "s", "f8")})
    mixed = tmp_path / "mixed.zarr"
    convert("recordings", tmp_path / "raw", mixed, **options)
    alone, both = eventdata.FrameDataset(out, "all"), eventdata.FrameDataset(mixed, "all")
    np.testing.assert_array_equal(both[0][0].numpy(), alone[0][0].numpy())
    assert both.attrs["parameters"]["time_unit"] == "s"
    assert eventdata.verify(mixed, against=tmp_path / "raw").ok


def test_read_events_warns_of_an_unusual_unit(tmp_path):
    events = columns()
    write_npz(tmp_path / "1.npz", **events | {"t": in_unit(events["t"], "ns")})
    with pytest.warns(UserWarning, match="are read as nanoseconds"):
        found, _ = read_events(tmp_path / "1.npz", (W, H))
    assert found["t"].tolist() == events["t"].tolist()
    found, _ = read_events(tmp_path / "1.npz", (W, H), time_unit="ns")
    assert found["t"].tolist() == events["t"].tolist()


@pytest.mark.parametrize("every", [None, 25_000])
@pytest.mark.parametrize("dtype", ["i2", "f8"])
def test_events_off_the_sensor_fail_or_are_skipped(tmp_path, every, dtype):
    events = columns()
    x, y = events["x"].astype(dtype), events["y"].astype(dtype)
    y[1_000], x[2_000], x[3_000] = 5_014, -1, W
    write_npz(tmp_path / "raw/a/1.npz", **events | {"x": x, "y": y})
    write_npz(tmp_path / "raw/a/2.npz", **events)
    message = (
        r"1\.npz: 3 of 6,000 events lie off the sensor of 16x12 pixels, first: event 1,000 at "
    )
    with pytest.raises(InputError, match=message + r".*y=5014.*; .*--outside drop"):
        store_of(tmp_path, every=every, time_unit="us")
    ds, result = store_of(tmp_path, every=every, time_unit="us", outside="drop")
    assert any("3 events off the sensor" in note for note in result.notes)
    assert ds.attrs["parameters"]["outside"] == "drop"
    if every is None:
        kept = {key: np.delete(column, [1_000, 2_000, 3_000]) for key, column in events.items()}
        np.testing.assert_array_equal(ds[0][0].numpy(), expected_frames(kept))
        np.testing.assert_array_equal(ds[1][0].numpy(), expected_frames(events))
    assert eventdata.verify(tmp_path / "one.zarr", against=tmp_path / "raw").ok
    fault = (MismatchError, "outside") if every is None else (InputError, "lie off the sensor")
    with pytest.raises(fault[0], match=fault[1]):  # recordings that are cut are read before
        store_of(tmp_path, every=every, time_unit="us")
    found, _ = read_events(tmp_path / "raw/a/1.npz", (W, H), time_unit="us", outside="drop")
    assert len(found) == 5_997


class _Matlab(tonic.datasets.POKERDVS):
    """Tonic's set with arrays of two dimensions, as it reads those of ASL-DVS."""

    sensor_size = (W, H, 2)

    def __getitem__(self, index):
        found = columns(microseconds=500)
        events = np.empty((6_000, 1), [("t", int), ("x", int), ("y", int), ("p", int)])
        for field, column in found.items():
            events[field] = column[:, None]
        events["x"][7] = W
        return events, "he"


def test_columns_of_two_dimensions_and_events_off_the_sensor_in_tonics_sets(tmp_path, monkeypatch):
    folder = tmp_path / "POKERDVS" / "pips_train" / "he"
    folder.mkdir(parents=True)
    np.save(folder / "0.npy", np.zeros((1, 4), int))
    monkeypatch.setattr(tonic.datasets, "POKERDVS", type("POKERDVS", (_Matlab,), {}))
    options = {"window": 50, "steps": 10}
    out = tmp_path / "one.zarr"
    with pytest.raises(InputError, match="1 of 6,000 events lies off the sensor of 16x12 pixels"):
        convert("tonic:POKERDVS", tmp_path, out, **options)
    result = convert("tonic:POKERDVS", tmp_path, out, outside="drop", **options)
    assert result.notes[-1].startswith("1 sample: skipped 1 event off the sensor")
    kept = {key: np.delete(column, 7) for key, column in columns(microseconds=500).items()}
    expected = expected_frames(kept, 50)
    np.testing.assert_array_equal(eventdata.FrameDataset(out, "train")[0][0].numpy(), expected)
    convert(
        "tonic:POKERDVS", tmp_path, out, outside="drop", time_unit="ms", overwrite=True, **options
    )
    assert not np.array_equal(eventdata.FrameDataset(out, "train")[0][0].numpy(), expected)


def test_skipped_events_of_all_samples_are_added_up():
    with collect_notes() as first, collect_notes() as second:
        note_skipped(2)
    with collect_notes() as other:
        note_skipped(1_000)
        note_skipped(0)
        note_skipped(1)
    assert not first
    counted = second + other
    assert count_notes(counted, "sample") == ["3 samples: skipped 1,003 events off the sensor"]


@pytest.mark.parametrize(("unit", "wrong"), [("s", "us"), ("s", "ns"), ("us", "s")])
def test_a_given_unit_that_no_camera_has_is_noted(tmp_path, unit, wrong):
    events = columns()
    t = in_unit(events["t"], unit, "f8" if unit == "s" else "i8")
    write_npz(tmp_path / "raw/a/1.npz", **events | {"t": t})
    _, result = store_of(tmp_path, time_unit=wrong)
    assert "1.npz: its first 6,000 events last" in result.notes[0]
    assert result.notes[0].endswith("unlike those of any event camera; check the unit")


@pytest.mark.parametrize(("unit", "dtype"), [("s", "f8"), ("us", "i8"), ("us", "f8"), ("ns", "i8")])
def test_a_store_of_version_1_goes_on_where_it_read_the_same_times(tmp_path, unit, dtype):
    """Version 1 read floats as seconds and whole numbers as microseconds, and stated neither."""
    events = columns()
    write_npz(tmp_path / "raw/a/1.npz", **events | {"t": in_unit(events["t"], unit, dtype)})
    store_of(tmp_path)
    header = existing_header(open_files(tmp_path / "one.zarr"))
    parameters = {key: value for key, value in header.parameters.items() if key != "time_unit"}
    digest = parameters_digest(parameters)
    older = replace(header, version=1, parameters=parameters, parameters_sha256=digest)
    (tmp_path / "one.zarr/zarr.json").write_bytes(older.document())
    if (unit, dtype) in (("s", "f8"), ("us", "i8")):
        assert store_of(tmp_path)[1].state == "already complete"
    else:
        with pytest.raises(MismatchError, match=f"time_unit is None in the store, '{unit}' in"):
            store_of(tmp_path)


@pytest.mark.parametrize("every", [None, 10_000])
def test_a_recording_of_another_sensor_is_refused_even_with_drop(tmp_path, every):
    """As for a sensor size that is wrong, where no event is left."""
    events = columns()
    write_npz(tmp_path / "raw/a/1.npz", **events | {"x": events["x"] + W})
    message = r"1\.npz: all of its 6,000 events are off the sensor of 16x12 pixels"
    with pytest.raises(InputError, match=message):
        store_of(tmp_path, outside="drop", every=every)
