"""Convert a still image into events by ES-ImageNet's Omnidirectional Discrete Gradient (ODG).

The image is laid on an empty canvas at one placement after another, each a pixel or two from the
previous one. Where the brightness of a canvas pixel changes by more than a threshold between two
placements, there is an event: Lin et al., ES-ImageNet, Frontiers in Neuroscience 15, 2021.

Legend: N events, T steps, P polarities (0 = positive), C channels, H rows, W columns; the scaled
image has a rows and b columns, m is the largest offset of a placement.

    image (H, W, C) -> scaled, max over channels (a, b) -> bits on a canvas (ceil(T/8), a+m, b+m, P)
      -> events, or centred and cropped frames (ceil(T/8), H, W, P)
"""

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numba import njit

from eventdata.errors import InputError, LeftOutError, OptionError
from eventdata.kernels.packing import U8, count_ones
from eventdata.settings import Settings, setting

PUBLISHED_TRACE = ((1, 0), (0, 2), (2, 1), (1, 0), (0, 1), (2, 2), (1, 0), (1, 1), (2, 1))


class TooFewEventsError(LeftOutError):
    """An image with too few events; the published generator drops these silently."""


def parse_trace(text: str) -> tuple[tuple[int, int], ...]:
    """Return the placements of a text like ``1,0 0,2 2,1``; raise ValueError for any other."""
    if not re.fullmatch(r"\s*\d{1,9},\d{1,9}(\s+\d{1,9},\d{1,9})*\s*", text):
        raise ValueError
    numbers = map(int, re.findall(r"\d+", text))
    return tuple(zip(numbers, numbers, strict=True))


@dataclass(frozen=True, kw_only=True)
class OdgSettings(Settings):
    """Settings for making events from an image; the defaults are ES-ImageNet's, corrected.

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
        0.18, "Smallest change of brightness, 0 to 1, that makes an event.", least=0, below=1
    )
    min_events: int = setting(
        1000, "Minimum events per image; images with fewer are skipped.", unit="events", least=0
    )
    resampling: Literal["nearest", "area"] = setting(
        "nearest", "Scaling method: nearest, as in ES-ImageNet, or area, the mean over an area."
    )
    trace: tuple[tuple[int, int], ...] = setting(
        PUBLISHED_TRACE,
        "Placements of the image on its canvas; each after the first makes a step.",
        form="placements row,column such as '1,0 0,2 2,1'",
        parse=parse_trace,
        dump=lambda trace: " ".join(f"{row},{column}" for row, column in trace),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.trace) < 2 or any(not 0 <= side < 16 for place in self.trace for side in place):
            raise OptionError("trace needs at least two placements row,column, each 0 to 15")
        if self.crop > self.canvas:
            canvas = f"{self.canvas}, the canvas of a long side of {self.long_side} pixels"
            raise OptionError(f"crop is {self.crop}: choose 1 to {canvas}")

    @property
    def steps(self) -> int:
        """Return T, one less than the placements."""
        return len(self.trace) - 1

    @cached_property
    def reach(self) -> int:
        """Return the largest offset of the trace; the image rests at about half of it."""
        return max(max(place) for place in self.trace)

    @property
    def shifts(self) -> tuple[tuple[int, int], ...]:
        """Return the rows and columns that move each step to where the image rests (T, 2)."""
        rest = self.reach // 2
        return tuple((rest - row, rest - column) for row, column in self.trace[1:])

    @property
    def canvas(self) -> int:
        """Return the side of the square that holds every placement of a square image."""
        return self.long_side + self.reach

    @property
    def margin(self) -> int:
        """Return the rows and columns that the crop cuts off at the canvas's top and left."""
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
    """Return rows and columns after scaling; ``InputError`` if the short side has no pixel left."""
    long = max(height, width)
    a, b = (side * settings.long_side // max(long, 1) for side in (height, width))
    if min(a, b) < 1:
        raise InputError(f"an image of {height}x{width} pixels is too narrow to scale")
    return a, b


def image_events(image: U8, settings: OdgSettings) -> tuple[U8, U8]:
    """Return the events of an image, uint8 (H, W, 3) or grey (H, W), as a raw file holds them.

    These are ``pos`` and ``neg``, uint8 (N, 3): row and column on the canvas before centring, and
    step from 1; ordered by step, row, column.

    Raises:
        InputError: the image is too narrow, or has too few events (``TooFewEventsError``).
        OptionError: coordinates or steps would not fit in uint8.
    """
    if settings.canvas > 256 or settings.steps > 255:
        raise OptionError("raw events are bytes; choose a canvas of at most 256 and 255 steps")
    bits = _canvas_bits(image, settings)
    return _list_events(bits, settings.steps, 0), _list_events(bits, settings.steps, 1)


def image_frames(image: U8, settings: OdgSettings, out: U8) -> int:
    """Overwrite ``out`` with the packed frames of an image; return the number of set cells.

    In mode ``published`` some events lie outside the crop, and ``min_events`` counts them too.

    Raises:
        InputError: as ``image_events``; ``out`` is then all zero.
    """
    if out.shape != settings.frames_shape:
        raise ValueError(f"out is {out.shape}, the frames are {settings.frames_shape}")
    out[:] = 0
    bits = _canvas_bits(image, settings)
    size = scaled_size(image.shape[0], image.shape[1], settings)
    (top, bottom, y), (left, right, x) = (_inside(side, settings) for side in size)
    out[:, top + y : bottom + y, left + x : right + x] = bits[:, top:bottom, left:right]
    return int(count_ones(out))


def edge_integral(packed: U8, settings: OdgSettings) -> U8:
    """Return a grey image from the events of one: each step moved back by its placement, summed.

    Sums of positive minus negative events lie in -T..T. They become uint8 by a fixed scale, so
    that samples compare: -T is 0, no event (T*255 + T) // 2T = 128, T is 255.
    ``packed`` is uint8 (ceil(T/8), H, W, 2), made with these ``settings``. The result is uint8
    (H, W), centred between the placements; what moves past the border is lost.
    """
    if packed.ndim != 4 or packed.shape[0] != settings.frames_shape[0] or packed.shape[3] != 2:
        raise InputError(f"frames {packed.shape} lack {settings.steps} steps with polarity last")
    steps, reach, (height, width) = settings.steps, settings.reach, packed.shape[1:3]
    sums = np.zeros((height + 2 * reach, width + 2 * reach), np.int32)
    for step, shift in enumerate(settings.shifts):
        bits = packed[step // 8] >> (7 - step % 8) & 1
        top, left = (reach + distance for distance in shift)
        moved = sums[top : top + height, left : left + width]
        moved += (bits[..., 0] - bits[..., 1]).view(np.int8)
    sums = sums[reach : reach + height, reach : reach + width]
    return (((sums + steps) * 255 + steps) // (2 * steps)).astype(np.uint8)


def _canvas_bits(image: U8, settings: OdgSettings) -> U8:
    """Return all events in the mode's window, as bits on the canvas: (ceil(T/8), a+m, b+m, P)."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise InputError(f"images are uint8 (H, W, 3) or (H, W), not {image.dtype} {image.shape}")
    a, b = scaled_size(image.shape[0], image.shape[1], settings)
    m = settings.reach
    # With empty rows around it, the image is one run of memory in which a placement is a shift.
    padded = np.zeros((a + 2 * m + 1, b + m), np.uint8)
    scale = scale_nearest if settings.resampling == "nearest" else scale_area
    scale(_with_channels(image), padded[m + 1 : m + 1 + a, :b])
    window = [_inside(side, settings)[:2] for side in (a, b)]
    if settings.mode == "published":
        window = [(settings.margin + 1, settings.margin + settings.crop)] * 2
    cells = np.zeros((settings.frames_shape[0], a + m, b + m), np.uint16)
    _difference(padded, np.array(settings.trace), settings.levels, np.array(window), cells)
    bits = cells.astype("<u2", copy=False).view(np.uint8).reshape(*cells.shape, 2)
    found, least = count_ones(bits), settings.min_events
    if found < least:
        raise TooFewEventsError(f"the image gives {found} events, fewer than the {least} asked for")
    return bits


def _with_channels(image: U8) -> U8:
    """Return contiguous (H, W, C), with a fourth channel if that avoids a copy.

    Images from `eventdata.formats.image.read_picture` have four bytes a pixel and show three.
    """
    height, width = image.shape[:2]
    if image.ndim == 3 and image.strides == (4 * width, 4, 1):
        return np.lib.stride_tricks.as_strided(image, (height, width, 4), image.strides)
    return np.ascontiguousarray(image).reshape(height, width, -1)


def _inside(side: int, settings: OdgSettings) -> tuple[int, int, int]:
    """Return first and end of the canvas rows in the frames, and their shift; or of the columns."""
    shift = (settings.long_side - side) // 2 - settings.margin
    return max(0, -shift), min(side + settings.reach, settings.crop - shift), shift


@njit(cache=True, nogil=True)
def scale_nearest(image: Any, plane: Any) -> None:
    """Take the nearest source pixel as torch's ``interpolate`` does, and the max over channels.

    torch floors row * (H / a) after rounding it to float32. Where H * a is under 2**23, that is the
    floor of the exact quotient, since a product that is not whole is at least 1/a away from a whole
    number. For planes of at most 128 rows and columns together, torch rounds differently.
    ``image`` is uint8 (H, W, C), a fourth channel is ignored; ``plane``, uint8 (a, b), is
    overwritten.
    """
    height, width, channels = image.shape
    a, b = plane.shape
    sources = (np.arange(b) * width // b).astype(np.uint32)  # unsigned: no test for negatives
    for row in range(a):
        line, target = image[row * height // a], plane[row]
        if channels >= 3:  # constant indices: half the time of a loop over channels
            for column in range(b):
                pixel = line[sources[column]]
                best = pixel[0] if pixel[0] > pixel[1] else pixel[1]
                target[column] = best if best > pixel[2] else pixel[2]
        else:
            for column in range(b):
                target[column] = line[sources[column], 0]


@njit(cache=True, nogil=True)
def scale_area(image: Any, plane: Any) -> None:
    """Take the mean of the source area under each pixel, halves up, and the max over channels.

    Row r of the plane covers source rows r*H/a to (r+1)*H/a. In units of 1/a of a source row all
    overlaps are whole numbers that add up to H; columns likewise. The sums are therefore exact.
    ``image`` is uint8 (H, W, C), a fourth channel is ignored; ``plane``, uint8 (a, b), is
    overwritten.
    """
    height, width, channels = image.shape
    a, b = plane.shape
    lines = image.reshape(height, width * channels)[:, : width * channels - channels // 4]
    sums = np.zeros((width + 1) * channels, np.int32)  # one source pixel more, empty
    edges = np.arange(1, b + 1) * width
    ends, parts = (edges // b * channels).astype(np.uint64), edges % b
    largest = np.empty(b, np.int64)
    area = height * width
    for row in range(a):
        start, stop = row * height, (row + 1) * height
        sums[:] = 0
        for y in range(start // a, (stop - 1) // a + 1):
            weight = np.int32(min(stop, (y + 1) * a) - max(start, y * a))
            line = lines[y]
            for i in range(len(line)):
                sums[i] += np.int32(weight * np.int32(line[i]))
        if channels == 1:
            _largest_area(sums, ends, parts, np.uint64(1), np.uint64(0), np.uint64(0), largest)
        else:
            _largest_area(
                sums, ends, parts, np.uint64(channels), np.uint64(1), np.uint64(2), largest
            )
        target = plane[row]
        for column in range(b):
            # A quarter keeps a product that rounds down from falling under a whole number.
            rounded = (largest[column] + (area / 2 + 0.25)) * (1 / area)
            target[column] = np.uint8(np.int32(rounded))


@njit(cache=True, nogil=True)
def _largest_area(
    sums: Any, ends: Any, parts: Any, step: Any, second: Any, third: Any, largest: Any
) -> None:
    """Write the largest channel's sum under each pixel, in units of 1/b of a source column.

    The sum is the difference between the integrals up to the pixel's right and left edge.
    ``ends`` are the places in ``sums`` of the source columns that hold the right edges, ``parts``
    the units of these columns to their left. Unsigned places need no test for negatives.
    """
    b, x = len(ends), np.uint64(0)
    total0 = total1 = total2 = left0 = left1 = left2 = 0
    for column in range(b):
        while x < ends[column]:
            total0 += sums[x]
            total1 += sums[x + second]
            total2 += sums[x + third]
            x += step
        part = parts[column]
        right0 = b * total0 + part * sums[x]
        right1 = b * total1 + part * sums[x + second]
        right2 = b * total2 + part * sums[x + third]
        largest[column] = max(right0 - left0, right1 - left1, right2 - left2)
        left0, left1, left2 = right0, right1, right2


@njit(cache=True, nogil=True)
def _compare(old: Any, new: Any, least: Any, bit: Any, cells: Any) -> None:
    """Set ``bit`` in a cell's low byte where the grey rose by ``least``, in the high if it fell.

    Without branches, with only unsigned bytes, in a function of its own, the loop is vectorised.
    """
    up, down, none = np.uint16(bit), np.uint16(bit << 8), np.uint16(0)
    for i in range(len(cells)):
        most = max(old[i], new[i])
        rise = up if np.uint8(most - old[i]) >= least else none
        fall = down if np.uint8(most - new[i]) >= least else none
        cells[i] |= rise | fall


@njit(cache=True, nogil=True)
def _covered_steps(offsets: Any, reach: int, window: Any, octets: int, size: int) -> Any:
    """Return the steps at which both placements cover each row, or column, of ``window``.

    The result is uint16 (ceil(T/8), size), a step's bit in both bytes.
    """
    steps = np.zeros((octets, size), np.uint16)
    for step in range(len(offsets) - 1):
        start = max(window[0], max(offsets[step], offsets[step + 1]))
        stop = min(window[1], min(offsets[step], offsets[step + 1]) + size - reach)
        for i in range(start, stop):
            steps[step // 8, i] |= np.uint16(0x8080 >> (step % 8))
    return steps


@njit(cache=True, nogil=True)
def _difference(padded: Any, trace: Any, levels: int, window: Any, cells: Any) -> None:
    """Set the bits of all changes of at least ``levels`` where both placements show the image.

    ``padded`` is uint8 (a+2m+1, b+m), the image from row m+1 and column 0 on, zero elsewhere;
    ``window`` int (2, 2), first and end of the rows and columns to keep; ``cells`` uint16
    (ceil(T/8), a+m, b+m), zero, its low byte for positive bits.
    """
    octets, rows, columns = cells.shape
    top = len(padded) - rows
    flat = padded.reshape(-1)
    size = rows * columns
    for step in range(len(trace) - 1):
        y0, x0 = trace[step]
        y1, x1 = trace[step + 1]
        old = flat[(top - y0) * columns - x0 :][:size]
        new = flat[(top - y1) * columns - x1 :][:size]
        bit = np.uint8(128 >> (step % 8))
        _compare(old, new, np.uint8(levels), bit, cells[step // 8].reshape(-1))
    row_steps = _covered_steps(trace[:, 0], top - 1, window[0], octets, rows)
    column_steps = _covered_steps(trace[:, 1], top - 1, window[1], octets, columns)
    for octet in range(octets):
        for row in range(rows):
            line, wanted, steps = cells[octet, row], column_steps[octet], row_steps[octet, row]
            for column in range(columns):
                line[column] &= wanted[column] & steps


@njit(cache=True, nogil=True)
def _list_events(bits: Any, steps: int, polarity: int) -> Any:
    """Return row, column and step (from 1) of a polarity's bits in order of step: uint8 (N, 3)."""
    _, rows, columns, _ = bits.shape
    events = np.empty((count_ones(bits), 3), np.uint8)
    n = 0
    for step in range(steps):
        shift = 7 - step % 8
        for row in range(rows):
            for column in range(columns):
                if (bits[step // 8, row, column, polarity] >> shift) & 1:
                    events[n, 0], events[n, 1], events[n, 2] = row, column, step + 1
                    n += 1
    return events[:n].copy()
