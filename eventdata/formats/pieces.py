"""Read the binary words of a recording piece by piece, and decode each piece with a kernel."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.formats.decoding import END_MISSING, Chunk, Place, add_note

CHUNK_EVENTS = 1 << 17  # fewer than in other formats: words and columns stay in the cache
HEADER_BYTES = 1 << 16  # at the start of a file, more than any header has

LONGEST = 8  # bytes of an event


def head(path: Path) -> bytes:
    """Return the first bytes of a file, which hold its header."""
    with path.open("rb") as file:
        return file.read(HEADER_BYTES)


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """The events of a file of rows of words, from a byte of the file to its end.

    kernel: a function of ``kernels.recordings``; state: the numbers that it begins with.
    start: the byte of the first row; dtype: the type of a word; width: words in a row.
    most: events that a row may hold; coordinates: the type of x and y.
    fault: the error for words that the kernel does not know.
    notes: those of the recording.

    A kernel that carries more than one number needs a subclass with its own `leave` and `enter`.
    """

    path: Path
    kernel: Callable[..., tuple[int, int]]
    start: int = 0
    dtype: str
    width: int = 1
    most: int = 1
    coordinates: str = "u2"
    state: tuple[int, ...] = (0,)
    fault: str = "damaged: {count:,} words of unknown types ({types}); get it again"
    notes: list[str] = field(default_factory=list)

    def leave(self, state: NDArray[np.int64]) -> int:
        """Return the state as one number."""
        return int(state[0])

    def enter(self, place: Place) -> NDArray[np.int64]:
        """Return the state at a place."""
        return np.array([place.state, *self.state[1:]], np.int64)

    @cached_property
    def row_bytes(self) -> int:
        return self.width * np.dtype(self.dtype).itemsize

    @cached_property
    def end(self) -> int:
        """Return the size of the file."""
        return self.path.stat().st_size

    def check(self) -> None:
        """Raise InputError if there is no whole row."""
        if self.end < self.start + self.row_bytes:
            raise InputError("truncated: the file has no events")

    def chunks(self, place: Place | None = None) -> Iterator[Chunk]:
        """Yield the events from a place on; see `decoding.Recording`."""
        state = np.array(self.state, np.int64) if place is None else self.enter(place)
        offset = self.start if place is None else place.offset
        most = max(CHUNK_EVENTS * self.row_bytes, LONGEST)
        buffer = np.empty(min(most, max(self.end - offset, 0)), np.uint8)
        with self.path.open("rb", buffering=0) as file:
            while self.end - offset >= self.row_bytes:
                file.seek(offset)
                size = file.readinto(buffer.data) or 0
                words = np.frombuffer(buffer, self.dtype, size // self.row_bytes * self.width)
                here = Place(offset, self.leave(state))
                used, columns = self._decode(words, state)
                if not used:
                    break
                offset += used * self.row_bytes
                if len(columns[0]):
                    yield Chunk(here, *columns)
        if offset < self.end:
            add_note(self.notes, END_MISSING)

    def _decode(
        self, words: NDArray[Any], state: NDArray[np.int64]
    ) -> tuple[int, tuple[NDArray[Any], ...]]:
        """Return how many rows were used, and the columns x, y, t, p of their events."""
        if not words.dtype.isnative:
            words = words.astype(words.dtype.newbyteorder("="))
        rows = words.reshape(-1, self.width) if self.width > 1 else words
        room = min(len(rows) * self.most, CHUNK_EVENTS) + self.most
        dtypes = (self.coordinates, self.coordinates, np.int64, np.uint8)
        columns = tuple(np.empty(room, dtype) for dtype in dtypes)
        unknown = np.zeros(16, np.int64)
        used, found = self.kernel(rows, state, unknown, *columns)
        if unknown.any():
            types = ", ".join(map(str, np.flatnonzero(unknown)))
            raise InputError(self.fault.format(count=unknown.sum(), types=types))
        return used, tuple(column[:found] for column in columns)
