"""Units of time: conversion against plain arithmetic, and the inference on usual recordings."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdata.errors import InputError
from eventdata.units import (
    UNITS,
    infer_unit,
    spell_seconds,
    time_facts,
    to_microseconds,
    why_unknown,
)

IN_MICROSECONDS = {"s": 10**6, "ms": 10**3, "us": 1, "ns": Fraction(1, 1000)}


def recording(events, seconds, unit="us", dtype=None, *, start=0.0, clock="us", seed=0):
    """Return random times in a unit, from a clock with the ticks of another one."""
    t = np.sort(np.random.default_rng(seed).random(events)) * seconds
    ticks = np.rint(t / UNITS[clock]).astype(np.int64) + round(start / UNITS[clock])
    factor = Fraction(UNITS[clock]).limit_denominator(10**9) / Fraction(
        UNITS[unit]
    ).limit_denominator(10**9)
    t = ticks * factor.numerator
    if dtype is not None and np.dtype(dtype).kind == "f":
        return (t / factor.denominator).astype(dtype)
    return t // factor.denominator


def inferred(t):
    return infer_unit(time_facts(t))


@given(
    st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=20),
    st.sampled_from(sorted(UNITS)),
    st.sampled_from(["i8", "f8", ">i8"]),
)
def test_conversion_gives_the_nearest_microsecond(values, unit, dtype):
    times = to_microseconds(np.array(values, dtype), unit)
    assert times.dtype == np.int64
    for value, time in zip(values, times.tolist(), strict=True):
        exact = value * IN_MICROSECONDS[unit]
        rounded = abs(exact) * Fraction(dtype == "f8", 2**52)
        assert abs(exact - time) <= Fraction(1, 2) + rounded


@given(st.lists(st.floats(-1e5, 1e5), min_size=1, max_size=20), st.sampled_from(["s", "ms", "us"]))
def test_conversion_of_fractions_gives_the_nearest_microsecond(values, unit):
    times = to_microseconds(np.array(values), unit)
    for value, time in zip(values, times.tolist(), strict=True):
        exact = Fraction(value) * IN_MICROSECONDS[unit]
        assert abs(exact - time) <= Fraction(1, 2) + abs(exact) * Fraction(1, 2**52)


@given(st.lists(st.integers(0, 10**15), max_size=30).map(sorted), st.sampled_from(sorted(UNITS)))
def test_conversion_keeps_the_order(values, unit):
    if unit in ("s", "ms"):
        values = [value // 1000 for value in values]
    assert np.all(np.diff(to_microseconds(np.array(values, np.int64), unit)) >= 0)


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        ([0.0, np.nan], "s"),
        ([0.0, np.inf], "us"),
        ([0.0, 1e13], "s"),
        ([2**61], "us"),
        ([-(2**61)], "us"),
        ([2**61 // 1000], "ms"),
        ([2**61 // 10**6], "s"),
        ([2**63 - 1], "ns"),
        (np.array([2**64 - 1], np.uint64), "ns"),
        (np.array([2**64 - 1], np.uint64), "us"),
    ],
)
def test_times_out_of_range_are_refused(values, unit):
    with pytest.raises(InputError, match="NaN or out of range"):
        to_microseconds(np.asarray(values), unit)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g"])
def test_floats_of_all_types_are_converted(dtype):
    t = np.array([0.25, 0.5, 1], dtype)
    assert to_microseconds(t, "ms").tolist() == [250, 500, 1000]
    assert inferred(t) == "s"
    for largest in (np.finfo(dtype).max, np.inf):
        if float(largest) > 1e20:
            with pytest.raises(InputError, match="NaN or out of range"):
                time_facts(np.array([largest], dtype))


def test_other_types_are_refused():
    for t in (np.array(["1"]), np.array([1j]), np.array([None])):
        with pytest.raises(InputError, match="not numbers"):
            to_microseconds(t, "us")
        with pytest.raises(InputError, match="not numbers"):
            time_facts(t)


EPOCH = 1_700_000_000
RIGHT = {
    "N-MNIST": recording(4_200, 0.3),
    "N-CARS": recording(2_009, 0.1),
    "a gesture": recording(300_000, 6),
    "a minute of a gesture": recording(600_000, 60),
    "a driving scene": recording(1_000_000, 0.1),
    "a quiet scene": recording(60_000, 12),
    "long after the start": recording(10_000, 1, start=40_000),
    "since 1970, in us": recording(10_000, 1, start=EPOCH),
    "unsigned": recording(10_000, 1).astype(np.uint32),
}


@pytest.mark.parametrize("name", RIGHT)
def test_whole_numbers_of_usual_recordings_are_microseconds(name):
    t = RIGHT[name]
    assert inferred(t) == "us"
    assert inferred(np.random.default_rng(0).permutation(t)) == "us"


@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_floats_that_are_whole_microseconds_are_known(dtype):
    assert inferred(recording(6_000, 0.05, "us", dtype)) == "us"
    assert inferred(recording(4_200, 0.3, "us", dtype)) == "us"
    assert inferred(recording(300_000, 6, "us", dtype)) == "us"


@pytest.mark.parametrize(
    ("events", "seconds", "start"),
    [(6_000, 0.05, 0), (3_000, 0.05, 0), (100_000, 1, 3), (50_000, 0.3, 40_000), (9, 1, EPOCH)],
)
@pytest.mark.parametrize("clock", ["us", "ns"])
@pytest.mark.parametrize("dtype", [None, "f8"])
def test_nanoseconds_are_known(events, seconds, start, clock, dtype):
    assert inferred(recording(events, seconds, "ns", dtype, start=start, clock=clock)) == "ns"


@pytest.mark.parametrize("seconds", [0.05, 1, 30])
def test_nanoseconds_of_a_clock_of_microseconds_at_a_million_events_a_second(seconds):
    """Without the multiples of 1,000, these might be a quiet recording in microseconds."""
    t = recording(min(int(1e6 * seconds), 1_000_000), min(seconds, 1), "ns")
    assert inferred(t) == "ns"


@pytest.mark.parametrize("dtype", [None, "f8"])
def test_milliseconds_are_known_or_refused(dtype):
    assert inferred(recording(6_000, 0.05, "ms", dtype, clock="ms")) == "ms"
    assert inferred(recording(100_000, 1, "ms", dtype, clock="ms", start=EPOCH)) == "ms"
    assert inferred(recording(600_000, 6, "ms", dtype, clock="ms")) in ("ms", None)
    assert inferred(recording(60_000, 6, "ms", dtype, clock="ms")) in ("ms", None)


def test_milliseconds_with_decimals_are_known():
    assert inferred(recording(6_000, 0.05, "ms", "f8")) == "ms"
    assert inferred(recording(300_000, 6, "ms", "f8")) == "ms"


@pytest.mark.parametrize(
    ("events", "seconds"),
    [(3_000, 1), (6_000, 0.05), (100_000, 1), (1_000_000, 10), (200, 3), (3, 2)],
)
@pytest.mark.parametrize("start", [0, 5_000, EPOCH])
def test_fractions_are_seconds(events, seconds, start):
    assert inferred(recording(events, seconds, "s", "f8", start=start)) == "s"


def test_float32_seconds():
    assert inferred(recording(10_000, 1, "s", "f4")) == "s"
    assert inferred(recording(10_000, 1, "s", "f4", start=500)) == "s"


@pytest.mark.parametrize("seconds", [0.05, 1, 100, 3_600, 20_000])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("unit", ["s", "ms"])
def test_float32_that_lost_the_times_is_refused_with_the_reason(seconds, wide, unit):
    t = recording(100_000, seconds, unit, "f4", start=EPOCH)
    facts = time_facts(t.astype("f8") if wide else t)
    assert infer_unit(facts) is None
    if unit == "s" or seconds < 10:
        assert "all the precision of their type" in why_unknown(facts)
    assert "\n" not in why_unknown(facts)


@pytest.mark.parametrize("size", [5, 50, 99, 100, 5_000])
def test_equal_times_need_no_unit(size):
    assert inferred(np.full(size, 7)) == "us"
    assert inferred(np.zeros(size)) == "us"
    assert inferred(np.full(size, 0.5)) == "s"


def test_few_events():
    assert inferred(np.array([5, 5, 9])) == "us"
    assert inferred(np.array([0.0, 1.0, 2.0])) is None
    assert inferred(np.array([0, 10**12])) is None  # twelve days
    assert inferred(np.array([0.25])) == "s"


def test_left_over_events_and_jumps_do_not_count():
    stale = np.concatenate([recording(20, 0.01) + 600_000_000, recording(6_000, 1)])
    assert inferred(stale) == "us"
    pause = np.concatenate([recording(6_000, 1), recording(6_000, 1) + 3_600_000_000])
    assert inferred(pause) == "us"


def test_what_might_be_two_units_is_refused_with_the_spans():
    facts = time_facts(recording(6_000, 15))
    assert infer_unit(facts) is None  # 400 events a second, or 15 ms of nanoseconds
    message = why_unknown(facts)
    assert "6,000 events span 1" in message
    assert " s, " in message
    assert message.endswith(" ms; pass --time-unit s, ms, us or ns")


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=300),
    st.sampled_from(["i8", "f8", "f4"]),
)
def test_facts_are_those_of_plain_arithmetic(values, dtype):
    t = np.array(values, dtype)
    if dtype != "i8" and np.any(np.abs(t) >= 2.0**63):
        return
    facts = time_facts(t)
    exact = sorted(map(int, t.tolist()))
    n, part = len(exact), len(exact) // 4
    span = exact[-1] - exact[0]
    if n >= 100:
        densest = min(exact[i + part] - exact[i] for i in range(n - part))
        span = densest * (n - 1) / part or span
    assert (facts.events, facts.least, facts.greatest) == (n, exact[0], exact[-1])
    assert facts.whole
    assert facts.span == pytest.approx(float(span))
    assert infer_unit(facts) in (None, *UNITS)
    assert why_unknown(facts)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (49_983, "49,983 s"),
        (49.98, "50 s"),
        (0.999999, "1 s"),
        (0.9994, "999 ms"),
        (999.7, "1,000 s"),
        (0.0512, "51.2 ms"),
        (3e-6, "3 us"),
        (4e-9, "4 ns"),
        (0, "0 ns"),
    ],
)
def test_durations_are_spelled(seconds, words):
    assert spell_seconds(seconds) == words
