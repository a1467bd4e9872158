"""Text files of events are read in every usual form, or refused with the number of the line."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventdata.errors import InputError
from eventdata.formats import text
from eventdata.formats.decoding import END_MISSING, DecodeOptions
from eventdata.formats.recording import read_events, read_recording


def opened(folder, content, name="events.txt", **options):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_recording(path, DecodeOptions(**options))


def columns(recording, place=None):
    chunks = list(recording.chunks(place))
    return [np.concatenate(c).tolist() for c in zip(*(one[1:] for one in chunks), strict=True)]


def decimals(digits, places):
    """Write a number with decimal places, as the formats of the files do."""
    return f"{digits // 10**places}.{digits % 10**places:0{places}}" if places else str(digits)


WHOLE = st.sampled_from([str, "{:d}.".format, "{:d}.0".format, "{:.18e}".format, "+{}".format])
lines = st.lists(
    st.tuples(
        st.integers(0, 1000),  # of the last decimal place since the last event
        st.integers(0, 32_000),
        st.integers(0, 32_000),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None, max_examples=200)
@given(data=st.data(), rows=lines, places=st.sampled_from([0, 3, 6, 9]), signed=st.booleans())
def test_numbers_in_every_usual_form(tmp_path_factory, data, rows, places, signed):
    blank = data.draw(st.sampled_from([" ", "\t", "  ", ",", ", ", ";", " ,\t"]))
    newline = data.draw(st.sampled_from(["\n", "\r\n", " \n"]))
    order = data.draw(st.permutations("xytp"))
    head = data.draw(st.sampled_from(["", "\n# some remark\n", "\ufeff% remark\n\n", "240 180\n"]))
    first = data.draw(st.integers(0, 2**62 if places == 9 else 2**40))
    expected, written, t = [], [], first
    for pause, x, y, p in rows:
        t += pause
        p = 2 * p - 1 if signed else p
        form = data.draw(WHOLE)
        values = {"x": form(x), "y": form(y), "p": str(p), "t": decimals(t, places)}
        written.append(blank.join(values[letter] for letter in order))
        time = t if places == 0 else float(decimals(t, places))
        expected.append((x, y, time, p))
        if data.draw(st.integers(0, 9)) == 0:
            written.append(data.draw(st.sampled_from(["", "# 1 2 3 4", "   ", "%"])))
    content = head + newline.join(written) + newline * data.draw(st.booleans())
    folder = tmp_path_factory.getbasetemp()
    found = columns(opened(folder, content, columns="".join(order)))
    assert found[:2] == [[row[0] for row in expected], [row[1] for row in expected]]
    assert found[3] == [row[3] for row in expected]
    times = [row[2] for row in expected]
    assert found[2] == times if places == 0 else np.allclose(found[2], times, rtol=4e-16, atol=0)
    small = places and first < 2**50
    assert not small or found[2] == times  # numbers that fit float64 are rounded once


@settings(deadline=None, max_examples=60)
@given(rows=lines, size=st.integers(8, 200))
def test_pieces_equal_the_whole_from_every_place_on(tmp_path_factory, rows, size):
    t = np.cumsum([row[0] for row in rows])
    content = "# t x y p\n" + "".join(
        f"{when / 1000:.6f} {x} {y} {p}\n" for when, (_, x, y, p) in zip(t, rows, strict=True)
    )
    folder = tmp_path_factory.getbasetemp()
    recording = opened(folder, content)
    whole = columns(recording)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "PIECE_BYTES", size)
        assert columns(recording) == whole
        before = 0
        for chunk in recording.chunks(None):
            assert columns(recording, chunk.place) == [column[before:] for column in whole]
            before += len(chunk.x)


RPG = "0.003811000 96 133 0\n0.003820001 127 171 0\n0.003821 50 3 1\n"
EVENTS = [(96, 133, 0.003811, 0), (127, 171, 0.003820001, 0), (50, 3, 0.003821, 1)]
METAVISION = "".join(
    f"{x},{50 * x % 91},{x % 2},{500 + i}\n" for i, x in enumerate([90, 4, 33, 8, 41])
)


@pytest.mark.parametrize(
    ("content", "size", "unit"),
    [
        (RPG, None, None),
        ("240 180\n" + RPG, (240, 180), None),
        ("t x y p\n" + RPG, None, None),
        ("# Format is time (float s), x, y, polarity (0=off, 1=on)\n" + RPG, None, None),
        ("t (s);x;y;pol;label\n" + RPG.replace(" ", ";").replace("\n", ";car\n"), None, "s"),
        (
            "x,y,polarity,timestamp\n96,133,0,.003811\n127,171,0,.003820001\n50,3,1,3821e-6",
            None,
            None,
        ),
        (",Timestamp [s],X,Y,On\n".replace("On", "p") + "0,0.003811,96,133,0\n", None, "s"),
        ("X [px],Y [px],Timestamp [s],Polarity\n96,133,0.003811,0\n", None, "s"),
        ("(t,x,y,p)\n" + RPG.replace(" ", ","), None, None),
        ("# [t, x, y, p]\n" + RPG, None, None),
        # A unit of another column, a size in a remark of MATLAB, and names that are not last.
        ("t,x,y,p,exposure_ms\n" + RPG.replace(" ", ",").replace("\n", ",9\n"), None, None),
        ("% resolution: 240x180\n" + RPG, (240, 180), None),
        ("# columns: t y x p\n# recorded 2020\n0.003811 133 96 0\n", None, None),
    ],
)
def test_files_of_usual_programs(tmp_path, content, size, unit):
    recording = opened(tmp_path, content, "events.csv")
    found = list(zip(*columns(recording), strict=True))
    assert found == EVENTS[: len(found)]
    assert (recording.sensor_size, recording.time_unit) == (size, unit)


def test_the_order_without_names_is_guessed_with_a_note_stated_or_asked_for(tmp_path):
    recording = opened(tmp_path, METAVISION)
    assert columns(recording)[2] == [500, 501, 502, 503, 504]
    assert "read as x y p t" in recording.notes[0]
    assert columns(opened(tmp_path, METAVISION, columns="yxpt"))[1] == columns(recording)[0]
    assert opened(tmp_path, RPG).notes == []
    with pytest.raises(InputError, match="pass --columns with their order, such as txyp"):
        opened(tmp_path, "3 4 1 5\n9 9 0 7\n")
    geometry = opened(tmp_path, "%geometry:640,480\n" + METAVISION)
    assert (geometry.sensor_size, geometry.time_unit) == ((640, 480), "us")
    named = opened(tmp_path, "# x y p t\n3 4 1 5\n9 9 0 7\n")  # as numpy.savetxt writes a header
    assert columns(named) == [[3, 9], [4, 9], [5, 7], [1, 0]]
    skipped = opened(tmp_path, "a,b,c,d,e\n8,3,4,1,5\n8,9,9,0,7\n", columns="-xypt")
    assert columns(skipped) == [[3, 9], [4, 9], [5, 7], [1, 0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no lines of events"),
        ("# only remarks\n\n", "no lines of events"),
        ("This data set\nhas events\n", "line 1 ('This data set'): neither numbers nor the names"),
        ("class,startTime_usec,endTime_usec\n1,2,3\n", "line 1 ('class,startTime_usec"),
        ("t_s,x,y,p,t_us\n1,2,3,1,5\n", "t_s and t_us could each be the column t; pass --columns"),
        ("t,x,y,p,x\n1,2,3,1,5\n", "x and x could each be the column x"),
        ("1 2 3 4 5\n", "5 columns without names; name them in the first line, such as t,x,y,p"),
        ("t,x,y,p\n1,2,3\n", "line 2 ('1,2,3'): it has 3 columns, and the line of names 4"),
        (
            RPG + "0.1 1 2\n0.2 1 2 1\n",
            "line 4 ('0.1 1 2'): it has 3 columns, and the lines before",
        ),
        (RPG + "# x\n0.1 1 2 1 7\n", "line 5 ('0.1 1 2 1 7'): it has more than 4 columns"),
        (RPG + "0.1 1 2 1,\n", "line 4 ('0.1 1 2 1,'): it has more than 4 columns"),
        (RPG + "0.1 1,,1\n", "line 4 ('0.1 1,,1'): column 3 (y) is not a number"),
        (RPG + "nan 1 2 1\n", "line 4 ('nan 1 2 1'): column 1 (t) is not a number"),
        (RPG + "0.1 0x1 2 1\n", "line 4 ('0.1 0x1 2 1'): column 2 (x) is not a number"),
        (RPG + "0.1 1 2 True\n", "column 4 (p) is not a number"),
        (RPG + "0.1 1e 2 1\n", "column 2 (x) is not a number"),
        (RPG + "0.1 . 2 1\n", "column 2 (x) is not a number"),
        (RPG + "0.1 1_0 2 1\n", "column 2 (x) is not a number"),
        (RPG + "0.1 \u0661 2 1\n", "column 2 (x) is not a number"),
        (RPG + "0.1 \0 2 1\n", r"line 4 ('0.1 \x00 2 1'): column 2 (x) is not a number"),
        (RPG + "0.1 1.5 2 1\n", "column 2 (x) is not a whole number"),
        (RPG + "0.1 1 2 99999999999999999999\n", "column 4 (p) is too large"),
        (RPG + "0.1 1e400 2 1\n", "column 2 (x) is too large"),
        (
            "5 1 2 1\n7.5 1 2 1\n" * 6000,
            "column 1 (t) is not a whole number, as in the lines before",
        ),
        ("1" * 70_000, "line 1 is longer than 65,536 bytes"),
        (RPG + "0.1 1 2 1" + " " * 70_000, "line 4 is longer than 65,536 bytes"),
        ("0 180\n" + RPG, "two numbers that are no sensor size"),
    ],
)
def test_other_files_are_refused_with_the_line(tmp_path, content, message):
    if content.startswith("5 1 2 1\n7.5"):
        content = "5 1 2 1\n" * 20_000 + "7.5 1 2 1\n"
    with pytest.raises(InputError, match=re.escape(message)) as error:
        list(opened(tmp_path, content).chunks(None))
    assert "\n" not in str(error.value)


@settings(deadline=None, max_examples=60)
@given(stop=st.integers(len(RPG) - 25, len(RPG)))
def test_a_last_line_that_was_cut_is_left_with_a_note(tmp_path_factory, stop):
    recording = opened(tmp_path_factory.getbasetemp(), RPG[:stop])
    found = list(zip(*columns(recording), strict=True))
    assert found == EVENTS[: len(found)]
    last = RPG[:stop].rsplit("\n", 1)[-1]
    cut = 0 < len(last.split()) < 4
    assert (END_MISSING in recording.notes) == cut


def test_rpg_times_survive_as_microseconds(tmp_path):
    path = tmp_path / "events.txt"
    rng = np.random.default_rng(3)
    t = 1_468_939_993_067_416 + np.cumsum(rng.integers(1, 999, 1000))  # since 1970
    path.write_text("".join(f"{one // 10**6}.{one % 10**6:06} 1 2 1\n" for one in t.tolist()))
    assert read_events(path, columns="txyp")[0]["t"].tolist() == t.tolist()
    with pytest.warns(UserWarning, match="read as t x y p because of their values"):
        read_events(path)
