"""Prophesee's files: DAT, and RAW in the encodings EVT 2.0 and 3.0 (docs.prophesee.ai)."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.events import SensorSize
from eventdata.formats.decoding import Columns, check_size, header_lines, unwrap

_SENSORS = {  # by what a header without geometry says of the camera
    "genx320": (320, 320),
    "gen3": (640, 480),
    "gen4": (1280, 720),
    "imx636": (1280, 720),
}


def read_dat(path: Path) -> Columns:
    """Microseconds (32 bits), then x (14 bits), y (14 bits), p (4 bits), little-endian."""
    data = path.read_bytes()
    fields, start = _header(data)
    kind = data[start : start + 2]
    if kind not in (b"\x00\x08", b"\x0c\x08"):
        raise InputError(f"not a DAT file of CD events of 8 bytes (its type and size are {kind!r})")
    check_size(len(data) - start - 2, 8)
    t, word = np.frombuffer(data, "<u4", offset=start + 2).reshape(-1, 2).T
    size = _size(fields.get("width"), fields.get("height"))
    return Columns(
        word & 0x3FFF, word >> 14 & 0x3FFF, unwrap(t.astype(np.int64), 32), word >> 28, size
    )


def read_raw(path: Path) -> Columns:
    """EVT 2.0 or 3.0, by the header."""
    data = path.read_bytes()
    fields, start = _header(data)
    encoding, _, details = fields.get("format", "EVT" + fields.get("evt", "?")).partition(";")
    if encoding in ("EVT2", "EVT2.0"):
        x, y, t, p = _decode_evt2(data, start)
    elif encoding in ("EVT3", "EVT3.0"):
        x, y, t, p = _decode_evt3(data, start)
    else:
        raise InputError(f"the encoding is {encoding!r}; only EVT2 and EVT3 are read")
    named = dict(re.findall(r"(width|height)=(\d+)", details))
    width, _, height = fields.get("geometry", "").partition("x")
    size = _size(named.get("width"), named.get("height")) or _size(width, height)
    if size is None:
        camera = " ".join(fields.values()).lower()
        size = next((size for name, size in _SENSORS.items() if name in camera), None)
    return Columns(x, y, t, p, size)


def _decode_evt2(data: bytes, start: int) -> tuple[NDArray[Any], ...]:
    """x, y, t, p of EVT 2.0, little-endian words of 32 bits, the highest 4 the type.

    Types 0 and 1 are CD events off and on: the low 6 bits of the time, 11 of x, 11 of y.
    Type 8 has the 28 bits above of the time of the events that follow.
    """
    check_size(len(data) - start, 4)
    words = np.frombuffer(data, "<u4", offset=start)
    kind = (words >> 28).astype(np.uint8)
    _check_kinds(kind, (0, 1, 8, 10, 14, 15))
    clock = kind == 8
    high = unwrap((words[clock] & 0x0FFF_FFFF).astype(np.int64), 28)
    latest = np.cumsum(clock) - 1
    cd = (kind <= 1) & (latest >= 0)  # before the first high bits there is no time
    words = words[cd]
    t = high[latest[cd]] << 6 | (words >> 22 & 0x3F)
    return words >> 11 & 0x7FF, words & 0x7FF, t, kind[cd]


def _decode_evt3(data: bytes, start: int) -> tuple[NDArray[Any], ...]:
    """x, y, t, p of EVT 3.0, little-endian words of 16 bits, the highest 4 the type.

    A word says what changes: 0 y; 6 and 8 the low and the high 12 bits of the time; 3 the x and p
    of the vectors that follow. Events are 2, a pixel at x with p, and 4 and 5, vectors of 12 and
    of 8 pixels, one bit each, which move x on.
    """
    check_size(len(data) - start, 2)
    words = np.frombuffer(data, "<u2", offset=start)
    kind, value = words >> 12, words & 0xFFF
    _check_kinds(kind, (0, 2, 3, 4, 5, 6, 7, 8, 10, 14, 15))

    clock = np.flatnonzero((kind == 6) | (kind == 8))
    clock = clock[np.cumsum(kind[clock] == 8) > 0]  # before the first high bits there is no time
    is_high, ticks = kind[clock] == 8, value[clock].astype(np.int64)
    high = unwrap(ticks[is_high], 12)[np.cumsum(is_high) - 1]
    turned = np.diff(high, prepend=-1) != 0  # low bits from before that are of another turn
    low = np.where(_latest(~is_high) > _latest(turned), ticks[_latest(~is_high)], 0)
    # Some writers (expelliarmus) leave out high bits, so that the low ones turn on their own.
    carries = np.cumsum(np.diff(low, prepend=low[:1]) < -2048, dtype=np.int64)
    carries -= carries[_latest(turned)]
    t = (high + carries << 12) + low

    pixels = np.select([kind == 2, kind == 4, kind == 5], [np.uint16(1), value, value & 0xFF], 0)
    steps = np.select([kind == 4, kind == 5], [12, 8], 0)
    moved = np.cumsum(steps) - steps
    base = np.where(kind == 2, np.arange(len(words)), _latest(kind == 3))
    row = _latest(kind == 0)
    time = np.searchsorted(clock, np.arange(len(words))) - 1
    sound = (pixels > 0) & (base >= 0) & (row >= 0) & (time >= 0)
    at, bit = np.nonzero(pixels[sound, None] >> np.arange(12) & 1)
    at = np.flatnonzero(sound)[at]
    base = base[at]
    x = (value[base] & 0x7FF) + moved[at] - moved[base] + bit
    return x, value[row[at]] & 0x7FF, t[time[at]], value[base] >> 11


def _header(data: bytes) -> tuple[dict[str, str], int]:
    """The header's lines of ``% key value``, keys in lower case, and where the data begin."""
    lines, start = header_lines(data, b"% ")
    if not lines:
        raise InputError("not a Prophesee file; it doesn't begin with '% '")
    pairs = (line[2:].partition(" ") for line in lines)
    return {key.lower(): value for key, _, value in pairs}, start


def _size(width: str | None, height: str | None) -> SensorSize | None:
    """A sensor size from two header values, where both are numbers."""
    numbers = [int(side) for side in (width, height) if side and re.fullmatch("[0-9]{1,5}", side)]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None


def _check_kinds(kind: NDArray[Any], known: tuple[int, ...]) -> None:
    """Whether all words are of types that the format has."""
    strange = np.bincount(kind, minlength=16)
    strange[list(known)] = 0
    if strange.any():
        types = ", ".join(str(i) for i in np.flatnonzero(strange))
        raise InputError(
            f"a damaged file: {strange.sum():,} words of types that the format hasn't ({types})"
        )


def _latest(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Index of the last true value up to each place; -1 before the first."""
    return np.maximum.accumulate(np.where(mask, np.arange(len(mask)), -1))
