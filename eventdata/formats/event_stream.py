"""Read Event Stream files, version 2 (github.com/neuromorphicsystems/event_stream)."""

import struct
from array import array
from pathlib import Path

import numpy as np

from eventdata.errors import InputError
from eventdata.formats.decoding import DecodeOptions, Recording


def read(path: Path, options: DecodeOptions) -> Recording:
    """Read events of a byte, then x and y (16 bits each).

    The byte holds the microseconds since the previous event (7 bits) and the polarity. In its
    place, 0xFF adds 127 microseconds and 0xFE is a marker. y counts from the bottom.
    """
    data = path.read_bytes()
    if data[:12] != b"Event Stream" or len(data) < 20:
        raise InputError("not an Event Stream file, or truncated inside its header")
    if data[12] != 2 or data[15] != 1:
        kind = f"version {data[12]}, type {data[15]}"
        raise InputError(f"Event Stream {kind} is not supported, only version 2, type 1 (DVS)")
    width, height = struct.unpack_from("<HH", data, 16)
    starts, pauses = array("q"), array("q")
    place = 20
    while place < len(data):  # only the previous event shows where an event begins
        if data[place] < 0xFE:
            starts.append(place)
            place += 5
        else:
            if data[place] == 0xFF:
                pauses.append(place)
            place += 1
    if place > len(data):
        raise InputError("truncated: the file ends inside an event; get it again")
    at, body = np.array(starts, np.int64), np.frombuffer(data, np.uint8)
    paused = 127 * np.searchsorted(np.array(pauses, np.int64), at)
    t = np.cumsum(body[at] >> 1, dtype=np.int64) + paused
    x, y = (body[at + i] | body[at + i + 1].astype(np.int32) << 8 for i in (1, 3))
    return Recording.whole(x, height - 1 - y, t, body[at] & 1, (width, height))
