"""Open a store and read samples from it.

On a local disk samples are read by a path of our own: the shard mapped into memory, one chunk
checked and decompressed into the caller's array. It shares nothing that a fork could break, and
threads may use it together. Remote stores are read through zarr-python.
"""

import json
import mmap
import os
from dataclasses import dataclass, field
from functools import cached_property
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


@dataclass
class LocalReader:
    """Samples of one split on a local disk."""

    files: LocalFiles
    split: str
    sample: SampleFormat
    shard_size: int
    _shards: dict[int, tuple[memoryview, NDArray[np.uint64]]] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:  # maps don't travel to another process
        return {**self.__dict__, "_shards": {}}

    def shard(self, number: int) -> tuple[memoryview, NDArray[np.uint64]]:
        """A shard's bytes, mapped, and its index (shard_size, K, 2), checked."""
        known = self._shards.get(number)
        if known is None:
            path = self.files.root / shard_key(self.split, self.sample, number)
            try:
                with path.open("rb") as file:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:  # ValueError: an empty file
                raise StoreError(f"{path}: can't be read ({error}); convert again") from None
            data = memoryview(mapped)
            known = data, read_index(data, self.sample, self.shard_size, str(path))
            self._shards[number] = known
        return known

    def read(self, index: int, out: NDArray[Any]) -> None:
        """See `SampleReader.read`."""
        number, slot = divmod(index, self.shard_size)
        data, entries = self.shard(number)
        for plane in range(self.sample.planes):
            where = f"{self.files.where}/{self.split}, shard {number}, sample {index}"
            read_chunk(data, entries[slot, plane], out[plane], where)


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
        return list(json.loads(self.files.read(SKIPPED_KEY) or b"[]"))

    def split(self, name: str) -> Split:
        """A split; OptionError tells which there are."""
        if name not in self.splits:
            there = ", ".join(self.splits) or "none"
            raise OptionError(f"{self.files.where}: no split {name!r}; there are: {there}")
        return self.splits[name]


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
    names = header.parameters.get("split_names", [])
    return Store(files, header, {str(name): Split(files, str(name), header) for name in names})


def _incomplete(files: Files) -> IncompleteStoreError:
    return IncompleteStoreError(
        f"{files.where}: its conversion has not finished; call the same `eventdata convert` again "
        "to finish it"
    )
