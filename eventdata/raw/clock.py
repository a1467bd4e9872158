"""Decide which events of a recording share one clock, where its time falls or jumps.

    time  . (skipped)                      . . . .      A segment is made of the runs
              . .                . . . . .              (kernels.clock) of one clock.
          . .     . . . (one     (another
                         segment) segment)

Cameras and recorders reset their clocks, send events that were left over from before the reset, and
damage single time stamps. The runs of such events are few and small, and are skipped with a note.
Where the parts on both sides are large, both are kept, one after the other, except for times since
1970: these do not start anew, so that the events are sorted.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from eventdata.events import Events, in_order, join
from eventdata.kernels.clock import NEAR, RunFinder, Runs
from eventdata.units import EPOCH, FEW, spell_seconds

# Sensors and drivers deliver events out of order by microseconds to some milliseconds; a reset
# moves the clock by the length of a recording. A tenth of a short recording is a fall in it.
DISORDER = 10_000  # ticks: microseconds, except in data in steps
SHORT = 10
GAP = 1_000_000  # ticks; the noise of a sensor makes events more often
SMALL = 100  # the part of a recording that may be skipped
FALLS = 4, 100  # more than 4 falls, each in less than 100 events on average: no clock at all
UNLIMITED = 2**62  # ticks

Note = tuple[str, str]
"""A remark in the same words for all recordings, and where it applies in this one."""


class Segment(NamedTuple):
    """Events of one clock."""

    ranges: tuple[tuple[int, int], ...]  # of their numbers in the recording
    first: int  # tick
    last: int  # tick

    @property
    def events(self) -> int:
        """Return the number of events."""
        return sum(stop - start for start, stop in self.ranges)

    @property
    def span(self) -> int:
        """Return the number of ticks."""
        return self.last - self.first + 1


class Clock(NamedTuple):
    """The clock of a recording.

    segments: in their order; notes: remarks for the user; lateness: the most by which an event is
    earlier than one before it in its segment; widest: the greatest gap in the recording, or more.
    """

    segments: list[Segment]
    notes: list[Note]
    lateness: int
    widest: int


def study(find: Callable[[int, int], Runs], *, cut: bool = False) -> Clock:
    """Return the clock of a recording with at least one event.

    Args:
        find: returns the runs of the recording for ``disorder`` and ``gap``; see `RunFinder`.
        cut: whether each segment has samples of its own.
    """
    runs = find(DISORDER, GAP)
    if len(runs.start) == 1 and not runs.late:  # as of most recordings, which may be many and small
        whole = Segment(((0, int(runs.stop[0])),), int(runs.low[0]), int(runs.top[0]))
        stands = whole.span == 1 and whole.events >= FEW
        notes = [("all events have the same time", f"{whole.first:,} us")] * stands
        return Clock([whole], notes, 0, runs.widest)
    disorder = min(DISORDER, int(runs.top.max() - runs.low.min()) // SHORT)
    if runs.lateness > disorder:
        runs = find(disorder, GAP)
    most, events = FALLS
    if runs.falls > max(most, int(runs.stop[-1]) // events) or (runs.full and runs.falls):
        runs = find(UNLIMITED, UNLIMITED)
        return _clock_of(runs, [0], [], UNLIMITED, cut)
    if runs.full:  # a recording with few events, far apart
        runs = find(disorder, UNLIMITED)
    skipped: list[int] = []
    kept = _skip_small(runs, _skip_wrong_times(runs, skipped, disorder), skipped, disorder)
    return _clock_of(runs, kept, skipped, disorder, cut)


def mend(events: Events) -> tuple[Events, list[Note]]:
    """Return events (N,) in the order of time, each segment after the one before it, and notes.

    ``events`` are in the order in which they were recorded.
    """

    def find(disorder: int, gap: int) -> Runs:
        finder = RunFinder(disorder, gap)
        finder.add(events["t"])
        return finder.finish()

    if not len(events):
        return events, []
    clock = study(find)
    if clock.lateness == 0 and [one.ranges for one in clock.segments] == [((0, len(events)),)]:
        return events, clock.notes
    parts = []
    end = clock.segments[0].first
    for segment in clock.segments:
        part = in_order(join([events[start:stop] for start, stop in segment.ranges]))
        if end != segment.first:
            part = part.copy()
            part["t"] += end - segment.first
        parts.append(part)
        end += segment.span
    return join(parts), clock.notes


def _is_fall(runs: Runs, before: int, after: int, disorder: int) -> bool:
    return bool(runs.low[after] < runs.top[before] - disorder)


def _skip_wrong_times(runs: Runs, skipped: list[int], disorder: int) -> list[int]:
    """Return the runs without the few events after which the clock returns to its time before."""
    sizes = (runs.stop - runs.start).tolist()
    kept, most = [0], sum(sizes) // SMALL
    while kept[-1] + 1 < len(sizes):
        last, resumed, size = kept[-1], kept[-1] + 1, 0
        doubtful = last + 1
        falls = _is_fall(runs, last, doubtful, disorder)
        for after in range(last + 2, len(sizes)):
            size += sizes[after - 1]
            if size > min(NEAR, most):
                break
            returns = falls or runs.low[after] < runs.low[doubtful]
            if returns and not _is_fall(runs, last, after, disorder):
                resumed, most = after, most - size
                break
        skipped += range(last + 1, resumed)
        kept.append(resumed)
    return kept


def _skip_small(runs: Runs, kept: list[int], skipped: list[int], disorder: int) -> list[int]:
    """Return the runs without small parts at falls and at huge jumps."""
    sizes = runs.stop - runs.start
    spans = runs.top - runs.low + 1
    most = int(sizes.sum()) // SMALL - int(sizes[skipped].sum())

    def skip(part: Sequence[int]) -> bool:
        nonlocal kept, most
        size = int(sizes[part].sum())
        if size > most or len(part) == len(kept):
            return False
        most -= size
        kept = [run for run in kept if run not in part]
        skipped.extend(part)
        return True

    parts = _parts(runs, kept, disorder)
    if len(parts) > 1:
        for part in sorted(parts, key=lambda part: int(sizes[part].sum())):
            skip(part)
    for part in _parts(runs, kept, disorder):
        for last in (False, True):
            while len(part) > 1:
                edge, rest = (part[-1], part[:-1]) if last else (part[0], part[1:])
                before, after = part[-2:] if last else part[:2]
                gap = int(runs.low[after] - runs.top[before])
                if gap <= max(int(spans[rest].sum()), GAP) or not skip([edge]):
                    break
                part = rest
    return kept


def _parts(runs: Runs, kept: Sequence[int], disorder: int) -> list[list[int]]:
    """Return the runs of each segment."""
    parts: list[list[int]] = []
    for run in kept:
        if parts and not _is_fall(runs, parts[-1][-1], run, disorder):
            parts[-1].append(run)
        else:
            parts.append([run])
    return parts


def _clock_of(
    runs: Runs, kept: Sequence[int], skipped: Sequence[int], disorder: int, cut: bool
) -> Clock:
    """Return segments and notes for the runs that were kept."""
    parts = _parts(runs, kept, disorder)
    falls = [part[0] for part in parts[1:]]
    if one_clock := runs.low[kept].min() > EPOCH[0] * 1e6:
        parts = [list(kept)]
    segments, lateness, jumps = [], runs.lateness, []
    for part in parts:
        ranges: list[tuple[int, int]] = []
        top = int(runs.top[part[0]])
        for run in part:
            start, stop, low = int(runs.start[run]), int(runs.stop[run]), int(runs.low[run])
            if ranges and ranges[-1][1] == start:
                start = ranges.pop()[0]
            ranges.append((start, stop))
            if low - top > GAP:
                jumps.append((low - top, run))
            lateness = max(lateness, top - low if run != part[0] else 0)
            top = max(top, int(runs.top[run]))
        segments.append(Segment(tuple(ranges), int(runs.low[part].min()), top))
    notes = _notes_of_skipped(runs, skipped, disorder)
    if falls:
        what = "each part follows on the one before"
        if one_clock:
            what = "the events were sorted, since times since 1970 are of one clock"
        elif cut:
            what = "each part has its own samples"
        notes.append((f"time falls, and {what}", _where(runs, falls)))
    events = sum(segment.events for segment in segments)
    mean = sum(int(runs.top[run] - runs.low[run]) for run in kept) / events
    far = [run for gap, run in jumps if gap > 1000 * mean]
    if far and len(jumps) * SMALL < events:
        notes.append(("time jumps forward", _where(runs, far)))
    if runs.late:
        often = "again and again" if disorder == UNLIMITED else "slightly"
        notes.append(
            (
                f"time falls {often}, and the events were sorted",
                f"{runs.late:,} events, by {_spell(runs.lateness)} at most, at event "
                f"{runs.latest:,}",
            )
        )
    widest = UNLIMITED if skipped else max(runs.widest, lateness)
    return Clock(segments, notes, lateness, widest)


def _notes_of_skipped(runs: Runs, skipped: Sequence[int], disorder: int) -> list[Note]:
    """Return the notes on skipped runs, by whether time falls or jumps there."""
    if not skipped:
        return []
    size = int((runs.stop - runs.start)[list(skipped)].sum())
    edges = sorted(
        {edge for run in skipped for edge in (run, run + 1) if 0 < edge < len(runs.start)}
    )
    falls = [edge for edge in edges if _is_fall(runs, edge - 1, edge, disorder)]
    verb = "falls" if falls else "jumps forward"
    share = 100 * size / int(runs.stop[-1])
    detail = f"{size:,} events, {share:.2g} % of all; {_where(runs, falls or edges)}"
    return [(f"time {verb}, and the few events of the other time were skipped", detail)]


def _where(runs: Runs, edges: Sequence[int]) -> str:
    """Return where time falls or jumps, at the first of some runs, and by how much."""
    edge = edges[0]
    before, after = int(runs.top[edge - 1]), int(runs.low[edge])
    verb = "falls" if after < before else "jumps"
    more = f", the first of {len(edges):,} times" if len(edges) > 1 else ""
    return (
        f"at event {int(runs.start[edge]):,} time {verb} from {before:,} to {after:,} us, by "
        f"{_spell(abs(after - before))}{more}"
    )


def _spell(ticks: int) -> str:
    return spell_seconds(ticks / 1e6)
