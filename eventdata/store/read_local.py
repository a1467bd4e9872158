"""Read samples of a store on a local disk: chunks from open shards, decompressed in place.

Nothing here is broken by a fork, and threads may share it: they work without Python's lock while
the disk does and while chunks are decompressed. Of several samples first all bytes are read, then
all decompressed by one call, so that threads seldom wait for each other's Python in between.
"""

import contextlib
import errno
import os
import threading
import weakref
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs.zstd
import numpy as np
import zstandard
from numpy.typing import NDArray

from eventdata.errors import StoreError
from eventdata.files.local import LocalFiles, check_plain
from eventdata.store.layout import SampleFormat, shard_key
from eventdata.store.shard import CRC_BYTES, MISSING, SOUND, decompress, index_bytes, read_index


class LocalReader:
    """Samples of one split."""

    def __init__(
        self, files: LocalFiles, split: str, sample: SampleFormat, shard_size: int
    ) -> None:
        self.files, self.split = files, split
        self.sample, self.shard_size = sample, shard_size
        self._indices: dict[int, NDArray[np.uint64]] = {}
        self._limit = _file_limit()
        self._opened = lru_cache(maxsize=self._limit)(self._open)
        _readers.append(weakref.ref(self, _readers.remove))

    def __reduce__(self) -> tuple[Any, ...]:  # open files don't travel to another process
        return LocalReader, (self.files, self.split, self.sample, self.shard_size)

    def read(self, index: int, out: NDArray[Any]) -> None:
        """See `SampleReader.read`."""
        try:
            for plane, chunk in zip(out, self._chunks(index), strict=True):
                decompress(chunk, plane)
        except StoreError as error:
            where = f"{self.files.where}/{self.split}, shard {index // self.shard_size}"
            raise StoreError(f"{where}, sample {index}: {error}") from None

    def read_many(self, indices: Sequence[int], out: NDArray[Any]) -> None:
        """Fill out (N, K, H, W, P) with samples."""
        try:
            decompress_many([chunk for index in indices for chunk in self._chunks(index)], out)
        except StoreError:  # `read` finds out which, and what is wrong with it
            for index, place in zip(indices, out, strict=True):
                self.read(index, place)

    def fetch(self, indices: Sequence[int]) -> "LocalReader":
        """See `SampleReader.fetch`: reading is asking."""
        return self

    def ahead(
        self, order: Sequence[int], window: int
    ) -> contextlib.AbstractContextManager["LocalReader"]:
        """See `SplitReader.ahead`: the system reads ahead by itself."""
        return contextlib.nullcontext(self)

    def _chunks(self, index: int) -> list[bytes]:
        """The chunks of a sample, compressed, sound by their checksums."""
        number, slot = divmod(index, self.shard_size)
        file = self._opened(number)
        chunks = []
        for offset, length in self._indices[number][slot].tolist():
            if offset == MISSING:
                raise StoreError("the chunk is missing; convert again")
            chunk = file.read(offset, length)
            if google_crc32c.value(chunk) != SOUND:
                raise StoreError("a chunk fails its checksum; convert again")
            chunks.append(chunk)
        return chunks

    def _open(self, number: int) -> "ShardFile":
        """A shard's file; its index is read, checked and kept."""
        key = shard_key(self.split, self.sample, number)
        path = self.files.root / key
        try:
            file = self._open_file(path)
            if number not in self._indices:
                where = f"{self.files.where}/{key}"
                size, most = file.size(), index_bytes(self.sample, self.shard_size)
                end = file.read(max(0, size - most), most)
                self._indices[number] = read_index(end, size, self.sample, self.shard_size, where)
        except OSError as error:
            raise StoreError(f"{path}: can't be read ({error}); see `eventdata verify`") from None
        return file

    def _open_file(self, path: Path) -> "ShardFile":
        """A shard's file; where too many are open, those of other readers are let go."""
        others = [one for ref in [*_readers] if (one := ref()) is not None and one is not self]
        if sum(one._opened.cache_info().currsize for one in (self, *others)) >= self._limit:
            for one in others:
                one._opened.cache_clear()
        try:
            return ShardFile(path)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        for one in (self, *others):  # the rest of the program has more open than was left to it
            one._opened.cache_clear()
        return ShardFile(path)


_readers: list[weakref.ref[LocalReader]] = []
"""Those of this process, which share the files that it may have open."""


def decompress_many(chunks: Sequence[bytes], out: NDArray[Any]) -> None:
    """Decompress chunks that hold as much each, one after the other, into ``out``, contiguous.

    In one go without Python's lock, for which numcodecs decodes frames that follow each other
    (0.16.4 and newer). StoreError where that can't be done.
    """
    share = out.nbytes // len(chunks)
    frames = b"".join([memoryview(chunk)[:-CRC_BYTES] for chunk in chunks])
    try:
        if any(zstandard.frame_content_size(chunk) != share for chunk in chunks):
            raise StoreError("a chunk does not hold what it should")
        numcodecs.zstd.decompress(frames, out.reshape(-1).view(np.uint8))
    except (RuntimeError, ValueError, zstandard.ZstdError) as error:
        raise StoreError(f"chunks can't be decompressed together ({error})") from None


class ShardFile:
    """A shard, open for reading; closed when nobody holds it any more.

    Read at an offset: that moves no position which threads and forks would share, lets Python's
    lock go while the disk works, and raises an error where a memory map would end the process.
    """

    def __init__(self, path: Path) -> None:
        check_plain(path)
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._seeking = threading.Lock()
        weakref.finalize(self, os.close, self._file)

    def size(self) -> int:
        """Its bytes; OSError where the disk fails."""
        return os.fstat(self._file).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Bytes at an offset, fewer where the file ends; StoreError where the disk fails."""
        try:
            if hasattr(os, "pread"):
                return os.pread(self._file, length, offset)
            with self._seeking:  # Windows
                os.lseek(self._file, offset, os.SEEK_SET)
                return os.read(self._file, length)
        except OSError as error:
            raise StoreError(f"can't be read ({error})") from None


def _file_limit() -> int:
    """How many shards readers keep open, of the files that a process may have."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 256
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if soft == resource.RLIM_INFINITY else max(8, min(4096, soft // 2))
