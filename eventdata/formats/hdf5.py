"""Read events from HDF5 files: DSEC, MVSEC, M3ED, TUM-VIE, v2e, Prophesee and others.

A stream of events is one of these, in any group:

    x, y, t, p       four columns (N,) of one group, under the names of `tables.NAMES`
    events           a column (N,) of compounds with these fields
    events           a table (N, 4) of numbers

Only hard links are followed, so that nothing outside the file is read.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import EventDataError, InputError, OptionError
from eventdata.events import SensorSize
from eventdata.formats.decoding import (
    CHUNK_EVENTS,
    Chunk,
    DecodeOptions,
    Place,
    Recording,
    add_note,
    header_size,
)
from eventdata.formats.hdf5_rows import DAMAGED, Rows, open_rows
from eventdata.formats.tables import (
    guess_order,
    named_columns,
    order_note,
    unclear_order,
    unit_of_name,
)
from eventdata.units import TimeUnit

MAX_OBJECTS, MAX_DEPTH = 10_000, 8  # those of data sets have about 100 objects, 4 deep
SAMPLE = 1 << 14  # events whose values show the order of columns
MVSEC = re.compile(r"/davis/(left|right)/events")

Selector = str | int | None  # the field or column of a row; None for the row itself
Stream = dict[str, tuple[str, Selector]]  # data set and selector of x, y, t and p


def read(path: Path, options: DecodeOptions) -> Recording:
    """Read one stream; the first by name unless ``options.stream`` names another."""
    notes: list[str] = []
    with _opened(path) as file:
        datasets = dict(_walk(file))
        streams = _find_streams(datasets)
        name = _choose(streams, options.stream, notes)
        stream = streams[name]
        paths = {one for one, _ in stream.values()} or {name}
        rows = {one: open_rows(path, datasets[one]) for one in sorted(paths)}
        stream = stream or _order_columns(name, rows[name], options, notes)
        lengths = sorted({one.length for one in rows.values()})
        if len(lengths) > 1:
            raise InputError(f"{name}: its columns have different lengths, {lengths}; get it again")
        size = _sensor_size(file, datasets, stream, rows)
        unit = _time_unit(file, datasets, stream)
    return Recording(partial(_chunks, stream, rows), size, unit, notes)


def _chunks(stream: Stream, rows: dict[str, Rows], place: Place | None) -> Iterator[Chunk]:
    length = min(one.length for one in rows.values())
    unit = max(one.chunk for one in rows.values())
    step = max(CHUNK_EVENTS // unit * unit, 1) if unit <= CHUNK_EVENTS else CHUNK_EVENTS
    for start in range(place.offset if place else 0, length, step):
        read = {name: one.read(start, min(start + step, length)) for name, one in rows.items()}
        x, y, t, p = (_select(read[stream[field][0]], stream[field][1]) for field in "xytp")
        yield Chunk(Place(start), x, y, t, p)


def _select(rows: NDArray[Any], selector: Selector) -> NDArray[Any]:
    if selector is None:
        return rows
    return rows[selector] if isinstance(selector, str) else rows[:, selector]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file with h5py, and raise its errors as InputError."""
    try:
        import h5py
    except ImportError:
        raise OptionError("HDF5 needs h5py; run: pip install 'eventdata[recordings]'") from None
    path.open("rb").close()  # an OSError from here is one of the disk
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (EventDataError, MemoryError):
        raise
    except Exception as error:  # h5py raises most built-in kinds
        raise InputError(f"{DAMAGED} ({error})") from None


def _walk(file: Any) -> Iterator[tuple[str, Any]]:
    """Yield the data sets of a file by their paths; hard links may make groups a cycle."""
    import h5py

    groups, count = [(file, 0)], 0
    while groups:
        group, depth = groups.pop()
        for name in group:
            count += 1
            if count > MAX_OBJECTS or depth > MAX_DEPTH:
                raise InputError("has more groups and data sets than a file of events")
            if isinstance(group.get(name, getlink=True), h5py.HardLink):
                item = group[name]
                if isinstance(item, h5py.Group):
                    groups.append((item, depth + 1))
                elif isinstance(item, h5py.Dataset):
                    yield f"{group.name.rstrip('/')}/{name}", item


def _find_streams(datasets: dict[str, Any]) -> dict[str, Stream]:
    """Return the streams by name, in the order of their names; that of a table is empty."""
    groups: dict[str, dict[str, str]] = {}
    streams: dict[str, Stream] = {}
    tables: dict[str, Stream] = {}
    for path, dataset in datasets.items():
        fields = named_columns(dataset.dtype.names or ())
        if fields and len(dataset.shape) == 1:
            streams[path] = {column: (path, field) for column, field in fields.items()}
        elif len(dataset.shape) == 1 or dataset.shape[1:] == (1,):
            group, _, name = path.rpartition("/")
            groups.setdefault(group, {})[name] = path
        elif len(dataset.shape) == 2 and dataset.shape[1] == 4 and dataset.dtype.kind in "iuf":
            tables[path] = {}
    for group, columns in groups.items():
        if names := named_columns(columns):
            found = {column: columns[name] for column, name in names.items()}
            streams[group or "/"] = {
                column: (path, 0 if len(datasets[path].shape) == 2 else None)
                for column, path in found.items()
            }
    named = {path: table for path, table in tables.items() if "event" in path.lower()}
    streams |= named or ({} if streams else tables)
    if not streams:
        raise _no_streams(datasets)
    return dict(sorted(streams.items()))


def _no_streams(datasets: dict[str, Any]) -> InputError:
    if {"/spikes/times", "/spikes/units"} <= datasets.keys():
        return InputError(
            "holds spikes of audio, as SHD and SSC do, which have no pixels; convert them with "
            "the source tonic:SHD or tonic:SSC"
        )
    shown = [
        f"{path} ({' x '.join(map(str, dataset.shape)) or 'a number'}, {dataset.dtype})"
        for path, dataset in list(datasets.items())[:6]
    ]
    return InputError(
        "has no group with columns x, y, t and p, no data set with these fields and no table of "
        f"four columns; it holds {', '.join(shown) or 'no data sets'}"
    )


def _choose(streams: dict[str, Stream], wanted: str | None, notes: list[str]) -> str:
    """Return the name of the stream to read; ``wanted`` is its path or a part of it."""
    names = {name: [name.strip("/"), *name.strip("/").split("/")] for name in streams}
    listed = ", ".join(name.strip("/") or "/" for name in streams)
    found = [name for name in names if wanted is None or wanted.strip("/") in names[name]]
    if not found:
        raise InputError(f"has no stream of events {wanted!r}; pass --stream with one of: {listed}")
    if wanted is not None and len(found) > 1:
        raise InputError(f"has several streams {wanted!r}; pass --stream with one of: {listed}")
    if len(found) > 1:
        add_note(
            notes,
            f"has {len(found)} streams of events ({listed}), and {found[0].strip('/')} was read; "
            "pass --stream to choose another",
        )
    return found[0]


def _order_columns(name: str, rows: Rows, options: DecodeOptions, notes: list[str]) -> Stream:
    """Return the columns of a table: as the user or the data set states, or by its values."""
    sample = rows.read(0, min(rows.length, SAMPLE))
    order = options.columns or ("xytp" if MVSEC.fullmatch(name) else guess_order(sample))
    if order is None:
        raise unclear_order(name.strip("/"), (rows.length, 4))
    if options.columns is None and not MVSEC.fullmatch(name):
        add_note(notes, order_note(name.strip("/"), order))
    return {column: (name, order.index(column)) for column in "xytp"}


def _time_unit(file: Any, datasets: dict[str, Any], stream: Stream) -> TimeUnit | None:
    """Return the unit of time that the file or its data set defines."""
    path, selector = stream["t"]
    group, _, name = path.rpartition("/")
    kind = datasets[path].dtype
    whole = (kind[selector] if isinstance(selector, str) else kind).kind in "iu"
    if unit := unit_of_name(selector if isinstance(selector, str) else name):
        return unit
    if isinstance(selector, int) and selector == 2 and MVSEC.fullmatch(path) and not whole:
        return "s"
    if path == "/CD/events" or (path == "/events" and kind == np.uint32):  # Prophesee, v2e
        return "us"
    # DSEC, TUM-VIE and M3ED: an index from milliseconds to events.
    indexes = ("/ms_to_idx", f"{group}/ms_to_idx", f"{group}/ms_map_idx")
    if whole and any(index in datasets for index in indexes):
        return "us"
    return "s" if not whole and "sensor_resolution" in file.attrs else None


def _sensor_size(
    file: Any, datasets: dict[str, Any], stream: Stream, rows: dict[str, Rows]
) -> SensorSize | None:
    """Return (W, H) where the file states it."""
    path, _ = stream["x"]
    group = path.rpartition("/")[0] or "/"
    for attributes in (datasets[path].attrs, file[group].attrs, file.attrs):
        if "geometry" in attributes:  # Prophesee's
            sides = re.fullmatch(r"([0-9]+)x([0-9]+)", _text(attributes["geometry"]))
            return header_size(*sides.groups()) if sides else None
        if {"width", "height"} <= set(attributes):
            return header_size(_text(attributes["width"]), _text(attributes["height"]))
    resolution = datasets.get(f"{group}/calib/resolution")  # M3ED's: W, H
    if resolution is not None and resolution.shape == (2,) and resolution.dtype.kind in "iu":
        width, height = resolution[:].tolist()
        return header_size(str(width), str(height))
    if "sensor_resolution" in file.attrs:  # H, W
        resolution = np.ravel(file.attrs["sensor_resolution"])
        return _as_size(resolution, stream, rows) if len(resolution) >= 2 else None
    return None


def _as_size(sides: NDArray[Any], stream: Stream, rows: dict[str, Rows]) -> SensorSize | None:
    """Return (W, H) of two sides that are H, W, or W, H if only that fits the first events."""
    size = header_size(*(_text(side) for side in sides[1::-1]))
    path, selector = stream["x"]
    x = _select(rows[path].read(0, min(rows[path].length, SAMPLE)), selector)
    if size is not None and size[0] < size[1] and np.max(x, initial=0) >= size[0]:
        return size[::-1]
    return size


def _text(value: Any) -> str:
    """Return an attribute as text."""
    value = np.ravel(value)[0] if np.size(value) == 1 else value
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return str(int(value) if isinstance(value, (np.floating, float)) else value)
