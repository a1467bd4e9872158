"""An independent writer of AEDAT 3.1, after iniVation's description of the format."""

import struct

import numpy as np

LINES = "#!AER-DAT3.1\r\n#Format: {}\r\n#Source 1: {}\r\n#Start-Time: 2016-11-20 10:40:45\r\n"
END = b"#!END-HEADER\r\n"


def header(source="DVS128", encoding="RAW", more=""):
    return (LINES.format(encoding, source) + more).encode() + END


def packet(kind, each, count, content, *, overflow=0, source=1, valid=None):
    """Return a packet of ``count`` events of ``each`` bytes."""
    valid = count if valid is None else valid
    head = struct.pack("<hhiiiiii", kind, source, each, 4, overflow, count, count, valid)
    return head + content


def polarity(events, *, invalid=(), source=1):
    """Return one packet of events (x, y, t, p); all times have the same overflow."""
    words = b""
    for number, (x, y, t, p) in enumerate(events):
        word = x << 17 | y << 2 | int(p) << 1 | (number not in invalid)
        words += struct.pack("<Ii", word, t & 0x7FFF_FFFF)
    overflow = events[0][2] >> 31 if events else 0
    valid = len(events) - len(invalid)
    return packet(1, 8, len(events), words, overflow=overflow, source=source, valid=valid)


def other(rng):
    """Return a packet of special events, a frame or inertial samples, with random content."""
    kind, each = ((0, 8), (2, 36 + 2 * 12), (3, 36))[rng.integers(3)]
    count = int(rng.integers(1, 5))
    return packet(kind, each, count, rng.bytes(count * each))


def recording(events, rng, longest=50):
    """Return a file of events (x, y, t, p) in packets, with packets of other types between."""
    parts, start = [header()], 0
    while start < len(events):
        stop = min(start + int(rng.integers(1, longest)), len(events))
        turn = events[start][2] >> 31
        while events[stop - 1][2] >> 31 != turn:
            stop -= 1
        parts += [other(rng)] * int(rng.integers(0, 2)) + [polarity(events[start:stop])]
        start = stop
    return b"".join(parts)


def random_events(rng, count, first=0, span=1_000_000, side=128):
    """Return ordered events of a sensor as tuples (x, y, t, p)."""
    t = first + np.sort(rng.integers(0, span, count))
    x, y = rng.integers(0, side, (2, count))
    return list(
        zip(x.tolist(), y.tolist(), t.tolist(), rng.integers(0, 2, count).tolist(), strict=True)
    )
