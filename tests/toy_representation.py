"""A representation for the tests: whether a cell's last event is positive (1) or negative (-1)."""

import numpy as np

from eventdata.kernels.representations import Representation


class _Last:
    def __init__(self, out, _):
        out[:] = 0
        self._out, self._events = out, 0

    def add(self, events, start, stop, _):
        for step, (begin, end) in enumerate(zip(start, stop, strict=True)):
            for x, y, p in events[["x", "y", "p"]][begin:end].tolist():
                self._out[step, y, x, 0] = 1 if p else -1
                self._events += 1

    def finish(self):
        return self._events


def _faults(packed, steps, events):
    if not np.isin(packed, (-1, 0, 1)).all():
        yield "values other than -1, 0 and 1"
    if np.count_nonzero(packed) > events:
        yield f"more than {events:,} cells are set"


LAST = Representation(
    value="1 or -1, the sign of the last event",
    dtypes=("float16",),
    begin=_Last,
    faults=_faults,
    pooling="max",
    signed=True,
)
