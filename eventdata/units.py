"""Units of time: conversion to microseconds, and which unit numbers without one are in.

No file states what a bare number means, but an event camera bounds it: recordings last from
milliseconds to a day and have thousands to millions of events a second. Units differ by a factor of
1,000, so that mostly one of them fits.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError

TimeUnit = Literal["s", "ms", "us", "ns"]
UNITS: dict[TimeUnit, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}  # in seconds
NAMES: dict[str, str] = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
}
UNITS_BY_WORD: dict[str, TimeUnit] = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("us", "usec", "µs", "microsecond", "microseconds"), "us"),
    **dict.fromkeys(("ns", "nsec", "nanosecond", "nanoseconds"), "ns"),
}
LATEST = 2**61  # microseconds, or nanoseconds until 2043; sums of two times still fit int64
LONGEST = 86_400.0  # seconds of a recording
FEW = 100  # events; the rate of fewer says nothing
EPOCH = (9.4e8, 4.1e9)  # seconds since 1970: the years 2000 to 2099
COARSEST = 1e-3  # seconds between neighbouring floats of times that are of use
ROUNDED = 1e-5  # seconds between neighbouring floats that users should know of
ASK = "pass --time-unit s, ms, us or ns"


@dataclass(frozen=True, kw_only=True)
class TimeFacts:
    """The facts about a column of times that `infer_unit` reads.

    events: number of times; least, greatest: in the unit of the times; whole: whether all are whole
    numbers; coarse: whether all steps are multiples of 1,000, or of 0.001 where not all are whole;
    grain: distance of neighbouring floats at the greatest time, 0 for integers;
    span: that of all events at the rate of the densest quarter, so that neither a jump of the clock
        counts, nor a few events of an earlier recording.
    """

    events: int
    least: float
    greatest: float
    span: float
    whole: bool
    coarse: bool
    grain: float


def time_facts(t: NDArray[Any]) -> TimeFacts:
    """Return the facts about times (N,) in any order, such as those of a recording's first chunk.

    Raises:
        InputError: these are not numbers, or are out of range, or there are none.
    """
    if t.dtype.kind not in "iubf":
        raise InputError(f"t holds {t.dtype}, not numbers")
    if not len(t):
        raise InputError("no events to derive the unit of time from")
    floats = t.dtype.kind == "f"
    if floats and not np.all(np.abs(_wide(t)) < 2.0**63):
        raise InputError("t has times that are NaN or out of range")
    t = np.sort(t)
    if floats:
        least, greatest = float(t[0]), float(t[-1])
        grain = _grain(t)
        t = _wide(t)
        whole = bool(np.all(t == np.rint(t)))
        passed: NDArray[Any] = t - t[0]
    else:
        least, greatest = int(t[0]), int(t[-1])
        whole, grain = True, 0.0
        passed = t.astype(np.uint64) - t[:1].astype(np.uint64)  # wraps, so that it can't overflow
    span = float(passed[-1])
    if len(t) >= FEW:
        part = len(t) // 4
        span = float(np.min(passed[part:] - passed[:-part])) * (len(t) - 1) / part or span
    if whole:
        coarse = bool(np.all(passed % 1000 == 0))
    else:
        thousands, error = t * 1000, 4000 * grain
        coarse = error < 0.01 and bool(np.all(np.abs(thousands - np.rint(thousands)) <= error))
    return TimeFacts(
        events=len(t),
        least=least,
        greatest=greatest,
        span=span,
        whole=whole,
        coarse=coarse,
        grain=grain,
    )


def _wide(t: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):  # long doubles become infinite
        return t.astype(np.float64)


def _grain(t: NDArray[Any]) -> float:
    """Return the distance of neighbours at the greatest of some floats, float32 in float64 too."""
    largest = np.max(np.abs(t))
    if t.dtype.itemsize > 4 and 2**24 < largest < np.finfo(np.float32).max:
        narrow = t.astype(np.float32)
        if np.array_equal(narrow, t):
            return float(np.spacing(np.max(np.abs(narrow))))
    return float(np.spacing(largest))


def infer_unit(facts: TimeFacts) -> TimeUnit | None:
    """Return the unit that the values of times suggest; None where they suggest none.

    Whole numbers are microseconds and others are seconds, unless that makes an event camera of an
    unusual rate or duration. Then they are in the only other unit that makes a usual one, if there
    is one. Times since 1970 show their unit by their size.
    """
    usual: TimeUnit = "us" if facts.whole else "s"
    if _has_stairs(facts):
        return None
    if facts.least == facts.greatest:
        return usual  # any unit gives the same frames
    since_1970 = [unit for unit in UNITS if _is_epoch(facts, unit)]
    if facts.events < FEW:
        if since_1970 and facts.whole:
            return since_1970[0]
        floats = facts.whole and facts.grain > 0
        return None if floats or not _fits(facts, usual) else usual
    fit = {unit: _fit(facts, unit, usual) for unit in UNITS}
    for unit in since_1970:
        if fit[unit]:
            return unit
    others = [unit for unit in UNITS if unit != usual and fit[unit] == 2]
    finer: TimeUnit = "ns" if facts.whole else "ms"
    if facts.coarse and finer in others:  # the clock of a camera is mostly one of microseconds
        return finer if fit[usual] < 2 and others == [finer] else None
    if fit[usual] == 2 or (fit[usual] == 1 and (not facts.whole or not others)):
        return usual
    slow = not facts.whole and not facts.coarse and facts.events >= 10 * facts.span
    return others[0] if len(others) == 1 and fit[usual] == 0 and not slow else None


def settle_unit(facts: TimeFacts, expected: TimeUnit | None = None) -> TimeUnit:
    """Return the unit of times without one, or ``expected`` where their values allow it.

    Args:
        facts: the facts about the times.
        expected: unit of other recordings that were made alike.

    Raises:
        InputError: the values suggest no unit, or contradict the expected one.
    """
    found = infer_unit(facts)
    if expected is None or found == expected:
        if found is None:
            raise InputError(why_unknown(facts))
        return found
    doubtful = found is None or facts.events >= FEW
    equal = facts.least == facts.greatest
    if not _has_stairs(facts) and (equal or (doubtful and _is_possible(facts, expected))):
        return expected
    if found is None:
        raise InputError(why_unknown(facts))
    raise InputError(
        f"the values of its times suggest {NAMES[found]}, those of the first recording "
        f"{NAMES[expected]}; {ASK}, or convert recordings of other units separately"
    )


def _fit(facts: TimeFacts, unit: TimeUnit, usual: TimeUnit) -> int:
    """Return 2 if a unit makes a usual recording, 1 if it makes a possible one, else 0."""
    seconds = facts.span * UNITS[unit]
    if not _is_possible(facts, unit) or seconds < 1e-4:
        return 0
    rate = facts.events / seconds
    is_usual = 2e3 <= rate <= 2e6 or (2e6 <= rate <= 1e8 and seconds >= 0.02)
    return 2 if is_usual and (unit == usual or seconds >= 0.01) else 1


def _is_possible(facts: TimeFacts, unit: TimeUnit) -> bool:
    """Return whether a unit makes a recording of a possible rate; few events have no rate."""
    seconds = facts.span * UNITS[unit]
    slow = facts.events >= FEW and facts.events < 200 * seconds and seconds > 20
    return _fits(facts, unit) and facts.events <= 1e9 * seconds and not slow


def _fits(facts: TimeFacts, unit: TimeUnit) -> bool:
    """Return whether times in a unit lie in a day, before 2100, at the precision they need."""
    scale = UNITS[unit]
    if unit == "s" and facts.whole:
        return False
    furthest = max(abs(facts.least), abs(facts.greatest))
    return (
        facts.span * scale <= LONGEST
        and furthest * scale <= EPOCH[1]
        and facts.grain * scale <= COARSEST
    )


def _is_epoch(facts: TimeFacts, unit: TimeUnit) -> bool:
    scale = UNITS[unit]
    inside = EPOCH[0] <= facts.least * scale and facts.greatest * scale <= EPOCH[1]
    return inside and _fits(facts, unit)


def _has_stairs(facts: TimeFacts) -> bool:
    """Return whether floats have lost the times: they are equal, or in less than 1,000 steps."""
    lost = facts.grain >= 1 or (not facts.whole and facts.grain > COARSEST)
    return lost and facts.span < 1000 * facts.grain


def why_unknown(facts: TimeFacts) -> str:
    """Return the message for times whose unit `infer_unit` does not know."""
    seconds = _is_long_ago(facts) and facts.grain > COARSEST
    if _has_stairs(facts) or seconds:
        return _lost(facts)
    return (
        f"the unit of the times is unknown: the first {facts.events:,} events span "
        f"{_number(facts.greatest - facts.least)}, which is {_spans(facts)}; {ASK}"
    )


def _lost(facts: TimeFacts) -> str:
    return (
        f"the times, about {facts.greatest:.6g}, are floats in steps of {facts.grain:g}, which is "
        "all the precision of their type; subtract the first time before they become float32, or "
        "save them as float64"
    )


def check_precision(t: NDArray[Any], unit: TimeUnit) -> None:
    """Raise InputError if times in a unit are floats that have lost the milliseconds."""
    if len(t) and t.dtype.kind == "f":
        facts = time_facts(t)
        if facts.grain * UNITS[unit] > COARSEST:
            raise InputError(_lost(facts))


def is_possible(facts: TimeFacts, unit: TimeUnit) -> bool:
    """Return whether a unit gives times of an event camera: up to 2100, at a possible rate."""
    return facts.least == facts.greatest or _is_possible(facts, unit)


def is_documented(facts: TimeFacts, unit: TimeUnit) -> bool:
    """Return whether a unit is the one for such numbers: seconds for fractions, else microseconds.

    Whole numbers that are floats have none.
    """
    return unit == "s" if not facts.whole else unit == "us" and not facts.grain


def describe_unit(facts: TimeFacts, unit: TimeUnit) -> str:
    """Return a remark for users on the unit that was inferred."""
    seconds = (facts.greatest - facts.least) * UNITS[unit]
    rounding = facts.grain * UNITS[unit]
    rounded = f", rounded to {spell_seconds(rounding)}" if rounding >= ROUNDED else ""
    return (
        f"its times are read as {NAMES[unit]}, since no unit is stated: the first {facts.events:,} "
        f"events last {spell_seconds(seconds)}{rounded}; {ASK} if this is wrong"
    )


def describe_doubt(facts: TimeFacts, unit: TimeUnit) -> str:
    """Return a remark for users on a unit that is not `is_possible`."""
    seconds = (facts.greatest - facts.least) * UNITS[unit]
    return (
        f"its first {facts.events:,} events last {spell_seconds(seconds)} in {NAMES[unit]}, as "
        "--time-unit states, unlike those of any event camera; check the unit"
    )


def _is_long_ago(facts: TimeFacts) -> bool:
    return EPOCH[0] <= facts.least and facts.greatest <= EPOCH[1]


def _spans(facts: TimeFacts) -> str:
    span = facts.greatest - facts.least
    spans = [spell_seconds(span * scale) for scale in UNITS.values()]
    return f"{', '.join(spans[:-1])} or {spans[-1]}"


def spell_seconds(seconds: float) -> str:
    """Return a duration in words, such as 49,983 s or 50.0 ms."""
    for unit, scale in UNITS.items():
        if seconds >= 0.9995 * scale or unit == "ns":  # which is 1 in three digits
            break
    return f"{_number(seconds / scale)} {unit}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def to_microseconds(t: NDArray[Any], unit: TimeUnit) -> NDArray[np.int64]:
    """Return times of any numeric type, in a unit, as the nearest microseconds.

    Raises:
        InputError: a time is NaN, or out of the range of 2**61 microseconds.
    """
    if t.dtype.kind not in "iubf":
        raise InputError(f"t holds {t.dtype}, not numbers")
    if t.dtype.kind == "f":
        t = _wide(t)
    scale = {"s": 1_000_000, "ms": 1000}.get(unit, 1)
    limit = LATEST // scale if unit != "ns" else 2**63 - 1000
    if len(t) and not (t.min().item() > -limit and t.max().item() < limit):  # also for NaN
        what = f"times in {NAMES[unit]} that are NaN or out of range"
        raise InputError(f"t has {what}: it runs from {t.min()} to {t.max()}")
    if t.dtype.kind == "f":
        t = np.rint(t * scale)
        scale = 1
    times: NDArray[np.int64] = t.astype(np.int64, copy=False)
    if scale > 1:
        times = times * scale
    return (times + 500) // 1000 if unit == "ns" else times
