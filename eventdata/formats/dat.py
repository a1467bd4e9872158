"""Read Prophesee's DAT files, also those of N-CARS (docs.prophesee.ai)."""

from pathlib import Path

from eventdata.errors import InputError
from eventdata.formats.decoding import (
    DecodeOptions,
    Recording,
    header_size,
    prophesee_header,
    unwrap,
    words,
)


def read(path: Path, options: DecodeOptions) -> Recording:
    """Read microseconds (32 bits), then x (14 bits), y (14 bits), p (4 bits), little-endian."""
    data = path.read_bytes()
    fields, start = prophesee_header(data)
    kind = data[start : start + 2]
    if kind not in (b"\x00\x08", b"\x0c\x08"):
        raise InputError(f"not a DAT file of 8-byte CD events: its type and size are {kind!r}")
    t, word = words(data, start + 2, "<u4", 2)
    x, y, p = word & 0x3FFF, word >> 14 & 0x3FFF, word >> 28
    size = header_size(fields.get("width"), fields.get("height"))
    return Recording.whole(x, y, unwrap(t, 32), p, size)
