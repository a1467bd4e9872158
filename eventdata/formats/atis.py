"""Read ATIS ``.bin`` files: N-MNIST, N-Caltech101 (garrickorchard.com/datasets/n-mnist)."""

from pathlib import Path

import numpy as np

from eventdata.formats.decoding import DecodeOptions, Recording, words


def read(path: Path, options: DecodeOptions) -> Recording:
    """Read x, y, then polarity (1 bit) and microseconds (23 bits), big-endian.

    An entry with y = 240 is not an event but advances the clock by 2**13.
    """
    x, y, high, middle, low = words(path.read_bytes(), 0, "u1", 5).astype(np.int32)
    overflow = y == 240
    t = ((high & 0x7F) << 16 | middle << 8 | low) + (np.cumsum(overflow) << 13)
    keep = ~overflow
    return Recording.whole(x[keep], y[keep], t[keep], high[keep] >> 7)
