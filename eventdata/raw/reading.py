"""Read the events of one recording in the order of time, whole or a piece, in bounded memory.

A recording is surveyed once, in all its chunks, which gives its clock and where each chunk begins:

    chunks     |-- place 0 --|-- place 1 --|-- place 2 --|
    numbers    0 ........... n1 .......... n2 ..........        of events
    excerpt                     |== ranges ==|                  read from place 1

The same survey of a recording serves all its pieces: the list of samples has the excerpt of each.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.events import Events, SensorSize, count_events, in_order, join
from eventdata.files.inputs import Numbers
from eventdata.formats.decoding import DecodeOptions, Place, add_note
from eventdata.formats.recording import read_recording
from eventdata.kernels.clock import RunFinder, Runs, first_at
from eventdata.raw.clock import Clock, Segment, study
from eventdata.raw.framed import Stream
from eventdata.units import ASK, NAMES, UNITS, TimeFacts, TimeUnit, infer_unit

KEPT_EVENTS = 1 << 23  # 100 MB: events that are kept where more than one pass needs them
CARRIED_EVENTS = 1 << 23  # 100 MB: events that wait until all earlier ones were read
MAX_PIECES = 1 << 20  # of one recording: more means a damaged time stamp or a wrong unit
HELD_CHUNKS = 4  # chunks that the next piece may need again
Index = NDArray[np.int64]


class Excerpt(NamedTuple):
    """The place of the events of a piece of a recording, for `Reader.excerpt`.

    place: the chunk to read from; ranges: numbers of events, from 0 at that chunk; span: first tick
    and end; lateness: see `Clock`.
    """

    place: Place
    ranges: Sequence[tuple[int, int]]
    span: tuple[int, int]
    lateness: int
    unit: TimeUnit = "us"

    @classmethod
    def of_row(cls, row: Sequence[int]) -> "Excerpt":
        """Return the excerpt that a row of int64 describes; see `Pieces`."""
        offset, state, start, length, lateness, unit, *bounds = row
        pairs = zip(bounds[::2], bounds[1::2], strict=True)
        ranges = [(low, high) for low, high in pairs if low < high]
        span = start, start + length
        return cls(Place(offset, state), ranges, span, lateness, list(UNITS)[unit])

    def in_order(self, chunks: Iterable["_Held"]) -> Iterator[Events]:
        """Yield the events in the order of time, given the chunks from ``place``.

        Raises:
            InputError: the chunks end too early, or are too far from the order of time.
        """
        if not self.lateness:
            yield from self._parts(chunks)
            return
        pool = None
        for part in self._parts(chunks):
            if pool is None or not len(pool):
                pool = part
            elif len(pool) > CARRIED_EVENTS:
                raise InputError(
                    f"time falls by up to {self.lateness:,} us, so that more than "
                    f"{CARRIED_EVENTS:,} events have to be sorted at once; sort the events by time"
                )
            else:
                pool = in_order(join([pool, part]))
            if len(pool):
                final = first_at(pool["t"], int(pool["t"][-1]) - self.lateness + 1)
                yield pool[:final]
                pool = pool[final:]
        if pool is not None:
            yield pool

    def _parts(self, chunks: Iterable["_Held"]) -> Iterator[Events]:
        """Yield the events in each chunk, in the order of time."""
        start, end = self.span
        read, last = 0, self.ranges[-1][1]
        for chunk in chunks:
            count = len(chunk.events)
            inside = [(max(low - read, 0), min(high - read, count)) for low, high in self.ranges]
            part = chunk.part(tuple(one for one in inside if one[0] < one[1]), self.lateness > 0)
            times = part["t"]
            yield part[first_at(times, start) : first_at(times, end)]
            read += count
            if read >= last:
                return
        raise InputError("shorter than when it was listed; run the same command again")


@dataclass
class _Held:
    """Checked events of a chunk in the order of the file, and the part that was last read."""

    place: Place
    events: Events
    _part: tuple[object, Events] | None = None

    def part(self, ranges: tuple[tuple[int, int], ...], sort: bool) -> Events:
        """Return the events in ranges of their numbers, sorted by time."""
        if self._part is None or self._part[0] != (ranges, sort):
            parts = [self.events[low:high] for low, high in ranges] or [self.events[:0]]
            part = join(parts)
            self._part = (ranges, sort), in_order(part) if sort else part
        return self._part[1]


@dataclass
class Reader:
    """A recording from a sensor of a size (W, H), and the chunks that were read last.

    unit: unit of its times, once known; skipped: events off the sensor, after all chunks were read.
    """

    path: Path
    size: SensorSize
    options: DecodeOptions
    unit: TimeUnit | None = None
    skipped: int = 0
    _held: deque[_Held] = field(default_factory=deque)
    _rest: Iterator[_Held] | None = None

    def __post_init__(self) -> None:
        self._recording = read_recording(self.path, self.options)
        stated = self._recording.sensor_size
        if stated is not None and stated != self.size:
            raise InputError(
                f"{self.path}: a sensor of {stated[0]}x{stated[1]} pixels, not "
                f"{self.size[0]}x{self.size[1]} as the first recording or --sensor-size; make a "
                "store for each size"
            )

    def chunks(self, place: Place | None = None) -> Iterator[_Held]:
        """Yield checked chunks, from the place of one of them or all."""
        options = self.options
        if self.unit is not None:
            options = replace(options, time_unit=self.unit)
        checker = self._recording.checker(self.size, options, str(self.path))
        for at, *columns in self._recording.chunks(place):
            held = _Held(at, checker.check(*columns))
            if self.unit is None and checker.facts is not None and checker.time_unit is not None:
                self._note_unit(checker.facts, checker.time_unit)
            self.unit = checker.time_unit
            yield held
        if place is None:
            checker.finish()
            self.skipped = checker.skipped

    def _note_unit(self, facts: TimeFacts, unit: TimeUnit) -> None:
        """Note a unit that no other recording has, or that is not what the values suggest."""
        own = infer_unit(facts)
        read_as = f"its times were read as {NAMES[unit]}"
        if self.options.expected_unit is None:
            add_note(self.notes, f"{read_as}, since no unit is stated; {ASK} if this is wrong")
        elif own is not None and own != unit:
            add_note(
                self.notes,
                f"{read_as} as those of the first recording, but suggest {NAMES[own]}; {ASK} if "
                "this is wrong",
            )

    @property
    def notes(self) -> list[str]:
        """Return the remarks for the user after all chunks were read."""
        return self._recording.notes

    def chunks_again(self, place: Place) -> Iterator[_Held]:
        """Yield the chunks from a place, those that are still held without reading them."""
        while self._held and self._held[0].place != place:
            self._held.popleft()
        if not self._held:
            self._rest = self.chunks(place)
        yield from list(self._held)
        assert self._rest is not None
        for chunk in self._rest:
            self._held.append(chunk)
            if len(self._held) > HELD_CHUNKS:
                self._held.popleft()
            yield chunk

    def excerpt(self, excerpt: Excerpt) -> Stream:
        """Return the events of a piece."""
        return Stream(
            lambda: excerpt.in_order(self.chunks_again(excerpt.place)), excerpt.span, None
        )


@dataclass
class Survey:
    """Facts about a recording from one pass over its C chunks.

    numbers: number of the first event of each chunk, and of all events (C + 1,); tops: the
    greatest time before each chunk in its run (C,); kept: the chunks, if they are few.
    """

    reader: Reader
    clock: Clock
    places: list[Place]
    numbers: Index
    tops: Index
    runs: Runs
    kept: list[_Held] | None

    def whole(self) -> Stream:
        """Return all events, each segment after the one before it."""
        segments = self.clock.segments
        count = sum(segment.events for segment in segments)
        first = segments[0].first
        ordered = not self.clock.lateness and len(segments) == 1 and count == self.numbers[-1]
        if ordered and self.kept is not None:  # as in most recordings
            kept = [chunk.events for chunk in self.kept]
            return Stream(lambda: kept, (first, first + segments[0].span), count)
        return Stream(self._whole, (first, first + sum(one.span for one in segments)), count)

    def _whole(self) -> Iterator[Events]:
        end = self.clock.segments[0].first
        for segment in self.clock.segments:
            for events in self._events(segment):
                if end != segment.first:
                    events = events.copy()
                    events["t"] += end - segment.first
                yield events
            end += segment.span

    def _events(self, segment: Segment) -> Iterator[Events]:
        chunk = int(np.searchsorted(self.numbers, segment.ranges[0][0], "right")) - 1
        start = int(self.numbers[chunk])
        ranges = [(low - start, high - start) for low, high in segment.ranges]
        span = segment.first, segment.last + 1
        excerpt = Excerpt(self.places[chunk], ranges, span, self.clock.lateness)
        chunks = self.reader.chunks(self.places[chunk]) if self.kept is None else self.kept[chunk:]
        return excerpt.in_order(chunks)

    def pieces(self, every: int) -> "Pieces":
        """Return the pieces of ``every`` ticks, from the first tick of each segment.

        The rest that does not fill a piece is skipped, but a shorter recording is one piece. Pieces
        without events are skipped too; numbers are those in time.

        Raises:
            InputError: there would be more than ``MAX_PIECES``.
        """
        segments = self.clock.segments
        long = [one for one in segments if one.span >= every] or segments[:1]
        numbers, rows, before, rest, empty = [], [], 0, 0, 0
        for segment in segments:
            count = max(segment.span // every, 1) if segment in long else 0
            rest += max(segment.span - count * every, 0)
            if not count:
                continue
            if self.clock.widest < every or count == 1:
                _check_count(self.reader.path, count, segment.span, every)
                found = np.arange(count)
            else:
                found = self._occupied(segment, every, count)
            empty += count - len(found)
            numbers.append(before + found)
            rows.append(self._excerpts(segment, found, every))
            before += count
        width = max(part.shape[1] for part in rows)
        padded = [np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in rows]
        return Pieces(np.concatenate(numbers), np.concatenate(padded), rest, empty)

    def _occupied(self, segment: Segment, every: int, count: int) -> Index:
        """Return the numbers of the pieces of a segment that have events."""
        found: list[Index] = []
        total, last = 0, -1
        for events in self._events(segment):
            piece = np.unique((events["t"] - segment.first) // every)
            piece = piece[(piece < count) & (piece > last)]
            if len(piece):
                last = int(piece[-1])
                found.append(piece)
                total += len(piece)
                _check_count(self.reader.path, total, segment.span, every)
        return np.concatenate(found)

    def _excerpts(self, segment: Segment, numbers: Index, every: int) -> Index:
        """Return a row for each piece, for `Excerpt.of_row`."""
        ranges = np.array(segment.ranges, np.int64)  # (R, 2)
        inside = (self.numbers[:-1] < ranges[-1, 1]) & (self.numbers[1:] > ranges[0, 0])
        chunks = np.flatnonzero(inside)
        # The greatest time of the segment before each of its chunks: what follows is not earlier
        # than that less the lateness.
        tops = np.array([self._top_before(segment, chunk) for chunk in chunks[1:]], np.int64)
        length, late = min(every, segment.span), self.clock.lateness
        starts = segment.first + numbers * length
        first = chunks[np.searchsorted(tops, starts)]
        last = chunks[np.searchsorted(tops, starts + (length + late))]
        begin, end = self.numbers[first, None], self.numbers[last + 1, None]  # (N, 1)
        # The ranges that overlap with these chunks, from the first one on.
        low = np.searchsorted(ranges[:, 1], begin[:, 0], "right")
        most = int((np.searchsorted(ranges[:, 0], end[:, 0]) - low).max())
        chosen = low[:, None] + np.arange(most)  # (N, most)
        beyond = chosen >= len(ranges)
        bounds = ranges[chosen.clip(max=len(ranges) - 1)].clip(begin[..., None], end[..., None])
        bounds -= begin[..., None]
        bounds[beyond | (bounds[..., 0] >= bounds[..., 1])] = 0
        places = np.array(self.places, np.int64)[first]
        shared = np.array([every, late, list(UNITS).index(self.reader.unit or "us")])
        columns = [places, starts[:, None], np.tile(shared, (len(starts), 1))]
        return np.concatenate([*columns, bounds.reshape(len(starts), -1)], axis=1)

    def _top_before(self, segment: Segment, chunk: int) -> int:
        """Return the greatest time of a segment before a chunk other than its first."""
        number = self.numbers[chunk]
        runs = self.runs
        inside = np.zeros(len(runs.start), bool)
        for low, high in segment.ranges:
            inside |= (runs.start >= low) & (runs.stop <= high)
        ended = inside & (runs.stop < number)
        open_run = inside & (runs.start < number) & (runs.stop >= number)
        tops = [int(self.tops[chunk])] if open_run.any() else []
        return int(max([*tops, *runs.top[ended].tolist()]))


class Pieces(NamedTuple):
    """The pieces of a recording (N,)."""

    numbers: Index
    rows: Index  # of `Excerpt.of_row`
    rest: int  # ticks after the last piece of each segment
    empty: int  # pieces without events, which are skipped


def survey(path: Path, size: SensorSize, options: DecodeOptions, *, cut: bool = False) -> Survey:
    """Read a recording once, from a sensor of that size (W, H).

    Raises:
        InputError: the recording can't be read, is of another sensor, or has no events.
    """
    reader = Reader(path, size, options)
    kept: list[_Held] | None = []
    places: list[Place] = []
    numbers, tops = [0], [0]

    def chunks() -> Iterator[_Held]:
        nonlocal kept
        for chunk in reader.chunks():
            places.append(chunk.place)
            if kept is not None:
                kept.append(chunk)
                if len(kept) > 1 and numbers[-1] + len(chunk.events) > KEPT_EVENTS:
                    kept = None
            yield chunk

    runs: list[Runs] = []

    def find(disorder: int, gap: int) -> Runs:
        finder = RunFinder(disorder, gap)
        numbers[1:], tops[1:] = [], []
        again = kept if kept is not None else reader.chunks()
        for chunk in again if places else chunks():
            finder.add(chunk.events["t"])
            numbers.append(numbers[-1] + len(chunk.events))
            tops.append(finder.top)
        if not numbers[-1] and reader.skipped:
            raise InputError(
                f"{path}: all of its {count_events(reader.skipped)} are off the sensor of "
                f"{size[0]}x{size[1]} pixels; pass the correct --sensor-size"
            )
        if not numbers[-1]:
            raise InputError(f"{path}: no events in it; record it again, or remove it")
        runs[:] = [finder.finish()]
        return runs[0]

    clock = study(find, cut=cut)
    columns = np.array(numbers, np.int64), np.array(tops[:-1], np.int64)
    return Survey(reader, clock, places, *columns, runs[0], kept)


@lru_cache(maxsize=1)  # pieces of a recording come one after the other
def open_again(
    path: Path, _state: Numbers, size: SensorSize, options: DecodeOptions, unit: TimeUnit
) -> Reader:
    """Return a recording, opened once for all its pieces, and again if it changed."""
    return Reader(path, size, options, unit)


def _check_count(path: Path, pieces: int, span: int, every: int) -> None:
    if pieces > MAX_PIECES:
        raise InputError(
            f"{path}: a recording of {span:,} us makes {pieces:,} samples of {every:,} us, more "
            f"than {MAX_PIECES:,}; check its times and their unit, or choose longer samples"
        )
