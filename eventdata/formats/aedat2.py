"""Read AEDAT 2.0 of DVS128 and DAVIS cameras, as jAER and v2e write it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.events import SensorSize
from eventdata.formats.decoding import DecodeOptions, Recording, add_note, comment_lines
from eventdata.formats.pieces import Pieces

PROBED_EVENTS = 4096
DVS128_ADDRESSES = 0xFFFF


class Layout(NamedTuple):
    """The bits of a chip's addresses, as in jAER's class of the chip.

    x, y: lowest bit and number of bits; the origin is at the lower right. polarity: the bit, and
    its value for brighter. other: bits that are 0 in polarity events; triggers, and samples of
    frames and inertial sensors, set at least one.
    """

    x: tuple[int, int]
    y: tuple[int, int]
    polarity: tuple[int, int]
    other: int


# iniVation's page states the opposite polarity of the DVS128, but iniVation's own software reads
# it as jAER does.
DVS128 = Layout((1, 7), (8, 7), (0, 0), 0xFFFF_8000)
DAVIS = Layout((12, 10), (22, 9), (11, 1), 0x8000_0400)
DVS640 = Layout((1, 10), (11, 10), (0, 1), 0xFFE0_0000)
# By the last part of the name that a header states, in lower case.
_CHIPS: Mapping[str, tuple[Layout, SensorSize]] = {
    r"dvs128": (DVS128, (128, 128)),
    r"davis240[abc]?": (DAVIS, (240, 180)),
    r"davis346([abc]|mini|blue|red)?": (DAVIS, (346, 260)),
    r"davis640": (DAVIS, (640, 480)),
}
_SIZES = {(346, 260): DAVIS, (240, 180): DAVIS}  # of recordings without the name of a chip
_V2E_SIZES = {**_SIZES, (640, 480): DVS640}


def read(path: Path, options: DecodeOptions) -> Recording:
    """Read pairs of address and microseconds, 32 bits each, big-endian."""
    from eventdata.kernels.recordings import decode_aedat2

    notes: list[str] = []
    lines, start = comment_lines(path, "#End Of ASCII Header")
    chip = next((line[9:].strip() for line in lines if line.startswith("# AEChip:")), None)
    if chip is not None:
        layout, size = _named(chip)
        wide = _probe(path, start) > DVS128_ADDRESSES
        if layout is DVS128 and 2 * np.count_nonzero(wide) > len(wide):
            raise InputError(
                "names the chip DVS128, whose addresses have 16 bits, but most of its addresses "
                "have more; correct the line AEChip in its header, or get the file again"
            )
    else:
        layout, size = _unnamed(path, start, options.sensor_size, any("v2e" in x for x in lines))
        if layout is DVS128:
            add_note(notes, "the file names no chip; read as of a DVS128, which its addresses fit")
    highest = DVS128_ADDRESSES if chip is None and layout is DVS128 else 0xFFFF_FFFF
    pieces = Pieces(
        path=path,
        kernel=decode_aedat2,
        start=start,
        dtype=">u4",
        width=2,
        coordinates="i2",
        state=(-1, highest, layout.other, *layout.x, *layout.y, *layout.polarity, *size),
        fault=_no_chip(_SIZES),
        notes=notes,
    )
    pieces.check()
    return Recording(pieces.chunks, size, notes=notes)


def _named(chip: str) -> tuple[Layout, SensorSize]:
    """Return layout and sensor size of a chip by its name."""
    name = chip.rpartition(".")[2].lower()
    for pattern, known in _CHIPS.items():
        if re.fullmatch(pattern, name):
            return known
    raise InputError(
        f"AEDAT 2.0 of the chip {chip} is not supported, only DVS128, DAVIS240, DAVIS346 and "
        "DAVIS640; export it from jAER in another format"
    )


def _unnamed(
    path: Path, start: int, size: SensorSize | None, from_v2e: bool
) -> tuple[Layout, SensorSize]:
    """Return layout and sensor size of a file that names no chip, by its first addresses."""
    if np.all(_probe(path, start) <= DVS128_ADDRESSES):
        return DVS128, (128, 128)
    layouts = _V2E_SIZES if from_v2e else _SIZES
    if size not in layouts:
        raise InputError(_no_chip(layouts))
    return layouts[size], size


def _probe(path: Path, start: int) -> NDArray[np.uint32]:
    """Return the first addresses of a file."""
    words: NDArray[np.uint32] = np.fromfile(path, ">u4", 2 * PROBED_EVENTS, offset=start)[::2]
    return words


def _no_chip(sizes: Mapping[SensorSize, Layout]) -> str:
    known = " or ".join(f"{width}x{height}" for width, height in sizes)
    return (
        "the file names no chip and its addresses are not those of a DVS128; pass --sensor-size "
        f"{known}, as the camera or the simulator had"
    )
