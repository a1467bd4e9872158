"""Read Prophesee's DAT files, also those of N-CARS (docs.prophesee.ai)."""

from pathlib import Path

import numpy as np

from eventdata.errors import InputError
from eventdata.formats.decoding import (
    Recording,
    check_size,
    header_size,
    prophesee_header,
    unwrap,
)


def read(path: Path) -> Recording:
    """Read microseconds (32 bits), then x (14 bits), y (14 bits), p (4 bits), little-endian."""
    data = path.read_bytes()
    fields, start = prophesee_header(data)
    kind = data[start : start + 2]
    if kind not in (b"\x00\x08", b"\x0c\x08"):
        raise InputError(f"not a DAT file of CD events of 8 bytes: its type and size are {kind!r}")
    check_size(len(data) - start - 2, 8)
    t, word = np.frombuffer(data, "<u4", offset=start + 2).reshape(-1, 2).T
    x, y, p = word & 0x3FFF, word >> 14 & 0x3FFF, word >> 28
    size = header_size(fields.get("width"), fields.get("height"))
    return Recording(x, y, unwrap(t.astype(np.int64), 32), p, size)
