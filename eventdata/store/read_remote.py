"""Read samples of a store behind a URL with few requests, made before their bytes are needed.

RemoteReader    reads a shard's index once, by a range of its end; then the range of each sample,
                those of neighbours as one, all ranges at once
ShardsAhead     reads whole shards in the order in which they are needed, before they are needed:
                one request for hundreds of samples

Shapes: K planes, H rows, W columns, P polarities.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import StoreError
from eventdata.files.remote import RemoteFiles
from eventdata.store.shard import MISSING, ShardReader, index_bytes, read_chunk

GAP = 1 << 16  # bytes; reading such a gap costs less than another request
PART = 1 << 23  # bytes of a request at most, except for larger samples
AHEAD_BYTES = 1 << 29  # of the shards that are held or being read
DOWNLOADS = 4
SPARSE = 5  # shards are read whole if at least one in five of their samples is wanted


class _Part(NamedTuple):
    """A piece of a shard: its offset and its bytes."""

    start: int
    data: memoryview


class RemoteReader(ShardReader[RemoteFiles]):
    """Reads samples of one split as a `SplitReader`; it can be shared, forked and pickled."""

    def read(self, index: int, out: NDArray[Any]) -> None:
        self.fetch([index]).read(index, out)

    def fetch(self, indices: Sequence[int]) -> "Fetched":
        numbers = {index // self.shard_size for index in indices}
        missing = [number for number in sorted(numbers) if number not in self._indices]
        size = index_bytes(self.sample, self.shard_size)
        tails = [(self.key(number), -size, None) for number in missing]
        found = self.files.read_parts(tails) if missing else []
        for number, tail in zip(missing, found, strict=True):
            self.add_index(number, tail)
        requests: list[tuple[int, int, int]] = []  # shard, start, stop
        places: dict[int, int] = {}  # sample -> its request
        for index in sorted(set(indices)):
            number = index // self.shard_size
            entries = self.entries(index)
            chunks = entries[entries[:, 0] != MISSING].tolist()
            if not chunks:
                continue  # `read` reports it
            start, stop = min(offset for offset, _ in chunks), max(map(sum, chunks))
            if requests:
                last, first, end = requests[-1]
                if last == number and start <= end + GAP and stop <= first + PART:
                    start, stop = first, max(end, stop)
                    requests.pop()
            requests.append((number, start, stop))
            places[index] = len(requests) - 1
        wanted = [(self.key(number), start, stop) for number, start, stop in requests]
        found = self.files.read_parts(wanted)
        parts = {
            index: _Part(requests[place][1], memoryview(found[place]))
            for index, place in places.items()
        }
        return Fetched(self, parts)

    @contextlib.contextmanager
    def ahead(self, order: Sequence[int], window: int) -> Iterator["RemoteReader | ShardsAhead"]:
        numbers = [index // self.shard_size for index in order]
        uses = Counter(numbers)
        sparse = len(order) * SPARSE < len(uses) * self.shard_size
        # The size of the first shard; the last one may be shorter.
        size = self.files.size(self.key(min(uses))) if uses else None
        held = max(2 * window, DOWNLOADS)
        scattered = most_open(numbers) > held
        if size is None or sparse or scattered or held * size > AHEAD_BYTES:
            yield self
            return
        with ThreadPoolExecutor(DOWNLOADS, "eventdata-ahead") as threads:
            shards = ShardsAhead(self, uses, held, threads)
            try:
                yield shards
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def decode(self, index: int, part: _Part, out: NDArray[Any]) -> None:
        """Fill out (K, H, W, P) from a part of the shard that holds the sample's chunks."""
        where = self.where(index)
        for plane, entry in zip(out, self.entries(index), strict=True):
            read_chunk(part.data, entry, plane, where, part.start)

    def load(self, number: int) -> _Part:
        """Read a whole shard; keep its index."""
        data = self.files.read(self.key(number))
        if data is None:
            where = f"{self.files.where}/{self.key(number)}"
            raise StoreError(f"{where}: the shard is missing; run `eventdata verify`")
        self.add_index(number, memoryview(data), len(data))
        return _Part(0, memoryview(data))


class Fetched:
    """Reads samples whose compressed bytes are in memory."""

    def __init__(self, reader: RemoteReader, parts: dict[int, _Part]) -> None:
        self._reader, self._parts = reader, parts

    def read(self, index: int, out: NDArray[Any]) -> None:
        nothing = _Part(0, memoryview(b""))  # of a sample without chunks, which `decode` reports
        self._reader.decode(index, self._parts.get(index, nothing), out)

    def fetch(self, indices: Sequence[int]) -> "Fetched":
        return self


def most_open(shards: Sequence[int]) -> int:
    """Return how many shards are at once between first and last use, in this order of use."""
    order = np.asarray(shards)
    first = np.unique(order, return_index=True)[1]
    last = len(order) - 1 - np.unique(order[::-1], return_index=True)[1]
    change = np.bincount(first, minlength=len(order)) - np.bincount(last, minlength=len(order))
    return int(np.cumsum(change).max(initial=0)) + 1


class ShardsAhead:
    """Reads samples from whole shards, which are read in order of first use, before it."""

    def __init__(
        self, reader: RemoteReader, uses: Counter[int], limit: int, threads: ThreadPoolExecutor
    ) -> None:
        """Read shards in the order of ``uses``, the samples of each; hold ``limit`` of them."""
        self._reader, self._left, self._limit, self._threads = reader, uses, limit, threads
        self._coming = iter(list(uses))
        self._held: dict[int, Future[_Part]] = {}
        self._lock = threading.Lock()
        self._fill()

    def fetch(self, indices: Sequence[int]) -> "ShardsAhead":
        return self

    def read(self, index: int, out: NDArray[Any]) -> None:
        number = index // self._reader.shard_size
        part = self._shard(number).result()
        self._reader.decode(index, part, out)
        with self._lock:
            self._left[number] -= 1
            if self._left[number] <= 0:
                self._held.pop(number, None)
                self._fill()

    def _shard(self, number: int) -> Future[_Part]:
        with self._lock:
            while number not in self._held:  # needed now, whatever the limit
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
