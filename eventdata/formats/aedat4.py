"""Read AEDAT 4.0, the files of iniVation's DV (docs.inivation.com, file formats)."""

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zstandard

from eventdata.errors import InputError, OptionError, reading
from eventdata.files.local import read_plain
from eventdata.formats.decoding import DecodeOptions, Recording, most_events

LZ4, ZSTD = (1, 2), (3, 4)  # each fast and thorough
EVENT_BYTES = 16  # unpacked
MAX_PACKET, MAX_PACKET_RATIO = 1 << 25, 64
PIECE = 1 << 20
_PACKAGES = "AEDAT 4 needs more packages; run: pip install 'eventdata[recordings]'"
_DAMAGED = "a truncated or damaged AEDAT 4 file; get it again"


def read(path: Path, options: DecodeOptions) -> Recording:
    """Read the first stream of events with the package aedat, after checking its packets."""
    try:
        import aedat
    except ImportError:
        raise OptionError(_PACKAGES) from None
    data = path.read_bytes()
    unpacked = _unpacked_sizes(data)
    try:
        decoder = aedat.Decoder(str(path))
        streams = {i: s for i, s in decoder.id_to_stream().items() if s["type"] == "events"}
        chosen = min(streams, default=-1)
        _check_unpacked(unpacked[chosen], data)
        packets = [packet["events"] for packet in decoder if packet["stream_id"] == chosen]
    except (KeyboardInterrupt, SystemExit, MemoryError, InputError):
        raise
    except BaseException as error:  # a panic in Rust is not an Exception
        raise InputError(f"{_DAMAGED} ({error})") from None
    if not streams:
        raise InputError("the AEDAT 4 file has no stream of events; pass another file")
    size = (int(streams[chosen]["width"]), int(streams[chosen]["height"]))
    empty = [np.empty(0, np.int64)]
    x, y, t, p = (np.concatenate([part[f] for part in packets] or empty) for f in "xytp")
    return Recording.whole(x, y, t, p, size)


def check_aedat4(path: Path) -> None:
    """Raise ``InputError``, with the path, unless any decoder can be trusted with a file."""
    with reading(path):
        data = read_plain(path)
    try:
        _check_unpacked(_unpacked_sizes(data).total(), data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _check_unpacked(size: int, data: bytes) -> None:
    if size > EVENT_BYTES * most_events(len(data)):
        raise InputError(f"{size:,} unpacked bytes are too many for a file of {len(data):,} bytes")


def _unpacked_sizes(data: bytes) -> Counter[int]:
    """Return the unpacked bytes of each stream; ``InputError`` unless header and packets are whole.

    The decoder trusts both, to the point of abort, and unpacks without a bound. The first line is
    followed by a size and a flatbuffer of that size. Its field 0 is the compression, field 1 the
    place of the data table and field 2 an XML text. Packets extend from there to the table: stream,
    size (4 bytes each) and ``size`` bytes. In a recording that was not closed the place is -1, and
    packets extend to the end of the file.
    """

    def number(kind: str, place: int) -> int:
        return int(struct.unpack_from(f"<{kind}", data, place)[0])

    unpacked: Counter[int] = Counter()
    try:
        table = 18 + number("I", 18)
        fields = table - number("i", table) + 4
        packed, table_offset, text_offset = (number("H", fields + i) for i in (0, 2, 4))
        compression = number("i", table + packed) if packed else 0
        end = number("q", table + table_offset) if table_offset else -1
        end = len(data) if end == -1 else end
        text = table + text_offset
        text += number("I", text)
        data[text + 4 : text + 4 + number("I", text)].decode()
        place = 18 + number("I", 14)
        while place < end:
            stream, length = struct.unpack_from("<II", data, place)
            packet = memoryview(data)[place + 8 : place + 8 + length]
            most = unpacked[stream] + max(MAX_PACKET, MAX_PACKET_RATIO * len(packet))
            for piece in _pieces(packet, compression):
                unpacked[stream] += len(piece)
                if unpacked[stream] > most:
                    raise InputError(f"a packet of {length:,} bytes unpacks to too many bytes")
            place += 8 + length
    except (struct.error, UnicodeDecodeError, zstandard.ZstdError, RuntimeError):  # or lz4's
        raise InputError(_DAMAGED) from None
    if place != end or end > len(data):
        raise InputError(_DAMAGED)
    return unpacked


def _pieces(packet: memoryview, compression: int) -> Iterator[bytes | memoryview]:
    """Yield the content of a packet in pieces that are not kept."""
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
        raise InputError(f"AEDAT 4 compression {compression} is not supported")
