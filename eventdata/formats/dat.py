"""Read Prophesee's DAT files, versions 1 and 2, also those of N-CARS (docs.prophesee.ai)."""

from pathlib import Path

import numpy as np

from eventdata.errors import InputError
from eventdata.formats.decoding import (
    DecodeOptions,
    Recording,
    add_note,
    header_size,
    prophesee_header,
)
from eventdata.formats.pieces import Pieces, head

_SEEN = 1 << 20  # events that show the version where the header does not state it
_BITS_1 = 18  # of x, y and p in version 1


def read(path: Path, _: DecodeOptions) -> Recording:
    """Read microseconds (32 bits), then x, y and p from the lowest bits of a word, little-endian.

    Version 2 has 14, 14 and 4 bits for them, version 1 has 9, 8 and 1.
    """
    from eventdata.kernels.recordings import decode_dat

    data = head(path)
    fields, start = prophesee_header(data)
    kind = data[start : start + 2]
    if kind not in (b"\x00\x08", b"\x0c\x08"):
        raise InputError(f"not a DAT file of 8-byte CD events: its type and size are {kind!r}")
    start += 2
    stated = fields.get("version")
    notes: list[str] = []
    if stated not in (None, "1", "2"):
        raise InputError(f"DAT version {stated} is not supported, only 1 and 2; convert it")
    version = int(stated) if stated else _find_version(path, start)
    if stated is None and version == 1:
        add_note(
            notes,
            "the header states no DAT version; the file was read as version 1, since version 2 "
            "would have only darker events, all in its first 16 rows",
        )
    pieces = Pieces(
        path=path,
        kernel=decode_dat,
        start=start,
        dtype="<u8",
        state=(-1, version),
        fault="{count:,} events have more bits than version 1 has; check the version in the header",
        notes=notes,
    )
    pieces.check()
    size = header_size(fields.get("width"), fields.get("height"))
    return Recording(pieces.chunks, size, notes=notes)


def _find_version(path: Path, start: int) -> int:
    """Return 1 if no event has more bits than those of version 1, else 2."""
    words = np.fromfile(path, "<u4", 2 * _SEEN, offset=start)[1::2]
    return 2 if np.any(words >> _BITS_1) else 1
