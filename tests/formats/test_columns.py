"""Tests of events in NumPy files: names, tables, pieces and damage, against NumPy's own reading."""

import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventdata.errors import InputError
from eventdata.formats import tables
from eventdata.formats.decoding import DecodeOptions
from eventdata.formats.recording import read_recording
from eventdata.formats.tables import guess_order


def random_events(count=3000, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.integers(0, 64, count),
        "y": rng.integers(0, 48, count),
        "t": np.cumsum(rng.integers(1, 30, count)),
        "p": rng.integers(0, 2, count),
    }


def as_table(order, columns, kind="i8"):
    return np.stack([columns[one] for one in order], axis=1).astype(kind)


def as_records(columns, order="xytp"):
    records = np.zeros(len(columns["t"]), [(one, "i8") for one in order])
    for one in order:
        records[one] = columns[one]
    return records


def read_columns(path, **options):
    recording = read_recording(path, DecodeOptions(**options))
    chunks = list(recording.chunks(None))
    found = [np.concatenate([getattr(one, f) for one in chunks]).tolist() for f in "xytp"]
    return recording, found, chunks


def expected(columns):
    return [columns[one].tolist() for one in "xytp"]


NAMES = [
    ("x", "y", "t", "p"),
    ("xs", "ys", "ts", "ps"),
    ("x_pos", "y_pos", "timestamp", "polarity"),
    ("x", "y", "timestamps", "pol"),
    ("X", "Y", "t_us", "polarities"),
]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_usual_names_of_columns(tmp_path, names, save):
    columns = random_events()
    path = tmp_path / "a.npz"
    arrays = dict(zip(names, (columns[one] for one in "xytp"), strict=True))
    save(path, label=np.array(3), **arrays)
    recording, found, _ = read_columns(path)
    assert found == expected(columns)
    assert recording.time_unit == ("us" if names[2] == "t_us" else None)
    assert recording.notes == []


@pytest.mark.parametrize("name", ["events", "event_data", "arr_0", "data"])
def test_records_under_any_name(tmp_path, name):
    columns = random_events()
    np.savez_compressed(tmp_path / "a.npz", **{name: as_records(columns, "ptyx")})
    assert read_columns(tmp_path / "a.npz")[1] == expected(columns)


@pytest.mark.parametrize("order", ["txyp", "xytp", "xypt", "ptxy"])
@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("suffix", ["npy", "npz", "compressed"])
def test_tables_are_read_in_the_order_that_their_values_show(tmp_path, order, layout, suffix):
    columns = random_events()
    table = np.asarray(as_table(order, columns), order=layout)
    path = tmp_path / ("a.npy" if suffix == "npy" else "a.npz")
    if suffix == "npy":
        np.save(path, table)
    else:
        (np.savez if suffix == "npz" else np.savez_compressed)(path, events=table)
    recording, found, _ = read_columns(path)
    assert found == expected(columns)
    assert f"read as {' '.join(order)} because of their values" in recording.notes[0]
    other = order[::-1]
    _, found, _ = read_columns(path, columns=other)
    assert found == [columns[order[other.index(one)]].tolist() for one in "xytp"]


@given(
    columns=st.lists(
        st.tuples(*[st.integers(0, 40), st.integers(0, 40), st.integers(0, 9), st.booleans()]),
        min_size=1,
        max_size=30,
    ),
    order=st.permutations("xytp"),
    offset=st.sampled_from([0, 0.5, 1e5, 1.6e9]),
    signed=st.booleans(),
)
def test_an_order_is_right_or_unclear(columns, order, offset, signed):
    """The guess never mixes up times and polarities; x comes before y in published tables."""
    order = "".join(order)
    if order.index("x") > order.index("y"):
        order = order.replace("x", "?").replace("y", "x").replace("?", "y")
    x, y, t, p = map(np.array, zip(*columns, strict=True))
    made = {"x": x, "y": y, "t": np.cumsum(t) + offset, "p": 2 * p - 1 if signed else p}
    guess = guess_order(as_table(order, made, "f8"))
    sorted_pixels = any(np.all(made[one][1:] >= made[one][:-1]) for one in "xy")
    looks_like_p = any(np.all(made[one] <= 1) for one in "xyt")
    assert guess in ((order, None) if sorted_pixels or looks_like_p or not p.any() else (order,))


@settings(deadline=None, max_examples=50)
@given(
    count=st.integers(1, 60),
    piece=st.integers(1, 70),
    stored=st.sampled_from([np.savez, np.savez_compressed, None]),
    kind=st.sampled_from(["<i4", ">i8", "<f8"]),
    fortran=st.booleans(),
)
def test_chunks_and_any_part_equal_the_whole(tmp_path_factory, count, piece, stored, kind, fortran):
    columns = random_events(count, piece)
    table = np.asarray(as_table("txyp", columns, kind), order="F" if fortran else "C")
    path = tmp_path_factory.getbasetemp() / ("a.npz" if stored else "a.npy")
    stored(path, events=table) if stored else np.save(path, table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "CHUNK_EVENTS", piece)
        recording, found, chunks = read_columns(path, columns="txyp")
        assert found == expected(columns)
        for number, chunk in enumerate(chunks):
            rest = list(recording.chunks(chunk.place))
            assert [one.place for one in rest] == [one.place for one in chunks[number:]]
            assert rest[0].x.tolist() == chunk.x.tolist()


def test_unclear_tables_and_names_are_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((50, 4)))
    with pytest.raises(InputError, match="50 x 4 numbers without names; pass --columns"):
        read_columns(path)
    columns = random_events(50)
    path = tmp_path / "a.npz"
    np.savez(path, x=columns["x"], y=columns["y"], p=columns["p"], ts=columns["t"], time=[1, 2])
    with pytest.raises(InputError, match="ts and time could each be the column t"):
        read_columns(path)
    np.savez(path, a=as_table("txyp", columns)[:, :3])
    with pytest.raises(InputError, match=r"no table of four columns \(found: a \(50 x 3, int64\)"):
        read_columns(path)


@pytest.mark.parametrize("order", ["xytp", "txyp", "xypt"])
def test_unnamed_arrays_are_read_in_the_order_that_their_values_show(tmp_path, order):
    columns = random_events(300)
    path = tmp_path / "a.npz"
    np.savez(path, *(columns[one] for one in order))
    recording, found, _ = read_columns(path)
    assert found == expected(columns)
    note = f"arr_0, arr_1, arr_2, arr_3 were read as {', '.join(order)}, because of their values"
    expected_notes = [] if order == "xytp" else [note]
    assert [text.partition(";")[0] for text in recording.notes] == expected_notes
    recording, found, _ = read_columns(path, columns=order.replace("xy", "yx"))
    assert found == expected(columns | {"x": columns["y"], "y": columns["x"]})
    assert recording.notes == []
    with pytest.raises(InputError, match="--columns -txyp has 5 columns, and the events have 4"):
        read_columns(path, columns="-txyp")
    np.savez(path, *(np.zeros(50) for _ in range(4)))
    (note,) = read_columns(path)[0].notes
    assert "were read as x, y, t, p, and their values do not show it; pass --columns" in note


def test_several_tables_need_a_choice(tmp_path):
    columns = random_events(300)
    path = tmp_path / "a.npz"
    swapped = columns | {"x": columns["y"]}
    np.savez(path, events_a=as_table("txyp", columns), events_b=as_table("txyp", swapped))
    recording, found, _ = read_columns(path)
    assert found == expected(columns)
    assert "has 2 streams of events (events_a, events_b)" in recording.notes[0]
    assert read_columns(path, stream="events_b")[1] == expected(swapped)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_anywhere_in_a_member_is_found(tmp_path, save):
    path = tmp_path / "a.npz"
    columns = random_events(500)
    save(path, **columns)
    content = path.read_bytes()
    directory = content.index(b"PK\x01\x02")
    rng = np.random.default_rng(0)
    for place in rng.integers(0, directory, 60):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(0, 8)
        path.write_bytes(damaged)
        try:
            _, found, _ = read_columns(path)
        except InputError:
            continue
        assert found == expected(columns)  # a field of a local header that is not needed


def test_a_member_that_inflates_to_more_than_it_declares_is_refused(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, column in random_events(500).items():
            array = io.BytesIO()
            np.save(array, column)
            archive.writestr(f"{name}.npy", array.getvalue() + bytes(1000 * (name == "t")))
    content = bytearray(stream.getvalue())
    entry = content.index(b"t.npy", content.index(b"PK\x01\x02")) - 46
    size = struct.unpack_from("<I", content, entry + 24)[0]
    struct.pack_into("<I", content, entry + 24, size - 1000)
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"member 't.npy' is damaged"):
        read_columns(path)
