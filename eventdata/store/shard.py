"""The bytes of one shard (Zarr's sharding codec): compressed chunks, then an index of them.

    chunk 0 | chunk 1 | ... | index: uint64 (shard_size, K, 2) = offset, length | its crc32c
    a chunk: zstd(plane (H, W, P)) | crc32c of that, little-endian

A chunk that is not there has offset = length = 2**64 - 1. Chunks lie in order of sample, then
plane, without gaps; the bytes are put together here once, without zarr-python's general codec
pipeline (tools/bench/convert.py measures a conversion by way of that beside ours).
"""

import threading
from collections.abc import Iterable
from typing import Any

import google_crc32c
import numpy as np
import zstandard
from numpy.typing import NDArray

from eventdata.errors import StoreError
from eventdata.store.layout import ZSTD_LEVEL, SampleFormat

MISSING = np.uint64(2**64 - 1)
CRC_BYTES = 4
SOUND = google_crc32c.value(bytes(CRC_BYTES))
"""The checksum of any bytes followed by their own checksum."""


def crc32c(data: bytes) -> bytes:
    """CRC-32C of the data as four bytes, little-endian, as the crc32c codec appends it."""
    return int(google_crc32c.value(data)).to_bytes(CRC_BYTES, "little")


class _Codec(threading.local):
    """Zstandard contexts, one a thread: using one again saves a fifth of the time of a chunk."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress
        self.stream = zstandard.ZstdDecompressor().stream_reader


_codec = _Codec()


def compressed_bytes(packed: NDArray[Any]) -> int:
    """Bytes that the chunks of a sample (K, H, W, P) take in a shard."""
    return sum(len(_codec.compress(plane)) + CRC_BYTES for plane in packed)


class ShardBuilder:
    """Collects the samples of one shard, in order, and gives its bytes."""

    def __init__(self, sample: SampleFormat, shard_size: int) -> None:
        self._body = bytearray()
        self._index = np.full((shard_size, sample.planes, 2), MISSING, dtype="<u8")

    def add(self, slot: int, packed: NDArray[Any]) -> None:
        """Compress a sample (K, H, W, P) into its slot; a slot never added stays missing."""
        for plane, values in enumerate(packed):
            chunk = _codec.compress(values)
            self._index[slot, plane] = len(self._body), len(chunk) + CRC_BYTES
            self._body += chunk
            self._body += crc32c(chunk)

    def add_all(self, samples: Iterable[tuple[int, NDArray[Any]]]) -> None:
        """`add` several, each with its slot."""
        for slot, packed in samples:
            self.add(slot, packed)

    def finish(self) -> bytes | bytearray:
        """The whole shard."""
        index = self._index.tobytes()
        self._body += index
        self._body += crc32c(index)
        return self._body


def index_bytes(sample: SampleFormat, shard_size: int) -> int:
    """Bytes of the index at the end of a shard, its checksum included."""
    return 16 * shard_size * sample.planes + CRC_BYTES


def read_index(
    end: bytes, size: int, sample: SampleFormat, shard_size: int, where: str
) -> NDArray[np.uint64]:
    """The index (shard_size, K, 2) of a shard of so many bytes, by its last `index_bytes`.

    StoreError where it is damaged or out of bounds.
    """
    index = parse_index(end, sample, shard_size, where)
    present = index[index[..., 0] != MISSING]
    body = size - len(end)
    # Written as two comparisons so that offset + length can't wrap around.
    if (present[:, 1] > body).any() or (present[:, 0] > body - present[:, 1]).any():
        raise StoreError(f"{where}: the shard's index points outside the shard; convert again")
    return index


def index_of(
    shard: memoryview, sample: SampleFormat, shard_size: int, where: str
) -> NDArray[np.uint64]:
    """`read_index` of a whole shard."""
    end = bytes(shard[-index_bytes(sample, shard_size) :])
    return read_index(end, len(shard), sample, shard_size, where)


def most_chunk_bytes(sample: SampleFormat) -> int:
    """More than a compressed chunk can have, however badly it compresses."""
    return 2 * sample.chunk_bytes + 1024


def parse_index(
    end: bytes, sample: SampleFormat, shard_size: int, where: str
) -> NDArray[np.uint64]:
    """The index (shard_size, K, 2) of a shard's last bytes, without regard to the shard's size.

    StoreError where it is damaged.
    """
    if len(end) < index_bytes(sample, shard_size):
        raise StoreError(f"{where}: the shard is cut short ({len(end)} bytes); convert again")
    raw = end[:-CRC_BYTES]
    if crc32c(raw) != end[-CRC_BYTES:]:
        raise StoreError(f"{where}: the shard's index fails its checksum; convert again")
    index = np.frombuffer(raw, dtype="<u8").reshape(shard_size, sample.planes, 2)
    present = index[..., 0] != MISSING
    if (index[..., 1][present] > most_chunk_bytes(sample)).any():
        raise StoreError(f"{where}: the shard's index has impossible lengths; convert again")
    return index


def read_chunk(shard: memoryview, entry: NDArray[np.uint64], out: NDArray[Any], where: str) -> None:
    """Decode the chunk of an index entry (offset, length) into ``out`` (H, W, P)."""
    offset, length = int(entry[0]), int(entry[1])
    if offset == MISSING:
        raise StoreError(f"{where}: the chunk is missing; convert again")
    chunk = bytes(shard[offset : offset + length])
    if google_crc32c.value(chunk) != SOUND:
        raise StoreError(f"{where}: a chunk fails its checksum; convert again")
    try:
        decompress(chunk, out)
    except StoreError as error:
        raise StoreError(f"{where}: {error}") from None


def decompress(chunk: bytes, out: NDArray[Any]) -> None:
    """Decompress a chunk (zstd frame, checksum) straight into ``out``, contiguous."""
    try:
        declared = zstandard.frame_content_size(chunk)
        if declared != out.nbytes:
            raise StoreError(f"a chunk holds {declared} bytes, not {out.nbytes}")
        if _codec.stream(chunk).readinto(out) != out.nbytes:
            raise StoreError("a chunk ends before the bytes that it declares")
    except zstandard.ZstdError as error:
        raise StoreError(f"a chunk can't be decompressed ({error})") from None
