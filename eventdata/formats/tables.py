"""Find the columns x, y, t and p of events: by their names, or in a table by their values."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.events import LARGEST_SIDE
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


def order_note(table: str, order: str) -> str:
    """Return the note for a table whose order of columns was derived from their values."""
    return f"{table}: its columns were read as {' '.join(order)} because of their values; {ASK}"


def unclear_order(table: str, shape: Sequence[int]) -> InputError:
    """Return the error for a table in which the values do not show the order of the columns."""
    size = " x ".join(f"{side:,}" for side in shape)
    return InputError(f"{table} holds {size} numbers whose columns are not named; {ASK}")


def _only(flags: Iterable[bool]) -> int | None:
    """Return the index of the only true flag, else None."""
    places = [index for index, flag in enumerate(flags) if flag]
    return places[0] if len(places) == 1 else None


def _is_polarity(column: NDArray[Any]) -> bool:
    """Return whether all values are 0 and 1, or -1 and 1."""
    on = column == 1
    return bool(np.any(on) and (np.all(on | (column == 0)) or np.all(on | (column == -1))))


def _is_coordinate(column: NDArray[Any]) -> bool:
    """Return whether all values are coordinates or polarities; False with NaN."""
    bounded = bool(np.all((column >= -1) & (column <= LARGEST_SIDE)))
    return bounded and bool(np.all(column == np.rint(column)))
