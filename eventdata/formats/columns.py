"""Read NumPy files of events: columns x, y, t, p, or one structured array with these fields.

Times that are integers are microseconds, floats are seconds. Legend: N events.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.events import check_events
from eventdata.formats.decoding import Recording, most_events
from eventdata.formats.npz import inflate, list_members, parse_npy_header

UNNAMED = ["arr_0", "arr_1", "arr_2", "arr_3"]  # NumPy's names
MAX_EVENT_BYTES = 40  # in an npz: four columns of 64 bits, and their headers


def read(path: Path) -> Recording:
    """Read an ``.npz`` or, by its suffix, an ``.npy`` file."""
    data = path.read_bytes()
    arrays = [_parse_npy(data)] if path.suffix.lower() == ".npy" else _read_arrays(data)
    if len(arrays) == 1:
        events = check_events(arrays[0], name="the array")
        arrays = [events[field] for field in "xytp"]
    x, y, t, p = arrays
    return Recording(x, y, t, p)


def _read_arrays(data: bytes) -> list[NDArray[Any]]:
    """Return the columns x, y, t, p of an npz, or its only array."""
    members = {name.removesuffix(".npy"): info for name, info in list_members(data).items()}
    # Arrays without names are x, y, t, p; under other names they might be in any order.
    named = [names for names in (list("xytp"), UNNAMED) if set(names) <= members.keys()]
    names = named[0] if named else list(members)
    if not named and len(names) != 1:
        raise InputError(
            f"no arrays x, y, t, p (found: {', '.join(names) or 'none'}); save the four columns "
            "under these names"
        )
    declared = sum(members[name].size for name in names)
    most = most_events(len(data))
    if declared > MAX_EVENT_BYTES * most:
        raise InputError(
            f"the arrays declare {declared:,} bytes, too many for a file of {len(data):,} bytes"
        )
    arrays = [_parse_npy(inflate(data, members[name])) for name in names]
    events = max(map(len, arrays))
    if events > most:
        raise InputError(f"{events:,} events are too many for a file of {len(data):,} bytes")
    return arrays


def _parse_npy(content: bytes) -> NDArray[Any]:
    """Return a column or a structured array (N,) of an npy file; nothing is ever unpickled."""
    shape, _, dtype, start = parse_npy_header(content)
    size = math.prod(shape) * dtype.itemsize
    if len(shape) != 1 or not dtype.itemsize or size != len(content) - start:
        raise InputError(f"the shape {shape} of an array is not (N,), or its data don't fit it")
    return np.frombuffer(content, dtype, offset=start)
