"""Events -> frames: by number of frames, window of time or number of events.

N events, T frames (steps), K planes (ceil(T/8) time bytes, or T counts), P polarities, H rows,
W columns. Channel 0 is positive (p true), channel 1 negative, as in the published data sets;
Tonic's channel is p itself, the other way round.

    axis    first ........................................ end      times, or numbers of events
    bins    [------ 0 ------)[------ 1 ------)[------ 2 ------)     frames, n_event_bins
    windows [---- 0 ----)                                           window, events_per_frame
             <stride>[---- 1 ----)
                             [---- 2 ----)..[-- incomplete --)

All windows and bins are half-open and counted in whole ticks. The time axis ends one tick after
the last event, which takes up a tick like any other: steps 1..8 are 8 windows of 1, not 7.

Frames are those of Tonic's ToFrame, but for what that leaves out or gets wrong: the end of the
sample by window (where the last event begins one) and by bins (which it makes too narrow), bins of
short samples, overlapping bins, empty samples, large counts, polarities of -1. The tests name each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from eventdata.errors import InputError, OptionError
from eventdata.events import Events

MAX_FRAMES = 1 << 16  # of one sample: more is a damaged time stamp or a window of the wrong unit

_OK, _BAD_COORDINATE, _TOO_MANY, _BAD_EDGE = 0, 1, 2, 3

Index = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How the events of a sample become frames: exactly one of the first four, and its details."""

    frames: int | None = None
    """T bins of equal time that cover the sample from its first event to its last."""

    n_event_bins: int | None = None
    """T bins of equally many events."""

    window: int | None = None
    """Ticks a frame (microseconds, or steps where times are steps)."""

    events_per_frame: int | None = None
    """Events a frame."""

    overlap: float = 0
    """What a frame shares with the next one: ticks or events (whole) for ``window`` and
    ``events_per_frame``; for bins the part of a bin, 0 up to 1, by which each is lengthened."""

    include_incomplete: bool = False
    """Whether the rest that does not fill a window is a frame too. A sample shorter than one
    window is a frame in any case."""

    steps: int | None = None
    """T for ``window`` and ``events_per_frame``, by which samples differ in length: shorter ones
    are padded with empty frames, longer ones cut."""

    representation: Literal["binary", "count"] = "binary"
    """Whether a cell says that there was an event, or how many."""

    merge_polarities: bool = False
    """One channel for both polarities instead of two."""

    def __post_init__(self) -> None:
        ways = {
            name: getattr(self, name)
            for name in ("frames", "n_event_bins", "window", "events_per_frame")
            if getattr(self, name) is not None
        }
        if len(ways) != 1:
            raise OptionError(
                "choose exactly one of frames, n_event_bins, window and events_per_frame, "
                f"not {' and '.join(ways) or 'none'}"
            )
        for name, value in {**ways, "steps": 1 if self.steps is None else self.steps}.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise OptionError(f"{name} is {value!r}: choose a whole number, 1 or more")
        if self.fixed_steps is not None and self.fixed_steps > MAX_FRAMES:
            raise OptionError(f"{self.fixed_steps:,} frames a sample: choose at most {MAX_FRAMES}")
        if self.representation not in ("binary", "count"):
            raise OptionError(f"representation is {self.representation!r}: binary or count")
        if self.size is None:
            if not 0 <= self.overlap < 1:
                raise OptionError(
                    f"overlap is {self.overlap}: a part of a bin, 0 up to, not with, 1"
                )
            if self.include_incomplete or self.steps is not None:
                raise OptionError(
                    "include_incomplete and steps go with window or events_per_frame; "
                    "bins are all complete, and as many as asked for"
                )
        elif not (0 <= self.overlap < self.size and float(self.overlap).is_integer()):
            raise OptionError(
                f"overlap is {self.overlap}: a whole number from 0 to {self.size - 1}, "
                "less than a frame"
            )

    @property
    def size(self) -> int | None:
        """Ticks or events of a window; None for bins."""
        return self.window if self.window is not None else self.events_per_frame

    @property
    def fixed_steps(self) -> int | None:
        """T where it is the same for all samples, else None."""
        return self.frames or self.n_event_bins or self.steps

    @property
    def polarities(self) -> int:
        """P."""
        return 1 if self.merge_polarities else 2

    def steps_in(self, ticks: int) -> int | None:
        """T of samples of so many ticks; None where each has its own."""
        if self.fixed_steps is not None or self.window is None:
            return self.fixed_steps
        stride = self.window - int(self.overlap)
        return _count_windows(ticks, self.window, stride, self.include_incomplete)


class FrameEdges(NamedTuple):
    """Frame i of a sample holds its events start[i]:stop[i]."""

    start: NDArray[np.int64]  # (T,)
    stop: NDArray[np.int64]  # (T,)
    frames_cut: int
    """Frames left out because the sample is longer than ``Framing.steps``."""
    events_left_out: int
    """Events after the last frame: of frames cut, or of an incomplete window."""


def frame_edges(
    t: NDArray[np.int64], framing: Framing, span: tuple[int, int] | None = None
) -> FrameEdges:
    """Which events belong to which frame.

    Args:
        t: ordered times (N,), of which N may be 0 (all frames are then empty, one if T is open).
        framing: how to cut.
        span: first tick and end of the sample where it is a piece of known length; without it, it
            begins with its first event and ends one tick after its last.

    Raises:
        InputError: the sample would have more than ``MAX_FRAMES`` frames.
    """
    by_time = framing.frames is not None or framing.window is not None
    if by_time and span is not None:
        first, end = span
    else:
        first, end = (int(t[0]), int(t[-1]) + 1) if by_time and len(t) else (0, len(t))
    size = framing.size
    if size is None:
        start, stop = _bins(first, end, framing.fixed_steps or 1, framing.overlap)
        found = kept = len(start)
    else:
        stride = size - int(framing.overlap)
        found = _count_windows(end - first, size, stride, framing.include_incomplete)
        kept = found if framing.steps is None else min(found, framing.steps)
        start, stop = _windows(first, end, size, stride, kept)
    if by_time:
        start, stop = _first_at(t, start), _first_at(t, stop)
    left_out = len(t) - int(stop[-1])
    if framing.steps is not None and kept < framing.steps:
        padding = np.full(framing.steps - kept, len(t), np.int64)
        start, stop = np.concatenate([start, padding]), np.concatenate([stop, padding])
    return FrameEdges(start, stop, found - kept, left_out)


def scatter_packed(
    x: NDArray[Any], y: NDArray[Any], p: NDArray[Any], edges: FrameEdges, out: NDArray[np.uint8]
) -> int:
    """Binary frames of a sample, packed, without a dense frame in between.

    Args:
        x, y, p: columns of checked events (N,); p true is positive.
        edges: of ``frame_edges``.
        out: uint8 (ceil(T/8), H, W, P), overwritten; P = 1 merges the polarities.

    Returns:
        How many cells of all frames are set.

    Raises:
        InputError: an event outside of (H, W).
    """
    return _run(_scatter_packed, x, y, p, edges, out, -(-len(edges.start) // 8), 1)


def scatter_counts(
    x: NDArray[Any], y: NDArray[Any], p: NDArray[Any], edges: FrameEdges, out: NDArray[Any]
) -> int:
    """Frames that count the events of each cell.

    Args:
        x, y, p, edges: as for ``scatter_packed``.
        out: any integer type, (T, H, W, P), overwritten; P = 1 merges the polarities.

    Returns:
        The sum of all counts.

    Raises:
        InputError: an event outside of (H, W), or more events in a cell than the type holds.
    """
    return _run(_scatter_counts, x, y, p, edges, out, len(edges.start), _largest(out.dtype))


def frame_events(
    events: Events, framing: Framing, out: NDArray[Any], span: tuple[int, int] | None = None
) -> tuple[int, FrameEdges]:
    """Fill ``out`` with the frames of checked events, by the framing's representation.

    ``out`` is (ceil(T/8), H, W, P) uint8 for binary frames, (T, H, W, P) for counts; ``span`` as
    for ``frame_edges``. Returns how many cells are set or the sum of the counts, and the edges.
    """
    edges = frame_edges(events["t"], framing, span)
    scatter = scatter_packed if framing.representation == "binary" else scatter_counts
    return scatter(events["x"], events["y"], events["p"], edges, out), edges


@cache
def _largest(dtype: np.dtype[Any]) -> int:
    """The largest value of an integer type; to ask each time costs a tenth of a small sample."""
    return int(np.iinfo(dtype).max)


def _bins(first: int, end: int, bins: int, overlap: float) -> tuple[Index, Index]:
    """Cut [first, end) into equal bins, to a tick; a bin has at least one, be it after the end."""
    span = max(end - first, bins)
    whole, rest = divmod(span, bins)
    i = np.arange(bins + 1)
    edges = np.minimum(first + i * whole + i * rest // bins, end)  # = first + i * span // bins
    if not overlap:
        return edges[:-1], edges[1:]
    extra = int(Fraction(str(overlap)) * span / bins)  # 0.3 of 10 is 3, not 2.999...
    return edges[:-1], np.minimum(edges[1:] + extra, end)


def _count_windows(span: int, size: int, stride: int, include_incomplete: bool) -> int:
    """How many windows ``span`` ticks or events have; one at least."""
    rest = span - size  # beyond the first window; less than 0 where that is incomplete
    return max((-(-rest // stride) if include_incomplete else rest // stride) + 1, 1)


def _windows(first: int, end: int, size: int, stride: int, count: int) -> tuple[Index, Index]:
    """The first ``count`` windows of [first, end)."""
    if count > MAX_FRAMES:
        raise InputError(
            f"{count:,} frames of {size:,} in {end - first:,}: more than {MAX_FRAMES:,}; check the "
            "times and the unit of the window, or set steps"
        )
    # A window may be longer than int64 goes; inside of the sample all sums are safe.
    start = first + np.arange(count) * min(stride, end - first)
    return start, np.minimum(start + min(size, end - first), end)


def _run(
    kernel: Callable[..., tuple[int, int, int]],
    x: NDArray[Any],
    y: NDArray[Any],
    p: NDArray[Any],
    edges: FrameEdges,
    out: NDArray[Any],
    planes: int,
    limit: int,
) -> int:
    """Run a kernel on what it can't harm, and say what it found wrong."""
    if out.ndim != 4 or out.shape[0] != planes or out.shape[3] not in (1, 2):
        raise ValueError(f"out is {out.shape}: it must be ({planes}, H, W, 1 or 2)")
    if not len(x) == len(y) == len(p):
        raise ValueError(f"the columns x, y, p have {len(x)}, {len(y)} and {len(p)} events")
    total, fault, i = kernel(x, y, p, edges.start, edges.stop, out, limit)
    if fault == _BAD_COORDINATE:
        raise InputError(
            f"event {i} lies at x={x[i]}, y={y[i]}, outside of a sensor of "
            f"{out.shape[2]} x {out.shape[1]} pixels; give the right sensor size"
        )
    if fault == _TOO_MANY:
        raise InputError(
            f"the pixel x={x[i]}, y={y[i]} has more events in one frame than {out.dtype} holds "
            f"({limit}); take shorter frames or a wider type"
        )
    if fault == _BAD_EDGE:
        raise ValueError(f"frame {i} has other events than the {len(x)} given")
    return total


@njit(cache=True, nogil=True)
def _first_at(t: Any, times: Any) -> Any:
    """Index of the first event at or after each time."""
    return np.searchsorted(t, times)


@njit(cache=True, nogil=True)
def _scatter_packed(
    x: Any, y: Any, p: Any, start: Any, stop: Any, out: Any, _limit: int
) -> tuple[int, int, int]:
    # Unsigned indices: one comparison finds negative ones too, and none has to be wrapped.
    height, width = np.uint64(out.shape[1]), np.uint64(out.shape[2])
    negative = np.uint64(out.shape[3] - 1)
    total = 0
    for k in range(out.shape[0]):
        out[k] = 0  # not all planes at once: this one is still in the cache when it is filled
        plane = out[k]
        for step in range(8 * k, min(8 * k + 8, len(start))):
            if start[step] < 0 or stop[step] > len(x):
                return total, _BAD_EDGE, step
            shift = np.uint8(7 - (step - 8 * k))
            bit = np.uint8(1 << shift)
            for i in range(start[step], stop[step]):
                column, row = np.uint64(x[i]), np.uint64(y[i])
                if column >= width or row >= height:
                    return total, _BAD_COORDINATE, i
                channel = np.uint64(0 if p[i] else negative)
                byte = plane[row, column, channel]
                total += 1 - ((byte >> shift) & 1)
                plane[row, column, channel] = byte | bit
    return total, _OK, 0


@njit(cache=True, nogil=True)
def _scatter_counts(
    x: Any, y: Any, p: Any, start: Any, stop: Any, out: Any, limit: int
) -> tuple[int, int, int]:
    height, width = np.uint64(out.shape[1]), np.uint64(out.shape[2])
    negative = np.uint64(out.shape[3] - 1)
    total = 0
    for step in range(len(start)):
        if start[step] < 0 or stop[step] > len(x):
            return total, _BAD_EDGE, step
        out[step] = 0
        plane = out[step]
        for i in range(start[step], stop[step]):
            column, row = np.uint64(x[i]), np.uint64(y[i])
            if column >= width or row >= height:
                return total, _BAD_COORDINATE, i
            channel = np.uint64(0 if p[i] else negative)
            count = plane[row, column, channel]
            if count == limit:
                return total, _TOO_MANY, i
            plane[row, column, channel] = count + 1
            total += 1
    return total, _OK, 0
