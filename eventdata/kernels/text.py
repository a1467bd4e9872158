"""Parse lines of numbers into columns of events, in one pass."""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

OK, NOT_A_NUMBER, TOO_FEW, TOO_MANY, NOT_WHOLE, TOO_LARGE = range(6)
IGNORED = 4  # the role of a column that is not x, y, t or p, which are 0 to 3

_ROOM = (2**63 - 10) // 10  # a number to which a digit can be added in int64
_LARGEST = 2**31 - 1  # of a coordinate or polarity
_TEN = np.array([10.0**power for power in range(23)])  # exact in float64
_TENS = np.array([10**power for power in range(19)], np.int64)
_NEWLINE, _RETURN, _TAB, _SPACE = 10, 13, 9, 32
_COMMA, _SEMICOLON, _HASH, _PERCENT = 44, 59, 35, 37


@numba.njit(cache=True, nogil=True)
def parse_lines(
    text: NDArray[np.uint8],
    roles: NDArray[np.int64],
    x: NDArray[np.int32],
    y: NDArray[np.int32],
    t: NDArray[Any],
    p: NDArray[np.int32],
    whole: bool,
) -> tuple[int, int, int, int]:
    """Parse whole lines of numbers that blanks, a comma or a semicolon separate.

    Empty lines and those that begin with # or % are skipped.

    Args:
        text: bytes that end with a newline.
        roles: what each column of a line is: 0 to 3 for x, y, t and p, or ``IGNORED``.
        x, y, t, p: columns to fill, with room for one row a line.
        whole: whether times are whole numbers, for t of int64; else t is float64.

    Returns:
        The number of events, the number of lines before the end or the fault, a code, and the
        column of the fault.
    """
    place, line, found = 0, 0, 0
    while place < len(text):
        place = _skip_blanks(text, place)
        first = text[place]
        if first in (_HASH, _PERCENT) or _ends(text, place):
            while text[place] != _NEWLINE:
                place += 1
            place += 1
            line += 1
            continue
        for column in range(len(roles)):
            if column:
                before = place
                place = _skip_blanks(text, place)
                if text[place] == _COMMA or text[place] == _SEMICOLON:
                    place = _skip_blanks(text, place + 1)
                elif _ends(text, place):
                    return found, line, TOO_FEW, column
                elif place == before:
                    return found, line, NOT_A_NUMBER, column - 1
            role = roles[column]
            if role == IGNORED:
                while not _separates(text[place]):
                    place += 1
                continue
            if role != 2:
                value, stop = _digits(text, place)
                if 0 < stop - place < 10 and _separates(text[stop]):
                    place = stop
                    if role == 0:
                        x[found] = value
                    elif role == 1:
                        y[found] = value
                    else:
                        p[found] = value
                    continue
            place, digits, power = _number(text, place)
            if place < 0:
                return found, line, NOT_A_NUMBER, column
            if role == 2 and not whole:
                t[found] = _as_float(digits, power)
                continue
            while power < 0 and digits % 10 == 0 and digits:
                digits //= 10
                power += 1
            if digits == 0:
                power = 0
            if power < 0:
                return found, line, NOT_WHOLE, column
            if power > 18 or abs(digits) > np.iinfo(np.int64).max // _TENS[power]:
                return found, line, TOO_LARGE, column
            digits *= _TENS[power]
            if role == 2:
                t[found] = digits
                continue
            if abs(digits) > _LARGEST:
                return found, line, TOO_LARGE, column
            if role == 0:
                x[found] = digits
            elif role == 1:
                y[found] = digits
            else:
                p[found] = digits
        place = _skip_blanks(text, place)
        if not _ends(text, place):
            return found, line, TOO_MANY, len(roles)
        place += 1 + (text[place] == _RETURN)
        line += 1
        found += 1
    return found, line, OK, 0


@numba.njit(cache=True, nogil=True, inline="always")
def _skip_blanks(text: Any, place: int) -> int:
    while text[place] == _SPACE or text[place] == _TAB:
        place += 1
    return place


@numba.njit(cache=True, nogil=True, inline="always")
def _ends(text: Any, place: int) -> Any:
    """Return whether a line ends here; every text ends with a newline."""
    return text[place] == _NEWLINE or (text[place] == _RETURN and text[place + 1] == _NEWLINE)


@numba.njit(cache=True, nogil=True, inline="always")
def _separates(byte: Any) -> Any:
    return byte in (_SPACE, _TAB, _NEWLINE, _RETURN, _COMMA, _SEMICOLON)


@numba.njit(cache=True, nogil=True, inline="always")
def _digits(text: Any, place: Any) -> Any:
    """Return the number of the digits at a place, and the place after them."""
    value = np.int64(0)
    while 48 <= text[place] <= 57:
        value = 10 * value + np.int64(text[place]) - 48
        place += 1
    return value, place


@numba.njit(cache=True, nogil=True)
def _number(text: Any, place: Any) -> tuple[Any, Any, Any]:
    """Return the place after a decimal number, and the number as digits times a power of ten.

    The place is -1 if there is no number. Digits that do not fit int64 are dropped.
    """
    negative = text[place] == 45
    if negative or text[place] == 43:
        place += 1
    digits, power, seen, point = np.int64(0), np.int64(0), 0, False
    while True:
        byte = np.int64(text[place])
        if 48 <= byte <= 57:
            seen += 1
            if digits <= _ROOM:
                digits = 10 * digits + byte - 48
                power -= point
            else:
                power += not point
        elif byte == 46 and not point:
            point = True
        else:
            break
        place += 1
    if not seen:
        return -1, 0, 0
    if byte == 69 or byte == 101:
        place += 1
        falls = text[place] == 45
        if falls or text[place] == 43:
            place += 1
        exponent, seen = np.int64(0), 0
        while 48 <= text[place] <= 57:
            exponent = min(10 * exponent + np.int64(text[place]) - 48, np.int64(10_000))
            place += 1
            seen += 1
        if not seen:
            return -1, 0, 0
        power += -exponent if falls else exponent
    if not _separates(text[place]):
        return -1, 0, 0
    return place, -digits if negative else digits, power


@numba.njit(cache=True, nogil=True, inline="always")
def _as_float(digits: Any, power: Any) -> Any:
    """Return digits times a power of ten, rounded once where the digits fit float64."""
    while power < 0 and abs(digits) > 2**53 and digits % 10 == 0:
        digits //= 10
        power += 1
    if -23 < power < 0:
        return digits / _TEN[-power]
    if 0 <= power < 23:
        return digits * _TEN[power]
    return float(digits) * 10.0**power
