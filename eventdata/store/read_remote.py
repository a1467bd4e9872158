"""Read samples of a store behind a URL: few requests, made before they are waited for.

RemoteReader    a shard's index once, by one range of its end; then of each sample asked for
                its range of the shard, neighbours as one, all requests at once
ShardsAhead     whole shards in the order in which they will be needed, the next ones on their
                way, each let go after its last sample: one request for hundreds of samples
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import StoreError
from eventdata.files.remote import RemoteFiles
from eventdata.store.layout import SampleFormat, shard_key
from eventdata.store.shard import MISSING, index_bytes, index_of, parse_index, read_chunk

GAP = 1 << 16  # bytes not asked for that cost less than a request of their own
PART = 1 << 23  # bytes of one request at most, unless a sample has more
AHEAD_BYTES = 1 << 29  # of the shards that are held and on their way
DOWNLOADS = 4
SPARSE = 5  # a shard of which less than one in so many samples is wanted is not read whole

Index = NDArray[np.uint64]


class _Part(NamedTuple):
    """A piece of a shard: where it starts, and its bytes."""

    start: int
    data: memoryview


class RemoteReader:
    """Samples of one split. Threads may share it; it forks and pickles."""

    def __init__(
        self, files: RemoteFiles, split: str, sample: SampleFormat, shard_size: int
    ) -> None:
        self.files, self.split = files, split
        self.sample, self.shard_size = sample, shard_size
        self._indices: dict[int, Index] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteReader, (self.files, self.split, self.sample, self.shard_size)

    def read(self, index: int, out: NDArray[Any]) -> None:
        """See `SampleReader.read`."""
        self.fetch([index]).read(index, out)

    def fetch(self, indices: Sequence[int]) -> "Fetched":
        """See `SampleReader.fetch`."""
        self._fetch_indices({index // self.shard_size for index in indices})
        requests: list[tuple[int, int, int]] = []  # shard, start, stop
        places: dict[int, int] = {}  # sample -> its request
        for index in sorted(set(indices)):
            number = index // self.shard_size
            entries = self.entries(index)
            chunks = entries[entries[:, 0] != MISSING].tolist()
            if not chunks:
                continue  # told by its entries, when it is read
            start, stop = min(offset for offset, _ in chunks), max(map(sum, chunks))
            if requests:
                last, first, end = requests[-1]
                if last == number and start <= end + GAP and stop <= first + PART:
                    start, stop = first, max(end, stop)
                    requests.pop()
            requests.append((number, start, stop))
            places[index] = len(requests) - 1
        found = self.files.read_parts(
            [(self.key(number), start, stop) for number, start, stop in requests]
        )
        parts = [
            _Part(start, memoryview(data))
            for (_, start, _), data in zip(requests, found, strict=True)
        ]
        return Fetched(self, {index: parts[place] for index, place in places.items()})

    @contextlib.contextmanager
    def ahead(self, order: Sequence[int], window: int) -> Iterator["RemoteReader | ShardsAhead"]:
        """See `SampleReader.ahead`."""
        numbers = [index // self.shard_size for index in order]
        uses = Counter(numbers)
        sparse = len(order) * SPARSE < len(uses) * self.shard_size
        # Of the first shard: the last one may be short.
        size = self.files.size(self.key(min(uses))) if uses else None
        held = max(2 * window, DOWNLOADS)
        scattered = most_open(numbers) > held  # to hold each until its last use would take them all
        if size is None or sparse or scattered or held * size > AHEAD_BYTES:
            yield self
            return
        with ThreadPoolExecutor(DOWNLOADS, "eventdata-ahead") as threads:
            shards = ShardsAhead(self, uses, held, threads)
            try:
                yield shards
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def key(self, number: int) -> str:
        """Where a shard lies in the store."""
        return shard_key(self.split, self.sample, number)

    def decode(self, index: int, entries: Index, part: _Part, out: NDArray[Any]) -> None:
        """Fill out (K, H, W, P) from a part that holds a sample's chunks, by its index entries."""
        number = index // self.shard_size
        where = f"{self.files.where}/{self.split}, shard {number}, sample {index}"
        for plane, entry in enumerate(entries):
            here = entry if entry[0] == MISSING else entry - np.array([part.start, 0], np.uint64)
            read_chunk(part.data, here, out[plane], where)

    def entries(self, index: int) -> Index:
        """Where the chunks (K, 2) of a sample lie in its shard, once that is fetched."""
        number, slot = divmod(index, self.shard_size)
        entries: Index = self._indices[number][slot]
        return entries

    def load(self, number: int) -> _Part:
        """A whole shard; its index is kept."""
        data = self.files.read(self.key(number))
        where = f"{self.files.where}/{self.key(number)}"
        if data is None:
            raise StoreError(f"{where}: the shard is missing; see `eventdata verify`")
        view = memoryview(data)
        self._indices.setdefault(number, index_of(view, self.sample, self.shard_size, where))
        return _Part(0, view)

    def _fetch_indices(self, numbers: Iterable[int]) -> None:
        missing = [number for number in sorted(numbers) if number not in self._indices]
        if not missing:
            return
        size = index_bytes(self.sample, self.shard_size)
        ends = self.files.read_parts([(self.key(number), -size, None) for number in missing])
        for number, end in zip(missing, ends, strict=True):
            where = f"{self.files.where}/{self.key(number)}"
            self._indices[number] = parse_index(end, self.sample, self.shard_size, where)


class Fetched:
    """Samples whose compressed bytes have come."""

    def __init__(self, reader: RemoteReader, parts: dict[int, _Part]) -> None:
        self._reader, self._parts = reader, parts

    def read(self, index: int, out: NDArray[Any]) -> None:
        """See `SampleReader.read`."""
        nothing = _Part(0, memoryview(b""))  # a sample without chunks: told by its entries
        part = self._parts.get(index, nothing)
        self._reader.decode(index, self._reader.entries(index), part, out)

    def fetch(self, indices: Sequence[int]) -> "Fetched":
        """See `SampleReader.fetch`: they are here."""
        return self


def most_open(shards: Sequence[int]) -> int:
    """How many shards are between their first and their last use at once, in this order of use."""
    order = np.asarray(shards)
    first = np.unique(order, return_index=True)[1]
    last = len(order) - 1 - np.unique(order[::-1], return_index=True)[1]
    change = np.bincount(first, minlength=len(order)) - np.bincount(last, minlength=len(order))
    return int(np.cumsum(change).max(initial=0)) + 1


class ShardsAhead:
    """Samples of whole shards, which are fetched in order of their first use, before it."""

    def __init__(
        self,
        reader: RemoteReader,
        uses: Counter[int],
        limit: int,
        threads: ThreadPoolExecutor,
    ) -> None:
        """``uses``: how many samples of each shard, in order of use; ``limit``: shards held."""
        self._reader, self._left, self._limit, self._threads = reader, uses, limit, threads
        self._coming = iter(list(uses))
        self._held: dict[int, Future[_Part]] = {}
        self._lock = threading.Lock()
        self._fill()

    def fetch(self, indices: Sequence[int]) -> "ShardsAhead":
        """See `SampleReader.fetch`: they are on their way."""
        return self

    def read(self, index: int, out: NDArray[Any]) -> None:
        """See `SampleReader.read`; each sample of the order once."""
        number = index // self._reader.shard_size
        part = self._shard(number).result()
        self._reader.decode(index, self._reader.entries(index), part, out)
        with self._lock:
            self._left[number] -= 1
            if self._left[number] <= 0:
                self._held.pop(number, None)
                self._fill()

    def _shard(self, number: int) -> Future[_Part]:
        with self._lock:
            while number not in self._held:  # needed sooner than the limit would have it
                self._hold(next(self._coming, number))
            return self._held[number]

    def _fill(self) -> None:
        while len(self._held) < self._limit:
            number = next(self._coming, None)
            if number is None:
                return
            self._hold(number)

    def _hold(self, number: int) -> None:
        self._held[number] = self._threads.submit(self._reader.load, number)
