"""Find the events of a recording at which its clock falls or jumps forward.

A run is a range of consecutive events without a fall or jump inside it:

    time        . .  wrong times              . . . . .
                                      . . . .           jump: more than ``gap``
        . . . .       . . . . . . . .
    . .                               fall: more than ``disorder``

A fall is an event that is earlier than the latest one before it in its run by more than
``disorder``; smaller differences are the local disorder of a sensor's readout. A jump is a gap of
more than ``gap``, or of more than ``disorder`` within ``NEAR`` events before or after a fall, where
the clock returns to its time before: then the events between had wrong times.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

MAX_RUNS = 1 << 10
NEAR = 1000  # events; more of them in a row are another clock, not wrong times

Index = NDArray[np.int64]

# Places in the state of the kernel.
_COUNT, _TOP, _LOW, _START, _FALLEN, _GAP, _BEFORE, _LOW_BEFORE, _LOW_SINCE = range(9)
_LATE, _LATENESS, _LATEST, _WIDEST, _RUNS, _FALLS, _FULL = range(9, 16)


class Runs(NamedTuple):
    """The runs of a recording (R,), and its local disorder."""

    start: Index  # number of the first event
    stop: Index
    low: Index  # least time
    top: Index  # greatest time
    falls: int
    late: int  # events that are earlier than one before them in their run
    lateness: int  # the greatest difference of such an event
    latest: int  # its number
    widest: int  # the greatest gap, also between runs
    full: int  # 1 if there are more than ``MAX_RUNS``, so that the rest is missing


class RunFinder:
    """The search for runs, chunk by chunk; ``disorder`` and ``gap`` are in ticks."""

    def __init__(self, disorder: int, gap: int) -> None:
        self._limits = disorder, gap
        self._state = np.zeros(16, np.int64)
        self._runs = np.empty((MAX_RUNS + 1, 4), np.int64)

    @property
    def top(self) -> int:
        """Return the greatest time so far of the present run."""
        return int(self._state[_TOP])

    def add(self, t: Index) -> None:
        """Add the times of the next events (N,)."""
        if len(t):
            _find_runs(t, *self._limits, self._state, self._runs)

    def finish(self) -> Runs:
        """Return all runs, at least one if there were events."""
        state: list[int] = self._state.tolist()
        found = state[_RUNS]
        self._runs[found] = state[_START], state[_COUNT], state[_LOW], state[_TOP]
        columns = self._runs[: found + (state[_COUNT] > 0)].T.copy()
        return Runs(
            *columns, *(state[i] for i in (_FALLS, _LATE, _LATENESS, _LATEST, _WIDEST, _FULL))
        )


@njit(cache=True, nogil=True)
def first_at(t: Any, time: int) -> int:
    """Return the index of the first of some ordered times that is not before ``time``."""
    return int(np.searchsorted(t, time))


@njit(cache=True, nogil=True)
def _find_runs(t: Any, disorder: int, gap: int, state: Any, runs: Any) -> None:
    before = state[_COUNT]
    if before == 0:
        state[_TOP] = state[_LOW] = t[0]
        state[_FALLEN] = state[_GAP] = -NEAR - 1
    top, low, low_since = state[_TOP], state[_LOW], state[_LOW_SINCE]
    widest = state[_WIDEST]
    for i in range(len(t)):
        now = t[i]
        late = top - now
        if late <= 0:
            widest = max(widest, -late)
            if -late > disorder:
                number = before + i
                if -late > gap or number - state[_FALLEN] <= NEAR:
                    _end_run(state, runs, number, low, top)
                    low = now
                    state[_GAP] = -NEAR - 1
                else:
                    state[_GAP], state[_BEFORE], state[_LOW_BEFORE] = number, top, low
                    low_since = now
            top = now
        elif late <= disorder:
            state[_LATE] += 1
            if late > state[_LATENESS]:
                state[_LATENESS], state[_LATEST] = late, before + i
            low, low_since = min(low, now), min(low_since, now)
        else:
            number = before + i
            if number - state[_GAP] <= NEAR and now >= state[_BEFORE] - disorder:
                _end_run(state, runs, state[_GAP], state[_LOW_BEFORE], state[_BEFORE])
                low = low_since
            _end_run(state, runs, number, low, top)
            state[_FALLS] += 1
            state[_FALLEN], state[_GAP] = number, -NEAR - 1
            top = low = now
    state[_COUNT], state[_WIDEST] = before + len(t), widest
    state[_TOP], state[_LOW], state[_LOW_SINCE] = top, low, low_since


@njit(cache=True)
def _end_run(state: Any, runs: Any, number: int, low: int, top: int) -> None:
    found = state[_RUNS]
    if found == MAX_RUNS:
        state[_FULL] = 1
    else:
        runs[found] = np.array((state[_START], number, low, top))
        state[_RUNS], state[_START] = found + 1, number
