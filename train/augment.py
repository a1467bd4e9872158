"""Augmentation of batches, on the device they are on, the same for all steps of a sample.

A batch is frames (N, T, P, H, W), uint8 or floating, or images (N, C, H, W). Geometry is by whole
pixels and nearest neighbours, so that events stay events. What moves in from outside is 0.

Legend: N samples, T steps, P polarities, C channels, H rows, W columns.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from train.settings import check_ranges


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How much; 0 is none of it."""

    crop: float = 0.0
    """Shift by up to this share of the side, in rows and in columns (a crop of a padded frame)."""
    flip: float = 0.0
    """Probability of a flip from left to right."""
    scale: float = 0.0
    """Size between 1 / (1 + scale) and 1 + scale."""
    cutout: float = 0.0
    """Side of a square that is emptied, as a share of the frame's (DeVries and Taylor 2017)."""
    mixup: float = 0.0
    """Alpha of the beta distribution by which pairs are mixed (Zhang et al. 2018)."""
    time_shift: int = 0
    """Frames: shift by up to so many steps."""
    event_drop: float = 0.0
    """Frames: each event is lost with a probability drawn up to this, a sample at a time (Gu et
    al. 2021)."""
    strength: float = 1.0
    """Factor on all of the above but flip."""

    def __post_init__(self) -> None:
        unlimited = (0, math.inf)
        check_ranges(self, crop=(0, 1), flip=(0, 1), scale=(0, 4), cutout=(0, 1))
        check_ranges(self, mixup=unlimited, time_shift=unlimited, event_drop=(0, 1))
        check_ranges(self, strength=unlimited)

    def scaled(self) -> "Augmentation":
        """The same with the strength multiplied into the rest; shares stop at 1."""
        names = {field.name for field in fields(self)} - {"flip", "strength", "time_shift"}
        values = {name: getattr(self, name) * self.strength for name in names}
        for share in ("crop", "cutout", "event_drop"):
            values[share] = min(values[share], 1.0)
        values["scale"] = min(values["scale"], 4.0)
        steps = round(self.time_shift * self.strength)
        return Augmentation(flip=self.flip, time_shift=steps, **values)


def augment(x: Tensor, settings: Augmentation, seed: int) -> Tensor:
    """The batch augmented by all but mixup: a new tensor of the same shape and dtype.

    The same seed on the same kind of device gives the same.
    """
    s = settings.scaled()
    draw = torch.Generator(x.device).manual_seed(seed)
    frames = x if x.ndim == 5 else x.unsqueeze(1)  # (N, T, P, H, W)
    if x.ndim == 5 and s.time_shift:
        frames = _shift_in_time(frames, s.time_shift, draw)
    if x.ndim == 5 and s.event_drop:
        kept = torch.rand(frames.shape, generator=draw, device=x.device)
        loss = torch.rand(len(x), 1, 1, 1, 1, generator=draw, device=x.device) * s.event_drop
        frames = frames * (kept >= loss).to(x.dtype)
    if s.crop or s.flip or s.scale or s.cutout:
        frames = _move(frames, s, draw)
    return frames.reshape(x.shape)


def _shift_in_time(frames: Tensor, most: int, draw: torch.Generator) -> Tensor:
    samples, steps = frames.shape[:2]
    device = frames.device
    shift = torch.randint(-most, most + 1, (samples, 1), generator=draw, device=device)
    source = torch.arange(steps, device=device) - shift  # (N, T)
    inside = (source >= 0) & (source < steps)
    picked = frames[torch.arange(samples, device=device)[:, None], source.clamp(0, steps - 1)]
    return picked * inside[:, :, None, None, None].to(frames.dtype)


def _move(frames: Tensor, s: Augmentation, draw: torch.Generator) -> Tensor:
    """Shift, scale, flip and cut out: all are a choice of rows and of columns."""
    samples, height, width = len(frames), *frames.shape[-2:]

    def uniform() -> Tensor:  # (N, 1) in -1..1
        return 2 * torch.rand(samples, 1, generator=draw, device=frames.device) - 1

    zoom = (1 + s.scale) ** uniform()
    mirrored = (uniform() + 1) / 2 < s.flip
    keep = torch.ones(samples, 1, 1, dtype=torch.bool, device=frames.device)
    inside, cut = keep, keep
    sources = []
    for side, axis in ((height, 1), (width, 2)):
        place = torch.arange(side, device=frames.device) - (side - 1) / 2  # (side,)
        source = place / zoom + (side - 1) / 2 + s.crop * side * uniform()
        if axis == 2:
            source = torch.where(mirrored, side - 1 - source, source)
        source = source.round().long()  # (N, side)
        inside = inside & ((source >= 0) & (source < side)).unsqueeze(3 - axis)
        centre = uniform() * side / 2
        cut = cut & ((place - centre).abs() < s.cutout * side / 2).unsqueeze(3 - axis)
        sources.append(source.clamp(0, side - 1))
    keep = inside & ~cut if s.cutout else inside  # (N, H, W)
    flat = frames.flatten(1, 2)  # (N, T*P, H, W)
    rows = sources[0][:, None, :, None].expand(*flat.shape[:3], width)
    columns = sources[1][:, None, None, :].expand_as(flat)
    moved = flat.gather(2, rows).gather(3, columns) * keep.unsqueeze(1).to(frames.dtype)
    return moved.reshape(frames.shape)


def mixup(x: Tensor, targets: Tensor, alpha: float, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs of samples mixed, with their targets (N, classes): x a l + x b (1 - l), floating."""
    share = np.random.default_rng(seed).beta(alpha, alpha)
    draw = torch.Generator().manual_seed(seed)
    other = torch.randperm(len(x), generator=draw).to(x.device)
    return torch.lerp(x[other], x, share), torch.lerp(targets[other], targets, share)


def downscale(x: Tensor, factor: int) -> Tensor:
    """Rows and columns divided by a factor: uint8 frames (N, T, P, H, W) by their maximum, images
    (N, C, H, W) by their mean, rounded. What is left over at the ends is dropped.
    """
    if factor == 1:
        return x
    height, width = (side // factor * factor for side in x.shape[-2:])
    if x.ndim == 5:
        whole = x[..., :height, :width]
        tiles = whole.reshape(*x.shape[:3], -1, factor, width // factor, factor)
        return tiles.amax(dim=(4, 6))
    return functional.avg_pool2d(x.float(), factor).round().to(x.dtype)
