"""Read AEDAT 2.0 files of a DVS128, as jAER writes them (docs.inivation.com, file formats)."""

from pathlib import Path

import numpy as np

from eventdata.errors import InputError
from eventdata.formats.decoding import Recording, check_size, header_lines, unwrap


def read(path: Path) -> Recording:
    """Read pairs of address and microseconds, 32 bits each, big-endian.

    The bits of the address are those of jAER's class DVS128: the origin is at the lower right, and
    the polarity bit is set for darker. iniVation's page states the opposite polarity, but
    iniVation's own software reads it as jAER does.
    """
    data = path.read_bytes()
    lines, start = header_lines(data, b"#")
    chip = next((line for line in lines if line.startswith("# AEChip:")), "# DVS128")
    if not chip.endswith("DVS128"):
        raise InputError(f"AEDAT 2.0 of the chip {chip[9:].strip()} is not supported, only DVS128")
    check_size(len(data) - start, 8)
    address, t = np.frombuffer(data, ">u4", offset=start).reshape(-1, 2).T.astype(np.int64)
    t = unwrap(t, 32)
    pixels = address < 0x8000  # higher bits mark triggers
    address, t = address[pixels], t[pixels]
    x, y = 127 - (address >> 1 & 0x7F), 127 - (address >> 8 & 0x7F)
    return Recording(x, y, t, ~address & 1, (128, 128))
