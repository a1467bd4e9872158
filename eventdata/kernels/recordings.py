"""Decode the binary words of recordings into columns of events, in one pass.

Every kernel takes

- ``words``: rows (N,) or (N, K) of unsigned integers, decoded while there is room in the columns
- ``state``: int64 numbers that it carries from one call to the next
- ``unknown``: int64 (16,), to which it adds the words of types that the format does not have
- ``x``, ``y``, ``t``, ``p``: the columns that it fills, at least ``MOST_PER_WORD`` long

and returns how many words it used and how many events it wrote.

The number of events is unsigned, because Numba checks signed indices for negative values, which
takes as long as the decoding itself.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any]
I64 = NDArray[np.int64]
Counts = tuple[int, int]

_ONE = np.uintp(1)
MOST_PER_WORD = 32  # events of one EVT 2.1 word
_FREQUENT = 1 << 0 | 1 << 2 | 1 << 6  # types of EVT 3.0 that make single events
FARTHEST = 65_535  # a larger x of an EVT 3.0 vector, which no sensor has, becomes this
# The product of 2**n and this number has another value in its highest 5 of 32 bits for each n.
_DE_BRUIJN = 0x077CB531
_LOWEST = np.zeros(32, np.int64)
_LOWEST[[(_DE_BRUIJN << n >> 27) & 31 for n in range(32)]] = range(32)


@numba.njit(cache=True, nogil=True, inline="always")
def _unwrapped(value: Any, before: Any, bits: int) -> Any:
    """Return a clock of ``bits`` bits with its turns: it turned if it fell by over half of it.

    ``before`` is the last result, -1 at first.
    """
    if before < 0:
        return value
    fell = value - (before & (1 << bits) - 1) < -(1 << bits - 1)
    return ((before >> bits) + fell << bits) | value


@numba.njit(cache=True, nogil=True)
def _add_turns(t: Any, before: int, bits: int) -> None:
    """Add its turns to a clock of ``bits`` bits in place; see ``_unwrapped``."""
    half = 1 << bits - 1
    turns = 0
    for i in range(1, len(t)):  # vectorised; most chunks have none
        turns += t[i] - t[i - 1] < -half
    if turns or before >> bits > 0 or (len(t) and t[0] - before < -half):
        for i in range(len(t)):
            t[i] = before = _unwrapped(t[i], before, bits)


@numba.njit(cache=True, nogil=True, inline="always")
def _lowest(bits: Any) -> Any:
    """Return the number of the lowest bit that is set, below 32, without a branch."""
    return _LOWEST[((bits & -bits) * _DE_BRUIJN >> 27) & 31]


@numba.njit(cache=True, nogil=True)
def decode_evt2(
    words: Column, state: I64, unknown: I64, x: Column, y: Column, t: Column, p: Column
) -> Counts:
    """Decode words of 32 bits, the highest 4 the type.

    Types 0 and 1 are events off and on: the low 6 bits of the time, 11 of x, 11 of y. Type 8 has
    the higher 28 bits of the time of the events that follow; state is these with their turns, -1 at
    first. Events before them have no time and are skipped.
    """
    high, found = state[0], np.uintp(0)
    for i in range(len(words)):
        word = np.int64(words[i])
        kind = word >> 28
        if kind <= 1:
            x[found] = word >> 11 & 0x7FF
            y[found] = word & 0x7FF
            t[found] = high << 6 | (word >> 22 & 0x3F)
            p[found] = kind
            found += np.uintp(high >= 0)
        elif kind == 8:
            high = _unwrapped(word & 0x0FFF_FFFF, high, 28)
        elif kind != 10 and kind < 14:
            unknown[kind] += 1
    state[0] = high
    return len(words), int(found)


@numba.njit(cache=True, nogil=True)
def decode_evt21(
    words: Column, state: I64, unknown: I64, x: Column, y: Column, t: Column, p: Column
) -> Counts:
    """Decode words of 64 bits, given as halves: (N, 2).

    The upper half is an EVT 2.0 word. For events, x is that of the first of 32 pixels in a row, and
    the lower half has a bit for each that has an event. State is as there, and then the number of
    the upper half, 0 or 1.
    """
    high, upper, found = state[0], np.uintp(state[1]), np.uintp(0)
    last = np.uintp(len(x) - MOST_PER_WORD)  # place for all events of a word
    for i in range(len(words)):
        if found > last:
            state[0] = high
            return i, int(found)
        word = np.int64(words[i, upper])
        kind = word >> 28
        if kind <= 1:
            if high >= 0:
                bits = np.int64(words[i, _ONE - upper])
                column = word >> 11 & 0x7FF
                while bits:
                    x[found] = column + _lowest(bits)
                    y[found] = word & 0x7FF
                    t[found] = high << 6 | (word >> 22 & 0x3F)
                    p[found] = kind
                    found += _ONE
                    bits &= bits - 1
        elif kind == 8:
            high = _unwrapped(word & 0x0FFF_FFFF, high, 28)
        elif kind != 10 and kind < 14:
            unknown[kind] += 1
    state[0] = high
    return len(words), int(found)


@numba.njit(cache=True, nogil=True)
def decode_evt3(
    words: Column, state: I64, unknown: I64, x: Column, y: Column, t: Column, p: Column
) -> Counts:
    """Decode words of 16 bits, the highest 4 the type.

    Types 0, 6 and 8 set y and the low and the high 12 bits of the time; type 3 sets x and p of the
    vectors that follow. Type 2 is an event at x with p; types 4 and 5 are vectors of 12 and of 8
    pixels, one bit each, which advance x. State is the high bits with their turns, the low bits
    with theirs, y, x and p; -1 where not yet set.
    """
    high, row, column, polarity = state[0], state[2], state[3], state[4]
    time, found, used = (high << 12) + state[1], np.uintp(0), len(words)
    last = np.uintp(len(x) - 12)  # place for all events of a word
    ready = np.int64(row >= 0 and high >= 0)
    for i in range(len(words)):
        if found > last:
            used = i
            break
        word = np.int64(words[i])
        kind, value = word >> 12, word & 0xFFF
        # Processors can't predict which of the frequent types comes next, so that they share one
        # branch: the mask of a type has all bits set in words of this type, otherwise none.
        is_row, is_low = -np.int64(kind == 0), -np.int64(kind == 6)
        passed = value - (time & 0xFFF) & is_low
        if _FREQUENT >> kind & ready and passed >= 0:
            x[found] = value & 0x7FF
            y[found] = row
            t[found] = time
            p[found] = value >> 11
            found += np.uintp(kind == 2)
            row += (value & 0x7FF) - row & is_row
            time += passed
        elif kind == 0:
            row, ready = value & 0x7FF, np.int64(high >= 0)
        elif kind == 6:
            if high >= 0:
                # Some writers (expelliarmus) omit high bits, so that the low ones turn.
                time = (high << 12) + _unwrapped(value, time - (high << 12), 12)
        elif kind == 8:
            before = high
            high = _unwrapped(value, high, 12)
            if high != before:  # the low bits belong to another turn
                time = high << 12
            ready = np.int64(row >= 0)
        elif kind == 3:
            column, polarity = value & 0x7FF, value >> 11
        elif kind == 4 or kind == 5:
            bits = value if kind == 4 else value & 0xFF
            if column >= 0:
                if ready:
                    while bits:
                        x[found] = min(column + _lowest(bits), FARTHEST)
                        y[found] = row
                        t[found] = time
                        p[found] = polarity
                        found += _ONE
                        bits &= bits - 1
                column += 12 if kind == 4 else 8
        elif kind == 1 or kind == 9 or 10 < kind < 14:
            unknown[kind] += 1
    state[0], state[1], state[2] = high, time - (high << 12), row
    state[3], state[4] = column, polarity
    return used, int(found)


@numba.njit(cache=True, nogil=True)
def decode_dat(
    words: Column, state: I64, unknown: I64, x: Column, y: Column, t: Column, p: Column
) -> Counts:
    """Decode words of 64 bits: microseconds in the lower half, then x, y and p from the lowest bit.

    State is the last time with its turns, -1 at first, and the version. The version is 1 for x of 9
    bits and y of 8, where an upper half of more than 18 bits is unknown, or 2 for x and y of 14
    bits.
    """
    across, down = (9, 8) if state[1] == 1 else (14, 14)
    last = 18 if state[1] == 1 else 32
    longer = 0
    for i in range(len(words)):
        word = np.int64(words[i] >> np.uint64(32))
        x[i] = word & (1 << across) - 1
        y[i] = word >> across & (1 << down) - 1
        t[i] = words[i] & np.uint64(0xFFFF_FFFF)
        p[i] = word >> across + down
        longer += word >> last != 0
    unknown[0] += longer
    if len(words):
        _add_turns(t[: len(words)], state[0], 32)
        state[0] = t[len(words) - 1]
    return len(words), len(words)


@numba.njit(cache=True, nogil=True)
def decode_aedat2(
    words: Column, state: I64, unknown: I64, x: Column, y: Column, t: Column, p: Column
) -> Counts:
    """Decode rows of address and microseconds (N, 2), with the origin at the lower right.

    State is the last time with its turns, -1 at first; the highest address, above which one is
    unknown; the bits that mark other words than events; lowest bit and number of bits of x and of
    y; the bit for polarity and its value for brighter; and columns and rows of the sensor.
    """
    time, found = state[0], np.uintp(0)
    highest, other, bit, on = state[1], state[2], state[7], state[8]
    across, down = state[3], state[5]
    columns, rows = (1 << state[4]) - 1, (1 << state[6]) - 1
    for i in range(len(words)):
        address = np.int64(words[i, 0])
        time = _unwrapped(np.int64(words[i, 1]), time, 32)
        unknown[0] += address > highest
        if address & other == 0:
            x[found] = state[9] - 1 - (address >> across & columns)
            y[found] = state[10] - 1 - (address >> down & rows)
            t[found] = time
            p[found] = (address >> bit & 1) == on
            found += _ONE
    state[0] = time
    return len(words), int(found)


@numba.njit(cache=True, nogil=True)
def decode_atis(
    words: Column, state: I64, unknown: I64, x: Column, y: Column, t: Column, p: Column
) -> Counts:
    """Decode bytes (N, 5): x, y, then p (1 bit) and microseconds (23 bits), the highest first.

    A row with y = 240 is not an event but advances the clock by 2**13; state is its time.
    """
    clock, found = state[0], np.uintp(0)
    for i in range(len(words)):
        if words[i, 1] == 240:
            clock += 1 << 13
            continue
        high, middle, low = np.int64(words[i, 2]), np.int64(words[i, 3]), np.int64(words[i, 4])
        x[found] = words[i, 0]
        y[found] = words[i, 1]
        t[found] = clock + ((high & 0x7F) << 16 | middle << 8 | low)
        p[found] = high >> 7
        found += _ONE
    state[0] = clock
    return len(words), int(found)


@numba.njit(cache=True, nogil=True)
def decode_event_stream(
    words: Column, state: I64, unknown: I64, x: Column, y: Column, t: Column, p: Column
) -> Counts:
    """Decode bytes (N,) of Event Stream; state is the time.

    An event is a byte with the microseconds since the previous event (7 bits) and p, then x and y
    (16 bits each). In place of the byte, 0xFF adds 127 microseconds and 0xFE is a marker.
    """
    time, found, i = state[0], np.uintp(0), 0
    while i < len(words) and found < np.uintp(len(x)):
        first = np.int64(words[i])
        if first >= 0xFE:
            time += 127 * (first == 0xFF)
            i += 1
            continue
        if i + 5 > len(words):
            break
        time += first >> 1
        x[found] = words[i + 1] | np.int64(words[i + 2]) << 8
        y[found] = words[i + 3] | np.int64(words[i + 4]) << 8
        t[found] = time
        p[found] = first & 1
        found += _ONE
        i += 5
    state[0] = time
    return i, int(found)
