"""Voxel grids: events with their sign, shared between two steps by linear interpolation in time.

Step b of T is the sum of s * max(0, 1 - |b - u|) over the events of a pixel, where s is 1 for a
positive event and -1 for a negative one, and u is the event's time in frames: 0 at the first tick
and T at the last one. So events of the last frame lose weight towards the end, as in Tonic, whose
grid (T, 1, H, W) this one equals.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.events import Events
from eventdata.kernels.representations.base import (
    BAD_COORDINATE,
    OK,
    Axis,
    Index,
    Representation,
    check_fault,
)


class _Voxel:
    """Sums in float64 two steps at a time, because events come in order."""

    def __init__(self, out: NDArray[Any], axis: Axis) -> None:
        out[:] = 0
        self._out, self._axis, self._events, self._step = out, axis, 0, 0
        self._here, self._next = np.zeros((2, *out.shape[1:3]))

    def add(self, events: Events, start: Index, stop: Index, before: int) -> None:
        first, last = int(start[0]), int(stop[len(self._axis.ends) - 1])
        x, y, p, t = (events[key][first:last] for key in "xypt")
        self._events += len(t)
        place = (t - self._axis.first) / self._axis.length
        step = place.astype(np.int64)
        bounds = [0, *(np.flatnonzero(np.diff(step)) + 1).tolist(), len(t)]
        for begin, end in pairwise(bounds):
            if begin < end:
                self._move(int(step[begin]))
                part = slice(begin, end)
                share = place[part] - step[begin]
                fault, i = _add(x[part], y[part], p[part], share, self._here, self._next)
                check_fault(fault, first + begin + i, events, self._out, before)

    def _move(self, step: int) -> None:
        """Store the sums of the steps before this one."""
        while self._step < step and self._step < len(self._out):
            _store(self._here, self._out[self._step])
            self._here, self._next = self._next, self._here
            self._next[:] = 0
            self._step += 1
            if not self._here.any():  # nothing lies between: skip to the step
                self._step = step

    def finish(self) -> int:
        self._move(len(self._out))
        return self._events


def _store(sums: NDArray[np.float64], plane: NDArray[Any]) -> None:
    limit = float(np.finfo(plane.dtype).max)
    if abs(sums).max(initial=0) > limit:
        y, x = np.unravel_index(abs(sums).argmax(), sums.shape)
        raise InputError(
            f"the events of the pixel x={x}, y={y} add up to {sums[y, x]:,.0f} in one frame, more "
            f"than {plane.dtype} holds ({limit:,.0f}); choose shorter frames"
        )
    plane[..., 0] = sums


@njit(cache=True, nogil=True)
def _add(x: Any, y: Any, p: Any, share: Any, here: Any, following: Any) -> tuple[int, int]:
    height, width = np.uint64(here.shape[0]), np.uint64(here.shape[1])
    for i in range(len(x)):
        column, row = np.uint64(x[i]), np.uint64(y[i])
        if column >= width or row >= height:
            return BAD_COORDINATE, i
        sign = 1.0 if p[i] else -1.0
        here[row, column] += sign * (1.0 - share[i])
        following[row, column] += sign * share[i]
    return OK, 0


def _faults(packed: NDArray[Any], _: int, events: int) -> Iterator[str]:
    total = float(abs(packed).sum(dtype=np.float64))
    if not total <= events * (1 + np.finfo(packed.dtype).eps):  # also if it is not a number
        yield f"frames add up to {total:,.0f}, but event_count is {events:,}"


VOXEL = Representation(
    value="signed sum of the events in the cell, shared between two steps by linear interpolation",
    dtypes=("float16",),
    begin=_Voxel,
    faults=_faults,
    pooling="sum",
    signed=True,
    timed=True,
    overlapping=False,
)
