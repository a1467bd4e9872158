"""Read NumPy files of events: columns x, y, t, p, or one structured array with these fields."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.events import check_events
from eventdata.formats.decoding import DecodeOptions, Recording, most_events
from eventdata.formats.npz import inflate, list_members, parse_npy

UNNAMED = ["arr_0", "arr_1", "arr_2", "arr_3"]  # NumPy's names
MAX_EVENT_BYTES = 40  # in an npz: four columns of 64 bits, and their headers


def read(path: Path, options: DecodeOptions) -> Recording:
    """Read an ``.npz`` or, by its suffix, an ``.npy`` file."""
    data = path.read_bytes()
    arrays = [parse_npy(data)] if path.suffix.lower() == ".npy" else _read_arrays(data)
    if len(arrays) == 1:
        events = check_events(arrays[0], name="the array")
        arrays = [events[field] for field in "xytp"]
    x, y, t, p = arrays
    return Recording.whole(x, y, t, p, time_unit=None)


def _read_arrays(data: bytes) -> list[NDArray[Any]]:
    """Return the columns x, y, t, p of an npz, or its only array."""
    members = {name.removesuffix(".npy"): info for name, info in list_members(data).items()}
    # Arrays without names are x, y, t, p; under other names they might be in any order.
    named = [names for names in (list("xytp"), UNNAMED) if set(names) <= members.keys()]
    names = named[0] if named else list(members)
    if not named and len(names) != 1:
        found = ", ".join(names) or "none"
        raise InputError(f"no arrays x, y, t, p (found: {found}); save the columns by these names")
    most, limit = most_events(len(data)), f"too many for a file of {len(data):,} bytes"
    declared = sum(members[name].size for name in names)
    if declared > MAX_EVENT_BYTES * most:
        raise InputError(f"the arrays declare {declared:,} bytes, {limit}")
    arrays = [parse_npy(inflate(data, members[name])) for name in names]
    events = max(array.size for array in arrays)
    if events > most:
        raise InputError(f"{events:,} events are {limit}")
    return arrays
