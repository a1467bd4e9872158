"""Find exact percentiles of the differences between a clip's frames, and the events beyond them.

Legend: F frames, T = F - 1 steps, K = ceil(T/8) time bytes, M pixels of a frame.

A difference is grey/255 - grey/255 in float64, as published. Differences of as many grey levels
vary in their last bits, so levels do not decide which differences are events. But a sample of the
pixels shows between which levels a percentile lies, and only the differences there are listed.

A fall is the rise from the new frame to the old one. So one function finds both kinds of events.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from eventdata.kernels.packing import U8, count_ones

GREY = np.arange(256) / 255.0
_SAMPLES = ((13, 0.001), (1, 0.0))  # every how many pixels, and the error of its percentiles
_BLOCK = 8192  # pixels that stay in the processor's cache


class Tail(NamedTuple):
    """The rises of a clip beyond a threshold, and those close to it.

    marks: uint8 (K * M and up to 7 zeros), a bit of each step of a pixel, the first step highest.
    still: the marks of the rises of zero, if zero is close.
    places, keys: of the other close rises, the bit and the index in ``values``.
    ordered: the values of the two ranks.
    """

    marks: U8
    still: U8 | None
    places: NDArray[np.int64]
    keys: NDArray[np.int64]
    values: NDArray[np.float64]
    ordered: list[float]

    def beyond(self, threshold: float) -> U8:
        """Return the marks of all rises above the threshold, which is between the two ranks."""
        if self.still is not None and threshold < 0:
            self.marks[:] |= self.still
        _set_bits(self.places, self.keys, self.values > threshold, self.marks)
        return self.marks


def tails(grey: U8, event_ratio: float) -> tuple[float, float, Tail, Tail]:
    """Return the lower and upper percentile, and the falls and rises close to and beyond them.

    The percentiles equal ``numpy.percentile`` (linear) to the last bit. ``event_ratio`` is the
    fraction beyond both, half on either side; ``grey`` is contiguous uint8 (F, M).
    """
    old, new = grey[:-1], grey[1:]
    last = old.size - 1
    low, high = _places(last, event_ratio)
    for every, margin in _SAMPLES:
        levels = _count_levels(grey, every)
        falls = _tail(new, old, (last - _after(low, last), last - int(low)), levels[::-1], margin)
        rises = _tail(old, new, (int(high), _after(high, last)), levels, margin)
        if falls is not None and rises is not None:
            break
    assert falls is not None
    assert rises is not None  # all levels were counted
    lower = _between(low, *(-value for value in reversed(falls.ordered)))
    return lower, _between(high, *rises.ordered), falls, rises


def level_percentiles(grey: U8, event_ratio: float) -> tuple[float, float]:
    """Return the same percentiles of levels / 255, where differences of a level are equal.

    A sample shows which level a percentile has, and counts of all differences correct it.
    """
    sampled = np.cumsum(_count_levels(grey, _SAMPLES[0][0]))
    size = grey[1:].size

    @cache
    def below(level: int) -> int:
        return size - count_ones(mark(grey[:-1], grey[1:], level))

    def value(rank: int) -> float:
        level = int(np.searchsorted(sampled[:-1], rank / size * sampled[-1], side="right")) - 255
        while below(level) > rank:
            level -= 1
        while below(level + 1) <= rank:
            level += 1
        return level / 255

    low, high = (
        _between(place, value(int(place)), value(_after(place, size - 1)))
        for place in _places(size - 1, event_ratio)
    )
    return low, high


def _places(last: int, event_ratio: float) -> tuple[float, float]:
    return last * (50 * event_ratio / 100), last * ((100 - 50 * event_ratio) / 100)


def _after(place: float, last: int) -> int:
    return min(int(place) + 1, last)


def _between(place: float, below: float, above: float) -> float:
    """Interpolate between two neighbours as NumPy does: its two branches round differently."""
    part, gap = place - math.floor(place), above - below
    return below + gap * part if part < 0.5 else above - gap * (1 - part)


def _tail(
    first: U8, second: U8, ranks: tuple[int, int], levels: NDArray[np.int64], margin: float
) -> Tail | None:
    """Return the rises close to two ranks of all rises in ascending order, and beyond them.

    ``levels`` counts a sample of them by level, -255 to 255. Return None if the ranks are not among
    the levels where the sample has them, give or take the share ``margin`` of all.
    """
    sampled = np.cumsum(levels)
    share = sampled[-1] / first.size
    bounds = ranks[0] * share - margin * sampled[-1], ranks[1] * share + margin * sampled[-1]
    low, high = (int(level) - 255 for level in np.searchsorted(sampled, bounds, side="right"))
    high = min(high, 255)
    marks = mark(first, second, high + 1)
    close = mark(first, second, low) ^ marks
    inside = count_ones(close)
    before = first.size - count_ones(marks) - inside
    if ranks[0] < before or ranks[1] >= before + inside:
        return None
    firsts, rises = np.arange(256), np.arange(low, high + 1)[:, None]
    values = (GREY[np.clip(firsts + rises, 0, 255)] - GREY[firsts]).ravel()
    counts = np.zeros(values.size, np.int64)
    still = None
    if low <= 0 <= high:  # often most of a clip, and of no other value than zero
        still = mark(first, second, 0) ^ mark(first, second, 1)
        close ^= still
        counts[-low * 256] = count_ones(still)
    places, keys = _list(first, second, close, low, counts)
    order = np.argsort(values)
    found = np.searchsorted(np.cumsum(counts[order]), np.subtract(ranks, before), side="right")
    return Tail(marks, still, places, keys, values, values[order[found]].tolist())


@njit(cache=True, nogil=True)
def _count_levels(grey: Any, every: int) -> Any:
    """Count the differences new - old of some pixels by level: int64 (511,), from -255."""
    counts = np.zeros(511, np.int64)
    for step in range(len(grey) - 1):
        old, new = grey[step], grey[step + 1]
        for i in range(step % every, len(old), every):
            counts[np.uint64(new[i]) - np.uint64(old[i]) + np.uint64(255)] += 1
    return counts


@njit(cache=True, nogil=True)
def mark(first: Any, second: Any, least: int) -> Any:
    """Return the marks of rises of at least ``least``, -255 to 256."""
    steps, size = first.shape
    octets = (steps + 7) // 8
    marks = np.zeros((octets * size + 7) // 8 * 8, np.uint8)
    negative = least <= 0  # where the second does not fall by 1 - least, it rises by least
    if negative:
        first, second, least = second, first, 1 - least
    for octet in range(octets):
        for start in range(0, size, _BLOCK):
            stop = min(start + _BLOCK, size)
            target = marks[octet * size + start : octet * size + stop]
            for step in range(8 * octet, min(8 * octet + 8, steps)):
                bit, none = np.uint8(128 >> (step % 8)), np.uint8(0)
                hit, miss = (none, bit) if negative else (bit, none)
                _compare(
                    first[step, start:stop], second[step, start:stop], least - 1, hit, miss, target
                )
    return marks


@njit(cache=True, nogil=True)
def _compare(first: Any, second: Any, below: Any, hit: Any, miss: Any, marks: Any) -> None:
    """Set ``hit`` where the second is more than ``below`` higher, ``miss`` elsewhere.

    Without branches, with only unsigned bytes, in a function of its own, the loop is vectorised.
    """
    below = np.uint8(below)
    for i in range(len(first)):
        rise = np.uint8(max(first[i], second[i]) - first[i])
        marks[i] |= hit if rise > below else miss


@njit(cache=True, nogil=True)
def _list(first: Any, second: Any, marks: Any, low: int, counts: Any) -> tuple[Any, Any]:
    """Return the bit of each mark, and its rise over ``low`` times 256 plus its first grey.

    The latter are added to ``counts``.

    The processor could not predict a loop over the bits of each word, so one loop takes all bits.
    """
    count, size = count_ones(marks), first.shape[1]
    places, keys = np.empty(count, np.int64), np.empty(count, np.uint32)
    words = marks.view(np.uint64)
    filled, n = np.empty(len(words) + 1, np.uint32), 0
    for at in range(len(words)):
        filled[n] = at
        n += words[at] != 0
    filled[n] = 0
    turn, octet, end = np.uint64(0), 0, size
    place = filled[turn]
    word = words[place]
    for n in range(count):
        lowest = word & (~word + np.uint64(1))
        bit = _count_bits(lowest - np.uint64(1))
        word ^= lowest
        byte = 8 * np.int64(place) + (bit >> 3)
        while byte >= end:
            octet, end = octet + 1, end + size
        step, pixel = 8 * octet + 7 - (bit & 7), byte - octet * size
        grey = np.int64(first[np.uint64(step), np.uint64(pixel)])
        places[n] = 8 * byte + (bit & 7)
        rise = np.int64(second[np.uint64(step), np.uint64(pixel)]) - grey
        key = np.uint32((rise - low) * 256 + grey)
        keys[n] = key
        counts[key] += 1
        empty = word == 0
        turn += np.uint64(empty)
        place = filled[turn]
        following = words[place]
        word = following if empty else word
    return places, keys


@njit(cache=True, nogil=True)
def _count_bits(word: Any) -> int:
    count = 0
    while word:  # compiled to the processor's bit count
        word &= word - np.uint64(1)
        count += 1
    return count


@njit(cache=True, nogil=True)
def _set_bits(places: Any, keys: Any, wanted: Any, marks: Any) -> None:
    """Set the bits at those places whose keys are wanted."""
    for i in range(len(places)):
        bit = np.uint8(1 << (places[i] & 7))
        marks[places[i] >> 3] |= bit if wanted[keys[i]] else np.uint8(0)


@njit(cache=True, nogil=True)
def interleave(rises: Any, falls: Any, out: Any) -> None:
    """Write the marks of both as packed frames, flat and contiguous."""
    for i in range(len(out) // 2):
        out[2 * i] = rises[i]
        out[2 * i + 1] = falls[i]
