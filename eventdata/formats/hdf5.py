"""Read events from HDF5 files: DSEC, MVSEC, M3ED, TUM-VIE, v2e, Prophesee and others.

`tables` describes the streams of events that are found in any group. Only hard links are followed,
so that nothing outside the file is read. Names of streams and data sets begin without a slash.
"""

import math
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eventdata.errors import EventDataError, InputError, OptionError
from eventdata.events import SensorSize
from eventdata.formats.decoding import DecodeOptions, Recording, header_size
from eventdata.formats.hdf5_rows import DAMAGED, open_rows
from eventdata.formats.tables import (
    SAMPLE,
    Rows,
    Shape,
    Stream,
    check_lengths,
    choose_stream,
    find_streams,
    order_columns,
    read_chunks,
    select,
    unit_of_name,
)
from eventdata.units import UNITS_BY_WORD, TimeUnit

MAX_OBJECTS, MAX_DEPTH = 10_000, 8  # those of data sets have about 100 objects, 4 deep
HEAP_AREA = 1 << 20  # bytes at each end of a file
UNIT_KEYS = ("units", "unit")  # of a column of times
MVSEC = re.compile(r"davis/(left|right)/events")


def read(path: Path, options: DecodeOptions) -> Recording:
    """Read one stream; the first by name unless ``options.stream`` names another."""
    notes: list[str] = []
    with _opened(path) as file:
        links: list[str] = []
        datasets = dict(_walk(file, links))
        streams = find_streams({one: Shape(d.shape, d.dtype) for one, d in datasets.items()})
        if not streams:
            raise _no_streams(datasets, links)
        name = choose_stream(streams, options.stream, notes)
        stream = streams[name]
        paths = {one for one, _ in stream.values()} or {name}
        rows = {one: open_rows(path, datasets[one]) for one in sorted(paths)}
        if not stream:
            order = options.columns or ("xytp" if MVSEC.fullmatch(name) else None)
            stream = order_columns(name, rows[name], order, notes)
        check_lengths(stream, rows)
        size = _sensor_size(path, file, datasets, stream, rows)
        unit = _time_unit(path, file, datasets, stream)
    return Recording(partial(read_chunks, stream, rows), size, unit, notes)


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


def _walk(file: Any, links: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield the data sets of a file by their paths; hard links may make groups a cycle.

    Paths of other links, which are not followed, are added to ``links``.
    """
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
                    yield f"{group.name}/{name}".lstrip("/"), item
            else:
                links.append(f"{group.name}/{name}".lstrip("/"))


def _no_streams(datasets: dict[str, Any], links: list[str]) -> InputError:
    if {"spikes/times", "spikes/units"} <= datasets.keys():
        return InputError(
            "holds spikes of audio, as SHD and SSC do, which have no pixels; convert them with "
            "the source tonic:SHD or tonic:SSC"
        )
    shown = [
        f"{path} ({' x '.join(map(str, dataset.shape)) or 'a number'}, {dataset.dtype})"
        for path, dataset in list(datasets.items())[:6]
    ]
    unread = f", and links that are not followed: {', '.join(sorted(links)[:6])}" if links else ""
    return InputError(
        "has no group with columns x, y, t and p, no data set with these fields and no table of "
        f"four columns; it holds {', '.join(shown) or 'no data sets'}{unread}"
    )


def _time_unit(
    file_path: Path, file: Any, datasets: dict[str, Any], stream: Stream
) -> TimeUnit | None:
    """Return the unit of time that the file or its data set defines."""
    path, selector = stream["t"]
    group, _, name = path.rpartition("/")
    kind = datasets[path].dtype
    attributes = datasets[path].attrs
    stated = [_attribute(attributes, key, file_path)[0] for key in UNIT_KEYS if key in attributes]
    if selector is None and stated and (unit := UNITS_BY_WORD.get(stated[0].strip().lower())):
        return unit
    whole = (kind[selector] if isinstance(selector, str) else kind).kind in "iu"
    if unit := unit_of_name(selector if isinstance(selector, str) else name):
        return unit
    if isinstance(selector, int) and selector == 2 and MVSEC.fullmatch(path) and not whole:
        return "s"
    if path == "CD/events" or (path == "events" and kind == np.uint32):  # Prophesee, v2e
        return "us"
    # DSEC, TUM-VIE and M3ED: an index from milliseconds to events.
    indexes = ("ms_to_idx", f"{group}/ms_to_idx", f"{group}/ms_map_idx")
    if whole and any(index in datasets for index in indexes):
        return "us"
    return "s" if not whole and "sensor_resolution" in file.attrs else None


def _sensor_size(
    path: Path, file: Any, datasets: dict[str, Any], stream: Stream, rows: dict[str, Rows]
) -> SensorSize | None:
    """Return (W, H) where the file states it."""
    array, _ = stream["x"]
    group = array.rpartition("/")[0]
    for attributes in (datasets[array].attrs, file[group or "/"].attrs, file.attrs):
        if "geometry" in attributes:  # Prophesee's
            size = re.fullmatch("([0-9]+)x([0-9]+)", _attribute(attributes, "geometry", path)[0])
            return header_size(*size.groups()) if size else None
        if "width" in attributes and "height" in attributes:
            width, height = (_attribute(attributes, side, path)[0] for side in ("width", "height"))
            return header_size(width, height)
    resolution = datasets.get(f"{group}/calib/resolution".lstrip("/"))  # M3ED's: W, H
    if resolution is not None and resolution.shape == (2,) and resolution.dtype.kind in "iu":
        width, height = resolution[:].tolist()
        return header_size(str(width), str(height))
    if "sensor_resolution" in file.attrs:  # H, W
        sides = _attribute(file.attrs, "sensor_resolution", path)
        return _as_size(sides, stream, rows) if len(sides) >= 2 else None
    return None


def _as_size(sides: list[str], stream: Stream, rows: dict[str, Rows]) -> SensorSize | None:
    """Return (W, H) of two sides that are H, W, or W, H if only that fits the first events."""
    size = header_size(sides[1], sides[0])
    array, selector = stream["x"]
    x = select(next(rows[array].pieces(0, SAMPLE), np.empty((0, 4))), selector)
    if size is not None and size[0] < size[1] and np.max(x, initial=0) >= size[0]:
        return size[::-1]
    return size


def _attribute(attributes: Any, name: str, path: Path) -> list[str]:
    """Return the values of an attribute of a few numbers or a short text, as text; [""] if not."""
    declared = attributes.get_id(name)
    if math.prod(declared.shape or ()) > 4:
        return [""]
    if declared.dtype.kind == "O":
        _check_heaps(path)
    found = []
    for value in np.ravel(attributes[name]).tolist():
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        found.append(value.decode("latin-1") if isinstance(value, bytes) else str(value))
    return found or [""]


def _check_heaps(path: Path) -> None:
    """Raise InputError for texts stored such that the HDF5 library reads on without end.

    It does so in a heap of texts with an entry of no bytes. Heaps lie at the ends of a file.
    """
    with path.open("rb") as file:
        ends = [file.read(HEAP_AREA)]
        file.seek(max(file.seek(0, os.SEEK_END) - HEAP_AREA, 0))
        ends.append(file.read(HEAP_AREA))
    for data in ends:
        for heap in re.finditer(b"GCOL", data):
            place = heap.start() + 16
            stop = min(heap.start() + int.from_bytes(data[place - 8 : place], "little"), len(data))
            while place + 16 <= stop:
                number, size = struct.unpack_from("<H6xQ", data, place)
                if number == 0 and size < 16:
                    raise InputError(DAMAGED)
                place += size if number == 0 else 16 + -(-size // 8) * 8
