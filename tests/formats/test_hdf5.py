"""Tests of reading events from HDF5 files: a writer for each published layout, and damage.

h5py reads the files independently: it is asked for whole data sets by their known names.
"""

import contextlib
import sys
import warnings
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventdata.errors import InputError, OptionError
from eventdata.formats import decoding, hdf5_rows, tables
from eventdata.formats.decoding import DecodeOptions
from eventdata.formats.recording import read_events, read_recording

SIZE = (64, 48)
BLOSC = dict(hdf5plugin.Blosc(cname="zstd"))
FILTERS = {
    "none": {},
    "chunks": {"chunks": True},
    "gzip": {"compression": "gzip", "shuffle": True, "chunks": True},
    "blosc": BLOSC,
    "zstd": dict(hdf5plugin.Zstd()),
    "lzf": {"compression": "lzf"},
    "fletcher32": {"compression": "gzip", "fletcher32": True},
    "bitshuffle": dict(hdf5plugin.Bitshuffle()),
}


def random_events(count=3000, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.integers(0, SIZE[0], count),
        "y": rng.integers(0, SIZE[1], count),
        "t": np.cumsum(rng.integers(1, 30, count)),
        "p": rng.integers(0, 2, count),
    }


def table(order, columns, dtype):
    return np.stack([columns[one] for one in order], axis=1).astype(dtype)


def write_columns(group, columns, names="xytp", kinds=("u2", "u2", "u4", "u1"), **storage):
    for field, name, kind in zip("xytp", names, kinds, strict=True):
        group.create_dataset(name, data=columns[field].astype(kind), **storage)


def write_dsec(file, columns, **storage):
    write_columns(file.create_group("events"), columns, **storage)
    file["t_offset"] = np.int64(49_000_000)
    file["ms_to_idx"] = np.searchsorted(columns["t"], np.arange(0, columns["t"][-1], 1000))


def write_mvsec(file, columns, **storage):
    seconds = columns | {"t": columns["t"] / 1e6, "p": 2 * columns["p"] - 1}
    storage |= {"maxshape": (None, 4)} if "chunks" in storage else {}
    file.create_dataset("davis/left/events", data=table("xytp", seconds, "f8"), **storage)
    other = seconds | {"x": seconds["y"], "y": seconds["y"]}
    file["davis/right/events"] = table("xytp", other, "f8")
    file["davis/left/imu"] = np.zeros((10, 6))
    file["velodyne/scans"] = np.zeros((3, 5, 4), "f4")


def write_v2e(file, columns, **storage):
    file.create_dataset("events", data=table("txyp", columns, "u4"), **storage)
    file["frame"] = np.zeros((2, 48, 64), "u1")


def write_monash(file, columns, **storage):
    seconds = columns | {"t": columns["t"] / 1e6}
    write_columns(
        file.create_group("events"), seconds, ("xs", "ys", "ts", "ps"), ("i2", "i2", "f8", "?")
    )
    file.attrs["sensor_resolution"] = SIZE[::-1]
    file["images/image000000000"] = np.zeros((48, 64), "u1")


def write_prophesee(file, columns, **storage):
    kind = np.dtype([("x", "u2"), ("y", "u2"), ("p", "i2"), ("t", "i8")], align=True)
    events = np.zeros(len(columns["t"]), kind)
    for field in "xytp":
        events[field] = columns[field]
    file.create_dataset("CD/events", data=events, **storage)
    file["EXT_TRIGGER/events"] = np.zeros(3, [("p", "i2"), ("t", "i8"), ("id", "i2")])
    file.attrs["geometry"] = "64x48"


def write_m3ed(file, columns, **storage):
    write_columns(file.create_group("prophesee/left"), columns, **storage)
    write_columns(file.create_group("prophesee/right"), columns | {"x": columns["y"]})
    file["prophesee/left/calib/resolution"] = np.array(SIZE)
    file["prophesee/left/ms_map_idx"] = np.arange(10)
    file["ovc/imu/accel"] = np.zeros((10, 3))


# layout: writer, unit of t, (W, H), name of the stream, whether its columns are found by values
LAYOUTS = {
    "dsec": (write_dsec, "us", None, "events", False),
    "mvsec": (write_mvsec, "s", None, "davis/left/events", False),
    "v2e": (write_v2e, "us", None, "events", True),
    "monash": (write_monash, "s", SIZE, "events", False),
    "prophesee": (write_prophesee, "us", SIZE, "CD/events", False),
    "m3ed": (write_m3ed, "us", SIZE, "prophesee/left", False),
}


def write(path, layout, columns, **storage):
    with h5py.File(path, "w") as file:
        LAYOUTS[layout][0](file, columns, **storage)
    return path


def as_rows(columns):
    return list(zip(*(columns[one].tolist() for one in "xytp"), strict=True))


def read_columns(path, place=None, **options):
    recording = read_recording(path, DecodeOptions(**options))
    chunks = list(recording.chunks(place))
    return recording, [np.concatenate([getattr(one, f) for one in chunks]) for f in "xytp"], chunks


@pytest.mark.parametrize("storage", FILTERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_read_with_every_filter(tmp_path, layout, storage):
    columns = random_events()
    path = write(tmp_path / "a.h5", layout, columns, **FILTERS[storage])
    recording, found, _ = read_columns(path)
    _, unit, size, name, guessed = LAYOUTS[layout]
    assert (recording.time_unit, recording.sensor_size) == (unit, size)
    assert [found[0].tolist(), found[1].tolist()] == [columns["x"].tolist(), columns["y"].tolist()]
    assert (found[3] > 0).tolist() == (columns["p"] > 0).tolist()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        events, _ = read_events(path, SIZE)
    assert events.tolist() == [(*row[:3], bool(row[3])) for row in as_rows(columns)]
    assert [str(one.message) for one in warned] == [f"{path}: {one}" for one in recording.notes]
    notes = " ".join(recording.notes)
    assert ("because of their values" in notes) == guessed
    assert ("--stream" in notes) == (layout in ("mvsec", "m3ed"))
    if "--stream" in notes:
        assert f"{name} was read" in notes


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 40),
    chunk=st.integers(1, 50),
    piece=st.integers(1, 50),
    storage=st.sampled_from([{}, {"compression": "gzip", "shuffle": True}, BLOSC]),
    kinds=st.tuples(*[st.sampled_from(["u2", "i4", ">i8", "f4"])] * 4),
    seed=st.integers(0, 99),
)
def test_chunks_and_any_part_equal_the_whole(
    tmp_path_factory, count, chunk, piece, storage, kinds, seed
):
    columns = random_events(count, seed)
    path = tmp_path_factory.getbasetemp() / "chunks.h5"
    with h5py.File(path, "w") as file:
        chunks = {"chunks": (min(chunk, count),)} if storage or chunk % 2 else {}
        write_columns(file, columns, kinds=kinds, **storage, **chunks)
        expected = [file[field][:].tolist() for field in "xytp"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "CHUNK_EVENTS", piece)
        recording, whole, parts = read_columns(path)
        assert [values.tolist() for values in whole] == expected
        assert sum(len(part.x) for part in parts) == count
        for number, part in enumerate(parts):
            rest = list(recording.chunks(part.place))
            assert [one.place for one in rest] == [one.place for one in parts[number:]]
            assert rest[0].t.tolist() == part.t.tolist()


@pytest.mark.parametrize("order", ["txyp", "xytp", "xypt", "pxyt", "tpxy"])
@pytest.mark.parametrize("chunks", [(700, 4), (512, 1), (100, 3), None])
def test_tables_in_any_order_and_chunks(tmp_path, order, chunks):
    columns = random_events()
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        storage = {"chunks": chunks, "compression": "gzip"} if chunks else {}
        file.create_dataset("deep/group/data", data=table(order, columns, "i8"), **storage)
        file["poses"] = np.random.default_rng(0).random((9, 4))
    recording, found, _ = read_columns(path)
    assert [values.tolist() for values in found] == [columns[one].tolist() for one in "xytp"]
    assert f"read as {' '.join(order)}" in " ".join(recording.notes)


def test_unclear_tables_need_their_columns(tmp_path):
    path = tmp_path / "a.h5"
    columns = random_events(300)
    columns["x"] = np.sort(columns["x"])  # as sorted as the times
    columns["t"] = columns["t"] % 1000 // 5 * 0 + np.arange(300)
    with h5py.File(path, "w") as file:
        file["events"] = table("xytp", columns, "i4")
    with pytest.raises(InputError, match="without names; pass --columns with their order"):
        read_events(path)
    _, found, _ = read_columns(path, columns="xytp")
    assert [values.tolist() for values in found] == [columns[one].tolist() for one in "xytp"]


@pytest.mark.parametrize("wanted", ["right", "davis/right/events", "/davis/right/events"])
def test_a_stream_is_chosen_by_a_part_of_its_path(tmp_path, wanted):
    columns = random_events()
    path = write(tmp_path / "a.h5", "mvsec", columns)
    recording, found, _ = read_columns(path, stream=wanted)
    assert found[0].tolist() == columns["y"].tolist()
    assert recording.notes == []
    with pytest.raises(InputError, match="'top'; pass --stream with one of: davis/left/events, "):
        read_events(path, stream="top")
    with pytest.raises(InputError, match="has several streams 'davis'"):
        read_events(path, stream="davis")


def test_swapped_resolution_is_recognised_by_its_events(tmp_path):
    path = write(tmp_path / "a.h5", "monash", random_events())
    with h5py.File(path, "a") as file:
        file.attrs["sensor_resolution"] = SIZE
    assert read_recording(path, DecodeOptions()).sensor_size == SIZE


def test_other_names_and_units_in_names(tmp_path):
    columns, path = random_events(), tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        write_columns(file, columns, ("x_pos", "Y_pos", "timestamp_ns", "polarity"))
    recording, found, _ = read_columns(path)
    assert recording.time_unit == "ns"
    assert found[1].tolist() == columns["y"].tolist()
    with h5py.File(path, "a") as file:
        file["ts"] = columns["t"]
    with pytest.raises(InputError, match="timestamp_ns and ts could each be the column t"):
        read_events(path)


# Refusals.


def refused(path, match, kind=InputError):
    with pytest.raises(kind, match=match) as error:
        read_events(path)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "unit"), [("ns", "ns"), ("Microseconds", "us"), (b"ms", "ms"), ("ticks", None)]
)
def test_an_attribute_states_the_unit(tmp_path, text, unit):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        write_columns(file, random_events())
        file["t"].attrs["units"] = text
    assert read_recording(path, DecodeOptions()).time_unit == unit


def test_files_without_events_are_refused(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((2, 5, 5), "u1")
    refused(path, r"no table of four columns; it holds images \(2 x 5 x 5, uint8\)")
    with h5py.File(path, "w") as file:
        kind = h5py.vlen_dtype(np.dtype("f2"))
        file.create_dataset("spikes/times", (2,), kind)
        file.create_dataset("spikes/units", (2,), kind)
    refused(path, "tonic:SHD")
    path.write_bytes(b"no HDF5")
    refused(path, "a truncated or damaged HDF5 file")
    path.unlink()
    refused(path, "can't be read")


def test_columns_of_different_lengths_are_refused(tmp_path):
    columns = random_events(50) | {"p": np.zeros(49, int)}
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        write_columns(file, columns)
    refused(path, "columns of one length")


def test_nothing_outside_the_file_is_read(tmp_path):
    columns = random_events(50)
    other = write(tmp_path / "other.h5", "dsec", columns)
    raw = tmp_path / "raw.bin"
    raw.write_bytes(columns["t"].astype("u4").tobytes())
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["events"] = h5py.ExternalLink(str(other), "events")
        file["more"] = h5py.SoftLink("/events")
    refused(path, "it holds no data sets, and links that are not followed: events, more")
    with h5py.File(path, "w") as file:
        write_columns(file, columns)
        del file["t"]
        file.create_dataset("t", (50,), "u4", external=[(str(raw), 0, h5py.h5f.UNLIMITED)])
    refused(path, "t lies in other files, which are not read")
    with h5py.File(path, "w") as file:
        write_columns(file, columns)
        del file["t"]
        layout = h5py.VirtualLayout((50,), "u4")
        layout[:] = h5py.VirtualSource(str(other), "events/t", (50,))
        file.create_virtual_dataset("t", layout)
    refused(path, "t lies in other files, which are not read")


def test_declared_sizes_are_bounded_by_the_file(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name in "xytp":
            file.create_dataset(name, (1 << 40,), "u8", chunks=(1 << 10,), compression="gzip")
    refused(path, "declares 1,099,511,627,776 rows, too many")
    with h5py.File(path, "w") as file:
        for name in "xytp":
            file.create_dataset(name, (100,), "u8", chunks=(1 << 26,), maxshape=(None,))
    refused(path, "chunks that are too large")
    with h5py.File(path, "w") as file:
        for name in "xytp":
            file.create_dataset(name, (1000,), "u8", chunks=(10,))
    refused(path, "parts that were never written")
    with h5py.File(path, "w") as file:
        file["group/again"] = file["/"]  # a cycle
    refused(path, "more groups and data sets")


def test_a_heap_of_texts_without_end_is_refused(tmp_path):
    path = write(tmp_path / "a.h5", "prophesee", random_events(50))
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    content[heap + 16 : heap + 4096] = bytes(4080)  # the HDF5 library would read on forever
    path.write_bytes(content)
    refused(path, "damaged HDF5 file")


@pytest.mark.parametrize("storage", ["gzip", "blosc", "zstd"])
def test_chunks_that_unpack_to_another_size_are_refused(tmp_path, storage):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        big = file.create_dataset("big", data=np.zeros(1 << 20, "u1"), **FILTERS[storage])
        _, content = big.id.read_direct_chunk((0,))
        del file["big"]
        for name in "xytp":
            column = file.create_dataset(
                name, (1000,), "u1", **FILTERS[storage] | {"shuffle": False, "chunks": (1000,)}
            )
            column.id.write_direct_chunk((0,), content)
    refused(path, "damaged HDF5 file")


@pytest.mark.filterwarnings("ignore:.*(time falls|--stream|--columns):UserWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_truncated_and_damaged_files_are_refused_or_read(tmp_path, layout):
    columns = random_events(400)
    path = write(tmp_path / "a.h5", layout, columns, **FILTERS["gzip"])
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(60):
        damaged = bytearray(content)
        if trial % 3 == 0:
            damaged = damaged[: rng.integers(0, len(content))]
        else:
            for place in rng.integers(0, len(content), 8):
                damaged[place] ^= 1 << rng.integers(0, 8)
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):
            read_events(path)
            assert trial % 3


def test_missing_packages_and_filters_are_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5", "dsec", random_events())
    with h5py.File(path, "w") as file:
        property_list = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        property_list.set_chunk((10,))
        property_list.set_filter(hdf5_rows.ECF, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((10,), (10,))
        kind = h5py.h5t.py_create(np.dtype([(field, "i8") for field in "xytp"]))
        h5py.h5d.create(file.id, b"events", kind, space, property_list)
    refused(path, "HDF5 filter 36559.*hdf5_ecf", OptionError)
    write(path, "dsec", random_events(), **FILTERS["bitshuffle"])
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: code < 256)
    refused(path, r"filter 32008.*pip install 'eventdata\[recordings\]'", OptionError)
    monkeypatch.setitem(sys.modules, "h5py", None)
    refused(path, r"pip install 'eventdata\[recordings\]'", OptionError)


def test_memory_does_not_grow_with_the_recording():
    assert tables.PIECE <= 1 << 23
    assert decoding.CHUNK_EVENTS <= 1 << 20


def test_dsec_of_the_shared_data_equals_h5py(shared):
    path = Path(shared) / "reported/dsec/a/events.h5"
    recording, found, _ = read_columns(path)
    with h5py.File(path) as file:
        for values, field in zip(found, "xytp", strict=True):
            assert values.tolist() == file[f"events/{field}"][:].tolist()
    assert (recording.time_unit, recording.notes) == ("us", [])
