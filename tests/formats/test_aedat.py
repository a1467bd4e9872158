"""Tests of the AEDAT decoders against independent writers: ends, streams and places."""

import struct
import tracemalloc

import aedat
import lz4.frame
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from eventdata.errors import InputError
from eventdata.formats import aedat4
from eventdata.formats.decoding import END_MISSING, DecodeOptions
from eventdata.formats.recording import read_events, read_recording
from tests.formats import aedat3

SIZES = {"DAVIS240A": (240, 180), "DAVIS240C": (240, 180), "Davis346B": (346, 260)}
SIZES |= {"Davis346mini": (346, 260), "DAVIS346": (346, 260), "Davis640": (640, 480)}
V2E = "# This is a raw AE data file created by AEDat2Output in v2e"


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def recorded(path, **given):
    return read_recording(path, DecodeOptions(**given))


def gathered(recording, place=None):
    """Return the columns of all chunks from a place as lists of rows, and the chunks' places."""
    chunks = list(recording.chunks(place))
    rows = [row for chunk in chunks for row in zip(*(c.tolist() for c in chunk[1:]), strict=True)]
    return [(x, y, t, bool(p)) for x, y, t, p in rows], [chunk.place for chunk in chunks]


def aedat2_file(words, chip=None, more=""):
    header = f"#!AER-DAT2.0\r\n{more}" + (f"# AEChip: eu.seebetter.{chip}\r\n" if chip else "")
    return header.encode() + b"".join(struct.pack(">II", *word) for word in words)


davis_words = st.tuples(
    st.integers(0, 2**32 - 1), st.sampled_from([0, 0, 0, 1 << 10, 1 << 31, 1 << 31 | 1 << 10])
)


@settings(deadline=None, max_examples=60)
@given(
    words=st.lists(davis_words, min_size=1, max_size=30),
    chip=st.sampled_from(sorted(SIZES)),
    steps=st.lists(st.integers(0, 2**31 - 1), min_size=30, max_size=30),
)
def test_davis_words_follow_jaer(tmp_path_factory, words, chip, steps):
    """Bits 31 and 10 mark other words; y is in 22 to 30, x in 12 to 21, polarity in 11."""
    width, height = SIZES[chip]
    t, written, expected = 0, [], []
    for (bits, marks), step in zip(words, steps, strict=False):
        t += step
        address = bits & ~(1 << 31 | 1 << 10) | marks
        written.append((address, t % 2**32))
        if not marks:
            x, y = address // 2**12 % 2**10, address // 2**22 % 2**9
            column, row = width - 1 - x, height - 1 - y
            if column >= 0 and row >= 0:
                expected.append((column, row, t, address // 2**11 % 2 == 1))
    path = write(tmp_path_factory.getbasetemp(), "a.aedat", aedat2_file(written, chip))
    recording = recorded(path)
    assert recording.sensor_size == (width, height)
    rows = [row for row in gathered(recording)[0] if 0 <= row[0] < width and 0 <= row[1] < height]
    assert rows == expected


@pytest.mark.parametrize(
    ("size", "shifts"),
    [((346, 260), (12, 22, 11)), ((240, 180), (12, 22, 11)), ((640, 480), (1, 11, 0))],
)
def test_v2e_writes_no_chip(tmp_path, size, shifts):
    """The address as v2e's AEDat2Output writes it, where (0, 0) is at the upper left before."""
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, size[0], 500), rng.integers(0, size[1], 500)
    t, p = np.sort(rng.integers(0, 10**6, 500)), rng.integers(0, 2, 500)
    address = size[0] - 1 - x << shifts[0] | size[1] - 1 - y << shifts[1] | p << shifts[2]
    words = zip(address.tolist(), t.tolist(), strict=True)
    path = write(tmp_path, "a.aedat", aedat2_file(words, more=f"{V2E}\r\n"))
    events, found = read_events(path, size)
    assert found == size
    for field, column in zip("xytp", (x, y, t, p), strict=True):
        np.testing.assert_array_equal(events[field], column)
    sizes = "346x260 or 240x180 or 640x480"
    with pytest.raises(InputError, match=f"names no chip .* pass --sensor-size {sizes}"):
        read_events(path)
    with pytest.raises(InputError, match="names no chip"):
        read_events(path, (128, 128))


def test_a_file_without_chip_is_a_dvs128_only_if_its_addresses_fit(tmp_path):
    low = [(3 << 8 | 2 << 1, 5)] * 5000
    path = write(tmp_path, "a.aedat", aedat2_file(low))
    recording = recorded(path)
    rows, _ = gathered(recording)
    assert rows == [(125, 124, 5, True)] * 5000
    assert recording.sensor_size == (128, 128)
    assert recording.notes == [
        "the file names no chip; read as of a DVS128, which its addresses fit"
    ]
    path = write(tmp_path, "b.aedat", aedat2_file([*low, (1 << 22, 9)]))
    with pytest.raises(InputError, match="its addresses are not those of a DVS128"):
        read_events(path)
    path = write(tmp_path, "c.aedat", aedat2_file([(1 << 22, 9)]))  # not of v2e
    with pytest.raises(InputError, match="names no chip"):
        read_events(path, (640, 480))


def test_a_first_event_that_looks_like_a_comment_is_an_event(tmp_path):
    address = 0x23 << 24 | 5 << 12
    path = write(tmp_path, "a.aedat", aedat2_file([(address, 10)] * 3, "DAVIS240C"))
    row = (239 - (address >> 12) % 1024, 179 - (address >> 22), 10, False)
    assert gathered(recorded(path))[0] == [row] * 3


def test_comments_may_hold_any_bytes_before_the_end_of_the_header(tmp_path):
    magic, binary, end = "#!AER-DAT2.0\r\n", "# \0\1\x1b\r\n", "#End Of ASCII Header\r\n"
    events = struct.pack(">IIII", 0x0302, 10, 0x0504, 20)
    chip = "# AEChip: eu.seebetter.DVS128\r\n"
    whole = write(tmp_path, "a.aedat", f"{magic}{binary}{chip}{binary}{end}".encode() + events)
    assert gathered(recorded(whole))[0] == [(126, 124, 10, True), (125, 122, 20, True)]
    alike = struct.pack(">IIII", 0x2300_0000, 10, 0x2300_0000, 20)  # begin as a comment does
    davis = write(
        tmp_path, "b.aedat", f"{magic}{chip}{end}".replace("DVS128", "DAVIS240C").encode() + alike
    )
    assert len(gathered(recorded(davis))[0]) == 2


def test_addresses_that_are_not_of_the_named_chip_are_refused(tmp_path):
    """As where a header of a DVS128 was put before the events of a DAVIS."""
    words = [(100 << 22 | 50 << 12, t) for t in range(1000)]
    path = write(tmp_path, "a.aedat", aedat2_file(words, "DVS128"))
    with pytest.raises(InputError, match="names the chip DVS128, .* most of its addresses"):
        read_events(path)
    few = [(0x0302, t) for t in range(1000, 2001)]  # the others are damaged, or of other inputs
    path = write(tmp_path, "b.aedat", aedat2_file(words + few, "DVS128"))
    assert len(read_events(path)[0]) == 1001


def test_columns_left_of_the_sensor_are_negative_in_messages(tmp_path):
    words = [(5 << 22 | 365 << 12, 10), (5 << 22 | 5 << 12, 20)]
    path = write(tmp_path, "a.aedat", aedat2_file(words, "DAVIS346"))
    with pytest.raises(InputError, match="event 0 at x=-20, y=254"):
        read_events(path)


polarity_events = st.lists(
    st.tuples(st.integers(0, 127), st.integers(0, 127), st.integers(0, 5000), st.booleans()),
    max_size=20,
)


@settings(deadline=None, max_examples=60)
@given(
    parts=st.lists(polarity_events, max_size=6),
    overflows=st.lists(st.integers(0, 2**20), min_size=6, max_size=6),
    invalid=st.sets(st.integers(0, 19)),
    seed=st.integers(0, 99),
    chunk=st.sampled_from([1, 7, 1 << 20]),
)
def test_aedat31_packets(tmp_path_factory, parts, overflows, invalid, seed, chunk):
    """Valid events of all polarity packets are read; a chunk is read again from its place."""
    rng = np.random.default_rng(seed)
    content, expected = [aedat3.header()], []
    for events, turn in zip(parts, overflows, strict=False):
        moved = [(x, y, t + (turn << 31), p) for x, y, t, p in events]
        wrong = {number for number in invalid if number < len(moved)}
        content += [aedat3.other(rng), aedat3.polarity(moved, invalid=wrong)]
        expected += [one for number, one in enumerate(moved) if number not in wrong]
    path = write(tmp_path_factory.getbasetemp(), "a3.aedat", b"".join(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eventdata.formats.aedat3.CHUNK_EVENTS", chunk)
        recording = recorded(path)
        rows, places = gathered(recording)
        assert rows == expected
        assert recording.notes == []
        left = [len(gathered(recording, place)[0]) for place in places]
        assert left == sorted(left, reverse=True)
        for place, count in zip(places, left, strict=True):
            assert gathered(recording, place)[0] == expected[len(expected) - count :]


def test_aedat31_cut_in_a_packet_keeps_whole_packets(tmp_path):
    first, second = [(1, 2, 3, True)] * 4, [(5, 6, 7, False)] * 4
    start = aedat3.header() + aedat3.polarity(first)
    whole = start + aedat3.polarity(second)
    for stop in range(len(start), len(whole) + 1):
        recording = recorded(write(tmp_path, "a.aedat", whole[:stop]))
        rows, _ = gathered(recording)
        assert rows == (first + second if stop == len(whole) else first)
        assert recording.notes == [END_MISSING] * (stop not in (len(start), len(whole)))


def test_aedat31_sources_and_variants(tmp_path):
    ours, others = [(1, 2, 3, True)] * 2, [(300, 200, 9, False)] * 3
    head = aedat3.header(more="#Source 2: DAVIS346B\r\n")
    content = head + aedat3.polarity(ours) + aedat3.polarity(others, source=2)
    path = write(tmp_path, "a.aedat", content)
    recording = recorded(path)
    assert (gathered(recording)[0], recording.sensor_size) == (ours, (128, 128))
    assert recording.notes == [
        "has 2 streams of events (1 (DVS128), 2 (DAVIS346B)), and 1 was read; pass --stream to "
        "choose another"
    ]
    for stream in ("2", "DAVIS346B"):
        recording = recorded(path, stream=stream)
        assert (gathered(recording)[0], recording.sensor_size) == (others, (346, 260))
        assert recording.notes == []
    with pytest.raises(InputError, match="no streams 'left' in the file; pass one of 1"):
        recorded(path, stream="left")
    path = write(tmp_path, "b.aedat", aedat3.header(encoding="SerializedTS"))
    with pytest.raises(InputError, match="in the format SerializedTS is not supported, only RAW"):
        recorded(path)
    for field, value in ((4, 7), (8, 3), (12, -1), (20, 99), (24, 99)):
        packet = bytearray(aedat3.polarity(ours))
        struct.pack_into("<i", packet, field, value)
        with pytest.raises(InputError, match="no packet of AEDAT 3.1 at byte"):
            gathered(recorded(write(tmp_path, "c.aedat", aedat3.header() + packet)))


NODE = """<node name="{0}"><attr key="typeIdentifier" type="string">{1}</attr><node name="info">\
<attr key="sizeX" type="int">{2}</attr><attr key="sizeY" type="int">{3}</attr>\
<attr key="source" type="string">{4}</attr></node></node>"""
STREAMS = ((0, "EVTS", 346, 260, "left"), (1, "FRME", 346, 260, "left"))
PACK = {0: bytes, 1: lz4.frame.compress, 3: zstandard.ZstdCompressor().compress}


def aedat4_file(packets, compression=0, streams=STREAMS):
    """Return an AEDAT 4 file that was never closed; packets are (stream, events)."""
    xml = "<dv version='2.0'><node name='outInfo'>"
    xml = (xml + "".join(NODE.format(*one) for one in streams) + "</node></dv>").encode()
    header = struct.pack("<I4s5H2x", 20, b"IOHE", 10, 20, 4, 12, 8)
    header += struct.pack("<iiIq", 12, compression, 12, -1) + struct.pack("<I", len(xml)) + xml
    parts = [b"#!AER-DAT4.0\r\n" + struct.pack("<I", len(header)) + header]
    for stream, events in packets:
        body = struct.pack("<I4s3H2xiI4xI", 16, b"EVTS", 6, 8, 4, 8, 8, len(events))
        body += b"".join(struct.pack("<qhh?3x", t, x, y, p) for x, y, t, p in events)
        content = PACK[compression](struct.pack("<I", len(body)) + body)
        parts.append(struct.pack("<II", stream, len(content)) + content)
    return parts


def test_aedat4_writer_is_read_by_the_package_aedat(tmp_path):
    """The writer of these tests makes files that another decoder reads."""
    events = [(1, 2, 3, True), (345, 259, 99, False)]
    path = write(tmp_path, "a.aedat4", b"".join(aedat4_file([(0, events)], 1)))
    (packet,) = aedat.Decoder(str(path))
    assert packet["events"].tolist() == [(t, x, y, p) for x, y, t, p in events]


davis_events = st.lists(
    st.tuples(st.integers(0, 345), st.integers(0, 259), st.integers(0, 2**50), st.booleans()),
    max_size=9,
)


@settings(deadline=None, max_examples=60)
@given(
    packets=st.lists(st.tuples(st.sampled_from([0, 0, 1]), davis_events), max_size=8),
    compression=st.sampled_from(sorted(PACK)),
    chunk=st.sampled_from([1, 10, 1 << 20]),
    cut=st.integers(1, 10**6),
)
def test_aedat4_packets(tmp_path_factory, packets, compression, chunk, cut):
    """All events of a stream are read, from any place; a cut at the end costs its packet only."""
    folder = tmp_path_factory.getbasetemp()
    header, *parts = aedat4_file(packets, compression)
    path = write(folder, "p.aedat4", header + b"".join(parts))
    expected = [one for stream, events in packets for one in events if stream == 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aedat4, "CHUNK_EVENTS", chunk)
        recording = recorded(path)
        rows, places = gathered(recording)
        assert (rows, recording.sensor_size, recording.notes) == (expected, (346, 260), [])
        for place in places:
            tail = gathered(recording, place)[0]
            assert tail == expected[len(expected) - len(tail) :]
    if parts:
        stop = cut % len(parts[-1]) or 1
        path = write(folder, "p.aedat4", header + b"".join(parts)[: stop - len(parts[-1])])
        recording = recorded(path)
        whole = [one for stream, events in packets[:-1] for one in events if stream == 0]
        assert gathered(recording)[0] == whole
        assert recording.notes == ([END_MISSING] if stop < len(parts[-1]) else [])


def test_aedat4_streams(tmp_path):
    streams = ((2, "EVTS", 640, 480, "right"), (0, "EVTS", 346, 260, "left"))
    left, right = [(1, 2, 3, True)], [(600, 400, 5, False)] * 2
    path = write(tmp_path, "a.aedat4", b"".join(aedat4_file([(2, right), (0, left)], 1, streams)))
    recording = recorded(path)
    assert (gathered(recording)[0], recording.sensor_size) == (left, (346, 260))
    assert "has 2 streams of events (0 (left), 2 (right)), and 0 was read" in recording.notes[0]
    for stream in ("2", "right"):
        recording = recorded(path, stream=stream)
        assert (gathered(recording)[0], recording.sensor_size) == (right, (640, 480))
    with pytest.raises(InputError, match="no streams 'middle' in the file"):
        recorded(path, stream="middle")
    with pytest.raises(InputError, match="no stream of events"):
        recorded(write(tmp_path, "b.aedat4", b"".join(aedat4_file([], 0, STREAMS[1:]))))


def test_a_closed_aedat4_file_that_was_cut_is_refused(tmp_path):
    header, *parts = aedat4_file([(0, [(1, 2, 3, True)] * 9)] * 3)
    packets = b"".join(parts)
    closed = header.replace(struct.pack("<q", -1), struct.pack("<q", len(header + packets)))
    content = closed + packets + b"the data table"
    assert len(gathered(recorded(write(tmp_path, "a.aedat4", content)))[0]) == 27
    for stop in (len(closed), len(closed) + len(parts[0]), len(closed + packets) - 1):
        path = write(tmp_path, "b.aedat4", content[:stop])
        with pytest.raises(InputError, match="truncated or damaged"):
            read_events(path)


@pytest.mark.parametrize("kind", ["aedat2", "aedat3", "aedat4"])
def test_memory_does_not_grow_with_the_recording(tmp_path, kind):
    events = [(index % 128, index % 100, index, True) for index in range(20_000)]
    if kind == "aedat2":
        words = [(y << 8 | x << 1, t) for x, y, t, _ in events]
        head, part = aedat2_file([], "DVS128"), aedat2_file(words, "DVS128")[-8 * len(words) :]
    elif kind == "aedat3":
        head, part = aedat3.header(), aedat3.polarity(events)
    else:
        head, part = aedat4_file([(0, events)], 1)
    peaks = []
    for repeats in (100, 400):
        path = write(tmp_path, f"a.{kind.replace('2', '').replace('3', '')}", head)
        with path.open("ab") as file:
            for _ in range(repeats):
                file.write(part)
        tracemalloc.start()
        count = sum(len(chunk.t) for chunk in recorded(path).chunks(None))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == repeats * len(events)
    assert peaks[1] < 1.2 * peaks[0]
