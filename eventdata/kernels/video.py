"""Convert a video into events by thresholds on frame differences that fit the clip (ES-UCF101).

Legend: F frames, T = F - 1 steps, P polarities (0 = positive), H rows, W columns.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.kernels.counter import draw_frames
from eventdata.kernels.differences import GREY, interleave, level_percentiles, tails
from eventdata.kernels.normals import Normals
from eventdata.kernels.packing import U8, count_ones
from eventdata.settings import Settings, parse_sides, setting


@dataclass(frozen=True, kw_only=True)
class VideoSettings(Settings):
    """Settings for making events from a clip; the defaults are ES-UCF101's.

    Mode 1 has two thresholds per clip. They are the means of mode 2, which draws a threshold per
    pixel and step from a normal distribution of standard deviation ``sigma``, but none nearer to
    zero than ``least``; each clip has its own random stream, from the seed and its name.
    Both values of ``draws`` give the same distribution, but not the same events.
    """

    mode: Literal[1, 2] = setting(
        1, "1: two thresholds per clip; 2: a random threshold per pixel and step."
    )
    event_ratio: float = setting(
        0.15, "Fraction of all differences that become events.", above=0, most=1
    )
    steps: int = setting(30, "T frames per clip.", unit="frames", least=1, most=65535)
    size: tuple[int, int] = setting(
        (256, 342),
        "Size of the frames; clips of another size are scaled.",
        unit="ROWSxCOLUMNS",
        least=1,
        most=8192,
        form="rows x columns such as 256x342",
        parse=parse_sides,
        dump=lambda size: f"{size[0]}x{size[1]}",
    )
    sigma: float = setting(0.03, "Standard deviation of mode 2's thresholds.", option="", least=0)
    least: float = setting(0.01, "Smallest threshold of mode 2.", option="", least=0)
    seed: int = setting(0, "Random seed for --mode 2.", least=0)
    draws: Literal["numpy", "counter"] = setting(
        "numpy", "Random generator of --mode 2: NumPy's, or Philox at a third of the time."
    )
    interpolation: Literal["bilinear", "bicubic", "area", "nearest", "lanczos"] = setting(
        "bilinear", "Scaling method for clips of another size."
    )

    @property
    def frames(self) -> int:
        """F, spread evenly over the clip; two neighbours make a step."""
        return self.steps + 1

    @property
    def frames_shape(self) -> tuple[int, int, int, int]:
        """Return the shape of one clip's packed frames, (ceil(T/8), H, W, P)."""
        return -(-self.steps // 8), *self.size, 2


def frame_indices(available: int, wanted: int) -> NDArray[np.int64]:
    """Return ``wanted`` indices, evenly spread from first to last frame, halves rounded to even."""
    return np.round(np.linspace(0, available - 1, wanted)).astype(np.int64)


def clip_frames(grey: U8, settings: VideoSettings, out: U8, name: str = "") -> int:
    """Overwrite ``out`` with the packed event frames of a clip; return the number of set cells.

    ``grey`` is uint8 (F, H, W), ``out`` contiguous uint8 of ``settings.frames_shape``; the clip's
    ``name`` seeds the draws of mode 2.
    """
    shape = (settings.frames, *settings.size)
    if grey.dtype != np.uint8 or grey.shape != shape:
        raise InputError(f"a clip must be uint8 {shape}, not {grey.dtype} {grey.shape}")
    if out.shape != settings.frames_shape:
        raise ValueError(f"out is {out.shape}, the frames are {settings.frames_shape}")
    grey = np.ascontiguousarray(grey)
    pixels, flat = grey.reshape(len(grey), -1), out.reshape(-1)
    if settings.mode == 2 and settings.draws == "counter":
        bounds = level_percentiles(pixels, settings.event_ratio)
        draw_frames(pixels, bounds, settings.sigma, settings.least, settings.seed, name, flat)
        return int(count_ones(out))
    lower, upper, falls, rises = tails(pixels, settings.event_ratio)
    if settings.mode == 1:
        interleave(rises.beyond(upper), falls.beyond(-lower), flat)
    else:
        digest = hashlib.sha256(name.encode()).digest()
        rng = np.random.default_rng([settings.seed, *digest])
        _compare_drawn(grey, lower, upper, settings, rng, out)
    return int(count_ones(out))


def clip_events(grey: U8, settings: VideoSettings, name: str = "") -> U8:
    """Return dense event frames as a raw ES-UCF101 file holds them: uint8 (P, T, H, W)."""
    packed = np.empty(settings.frames_shape, np.uint8)
    clip_frames(grey, settings, packed, name)
    dense = np.unpackbits(packed, axis=0, count=settings.steps)  # (T, H, W, P)
    return np.ascontiguousarray(dense.transpose(3, 0, 1, 2))


def thresholds(grey: U8, event_ratio: float) -> tuple[float, float]:
    """Return the lower and upper percentile beyond which a clip's differences are events.

    They equal ``numpy.percentile`` (linear) of all differences to the last bit. ``event_ratio`` is
    the fraction beyond both, half on either side; ``grey`` is contiguous uint8 (F, H, W).
    """
    return tails(grey.reshape(len(grey), -1), event_ratio)[:2]


def _compare_drawn(
    grey: U8, lower: float, upper: float, settings: VideoSettings, rng: np.random.Generator, out: U8
) -> None:
    """Compare each difference with a random threshold of its own.

    A threshold is at least ``least`` from zero. So only differences beyond that draw one, of their
    own sign, in the order step, row, column: the same probabilities with a quarter of the draws.
    """
    out[:] = 0
    normals, flat = Normals(rng), grey.reshape(len(grey), -1)
    places, differences = np.empty(flat.shape[1] + 1, np.int64), np.empty(flat.shape[1] + 1)
    draws = np.empty(flat.shape[1])
    for step in range(settings.steps):
        count = _find_drawn(flat[step], flat[step + 1], settings.least, places, differences)
        drawn = draws[:count]
        normals.fill(drawn)
        bit, target = np.uint8(128 >> (step % 8)), out[step // 8].reshape(-1)
        _set_drawn(places, differences, drawn, (lower, upper, settings.sigma), bit, target)


@njit(cache=True, nogil=True)
def _find_drawn(old: Any, new: Any, least: float, places: Any, differences: Any) -> int:
    """List the differences of more than ``least`` and their pixels; return their number.

    No branch depends on the pixels, since the processor could not predict it.
    """
    count = np.uint64(0)
    for i in range(len(old)):
        difference = GREY[new[i]] - GREY[old[i]]
        places[count], differences[count] = i, difference
        count += np.uint64(abs(difference) > least)
    return int(count)


@njit(cache=True, nogil=True)
def _set_drawn(
    places: Any, differences: Any, drawn: Any, threshold: Any, bit: Any, target: Any
) -> None:
    """Set the bits of the events of a step without branches; threshold: (lower, upper, sigma)."""
    lower, upper, sigma = threshold
    means = np.array([upper, lower])
    for i in range(len(drawn)):
        difference = differences[i]
        falls = np.uint64(difference < 0)
        limit = means[falls] + sigma * drawn[i]
        below, above = np.uint64(difference < limit), np.uint64(difference > limit)
        event = (below & falls) | (above & ~falls)
        target[np.uint64(2) * np.uint64(places[i]) + falls] |= np.uint8(np.uint64(bit) * event)
