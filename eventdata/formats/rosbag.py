"""Read ROS 1 bags with messages dvs_msgs/EventArray or prophesee_event_msgs/EventArray.

The package rosbags finds the messages and unpacks them. Their events are rows of fixed size, read
here by NumPy, since a Python object for each event takes a hundred times as long.
"""

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import EventDataError, InputError, OptionError
from eventdata.events import SensorSize
from eventdata.formats.decoding import CHUNK_EVENTS, Chunk, DecodeOptions, Place, Recording
from eventdata.formats.tables import Stream, choose_stream

LARGEST_CHUNK = 1 << 26  # bytes; recorders write chunks of less than 1 MiB
EVENT = np.dtype([("x", "<u2"), ("y", "<u2"), ("s", "<u4"), ("ns", "<u4"), ("p", "u1")])
# The text of both definitions, without comments.
_DEFINITION = re.compile(
    r"\s*(std_msgs/)?Header\s+header\s+uint32\s+height\s+uint32\s+width\s+(\w+/)?Event\[\]\s+events\s"
    r".*MSG:\s*\w+/Event\s+uint16\s+x\s+uint16\s+y\s+time\s+ts\s+bool\s+polarity\s*(=|$)",
    re.DOTALL,
)


def read(path: Path, options: DecodeOptions) -> Recording:
    """Read the messages of one topic; the first by default."""
    try:
        import rosbags.rosbag1  # noqa: F401
    except ImportError:
        raise OptionError("ROS bags need rosbags; run: pip install 'eventdata[rosbag]'") from None
    notes: list[str] = []
    with _open(path) as bag:
        topics: dict[str, Stream] = {
            one.topic.strip("/"): {} for one in bag.connections if _holds_events(one)
        }
        if not topics:
            types = ", ".join(sorted({one.msgtype for one in bag.connections})) or "none"
            raise InputError(
                f"no messages of the types dvs_msgs/EventArray or prophesee_event_msgs/EventArray "
                f"(found: {types}); convert the bag"
            )
        topic = choose_stream(dict(sorted(topics.items())), options.stream, notes)
        first = next(_messages(bag, topic, Place()), None)
        if first is None:
            raise InputError(f"the topic /{topic} has no messages")
        size, _ = parse_message(first[1])

    def chunks(place: Place | None) -> Iterator[Chunk]:
        with _open(path) as bag:
            yield from _chunks(_messages(bag, topic, place or Place()), topic, size)

    return Recording(chunks, size if all(size) else None, "ns", notes)


def parse_message(data: bytes) -> tuple[SensorSize, NDArray[np.void]]:
    """Return the sensor size (W, H) and the events ``EVENT`` (N,) of a message."""
    try:
        (name,) = struct.unpack_from(
            "<I", data, 12
        )  # after the number and the time: a frame's name
        height, width, count = struct.unpack_from("<III", data, 16 + name)
        return (width, height), np.frombuffer(data, EVENT, count, 28 + name)
    except (struct.error, ValueError):
        raise InputError("damaged: a message of events has another length than stated") from None


def _chunks(
    messages: Iterator[tuple[Place, bytes]], topic: str, size: SensorSize
) -> Iterator[Chunk]:
    """Yield the events of messages, about ``CHUNK_EVENTS`` at a time."""
    parts: list[NDArray[np.void]] = []
    start, held = Place(), 0
    for place, data in messages:
        found, events = parse_message(data)
        if found != size:
            raise InputError(f"/{topic} has events of sensors of the sizes {size} and {found}")
        if not parts:
            start = place
        parts.append(events)
        held += len(events)
        if held >= CHUNK_EVENTS:
            yield _chunk(start, parts)
            parts, held = [], 0
    if parts:
        yield _chunk(start, parts)


def _chunk(place: Place, parts: list[NDArray[np.void]]) -> Chunk:
    events = np.concatenate(parts)
    t = events["s"].astype(np.int64) * 10**9 + events["ns"]
    return Chunk(place, events["x"], events["y"], t, events["p"])


def _messages(bag: Any, topic: str, place: Place) -> Iterator[tuple[Place, bytes]]:
    """Yield the messages of a topic in the order of their times from a place on.

    The offset of a place is such a time in nanoseconds, and its state the number of messages of
    that time before it.
    """
    wanted = [
        one for one in bag.connections if one.topic.strip("/") == topic and _holds_events(one)
    ]
    number, before = 0, -1
    for _, time, data in bag.messages(wanted, start=place.offset):
        number, before = (number + 1 if time == before else 0), time
        if (time, number) >= place:
            yield Place(time, number), data


def _holds_events(connection: Any) -> bool:
    """Return whether the messages of a connection are arrays of events, as defined above."""
    text = re.sub("#[^\n]*", "", connection.msgdef.data)
    return connection.msgtype.endswith("/EventArray") and _DEFINITION.match(text) is not None


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a bag in which no chunk unpacks to more than ``LARGEST_CHUNK`` bytes."""
    from rosbags.rosbag1 import Reader
    from rosbags.rosbag1.reader import decompressors

    limited = {decompressors["bz2"]: _bz2, decompressors["lz4"]: _lz4}
    try:
        with Reader(path) as bag:
            for position, chunk in bag.chunks.items():
                unpack = limited.get(chunk.decompressor, chunk.decompressor)
                bag.chunks[position] = chunk._replace(decompressor=unpack)
            yield bag
    except (EventDataError, OSError, MemoryError):
        raise
    except Exception as error:  # rosbags raises errors of many kinds for damaged files
        words = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"a damaged bag, or one that was not closed ({words}); run: rosbag reindex FILE"
        ) from None


def _bz2(data: bytes) -> bytes:
    from bz2 import BZ2Decompressor

    return _limit(BZ2Decompressor(), data)


def _lz4(data: bytes) -> bytes:
    from lz4.frame import LZ4FrameDecompressor

    return _limit(LZ4FrameDecompressor(), data)


def _limit(decompressor: Any, data: bytes) -> bytes:
    """Return what data unpack to; raise InputError if that is too large or cut."""
    unpack: Callable[..., bytes] = decompressor.decompress
    unpacked = unpack(data, max_length=LARGEST_CHUNK)
    if not decompressor.eof:
        raise InputError(f"a chunk is cut or unpacks to more than {LARGEST_CHUNK:,} bytes")
    return unpacked
