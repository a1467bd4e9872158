"""Binary frames: a cell is 1 if it has events. Eight steps are packed into a byte."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from eventdata.events import Events
from eventdata.kernels.packing import count_ones, pad_bits_set
from eventdata.kernels.representations.base import (
    BAD_COORDINATE,
    BAD_EDGE,
    OK,
    Axis,
    Index,
    Representation,
    check_fault,
)


class _Binary:
    def __init__(self, out: NDArray[Any], _: Axis) -> None:
        out[:] = 0
        self._out, self._cells = out, 0

    def add(self, events: Events, start: Index, stop: Index, before: int) -> None:
        x, y, p = events["x"], events["y"], events["p"]
        cells, fault, i = _scatter(x, y, p, start, stop, self._out)
        check_fault(fault, i, events, self._out, before)
        self._cells += cells

    def finish(self) -> int:
        return self._cells


@njit(cache=True, nogil=True)
def _scatter(x: Any, y: Any, p: Any, start: Any, stop: Any, out: Any) -> tuple[int, int, int]:
    # With unsigned indices one comparison also finds negative ones, and Numba need not wrap.
    height, width = np.uint64(out.shape[1]), np.uint64(out.shape[2])
    negative = np.uint64(out.shape[3] - 1)
    total = 0
    for step in range(len(start)):
        if start[step] < 0 or stop[step] > len(x):
            return total, BAD_EDGE, step
        plane = out[step // 8]
        shift = np.uint8(7 - step % 8)
        bit = np.uint8(1 << shift)
        for i in range(start[step], stop[step]):
            column, row = np.uint64(x[i]), np.uint64(y[i])
            if column >= width or row >= height:
                return total, BAD_COORDINATE, i
            channel = np.uint64(0 if p[i] else negative)
            byte = plane[row, column, channel]
            total += 1 - ((byte >> shift) & 1)
            plane[row, column, channel] = byte | bit
    return total, OK, 0


def _faults(packed: NDArray[Any], steps: int, events: int) -> Iterator[str]:
    held = int(count_ones(packed))
    if held != events:
        yield f"frames hold {held:,} events, but event_count is {events:,}"
    if pad_bits_set(packed, steps):
        yield f"bits after the last step ({steps}) are set"


BINARY = Representation(
    value="1 if the cell has events, else 0",
    dtypes=("uint8",),
    begin=_Binary,
    faults=_faults,
    pooling="or",
    steps_per_plane=8,
)
