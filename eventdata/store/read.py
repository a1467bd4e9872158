"""Open a store and read samples from it.

On a local disk samples are read by a path of our own (`store.read_local`), behind a URL by ranges
(`store.read_remote`).
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
from eventdata.files.local import (
    MAX_ARRAY_DOCUMENT,
    MAX_HEADER,
    MAX_SKIPPED,
    LocalFiles,
    read_bounded,
)
from eventdata.files.remote import RemoteFiles
from eventdata.store.columns import read_column
from eventdata.store.layout import (
    HEADER_KEY,
    SKIPPED_KEY,
    Header,
    parse_header,
    parse_sample_array,
)
from eventdata.store.read_local import LocalReader
from eventdata.store.read_remote import RemoteReader


class SampleReader(Protocol):
    """Reads samples of a split by their index in the store."""

    def read(self, index: int, out: NDArray[Any]) -> None:
        """Fill out (K, H, W, P) with sample ``index``; StoreError where its bytes are damaged."""

    def fetch(self, indices: Sequence[int]) -> "SampleReader":
        """A reader of these samples, whose bytes are asked for together where that saves time."""


class SplitReader(SampleReader, Protocol):
    """Reads samples of a split in any order."""

    def ahead(
        self, order: Sequence[int], window: int
    ) -> contextlib.AbstractContextManager[SampleReader]:
        """A reader of samples in an order that keeps to shards, ``window`` of them at a time.

        While it is open it may get what comes next before it is asked for.
        """


def read_samples(reader: SampleReader, indices: Sequence[int], out: NDArray[Any]) -> None:
    """Fill out (N, K, H, W, P) with samples, by one call where they are on a local disk."""
    if isinstance(reader, LocalReader):
        reader.read_many(indices, out)
    else:
        for index, place in zip(indices, out, strict=True):
            reader.read(index, place)


class Split:
    """One split of a store: its columns, read when first used, and its samples."""

    def __init__(self, files: Files, name: str, header: Header) -> None:
        self.files = files
        self.name = name
        array = "images" if header.representation == "image" else "frames"
        key = f"{name}/{array}/zarr.json"
        document = read_bounded(files, key, MAX_ARRAY_DOCUMENT)
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

    def reader(self) -> SplitReader:
        """A reader of this split's samples."""
        if isinstance(self.files, LocalFiles):
            return LocalReader(self.files, self.name, self.sample, self.shard_size)
        if isinstance(self.files, RemoteFiles):
            return RemoteReader(self.files, self.name, self.sample, self.shard_size)
        raise TypeError(f"no reader for {type(self.files).__name__}")


@dataclass(frozen=True)
class Store:
    """An open store."""

    files: Files
    header: Header
    splits: dict[str, Split]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what is in it: parameters; of all samples names, labels, sizes, event counts.

        The same data converted again, elsewhere or later, has the same.
        """
        digest = hashlib.sha256(self.header.parameters_sha256.encode())
        for name, split in sorted(self.splits.items()):
            digest.update(json.dumps([name, split.sample_names.tolist()]).encode())
            for values in (split.labels, split.input_sizes, split.event_counts, split.valid):
                digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()

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
    content = read_bounded(files, SKIPPED_KEY, MAX_SKIPPED)
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
        raise StoreError(f"{files.where}/{SKIPPED_KEY}: damaged; convert again with --overwrite")
    return list(entries)


def open_store(place: str | os.PathLike[str]) -> Store:
    """Open a complete store at a path or URL.

    StoreError where there is none or it is damaged, IncompleteStoreError where its conversion has
    not finished.
    """
    files = open_files(place)
    document = read_bounded(files, HEADER_KEY, MAX_HEADER)
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
