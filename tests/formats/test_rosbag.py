"""ROS bags that rosbags wrote give the events that were written, from every place on."""

import sys

import numpy as np
import pytest
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_typestore

from eventdata.errors import InputError, OptionError
from eventdata.formats import rosbag
from eventdata.formats.decoding import DecodeOptions, header_size
from eventdata.formats.recording import read_events, read_recording
from tools.bags import write_bag


def rows(count=100, seed=1):
    rng = np.random.default_rng(seed)
    ns = 1_700_000_000 * 10**9 + np.cumsum(rng.integers(0, 900, count))
    return [
        (int(t // 10**9), int(t % 10**9), int(x), int(y), bool(p))
        for t, x, y, p in zip(
            ns,
            rng.integers(0, 240, count),
            rng.integers(0, 180, count),
            rng.integers(0, 2, count),
            strict=True,
        )
    ]


def columns(recording, place=None):
    chunks = list(recording.chunks(place))
    found = [np.concatenate(c).tolist() for c in zip(*(one[1:] for one in chunks), strict=True)]
    return list(zip(*found, strict=True)), chunks


def expected(written):
    return [(x, y, s * 10**9 + ns, p) for s, ns, x, y, p in written]


@pytest.mark.parametrize("package", ["dvs_msgs", "prophesee_event_msgs"])
@pytest.mark.parametrize(
    "compression", [None, Writer.CompressionFormat.BZ2, Writer.CompressionFormat.LZ4]
)
def test_bags_give_the_events_from_every_place_on(tmp_path, monkeypatch, package, compression):
    path = tmp_path / "a.bag"
    written = rows()
    write_bag(path, {"/dvs/events": written}, package, compression)
    recording = read_recording(path, DecodeOptions())
    assert (recording.sensor_size, recording.time_unit, recording.notes) == ((240, 180), "ns", [])
    assert columns(recording)[0] == expected(written)
    monkeypatch.setattr(rosbag, "CHUNK_EVENTS", 10)
    whole, chunks = columns(recording)
    assert (whole, len(chunks)) == (expected(written), 8)
    before = 0
    for chunk in chunks:
        assert columns(recording, chunk.place)[0] == whole[before:]
        before += len(chunk.x)


def test_a_size_of_zero_is_none(tmp_path, monkeypatch):
    """Some drivers leave it out."""
    write_bag(tmp_path / "a.bag", {"/dvs/events": rows()})
    parse = rosbag.parse_message
    monkeypatch.setattr(rosbag, "parse_message", lambda data: ((0, 0), parse(data)[1]))
    assert read_recording(tmp_path / "a.bag", DecodeOptions()).sensor_size is None
    assert header_size("0", "0") is None
    assert header_size("34", "34") == (34, 34)


def test_times_are_microseconds_and_a_topic_is_chosen(tmp_path):
    path = tmp_path / "a.bag"
    left, right = rows(30, seed=2), rows(40, seed=3)
    write_bag(path, {"/davis/right/events": right, "/davis/left/events": left})
    recording = read_recording(path, DecodeOptions())
    assert columns(recording)[0] == expected(left)
    assert "2 streams of events (davis/left/events, davis/right/events)" in recording.notes[0]
    events, size = read_events(path, stream="right")
    assert size == (240, 180)
    times = [(10**9 * s + ns + 500) // 1000 for s, ns, *_ in right]
    assert np.abs(events["t"] - times).max() <= 1
    with pytest.raises(InputError, match="no stream of events 'middle'"):
        read_events(path, stream="middle")


def test_other_bags_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.bag"
    for content in (b"", b"#ROSBAG V2.0\n", b"nonsense" * 99):
        path.write_bytes(content)
        with pytest.raises(InputError, match="a damaged bag, or one that was not closed"):
            read_events(path)
    store = get_typestore(Stores.ROS1_NOETIC)
    path.unlink()
    with Writer(path) as bag:
        connection = bag.add_connection("/a", "std_msgs/msg/Int8", typestore=store)
        message = store.types["std_msgs/msg/Int8"](data=1)
        bag.write(connection, 5, store.serialize_ros1(message, "std_msgs/msg/Int8"))
    with pytest.raises(InputError, match=r"found: std_msgs/msg/Int8"):
        read_events(path)
    path.unlink()
    write_bag(path, {"/events": rows()}, compression=Writer.CompressionFormat.BZ2)
    with monkeypatch.context() as patch:
        patch.setattr(rosbag, "LARGEST_CHUNK", 100)
        with pytest.raises(InputError, match="unpacks to more than 100 bytes"):
            read_events(path)
    monkeypatch.setitem(sys.modules, "rosbags.rosbag1", None)
    with pytest.raises(OptionError, match=r"pip install 'eventdata\[rosbag\]'"):
        read_events(path)


def test_damaged_bags_are_refused_or_harmless(tmp_path):
    path = tmp_path / "a.bag"
    write_bag(path, {"/events": rows()})
    content = path.read_bytes()
    rng = np.random.default_rng(4)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.choice([1, 8])):
            damaged[place] ^= 1 << rng.integers(0, 8)
        path.write_bytes(damaged[: rng.integers(1, len(content) + 1)])
        try:
            read_events(path)
        except InputError:
            refused += 1
    assert refused > 75
