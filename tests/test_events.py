"""The event record: valid arrays are accepted, others are refused, and none is changed."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdata.errors import InputError
from eventdata.events import (
    EVENT_DTYPE,
    EventChecker,
    check_events,
    make_events,
    sensor_of,
)

SENSOR = (6, 4)


def structured(dtype=EVENT_DTYPE, x=(0, 5, 2), y=(3, 0, 1), t=(10, 20, 30), p=(1, 0, 1)):
    events = np.empty(len(x), dtype)
    for field, column in zip("xytp", (x, y, t, p), strict=True):
        events[field] = column
    return events


@st.composite
def any_events(draw):
    """Draw valid events in any numeric types, field order and byte order, in any order of time."""
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, SENSOR[0] - 1),
                st.integers(0, SENSOR[1] - 1),
                st.integers(0, 50),
                st.booleans(),
            ),
            max_size=30,
        )
    )
    types = {
        "x": draw(st.sampled_from(["i2", "u1", ">u2", "i8", "f4", "f8"])),
        "y": draw(st.sampled_from(["i2", "u1", ">u2", "i8", "f4", "f8"])),
        "t": draw(st.sampled_from(["i8", "u8", "<u4", ">i4", "u1"])),
        "p": draw(st.sampled_from(["?", "i1", "u1", "i8", "f4"])),
    }
    order = draw(st.permutations("xytp"))
    signed = types["p"] in ("i1", "i8", "f4") and draw(st.booleans())
    x, y, t, p = (list(column) for column in zip(*rows, strict=True)) if rows else ([],) * 4
    on = [2 * int(value) - 1 if signed else int(value) for value in p]
    return structured(np.dtype([(field, types[field]) for field in order]), x, y, t, on), p


@given(any_events())
def test_all_types_and_orders_give_the_same_events(case):
    events, on = case
    before = events.copy()
    checked = check_events(events, SENSOR)
    assert checked.dtype == EVENT_DTYPE
    assert checked.flags.c_contiguous
    expected = sorted(
        zip(events["x"], events["y"], events["t"], on, strict=True), key=lambda event: event[2]
    )  # Python's sort is stable
    assert [tuple(event) for event in checked.tolist()] == [tuple(event) for event in expected]
    np.testing.assert_array_equal(events, before)
    np.testing.assert_array_equal(make_events(*(events[f] for f in "xytp"), SENSOR), checked)


def test_a_canonical_array_is_not_copied_and_others_are():
    events = structured()
    assert check_events(events, SENSOR) is events
    strided = np.concatenate([events, events])[::2]
    assert check_events(strided, SENSOR).flags.c_contiguous


def test_tonics_sensor_size_with_polarities_is_accepted():
    assert check_events(structured(), (*SENSOR, 2)) is not None


def test_float_times_are_seconds():
    dtype = np.dtype([("x", "i2"), ("y", "i2"), ("t", "f8"), ("p", "i1")])
    checked = check_events(structured(dtype, t=(0.1, 0.3, 1.5)), SENSOR)
    assert checked["t"].tolist() == [100_000, 300_000, 1_500_000]
    microseconds = structured(dtype, t=(100_000.0, 300_000.0, 1_500_000.0))
    with pytest.raises(InputError, match="3 events span 1,400,000, .* or 1.4 ms; pass --time-unit"):
        check_events(microseconds, SENSOR)


def test_other_fields_are_ignored():
    dtype = np.dtype([*((f, EVENT_DTYPE[f]) for f in "xytp"), ("id", "O")])
    assert check_events(structured(dtype), SENSOR).dtype == EVENT_DTYPE


def test_no_events():
    checked = check_events(structured(x=(), y=(), t=(), p=()), SENSOR)
    assert (len(checked), checked.dtype) == (0, EVENT_DTYPE)
    assert sensor_of(checked) == (0, 0)
    assert sensor_of(structured()) == SENSOR


def field_types(**types):
    kinds = {"x": "i4", "y": "i4", "t": "i8", "p": "i4"} | types
    return np.dtype(list(kinds.items()))


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (np.zeros((3, 4)), "not an event array"),
        (structured().reshape(1, 3), "not an event array"),
        (structured()[["x", "y", "t"]], "no field p"),
        (structured(field_types(x="O")), "x holds object"),
        (structured(field_types(t="O")), "t holds object"),
        (structured(field_types(p="U1")), "p holds <U1"),
        (structured(field_types(x="c16")), "x holds complex128"),
        (
            structured(x=(0, 6, 2)),
            "1 of 3 events lies off the sensor of 6x4 pixels, first: event 1 at x=6, y=0",
        ),
        (structured(y=(0, -1, 2)), "1 of 3 events lies off .* first: event 1 at x=5, y=-1"),
        (
            structured(field_types(x="u2"), x=(0, 65535, 2)),
            "1 of 3 events .* at x=65535, y=0; .* --outside drop",
        ),
        (structured(field_types(x="f4"), x=(0, 0.5, 2)), "not whole numbers"),
        (structured(field_types(y="f2"), y=(0, np.inf, 2)), "not whole numbers"),
        (structured(field_types(t="f8"), t=(0, np.nan, 2)), "NaN or out of range"),
        (structured(field_types(t="f8"), t=(0, 1, 1.7e308)), "NaN or out of range"),
        (np.zeros(3, [("x", "i2", 2), ("y", "i2"), ("t", "i8"), ("p", "?")]), "of one length"),
        (structured(field_types(t="u8"), t=(0, 1, 2**64 - 1)), "out of range"),
        (structured(field_types(), t=(-(2**62), 1, 2)), "out of range"),
        (structured(field_types(), p=(-1, 0, 1)), "polarities are 0 and 1"),
        (structured(field_types(), p=(0, 1, 2)), "polarities are 0 and 1"),
        (structured(field_types(p="f4"), p=(0, 1, np.nan)), "not whole numbers"),
    ],
)
def test_other_arrays_are_refused_with_the_given_name(events, message):
    with pytest.raises(InputError, match=message) as error:
        check_events(events, SENSOR, name="walk.npz")
    assert str(error.value).startswith("walk.npz: ")
    assert "\n" not in str(error.value)


def test_columns_of_different_length_are_refused():
    with pytest.raises(InputError, match="columns of one length"):
        make_events([1, 2], [1, 2], [1, 2], [1], SENSOR)


rows_anywhere = st.lists(
    st.tuples(
        st.integers(-2, SENSOR[0] + 1),
        st.integers(-2, SENSOR[1] + 1),
        st.integers(0, 50),
        st.booleans(),
    ),
    max_size=40,
)


@given(rows_anywhere, st.integers(1, 9), st.sampled_from(["i2", "i8", "f4"]))
def test_chunks_give_the_events_on_the_sensor_and_count_the_others(rows, size, dtype):
    checker = EventChecker(SENSOR, name="walk.es", outside="drop")
    strict = EventChecker(SENSOR, name="walk.es")
    found = []
    for start in range(0, len(rows), size):
        x, y, t, p = zip(*rows[start : start + size], strict=True)
        chunk = [np.array(x, dtype), np.array(y, dtype), np.array(t), np.array(p)]
        events = checker.check(*chunk)
        assert events.dtype == EVENT_DTYPE
        np.testing.assert_array_equal(strict.check(*chunk), events)
        found += events.tolist()
    inside = [0 <= row[0] < SENSOR[0] and 0 <= row[1] < SENSOR[1] for row in rows]
    assert found == [row for row, on in zip(rows, inside, strict=True) if on]
    off = inside.count(False)
    assert (checker.events, checker.skipped) == (len(rows), off)
    checker.finish()
    if off:
        first = inside.index(False)
        verb = "lies" if off == 1 else "lie"
        words = f"walk.es: {off} of {len(rows)} events? {verb} off the sensor of 6x4 pixels, "
        words += f"first: event {first} at x={rows[first][0]}, y={rows[first][1]}; "
        with pytest.raises(InputError, match=f"{words}.*--outside drop"):
            strict.finish()
    else:
        strict.finish()


def test_without_a_sensor_only_negative_coordinates_are_off():
    with pytest.raises(InputError, match="1 of 3 events lies off any sensor, first: event 1"):
        make_events([0, -1, 2], [0, 0, 900], [0, 1, 2], [0, 1, 1])
    kept = make_events([0, -1, 2], [0, 0, 900], [0, 1, 2], [0, 1, 1], outside="drop")
    assert kept.tolist() == [(0, 0, 0, False), (2, 900, 2, True)]
    assert check_events(structured(x=(0, 6, 2)), SENSOR, outside="drop")["x"].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("chunks", "right"),
    [
        ([[1, 1], [0, 1], [0]], True),
        ([[1, 1], [-1, 1], [-1]], True),
        ([[1], [1]], True),
        ([[0], [-1]], False),
        ([[1, -1], [1], [0]], False),
        ([[1], [255]], False),
        ([[0, 2]], False),
    ],
)
@pytest.mark.parametrize("dtype", ["i2", "i8", "f4"])
def test_polarities_are_of_one_kind_in_all_chunks(chunks, right, dtype):
    checker = EventChecker(SENSOR)

    def check():
        for p in chunks:
            none = np.zeros(len(p), np.int64)
            events = checker.check(none, none, none, np.array(p, dtype))
            assert events["p"].tolist() == [value == 1 for value in p]

    if right:
        check()
    else:
        with pytest.raises(InputError, match="polarities are 0 and 1, or -1 and 1"):
            check()


def test_bytes_with_255_for_brighter_are_refused_with_the_values():
    with pytest.raises(InputError, match=r"p has the values \[0, 255\]; polarities are"):
        make_events([0, 0], [0, 0], [0, 1], np.array([0, 255], np.uint8))


@pytest.mark.parametrize(
    ("t", "unit", "expected"),
    [
        ((1, 2, 3), "ms", [1000, 2000, 3000]),
        ((1499, 1500, 3001), "ns", [1, 2, 3]),
        ((0.5, 1.25, 2), "s", [500_000, 1_250_000, 2_000_000]),
        ((5.0, 5.0, 49_988.0), "us", [5, 5, 49_988]),
        ((0.5, 1.5, 100_000), "s", [500_000, 1_500_000, 100_000_000_000]),
    ],
)
def test_times_of_a_given_unit_become_microseconds(t, unit, expected):
    kind = "f8" if isinstance(t[0], float) else "i8"
    events = structured(field_types(t=kind), t=t)
    assert check_events(events, SENSOR, time_unit=unit)["t"].tolist() == expected


@pytest.mark.parametrize("sensor", [(0, 4), (6, -1), (40_000, 4)])
def test_impossible_sensor_sizes_are_refused(sensor):
    with pytest.raises(InputError, match="each side must be 1 to 32767"):
        check_events(structured(x=(), y=(), t=(), p=()), sensor)


def test_importing_it_loads_neither_numba_nor_torch():
    code = (
        "import sys, eventdata.events, eventdata.formats.recording\n"
        "print([name for name in ('numba', 'torch', 'tonic', 'aedat') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
