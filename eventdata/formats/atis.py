"""Read ATIS ``.bin`` files, the format of N-MNIST and N-Caltech101.

It is described at garrickorchard.com/datasets/n-mnist and in its eventvision.py.
"""

from pathlib import Path

import numpy as np

from eventdata.formats.decoding import Recording, check_size


def read(path: Path) -> Recording:
    """Read x, y, then polarity (1 bit) and microseconds (23 bits), big-endian.

    An entry with y = 240 is not an event but advances the clock by 2**13.
    """
    data = path.read_bytes()
    check_size(len(data), 5)
    x, y, high, middle, low = np.frombuffer(data, np.uint8).reshape(-1, 5).T.astype(np.int32)
    overflow = y == 240
    t = (high & 0x7F) << 16 | middle << 8 | low
    t = t + (np.cumsum(overflow) << 13)
    keep = ~overflow
    return Recording(x[keep], y[keep], t[keep], high[keep] >> 7)
