"""AEDAT, the files of iniVation's DV (4) and of jAER (2.0): docs.inivation.com, file formats."""

import re
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zstandard

from eventdata.errors import InputError, OptionError
from eventdata.files.plain import read_plain
from eventdata.formats.decoding import (
    Columns,
    check_size,
    header_lines,
    most_events,
    unwrap,
)

LZ4, ZSTD = (1, 2), (3, 4)  # each fast and thorough
EVENT_BYTES = 16  # unpacked
MAX_PACKET, MAX_PACKET_RATIO = 1 << 25, 64
PIECE = 1 << 20
_PACKAGES = "AEDAT 4 needs packages: pip install 'eventdata[recordings]'"
_DAMAGED = "a truncated or damaged AEDAT 4 file"


def read_aedat(path: Path) -> Columns:
    """AEDAT 4, or AEDAT 2.0 of a DVS128; the first line says which."""
    data = path.read_bytes()
    version = re.match(rb"#!AER-DAT([0-9.]+)\r?\n", data)
    if version is None:
        raise InputError("not an AEDAT file; it doesn't begin with #!AER-DAT")
    if version[1] == b"4.0":
        return _read_aedat4(path, data)
    if version[1] == b"2.0":
        return _read_aedat2(data)
    raise InputError(f"AEDAT {version[1].decode()}; only 2.0 and 4.0 are read, convert it to 4.0")


def _read_aedat2(data: bytes) -> Columns:
    """Pairs of address and microseconds, 32 bits each, big-endian.

    The bits of the address are those that jAER's class DVS128 writes, with the origin at the lower
    right and a set polarity bit for darker. (iniVation's page has the bit the other way round;
    its own software reads it as jAER does.)
    """
    lines, start = header_lines(data, b"#")
    chip = next((line for line in lines if line.startswith("# AEChip:")), "# DVS128")
    if not chip.endswith("DVS128"):
        raise InputError(f"AEDAT 2.0 of another chip than the DVS128 ({chip[2:]})")
    check_size(len(data) - start, 8)
    address, t = np.frombuffer(data, ">u4", offset=start).reshape(-1, 2).T.astype(np.int64)
    t = unwrap(t, 32)
    pixels = address < 0x8000  # higher bits mark triggers
    address, t = address[pixels], t[pixels]
    x, y = 127 - (address >> 1 & 0x7F), 127 - (address >> 8 & 0x7F)
    return Columns(x, y, t, ~address & 1, (128, 128))


def _read_aedat4(path: Path, data: bytes) -> Columns:
    try:
        import aedat
    except ImportError:
        raise OptionError(_PACKAGES) from None
    unpacked = _check_frame(data)
    try:
        decoder = aedat.Decoder(str(path))
        streams = {i: s for i, s in decoder.id_to_stream().items() if s["type"] == "events"}
        chosen = min(streams, default=-1)
        if unpacked[chosen] > EVENT_BYTES * most_events(len(data)):
            raise InputError(f"events of {unpacked[chosen]:,} bytes, too many for {len(data):,}")
        packets = [packet["events"] for packet in decoder if packet["stream_id"] == chosen]
    except (KeyboardInterrupt, SystemExit, MemoryError, InputError):
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        raise InputError(f"{_DAMAGED} ({error})") from None
    if not streams:
        raise InputError("an AEDAT 4 file without a stream of events")
    size = (int(streams[chosen]["width"]), int(streams[chosen]["height"]))
    none = np.empty(0, np.int64)
    x, y, t, p = (
        np.concatenate([part[f] for part in packets]) if packets else none for f in "xytp"
    )
    return Columns(x, y, t, p, size)


def check_aedat4(path: Path) -> None:
    """Whether a file can be given to the decoder, in whosever hands; InputError where it can't."""
    try:
        data = read_plain(path)
        total = sum(_check_frame(data).values())
        if total > EVENT_BYTES * most_events(len(data)):
            raise InputError(f"packets of {total:,} bytes, too many for {len(data):,}")
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _check_frame(data: bytes) -> Counter[int]:
    """What each stream's packets unpack to, in bytes, where header and packets are whole.

    The decoder trusts both, to the point of abort, and unpacks without a bound. The first line is
    followed by a size and a flatbuffer of that size, of which field 0 is the compression, field 1
    the place of the data table (-1 in a recording that was not closed) and field 2 an XML text.
    From there to the table, or to the end, go packets: stream, size (4 bytes each) and so many
    bytes.
    """
    unpacked: Counter[int] = Counter()
    try:
        size, root = struct.unpack_from("<II", data, 14)
        table = 18 + root
        fields = table - struct.unpack_from("<i", data, table)[0]
        packed, table_offset, text_offset = struct.unpack_from("<HHH", data, fields + 4)
        compression = struct.unpack_from("<i", data, table + packed)[0] if packed else 0
        end = struct.unpack_from("<q", data, table + table_offset)[0] if table_offset else -1
        end = len(data) if end == -1 else end
        text = table + text_offset
        text += struct.unpack_from("<I", data, text)[0]
        length = struct.unpack_from("<I", data, text)[0]
        data[text + 4 : text + 4 + length].decode()
        place = 18 + size
        while place < end:
            stream, length = struct.unpack_from("<II", data, place)
            packet = memoryview(data)[place + 8 : place + 8 + length]
            unpacked[stream] += _unpacked_bytes(packet, compression)
            place += 8 + length
    except (struct.error, UnicodeDecodeError):
        raise InputError(_DAMAGED) from None
    if place != end or end > len(data):
        raise InputError(_DAMAGED)
    return unpacked


def _unpacked_bytes(packet: memoryview, compression: int) -> int:
    """What a packet unpacks to, found by doing so and keeping nothing of it.

    InputError where it is damaged, or is more than a packet of any recording.
    """
    total = 0
    try:
        for piece in _pieces(packet, compression):
            total += len(piece)
            if total > max(MAX_PACKET, MAX_PACKET_RATIO * len(packet)):
                raise InputError(f"a packet of {len(packet):,} bytes unpacks to far too many")
    except (zstandard.ZstdError, RuntimeError):
        raise InputError(_DAMAGED) from None
    return total


def _pieces(packet: memoryview, compression: int) -> Iterator[bytes | memoryview]:
    if compression == 0:
        yield packet
    elif compression in LZ4:
        try:
            import lz4.frame
        except ImportError:
            raise OptionError(_PACKAGES) from None
        frame = lz4.frame.LZ4FrameDecompressor()
        yield frame.decompress(packet, PIECE)
        while not frame.eof and not frame.needs_input:
            yield frame.decompress(b"", PIECE)
    elif compression in ZSTD:
        stream = zstandard.ZstdDecompressor().stream_reader(packet, read_across_frames=True)
        while piece := stream.read(PIECE):
            yield piece
    else:
        raise InputError(f"an AEDAT 4 file of an unknown compression ({compression})")
