"""What the readers of event files share: what they return, and the habits of binary formats."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.events import SensorSize


class Columns(NamedTuple):
    """Events (N,) as a file has them, and the sensor size where it says one."""

    x: NDArray[Any]
    y: NDArray[Any]
    t: NDArray[Any]
    p: NDArray[Any]
    sensor_size: SensorSize | None


def header_lines(data: bytes, mark: bytes) -> tuple[list[str], int]:
    """The text lines at the head of a file that begin with ``mark``, and where they end."""
    lines: list[str] = []
    start = 0
    while data.startswith(mark, start) and "% end" not in lines[-1:]:
        stop = data.find(b"\n", start)
        if stop < 0:
            raise InputError("a truncated file: it ends inside its header")
        lines.append(data[start:stop].decode("latin-1").strip())
        start = stop + 1
    return lines, start


def check_size(size: int, event: int) -> None:
    """Whether so many bytes are whole events, one at least."""
    if size <= 0:
        raise InputError("a truncated file: it has no events")
    if size % event:
        raise InputError(f"a truncated file: {size:,} bytes are no whole number of {event}")


def most_events(size: int) -> int:
    """How many events a compressed file of so many bytes may hold: a recording has fewer, by far.

    So that its memory is bounded by what lies on the disk.
    """
    return max(1 << 21, 4 * size)


def unwrap(t: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Times of a clock that starts again at 2**bits: a fall by more than half of that is a turn."""
    turns = np.cumsum(np.diff(t, prepend=t[:1]) < -(1 << bits - 1))
    return t + (turns << bits)
