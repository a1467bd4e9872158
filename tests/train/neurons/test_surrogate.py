"""The spike, the sharpened ReLU, and the slopes they have backward."""

import math

import pytest
import torch
from torch import nn

from train.neurons.surrogate import SLOPES, Ramp, SharpenedReLU, ramp_bounds, sharpen, spike

U = torch.tensor([-2.0, 0.0, 0.1, 0.5, 0.75, 0.9, 1.0, 1.5])  # 0, 0.5 and 1 are the edges


@pytest.mark.parametrize(
    ("surrogate", "slopes"),
    [
        ("rectangular", [0, 0, 1, 1, 1, 1, 0, 0]),
        ("triangular", [0, 0.5, 0.6, 1, 0.75, 0.6, 0.5, 0]),
        ("arctangent", [1 / (1 + (math.pi * (u - 0.5)) ** 2) for u in U.tolist()]),
    ],
)
def test_spike_has_the_slope_of_its_surrogate(surrogate, slopes):
    u = U.clone().requires_grad_()
    out = spike(u, 0.5, surrogate)
    out.backward(torch.full_like(u, 2))
    assert out.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    torch.testing.assert_close(u.grad, 2 * torch.tensor(slopes, dtype=torch.float32))


@pytest.mark.parametrize("surrogate", SLOPES)
def test_slopes_have_unit_area(surrogate):
    d = torch.linspace(-400, 400, 8_000_001, dtype=torch.float64)
    area = torch.trapezoid(SLOPES[surrogate](d), d).item()
    assert area == pytest.approx(1, abs=1e-3)


def test_ramp_bounds_are_the_published_ones():
    for epoch in range(100):
        assert ramp_bounds(epoch) == pytest.approx((min(epoch / 200, 0.49), 1 - epoch / 200))
    assert ramp_bounds(5, epochs=10) == pytest.approx(ramp_bounds(50))
    assert ramp_bounds(300) == (0.49, 0.5)


def test_sharpened_relu_narrows_around_the_threshold():
    relu = SharpenedReLU()
    assert torch.equal(relu(U), U.clamp(0, 1))
    sharpen(nn.Sequential(relu), 50)  # 0.25 to 0.75
    torch.testing.assert_close(relu(U), ((U - 0.25) / 0.5).clamp(0, 1))
    sharpen(nn.Sequential(relu), 99)  # 0.49 to 0.505
    assert torch.equal(relu(U) > 0.5, U >= 0.5)


def test_sharpened_relu_has_the_slope_of_the_spike_at_any_width():
    for epoch in (0, 50, 99):
        relu = SharpenedReLU()
        sharpen(relu, epoch)
        u = U.clone().requires_grad_()
        relu(u).sum().backward()
        assert torch.equal(u.grad, SLOPES["rectangular"](U - 0.5))


def test_the_ramp_of_no_width_is_the_spike():
    assert torch.equal(Ramp.apply(U, 0.5, 0.5, 0.5, "rectangular"), spike(U))
