"""The bytes of one shard (Zarr's sharding codec): compressed chunks, then an index of them.

    chunk 0 | chunk 1 | ... | index: uint64 (shard_size, K, 2) = offset, length | its crc32c
    a chunk: zstd(plane (H, W, P)) | its crc32c, little-endian

A missing chunk has offset = length = 2**64 - 1. Chunks lie in order of sample, then plane, without
gaps. tools/bench/convert.py compares this code with zarr-python's general codec pipeline.

Shapes: K planes, H rows, W columns, P polarities.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import google_crc32c
import numpy as np
import zstandard
from numpy.typing import NDArray

from eventdata.errors import StoreError
from eventdata.files import Files
from eventdata.store.layout import CONVERT_AGAIN, ZSTD_LEVEL, SampleFormat, shard_key

AnyFiles = TypeVar("AnyFiles", bound=Files)
MISSING = np.uint64(2**64 - 1)
CRC_BYTES = 4
SOUND = google_crc32c.value(bytes(CRC_BYTES))
"""The checksum of any bytes followed by their own checksum."""


def crc32c(data: bytes) -> bytes:
    """Return the CRC-32C of the data as the crc32c codec appends it: four bytes, little-endian."""
    return int(google_crc32c.value(data)).to_bytes(CRC_BYTES, "little")


class _Codec(threading.local):
    """The Zstandard contexts of a thread: reusing one saves a fifth of the time of a chunk."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress
        self.stream = zstandard.ZstdDecompressor().stream_reader


_codec = _Codec()


def compressed_bytes(packed: NDArray[Any]) -> int:
    """Return the bytes that the chunks of a sample (K, H, W, P) take in a shard."""
    return sum(len(_codec.compress(plane)) + CRC_BYTES for plane in packed)


class ShardBuilder:
    """Collects the samples of one shard, in order, and returns its bytes."""

    def __init__(self, sample: SampleFormat, shard_size: int) -> None:
        self._body = bytearray()
        self._index = np.full((shard_size, sample.planes, 2), MISSING, dtype="<u8")

    def add(self, samples: Iterable[tuple[int, NDArray[Any]]]) -> None:
        """Compress samples (K, H, W, P) into their slots; a slot never added stays missing."""
        for slot, packed in samples:
            for plane, values in enumerate(packed):
                chunk = _codec.compress(values)
                self._index[slot, plane] = len(self._body), len(chunk) + CRC_BYTES
                self._body += chunk
                self._body += crc32c(chunk)

    def finish(self) -> bytes | bytearray:
        """Return the whole shard."""
        index = self._index.tobytes()
        self._body += index
        self._body += crc32c(index)
        return self._body


def index_bytes(sample: SampleFormat, shard_size: int) -> int:
    """Return the bytes of the index at the end of a shard, its checksum included."""
    return 16 * shard_size * sample.planes + CRC_BYTES


def most_chunk_bytes(sample: SampleFormat) -> int:
    """Return a bound on the size of a compressed chunk, however badly it compresses."""
    return 2 * sample.chunk_bytes + 1024


def parse_index(
    data: bytes | memoryview,
    sample: SampleFormat,
    shard_size: int,
    where: str,
    size: int | None = None,
) -> NDArray[np.uint64]:
    """Return the index (shard_size, K, 2) of a shard; StoreError if it is damaged.

    Args:
        data: the shard, or at least its last `index_bytes`.
        where: the shard, for messages.
        size: the bytes of the whole shard, if they are known; entries beyond are damage.
    """
    length = index_bytes(sample, shard_size)
    end = bytes(data[-length:])
    if len(end) < length:
        raise StoreError(f"{where}: the shard is cut short ({len(end)} bytes); {CONVERT_AGAIN}")
    raw = end[:-CRC_BYTES]
    if crc32c(raw) != end[-CRC_BYTES:]:
        raise StoreError(f"{where}: the shard's index fails its checksum; {CONVERT_AGAIN}")
    index = np.frombuffer(raw, dtype="<u8").reshape(shard_size, sample.planes, 2)
    offsets, lengths = index[index[..., 0] != MISSING].T
    if (lengths > most_chunk_bytes(sample)).any():
        raise StoreError(f"{where}: the shard's index has impossible lengths; {CONVERT_AGAIN}")
    if size is not None:
        body = size - length
        # Two comparisons, because offset + length could wrap around.
        if (lengths > body).any() or (offsets > body - lengths).any():
            raise StoreError(f"{where}: the shard's index points outside it; {CONVERT_AGAIN}")
    return index


def checked_chunk(read: Callable[[int, int], bytes], offset: int, length: int) -> bytes:
    """Return a chunk by ``read(offset, length)``; StoreError if it is missing or damaged."""
    if offset == MISSING:
        raise StoreError(f"the chunk is missing; {CONVERT_AGAIN}")
    chunk = read(offset, length)
    if google_crc32c.value(chunk) != SOUND:
        raise StoreError(f"a chunk fails its checksum; {CONVERT_AGAIN}")
    return chunk


def read_chunk(
    data: memoryview, entry: NDArray[np.uint64], out: NDArray[Any], where: str, start: int = 0
) -> None:
    """Decode the chunk of an index entry (offset, length) into ``out`` (H, W, P).

    ``data`` is the shard from byte ``start`` on. A StoreError begins with ``where``.
    """

    def read(offset: int, length: int) -> bytes:
        return bytes(data[offset - start :][:length])

    try:
        decompress(checked_chunk(read, *entry.tolist()), out)
    except StoreError as error:
        raise StoreError(f"{where}: {error}") from None


def decompress(chunk: bytes, out: NDArray[Any]) -> None:
    """Decompress a chunk (zstd frame, checksum) straight into ``out``, which is contiguous."""
    try:
        declared = zstandard.frame_content_size(chunk)
        if declared != out.nbytes:
            raise StoreError(f"a chunk holds {declared} bytes, not {out.nbytes}")
        if _codec.stream(chunk).readinto(out) != out.nbytes:
            raise StoreError("a chunk ends before the bytes that it declares")
    except zstandard.ZstdError as error:
        raise StoreError(f"a chunk can't be decompressed ({error})") from None


class ShardReader(Generic[AnyFiles]):
    """Base of the readers of a split. Pickling omits indices and open files."""

    def __init__(self, files: AnyFiles, split: str, sample: SampleFormat, shard_size: int) -> None:
        self.files, self.split, self.sample, self.shard_size = files, split, sample, shard_size
        self._indices: dict[int, NDArray[np.uint64]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.files, self.split, self.sample, self.shard_size)

    def key(self, shard: int) -> str:
        """Return the key of a shard in the store."""
        return shard_key(self.split, self.sample, shard)

    def where(self, index: int) -> str:
        """Return the place of a sample, for messages."""
        return f"{self.files.where}/{self.split}, shard {index // self.shard_size}, sample {index}"

    def entries(self, index: int) -> NDArray[np.uint64]:
        """Return the index entries (K, 2) of a sample, once `add_index` has its shard's."""
        shard, slot = divmod(index, self.shard_size)
        entries: NDArray[np.uint64] = self._indices[shard][slot]
        return entries

    def add_index(self, shard: int, data: bytes | memoryview, size: int | None = None) -> None:
        """Keep the index of a shard; see `parse_index`."""
        where = f"{self.files.where}/{self.key(shard)}"
        if shard not in self._indices:
            self._indices[shard] = parse_index(data, self.sample, self.shard_size, where, size)
