"""Read text and CSV files with an event in each line, such as those of RPG, v2e and Metavision.

A line has the columns t, x, y and p in any order, separated by blanks, a comma or a semicolon. The
order comes from --columns, from a line of names, or from the values. Lines that begin with # or %
are comments.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.events import LARGEST_SIDE, SensorSize
from eventdata.formats.decoding import END_MISSING, Chunk, DecodeOptions, Place, Recording, add_note
from eventdata.formats.pieces import HEADER_BYTES, head
from eventdata.formats.tables import ASK, guess_order, named_columns
from eventdata.units import UNITS_BY_WORD, TimeUnit

PIECE_BYTES = 1 << 23  # of text, parsed at once
_SIZE = re.compile(
    r"(?:geometry|resolution|sensor.?size)\W{0,3}(\d{1,5})\s*[x, ]\s*(\d{1,5})", re.I
)
_BEFORE_NAMES = re.compile(r"[#% ]*(\w[\w ]*:)?")  # in a comment, such as "# columns:"
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """The columns of a file, and where its events begin.

    order: a letter for each column, - for one that is ignored.
    start: the byte of the first event; lines: the lines before it.
    whole: whether times are whole numbers.
    """

    order: str
    start: int
    lines: int
    whole: bool
    size: SensorSize | None
    unit: TimeUnit | None
    notes: list[str]


def read(path: Path, options: DecodeOptions) -> Recording:
    """Read the columns of numbers that `_find_layout` finds at the start of the file."""
    layout = _find_layout(head(path), options.columns)

    def chunks(place: Place | None) -> Iterator[Chunk]:
        return _chunks(path, layout, place or Place(layout.start, layout.lines))

    return Recording(chunks, layout.size, layout.unit, layout.notes)


def _chunks(path: Path, layout: _Layout, place: Place) -> Iterator[Chunk]:
    """Yield the events from a place on, whose state is the number of lines before it."""
    from eventdata.kernels.text import IGNORED, OK, parse_lines

    roles = np.array([IGNORED if one == "-" else "xytp".index(one) for one in layout.order])
    offset, line = place
    rest = b""
    with path.open("rb") as file:
        file.seek(offset)
        while (more := file.read(PIECE_BYTES)) or rest:
            data = rest + more
            stop = data.rfind(b"\n") + 1
            if unfinished := not more:  # the last line, without a newline
                data += b"\n"
                stop = len(data)
            lines, rest = data.count(b"\n", 0, stop), data[stop:]
            if len(rest) > HEADER_BYTES:
                raise _too_long(line + lines + 1)
            x, y, p = (np.empty(lines, np.int32) for _ in range(3))
            t: NDArray[Any] = np.empty(lines, np.int64 if layout.whole else np.float64)
            text = np.frombuffer(data, np.uint8, stop)
            found, passed, fault, column = parse_lines(text, roles, x, y, t, p, layout.whole)
            if fault != OK:
                if not (unfinished and passed == lines - 1):
                    shown = data.split(b"\n", passed + 1)[passed]
                    _refuse(line + passed + 1, shown, _words(fault, column, layout))
                add_note(layout.notes, END_MISSING)
            if found:
                yield Chunk(Place(offset, line), x[:found], y[:found], t[:found], p[:found])
            offset, line = offset + stop, line + lines


def _words(fault: int, column: int, layout: _Layout) -> str:
    """Return a fault of the kernel in words."""
    from eventdata.kernels import text

    count = len(layout.order)
    if fault == text.TOO_FEW:
        return f"it has {column} columns, and the lines before it {count}"
    if fault == text.TOO_MANY:
        return f"it has more than {count} columns"
    name = layout.order[column]
    place = f"column {column + 1}" + ("" if name == "-" else f" ({name})")
    if fault == text.NOT_WHOLE:
        return f"{place} is not a whole number" + (
            ", as in the lines before" if name == "t" else ""
        )
    return f"{place} is {'too large' if fault == text.TOO_LARGE else 'not a number'}"


def _refuse(line: int, text: bytes, why: str) -> NoReturn:
    """Raise InputError for a line."""
    shown = text.strip()[:60].decode("utf-8", "replace")
    raise InputError(f"line {line:,} ({shown!r}): {why}; check that the file holds events")


def _too_long(line: int) -> InputError:
    return InputError(
        f"line {line:,} is longer than {HEADER_BYTES:,} bytes; check that this is a text file of "
        "events"
    )


def _find_layout(data: bytes, stated: str | None) -> _Layout:
    """Return the layout that the first bytes of a file show, or the user states."""
    start = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    whole_lines = data[start:].split(b"\n")
    if len(data) == HEADER_BYTES and len(whole_lines.pop()) == HEADER_BYTES - start:
        raise _too_long(1)
    names: list[str] | None = None
    comments: list[str] = []
    size: SensorSize | None = None
    metavision = False
    for number, raw in enumerate(whole_lines):
        line = raw.decode("utf-8", "replace").strip()
        fields = _fields(line)
        if line[:1] in ("#", "%", ""):
            comments.append(line)
            if found := _SIZE.search(line):
                size = (int(found[1]), int(found[2]))
                metavision |= line.startswith("%geometry")
        elif (
            names is None and all(map(_NUMBER.fullmatch, fields)) and len(fields) == 2 and not size
        ):
            size = (_side(fields[0]), _side(fields[1]))
        elif names is None and not all(map(_NUMBER.fullmatch, fields)):
            names = fields
            if stated is None and _order_of_names(names) is None:
                _refuse(
                    number + 1,
                    raw,
                    "neither numbers nor the names of the columns t, x, y, p; pass --columns with "
                    "their order, such as txyp, or txyp- to skip a fifth one",
                )
        else:
            break
        start += len(raw) + 1
    else:
        raise InputError("no lines of events in it; check that this is a text file of events")
    rows = [_fields(raw.decode("utf-8", "replace")) for raw in whole_lines[number:]]
    rows = [row for row in rows if len(row) == len(fields)]
    if names is None and stated is None:
        commented = [_fields(_BEFORE_NAMES.sub("", comment, count=1)) for comment in comments]
        known = [one for one in commented if len(one) == len(fields) and _order_of_names(one)]
        names = known[-1] if known else None
    notes: list[str] = []
    order = stated or (_order_of_names(names) if names is not None else None)
    if order is None:
        order, guessed = _order_of_values(rows)
        notes += guessed
    if len(order) != len(fields):
        kind = "--columns" if stated else "the line of names"
        _refuse(number + 1, raw, f"it has {len(fields)} columns, and {kind} {len(order)}")
    times = [row[order.index("t")] for row in rows]
    whole = not any(set(time) & set(".eE") for time in times)
    unit: TimeUnit | None = "us" if metavision and whole else None
    if names is not None and len(names) == len(order):
        unit = _split_unit(names[order.index("t")])[1] or unit
    return _Layout(
        order=order, start=start, lines=number, whole=whole, size=size, unit=unit, notes=notes
    )


def _fields(line: str) -> list[str]:
    """Return the columns of a line."""
    separator = next((one for one in ",;\t" if one in line), None)
    return [field.strip(" \t\r\"'") for field in line.strip().split(separator)]


def _side(text: str) -> int:
    """Return a side of the sensor from a first line of two numbers."""
    if not text.isdecimal() or not 0 < int(text) <= LARGEST_SIDE:
        raise InputError("line 1: two numbers that are no sensor size; check the file")
    return int(text)


def _split_unit(name: str) -> tuple[str, TimeUnit | None]:
    """Return a name of a column in lower case without its unit, and the unit, as in "t [us]"."""
    name = name.lower().strip(" _])}/").lstrip("[({")
    plain, _, inside = name.partition("[" if "[" in name else "(")
    if inside:  # also units of length, as in "x [px]"
        return "_".join(re.split(r"[\s_/]+", plain.strip(" _/"))), UNITS_BY_WORD.get(inside.strip())
    words = re.split(r"[\s_{}/]+", plain.strip(" _{}/"))
    unit = UNITS_BY_WORD.get(words[-1]) if len(words) > 1 else None
    return "_".join(words[:-1] if unit else words), unit


def _order_of_names(names: Sequence[str]) -> str | None:
    """Return a letter for each name, or None if there are not t, x, y and p among them.

    Raises:
        InputError: two names stand for the same column.
    """
    plain = [_split_unit(name)[0] for name in names]
    found = named_columns(plain)
    if found is None:
        return None
    letters = {name: letter for letter, name in found.items()}
    order = "".join(letters.get(name, "-") for name in plain)
    for letter in letters.values():
        if order.count(letter) > 1:
            same = [name for name, one in zip(names, order, strict=True) if one == letter]
            raise InputError(
                f"{' and '.join(same)} could each be the column {letter}; pass --columns with the "
                "order, and - for one to skip"
            )
    return order


def _order_of_values(rows: list[list[str]]) -> tuple[str, list[str]]:
    """Return the order that the values of the first lines show, and a note if it is not RPG's."""
    if len(rows[0]) != 4:
        raise InputError(
            f"{len(rows[0])} columns without names; name them in the first line, such as t,x,y,p"
        )
    numbers = [row for row in rows if all(map(_NUMBER.fullmatch, row))]
    values = np.array(numbers, np.float64)
    order = guess_order(values)
    if order == "txyp":
        return order, []
    if order is None:
        if not _fits_rpg(values):
            raise InputError(
                f"the columns have no names, and their values do not show the order; {ASK}"
            )
        order = "txyp"
    words = " ".join(order)
    return order, [f"the columns were read as {words} because of their values; {ASK}"]


def _fits_rpg(values: NDArray[np.float64]) -> bool:
    """Return whether values (N, 4) are mostly times, which never fall, x, y and polarities."""
    t, x, y, p = values.T
    pixels = (np.minimum(x, y) >= 0) & (np.maximum(x, y) < LARGEST_SIDE)
    pixels &= (x == np.rint(x)) & (y == np.rint(y))
    signs = [np.mean(pixels & np.isin(p, pair)) for pair in ((0, 1), (-1, 1))]
    return bool(max(signs) > 0.5 and np.all(t[1:] >= t[:-1]))
