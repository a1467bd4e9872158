"""Refit an affine map in closed form, by regression on what its output should be.

Legend: R rows, one for each chosen place of a sample; F inputs of one output; C channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Strengths of the ridge penalty that are tried, in units of the inputs' mean variance."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of an affine map, and the held-out errors that it was chosen by."""

    weight: Tensor
    """(F, C)"""
    gain: Tensor
    """(C,), for each channel's own input."""
    bias: Tensor
    """(C,)"""
    before: float
    """Mean square of the residual on the held-out rows."""
    after: float
    """The same after a change that was fitted to the other rows."""


def match(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gain and the offset (C,) that bring a map's output (R, C) closest to a target."""
    means = output.mean(dim=0), target.mean(dim=0)
    output, target = output - means[0], target - means[1]
    power = output.square().sum(dim=0)
    varies = power > _rounding(means[0], len(output))
    gain = torch.where(varies, (output * target).sum(dim=0) / power, 1.0)
    return gain, means[1] - gain * means[0]


def _rounding(mean: Tensor, rows: int) -> Tensor:
    """Return the sum of squares below which a column only varies by the rounding of its mean."""
    return rows * (16 * torch.finfo(mean.dtype).eps * mean).square()


def refit(x: Tensor, residual: Tensor, held: Tensor, own: Tensor | None = None) -> Change:
    """Return the change of an affine map that explains most of its residual.

    The penalty is chosen on the held-out rows; the change is then fitted to all rows. It is zero if
    every penalty raises the held-out error.

    Args:
        x: inputs (R, F).
        residual: target minus the map's output, (R, C).
        held: bool (R,), the held-out rows.
        own: inputs (R, C) that each serve only the channel of the same number.
    """
    rest = ~held
    part = _Ridge(x[rest], residual[rest], None if own is None else own[rest])
    before = float(residual[held].square().mean())
    after, change = before, None
    for strength in STRENGTHS:
        weight, gain, bias = part.solve(strength)
        left = residual[held] - x[held] @ weight - bias
        if own is not None:
            left -= own[held] * gain
        if (error := float(left.square().mean())) < after:
            after, change = error, strength
    if change is None:
        nothing = torch.zeros_like(residual[0])
        weight, gain, bias = residual.new_zeros(x.shape[1], len(nothing)), nothing, nothing
    else:
        weight, gain, bias = _Ridge(x, residual, own).solve(change)
    return Change(weight=weight, gain=gain, bias=bias, before=before, after=after)


class _Ridge:
    """Ridge regression without a penalty on the biases and on the gains of own inputs."""

    def __init__(self, x: Tensor, residual: Tensor, own: Tensor | None) -> None:
        inputs = [x, residual] if own is None else [x, residual, own]
        self.means = [each.mean(dim=0) for each in inputs]
        self.x, self.residual, *self.own = (
            each - mean for each, mean in zip(inputs, self.means, strict=True)
        )
        rows, columns = x.shape
        self.tall = rows >= columns
        # Both products have the same solutions, and the smaller one is cheaper.
        self.product = self.x.T @ self.x if self.tall else self.x @ self.x.T
        self.unit = self.x.square().sum() / columns
        targets = torch.cat([self.residual, *self.own], dim=1)
        self.targets = self.x.T @ targets if self.tall else targets

    def solve(self, strength: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the changes of weight (F, C), gain (C,) and bias (C,)."""
        product = self.product.clone()
        product.diagonal().add_(strength * self.unit + torch.finfo(product.dtype).tiny)
        weight = torch.cholesky_solve(self.targets, torch.linalg.cholesky(product))
        weight = weight if self.tall else self.x.T @ weight
        gain = torch.zeros_like(self.means[1])
        bias = self.means[1].clone()
        for own in self.own:
            # Regress the residual on what x does not explain of the own inputs.
            weight, explaining = weight.tensor_split(2, dim=1)
            rest = own - self.x @ explaining
            power = (own * rest).sum(dim=0)
            varies = power > _rounding(self.means[2], len(own))
            gain = torch.where(varies, (self.residual * rest).sum(dim=0) / power, 0.0)
            weight = weight - explaining * gain
            bias -= self.means[2] * gain
        return weight, gain, bias - self.means[0] @ weight
