"""The contract of a decoder of recordings, and the helpers that decoders share."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.events import Events, SensorSize, make_events


@dataclass(frozen=True)
class Recording:
    """The N events of one file as columns (N,), unchecked, and what its header states."""

    x: NDArray[Any]
    y: NDArray[Any]
    t: NDArray[Any]
    p: NDArray[Any]
    sensor_size: SensorSize | None = None  # (W, H); None where the file does not state it

    def events(self, sensor_size: SensorSize | None, *, name: str) -> Events:
        """Return the events checked for a sensor of that size; see ``events.make_events``."""
        return make_events(self.x, self.y, self.t, self.p, sensor_size, name=name)


class Decoder(Protocol):
    """The function ``read`` of a module that is listed in ``recording.DECODERS``.

    Rows count from the top, p is 1 for brighter, t is in microseconds or, as floats, in seconds.
    ``Recording.events`` checks coordinates, polarities and the order of times. Memory is bounded by
    the size of the file, see ``most_events``.

    Raises:
        InputError: the file ends inside an event, or holds something that its format does not
            allow. The message does not repeat the path. A file that was cut between two events, in
            a format that does not state their number, is a shorter recording.
        OptionError: a package for the format is missing.
        OSError: the file cannot be read.
    """

    def __call__(self, path: Path, /) -> Recording: ...


def header_lines(data: bytes, mark: bytes) -> tuple[list[str], int]:
    """Return the text lines at the start of a file that begin with ``mark``, and their length."""
    lines: list[str] = []
    start = 0
    while data.startswith(mark, start) and "% end" not in lines[-1:]:
        stop = data.find(b"\n", start)
        if stop < 0:
            raise InputError("truncated: the file ends inside its header; get it again")
        lines.append(data[start:stop].decode("latin-1").strip())
        start = stop + 1
    return lines, start


def prophesee_header(data: bytes) -> tuple[dict[str, str], int]:
    """Return a header of ``% key value`` lines as a dict, keys in lower case, and its length."""
    lines, start = header_lines(data, b"% ")
    if not lines:
        raise InputError("not a Prophesee file: it does not begin with '% '")
    pairs = (line[2:].partition(" ") for line in lines)
    return {key.lower(): value for key, _, value in pairs}, start


def header_size(width: str | None, height: str | None) -> SensorSize | None:
    """Return (W, H) from two header values where both are numbers, else None."""
    numbers = [int(side) for side in (width, height) if side and re.fullmatch("[0-9]{1,5}", side)]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None


def words(data: bytes, start: int, dtype: str, count: int) -> NDArray[Any]:
    """Return the whole events of ``count`` words each, one at least, from ``start``: (count, N)."""
    size, event = len(data) - start, count * np.dtype(dtype).itemsize
    if size <= 0:
        raise InputError("truncated: the file has no events")
    if size % event:
        raise InputError(f"truncated: {size:,} bytes of events are not a multiple of {event}")
    return np.frombuffer(data, dtype, offset=start).reshape(-1, count).T


def most_events(size: int) -> int:
    """Return a bound on the events in a compressed file of ``size`` bytes; real ones have fewer."""
    return max(1 << 21, 4 * size)


def unwrap(t: NDArray[Any], bits: int) -> NDArray[np.int64]:
    """Return the times of a clock that restarts at 2**bits: it did at a fall by over half of it."""
    times: NDArray[np.int64] = t.astype(np.int64, copy=False)
    turns = np.cumsum(np.diff(times, prepend=times[:1]) < -(1 << bits - 1))
    return times + (turns << bits)
