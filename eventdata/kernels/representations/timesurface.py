"""Time surfaces: exp(-(e - t) / tau), where e is the end of the frame, t the cell's last event.

The memory of last events lasts from frame to frame; a cell without an event so far is 0. Values
lie between 0 and 1. Frames equal Tonic's time surfaces (Lagorce et al. 2016, over the whole
sensor), except where these are wrong; the tests name each case.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from eventdata.events import Events
from eventdata.kernels.representations.base import (
    BAD_COORDINATE,
    OK,
    Axis,
    Index,
    Representation,
    check_fault,
)

_NEVER = np.iinfo(np.int64).min


class _TimeSurface:
    """Keeps the last time of each cell, and draws a frame once its events are complete."""

    def __init__(self, out: NDArray[Any], axis: Axis) -> None:
        out[:] = 0  # padding stays so
        self._out, self._axis, self._events, self._step = out, axis, 0, 0
        self._last = np.full(out.shape[1:], _NEVER, np.int64)

    def add(self, events: Events, start: Index, stop: Index, before: int) -> None:
        done = int(start[0])
        while self._step < len(self._axis.ends):
            end = int(stop[self._step])
            part = slice(done, end)
            x, y, p, t = (events[key][part] for key in "xypt")
            fault, i = _remember(x, y, p, t, self._last)
            check_fault(fault, done + i, events, self._out, before)
            self._events += len(t)
            done = max(done, end)
            if end == len(events):
                break  # the next chunk may have more events of this frame
            self._draw()

    def _draw(self) -> None:
        surface = np.zeros(self._last.shape, np.float32)
        _decay(self._last, self._axis.ends[self._step], self._axis.tau, surface)
        self._out[self._step] = surface
        self._step += 1

    def finish(self) -> int:
        while self._step < len(self._axis.ends):
            self._draw()
        return self._events


@njit(cache=True, nogil=True)
def _remember(x: Any, y: Any, p: Any, t: Any, last: Any) -> tuple[int, int]:
    height, width = np.uint64(last.shape[0]), np.uint64(last.shape[1])
    negative = np.uint64(last.shape[2] - 1)
    for i in range(len(x)):
        column, row = np.uint64(x[i]), np.uint64(y[i])
        if column >= width or row >= height:
            return BAD_COORDINATE, i
        last[row, column, np.uint64(0 if p[i] else negative)] = t[i]
    return OK, 0


@njit(cache=True, nogil=True)
def _decay(last: Any, end: int, tau: float, surface: Any) -> None:
    times, values = last.reshape(-1), surface.reshape(-1)
    for i in range(len(times)):
        if times[i] != _NEVER:
            values[i] = np.exp(-(end - times[i]) / tau)


def _faults(packed: NDArray[Any], _: int, events: int) -> Iterator[str]:
    lowest, highest = packed.min(), packed.max()
    if not (lowest >= 0 and highest <= 1):  # also if one is not a number
        yield f"values of a time surface from {lowest} to {highest}, not 0 to 1"
    elif highest and not events:
        yield "frames hold events, but event_count is 0"


TIMESURFACE = Representation(
    value="exponential decay with --tau since the cell's last event, 0 without one",
    dtypes=("float16",),
    begin=_TimeSurface,
    faults=_faults,
    pooling="max",
    timed=True,
)
