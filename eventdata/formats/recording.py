"""Recordings of event cameras: the common file formats -> checked event arrays.

    .aedat4 .aedat  AEDAT 4.0 (by the package aedat), AEDAT 2.0 of a DVS128      raw.aedat
    .raw            Prophesee's EVT 2.0 and 3.0                                  raw.prophesee
    .dat            Prophesee's DAT, of N-CARS too                               raw.prophesee
    .bin            ATIS, as N-MNIST and N-Caltech101 have it                    here
    .es             Event Stream 2                                               here
    .npz .npy       columns x, y, t, p, or one structured array of these         here
                    (times: whole numbers are microseconds, floats seconds)

Formats of fixed-size words are decoded here and not by the libraries that know them, because those
hang, wrap or stop without a word on a damaged file; tests hold each decoder against one of them.
Rows count from the top and p is true for brighter, whatever the format says. A file that ends
inside an event, or that holds what its format hasn't, is an InputError; one that was cut between
two events, in a format that does not say how many there are, looks like a shorter recording.
"""

import math
import struct
from array import array
from collections.abc import Callable
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError, OptionError
from eventdata.events import Events, SensorSize, check_events, make_events, sensor_of
from eventdata.files.plain import check_plain
from eventdata.formats.aedat4 import read_aedat
from eventdata.formats.decoding import Columns, check_size, most_events
from eventdata.formats.evt import read_dat, read_raw
from eventdata.formats.npz import inflate, list_members, parse_npy_header
from eventdata.jobs.worker import out_of_memory

MAX_PIECES = 1 << 20  # of one recording: more is a damaged time stamp or a wrong unit
UNNAMED = ["arr_0", "arr_1", "arr_2", "arr_3"]  # as NumPy calls them
MAX_EVENT_BYTES = 40  # in an npz: four columns of 64 bits, and their headers


def read_events(
    path: str | PathLike[str], sensor_size: SensorSize | None = None
) -> tuple[Events, SensorSize]:
    """Read one recording.

    Args:
        path: the file; its suffix says the format.
        sensor_size: (W, H); without it what the file says, or, where it says nothing (.bin, .npz,
            .npy, some .dat), the smallest that holds its events. That differs from file to file:
            give the size to put several into one store.

    Returns:
        Events as ``check_events`` returns them, times in microseconds, and the size (W, H).

    Raises:
        InputError: not a whole file of that format, or not a known format.
        OptionError: a package for the format is missing.
        EventDataError: memory ran out.
    """
    path = Path(path)
    x, y, t, p, stated = read_columns(path)
    size = sensor_size or stated
    events = make_events(x, y, t, p, size, name=str(path))
    if size is None and not len(events):
        raise InputError(f"{path}: no events, by which to tell the sensor size; give that")
    return events, size or sensor_of(events)


def read_columns(path: Path) -> Columns:
    """The columns of one recording as its file has them, unchecked; errors as `read_events`."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: not an event file; these end in {', '.join(READERS)}")
    try:
        check_plain(path)
        return reader(path)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except MemoryError:
        raise out_of_memory(str(path)) from None


def cut(events: Events, every: int) -> list[slice]:
    """Cut a recording into samples of ``every`` microseconds, from its first event on.

    Returns one slice of ``events`` a sample, without events where nothing happened. The rest that
    does not fill a sample is left out, but a recording shorter than ``every`` is one sample.

    Raises:
        OptionError: ``every`` is not positive.
        InputError: more than ``MAX_PIECES`` samples.
    """
    if every < 1:
        raise OptionError(f"every is {every}: choose 1 microsecond or more")
    if not len(events):
        return [slice(0, 0)]
    t = np.ascontiguousarray(events["t"])
    span = int(t[-1]) - int(t[0]) + 1
    pieces = max(span // every, 1)
    if pieces > MAX_PIECES:
        raise InputError(f"a recording of {span:,} us makes {pieces:,} samples of {every:,} us")
    edges = t[0] + np.arange(pieces + 1) * min(every, span)
    bounds = np.searchsorted(t, edges).tolist()
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def _read_bin(path: Path) -> Columns:
    """x, y, then polarity (1 bit) and microseconds (23 bits), big-endian.

    An event at y = 240 is no event but moves the clock on by 2**13
    (garrickorchard.com/datasets/n-mnist and its eventvision.py).
    """
    data = path.read_bytes()
    check_size(len(data), 5)
    fields = np.frombuffer(data, np.uint8).reshape(-1, 5).T.astype(np.int32)
    x, y, high, middle, low = fields
    overflow = y == 240
    t = (high & 0x7F) << 16 | middle << 8 | low
    t = t + (np.cumsum(overflow) << 13)
    keep = ~overflow
    return Columns(x[keep], y[keep], t[keep], high[keep] >> 7, None)


def _read_es(path: Path) -> Columns:
    """A byte of microseconds since the event before (7 bits) and polarity, then x and y (16 bits).

    In place of that byte 0xFF adds 127 microseconds and 0xFE is a mark. y counts from the bottom
    (github.com/neuromorphicsystems/event_stream).
    """
    data = path.read_bytes()
    if data[:12] != b"Event Stream" or len(data) < 20:
        raise InputError("not an Event Stream file, or one without its whole header")
    if data[12] != 2 or data[15] != 1:
        raise InputError(f"Event Stream version {data[12]}, type {data[15]}; only DVS of version 2")
    width, height = struct.unpack_from("<HH", data, 16)
    starts, pauses = array("q"), array("q")
    place = 20
    while place < len(data):  # where an event begins is known only from the one before it
        if data[place] < 0xFE:
            starts.append(place)
            place += 5
        else:
            if data[place] == 0xFF:
                pauses.append(place)
            place += 1
    if place > len(data):
        raise InputError("a truncated file: it ends inside an event")
    at, body = np.array(starts, np.int64), np.frombuffer(data, np.uint8)
    paused = 127 * np.searchsorted(np.array(pauses, np.int64), at)
    t = np.cumsum(body[at] >> 1, dtype=np.int64) + paused
    x, y = (body[at + i] | body[at + i + 1].astype(np.int32) << 8 for i in (1, 3))
    return Columns(x, height - 1 - y, t, body[at] & 1, (width, height))


def _read_npz(path: Path) -> Columns:
    data = path.read_bytes()
    members = {name.removesuffix(".npy"): info for name, info in list_members(data).items()}
    # Arrays without names are x, y, t, p; under other names they might be in any order.
    named = [names for names in (list("xytp"), UNNAMED) if set(names) <= members.keys()]
    names = named[0] if named else list(members)
    if not named and len(names) != 1:
        raise InputError(f"no arrays x, y, t, p in it (it has: {', '.join(names) or '-'})")
    declared = sum(members[name].size for name in names)
    most = most_events(len(data))
    if declared > MAX_EVENT_BYTES * most:
        raise InputError(f"its arrays declare {declared:,} bytes, too many for {len(data):,}")
    arrays = [_parse_npy(inflate(data, members[name])) for name in names]
    events = max(map(len, arrays))
    if events > most:
        raise InputError(f"{events:,} events, too many for a file of {len(data):,} bytes")
    if len(arrays) == 1:
        return _columns(arrays[0])
    x, y, t, p = arrays
    return Columns(x, y, t, p, None)


def _read_npy(path: Path) -> Columns:
    return _columns(_parse_npy(path.read_bytes()))


def _columns(events: NDArray[Any]) -> Columns:
    """The columns of one structured array."""
    events = check_events(events, name="the array")
    return Columns(events["x"], events["y"], events["t"], events["p"], None)


def _parse_npy(content: bytes) -> NDArray[Any]:
    """A column or a structured array (N,) out of an npy file; nothing is ever unpickled."""
    shape, _, dtype, start = parse_npy_header(content)
    size = math.prod(shape) * dtype.itemsize
    if len(shape) != 1 or not dtype.itemsize or size != len(content) - start:
        raise InputError(f"an array of shape {shape} that its data don't fit; it must be (N,)")
    return np.frombuffer(content, dtype, offset=start)


READERS: dict[str, Callable[[Path], Columns]] = {
    ".aedat4": read_aedat,
    ".aedat": read_aedat,
    ".raw": read_raw,
    ".dat": read_dat,
    ".bin": _read_bin,
    ".es": _read_es,
    ".npz": _read_npz,
    ".npy": _read_npy,
}
