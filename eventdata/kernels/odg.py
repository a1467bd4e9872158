"""Convert a still image into events by ES-ImageNet's Omnidirectional Discrete Gradient (ODG).

The image is laid on an empty canvas at one placement after another, each a pixel or two from the
previous one. Where the brightness of a canvas pixel changes by more than a threshold between two
placements, there is an event: Lin et al., ES-ImageNet, Frontiers in Neuroscience 15, 2021.

Legend: N events, T steps, P polarities (0 = positive), C channels, H rows, W columns.

    image (H, W, C) -> scaled, max over channels (a, b) -> bits on a canvas (ceil(T/8), a+m, b+m, P)
      -> events, or centred and cropped frames (ceil(T/8), H, W, P)
"""

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from eventdata.errors import InputError, LeftOutError, OptionError
from eventdata.kernels.packing import U8, count_ones
from eventdata.kernels.placements import add_edges, difference, list_events
from eventdata.kernels.resample import scale_area, scale_nearest
from eventdata.settings import Settings, setting

PUBLISHED_TRACE = ((1, 0), (0, 2), (2, 1), (1, 0), (0, 1), (2, 2), (1, 0), (1, 1), (2, 1))


class TooFewEventsError(LeftOutError):
    """An image with too few events; the published generator drops these silently."""


def parse_trace(text: str) -> tuple[tuple[int, int], ...]:
    """Return the placements of a text like ``1,0 0,2 2,1``; raise ValueError for any other."""
    if not re.fullmatch(r"\s*\d{1,9},\d{1,9}(\s+\d{1,9},\d{1,9})*\s*", text):
        raise ValueError
    places = (place.split(",") for place in text.split())
    return tuple((int(row), int(column)) for row, column in places)


@dataclass(frozen=True, kw_only=True)
class OdgSettings(Settings):
    """How an image becomes events; the defaults are ES-ImageNet's, with its window corrected.

    ``published`` is bit-exact with ES-ImageNet: it keeps a crop-sized window of the canvas and only
    then centres the image, so a landscape image loses rows at its top and keeps them at its bottom,
    and loses the window's first row and column. ``centred`` centres first.
    """

    mode: Literal["centred", "published"] = setting(
        "centred",
        "Crop window: centred (corrected) or published (bit-exact, with the published bug).",
        option="odg",
    )
    long_side: int = setting(
        254, "Longer side of the scaled image.", unit="pixels", least=1, most=4096
    )
    crop: int = setting(224, "Rows and columns of the frames.", unit="pixels", least=1)
    threshold: float = setting(
        0.18, "Smallest change of brightness, 0 to 1, that is an event.", least=0, below=1
    )
    min_events: int = setting(
        1000, "Minimum events per image; images with fewer are skipped.", unit="events", least=0
    )
    resampling: Literal["nearest", "area"] = setting(
        "nearest", "How images are scaled: nearest as in ES-ImageNet, or the mean over an area."
    )
    trace: tuple[tuple[int, int], ...] = setting(
        PUBLISHED_TRACE,
        "Placements of the image; each after the first makes a step.",
        form="placements row,column such as '1,0 0,2 2,1'",
        read=parse_trace,
        write=lambda trace: " ".join(f"{row},{column}" for row, column in trace),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.trace) < 2 or any(not 0 <= side < 16 for place in self.trace for side in place):
            raise OptionError("trace needs at least two placements row,column, each 0 to 15")
        if self.crop > self.canvas:
            raise OptionError(
                f"crop is {self.crop}: choose 1 to {self.canvas}, the canvas of a long side of "
                f"{self.long_side} pixels"
            )

    @property
    def steps(self) -> int:
        """Return T, one less than the placements."""
        return len(self.trace) - 1

    @cached_property
    def reach(self) -> int:
        """Return the largest offset of the trace; the image rests at about half of it."""
        return max(max(place) for place in self.trace)

    @property
    def canvas(self) -> int:
        """Return the side of the square that holds every placement of a square image."""
        return self.long_side + self.reach

    @property
    def margin(self) -> int:
        """Return how many rows and columns the crop cuts off at the top and left of the canvas."""
        return (self.canvas - self.crop) // 2

    @property
    def levels(self) -> int:
        """Return the smallest change that is an event, in grey levels of 1/255.

        Differences of levels/255 in floating point, as published, decide the same wherever
        255 * threshold is not within rounding (1e-4) of a whole number; 0.18 gives 45.9.
        """
        return math.floor(255 * self.threshold) + 1

    @property
    def frames_shape(self) -> tuple[int, int, int, int]:
        """Return the shape of one sample's packed frames, (ceil(T/8), H, W, P)."""
        return -(-self.steps // 8), self.crop, self.crop, 2


def scaled_size(height: int, width: int, settings: OdgSettings) -> tuple[int, int]:
    """Return rows and columns after scaling, a and b of an ES-ImageNet manifest line.

    Raises:
        InputError: the image is too narrow to keep a pixel of its short side.
    """
    long = max(height, width)
    a, b = (side * settings.long_side // max(long, 1) for side in (height, width))
    if min(a, b) < 1:
        raise InputError(f"an image of {height}x{width} pixels is too narrow to scale")
    return a, b


def image_events(image: U8, settings: OdgSettings) -> tuple[U8, U8]:
    """Return the events of an image as a raw ES-ImageNet file holds them.

    Args:
        image: uint8 (H, W, 3) or grey (H, W).
        settings: long side and reach small enough for uint8 coordinates.

    Returns:
        ``pos`` and ``neg``, uint8 (N, 3): row and column on the canvas before centring, and step
        from 1; ordered by step, row, column.

    Raises:
        InputError: the image is too narrow, or has too few events (``TooFewEventsError``).
        OptionError: coordinates or steps would not fit in uint8.
    """
    if settings.canvas > 256 or settings.steps > 255:
        raise OptionError("raw events are bytes; choose a canvas of at most 256 and 255 steps")
    bits = _canvas_bits(image, settings)
    return list_events(bits, settings.steps, 0), list_events(bits, settings.steps, 1)


def image_frames(image: U8, settings: OdgSettings, out: U8) -> int:
    """Fill ``out`` with the packed frames of an image, without listing its events.

    Args:
        image: uint8 (H, W, 3) or grey (H, W).
        settings: how to make them.
        out: uint8 of ``settings.frames_shape``, overwritten completely.

    Returns:
        The number of set cells of ``out``. In mode ``published`` some events lie outside the crop,
        and ``min_events`` counts them too, as published.

    Raises:
        InputError: as ``image_events``; ``out`` is then all zero.
    """
    if out.shape != settings.frames_shape:
        raise ValueError(f"out is {out.shape}, the frames are {settings.frames_shape}")
    out[:] = 0
    bits = _canvas_bits(image, settings)
    size = scaled_size(image.shape[0], image.shape[1], settings)
    (top, bottom), (left, right) = _inside(size, settings)
    y, x = _shift(size, settings)
    out[:, top + y : bottom + y, left + x : right + x] = bits[:, top:bottom, left:right]
    return int(count_ones(out))


def edge_integral(packed: U8, settings: OdgSettings) -> U8:
    """Return a grey image from the events of one: each step moved back by its placement, summed.

    Sums of positive minus negative events lie in -T..T. They become uint8 by a fixed scale, so
    that samples compare: -T is 0, no event (T*255 + T) // 2T = 128, T is 255.

    Args:
        packed: packed frames, uint8 (ceil(T/8), H, W, 2).
        settings: the settings that the frames were made with, for steps and trace.

    Returns:
        uint8 (H, W), centred between the placements; what moves past the border is lost.
    """
    if packed.ndim != 4 or packed.shape[0] != settings.frames_shape[0] or packed.shape[3] != 2:
        raise InputError(
            f"frames {packed.shape} do not hold {settings.steps} steps with polarity last"
        )
    steps, home = settings.steps, settings.reach // 2
    sums = np.zeros(packed.shape[1:3], np.int64)
    add_edges(packed, np.array(settings.trace, np.int64), home, sums)
    return (((sums + steps) * 255 + steps) // (2 * steps)).astype(np.uint8)


def _canvas_bits(image: U8, settings: OdgSettings) -> U8:
    """Return all events in the mode's window, as bits on the canvas: (ceil(T/8), a+m, b+m, P)."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise InputError(
            f"an image must be uint8 (H, W, 3) or (H, W), not {image.dtype} {image.shape}"
        )
    a, b = scaled_size(image.shape[0], image.shape[1], settings)
    m = settings.reach
    # With empty rows around it, the image is one run of memory in which a placement is a shift.
    padded = np.zeros((a + 2 * m + 1, b + m), np.uint8)
    scale = scale_nearest if settings.resampling == "nearest" else scale_area
    scale(np.ascontiguousarray(image).reshape(*image.shape[:2], -1), padded[m + 1 : m + 1 + a, :b])
    rows, columns = _inside((a, b), settings)
    if settings.mode == "published":
        rows = columns = (settings.margin + 1, settings.margin + settings.crop)
    cells = np.zeros((settings.frames_shape[0], a + m, b + m), np.uint16)
    trace = np.array(settings.trace, np.int64)
    difference(padded, trace, settings.levels, np.array((rows, columns), np.int64), cells)
    bits = cells.astype("<u2", copy=False).view(np.uint8).reshape(*cells.shape, 2)
    events = count_ones(bits)
    if events < settings.min_events:
        raise TooFewEventsError(
            f"the image gives {events} events, fewer than the {settings.min_events} asked for"
        )
    return bits


def _shift(size: tuple[int, int], settings: OdgSettings) -> tuple[int, int]:
    """Return the shift, in rows and columns, from the canvas to the centred and cropped frames."""
    y, x = ((settings.long_side - side) // 2 - settings.margin for side in size)
    return y, x


def _inside(size: tuple[int, int], settings: OdgSettings) -> tuple[tuple[int, int], ...]:
    """Return first and end of the canvas rows, and of its columns, inside the frames."""
    return tuple(
        (max(0, -move), min(side + settings.reach, settings.crop - move))
        for side, move in zip(size, _shift(size, settings), strict=True)
    )
