"""Read samples of a store on a local disk: chunks from open shards, decompressed in place.

Forks and threads are safe. The lock of Python is released while the disk works and while chunks
are decompressed. To read several samples, all bytes are read first and then decompressed by one
call, so that threads seldom wait for each other.

Shapes: N samples, K planes, H rows, W columns, P polarities.
"""

import contextlib
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numcodecs.zstd
import numpy as np
import zstandard
from numpy.typing import NDArray

from eventdata.errors import TOO_MANY_FILES, StoreError, reading
from eventdata.files.local import LocalFiles, check_plain
from eventdata.files.zipped import ZipFiles
from eventdata.store.shard import CRC_BYTES, ShardReader, checked_chunk, decompress, index_bytes


class ManyReader(ABC):
    """Base of readers that can read the compressed chunks of many samples first.

    They are then decompressed by one call.
    """

    @abstractmethod
    def read(self, index: int, out: NDArray[Any]) -> None:
        """Fill out (K, H, W, P) with a sample; StoreError if it is damaged."""

    @abstractmethod
    def chunks(self, index: int) -> list[bytes]:
        """Return the chunks of a sample, compressed; StoreError if they are damaged or remote."""

    def read_many(self, indices: Sequence[int], out: NDArray[Any]) -> None:
        """Fill out (N, K, H, W, P) with samples."""
        try:
            chunks = [chunk for index in indices for chunk in self.chunks(index)]
            decompress_many(chunks, out)
        except StoreError:  # `read` reports the sample and its fault, or reads them one by one
            for index, place in zip(indices, out, strict=True):
                self.read(index, place)


class LocalReader(ShardReader[LocalFiles | ZipFiles], ManyReader):
    """Reads samples of one split; see `eventdata.store.read.SplitReader` for the methods."""

    def __init__(self, *place: Any) -> None:
        super().__init__(*place)
        self._limit = _file_limit()
        self._opened = lru_cache(maxsize=self._limit)(self._open)
        _readers.append(weakref.ref(self, _readers.remove))

    def read(self, index: int, out: NDArray[Any]) -> None:
        try:
            for plane, chunk in zip(out, self.chunks(index), strict=True):
                decompress(chunk, plane)
        except StoreError as error:
            raise StoreError(f"{self.where(index)}: {error}") from None

    def fetch(self, indices: Sequence[int]) -> "LocalReader":
        return self

    def ahead(
        self, order: Sequence[int], window: int
    ) -> contextlib.AbstractContextManager["LocalReader"]:
        return contextlib.nullcontext(self)  # the operating system reads ahead

    def chunks(self, index: int) -> list[bytes]:
        read = self._opened(index // self.shard_size).read
        return [checked_chunk(read, *entry) for entry in self.entries(index).tolist()]

    def _open(self, number: int) -> "ShardFile":
        """Return a shard's file; its index is read, checked and kept."""
        path = f"{self.files.where}/{self.key(number)}"
        with reading(path, StoreError, "run `eventdata verify`"):
            file = self._open_file(*self.files.locate(self.key(number)))
            if number not in self._indices:
                length = index_bytes(self.sample, self.shard_size)
                self.add_index(number, file.read(max(0, file.size - length), length), file.size)
        return file

    def _open_file(self, path: Path, start: int, size: int | None) -> "ShardFile":
        """Open a shard's file; close those of other readers if too many are open."""
        others = [one for ref in [*_readers] if (one := ref()) is not None and one is not self]
        if sum(one._opened.cache_info().currsize for one in (self, *others)) >= self._limit:
            for one in others:
                one._opened.cache_clear()
        try:
            return ShardFile(path, start, size)
        except OSError as error:
            if error.errno not in TOO_MANY_FILES:
                raise
        for one in (self, *others):  # the rest of the program has many files open, too
            one._opened.cache_clear()
        return ShardFile(path, start, size)


_readers: list[weakref.ref[LocalReader]] = []
"""The readers of this process, which share its limit on open files."""


def decompress_many(chunks: Sequence[bytes], out: NDArray[Any]) -> None:
    """Decompress chunks of equal size, one after the other, into ``out``, which is contiguous.

    numcodecs does so in one call without Python's lock, since 0.16.4. StoreError if an older one
    is installed or a chunk is damaged.
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
    """A shard open for reading, in a file of its own or in an archive; closed when deleted.

    Reading at an offset moves no position that threads and forks would share, releases Python's
    lock while the disk works, and raises an error where a memory map would end the process.
    """

    def __init__(self, path: Path, start: int = 0, size: int | None = None) -> None:
        check_plain(path)
        self._start = start
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._file)
        self._seeking = threading.Lock()
        self.size = os.fstat(self._file).st_size - start if size is None else size

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes at an offset, fewer at the end of the file; StoreError if the disk fails."""
        offset += self._start
        try:
            if hasattr(os, "pread"):
                return os.pread(self._file, length, offset)
            with self._seeking:  # Windows
                os.lseek(self._file, offset, os.SEEK_SET)
                return os.read(self._file, length)
        except OSError as error:
            raise StoreError(f"can't be read ({error})") from None


def _file_limit() -> int:
    """Return how many shards readers keep open: at most half the files that a process may open."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 256
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if soft == resource.RLIM_INFINITY else max(8, min(4096, soft // 2))
