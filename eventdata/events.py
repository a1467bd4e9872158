"""The event record, and the checks that every event passes before it is framed.

Events are Tonic's structured array: fields ``x`` (column), ``y`` (row, 0 at the top), ``t`` (time)
and ``p`` (true: brighter, "on"), so that Tonic's transforms work on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eventdata.errors import InputError
from eventdata.units import (
    LATEST,
    TimeFacts,
    TimeUnit,
    check_precision,
    infer_unit,
    settle_unit,
    time_facts,
    to_microseconds,
    why_unknown,
)

Events = NDArray[np.void]
SensorSize = tuple[int, int]  # (W, H), columns first, as Tonic writes it
Outside = Literal["fail", "drop"]  # events off the sensor: refuse the recording, or skip them

EVENT_DTYPE = np.dtype([("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", np.bool_)])
_ROW = np.dtype((np.void, EVENT_DTYPE.itemsize))
LARGEST_SIDE = np.iinfo(np.int16).max
ROOM = 1 << 20  # events; memory in small parts is slow the first time it is written to


@dataclass
class EventChecker:
    """The checks that the events of one recording pass, chunk by chunk.

    sensor_size: (W, H) or Tonic's (W, H, P); without it only negative coordinates are off the
        sensor.
    name: of the recording, for messages.
    time_unit: unit of the times; without it the values of the first chunk have to suggest one.
    expected_unit: what they should suggest, where other recordings have a unit.
    outside: what `finish` does about events off the sensor, which `check` always skips.
    """

    sensor_size: tuple[int, ...] | None = None
    name: str = "events"
    time_unit: TimeUnit | None = None
    outside: Outside = "fail"
    expected_unit: TimeUnit | None = None
    events: int = field(default=0, init=False)  # checked so far, also those off the sensor
    skipped: int = field(default=0, init=False)  # events off the sensor
    facts: TimeFacts | None = field(default=None, init=False)  # that suggested the unit
    _first: str = field(default="", init=False)  # of these
    _dark: set[int] = field(default_factory=set, init=False)  # values of p besides 1
    _room: Events = field(default_factory=lambda: np.empty(0, EVENT_DTYPE), init=False)

    def check(self, x: ArrayLike, y: ArrayLike, t: ArrayLike, p: ArrayLike) -> Events:
        """Return columns (N,) of any numeric type as events in their order, times in microseconds.

        Raises:
            InputError: these are not events. Polarities are {0, 1} or {-1, 1} in all chunks.
        """
        columns = self._columns([np.asarray(column) for column in (x, y, t, p)])
        count = len(columns[0])
        if count > len(self._room):  # the first chunk may be the only one
            most = 8 * count if self.events > count else count
            self._room = np.empty(max(count, min(most, ROOM)), EVENT_DTYPE)
        out, self._room = self._room[:count], self._room[count:]
        return _pack(columns, out)

    def finish(self) -> None:
        """Raise InputError if there were events off the sensor, unless they are to be skipped."""
        if not self.skipped or self.outside == "drop":
            return
        verb = "lies" if self.skipped == 1 else "lie"
        sensor = "any sensor"
        if self.sensor_size is not None:
            sensor = "the sensor of {}x{} pixels".format(*self.sensor_size)
        raise InputError(
            f"{self.name}: {self.skipped:,} of {count_events(self.events)} {verb} off {sensor}, "
            f"first: {self._first}; pass the correct --sensor-size, or --outside drop to skip them"
        )

    def _columns(self, columns: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return x, y, t, p as numbers that fit ``EVENT_DTYPE``, without events off the sensor."""
        name = self.name
        x, y, t, p = columns
        if not (x.shape == y.shape == t.shape == p.shape and x.ndim == 1):
            shapes = sorted({column.shape for column in columns})
            raise InputError(f"{name}: x, y, t and p must be columns of one length, not {shapes}")
        width, height = (self.sensor_size or (LARGEST_SIDE, LARGEST_SIDE))[:2]
        if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
            raise InputError(
                f"{name}: a sensor of {width} x {height} pixels is invalid; each side must be 1 to "
                f"{LARGEST_SIDE}"
            )
        x, y = _whole(x, "x", name), _whole(y, "y", name)
        try:
            if self.time_unit is None and len(t):
                self.facts = time_facts(t)
                self.time_unit = settle_unit(self.facts, self.expected_unit)
            elif self.time_unit is not None and not self.events:
                check_precision(t, self.time_unit)
            t = to_microseconds(np.ascontiguousarray(t), self.time_unit or "us")
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        checked = [x, y, t, self._polarities(p)]
        if not (_all_within(x, width) and _all_within(y, height)):
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            first = int(np.argmin(inside))
            self._first = (
                self._first or f"event {self.events + first:,} at x={x[first]}, y={y[first]}"
            )
            self.skipped += len(x) - int(np.count_nonzero(inside))
            checked = [column[inside] for column in checked]
        self.events += len(x)
        return checked

    def _polarities(self, p: NDArray[Any]) -> NDArray[np.bool_]:
        if p.dtype.kind == "b":
            return p
        if p.dtype == np.uint8 and self._dark <= {0} and p.max(initial=0) <= 1:
            if not p.min(initial=1):
                self._dark.add(0)
            return p.view(np.bool_)
        p = _whole(p, "p", self.name)
        on: NDArray[np.bool_] = p == 1
        if not on.all():
            off = next((value for value in (0, -1) if np.all(on | (p == value))), None)
            self._dark |= {off} if off is not None else set(np.unique(p)[:5].tolist())
            if off is None or len(self._dark) > 1:
                values = sorted({*self._dark, *([1] if on.any() else [])})[:5]
                raise InputError(
                    f"{self.name}: p has the values {values}; polarities are 0 and 1, or -1 and 1"
                )
        return on


def check_events(
    events: NDArray[Any],
    sensor_size: tuple[int, ...] | None = None,
    *,
    name: str = "events",
    time_unit: TimeUnit | None = None,
    outside: Outside = "fail",
    sort: bool = True,
) -> Events:
    """Check an event array and convert it to the one form that the rest of the package takes.

    Args:
        events: a structured array (N,) with fields ``x, y, t, p`` in any order and of any numeric
            type; other fields are ignored. Polarities are {0, 1} or {-1, 1}. Events may be in any
            order.
        sensor_size: (W, H) or Tonic's (W, H, P); without it only negative coordinates are refused.
        time_unit: unit of the times, which become microseconds. Without it integer times stay as
            they are, in steps or microseconds; floats are seconds, and are refused where their
            values suggest another unit.
        outside: "fail", or "drop" to skip events off the sensor.
        sort: whether to sort the events by time, those of the same time in their order.

    Returns:
        A contiguous array of ``EVENT_DTYPE``. It is ``events`` itself where nothing had to change;
        that is never written to.

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
    checker = EventChecker(sensor_size, name, time_unit or _unit(events["t"], name), outside)
    columns = checker._columns([events[field] for field in "xytp"])
    checker.finish()
    same = events.dtype == EVENT_DTYPE and events.flags.c_contiguous and not checker.skipped
    if same and checker.time_unit == "us" and (not sort or _ordered(columns[2])):
        return events
    return in_order(_pack(columns)) if sort else _pack(columns)


def make_events(
    x: ArrayLike,
    y: ArrayLike,
    t: ArrayLike,
    p: ArrayLike,
    sensor_size: tuple[int, ...] | None = None,
    *,
    name: str = "events",
    time_unit: TimeUnit | None = None,
    outside: Outside = "fail",
    sort: bool = True,
) -> Events:
    """Return an event array of four columns (N,), with the checks of ``check_events``."""
    unit = time_unit or _unit(np.asarray(t), name)
    checker = EventChecker(sensor_size, name, unit, outside)
    events = checker.check(x, y, t, p)
    checker.finish()
    return in_order(events) if sort else events


def count_events(count: int) -> str:
    """Return a number of events in words."""
    return f"{count:,} event{'s'[: count != 1]}"


def sensor_of(events: Events) -> SensorSize:
    """Return the smallest sensor (W, H) that holds all events; (0, 0) without events."""
    width, height = (int(events[axis].max(initial=-1)) + 1 for axis in "xy")
    return width, height


def join(parts: Sequence[Events]) -> Events:
    """Return arrays of ``EVENT_DTYPE`` one after the other; NumPy would copy field by field."""
    if len(parts) == 1:
        return parts[0]
    rows = [np.ascontiguousarray(part).view(_ROW) for part in parts]
    return np.concatenate([np.empty(0, _ROW), *rows]).view(EVENT_DTYPE)


def _ordered(t: NDArray[Any]) -> bool:
    return not np.any(t[1:] < t[:-1])


def in_order(events: Events) -> Events:
    """Return events sorted by time, those of the same time in their order."""
    t = np.ascontiguousarray(events["t"])
    return events if _ordered(t) else events[np.argsort(t, kind="stable")]


def _pack(columns: Sequence[NDArray[Any]], out: Events | None = None) -> Events:
    events = np.empty(len(columns[2]), EVENT_DTYPE) if out is None else out
    for name, column in zip("xytp", columns, strict=True):
        events[name] = column
    return events


def _unit(t: NDArray[Any], name: str) -> TimeUnit:
    """Return the unit of times without one: seconds for floats; integers keep theirs."""
    if t.dtype.kind != "f" or not t.size or t.ndim != 1:
        return "us"
    try:
        facts = time_facts(t)
        if infer_unit(facts) != "s" and facts.least != facts.greatest:
            raise InputError(f"floats are seconds, but {why_unknown(facts)}")
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return "s"


def _all_within(column: NDArray[Any], side: int) -> bool:
    """Return whether all of some whole numbers (N,) are at least 0 and less than ``side``."""
    if not len(column):
        return True
    return bool(column.max() < side and (column.dtype.kind == "u" or column.min() >= 0))


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
