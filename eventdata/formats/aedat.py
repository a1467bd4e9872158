"""Read AEDAT files: 2.0 as jAER writes them, and 4.0 (docs.inivation.com, file formats)."""

import re
from pathlib import Path

import numpy as np

from eventdata.errors import InputError
from eventdata.formats import aedat4
from eventdata.formats.decoding import DecodeOptions, Recording, header_lines, unwrap, words


def read(path: Path, options: DecodeOptions) -> Recording:
    """Read a file of the version that its first line states, one of ``_VERSIONS``."""
    with path.open("rb") as file:
        first = re.match(rb"#!AER-DAT([0-9.]+)\r?\n", file.read(64))
    if first is None:
        raise InputError("not an AEDAT file: it does not begin with #!AER-DAT")
    version = first[1].decode()
    if version not in _VERSIONS:
        raise InputError(
            f"AEDAT {version} is not supported, only {' and '.join(_VERSIONS)}; convert it to 4.0"
        )
    return _VERSIONS[version](path, options)


def _read_2(path: Path, options: DecodeOptions) -> Recording:
    """Read pairs of address and microseconds of a DVS128, 32 bits each, big-endian.

    The bits of the address are those of jAER's class DVS128: the origin is at the lower right, and
    the polarity bit is set for darker. iniVation's page states the opposite polarity, but
    iniVation's own software reads it as jAER does.
    """
    data = path.read_bytes()
    lines, start = header_lines(data, b"#")
    chip = next((line for line in lines if line.startswith("# AEChip:")), "# DVS128")
    if not chip.endswith("DVS128"):
        raise InputError(f"AEDAT 2.0 of the chip {chip[9:].strip()} is not supported, only DVS128")
    address, t = words(data, start, ">u4", 2).astype(np.int64)
    t = unwrap(t, 32)
    pixels = address < 0x8000  # higher bits mark triggers
    address, t = address[pixels], t[pixels]
    x, y = 127 - (address >> 1 & 0x7F), 127 - (address >> 8 & 0x7F)
    return Recording.whole(x, y, t, ~address & 1, (128, 128))


_VERSIONS = {"2.0": _read_2, "4.0": aedat4.read}
