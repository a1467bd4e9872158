"""The spike and the sharpened ReLU: steep functions with a surrogate gradient.

Both are one ramp, ``clip((u - lo) / (hi - lo), 0, 1)``. The sharpened ReLU narrows it from epoch to
epoch; where ``lo == hi`` it is the spike, ``1[u > lo]``. In the backward pass both have the slope
of a surrogate around the threshold, whatever the width of the ramp.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

Surrogate = Literal["rectangular", "triangular", "arctangent"]
SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "rectangular": lambda d: (d.abs() < 0.5).to(d.dtype),
    "triangular": lambda d: (1 - d.abs()).clamp(min=0),
    "arctangent": lambda d: 1 / (1 + (torch.pi * d) ** 2),
}
"""Surrogate slopes at distance d = u - threshold. Each has an area of one: rectangular as in Wu et
al. 2018 (STBP), triangular as in Bellec et al. 2018, arctangent as in Fang et al. 2021."""

OUTPUTS = {None: 0, "rectangular": 1, "triangular": 2, "arctangent": 3}
"""Codes by which kernels know what a neuron puts out: its membrane, or spikes by surrogate."""
MEMBRANE, RECTANGULAR, TRIANGULAR, ARCTANGENT = OUTPUTS.values()


class Dynamics(NamedTuple):
    """The constants of a layer of neurons, for the kernels."""

    decay: Tensor
    """(), float32, on the neurons' device."""
    threshold: float
    output: int
    """One of OUTPUTS."""
    saves_membrane: bool = False
    """Whether the membrane is saved for the backward pass; else the input."""
    learns_decay: bool = False
    """Whether the backward pass computes the decay's gradient."""


class Ramp(torch.autograd.Function):
    """The ramp of u, ``Ramp.apply(u, lo, hi, threshold, surrogate)``: same shape and dtype."""

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
    """Return ``1[u > threshold]`` with the surrogate's gradient; same shape and dtype as u."""
    return Ramp.apply(u, threshold, threshold, threshold, surrogate)  # type: ignore[no-any-return,no-untyped-call]


def ramp_bounds(epoch: int, epochs: int = 100) -> tuple[float, float]:
    """Return the bounds (lo, hi) of the sharpened ReLU's ramp in an epoch, counted from 0.

    Published for 100 epochs: ``lo = min(epoch/200, 0.49)``, ``hi = 1 - epoch/200``. Other lengths
    run through the same bounds. After the last epoch the bounds stay.
    """
    done = epoch / (2 * epochs)
    return min(done, 0.49), max(1 - done, 0.5)


class SharpenedReLU(nn.Module):
    """A ReLU clipped at 1 that narrows to the spike during training (published pipe-S).

    The bounds are a function of the epoch and not part of the state: call `sharpen` at the start of
    every epoch, and after a resume.
    """

    def __init__(self, threshold: float = 0.5, surrogate: str = "rectangular") -> None:
        super().__init__()
        self.threshold, self.surrogate = threshold, surrogate
        self.set_bounds(*ramp_bounds(0))

    def set_bounds(self, lo: float, hi: float) -> None:
        """Set the bounds, as published for a threshold of 0.5; they scale with the threshold."""
        self.lo, self.hi = 2 * self.threshold * lo, 2 * self.threshold * hi

    def forward(self, u: Tensor) -> Tensor:
        return Ramp.apply(u, self.lo, self.hi, self.threshold, self.surrogate)  # type: ignore[no-any-return,no-untyped-call]

    def extra_repr(self) -> str:
        return f"lo={self.lo:.3f}, hi={self.hi:.3f}, surrogate={self.surrogate}"


def sharpen(network: nn.Module, epoch: int, epochs: int = 100) -> None:
    """Set every sharpened ReLU of a network to the bounds of an epoch (`ramp_bounds`)."""
    for module in network.modules():
        if isinstance(module, SharpenedReLU):
            module.set_bounds(*ramp_bounds(epoch, epochs))
