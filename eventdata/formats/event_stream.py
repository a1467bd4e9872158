"""Read Event Stream files, version 2 (github.com/neuromorphicsystems/event_stream)."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from eventdata.errors import InputError
from eventdata.formats.decoding import Chunk, DecodeOptions, Place, Recording
from eventdata.formats.pieces import Pieces, head


def read(path: Path, _: DecodeOptions) -> Recording:
    """Read events of one or more bytes; see `kernels.recordings.decode_event_stream`."""
    from eventdata.kernels.recordings import decode_event_stream

    data = head(path)
    if data[:12] != b"Event Stream" or len(data) < 20:
        raise InputError("not an Event Stream file, or truncated inside its header")
    if data[12] != 2 or data[15] != 1:
        kind = f"version {data[12]}, type {data[15]}"
        raise InputError(f"Event Stream {kind} is not supported, only version 2, type 1 (DVS)")
    width, height = struct.unpack_from("<HH", data, 16)
    pieces = Pieces(path=path, kernel=decode_event_stream, start=20, dtype="u1")

    def chunks(place: Place | None) -> Iterator[Chunk]:
        for chunk in pieces.chunks(place):  # y counts from the bottom
            yield chunk._replace(y=height - 1 - chunk.y.astype(np.int32))

    return Recording(chunks, (width, height), notes=pieces.notes)
