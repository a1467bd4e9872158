"""Open a store and read samples from it.

On a local disk `store.read_local` reads them, behind a URL `store.read_remote`, by byte ranges.

Shapes: N samples, K planes, H rows, W columns, P polarities.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import IncompleteStoreError, OptionError, StoreError
from eventdata.files import WORK, Files, open_files
from eventdata.files.local import MAX_ARRAY_DOCUMENT, MAX_HEADER, MAX_SKIPPED, LocalFiles
from eventdata.files.remote import RemoteFiles
from eventdata.files.zipped import ZipFiles
from eventdata.store.columns import read_column
from eventdata.store.layout import (
    CONVERT_AGAIN,
    HEADER_KEY,
    IMAGE,
    SKIPPED_KEY,
    Header,
    SampleFormat,
    parse_header,
    parse_sample_array,
)
from eventdata.store.read_local import LocalReader, ManyReader
from eventdata.store.read_remote import RemoteReader


class SampleReader(Protocol):
    """Reads samples of a split by their index in the store."""

    def read(self, index: int, out: NDArray[Any]) -> None:
        """Fill out (K, H, W, P) with sample ``index``; StoreError if it is damaged."""

    def fetch(self, indices: Sequence[int]) -> "SampleReader":
        """Return a reader of these samples; their bytes are requested together if that helps."""


class OrderedReader(SampleReader, Protocol):
    """Reads samples in any order, and ahead of their use in a known order."""

    def ahead(
        self, order: Sequence[int], window: int
    ) -> contextlib.AbstractContextManager[SampleReader]:
        """Open a reader of samples in an order that uses ``window`` shards at a time.

        While it is open, it may read shards before they are used.
        """


class SplitReader(OrderedReader, Protocol):
    """Reads samples of one split."""

    split: str
    sample: SampleFormat
    shard_size: int


class AnySplit(Protocol):
    """The columns and the reader of a split, or of several as one."""

    sample: SampleFormat

    @property
    def where(self) -> str:
        """The place, for messages."""

    @property
    def event_counts(self) -> NDArray[np.uint32]:
        """Events in each sample's frames (N,)."""

    @property
    def sample_names(self) -> NDArray[np.object_]:
        """The name of each sample (N,)."""

    def __len__(self) -> int: ...

    def shards(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the shard in which each sample lies (N,)."""

    def reader(self) -> OrderedReader:
        """Return a reader of the samples."""


def read_samples(reader: SampleReader, indices: Sequence[int], out: NDArray[Any]) -> None:
    """Fill out (N, K, H, W, P) with samples; those on a local disk by one call."""
    if isinstance(reader, ManyReader):
        reader.read_many(indices, out)
    else:
        for index, place in zip(indices, out, strict=True):
            reader.read(index, place)


def _column(name: str) -> Any:
    """Return a property that reads a column (N,) of a split when it is first used."""
    return cached_property(lambda split: split.column(name))


class Split:
    """One split of a store: its columns, read when first used, and its samples."""

    labels: cached_property[NDArray[np.int32]] = _column("label")
    """-1 for skipped samples whose label is unknown."""
    event_counts: cached_property[NDArray[np.uint32]] = _column("event_count")
    """Events in each sample's frames: set cells, or the sum of counts."""
    valid: cached_property[NDArray[np.bool_]] = _column("valid")
    """False for skipped samples."""
    sample_names: cached_property[NDArray[np.object_]] = _column("name")
    input_sizes: cached_property[NDArray[np.uint64]] = _column("input_size")
    """Bytes of each sample's raw file, 0 without one."""
    input_times: cached_property[NDArray[np.int64]] = _column("input_time")
    """Time of change of each sample's raw file, ns since 1970."""

    def __init__(self, files: Files, name: str, header: Header) -> None:
        self.files = files
        self.name = name
        array = "images" if header.representation == IMAGE else "frames"
        key = f"{name}/{array}/zarr.json"
        where = f"{files.where}/{key}"
        document = files.read(key, MAX_ARRAY_DOCUMENT)
        if document is None:
            raise StoreError(f"{where}: missing; {CONVERT_AGAIN}")
        self.sample, self.count, self.shard_size = parse_sample_array(document, header, where)

    def __len__(self) -> int:
        return self.count

    @property
    def where(self) -> str:
        """The store, for messages."""
        return self.files.where

    def shards(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the shard in which each sample lies (N,)."""
        return indices // self.shard_size

    def column(self, name: str) -> NDArray[Any]:
        """Read a column (N,); raise StoreError if it is damaged or of another length."""
        values = read_column(self.files, self.name, name)
        if len(values) != self.count:
            raise StoreError(
                f"{self.files.where}/{self.name}/{name}: {len(values)} values for {self.count} "
                f"samples; {CONVERT_AGAIN}"
            )
        return values

    def reader(self) -> SplitReader:
        """Return a reader of this split's samples."""
        place = self.name, self.sample, self.shard_size
        if isinstance(self.files, LocalFiles | ZipFiles):
            return LocalReader(self.files, *place)
        if isinstance(self.files, RemoteFiles):
            return RemoteReader(self.files, *place)
        raise TypeError(f"no reader for {type(self.files).__name__}")


@dataclass(frozen=True)
class Store:
    """An open store."""

    files: Files
    header: Header
    splits: dict[str, Split]

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the parameters and of all samples' names, labels, sizes and event counts.

        Converting the same data again, elsewhere or later, results in the same digest.
        """
        digest = hashlib.sha256(self.header.parameters_sha256.encode())
        for name, split in sorted(self.splits.items()):
            digest.update(json.dumps([name, split.sample_names.tolist()]).encode())
            for values in (split.labels, split.input_sizes, split.event_counts, split.valid):
                digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()

    @property
    def skipped(self) -> list[dict[str, Any]]:
        """The samples that were skipped, each with split, index, name and reason."""
        return read_skipped(self.files)

    @property
    def default_split(self) -> str:
        """The split train, or the only one; OptionError if there are others."""
        if "train" not in self.splits and len(self.splits) != 1:
            found = ", ".join(self.splits) or "no splits"
            raise OptionError(f"{self.files.where}: no split 'train' but {found}; pass split=")
        return "train" if "train" in self.splits else next(iter(self.splits))

    def split(self, name: str) -> Split:
        """Return a split; OptionError lists the splits that exist."""
        if name not in self.splits:
            found = ", ".join(self.splits) or "no splits"
            raise OptionError(f"{self.files.where}: no split {name!r}; the store has {found}")
        return self.splits[name]


def read_skipped(files: Files) -> list[dict[str, Any]]:
    """Return the entries of ``skipped.json``, if it exists; raise StoreError if it is damaged."""
    content = files.read(SKIPPED_KEY, MAX_SKIPPED)
    try:
        entries = json.loads(content or b"[]")
        sound = all(
            isinstance(entry["index"], int)
            and all(isinstance(entry[key], str) for key in ("split", "name", "reason"))
            for entry in entries
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise StoreError(f"{files.where}/{SKIPPED_KEY}: damaged; {CONVERT_AGAIN}")
    return list(entries)


def open_store(place: str | os.PathLike[str]) -> Store:
    """Open a complete store at a path or URL.

    Raises:
        IncompleteStoreError: its conversion has not finished.
        StoreError: there is no store, or it is damaged or of a newer version.
    """
    files = open_files(place)
    document = files.read(HEADER_KEY, MAX_HEADER)
    if document is None and WORK not in files.names():
        raise StoreError(
            f"{files.where}: no store found (no {HEADER_KEY}); create one with `eventdata convert`"
        )
    header = None if document is None else parse_header(document, files.where)
    if header is None or not header.complete:
        raise IncompleteStoreError(
            f"{files.where}: its conversion has not finished; run the same `eventdata convert` "
            "again to finish it"
        )
    return Store(files, header, {name: Split(files, name, header) for name in header.split_names})
