"""Open a store and read samples from it.

On a local disk samples are read by a path of our own: the shard mapped into memory, one chunk
checked and decompressed into the caller's array. It shares nothing that a fork could break, and
threads may use it together. Remote stores are read through zarr-python.
"""

import json
import mmap
import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import IncompleteStoreError, OptionError, StoreError
from eventdata.store.columns import read_column
from eventdata.store.files import Files, LocalFiles, open_files
from eventdata.store.layout import (
    HEADER_KEY,
    SKIPPED_KEY,
    WORK,
    Header,
    SampleFormat,
    parse_header,
    parse_sample_array,
    shard_key,
)
from eventdata.store.shard import read_chunk, read_index


class SampleReader(Protocol):
    """Reads one sample of a split at a time."""

    def read(self, index: int, out: NDArray[Any]) -> None:
        """Fill out (K, H, W, P) with sample ``index``; StoreError where its bytes are damaged."""


class LocalReader:
    """Samples of one split on a local disk."""

    def __init__(
        self, files: LocalFiles, split: str, sample: SampleFormat, shard_size: int
    ) -> None:
        self.files, self.split = files, split
        self.sample, self.shard_size = sample, shard_size
        self._indices: dict[int, NDArray[np.uint64]] = {}
        self._mapped = lru_cache(maxsize=_map_limit())(self._map)

    def __reduce__(self) -> tuple[Any, ...]:  # maps don't travel to another process
        return LocalReader, (self.files, self.split, self.sample, self.shard_size)

    def _map(self, number: int) -> memoryview:
        path = self.files.root / shard_key(self.split, self.sample, number)
        try:
            with path.open("rb") as file:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise StoreError(f"{path}: can't be read ({error}); see `eventdata verify`") from None

    def shard(self, number: int) -> tuple[memoryview, NDArray[np.uint64]]:
        """A shard's bytes, mapped, and its index (shard_size, K, 2), checked."""
        data = self._mapped(number)
        index = self._indices.get(number)
        if index is None:
            where = f"{self.files.where}/{shard_key(self.split, self.sample, number)}"
            # A copy, so that it does not keep the map.
            index = read_index(data, self.sample, self.shard_size, where).copy()
            self._indices[number] = index
        return data, index

    def read(self, index: int, out: NDArray[Any]) -> None:
        """See `SampleReader.read`."""
        number, slot = divmod(index, self.shard_size)
        data, entries = self.shard(number)
        for plane in range(self.sample.planes):
            where = f"{self.files.where}/{self.split}, shard {number}, sample {index}"
            read_chunk(data, entries[slot, plane], out[plane], where)


def _map_limit() -> int:
    """How many shards to keep mapped: each holds a file open, of which a process may have few."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 256
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if soft == resource.RLIM_INFINITY else max(8, min(4096, soft // 4))


@dataclass
class RemoteReader:
    """Samples of one split of a remote store, through zarr-python."""

    files: Files
    split: str
    sample: SampleFormat
    _array: Any = None

    def __getstate__(self) -> dict[str, Any]:  # connections don't travel to another process
        return {**self.__dict__, "_array": None}

    def read(self, index: int, out: NDArray[Any]) -> None:
        """See `SampleReader.read`."""
        import zarr

        where = f"{self.files.where}/{self.split}/{self.sample.array}"
        try:
            if self._array is None:
                self._array = zarr.open_array(where, mode="r")
            values = np.asarray(self._array[index])
        except Exception as error:  # zarr, fsspec and the codecs raise many kinds
            raise StoreError(f"{where}, sample {index}: can't be read ({error})") from error
        out[:] = np.moveaxis(values.reshape(self.sample.planes, *values.shape[-3:]), 1, -1)


class Split:
    """One split of a store: its columns, read when first used, and its samples."""

    def __init__(self, files: Files, name: str, header: Header) -> None:
        self.files = files
        self.name = name
        array = "images" if header.representation == "image" else "frames"
        key = f"{name}/{array}/zarr.json"
        document = files.read(key)
        if document is None:
            raise StoreError(f"{files.where}/{key}: missing; convert again")
        self.sample, self.count, self.shard_size = parse_sample_array(
            document, header, f"{files.where}/{key}"
        )

    def __len__(self) -> int:
        return self.count

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """int32 (N,), -1 for skipped samples whose label is not known."""
        return self._column("label")

    @cached_property
    def event_counts(self) -> NDArray[np.uint32]:
        """uint32 (N,): events in each sample's frames (set cells, or the sum of counts)."""
        return self._column("event_count")

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """bool (N,): false for skipped samples."""
        return self._column("valid")

    @cached_property
    def sample_names(self) -> NDArray[np.object_]:
        """str (N,)."""
        return self._column("name")

    @cached_property
    def input_sizes(self) -> NDArray[np.uint64]:
        """uint64 (N,): bytes of each sample's raw file, 0 where it has none."""
        return self._column("input_size")

    @cached_property
    def input_times(self) -> NDArray[np.int64]:
        """int64 (N,): time of change of each sample's raw file, ns since 1970."""
        return self._column("input_time")

    def _column(self, name: str) -> NDArray[Any]:
        values = read_column(self.files, self.name, name)
        if len(values) != self.count:
            raise StoreError(
                f"{self.files.where}/{self.name}/{name}: {len(values)} values for {self.count} "
                "samples; convert again"
            )
        return values

    def reader(self) -> SampleReader:
        """A reader of this split's samples."""
        if isinstance(self.files, LocalFiles):
            return LocalReader(self.files, self.name, self.sample, self.shard_size)
        return RemoteReader(self.files, self.name, self.sample)


@dataclass(frozen=True)
class Store:
    """An open store."""

    files: Files
    header: Header
    splits: dict[str, Split]

    @property
    def skipped(self) -> list[dict[str, Any]]:
        """Samples that were left out: split, index, name, reason."""
        return read_skipped(self.files)

    def split(self, name: str) -> Split:
        """A split; OptionError tells which there are."""
        if name not in self.splits:
            there = ", ".join(self.splits) or "none"
            raise OptionError(f"{self.files.where}: no split {name!r}; there are: {there}")
        return self.splits[name]


def read_skipped(files: Files) -> list[dict[str, Any]]:
    """Entries of ``skipped.json``, none where there is none; StoreError where it is damaged."""
    try:
        entries = json.loads(files.read(SKIPPED_KEY) or b"[]")
        sound = all(
            isinstance(entry["index"], int)
            and all(isinstance(entry[key], str) for key in ("split", "name", "reason"))
            for entry in entries
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise StoreError(f"{files.where}/{SKIPPED_KEY}: damaged; convert again with --overwrite")
    return list(entries)


def open_store(place: str | os.PathLike[str]) -> Store:
    """Open a complete store at a path or URL.

    StoreError where there is none or it is damaged, IncompleteStoreError where its conversion has
    not finished.
    """
    files = open_files(place)
    document = files.read(HEADER_KEY)
    if document is None:
        if WORK in files.names():
            raise _incomplete(files)
        raise StoreError(
            f"{files.where}: no store there (no {HEADER_KEY}); make one with `eventdata convert`"
        )
    header = parse_header(document, files.where)
    if not header.complete:
        raise _incomplete(files)
    return Store(files, header, {name: Split(files, name, header) for name in header.split_names})


def _incomplete(files: Files) -> IncompleteStoreError:
    return IncompleteStoreError(
        f"{files.where}: its conversion has not finished; call the same `eventdata convert` again "
        "to finish it"
    )
