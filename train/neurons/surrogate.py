"""The spike and the sharpened ReLU: steep functions with a surrogate gradient.

Both are one ramp, ``clip((u - lo) / (hi - lo), 0, 1)``. The sharpened ReLU narrows it from epoch to
epoch; where ``lo`` meets ``hi`` it is the spike, ``1[u > lo]``. Backward, both have the slope of a
surrogate around the threshold, whatever the width of the ramp.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "rectangular": lambda d: (d.abs() < 0.5).to(d.dtype),
    "triangular": lambda d: (1 - d.abs()).clamp(min=0),
    "arctangent": lambda d: 1 / (1 + (torch.pi * d) ** 2),
}
"""Surrogate slope at distance d = u - threshold. Each has an area of one: rectangular as in Wu et
al. 2018 (STBP), triangular as in Bellec et al. 2018, arctangent as in Fang et al. 2021."""


class Ramp(torch.autograd.Function):
    """``Ramp.apply(u, lo, hi, threshold, surrogate)``: the ramp of u, same shape and dtype."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, lo: float, hi: float, threshold: float, surrogate: str
    ) -> Tensor:
        ctx.save_for_backward(u)
        ctx.threshold, ctx.surrogate = threshold, surrogate
        if lo == hi:
            return (u > lo).to(u.dtype)
        return ((u - lo) / (hi - lo)).clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        (u,) = ctx.saved_tensors
        return gradient * SLOPES[ctx.surrogate](u - ctx.threshold), None, None, None, None


def spike(u: Tensor, threshold: float = 0.5, surrogate: str = "rectangular") -> Tensor:
    """``1[u > threshold]`` with the surrogate's gradient; same shape and dtype as u."""
    return Ramp.apply(u, threshold, threshold, threshold, surrogate)  # type: ignore[no-any-return,no-untyped-call]


def ramp_bounds(epoch: int, epochs: int = 100) -> tuple[float, float]:
    """Where the sharpened ReLU of an epoch (counted from 0) starts to rise and where it ends.

    Published for 100 epochs: ``lo = min(epoch/200, 0.49)``, ``hi = 1 - epoch/200``; other lengths
    run through the same bounds. Past the last epoch the ramp stays as narrow as it got.
    """
    done = epoch / (2 * epochs)
    return min(done, 0.49), max(1 - done, 0.5)


class SharpenedReLU(nn.Module):
    """A ReLU clipped at 1 that closes in on the spike as training goes on (published pipe-S).

    The bounds are a function of the epoch and no part of the state: call `sharpen` when an epoch
    starts, also after a resume.
    """

    def __init__(self, threshold: float = 0.5, surrogate: str = "rectangular") -> None:
        super().__init__()
        self.threshold, self.surrogate = threshold, surrogate
        self.close_in(*ramp_bounds(0))

    def close_in(self, lo: float, hi: float) -> None:
        """Set the bounds; published for a threshold of 0.5, they grow in proportion to it."""
        self.lo, self.hi = 2 * self.threshold * lo, 2 * self.threshold * hi

    def forward(self, u: Tensor) -> Tensor:
        return Ramp.apply(u, self.lo, self.hi, self.threshold, self.surrogate)  # type: ignore[no-any-return,no-untyped-call]

    def extra_repr(self) -> str:
        return f"lo={self.lo:.3f}, hi={self.hi:.3f}, surrogate={self.surrogate}"


def sharpen(network: nn.Module, epoch: int, epochs: int = 100) -> None:
    """Set every sharpened ReLU of a network to an epoch's bounds (`ramp_bounds`)."""
    for module in network.modules():
        if isinstance(module, SharpenedReLU):
            module.close_in(*ramp_bounds(epoch, epochs))
