"""Read NumPy files of events, ``.npz`` and ``.npy``, in pieces; `tables` describes their arrays."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from io import RawIOBase
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.formats.decoding import DecodeOptions, Recording, add_note, most_events
from eventdata.formats.npz import NPY_HEAD, Member, MemberStream, list_members, parse_header
from eventdata.formats.tables import (
    ASK,
    SAMPLE,
    Rows,
    Shape,
    Stream,
    check_lengths,
    check_order,
    choose_stream,
    find_streams,
    guess_order,
    named_columns,
    order_columns,
    read_chunks,
    unit_of_name,
)

UNNAMED = ("arr_0", "arr_1", "arr_2", "arr_3")  # NumPy's names
MAX_EVENT_BYTES = 64  # of an event in one array: a table of four long doubles
MAX_LANES = 4  # of a table
MAX_ARRAYS = 1000  # whose headers are read to find events
THE_ARRAY = "the array"  # of an npy


class _Bytes(Protocol):
    """The bytes of a ``.npy``, read from their start."""

    def skip(self, count: int) -> None: ...

    def read(self, count: int) -> bytes: ...


Opened = Callable[[], AbstractContextManager[_Bytes]]


@dataclass(frozen=True)
class _Array:
    """The rows of a stored array; lanes: where rows begin, or each column of a Fortran table."""

    opened: Opened
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    lanes: tuple[int, ...]
    chunk = 1

    @property
    def length(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def pieces(self, start: int, step: int) -> Iterator[NDArray[Any]]:
        across = self.shape[1:] if len(self.lanes) == 1 else ()
        row = np.dtype((self.dtype, across))
        with ExitStack() as stack:
            lanes = [stack.enter_context(self.opened()) for _ in self.lanes]
            for lane, place in zip(lanes, self.lanes, strict=True):
                lane.skip(place + start * row.itemsize)
            for first in range(start, self.length, step):
                count = min(step, self.length - first)
                parts = [np.frombuffer(lane.read(count * row.itemsize), row) for lane in lanes]
                yield parts[0] if len(parts) == 1 else np.stack(parts).T


def read(path: Path, options: DecodeOptions) -> Recording:
    """Read an ``.npz`` or, by its suffix, an ``.npy`` file."""
    notes: list[str] = []
    if path.suffix.lower() == ".npy":
        with path.open("rb") as file:
            head = file.read(NPY_HEAD)
        arrays = {THE_ARRAY: _array(partial(_open_npy, path), head, path.stat().st_size)}
    else:
        arrays = _npz_arrays(path)
    streams = find_streams({name: Shape(one.shape, one.dtype) for name, one in arrays.items()})
    unnamed = [arrays[name] for name in UNNAMED if name in arrays and len(arrays[name].shape) == 1]
    if not streams and len(unnamed) == len(UNNAMED):
        streams = {"": _order_unnamed(unnamed, options.columns, notes)}
    if not streams:
        raise _no_stream(arrays)
    name = choose_stream(streams, options.stream, notes)
    stream = streams[name]
    if not stream:
        stream = order_columns(name, arrays[name], options.columns, notes)
    rows: dict[str, Rows] = {path: arrays[path] for path, _ in stream.values()}
    check_lengths(stream, rows)
    unit = unit_of_name(stream["t"][0])
    return Recording(partial(read_chunks, stream, rows), None, unit, notes)


def _order_unnamed(arrays: Sequence[_Array], order: str | None, notes: list[str]) -> Stream:
    """Return the columns of four arrays in an ``order``, or if it is None in that of their values.

    Where these do not show it, the order is x, y, t, p. A note says so, and if it is another one.

    Raises:
        InputError: ``order`` is of more columns.
    """
    check_order(order)
    if order is None:
        firsts = [next(one.pieces(0, SAMPLE), np.empty(0)) for one in arrays]
        same = len({len(one) for one in firsts}) == 1
        found = guess_order(np.stack(firsts, axis=1)) if same else None
        order = found or "xytp"
        if found != "xytp":
            why = "because of their values" if found else "and their values do not show it"
            what = f"{', '.join(UNNAMED)} were read as {', '.join(order)}"
            add_note(notes, f"{what}, {why}; {ASK}")
    return {column: (UNNAMED[order.index(column)], None) for column in "xytp"}


def _no_stream(arrays: Mapping[str, _Array]) -> InputError:
    shown = ", ".join(
        f"{name} ({' x '.join(map(str, one.shape))}, {one.dtype})" for name, one in arrays.items()
    )
    return InputError(
        "no arrays x, y, t, p, no event array with these fields and no table of four columns "
        f"(found: {shown or 'nothing'}); save the columns by these names"
    )


def _npz_arrays(path: Path) -> dict[str, _Array]:
    """Return the columns of events in an npz, or all its arrays if they have other names."""
    size = path.stat().st_size
    with path.open("rb") as file:
        members = {name.removesuffix(".npy"): one for name, one in list_members(file).items()}
    names = list(members)[:MAX_ARRAYS]
    columns = named_columns(names)
    arrays = {}
    for name in columns.values() if columns else names:
        opened = partial(_open_member, path, members[name])
        if members[name].size > MAX_EVENT_BYTES * most_events(size):
            raise InputError(
                f"array {name!r} declares {members[name].size:,} bytes, too many for a file of "
                f"{size:,} bytes"
            )
        with opened() as stream:
            head = stream.read(min(NPY_HEAD, members[name].size))
        try:
            arrays[name] = _array(opened, head, members[name].size)
        except InputError as error:
            raise InputError(f"array {name!r}: {error}") from None
        if arrays[name].length > most_events(size):
            raise InputError(
                f"{arrays[name].length:,} events are too many for a file of {size:,} bytes"
            )
    return arrays


def _array(opened: Opened, head: bytes, size: int) -> _Array:
    """Return an array by the first bytes of a ``.npy`` of ``size`` bytes."""
    shape, fortran, dtype, start = parse_header(head, size)
    shape = shape or (1,)  # a number
    lanes: tuple[int, ...] = (start,)
    if fortran and len(shape) == 2:
        lanes = tuple(start + lane * shape[0] * dtype.itemsize for lane in range(shape[1]))
    return _Array(opened, shape, dtype, lanes[:MAX_LANES])


@contextmanager
def _open_npy(path: Path) -> Iterator[_Bytes]:
    with path.open("rb", buffering=0) as file:
        yield _FileBytes(file)


@contextmanager
def _open_member(path: Path, member: Member) -> Iterator[_Bytes]:
    with path.open("rb", buffering=0) as file:
        yield MemberStream(file, member)


@dataclass(frozen=True)
class _FileBytes:
    """The bytes of a file."""

    file: RawIOBase

    def skip(self, count: int) -> None:
        self.file.seek(count)

    def read(self, count: int) -> bytes:
        data = self.file.read(count) or b""
        if len(data) != count:
            raise InputError("truncated while it was read; get it again")
        return data
