"""The event record, and the checks that every event passes before it is framed.

Events are Tonic's structured array: fields ``x`` (column), ``y`` (row, 0 at the top), ``t`` (time)
and ``p`` (true: brighter, "on"), so that Tonic's transforms work on them.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eventdata.errors import InputError, OptionError

Events = NDArray[np.void]
SensorSize = tuple[int, int]  # (W, H), columns first, as Tonic writes it

EVENT_DTYPE = np.dtype([("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", np.bool_)])
LARGEST_SIDE = np.iinfo(np.int16).max
LONGEST = 86_400.0  # seconds of a recording: a longer one is in another unit
LATEST = 2**61  # microseconds, or nanoseconds until 2043; sums of two times still fit int64
MAX_PIECES = 1 << 20  # of one recording: more means a damaged time stamp or a wrong unit


def check_events(
    events: NDArray[Any], sensor_size: tuple[int, ...] | None = None, *, name: str = "events"
) -> Events:
    """Check an event array and convert it to the one form that the rest of the package takes.

    Args:
        events: a structured array (N,) with fields ``x, y, t, p`` in any order and of any numeric
            type; other fields are ignored. Integer times keep their unit (steps, microseconds);
            floats are seconds, a day at most, and become microseconds. Polarities are {0, 1} or
            {-1, 1}. Events may be in any order.
        sensor_size: (W, H) or Tonic's (W, H, P); without it only negative coordinates are refused.

    Returns:
        A contiguous array of ``EVENT_DTYPE``, sorted by time, events of the same time in their
        order. It is ``events`` itself where nothing had to change; that is never written to.

    Raises:
        InputError: these are not events of that sensor.
    """
    events = np.asarray(events)
    if events.dtype.names is None or events.ndim != 1:
        raise InputError(
            f"{name}: not an event array but {events.dtype} of shape {events.shape}; "
            "pass a structured array (N,) with the fields x, y, t, p"
        )
    missing = [field for field in "xytp" if field not in events.dtype.names]
    if missing:
        raise InputError(f"{name}: no field {', '.join(missing)} in {events.dtype.names}; add it")
    columns = _check_columns([events[field] for field in "xytp"], sensor_size, name)
    whole = events.dtype == EVENT_DTYPE and events.flags.c_contiguous and _ordered(columns[2])
    return events if whole else _pack(columns)


def make_events(
    x: ArrayLike,
    y: ArrayLike,
    t: ArrayLike,
    p: ArrayLike,
    sensor_size: tuple[int, ...] | None = None,
    *,
    name: str = "events",
) -> Events:
    """Return an event array of four columns (N,), with the checks of ``check_events``."""
    columns = [np.asarray(column) for column in (x, y, t, p)]
    return _pack(_check_columns(columns, sensor_size, name))


def sensor_of(events: Events) -> SensorSize:
    """Return the smallest sensor (W, H) that holds all events; (0, 0) without events."""
    width, height = (int(events[axis].max(initial=-1)) + 1 for axis in "xy")
    return width, height


def cut(events: Events, every: int) -> list[slice]:
    """Return the slices of a recording for samples of ``every`` microseconds from its first event.

    The rest that does not fill a sample is skipped, but a shorter recording is one sample.

    Raises:
        OptionError: ``every`` is not positive.
        InputError: there would be more than ``MAX_PIECES`` samples.
    """
    if every < 1:
        raise OptionError(f"every must be at least 1 microsecond, not {every}")
    if not len(events):
        return [slice(0, 0)]
    t = np.ascontiguousarray(events["t"])
    span = int(t[-1]) - int(t[0]) + 1
    pieces = max(span // every, 1)
    if pieces > MAX_PIECES:
        raise InputError(
            f"a recording of {span:,} us makes {pieces:,} samples of {every:,} us, more than "
            f"{MAX_PIECES:,}; check its times and their unit, or choose longer samples"
        )
    edges = t[0] + np.arange(pieces + 1) * min(every, span)
    return [slice(start, stop) for start, stop in pairwise(np.searchsorted(t, edges).tolist())]


def _ordered(t: NDArray[Any]) -> bool:
    return not np.any(t[1:] < t[:-1])


def _pack(columns: Sequence[NDArray[Any]]) -> Events:
    """Return checked columns as an event array, sorted by time."""
    t = columns[2]
    events = np.empty(len(t), EVENT_DTYPE)
    for field, column in zip("xytp", columns, strict=True):
        events[field] = column
    return events if _ordered(t) else events[np.argsort(t, kind="stable")]


def _check_columns(
    columns: Sequence[NDArray[Any]], sensor_size: tuple[int, ...] | None, name: str
) -> list[NDArray[Any]]:
    """Return the columns x, y, t, p as numbers that fit ``EVENT_DTYPE``."""
    shapes = sorted({column.shape for column in columns})
    if len(shapes) > 1 or len(shapes[0]) != 1:
        raise InputError(f"{name}: x, y, t and p must be columns of one length, not {shapes}")
    x, y, t, p = columns
    width, height = (sensor_size or (LARGEST_SIDE, LARGEST_SIDE))[:2]
    sensor = f"a sensor of {width} x {height} pixels"
    if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
        raise InputError(f"{name}: {sensor} is invalid; each side must be 1 to {LARGEST_SIDE}")
    x, y = _whole(x, "x", name), _whole(y, "y", name)
    for axis, column, side in (("x", x, width), ("y", y, height)):
        if len(column) and not (column.min() >= 0 and column.max() < side):
            span = f"{axis} runs from {column.min()} to {column.max()}"
            raise InputError(f"{name}: {span} on {sensor}; pass the correct sensor size")
    return [x, y, _times(t, name), _polarities(p, name)]


def _whole(column: NDArray[Any], field: str, name: str) -> NDArray[Any]:
    """Return a column of whole numbers, contiguous for vectorised checks, floats as int64."""
    if column.dtype.kind in "iub":
        return np.ascontiguousarray(column)
    if column.dtype.kind != "f":
        raise InputError(f"{name}: {field} holds {column.dtype}, not numbers")
    column = column.astype(np.float64)
    if not np.all((np.abs(column) < LATEST) & (column == np.rint(column))):  # also False for NaN
        raise InputError(f"{name}: {field} has values that are not whole numbers")
    return column.astype(np.int64)


def _times(t: NDArray[Any], name: str) -> NDArray[np.int64]:
    if t.dtype.kind == "f":
        seconds = t.astype(np.float64)
        if not np.all(np.abs(seconds) < LATEST / 1e6):  # also False for NaN
            raise InputError(f"{name}: t has times in seconds that are NaN or out of range")
        if len(t) and (span := np.ptp(seconds)) > LONGEST:
            floats = "floats are seconds; pass microseconds as whole numbers"
            raise InputError(f"{name}: t spans {span:,.0f} s, more than a day; {floats}")
        t = np.rint(seconds * 1e6)
    t = _whole(t, "t", name)
    if len(t) and not (t.min() > -LATEST and t.max() < LATEST):
        raise InputError(f"{name}: t runs from {t.min()} to {t.max()}, out of range")
    return t.astype(np.int64, copy=False)


def _polarities(p: NDArray[Any], name: str) -> NDArray[np.bool_]:
    if p.dtype.kind == "b":
        return p
    p = _whole(p, "p", name)
    on: NDArray[np.bool_] = p == 1
    if not (np.all(on | (p == 0)) or np.all(on | (p == -1))):
        values = np.unique(p)[:5].tolist()
        raise InputError(f"{name}: p has the values {values}; polarities are 0 and 1, or -1 and 1")
    return on
