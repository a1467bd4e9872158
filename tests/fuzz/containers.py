"""Take containers apart and reassemble them with correct lengths and checksums.

Without this, damage inside a container would always end at its first checksum.
"""

import bz2
import gzip
import io
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import zstandard

from eventdata.store.shard import CRC_BYTES, crc32c

Parts = list[tuple[str, bytes]]
"""Name and bytes of each part, in order."""


class Container(NamedTuple):
    """A kind of container: ``join(split(data))`` is equivalent to ``data``."""

    split: Callable[[bytes], Parts]
    join: Callable[[Parts], bytes]


def container_of(data: bytes) -> Container | None:
    """Return the kind of container by its first bytes."""
    for magic, container in _KINDS:
        if re.match(magic, data, re.DOTALL):
            return container
    return None


def _split_zip(data: bytes) -> Parts:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def _join_zip(parts: Parts) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:  # as in checkpoints
        for name, data in parts:
            archive.writestr(zipfile.ZipInfo(name), data)
    return stream.getvalue()


def _split_tar(data: bytes) -> Parts:
    """Return each member's header and data, then the end."""
    parts: Parts = []
    place = 0
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for info in archive:
            parts += [("header", data[place : info.offset_data])]
            place = info.offset_data + -(-info.size // 512) * 512
            parts += [("data", data[info.offset_data : place])]
    return [*parts, ("end", data[place:])]


def _join_tar(parts: Parts) -> bytes:
    return b"".join(_with_tar_sum(data) if name == "header" else data for name, data in parts)


def _with_tar_sum(header: bytes) -> bytes:
    if len(header) < 512:
        return header
    total = sum(header[:148]) + 8 * 32 + sum(header[156:512])
    return header[:148] + f"{total:06o}\0 ".encode() + header[156:]


def _split_png(data: bytes) -> Parts:
    """Return chunks with their types; the IDAT chunk is itself a zlib container."""
    parts: Parts = []
    place = 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind = data[place + 4 : place + 8].decode("latin-1")
        parts.append((kind, data[place + 8 : place + 8 + length]))
        place += 12 + length
    return parts


def _join_png(parts: Parts) -> bytes:
    chunks = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in parts:
        named = kind.encode("latin-1") + data
        chunks.append(struct.pack(">I", len(data)) + named + struct.pack(">I", zlib.crc32(named)))
    return b"".join(chunks)


def _split_safetensors(data: bytes) -> Parts:
    (length,) = struct.unpack_from("<Q", data)
    return [("header.json", data[8 : 8 + length]), ("data", data[8 + length :])]


def _join_safetensors(parts: Parts) -> bytes:
    header, data = _head_and_rest(parts)
    return struct.pack("<Q", len(header)) + header + data


def _head_and_rest(parts: Parts) -> tuple[bytes, bytes]:
    return parts[0][1], b"".join(data for _, data in parts[1:])


def _split_npy(data: bytes) -> Parts:
    (length,) = struct.unpack_from("<H", data, 8)
    return [("header.txt", data[10 : 10 + length]), ("data", data[10 + length :])]


def _join_npy(parts: Parts) -> bytes:
    header, data = _head_and_rest(parts)
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) % 2**16) + header + data


def _split_chunks(data: bytes) -> Parts:
    """Return the chunks: one of a column, or many of a shard with an index at its end."""
    if _has_sum(data):
        return [("chunk", data[:-CRC_BYTES])]
    index = next(
        size for size in range(16, len(data), 16) if _has_sum(data[len(data) - size - CRC_BYTES :])
    )
    raw = data[len(data) - index - CRC_BYTES : -CRC_BYTES]
    entries = sorted(e for e in struct.iter_unpack("<QQ", raw) if e[0] != 2**64 - 1)
    chunks = [("chunk", data[start : start + size - CRC_BYTES]) for start, size in entries]
    return [*chunks, ("index", raw)]


def _has_sum(data: bytes) -> bool:
    return crc32c(data[:-CRC_BYTES]) == data[-CRC_BYTES:]


def _join_chunks(parts: Parts) -> bytes:
    """Join chunks; update the index if a chunk has another length, else keep it."""
    chunks = [data for name, data in parts if name == "chunk"]
    body = b"".join(chunk + crc32c(chunk) for chunk in chunks)
    if parts[-1][0] != "index":
        return body
    index = parts[-1][1]
    if len(index) % 16 == 0:
        index = _moved(index, [len(chunk) + CRC_BYTES for chunk in chunks])
    return body + index + crc32c(index)


def _moved(index: bytes, sizes: Sequence[int]) -> bytes:
    """Return the index with the places of chunks of these sizes, or one of another length as is."""
    entries = list(struct.iter_unpack("<QQ", index))
    order = sorted((e[0], i) for i, e in enumerate(entries) if e[0] != 2**64 - 1)
    place = 0
    if len(order) == len(sizes):
        for (_, number), size in zip(order, sizes, strict=True):
            entries[number] = place, size
            place += size
    return b"".join(struct.pack("<QQ", *entry) for entry in entries)


def _whole(
    unpack: Callable[[bytes], bytes], pack: Callable[[bytes], bytes]
) -> Container:  # one part
    return Container(
        lambda data: [("content", unpack(data))], lambda parts: pack(b"".join(d for _, d in parts))
    )


# A shard begins like its first chunk, with zstd's magic.
_ZSTD = _whole(
    lambda data: zstandard.ZstdDecompressor().decompress(data),
    lambda data: zstandard.ZstdCompressor(level=1).compress(data),
)


def _split_zstd(data: bytes) -> Parts:
    try:
        return _ZSTD.split(data) if len(_frame(data)) == len(data) else _split_chunks(data)
    except zstandard.ZstdError:
        return _split_chunks(data)


def _frame(data: bytes) -> bytes:
    """Return the bytes of the first zstd frame."""
    reader = zstandard.ZstdDecompressor().decompressobj()
    reader.decompress(data)
    return data[: len(data) - len(reader.unused_data)]


def _join_zstd(parts: Parts) -> bytes:
    return _ZSTD.join(parts) if parts[0][0] == "content" else _join_chunks(parts)


_KINDS: Sequence[tuple[bytes, Container]] = (
    (rb"PK\x03\x04", Container(_split_zip, _join_zip)),
    (rb"\x1f\x8b", _whole(gzip.decompress, lambda data: gzip.compress(data, 1, mtime=0))),
    (rb"BZh", _whole(bz2.decompress, bz2.compress)),
    (rb"\xfd7zXZ", _whole(lzma.decompress, lambda data: lzma.compress(data, preset=0))),
    (rb"\x78[\x01\x5e\x9c\xda]", _whole(zlib.decompress, lambda data: zlib.compress(data, 1))),
    (rb".{257}ustar", Container(_split_tar, _join_tar)),
    (rb"\x89PNG\r\n\x1a\n", Container(_split_png, _join_png)),
    (rb".{3}\x00{5}\{", Container(_split_safetensors, _join_safetensors)),
    (rb"\x93NUMPY\x01\x00", Container(_split_npy, _join_npy)),
    (rb"\x28\xb5\x2f\xfd", Container(_split_zstd, _join_zstd)),
)
