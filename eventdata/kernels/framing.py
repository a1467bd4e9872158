"""Convert events into frames, by number of frames, window of time or number of events.

Legend: N events, T frames (steps), K planes (ceil(T/8) time bytes, or T frames), P polarities,
H rows, W columns. Channel 0 is positive (p true) and channel 1 negative, as in the published data
sets; Tonic has the opposite order, since its channel is p itself.

    axis    first ........................................ end      times, or numbers of events
    bins    [------ 0 ------)[------ 1 ------)[------ 2 ------)     frames, n_event_bins
    windows [---- 0 ----)                                           window, events_per_frame
             <stride>[---- 1 ----)
                             [---- 2 ----)..[-- incomplete --)

All windows and bins are half-open and counted in whole ticks. The time axis ends one tick after
the last event, which takes up a tick like any other: steps 1..8 are 8 windows of 1, not 7.

Frames equal those of Tonic's ToFrame, except where that is wrong; the tests name each case.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from eventdata.errors import InputError, OptionError
from eventdata.events import Events
from eventdata.kernels.representations import REPRESENTATIONS, Axis, Index, Representation
from eventdata.settings import Settings, setting
from eventdata.units import LATEST

MAX_FRAMES = 1 << 16  # per sample: more means a damaged time stamp or a window in the wrong unit
DEFAULT_TAU = 50_000  # microseconds


@dataclass(frozen=True, kw_only=True)
class Framing(Settings):
    """Settings for making frames from events; exactly one of the first four must be set."""

    frames: int | None = setting(
        None, "T frames of equal time, from the first event to the last.", least=1, most=MAX_FRAMES
    )
    n_event_bins: int | None = setting(
        None, "T frames with equal numbers of events.", least=1, most=MAX_FRAMES
    )
    window: int | None = setting(
        None, "Time per frame; needs --steps, or --every.", unit="microseconds", least=1
    )
    events_per_frame: int | None = setting(
        None, "Events per frame; needs --steps.", unit="events", least=1
    )
    overlap: int | float = setting(
        0,
        "Overlap of a frame with the next: microseconds with --window, events with "
        "--events-per-frame, otherwise a fraction of a frame.",
    )
    include_incomplete: bool = setting(
        False, "Keep the last frame if it does not fill --window or --events-per-frame."
    )
    steps: int | None = setting(
        None,
        "T frames per sample with --window or --events-per-frame; shorter samples are padded with "
        "empty frames, longer ones cut.",
        least=1,
        most=MAX_FRAMES,
    )
    representation: str = setting(
        "binary",
        "Value of a cell: 1 if it has events (binary), their number (count), their signed sum "
        "interpolated in time (voxel), or the decay since the last one (timesurface).",
        among=REPRESENTATIONS,
    )
    count_dtype: Literal["uint8", "uint16"] | None = setting(
        None, "Type of the counts; uint8 by default."
    )
    tau: int | None = setting(
        None,
        f"Time constant of the decay in time surfaces; {DEFAULT_TAU} by default.",
        unit="microseconds",
        least=1,
    )
    merge_polarities: bool = setting(False, "Merge both polarities into one channel.")

    def __post_init__(self) -> None:
        super().__post_init__()
        methods = ("frames", "n_event_bins", "window", "events_per_frame")
        given = [name for name in methods if getattr(self, name) is not None]
        if len(given) != 1:
            raise OptionError(
                "choose exactly one of --frames T, --n-event-bins T, --window MICROSECONDS and "
                f"--events-per-frame N, not {' and '.join(given) or 'none'}"
            )
        if self.count_dtype is not None and self.representation != "count":
            raise OptionError("--count-dtype needs --representation count")
        if self.tau is not None and self.representation != "timesurface":
            raise OptionError("--tau needs --representation timesurface")
        name, kind = f"--representation {self.representation}", self.kind
        if kind.timed and not self.by_time:
            raise OptionError(
                f"{name} depends on times, so frames can't be cut by numbers of events; pass "
                "--frames or --window"
            )
        if kind.signed and self.merge_polarities:
            raise OptionError(
                f"{name} has both polarities in one channel already; remove --merge-polarities"
            )
        if not kind.overlapping and self.overlap:
            raise OptionError(f"{name} shares events between frames itself; remove --overlap")
        overlap = f"overlap is {self.overlap}: choose"
        if self.size is None:
            if not 0 <= self.overlap < 1:
                raise OptionError(f"{overlap} a fraction of a frame, at least 0 and less than 1")
            if self.include_incomplete or self.steps is not None:
                raise OptionError(
                    "--include-incomplete and --steps need --window or --events-per-frame; remove "
                    "them, or choose one of these"
                )
        elif not (0 <= self.overlap < self.size and float(self.overlap).is_integer()):
            most = self.size - 1
            raise OptionError(f"{overlap} a whole number from 0 to {most}, less than a frame")

    @property
    def size(self) -> int | None:
        """Return the ticks or events of a window; None for bins."""
        return self.window if self.window is not None else self.events_per_frame

    @property
    def kind(self) -> Representation:
        """The representation's entry in the table."""
        return REPRESENTATIONS[self.representation]

    @property
    def by_time(self) -> bool:
        """Whether frames are cut by time and not by numbers of events."""
        return self.frames is not None or self.window is not None

    @property
    def fixed_steps(self) -> int | None:
        """Return T where it is the same for all samples, else None."""
        return self.frames or self.n_event_bins or self.steps

    @property
    def polarities(self) -> int:
        """Return P."""
        return 1 if self.merge_polarities or self.kind.signed else 2

    def steps_in(self, ticks: int) -> int | None:
        """Return T of samples of a length in ticks; None where it depends on the sample."""
        by_events = self.fixed_steps is not None or self.window is None
        return self.fixed_steps if by_events else self.windows_in(ticks)

    def windows_in(self, span: int) -> int:
        """Return the number of windows, one at least, in a number of ticks or events."""
        size = self.size or 1
        rest, stride = span - size, size - int(self.overlap)  # a negative rest is incomplete
        return max((-(-rest // stride) if self.include_incomplete else rest // stride) + 1, 1)


class FrameEdges(NamedTuple):
    """The events of each frame: frame i holds events start[i]:stop[i]."""

    start: Index  # (T,)
    stop: Index  # (T,)
    frames_cut: int  # because the sample is longer than ``Framing.steps``
    events_skipped: int  # after the last frame: of frames cut or of an incomplete window


class FramePlan(NamedTuple):
    """The frames of a sample, known before its events are read: start[i] <= place < stop[i].

    The place of an event is its time, or its number from 0 in the sample.
    """

    start: Index  # (F,)
    stop: Index  # (F,)
    steps: int  # T: frames after the first F are empty
    by_time: bool
    frames_cut: int
    span: tuple[int, int]  # first tick and end of the sample

    def edges(self, t: Index, before: int = 0) -> FrameEdges:
        """Return the range of events of each frame among those at the ordered times ``t`` (N,).

        ``before`` events of the sample come before these.
        """
        if self.by_time:
            start, stop = _first_at(t, self.start), _first_at(t, self.stop)
        else:
            start, stop = self.start, self.stop
            if before or len(t) < stop[-1]:
                start, stop = (np.clip(edge - before, 0, len(t)) for edge in (start, stop))
        skipped = len(t) - int(stop[-1])
        if len(start) < self.steps:
            padding = np.full(self.steps - len(start), len(t), np.int64)
            start, stop = np.concatenate([start, padding]), np.concatenate([stop, padding])
        return FrameEdges(start, stop, self.frames_cut, skipped)


def plan_frames(framing: Framing, span: tuple[int, int], count: int) -> FramePlan:
    """Return the frames of a sample of ``count`` events; ``span``: its first tick and its end.

    Raises:
        InputError: the sample would have more than ``MAX_FRAMES`` frames.
    """
    first, end = span if framing.by_time else (0, count)
    start, stop, found = (_bins if framing.size is None else _windows)(first, end, framing)
    steps = max(framing.steps or 0, len(start))
    return FramePlan(start, stop, steps, framing.by_time, found - len(start), span)


def span_of(t: Index) -> tuple[int, int]:
    """Return the first tick and the end of ordered times (N,); (0, 0) without any."""
    return (int(t[0]), int(t[-1]) + 1) if len(t) else (0, 0)


def frame_edges(t: Index, framing: Framing, span: tuple[int, int] | None = None) -> FrameEdges:
    """Return the range of events of each frame.

    ``t`` are ordered times (N,); without events all frames are empty, and an open T is 1. ``span``
    is first tick and end of a sample of known length, by default those of its events.

    Raises:
        InputError: the sample would have more than ``MAX_FRAMES`` frames.
    """
    return plan_frames(framing, span or span_of(t), len(t)).edges(t)


def frame_events(
    events: Events, framing: Framing, out: NDArray[Any], span: tuple[int, int] | None = None
) -> tuple[int, FramePlan]:
    """Fill ``out`` with the frames of checked events; see ``frame_edges`` and ``frame_chunks``."""
    plan = plan_frames(framing, span or span_of(events["t"]), len(events))
    return frame_chunks([events], plan, framing, out), plan


def frame_chunks(
    chunks: Iterable[Events], plan: FramePlan, framing: Framing, out: NDArray[Any]
) -> int:
    """Fill ``out`` with the frames of a sample; return the result of `Accumulator.finish`.

    Args:
        chunks: the checked events of the sample in the order of their times; at least one chunk.
        plan: the frames of the sample.
        framing: the settings that the plan was made from.
        out: (K, H, W, P), overwritten; P = 1 merges the polarities. Binary frames are packed bits
            in uint8, counts are of any integer type, other frames of any floating type.

    Raises:
        InputError: an event outside of (H, W), or a cell whose value the type does not hold.
        ValueError: ``out`` does not fit.
    """
    planes = framing.kind.planes(plan.steps)
    if out.ndim != 4 or out.shape[0] != planes or out.shape[3] not in (1, 2):
        raise ValueError(f"out is {out.shape}: it must be ({planes}, H, W, 1 or 2)")
    frames = framing.kind.begin(out, _axis(plan, framing))
    before = 0
    for events in chunks:
        edges = plan.edges(events["t"], before)
        frames.add(events, edges.start, edges.stop, before)
        before += len(events)
    return frames.finish()


def _axis(plan: FramePlan, framing: Framing) -> Axis:
    """Return the time axis of frames; a length in events where they are not cut by time."""
    first, end = plan.span
    length = framing.size or max(end - first - 1, 1) / len(plan.stop)  # bins end with the last tick
    ends = plan.stop if framing.size is None else plan.start + min(framing.size, LATEST)
    return Axis(first, float(length), ends, float(framing.tau or DEFAULT_TAU))


def _bins(first: int, end: int, framing: Framing) -> tuple[Index, Index, int]:
    """Cut [first, end) into bins that are equal to a tick, and of a tick at least."""
    bins = framing.fixed_steps or 1
    span = max(end - first, bins)
    whole, rest = divmod(span, bins)
    i = np.arange(bins + 1)
    edges = np.minimum(first + i * whole + i * rest // bins, end)  # = first + i * span // bins
    if not framing.overlap:
        return edges[:-1], edges[1:], bins
    extra = int(Fraction(str(framing.overlap)) * span / bins)  # 0.3 of 10 is 3, not 2.999...
    return edges[:-1], np.minimum(edges[1:] + extra, end), bins


def _windows(first: int, end: int, framing: Framing) -> tuple[Index, Index, int]:
    """Return the windows of [first, end), at most ``steps``, and how many it has."""
    span, size, found = end - first, framing.size or 0, framing.windows_in(end - first)
    count = found if framing.steps is None else min(found, framing.steps)
    if count > MAX_FRAMES:
        raise InputError(
            f"{count:,} frames of {size:,} in {span:,} are more than {MAX_FRAMES:,}; check the "
            "times and the unit of the window, or pass --steps"
        )
    # A window may exceed int64; inside the sample all sums are safe.
    start = first + np.arange(count) * min(size - int(framing.overlap), span)
    return start, np.minimum(start + min(size, span), end), found


@njit(cache=True, nogil=True)
def _first_at(t: Any, times: Any) -> Any:
    """Return the index of the first event at or after each time."""
    return np.searchsorted(t, times)
