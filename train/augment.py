"""Augmentation of batches, on the device they are on, the same for all steps of a sample.

A batch is frames (N, T, P, H, W), uint8 or floating, or images (N, C, H, W), or packed binary
frames (N, K, H, W, P) as FrameLoader gives them with layout="packed". Geometry is by whole pixels
and nearest neighbours, so that events stay events. What moves in from outside is 0.

Legend: N samples, T steps, P polarities, C channels, H rows, W columns; K bytes of eight steps.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from eventdata.loader import unpack_frames
from train.settings import check_ranges

MOST: dict[str, float] = {
    **{"crop": 1, "flip": 1, "scale": 4, "cutout": 1, "mixup": 100},
    **{"time_shift": 10_000, "event_drop": 1, "strength": 100},
}


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How much; 0 is none of it. No more than MOST."""

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
        check_ranges(self, **{name: (0, most) for name, most in MOST.items()})

    def scaled(self) -> "Augmentation":
        """The same with the strength multiplied into the rest, none of which exceeds MOST."""
        names = MOST.keys() - {"flip", "strength"}
        values = {name: min(getattr(self, name) * self.strength, MOST[name]) for name in names}
        steps = round(values.pop("time_shift"))
        return Augmentation(flip=self.flip, time_shift=steps, **values)


def augment(
    x: Tensor,
    settings: Augmentation,
    seed: int,
    *,
    steps: int | None = None,
    binary: bool = False,
) -> Tensor:
    """The batch augmented by all but mixup: of the same shape and dtype; x stays as it is.

    The same seed on the same kind of device gives the same; packed frames come out as the same
    frames dense would, packed.

    Args:
        x: a batch.
        settings: how much.
        seed: of all that is drawn.
        steps: T of packed frames; None: the batch is dense.
        binary: dense frames are known to be of 0 and 1. To look would be to wait for the device.
    """
    s = settings.scaled()
    draw = torch.Generator(x.device).manual_seed(seed)
    if steps is not None:
        if s.time_shift or s.event_drop:
            x = pack_frames(_in_time(unpack_frames(x, steps), s, draw, binary=True))
        return _move(x.movedim(-1, 2), s, draw).movedim(2, -1)
    if x.ndim == 5:
        return _move(_in_time(x, s, draw, binary=binary), s, draw)
    return _move(x.unsqueeze(1), s, draw).squeeze(1)


def pack_frames(frames: Tensor) -> Tensor:
    """Binary frames (N, T, P, H, W) as uint8 (N, K, H, W, P), the first step in the highest bit."""
    whole = functional.pad(frames, (0, 0, 0, 0, 0, 0, 0, -frames.shape[1] % 8))
    eights = whole.reshape(len(frames), -1, 8, *frames.shape[2:])  # (N, K, 8, P, H, W)
    bits = 1 << torch.arange(7, -1, -1, dtype=torch.uint8, device=frames.device)
    packed: Tensor = (eights * bits[:, None, None, None]).sum(dim=2, dtype=torch.uint8)
    return packed.movedim(2, -1)


def _in_time(frames: Tensor, s: Augmentation, draw: torch.Generator, *, binary: bool) -> Tensor:
    """What is done to steps and events of frames (N, T, P, H, W)."""
    if s.time_shift:
        frames = _shift_in_time(frames, s.time_shift, draw)
    if s.event_drop:
        kept = torch.rand(frames.shape, generator=draw, device=frames.device)
        loss = torch.rand(len(frames), 1, 1, 1, 1, generator=draw, device=frames.device)
        loss = loss * s.event_drop
        if not binary and (frames > 1).any():
            # Counts: each event of a pixel and step has its own fate.
            counts, share = frames.float(), (1 - loss).expand(frames.shape)
            frames = torch.binomial(counts, share, generator=draw).to(frames.dtype)
        else:
            frames = frames * (kept >= loss).to(frames.dtype)
    return frames


def _shift_in_time(frames: Tensor, most: int, draw: torch.Generator) -> Tensor:
    samples, steps = frames.shape[:2]
    device = frames.device
    shift = torch.randint(-most, most + 1, (samples, 1), generator=draw, device=device)
    source = torch.arange(steps, device=device) - shift  # (N, T)
    inside = (source >= 0) & (source < steps)
    picked = frames[torch.arange(samples, device=device)[:, None], source.clamp(0, steps - 1)]
    return picked * inside[:, :, None, None, None].to(frames.dtype)


def _move(frames: Tensor, s: Augmentation, draw: torch.Generator) -> Tensor:
    """Shift, scale, flip and cut out (N, ., ., H, W): all are a choice of rows and of columns."""
    if not (s.crop or s.flip or s.scale or s.cutout):
        return frames
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


def mixup(
    x: Tensor, targets: Tensor, alpha: float, seed: int, *, steps: int | None = None
) -> tuple[Tensor, Tensor]:
    """Pairs of samples mixed: x a l + x b (1 - l), and their targets likewise.

    Args:
        x: a batch as `augment` takes it.
        targets: (N, classes), one-hot or shares.
        alpha: of the beta distribution that l is of; 0: nothing is mixed.
        seed: of all that is drawn.
        steps: T of packed frames, which come out dense; None: the batch is dense.

    Returns:
        Both floating.
    """
    if steps is not None:
        x = unpack_frames(x, steps)
    x, targets = (v if v.is_floating_point() else v.float() for v in (x, targets))
    if not alpha:
        return x, targets
    share = np.random.default_rng(seed).beta(alpha, alpha)
    draw = torch.Generator().manual_seed(seed)
    other = torch.randperm(len(x), generator=draw)
    if x.is_cuda:  # from pinned memory it is copied without a wait for the device
        other = other.pin_memory().to(x.device, non_blocking=True)
    return torch.lerp(x[other], x, share), torch.lerp(targets[other], targets, share)
