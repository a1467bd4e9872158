"""Read ATIS ``.bin`` files: N-MNIST, N-Caltech101 (garrickorchard.com/datasets/n-mnist)."""

from pathlib import Path

from eventdata.formats.decoding import DecodeOptions, Recording
from eventdata.formats.pieces import Pieces


def read(path: Path, _: DecodeOptions) -> Recording:
    """Read rows of five bytes; see `kernels.recordings.decode_atis`."""
    from eventdata.kernels.recordings import decode_atis

    pieces = Pieces(path=path, kernel=decode_atis, dtype="u1", width=5)
    pieces.check()
    return Recording(pieces.chunks, notes=pieces.notes)
