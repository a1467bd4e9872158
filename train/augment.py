"""Augmentation of batches on their own device, the same for all steps of a sample.

A batch is frames (N, T, P, H, W) or images (N, C, H, W), uint8 or floating, or packed binary frames
(N, K, H, W, P) from a FrameLoader with layout="packed". Geometry moves whole pixels by nearest
neighbour, so events stay events; what moves in from outside is 0.

Legend: N samples, T steps, P polarities, C channels, H rows, W columns; K bytes of eight steps.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from eventdata.batches import unpack_frames
from eventdata.settings import Settings, fields_of, setting

SHARE = {"least": 0, "most": 1}


@dataclass(frozen=True, kw_only=True)
class Augmentation(Settings):
    """Settings of augmentation; 0 switches one off."""

    crop: float = setting(0.0, "Largest shift, as a share of the frame's side.", **SHARE)
    flip: float = setting(0.0, "Probability of a flip from left to right.", **SHARE)
    scale: float = setting(
        0.0, "Scale frames by a factor between 1 / (1 + scale) and 1 + scale.", least=0, most=4
    )
    cutout: float = setting(
        0.0, "Side of a square set to 0, as a share of the frame's (DeVries, Taylor 2017).", **SHARE
    )
    mixup: float = setting(
        0.0, "Alpha of the beta distribution that mixes pairs (Zhang 2018).", least=0, most=100
    )
    time_shift: int = setting(
        0, "Event frames: largest shift in time.", unit="steps", least=0, most=10_000
    )
    event_drop: float = setting(
        0.0, "Event frames: largest share of events to drop, drawn per sample (Gu 2021).", **SHARE
    )
    polarity_swap: float = setting(
        0.0, "Event frames: probability of swapping the polarities, as in a negative.", **SHARE
    )
    strength: float = setting(
        1.0, "Factor on all of these except `flip` and `polarity_swap`.", least=0, most=100
    )

    def summary(self) -> str:
        """Return what is switched on, such as "crop 0.1, flip 0.5", or "none"."""
        values = {field.key: getattr(self.scaled(), field.key) for field in fields_of(Augmentation)}
        on = [f"{key} {value:g}" for key, value in values.items() if value and key != "strength"]
        return ", ".join(on) or "none"

    def scaled(self) -> "Augmentation":
        """Return the settings with the strength multiplied into them, within their bounds."""
        values = {}
        for field in fields_of(Augmentation):
            if field.key not in ("flip", "polarity_swap", "strength"):
                value = getattr(self, field.key) * self.strength
                values[field.key] = min(value, field.most or value)
        values["time_shift"] = round(values["time_shift"])
        return replace(self, strength=1.0, **values)


def augment(
    x: Tensor,
    settings: Augmentation,
    seed: int,
    *,
    steps: int | None = None,
    binary: bool = False,
) -> Tensor:
    """Return a batch augmented by everything except mixup; x is not changed.

    The result depends on the seed and the kind of device. Packed frames give the packed result of
    the same frames dense.

    Args:
        x: a batch.
        settings: strengths of the augmentation.
        seed: seed of all random draws.
        steps: T of packed frames; None: the batch is dense.
        binary: whether dense frames are known to be 0 and 1; finding out means waiting for the
            device.

    Returns:
        A batch of the shape and dtype of x.
    """
    s = settings.scaled()
    draw = torch.Generator(x.device).manual_seed(seed)
    if steps is not None:
        if s.time_shift or s.event_drop:
            x = pack_frames(_in_time(unpack_frames(x, steps), s, draw, binary=True))
        return _move(_swap(x.movedim(-1, 2), s, draw), s, draw).movedim(2, -1)
    if x.ndim == 5:
        return _move(_swap(_in_time(x, s, draw, binary=binary), s, draw), s, draw)
    return _move(x.unsqueeze(1), s, draw).squeeze(1)


def pack_frames(frames: Tensor) -> Tensor:
    """Pack frames (N, T, P, H, W) into uint8 (N, K, H, W, P), the first step in the highest bit."""
    whole = functional.pad(frames, (0, 0, 0, 0, 0, 0, 0, -frames.shape[1] % 8))
    eights = whole.reshape(len(frames), -1, 8, *frames.shape[2:])  # (N, K, 8, P, H, W)
    bits = 1 << torch.arange(7, -1, -1, dtype=torch.uint8, device=frames.device)
    packed: Tensor = (eights * bits[:, None, None, None]).sum(dim=2, dtype=torch.uint8)
    return packed.movedim(2, -1)


def _in_time(frames: Tensor, s: Augmentation, draw: torch.Generator, *, binary: bool) -> Tensor:
    """Shift steps and drop events of frames (N, T, P, H, W)."""
    if s.time_shift:
        frames = _shift_in_time(frames, s.time_shift, draw)
    if s.event_drop:
        kept = torch.rand(frames.shape, generator=draw, device=frames.device)
        loss = torch.rand(len(frames), 1, 1, 1, 1, generator=draw, device=frames.device)
        loss = loss * s.event_drop
        if not binary and (frames > 1).any():
            # Counts: each event of a pixel and step is kept or lost by itself.
            counts, share = frames.float(), (1 - loss).expand(frames.shape)
            frames = torch.binomial(counts, share, generator=draw).to(frames.dtype)
        else:
            frames = frames * (kept >= loss).to(frames.dtype)
    return frames


def _swap(frames: Tensor, s: Augmentation, draw: torch.Generator) -> Tensor:
    """Swap the polarities of some samples of (N, ., P, H, W); a voxel grid has them as signs."""
    if not s.polarity_swap:
        return frames
    signed = frames.shape[2] == 1 and frames.is_floating_point() and bool((frames < 0).any())
    swapped = -frames if signed else frames.flip(2)
    drawn = torch.rand(len(frames), 1, 1, 1, 1, generator=draw, device=frames.device)
    return torch.where(drawn < s.polarity_swap, swapped, frames)


def _shift_in_time(frames: Tensor, most: int, draw: torch.Generator) -> Tensor:
    samples, steps = frames.shape[:2]
    device = frames.device
    shift = torch.randint(-most, most + 1, (samples, 1), generator=draw, device=device)
    source = torch.arange(steps, device=device) - shift  # (N, T)
    inside = (source >= 0) & (source < steps)
    picked = frames[torch.arange(samples, device=device)[:, None], source.clamp(0, steps - 1)]
    return picked * inside[:, :, None, None, None].to(frames.dtype)


def _move(frames: Tensor, s: Augmentation, draw: torch.Generator) -> Tensor:
    """Shift, scale, flip and cut out (N, ., ., H, W) by choosing rows and columns."""
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
    """Mix pairs of samples, ``l * x[a] + (1 - l) * x[b]``, and their targets likewise.

    Args:
        x: a batch as in `augment`.
        targets: (N, classes), one-hot or shares.
        alpha: parameter of the beta distribution of l; 0: nothing is mixed.
        seed: seed of all random draws.
        steps: T of packed frames, which are returned dense; None: the batch is dense.

    Returns:
        The batch and the targets, both floating.
    """
    if steps is not None:
        x = unpack_frames(x, steps)
    x, targets = (v if v.is_floating_point() else v.float() for v in (x, targets))
    if not alpha:
        return x, targets
    share = np.random.default_rng(seed).beta(alpha, alpha)
    draw = torch.Generator().manual_seed(seed)
    other = torch.randperm(len(x), generator=draw)
    if x.is_cuda:  # a copy from pinned memory does not wait for the device
        other = other.pin_memory().to(x.device, non_blocking=True)
    return torch.lerp(x[other], x, share), torch.lerp(targets[other], targets, share)
