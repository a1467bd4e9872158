"""Read AEDAT 3.1, as cAER writes it: DVS128 Gesture and recordings of DAVIS cameras."""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eventdata.errors import InputError
from eventdata.formats.decoding import (
    CHUNK_EVENTS,
    END_MISSING,
    Chunk,
    DecodeOptions,
    Place,
    Recording,
    add_note,
    choose_stream,
    comment_lines,
)

HEADER = struct.Struct("<hhiiiiii")
POLARITY, EVENT_BYTES, TIME_OFFSET = 1, 8, 4
MAX_EVENT_TYPE = 255  # libcaer has some 20
# By the beginning of a source's name; the longest one counts.
_SENSORS = {
    "dvs128": (128, 128),
    "davis128": (128, 128),
    "davis208": (208, 192),
    "davis240": (240, 180),
    "davis346": (346, 260),
    "davis640": (640, 480),
    "dvxplorer": (640, 480),
}


class Part(NamedTuple):
    """Consecutive polarity events of one packet; ``skipped`` ones before were in other chunks."""

    packet: int  # byte of its header
    skipped: int
    overflow: int  # turns of the clock
    events: bytes


def read(path: Path, options: DecodeOptions) -> Recording:
    """Read the polarity events of one source; packets of other types are skipped.

    A packet is a header of type and source, size of an event, place of its time, turns of the
    clock, capacity, number and number of valid events, and then events. A polarity event is a word
    with a bit for validity, one for brighter, 15 of y and 15 of x, and 31 bits of microseconds.
    The origin is at the upper left.
    """
    notes: list[str] = []
    lines, start = comment_lines(path, "#!END-HEADER")
    header = "\n".join(lines)
    encoding = re.search(r"^#Format: *(.*)$", header, re.MULTILINE)
    if encoding is not None and encoding[1] != "RAW":
        raise InputError(
            f"AEDAT 3.1 in the format {encoding[1]} is not supported, only RAW; convert it"
        )
    sources = dict(re.findall(r"^#Source (\d{1,5}): *(.*)$", header, re.MULTILINE)) or {"1": "?"}
    chosen = choose_stream(sources, options.stream, notes)
    only = int(chosen) if len(sources) > 1 else None
    name = sources[chosen].lower()
    size = next((size for camera, size in _SENSORS.items() if name.startswith(camera)), None)

    def chunks(place: Place | None) -> Iterator[Chunk]:
        parts: list[Part] = []
        number = 0
        for part in _parts(path, place or Place(start), only, notes):
            parts.append(part)
            number += len(part.events) // EVENT_BYTES
            if number >= CHUNK_EVENTS:
                yield from _decode(parts)
                parts, number = [], 0
        if parts:
            yield from _decode(parts)

    return Recording(chunks, size, notes=notes)


def _parts(path: Path, place: Place, only: int | None, notes: list[str]) -> Iterator[Part]:
    """Yield the polarity events from a place on, a long packet in several parts."""
    size = path.stat().st_size
    packet, skipped = place
    with path.open("rb") as file:
        file.seek(packet)
        while header := file.read(HEADER.size):
            if len(header) < HEADER.size:
                add_note(notes, END_MISSING)
                return
            kind, source, each, offset, overflow, capacity, number, valid = HEADER.unpack(header)
            sound = 0 <= kind <= MAX_EVENT_TYPE and each > 0 and overflow >= 0
            sound = sound and 0 <= valid <= number <= capacity
            if kind == POLARITY:
                sound = sound and (each, offset) == (EVENT_BYTES, TIME_OFFSET)
            if not sound:
                raise InputError(
                    f"damaged: no packet of AEDAT 3.1 at byte {packet:,}; get it again"
                )
            end = packet + HEADER.size + capacity * each
            if end > size:
                add_note(notes, END_MISSING)
                return
            if kind == POLARITY and only in (None, source):
                file.seek(EVENT_BYTES * skipped, 1)
                while skipped < number:
                    events = file.read(EVENT_BYTES * min(number - skipped, CHUNK_EVENTS))
                    yield Part(packet, skipped, overflow, events)
                    skipped += len(events) // EVENT_BYTES
            file.seek(end)
            packet, skipped = end, 0


def _decode(parts: list[Part]) -> Iterator[Chunk]:
    """Yield the valid events of consecutive parts, if there are any."""
    word, ticks = np.frombuffer(b"".join(part.events for part in parts), "<u4").reshape(-1, 2).T
    turns = [part.overflow for part in parts]
    t = ticks.astype(np.int64)
    if any(turns):
        t += np.repeat(turns, [len(part.events) // EVENT_BYTES for part in parts]) << 31
    valid = word & 1 == 1
    if not valid.all():
        word, t = word[valid], t[valid]
    x, y = ((word >> lowest & 0x7FFF).astype(np.int16) for lowest in (17, 2))
    if len(t):
        yield Chunk(Place(parts[0].packet, parts[0].skipped), x, y, t, word >> 1 & 1)
