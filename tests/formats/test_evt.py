"""EVT 2.1 follows Prophesee's description in every byte order, stated or not."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventdata.errors import InputError
from eventdata.events import EventChecker
from eventdata.formats.decoding import DecodeOptions
from eventdata.formats.recording import read_events, read_recording

vectors = st.lists(
    st.tuples(
        st.booleans(),
        st.integers(0, 100),  # microseconds since the last
        st.integers(0, 39),  # x / 32
        st.integers(0, 719),
        st.integers(1, 2**32 - 1),
    ),
    min_size=1,
    max_size=30,
)


def as_words(rows):
    """Return the words of EVT 2.1 as numbers, and the events (x, y, t, p) in them."""
    words, events, t, high = [], [], 2**34 - 500, None
    for on, pause, column, y, mask in rows:
        t += pause
        if t >> 6 != high:
            high = t >> 6
            words.append(8 << 60 | (high % 2**28) << 32)
        words.append(on << 60 | (t & 63) << 54 | 32 * column << 43 | y << 32 | mask)
        events += [(32 * column + i, y, t, on) for i in range(32) if mask >> i & 1]
    return words, events


def as_bytes(words, order):
    if order == "legacy":
        return b"".join(struct.pack("<II", word >> 32, word % 2**32) for word in words)
    return struct.pack(f"{'>' if order == 'big' else '<'}{len(words)}Q", *words)


@pytest.mark.parametrize(
    ("order", "header"),
    [
        ("little", "% format EVT21;height=720;width=1280\n% endianness little\n"),
        ("little", "% evt 2.1\n% endianness little\n% geometry 1280x720\n% end\n"),
        ("legacy", "% format EVT21;height=720;width=1280;endianness=legacy\n"),
        ("legacy", "% evt 2.1\n% endianness legacy\n% geometry 1280x720\n% end\n"),
        ("big", "% evt 2.1\n% endianness big\n% geometry 1280x720\n% end\n"),
    ],
)
@settings(deadline=None, max_examples=50)
@given(rows=vectors)
def test_evt21_follows_its_description(tmp_path_factory, order, header, rows):
    words, expected = as_words(rows)
    path = tmp_path_factory.getbasetemp() / "evt21.raw"
    path.write_bytes(header.encode() + as_bytes(words, order))
    events, size = read_events(path)
    assert size == (1280, 720)
    assert events.tolist() == expected


@settings(deadline=None, max_examples=100)
@given(rows=vectors, order=st.sampled_from(["little", "legacy", "big"]))
def test_evt21_without_a_byte_order_is_right_or_refused(tmp_path_factory, rows, order):
    words, expected = as_words(rows)
    path = tmp_path_factory.getbasetemp() / "unstated.raw"
    path.write_bytes(b"% evt 2.1\n% geometry 1280x720\n" + as_bytes(words, order))
    try:
        recording = read_recording(path, DecodeOptions())
    except InputError:
        return  # the next test shows that many words are not refused
    assert (
        recording.events(EventChecker(recording.sensor_size, time_unit="us")).tolist() == expected
    )
    assert f"they were read as {order}" in recording.notes[0]


def test_evt21_of_many_words_shows_its_byte_order(tmp_path):
    rows = [(i % 3 == 0, 7, i % 40, i % 720, 1 << i % 32 | 1) for i in range(500)]
    for order in ("little", "legacy", "big"):
        path = tmp_path / f"{order}.raw"
        words, expected = as_words(rows)
        path.write_bytes(b"% evt 2.1\n% geometry 1280x720\n" + as_bytes(words, order))
        with pytest.warns(UserWarning, match=f"they were read as {order}"):
            events, _ = read_events(path)
        assert events.tolist() == expected
