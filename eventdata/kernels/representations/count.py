"""Counts: a cell is its number of events."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from eventdata.events import Events
from eventdata.kernels.representations.base import (
    BAD_COORDINATE,
    BAD_EDGE,
    OK,
    TOO_MANY,
    Axis,
    Index,
    Representation,
    check_fault,
)


class _Count:
    def __init__(self, out: NDArray[Any], _: Axis) -> None:
        out[:] = 0
        self._out, self._events, self._limit = out, 0, np.iinfo(out.dtype).max

    def add(self, events: Events, start: Index, stop: Index, before: int) -> None:
        x, y, p = events["x"], events["y"], events["p"]
        added, fault, i = _scatter(x, y, p, start, stop, self._out, self._limit)
        check_fault(fault, i, events, self._out, before)
        self._events += added

    def finish(self) -> int:
        return self._events


@njit(cache=True, nogil=True)
def _scatter(
    x: Any, y: Any, p: Any, start: Any, stop: Any, out: Any, limit: int
) -> tuple[int, int, int]:
    height, width = np.uint64(out.shape[1]), np.uint64(out.shape[2])
    negative = np.uint64(out.shape[3] - 1)
    total = 0
    for step in range(len(start)):
        if start[step] < 0 or stop[step] > len(x):
            return total, BAD_EDGE, step
        plane = out[step]
        for i in range(start[step], stop[step]):
            column, row = np.uint64(x[i]), np.uint64(y[i])
            if column >= width or row >= height:
                return total, BAD_COORDINATE, i
            channel = np.uint64(0 if p[i] else negative)
            count = plane[row, column, channel]
            if count == limit:
                return total, TOO_MANY, i
            plane[row, column, channel] = count + 1
            total += 1
    return total, OK, 0


def _faults(packed: NDArray[Any], _: int, events: int) -> Iterator[str]:
    held = int(packed.sum(dtype=np.int64))
    if held != events:
        yield f"frames hold {held:,} events, but event_count is {events:,}"


COUNT = Representation(
    value="number of events in the cell",
    dtypes=("uint8", "uint16"),
    begin=_Count,
    faults=_faults,
    pooling="max",
)
