"""Read Prophesee's RAW files in the encodings EVT 2.0, 2.1 and 3.0 (docs.prophesee.ai)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.formats.decoding import (
    DecodeOptions,
    Place,
    Recording,
    add_note,
    header_size,
    prophesee_header,
)
from eventdata.formats.pieces import Pieces, head

# By the camera that a header without geometry names.
_SENSORS = {"genx320": (320, 320), "gen3": (640, 480), "gen4": (1280, 720), "imx636": (1280, 720)}
_LOOK_BACK = 1 << 15  # words of EVT 3.0 that are read at once to find y and x before a place
_TURNS = 20  # bits for the turns of the low bits of EVT 3.0


def read(path: Path, _: DecodeOptions) -> Recording:
    """Read a file of the encoding that its header states, one of ``_ENCODINGS``."""
    fields, start = prophesee_header(head(path))
    encoding, details = fields.get("format", "EVT" + fields.get("evt", "?")).partition(";")[::2]
    make = _ENCODINGS.get(encoding.removesuffix(".0").replace(".", ""))
    if make is None:
        known = ", ".join(_ENCODINGS)
        raise InputError(f"the encoding {encoding!r} is not supported, only {known}; convert it")
    named = dict(part.split("=", 1) for part in details.split(";") if "=" in part)
    width, height = fields.get("geometry", "").partition("x")[::2]
    size = header_size(named.get("width"), named.get("height")) or header_size(width, height)
    if size is None:
        camera = " ".join(fields.values()).lower()
        size = next((size for name, size in _SENSORS.items() if name in camera), None)
    notes: list[str] = []
    pieces = make(path, start, named.get("endianness", fields.get("endianness")), notes)
    pieces.check()
    return Recording(pieces.chunks, size, notes=notes)


def _evt2(path: Path, start: int, _: str | None, notes: list[str]) -> Pieces:
    from eventdata.kernels.recordings import decode_evt2

    return Pieces(path=path, start=start, kernel=decode_evt2, dtype="<u4", state=(-1,), notes=notes)


def _evt21(path: Path, start: int, order: str | None, notes: list[str]) -> Pieces:
    """Return the events of a file of 64-bit words in the byte order ``order``.

    little: the bytes of a word from the lowest to the highest; legacy: the upper half before the
    lower, each from the lowest byte on; big: from the highest byte on.
    """
    from eventdata.kernels.recordings import decode_evt21

    if order is None:
        order = _find_order(path, start)
        add_note(
            notes,
            f"the header states no byte order of its EVT 2.1 words; they were read as {order}, the "
            "only order in which they are valid",
        )
    if order not in _ORDERS:
        raise InputError(
            f"EVT 2.1 with the byte order {order!r} is not supported, only {', '.join(_ORDERS)}"
        )
    dtype, upper = _ORDERS[order]

    return Pieces(
        path=path,
        start=start,
        kernel=decode_evt21,
        dtype=dtype,
        width=2,
        most=32,
        state=(-1, upper),
        notes=notes,
    )


# The type of half a word, and which of the two is the upper one.
_ORDERS = {"little": ("<u4", 1), "legacy": ("<u4", 0), "big": (">u4", 0)}


def _find_order(path: Path, start: int) -> str:
    """Return the byte order in which the first words have known types and a clock that only turns.

    If there are several, return the one in which a time precedes the events.
    """
    data = np.fromfile(path, np.uint8, 1 << 19, offset=start)
    data = data[: len(data) // 8 * 8]
    valid: list[str] = []
    timed: list[str] = []
    for order, (dtype, upper) in _ORDERS.items():
        halves = data.view(dtype).reshape(-1, 2)
        kind, clock = halves[:, upper] >> 28, halves[:, upper] & 0x0FFF_FFFF
        times = np.flatnonzero(kind == 8)
        known = np.isin(kind, (0, 1, 8, 10, 14, 15)).all()
        steps = np.diff(clock[times].astype(np.int64))
        if known and len(times) and not np.any((steps < 0) & (steps > -(1 << 27))):
            valid.append(order)
            if not np.any(halves[: times[0], 1 - upper][kind[: times[0]] <= 1]):
                timed.append(order)
    for orders in (valid, timed):
        if len(orders) == 1:
            return orders[0]
    raise InputError(
        "the header does not state the byte order of its EVT 2.1 words, and they do not show it; "
        "add a header line '% endianness little' or '% endianness legacy'"
    )


@dataclass(frozen=True, kw_only=True)
class _Evt3(Pieces):
    """The events of EVT 3.0.

    Of the state a place holds the time. y and the x of vectors are in the words before it.
    """

    def leave(self, state: NDArray[np.int64]) -> int:
        high, low = int(state[0]), int(state[1])
        if low >> 12 + _TURNS:  # the turns no longer fit: move them to the high bits
            high, low = high + (low >> 12), low & 0xFFF
            state[:2] = high, low
        return (high + 1) << 12 + _TURNS | low

    def enter(self, place: Place) -> NDArray[np.int64]:
        high, low = divmod(place.state, 1 << 12 + _TURNS)
        return np.array([high - 1, low, *self._address_before(place.offset)], np.int64)

    def _address_before(self, offset: int) -> tuple[int, int, int]:
        """Return y, x and p that the words before a byte have set, -1 if they have not."""
        row = column = polarity = -1
        moved = 0
        while offset > self.start and -1 in (row, column):
            first = max(offset - 2 * _LOOK_BACK, self.start)
            words = np.fromfile(self.path, "<u2", (offset - first) // 2, offset=first)
            kind = words >> 12
            rows, bases = np.flatnonzero(kind == 0), np.flatnonzero(kind == 3)
            if row < 0 and len(rows):
                row = int(words[rows[-1]]) & 0x7FF
            if column < 0:
                later = kind[bases[-1] if len(bases) else 0 :]
                moved += 12 * int(np.sum(later == 4)) + 8 * int(np.sum(later == 5))
                if len(bases):
                    base = int(words[bases[-1]])
                    column, polarity = (base & 0x7FF) + moved, base >> 11 & 1
            offset = first
        return row, column, polarity


def _evt3(path: Path, start: int, _: str | None, notes: list[str]) -> Pieces:
    from eventdata.kernels.recordings import decode_evt3

    return _Evt3(
        path=path,
        start=start,
        kernel=decode_evt3,
        dtype="<u2",
        most=12,
        state=(-1, 0, -1, -1, -1),
        notes=notes,
    )


_ENCODINGS: dict[str, Callable[[Path, int, str | None, list[str]], Pieces]] = {
    "EVT2": _evt2,
    "EVT21": _evt21,
    "EVT3": _evt3,
}
