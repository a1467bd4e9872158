"""The contract of a decoder of recordings, and the helpers that decoders share."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.events import EventChecker, Events, Outside, SensorSize, count_events, in_order, join
from eventdata.settings import Settings, setting
from eventdata.units import TimeUnit, spell_seconds

CHUNK_EVENTS = 1 << 20  # in a chunk, about; they bound the memory of reading a long recording


class Place(NamedTuple):
    """The place where a chunk begins, in two numbers that each fit int64.

    offset: a byte, packet or row of the file; state: what the decoder carries to it from earlier
    events, such as the turns of the clock.
    """

    offset: int = 0
    state: int = 0


class Chunk(NamedTuple):
    """Consecutive events of a file as unchecked columns (N,), and where they begin in it."""

    place: Place
    x: NDArray[Any]
    y: NDArray[Any]
    t: NDArray[Any]
    p: NDArray[Any]


@dataclass(frozen=True)
class Recording:
    """A recording whose header was read, and its events chunk by chunk.

    chunks: called with None, yields all events in the order of the file; with the place of an
        earlier chunk, that chunk and those that follow, without reading what is before them where
        the format allows that. Raises as `Decoder`.
    sensor_size: (W, H); None where the file does not state it.
    time_unit: unit of t; None where neither the format nor the file states it.
    notes: remarks for the user, complete once the last chunk was read.
    """

    chunks: Callable[[Place | None], Iterator[Chunk]]
    sensor_size: SensorSize | None = None
    time_unit: TimeUnit | None = "us"
    notes: list[str] = field(default_factory=list)

    @classmethod
    def whole(
        cls,
        x: NDArray[Any],
        y: NDArray[Any],
        t: NDArray[Any],
        p: NDArray[Any],
        sensor_size: SensorSize | None = None,
        time_unit: TimeUnit | None = "us",
    ) -> "Recording":
        """Return a recording of one chunk, for formats that can't be read in parts."""
        return cls(lambda _: iter([Chunk(Place(), x, y, t, p)]), sensor_size, time_unit)

    def events(self, checker: EventChecker) -> Events:
        """Return all events that pass a checker, sorted by time, with a note if they were not."""
        checked = [checker.check(*chunk[1:]) for chunk in self.chunks(None)]
        checker.finish()
        recorded = join(checked)
        events = in_order(recorded)
        if events is not recorded:
            add_note(self.notes, _describe_falls(recorded["t"]))
        return events

    def checker(self, size: SensorSize | None, options: "DecodeOptions", name: str) -> EventChecker:
        """Return the checks of its events for a sensor of that size (W, H)."""
        unit = self.time_unit or options.time_unit
        return EventChecker(size, name, unit, options.outside, options.expected_unit)


def _describe_falls(t: NDArray[np.int64]) -> str:
    """Return a note on times (N,) that fall: how many events are late, by how much and where."""
    late = np.maximum.accumulate(t) - t
    worst = int(np.argmax(late))
    return (
        f"time falls, and the events were sorted: {count_events(int(np.count_nonzero(late)))}, by "
        f"{spell_seconds(int(late[worst]) / 1e6)} at most, at event {worst:,}"
    )


def _parse_columns(order: str) -> str:
    """Return an order of columns in lower case; raise ValueError if it is not one."""
    letters = "".join(re.split("[ ,]+", order.lower()))
    if sorted(letters.replace("-", "")) != list("ptxy"):
        raise ValueError(order)
    return letters


@dataclass(frozen=True, kw_only=True)
class DecodeOptions(Settings):
    """The user's statements about recordings, for what their files leave open.

    sensor_size: (W, H); None where the file has to state it.
    time_unit: unit of the times of a file that does not state it.
    expected_unit: the unit that the values of such times should suggest, without ``time_unit``.
    outside: what happens to events off the sensor.
    """

    stream: str | None = setting(
        None,
        "Stream of events to read from files with several, such as left; the first by default.",
    )
    columns: str | None = setting(
        None,
        "Order of the columns of tables without names, such as txyp; derived from their values by "
        "default.",
        form="the letters x, y, t and p in the order of the columns, - for one to skip",
        parse=_parse_columns,
    )
    sensor_size: SensorSize | None = None
    time_unit: TimeUnit | None = None
    expected_unit: TimeUnit | None = None
    outside: Outside = "fail"


class Decoder(Protocol):
    """The function ``read`` of a module that is listed in ``recording.DECODERS``.

    Rows count from the top, p is 1 for brighter. t is as stored, in the unit that the recording
    states, with the turns of a clock that wraps undone. Coordinates, polarities and the order of
    times are checked later. A chunk has about ``CHUNK_EVENTS`` events, so that memory does not grow
    with the recording. A file that ends inside an event or a packet, because its recorder was
    killed, is a shorter recording with the note ``END_MISSING``. One that ends between two events
    is a shorter recording where the format does not state their number.

    Raises:
        InputError: the file has no whole event, or holds something that its format does not
            allow. The message does not repeat the path.
        OptionError: a package for the format is missing.
        OSError: the file cannot be read.
    """

    def __call__(self, path: Path, options: DecodeOptions, /) -> Recording: ...


END_MISSING = "the end is missing; everything before it was read"


def add_note(notes: list[str], text: str) -> None:
    """Add a note to those of a recording once, however often its chunks are read."""
    if text not in notes:
        notes.append(text)


def header_lines(data: bytes, mark: bytes) -> tuple[list[str], int]:
    """Return the text lines at the start of a file that begin with ``mark``, and their length."""
    lines: list[str] = []
    start = 0
    while data.startswith(mark, start) and "% end" not in lines[-1:]:
        stop = data.find(b"\n", start)
        if stop < 0:
            raise InputError("truncated: the file ends inside its header; get it again")
        lines.append(data[start:stop].decode("latin-1").strip())
        start = stop + 1
    return lines, start


MAX_HEADER_BYTES = 1 << 24  # jAER's header has its preferences, some 100 kB
_COMMENT = re.compile(rb"#[^\0-\x08\x0b-\x1f]*(\r?\n)?")


def comment_lines(path: Path, last: str) -> tuple[list[str], int]:
    """Return the text lines at the start of a file that begin with #, and their length in bytes.

    Binary data may begin with the byte of # too; they rarely look like a line of text. ``last`` is
    the line at which a header ends that has one; before it, a comment may hold any bytes.
    """
    lines: list[str] = []
    start = 0
    with path.open("rb") as file:
        while last not in lines[-1:]:
            match = _COMMENT.fullmatch(line := file.readline(MAX_HEADER_BYTES))
            if match is None and not (line.startswith(b"#") and _is_ahead(file, last)):
                break
            if match is not None and not match[1]:
                raise InputError("truncated: the file ends inside its header; get it again")
            lines.append(line.decode("latin-1").strip())
            start += len(line)
    return lines, start


def _is_ahead(file: BinaryIO, line: str) -> bool:
    """Return whether a line is in what follows in a file, no further than a header is long."""
    place = file.tell()
    data = file.read(MAX_HEADER_BYTES)
    file.seek(place)
    return f"\n{line}".encode() in b"\n" + data


def choose_stream(streams: Mapping[str, str], wanted: str | None, notes: list[str]) -> str:
    """Return the stream of events to read, the first unless the user wants another, with a note.

    Args:
        streams: at least one stream: its key, and its name.
        wanted: key or name of the one to read.

    Raises:
        InputError: there is no such stream, or more than one.
    """
    listed = ", ".join(f"{key} ({name})" for key, name in streams.items())
    if wanted is None:
        first = next(iter(streams))
        if len(streams) > 1:
            add_note(
                notes,
                f"has {len(streams)} streams of events ({listed}), and {first} was read; pass "
                "--stream to choose another",
            )
        return first
    found = [key for key, name in streams.items() if wanted in (key, name)]
    if len(found) != 1:
        raise InputError(
            f"{len(found) or 'no'} streams {wanted!r} in the file; pass one of {listed}"
        )
    return found[0]


def prophesee_header(data: bytes) -> tuple[dict[str, str], int]:
    """Return a header of ``% key value`` lines as a dict, keys in lower case, and its length."""
    lines, start = header_lines(data, b"% ")
    if not lines:
        raise InputError("not a Prophesee file: it does not begin with '% '")
    pairs = (line[2:].partition(" ") for line in lines)
    return {key.lower(): value for key, _, value in pairs}, start


def header_size(width: str | None, height: str | None) -> SensorSize | None:
    """Return (W, H) from two header values where both are numbers above 0, else None."""
    numbers = [int(side) for side in (width, height) if side and re.fullmatch("[0-9]{1,5}", side)]
    return (numbers[0], numbers[1]) if len(numbers) == 2 and all(numbers) else None


def most_events(size: int) -> int:
    """Return a bound on the events in a compressed file of ``size`` bytes; real ones have fewer."""
    return max(1 << 21, 4 * size)
