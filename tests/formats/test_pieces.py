"""Binary recordings give the same events in pieces, from any piece on, and cut at any byte."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventdata.formats import pieces
from eventdata.formats.decoding import END_MISSING, DecodeOptions
from eventdata.formats.recording import read_recording


def words_of(width, types, bits):
    """Draw words of ``width`` bits whose highest 4 bits are one of the types."""
    value = st.one_of(st.integers(0, 2**bits - 1), st.sampled_from([0, 1, 2**bits - 1]))
    word = st.builds(lambda kind, value: kind << width - 4 | value, st.sampled_from(types), value)
    return st.lists(word, min_size=1, max_size=60)


def packed(letter):
    return lambda words: struct.pack(f"<{len(words)}{letter}", *words)


EVT3_TYPES = [0, 2, 3, 4, 4, 5, 5, 6, 6, 7, 8, 8, 10, 14, 15]
dat_rows = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**29 - 1)), min_size=1)
CONTENTS = {  # name: header, and a strategy of what follows
    "evt2.raw": (
        b"% format EVT2;height=2048;width=2048\n",
        words_of(32, [0, 0, 1, 1, 8, 8, 10, 14, 15], 28).map(packed("I")),
    ),
    "evt21.raw": (
        b"% format EVT21;height=2048;width=2048;endianness=little\n",
        words_of(64, [0, 1, 8, 8, 10, 14, 15], 60).map(packed("Q")),
    ),
    "evt3.raw": (
        b"% format EVT3;height=2048;width=30000\n",
        words_of(16, EVT3_TYPES, 12).map(packed("H")),
    ),
    "a.dat": (
        b"% Version 2\n\x0c\x08",
        dat_rows.map(lambda rows: b"".join(struct.pack("<II", *row) for row in rows)),
    ),
    "a.bin": (b"", st.binary(min_size=5, max_size=300)),
    "a.es": (
        b"Event Stream\x02\0\0\x01\x40\x01\xf0\x00",
        st.lists(st.sampled_from([0, 1, 7, 254, 255, 255]), max_size=200).map(bytes),
    ),
}


def read_all(recording, place=None):
    """Return the columns x, y, t, p from a place on, and the place of each chunk."""
    chunks = list(recording.chunks(place))
    columns = zip(*(chunk[1:] for chunk in chunks), strict=True)
    return [np.concatenate(c).tolist() for c in columns], chunks


@pytest.mark.parametrize("name", CONTENTS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_pieces_equal_the_whole_from_every_place_on(tmp_path_factory, name, data):
    header, contents = CONTENTS[name]
    path = tmp_path_factory.getbasetemp() / f"pieces-{name}"
    path.write_bytes(header + data.draw(contents))
    whole, _ = read_all(read_recording(path, DecodeOptions()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "CHUNK_EVENTS", data.draw(st.integers(1, 12)))
        recording = read_recording(path, DecodeOptions())
        found, chunks = read_all(recording)
        assert found == whole
        before = 0
        for chunk in chunks:
            again, rest = read_all(recording, chunk.place)
            assert rest[0].place == chunk.place
            assert again == [column[before:] for column in whole]
            before += len(chunk.x)
            assert all(-(2**63) <= number < 2**63 for number in chunk.place)


@pytest.mark.parametrize("name", CONTENTS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_cut_recording_is_its_whole_events_with_a_note(tmp_path_factory, name, data):
    header, contents = CONTENTS[name]
    content = data.draw(contents)
    path = tmp_path_factory.getbasetemp() / f"cut-{name}"
    path.write_bytes(header + content)
    whole, _ = read_all(read_recording(path, DecodeOptions()))
    row = {"evt2.raw": 4, "evt21.raw": 8, "evt3.raw": 2, "a.dat": 8, "a.bin": 5}.get(name)
    stop = data.draw(st.integers(row or 0, len(content)))
    path.write_bytes(header + content[:stop])
    recording = read_recording(path, DecodeOptions())
    cut, _ = read_all(recording)
    assert all(part == column[: len(part)] for part, column in zip(cut, whole, strict=False))
    read_all(recording)
    assert recording.notes in ([], [END_MISSING])  # once, however often it is read
    if row:
        assert bool(recording.notes) == (stop % row > 0)


@pytest.mark.parametrize("gap", [0, 1, 3, 4, 5, 9])
def test_evt3_finds_y_and_x_far_before_a_place(tmp_path, monkeypatch, gap):
    monkeypatch.setattr("eventdata.formats.evt._LOOK_BACK", 2)
    monkeypatch.setattr(pieces, "CHUNK_EVENTS", 3)
    words = [8 << 12 | 5, 77, *[14 << 12] * gap, 3 << 12 | 1 << 11 | 40, *[14 << 12] * gap]
    words += [4 << 12, 5 << 12, *[4 << 12 | 1] * 9]
    path = tmp_path / "a.raw"
    path.write_bytes(b"% format EVT3;height=2048;width=2048\n" + packed("H")(words))
    recording = read_recording(path, DecodeOptions())
    whole, chunks = read_all(recording)
    assert whole[0] == [40 + 12 + 8 + 12 * i for i in range(9)]
    assert whole[1:] == [[77] * 9, [5 << 12] * 9, [1] * 9]
    assert [read_all(recording, chunk.place)[0][0][0] for chunk in chunks] == [
        chunk.x[0] for chunk in chunks
    ]


def test_evt3_turns_of_the_low_bits_fit_a_place_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr("eventdata.formats.evt._TURNS", 1)
    monkeypatch.setattr(pieces, "CHUNK_EVENTS", 4)
    words = [8 << 12 | 5, 77]
    for _ in range(8):
        words += [6 << 12 | 4000, 2 << 12 | 3, 6 << 12 | 10, 2 << 12 | 4]
    path = tmp_path / "a.raw"
    path.write_bytes(b"% format EVT3;height=2048;width=2048\n" + packed("H")(words))
    recording = read_recording(path, DecodeOptions())
    whole, chunks = read_all(recording)
    turns = [(i + 1) // 2 for i in range(16)]
    assert whole[2] == [4096 * (5 + turns[i]) + (10 if i % 2 else 4000) for i in range(16)]
    for chunk in chunks:
        assert read_all(recording, chunk.place)[0][2][0] == chunk.t[0]
