"""The interface of representations: the meaning of a cell, and how events become frames.

Legend: N events, T frames (steps), K planes (T / steps_per_plane, rounded up), P channels, H rows,
W columns. Frames in memory are (K, H, W, P).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.events import Events

Index = NDArray[np.int64]
OK, BAD_COORDINATE, TOO_MANY, BAD_EDGE = 0, 1, 2, 3
"""Faults that kernels return, each with the number of an event or of a frame."""


class Axis(NamedTuple):
    """The time axis of a sample's frames, in ticks."""

    first: int  # the first tick
    length: float  # of a frame
    ends: Index  # of each frame that is not padding, (T,) at most
    tau: float  # the time constant of a decay


class Accumulator(Protocol):
    """Fills the frames of one sample with its events, which come in order, in any chunks."""

    def add(self, events: Events, start: Index, stop: Index, before: int) -> None:
        """Add checked events (N,), which follow in time on those that were added before.

        Args:
            events: a chunk of the sample's events.
            start, stop: frame i has events start[i]:stop[i] of the chunk, (T,) each.
            before: the number of events in earlier chunks.

        Raises:
            InputError: an event lies outside of (H, W), or a cell does not fit its type.
        """

    def finish(self) -> int:
        """Complete the frames; return the sample's event count."""


@dataclass(frozen=True, kw_only=True)
class Representation:
    """The meaning of a cell, and how it is computed and stored.

    value: the value of a cell, for help pages and for the attributes of a store's frames.
    dtypes: the types that frames may have; the first is the default.
    begin: returns an accumulator that fills out (K, H, W, P), overwriting it.
    faults: yields a sentence for each fault of stored frames (K, H, W, P) with T steps, given the
        event count of the sample.
    pooling: how the cells that a smaller frame joins become one.
    steps_per_plane: steps in a stored plane, more than one if they are packed into bits.
    signed: whether positive and negative events have opposite signs in one channel.
    timed: whether values depend on times, so that frames must be cut by time.
    overlapping: whether frames may overlap.
    """

    value: str
    dtypes: tuple[str, ...]
    begin: Callable[[NDArray[Any], Axis], Accumulator]
    faults: Callable[[NDArray[Any], int, int], Iterable[str]]
    pooling: Literal["or", "max", "sum"]
    steps_per_plane: int = 1
    signed: bool = False
    timed: bool = False
    overlapping: bool = True

    def planes(self, steps: int) -> int:
        """Return K."""
        return -(-steps // self.steps_per_plane)

    def channels(self, count: int) -> list[str]:
        """Return the names of the channels, ``count`` in number."""
        if self.signed:
            return ["signed"]
        return ["positive", "negative"] if count == 2 else ["merged"]


def check_fault(fault: int, i: int, events: Events, out: NDArray[Any], before: int) -> None:
    """Raise the error for the fault that a kernel returned, unless it is `OK`.

    Args:
        fault, i: the fault, and the number of the event in the chunk or of the frame.
        events, before: see `Accumulator.add`.
        out: the frames (K, H, W, P).
    """
    if fault == BAD_EDGE:
        raise ValueError(f"frame {i} has other events than the {len(events)} given")
    if fault == OK:
        return
    x, y = events["x"][i], events["y"][i]
    if fault == BAD_COORDINATE:
        sensor = f"a sensor of {out.shape[2]} x {out.shape[1]} pixels; pass the right sensor size"
        raise InputError(f"event {before + i} lies at x={x}, y={y}, outside of {sensor}")
    limit = np.iinfo(out.dtype).max
    raise InputError(
        f"the pixel x={x}, y={y} has more events in one frame than {out.dtype} holds ({limit}); "
        "choose shorter frames or a wider type"
    )
