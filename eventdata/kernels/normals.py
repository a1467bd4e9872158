"""Draw the numbers of NumPy's ``default_rng(...).standard_normal()``, several times as fast.

NumPy draws one number after the other: PCG64 steps a state of 128 bits and makes 64 random bits of
it, and the ziggurat method turns most of these into a number at once. Here, a number of lanes step
``LANES`` states ahead, and the ziggurat works on a block, so that both loops are vectorised.
"""

from typing import Any

import numpy as np
from numba import njit
from numba.np.random._constants import (
    fi_double,
    ki_double,
    wi_double,
    ziggurat_nor_inv_r,
    ziggurat_nor_r,
)

LANES = 64
BLOCK = 4096  # random words in the buffer
_MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645  # of PCG64
_U = np.uint64
_LOW = _U(0xFFFFFFFF)


class Normals:
    """A stream of the same numbers as ``rng.standard_normal()`` gives next."""

    def __init__(self, rng: np.random.Generator) -> None:
        pcg = rng.bit_generator.state["state"]
        state, increment = pcg["state"], pcg["inc"]
        lanes, factor, shift = [], 1, 0
        for _ in range(LANES):
            state = _step(state, increment)
            lanes.append(state)
            factor, shift = factor * _MULTIPLIER % 2**128, _step(shift, increment)
        self._lanes, self._jump = _halves(lanes), _halves([factor, shift])
        self._words = np.empty(BLOCK, np.uint64)
        self._span = np.zeros(2, np.int64)  # first and end of the words not used yet

    def fill(self, out: Any) -> None:
        """Overwrite ``out``, contiguous float64, with the next numbers."""
        _fill(self._lanes, self._jump, self._words, self._span, out)


def _step(state: int, increment: int) -> int:
    return (state * _MULTIPLIER + increment) % 2**128


def _halves(numbers: list[int]) -> Any:
    """Return the upper and the lower 64 bits of numbers: uint64 (2, n)."""
    return np.array([[n >> 64 for n in numbers], [n % 2**64 for n in numbers]], np.uint64)


@njit(cache=True, nogil=True)
def _fill(lanes: Any, jump: Any, words: Any, span: Any, out: Any) -> None:
    numbers, rejected = np.empty(len(words)), np.empty(len(words), np.bool_)
    done, short = 0, True
    while done < len(out):
        if short or span[0] == span[1]:
            left = span[1] - span[0]
            words[:left] = words[span[0] : span[1]].copy()
            rounds = (len(words) - left) // len(lanes[0])
            span[0], span[1] = 0, left + rounds * len(lanes[0])
            _draw_words(lanes, jump, words[left : span[1]])
        start = span[0]
        taken = min(span[1] - start, len(out) - done)
        _try(words[start : start + taken], numbers, rejected)
        i, short = 0, False
        while i < taken and not short:
            while i < taken and not rejected[i]:
                out[done] = numbers[i]
                done += 1
                i += 1
            if i < taken:
                used, accepted, number = _decide(words[start + i : span[1]], numbers[i])
                short = used == 0
                if accepted:
                    out[done] = number
                    done += 1
                i += used
        span[0] = start + i


@njit(cache=True, nogil=True)
def _draw_words(lanes: Any, jump: Any, words: Any) -> None:
    """Overwrite words with the output of each lane in turn, and step the lanes.

    Products of 128 bits are made of 32 bits each, which processors multiply in vectors.
    """
    high, low = lanes[0], lanes[1]
    factor_high, factor_low = jump[0, 0], jump[1, 0]
    shift_high, shift_low = jump[0, 1], jump[1, 1]
    f0, f1 = factor_low & _LOW, factor_low >> _U(32)
    for first in range(0, len(words), LANES):
        target = words[first : first + LANES]
        for lane in range(LANES):
            h, l = high[lane], low[lane]  # noqa: E741
            mixed, turn = h ^ l, h >> _U(58)
            target[lane] = (mixed >> turn) | (mixed << ((_U(64) - turn) & _U(63)))
            l0, l1 = l & _LOW, l >> _U(32)
            p00, p01, p10 = l0 * f0, l0 * f1, l1 * f0
            middle = (p00 >> _U(32)) + (p01 & _LOW) + (p10 & _LOW)
            upper = l1 * f1 + (p01 >> _U(32)) + (p10 >> _U(32)) + (middle >> _U(32))
            lower = (middle << _U(32)) | (p00 & _LOW)
            total = lower + shift_low
            low[lane] = total
            carry = _U(1) if total < lower else _U(0)
            high[lane] = upper + h * factor_low + l * factor_high + shift_high + carry


@njit(cache=True, nogil=True)
def _try(words: Any, numbers: Any, rejected: Any) -> None:
    """Make the number of each word, as if it began one, and note where it is not yet accepted."""
    for i in range(len(words)):
        word = words[i]
        layer = word & _U(255)
        place = (word >> _U(9)) & _U(0xFFFFFFFFFFFFF)
        number = np.float64(np.int64(place)) * wi_double[layer]
        numbers[i] = -number if word & _U(256) else number
        rejected[i] = place >= ki_double[layer]


@njit(cache=True, nogil=True)
def _decide(words: Any, number: float) -> tuple[int, bool, float]:
    """Accept or refuse the number of the first word by the words after it, as NumPy does.

    Return the words used, 0 if there are too few, whether a number is accepted, and the number.
    """
    layer = words[0] & _U(255)
    if layer:
        if len(words) < 2:
            return 0, False, 0.0
        height = (fi_double[layer - _U(1)] - fi_double[layer]) * _uniform(words[1])
        return 2, height + fi_double[layer] < np.exp(-0.5 * number * number), number
    for i in range(1, len(words) - 1, 2):
        x = -ziggurat_nor_inv_r * np.log1p(-_uniform(words[i]))
        y = -np.log1p(-_uniform(words[i + 1]))
        if y + y > x * x:
            x += ziggurat_nor_r
            return i + 2, True, -x if (words[0] >> _U(17)) & _U(1) else x
    return 0, False, 0.0


@njit(cache=True, nogil=True)
def _uniform(word: Any) -> float:
    return np.float64(word >> _U(11)) * (1.0 / 9007199254740992.0)
