"""Draw events of given probabilities from a counter-based random generator.

Legend: F frames, T = F - 1 steps, K = ceil(T/8) time bytes, M pixels of a frame, P polarities
(0 = positive).

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1,
2, 3. SC 2011). It makes four words of 32 bits from a counter of four words and a key of two.

The draw of pixel m at a step is a number of 40 bits. Its upper byte is byte m mod 16, in
little-endian order, of the words of the counter (m div 16, step, 0, 0). It decides 255 of 256
differences. Only for the others, the lower bits are made: the first word of the counter
(m, step, 1, 0).
"""

import hashlib
import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from eventdata.kernels.differences import mark
from eventdata.kernels.packing import U8

_U = np.uint64
_LOW, _HALF = _U(0xFFFFFFFF), _U(32)
_FACTORS = _U(0xD2511F53), _U(0xCD9E8D57)
_WEYL = _U(0x9E3779B9), _U(0xBB67AE85)
_BLOCK = 8192  # pixels that stay in the processor's cache, a multiple of 16 * _LANES
_LANES = 64


def draw_frames(
    grey: U8,
    bounds: tuple[float, float],
    sigma: float,
    least: float,
    seed: int,
    name: str,
    out: U8,
) -> None:
    """Overwrite ``out`` with the packed event frames (K, M, P), flat and contiguous.

    Args:
        grey: contiguous uint8 (F, M).
        bounds: the means of the thresholds for falls and for rises.
        sigma: their standard deviation.
        least: the difference that events exceed in any case.
        seed, name: the number and the clip that select a random stream.
        out: uint8.
    """
    rises = mark(grey[:-1], grey[1:], 1)
    events = np.zeros_like(rises)
    tops, rests = limits_of(*bounds, sigma, least)
    _draw_events(grey, tops, rests, key_of(seed, name), events)
    _split(events, rises, out)


def key_of(seed: int, name: str) -> NDArray[np.uint64]:
    """Return the two words of the key: the first 64 bits of the SHA-256 of ``"SEED NAME"``."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return np.frombuffer(digest[:8], "<u4").astype(np.uint64)


@njit(cache=True, nogil=True)
def limits_of(lower: float, upper: float, sigma: float, least: float) -> tuple[Any, Any]:
    """Return how many of the 2**40 draws, the smallest, make each level -255 to 255 an event.

    A level is an event if it is beyond ``least`` and beyond a threshold of normal distribution.
    A number is its upper byte (511,) and the rest (511,), which is 2**32 for all draws.
    """
    tops, rests = np.zeros(511, np.uint8), np.zeros(511, np.uint64)
    for level in range(-255, 256):
        change = level / 255
        if abs(change) > least:
            beyond = change - upper if level > 0 else lower - change
            if sigma > 0:
                share = math.erfc(-beyond / sigma / math.sqrt(2)) / 2
            else:
                share = 1.0 if beyond > 0 else 0.0
            number = np.int64(np.rint(share * 2**40))
            top: Any = min(number >> 32, 255)
            tops[level + 255], rests[level + 255] = top, number - (top << 32)
    return tops, rests


@njit(cache=True, nogil=True)
def _draw_events(grey: Any, tops: Any, rests: Any, key: Any, marks: Any) -> None:
    """Set the bits of the events, the first step of a pixel in the highest bit."""
    steps, size = len(grey) - 1, grey.shape[1]
    words, found = np.empty(_BLOCK // 4, np.uint32), np.empty(_BLOCK, np.uint8)
    draws, octets = words.view(np.uint8), found.view(np.uint64)
    for start in range(0, size, _BLOCK):
        count = min(_BLOCK, size - start)
        for step in range(steps):
            bit, first = np.uint8(128 >> (step % 8)), step // 8 * size + start
            target = marks[first : first + count]
            old, new = grey[step, start : start + count], grey[step + 1, start : start + count]
            _draw(start // 16, step, key, words)
            _look_up(old, new, tops, found)
            found[count : count + 7] = 0
            _compare(draws[:count], bit, found, target)
            for octet in range((count + 7) // 8):
                if octets[octet]:
                    for i in range(8 * octet, 8 * octet + 8):
                        if found[i]:
                            rest = rests[np.int64(new[i]) - np.int64(old[i]) + 255]
                            if rest and philox(start + i, step, 1, 0, key)[0] < rest:
                                target[i] |= bit


@njit(cache=True, nogil=True)
def _draw(first: int, step: int, key: Any, words: Any) -> None:
    """Overwrite words with those of the counters from ``first``, four of each.

    Only loops over arrays, a round each, are vectorised.
    """
    a, b, c, d = np.empty((4, _LANES), np.uint32)
    for start in range(0, len(words) // 4, _LANES):
        for i in range(_LANES):
            a[i], b[i], c[i], d[i] = first + start + i, step, 0, 0
        e, f = key
        for _ in range(10):
            for i in range(_LANES):
                a[i], b[i], c[i], d[i] = _round(_U(a[i]), _U(b[i]), _U(c[i]), _U(d[i]), e, f)
            e, f = (e + _WEYL[0]) & _LOW, (f + _WEYL[1]) & _LOW
        target = words[4 * start : 4 * (start + _LANES)]
        for i in range(_LANES):
            target[4 * i], target[4 * i + 1] = a[i], b[i]
            target[4 * i + 2], target[4 * i + 3] = c[i], d[i]


@njit(cache=True, nogil=True)
def philox(a: Any, b: Any, c: Any, d: Any, key: Any) -> tuple[Any, Any, Any, Any]:
    """Return the four words of a counter, words of 32 bits as uint64."""
    a, b, c, d = _U(a), _U(b), _U(c), _U(d)
    e, f = key
    for _ in range(10):
        a, b, c, d = _round(a, b, c, d, e, f)
        e, f = (e + _WEYL[0]) & _LOW, (f + _WEYL[1]) & _LOW
    return a, b, c, d


@njit(cache=True, nogil=True)
def _round(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> tuple[Any, Any, Any, Any]:
    left, right = a * _FACTORS[0], c * _FACTORS[1]
    return (right >> _HALF) ^ b ^ e, right & _LOW, (left >> _HALF) ^ d ^ f, left & _LOW


@njit(cache=True, nogil=True)
def _look_up(old: Any, new: Any, tops: Any, found: Any) -> None:
    for i in range(len(old)):
        found[i] = tops[_U(new[i]) - _U(old[i]) + _U(255)]


@njit(cache=True, nogil=True)
def _compare(draws: Any, bit: Any, found: Any, marks: Any) -> None:
    """Set the bit of draws below their limits; replace a limit by whether the draw equals it."""
    for i in range(len(draws)):
        marks[i] |= bit if draws[i] < found[i] else np.uint8(0)
        found[i] = draws[i] == found[i]


@njit(cache=True, nogil=True)
def _split(events: Any, rises: Any, out: Any) -> None:
    """Write the marks of events as packed frames, by those of rises."""
    for i in range(len(out) // 2):
        out[2 * i] = events[i] & rises[i]
        out[2 * i + 1] = events[i] & ~rises[i]
