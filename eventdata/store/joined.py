"""Splits of several stores, read as one.

Sample i of split s has the index ``starts[s] + i``. Shapes: N samples, K planes, H rows, W columns,
P polarities.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import StoreError
from eventdata.store.layout import SampleFormat
from eventdata.store.read import AnySplit, OrderedReader, SampleReader
from eventdata.store.read_local import ManyReader


class JoinedSplits:
    """Several splits as one, with the columns of `eventdata.store.read.Split`.

    All samples have one format.
    """

    def __init__(self, parts: Sequence[AnySplit]) -> None:
        self.parts = list(parts)
        self.sample: SampleFormat = parts[0].sample
        self.starts: list[int] = np.cumsum([0, *map(len, parts)]).tolist()

    @property
    def where(self) -> str:
        """The places of all parts, for messages."""
        return " + ".join(part.where for part in self.parts)

    def __len__(self) -> int:
        return self.starts[-1]

    def _joined(self, column: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, column) for part in self.parts])

    @cached_property
    def event_counts(self) -> NDArray[np.uint32]:
        return self._joined("event_counts")

    @cached_property
    def sample_names(self) -> NDArray[np.object_]:
        return self._joined("sample_names")

    def shards(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the shard of each sample (N,); those of a later part have higher numbers."""
        found = np.empty_like(indices)
        first = 0
        for part, start in zip(self.parts, self.starts, strict=False):
            inside = (indices >= start) & (indices < start + len(part))
            found[inside] = part.shards(indices[inside] - start) + first
            last = part.shards(np.array([max(len(part) - 1, 0)]))
            first += int(last[0]) + 1
        return found

    def reader(self) -> "JoinedReader":
        """Return a reader of the samples of all parts."""
        return JoinedReader([part.reader() for part in self.parts], self.starts)


class _Joined(ManyReader):
    """Reads samples by their index in `JoinedSplits`, each by the reader of its part."""

    def __init__(self, readers: Sequence[SampleReader], starts: Sequence[int]) -> None:
        self._readers, self._starts = list(readers), list(starts)

    def _of(self, index: int) -> tuple[int, int]:
        """Return the part of a sample, and its index in it."""
        part = int(np.searchsorted(self._starts, index, "right")) - 1
        return part, index - self._starts[part]

    def _split(self, indices: Sequence[int]) -> list[list[int]]:
        """Return the indices in each part, in their order."""
        found: list[list[int]] = [[] for _ in self._readers]
        for part, inside in map(self._of, indices):
            found[part].append(inside)
        return found

    def read(self, index: int, out: NDArray[Any]) -> None:
        part, inside = self._of(index)
        self._readers[part].read(inside, out)

    def chunks(self, index: int) -> list[bytes]:
        part, inside = self._of(index)
        reader = self._readers[part]
        if not isinstance(reader, ManyReader):
            raise StoreError("samples behind a URL are read one by one")
        return reader.chunks(inside)

    def fetch(self, indices: Sequence[int]) -> "_Joined":
        parts = zip(self._readers, self._split(indices), strict=True)
        readers = [reader.fetch(inside) if inside else reader for reader, inside in parts]
        return _Joined(readers, self._starts)


class JoinedReader(_Joined):
    """The `OrderedReader` of `JoinedSplits`."""

    def __init__(self, readers: Sequence[OrderedReader], starts: Sequence[int]) -> None:
        super().__init__(readers, starts)
        self._ordered = list(readers)

    @contextlib.contextmanager
    def ahead(self, order: Sequence[int], window: int) -> Iterator[SampleReader]:
        with contextlib.ExitStack() as stack:
            parts = zip(self._ordered, self._split(order), strict=True)
            readers = [stack.enter_context(one.ahead(inside, window)) for one, inside in parts]
            yield _Joined(readers, self._starts)
