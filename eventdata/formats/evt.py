"""Read Prophesee's RAW files in the encodings EVT 2.0 and 3.0 (docs.prophesee.ai)."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.formats.decoding import (
    DecodeOptions,
    Recording,
    header_size,
    prophesee_header,
    unwrap,
    words,
)

# By the camera that a header without geometry names.
_SENSORS = {"genx320": (320, 320), "gen3": (640, 480), "gen4": (1280, 720), "imx636": (1280, 720)}


def read(path: Path, options: DecodeOptions) -> Recording:
    """Read a file of the encoding that its header states, one of ``_ENCODINGS``."""
    data = path.read_bytes()
    fields, start = prophesee_header(data)
    encoding, _, details = fields.get("format", "EVT" + fields.get("evt", "?")).partition(";")
    decode = _ENCODINGS.get(encoding.removesuffix(".0"))
    if decode is None:
        known = " and ".join(_ENCODINGS)
        raise InputError(f"the encoding {encoding!r} is not supported, only {known}; convert it")
    x, y, t, p = decode(data, start)
    named = dict(re.findall(r"(width|height)=(\d+)", details))
    width, _, height = fields.get("geometry", "").partition("x")
    size = header_size(named.get("width"), named.get("height")) or header_size(width, height)
    if size is None:
        camera = " ".join(fields.values()).lower()
        size = next((size for name, size in _SENSORS.items() if name in camera), None)
    return Recording.whole(x, y, t, p, size)


def _decode_evt2(data: bytes, start: int) -> tuple[NDArray[Any], ...]:
    """Decode little-endian words of 32 bits, the highest 4 the type, into x, y, t, p.

    Types 0 and 1 are CD events off and on: the low 6 bits of the time, 11 of x, 11 of y.
    Type 8 has the higher 28 bits of the time of the events that follow.
    """
    word = words(data, start, "<u4", 1)[0]
    kind = (word >> 28).astype(np.uint8)
    _check_kinds(kind, (0, 1, 8, 10, 14, 15))
    clock = kind == 8
    high = unwrap(word[clock] & 0x0FFF_FFFF, 28)
    latest = np.cumsum(clock) - 1
    cd = (kind <= 1) & (latest >= 0)  # before the first high bits there is no time
    word = word[cd]
    t = high[latest[cd]] << 6 | (word >> 22 & 0x3F)
    return word >> 11 & 0x7FF, word & 0x7FF, t, kind[cd]


def _decode_evt3(data: bytes, start: int) -> tuple[NDArray[Any], ...]:
    """Decode little-endian words of 16 bits, the highest 4 the type, into x, y, t, p.

    Types 0, 6 and 8 set y and the low and the high 12 bits of the time; type 3 sets x and p of the
    vectors that follow. Type 2 is an event at x with p; types 4 and 5 are vectors of 12 and of 8
    pixels, one bit each, which advance x.
    """
    word = words(data, start, "<u2", 1)[0]
    kind, value = word >> 12, word & 0xFFF
    _check_kinds(kind, (0, 2, 3, 4, 5, 6, 7, 8, 10, 14, 15))

    clock = np.flatnonzero((kind == 6) | (kind == 8))
    clock = clock[np.cumsum(kind[clock] == 8) > 0]  # before the first high bits there is no time
    is_high, ticks = kind[clock] == 8, value[clock].astype(np.int64)
    high = unwrap(ticks[is_high], 12)[np.cumsum(is_high) - 1]
    turned = np.diff(high, prepend=-1) != 0  # earlier low bits belong to another turn
    low = np.where(_latest(~is_high) > _latest(turned), ticks[_latest(~is_high)], 0)
    # Some writers (expelliarmus) omit high bits, so that the low ones turn on their own.
    carries = np.cumsum(np.diff(low, prepend=low[:1]) < -2048, dtype=np.int64)
    carries -= carries[_latest(turned)]
    t = (high + carries << 12) + low

    pixels = np.select([kind == 2, kind == 4, kind == 5], [np.uint16(1), value, value & 0xFF], 0)
    steps = np.select([kind == 4, kind == 5], [12, 8], 0)
    moved = np.cumsum(steps) - steps
    base = np.where(kind == 2, np.arange(len(word)), _latest(kind == 3))
    row = _latest(kind == 0)
    time = np.searchsorted(clock, np.arange(len(word))) - 1
    sound = (pixels > 0) & (base >= 0) & (row >= 0) & (time >= 0)
    at, bit = np.nonzero(pixels[sound, None] >> np.arange(12) & 1)
    at = np.flatnonzero(sound)[at]
    base = base[at]
    x = (value[base] & 0x7FF) + moved[at] - moved[base] + bit
    return x, value[row[at]] & 0x7FF, t[time[at]], value[base] >> 11


def _check_kinds(kind: NDArray[Any], known: tuple[int, ...]) -> None:
    """Raise ``InputError`` unless all words are of types that the format has."""
    unknown = np.bincount(kind, minlength=16)
    unknown[list(known)] = 0
    if unknown.any():
        types = ", ".join(map(str, np.flatnonzero(unknown)))
        raise InputError(f"damaged: {unknown.sum()} words of unknown types ({types}); get it again")


def _latest(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the index of the last true value up to each place; -1 before the first."""
    return np.maximum.accumulate(np.where(mask, np.arange(len(mask)), -1))


_ENCODINGS = {"EVT2": _decode_evt2, "EVT3": _decode_evt3}
