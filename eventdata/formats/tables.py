"""Events in arrays: their columns found by names or values, and read in pieces.

A stream of events is one of these arrays, or four of them:

    x, y, t, p       four columns (N,) in one folder of the file, under the names of ``NAMES``
    events           a column (N,) of records with these fields
    events           a table (N, 4) of numbers
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.events import LARGEST_SIDE
from eventdata.formats.decoding import Chunk, Place, add_note
from eventdata.units import TimeUnit

# Names of each column in the files of published data sets and programs, in lower case.
NAMES = {
    "x": ("x", "xs", "x_pos", "xpos", "pos_x", "x_coord", "x_coordinate", "col", "column"),
    "y": ("y", "ys", "y_pos", "ypos", "pos_y", "y_coord", "y_coordinate", "row"),
    "t": ("t", "ts", "time", "times", "timestamp", "timestamps"),
    "p": ("p", "ps", "pol", "pols", "polarity", "polarities"),
}
_UNITS: dict[str, TimeUnit] = {"_us": "us", "_ms": "ms", "_ns": "ns"}  # at the end of a time's name
ASK = "pass --columns with their order, such as txyp"
CHUNK_EVENTS = 1 << 17  # fewer than in other formats: columns stay in the cache
PIECE = 1 << 20  # bytes of an array that are read at once; memory for more is not reused
SAMPLE = 1 << 14  # events whose values show the order of columns

Selector = str | int | None  # the field or column of a row; None for the row itself
Stream = Mapping[
    str, tuple[str, Selector]
]  # array and selector of x, y, t and p; empty for a table


class Shape(NamedTuple):
    """The shape and type of an array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Rows(Protocol):
    """The rows of an array that is read in pieces."""

    @property
    def length(self) -> int: ...

    @property
    def chunk(self) -> int:
        """Number of rows that are unpacked together."""

    @property
    def row_bytes(self) -> int: ...

    def pieces(self, start: int, step: int) -> Iterator[NDArray[Any]]:
        """Yield ``step`` rows at a time from row ``start``; raise InputError if damaged."""


def find_streams(arrays: Mapping[str, Shape]) -> dict[str, Stream]:
    """Return the streams among the arrays of a file by name, in the order of their names.

    Args:
        arrays: by their paths in the file; a stream of columns has the name of their folder.
    """
    folders: dict[str, dict[str, str]] = {}
    streams: dict[str, Stream] = {}
    tables: dict[str, Stream] = {}
    for path, (shape, dtype) in arrays.items():
        fields = named_columns(dtype.names or ())
        if fields and len(shape) == 1 and not any(dtype[one].shape for one in fields.values()):
            streams[path] = {column: (path, field) for column, field in fields.items()}
        elif len(shape) == 1 or shape[1:] == (1,):
            folder, _, name = path.rpartition("/")
            folders.setdefault(folder, {})[name] = path
        elif len(shape) == 2 and shape[1] == 4 and dtype.kind in "iuf":
            tables[path] = {}
    for folder, names in folders.items():
        if columns := named_columns(names):
            found = {column: names[name] for column, name in columns.items()}
            streams[folder] = {
                column: (path, 0 if len(arrays[path].shape) == 2 else None)
                for column, path in found.items()
            }
    named = {path: table for path, table in tables.items() if "event" in path.lower()}
    streams |= named or ({} if streams else tables)
    return dict(sorted(streams.items()))


def choose_stream(streams: Mapping[str, Stream], wanted: str | None, notes: list[str]) -> str:
    """Return the name of the stream to read, the first if ``wanted`` is None.

    Args:
        wanted: its path, or one part of it, such as left.
    """
    names = {name: [name, *name.split("/")] for name in streams}
    listed = ", ".join(name or "/" for name in streams)
    found = [name for name in names if wanted is None or wanted.strip("/") in names[name]]
    if not found:
        raise InputError(f"has no stream of events {wanted!r}; pass --stream with one of: {listed}")
    if wanted is not None and len(found) > 1:
        raise InputError(f"has several streams {wanted!r}; pass --stream with one of: {listed}")
    if len(found) > 1:
        add_note(
            notes,
            f"has {len(found)} streams of events ({listed}), and {found[0] or '/'} was read; "
            "pass --stream to choose another",
        )
    return found[0]


def order_columns(table: str, rows: Rows, order: str | None, notes: list[str]) -> Stream:
    """Return the columns of a table in an ``order``, or if it is None in that of its values.

    Raises:
        InputError: the values do not show the order, or ``order`` is of more columns.
    """
    check_order(order)
    if order is None:
        order = guess_order(next(rows.pieces(0, SAMPLE), np.empty((0, 4))))
        if order is None:
            raise InputError(f"{table} holds {rows.length:,} x 4 numbers without names; {ASK}")
        add_note(
            notes,
            f"{table}: its columns were read as {' '.join(order)} because of their values; {ASK}",
        )
    return {column: (table, order.index(column)) for column in "xytp"}


def check_order(order: str | None) -> None:
    """Raise InputError for an order of other than four columns."""
    if order is not None and len(order) != len("xytp"):
        raise InputError(f"--columns {order} has {len(order)} columns, and the events have 4")


def read_chunks(stream: Stream, rows: Mapping[str, Rows], place: Place | None) -> Iterator[Chunk]:
    """Yield the events of a stream; the offset of a place is a row."""
    length = min(one.length for one in rows.values())
    unit = max(one.chunk for one in rows.values())
    step = min(CHUNK_EVENTS, PIECE // max(one.row_bytes for one in rows.values()))
    step = step // unit * unit or step
    first = place.offset if place else 0
    pieces = [one.pieces(first, step) for one in rows.values()]
    for start in range(first, length, step):
        read = dict(zip(rows, map(next, pieces), strict=True))
        x, y, t, p = (select(read[stream[column][0]], stream[column][1]) for column in "xytp")
        yield Chunk(Place(start), x, y, t, p)


def select(rows: NDArray[Any], selector: Selector) -> NDArray[Any]:
    """Return the column of some rows that a selector names."""
    if selector is None:
        return rows
    return rows[selector] if isinstance(selector, str) else rows[:, selector]


def check_lengths(stream: Stream, rows: Mapping[str, Rows]) -> None:
    """Raise InputError unless the columns of a stream have one length."""
    lengths = {column: rows[path].length for column, (path, _) in stream.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"x, y, t and p must be columns of one length, not {lengths}")


def named_columns(names: Collection[str]) -> dict[str, str] | None:
    """Return the names of the columns x, y, t and p among ``names``; None if one is missing.

    Raises:
        InputError: two names stand for the same column.
    """
    found: dict[str, str] = {}
    for column, known in NAMES.items():
        matches = [name for name in names if _without_unit(name) in known]
        if len(matches) > 1 and column not in matches:
            raise InputError(
                f"{' and '.join(matches)} could each be the column {column}; remove or rename one"
            )
        if not matches:
            return None
        found[column] = column if column in matches else matches[0]
    return found


def unit_of_name(name: str) -> TimeUnit | None:
    """Return the unit that the name of a column of times ends in, such as t_us, else None."""
    return _UNITS.get(name.lower()[-3:])


def _without_unit(name: str) -> str:
    lower = name.lower()
    return lower[:-3] if lower[-3:] in _UNITS else lower


def guess_order(rows: NDArray[Any]) -> str | None:
    """Return the order of the columns of events (N, 4), such as "txyp"; None if it is unclear.

    Polarities are 0 and 1, or -1 and 1. Times are the only column whose values can't be
    coordinates, or else the only one that never falls. x comes before y, as in all published
    tables.
    """
    if rows.ndim != 2 or rows.shape[1] != 4 or rows.dtype.kind not in "iuf":
        return None
    columns = list(rows.T)
    polarity = _only(map(_is_polarity, columns))
    coordinates = [_is_coordinate(column) for column in columns]
    if all(coordinates):
        rising = [not np.any(column[1:] < column[:-1]) for column in columns]
        time = _only(up and index != polarity for index, up in enumerate(rising))
    else:
        time = _only(not one for one in coordinates)
    if polarity is None or time is None:
        return None
    order = ["x", "y"]
    for index, column in sorted([(polarity, "p"), (time, "t")]):
        order.insert(index, column)
    return "".join(order)


def _only(flags: Iterable[bool]) -> int | None:
    """Return the index of the only true flag, else None."""
    places = [index for index, flag in enumerate(flags) if flag]
    return places[0] if len(places) == 1 else None


def _is_polarity(column: NDArray[Any]) -> bool:
    """Return whether all values are 0 and 1, or -1 and 1."""
    on = column == 1
    return bool(np.all(on | (column == 0)) or np.all(on | (column == -1)))


def _is_coordinate(column: NDArray[Any]) -> bool:
    """Return whether all values are coordinates or polarities; False with NaN."""
    bounded = bool(np.all((column >= -1) & (column <= LARGEST_SIDE)))
    return bounded and bool(np.all(column == np.rint(column)))
