"""Read AEDAT 4.0, the files of iniVation's DV (docs.inivation.com, file formats).

The first line is followed by a size (4 bytes) and a flatbuffer of that size. Its field 0 is the
compression, field 1 the place of the data table and field 2 an XML text on the streams. Packets
extend from there to the table, or to the end of the file if the recording was never closed: stream
and size (4 bytes each), then a compressed flatbuffer. That of events holds their vector.
"""

import struct
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import zstandard

from eventdata.errors import InputError, OptionError, reading
from eventdata.events import SensorSize
from eventdata.files.local import check_plain
from eventdata.formats.decoding import (
    CHUNK_EVENTS,
    END_MISSING,
    Chunk,
    DecodeOptions,
    Place,
    Recording,
    add_note,
    choose_stream,
    header_size,
    most_events,
)

LZ4, ZSTD = (1, 2), (3, 4)  # each fast and thorough
EVENT = np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "?"), ("", "V3")])
MAX_HEADER = 1 << 24
MAX_PACKET = 1 << 26  # unpacked bytes; a packet of events has some 100 kB
PIECE = 1 << 20
_PACKAGES = "AEDAT 4 needs more packages; run: pip install 'eventdata[recordings]'"
_DAMAGED = "a truncated or damaged AEDAT 4 file; get it again"


class Stream(NamedTuple):
    """A stream of events as the XML text describes it."""

    name: str
    size: SensorSize | None


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header of a file: its compression, its streams of events by number, and its packets.

    end: the byte after the last packet; closed: whether the recording was.
    """

    compression: int
    streams: dict[str, Stream]
    start: int
    end: int
    closed: bool


class Packet(NamedTuple):
    """A packet as it lies in the file, at a byte of it."""

    place: int
    content: bytes


class Unpacker:
    """Packets of one file are unpacked within bounds for each and for all of them."""

    def __init__(self, header: Header) -> None:
        self.compression = header.compression
        self.size = header.end
        self.left = EVENT.itemsize * most_events(header.end)

    def pieces(self, packet: Packet) -> Iterator[bytes]:
        """Yield the content of a packet in pieces."""
        most = min(max(1 << 25, 64 * len(packet.content)), MAX_PACKET)
        try:
            for piece in _unpack(packet.content, self.compression):
                most -= len(piece)
                self.left -= len(piece)
                if min(most, self.left) < 0:
                    raise InputError(
                        f"packets unpack to too many bytes for a file of {self.size:,} bytes; get "
                        "it again"
                    )
                yield piece
        except (zstandard.ZstdError, RuntimeError):  # RuntimeError: of lz4
            raise InputError(_DAMAGED) from None


def read(path: Path, options: DecodeOptions) -> Recording:
    """Read the events of one stream, packet by packet."""
    notes: list[str] = []
    with path.open("rb") as file:
        header = _read_header(file, path.stat().st_size)
    if not header.streams:
        raise InputError("the AEDAT 4 file has no stream of events; pass another file")
    names = {key: stream.name for key, stream in header.streams.items()}
    chosen = choose_stream(names, options.stream, notes)

    def chunks(place: Place | None) -> Iterator[Chunk]:
        parts: list[memoryview] = []
        size = 0
        unpacker = Unpacker(header)
        first = header.start if place is None else place.offset
        for packet in _packets(path, header, first, int(chosen), notes):
            pieces = list(unpacker.pieces(packet))
            if not parts:
                first = packet.place
            parts.append(_events(pieces[0] if len(pieces) == 1 else b"".join(pieces)))
            size += len(parts[-1])
            if size >= CHUNK_EVENTS * EVENT.itemsize:
                yield _decode(first, parts)
                parts, size = [], 0
        if size:
            yield _decode(first, parts)

    return Recording(chunks, header.streams[chosen].size, notes=notes)


def check_aedat4(path: Path) -> None:
    """Raise ``InputError``, with the path, unless any decoder can be trusted with a file."""
    with reading(path):
        check_plain(path)
        notes: list[str] = []
        try:
            with path.open("rb") as file:
                header = _read_header(file, path.stat().st_size)
            unpacker = Unpacker(header)
            for packet in _packets(path, header, header.start, None, notes):
                for _ in unpacker.pieces(packet):
                    pass
            if notes:
                raise InputError(_DAMAGED)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def _read_header(file: BinaryIO, size: int) -> Header:
    """Read the header of a file of ``size`` bytes; decoders abort on one that is damaged."""
    first = file.read(18)
    try:
        length = struct.unpack_from("<I", first, 14)[0]
        if length > min(MAX_HEADER, size - 18):
            raise InputError(_DAMAGED)
        data = file.read(length)
        table, fields = _table(data, 0)
        compression = _number("i", data, table + fields[0]) if fields[0] else 0
        end = _number("q", data, table + fields[1]) if fields[1] else -1
        text = table + fields[2]
        text += _number("I", data, text)
        xml = data[text + 4 : text + 4 + _number("I", data, text)].decode()
        streams = _streams(xml)
    except (struct.error, ValueError, ET.ParseError, IndexError):  # also UnicodeDecodeError
        raise InputError(_DAMAGED) from None
    closed = end != -1
    if not closed:
        end = size
    if not 18 + length <= end <= size:
        raise InputError(_DAMAGED)
    return Header(
        compression=compression, streams=streams, start=18 + length, end=end, closed=closed
    )


def _number(kind: str, data: bytes, place: int) -> int:
    if place < 0:
        raise struct.error
    return int(struct.unpack_from(f"<{kind}", data, place)[0])


def _table(data: bytes, start: int) -> tuple[int, list[int]]:
    """Return the place of a flatbuffer's table, and the offsets of its fields, 0 where missing."""
    table = start + _number("I", data, start)
    fields = table - _number("i", data, table)
    stated = (_number("H", data, fields) - 4) // 2
    return table, [_number("H", data, fields + 4 + 2 * i) if i < stated else 0 for i in range(3)]


def _streams(xml: str) -> dict[str, Stream]:
    """Return the streams of events that the XML text describes, by number."""
    if "<!" in xml:  # entities could expand without a bound
        raise InputError(_DAMAGED)
    found: dict[str, Stream] = {}
    for node in ET.fromstring(xml.rstrip("\0")).iterfind("./node[@name='outInfo']/node"):
        texts = {one.get("key"): one.text or "" for one in node.iter("attr")}
        if texts.get("typeIdentifier") == "EVTS":
            size = header_size(texts.get("sizeX"), texts.get("sizeY"))
            name = texts.get("source") or texts.get("originalOutputName") or "events"
            found[str(int(node.get("name", "")))] = Stream(name, size)
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def _packets(
    path: Path, header: Header, place: int, only: int | None, notes: list[str]
) -> Iterator[Packet]:
    """Yield the packets of one stream, or of all, from a place on."""
    with path.open("rb") as file:
        file.seek(place)
        while place < header.end:
            head = file.read(8)
            stream, size = struct.unpack("<II", head) if len(head) == 8 else (0, header.end)
            following = place + 8 + size
            if following > header.end:
                if header.closed:
                    raise InputError(_DAMAGED)
                add_note(notes, END_MISSING)
                return
            if only in (None, stream):
                yield Packet(place, file.read(size))
            file.seek(following)
            place = following


def _events(content: bytes) -> memoryview:
    """Return the vector of events in a packet's flatbuffer."""
    try:
        if content[8:12] != b"EVTS":
            raise InputError(_DAMAGED)
        table, fields = _table(content, 4)
        if not fields[0]:
            return memoryview(b"")
        vector = table + fields[0]
        vector += _number("I", content, vector)
        size = EVENT.itemsize * _number("I", content, vector)
        if vector + 4 + size > len(content):
            raise InputError(_DAMAGED)
    except struct.error:
        raise InputError(_DAMAGED) from None
    return memoryview(content)[vector + 4 : vector + 4 + size]


def _decode(place: int, parts: list[memoryview]) -> Chunk:
    events = np.frombuffer(b"".join(parts), EVENT)
    return Chunk(Place(place), events["x"], events["y"], events["t"], events["p"])


def _unpack(packet: bytes, compression: int) -> Iterator[bytes]:
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
