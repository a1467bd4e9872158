"""A branch of a network as one affine map: its convolution and its norm folded into each other.

Legend: T steps, N samples, C channels, H rows, W columns; R places, F inputs of one output.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from eventdata.errors import OptionError
from train.networks.layers import ConvNorm


@dataclass(kw_only=True)
class Affine:
    """An affine map of (T, N, C, H, W), of the kind and the shape of a branch's module."""

    module: nn.Module
    weight: Tensor
    """Weights of the convolution or the linear layer; the gain (C,) of an identity."""
    bias: Tensor
    """(C,)"""

    @classmethod
    def of(cls, module: nn.Module, like: Tensor) -> "Affine":
        """Return what a branch's module does in evaluation.

        Args:
            module: the module of a `train.networks.layers.Branch`.
            like: any tensor (C,) of the channels that it reads.

        Raises:
            OptionError: the module is of another kind.
        """
        conv, norm = _parts(module)
        if isinstance(conv, nn.Conv2d | nn.Linear):
            if isinstance(conv, nn.Conv2d) and (conv.groups > 1 or conv.padding_mode != "zeros"):
                raise OptionError(
                    "a convolution with groups or without zero padding can't be calibrated; set "
                    "calibrate=none"
                )
            weight = conv.weight.clone()
            bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.clone()
        elif isinstance(conv, nn.Identity):
            weight = torch.ones_like(like)
            bias = torch.zeros_like(weight)
        else:
            raise OptionError(
                f"a layer of {type(conv).__name__} can't be calibrated; set calibrate=none"
            )
        if norm is not None:
            mean, variance = _statistics(norm)
            scale = norm.weight / (variance + norm.eps).sqrt()
            weight = weight * _over_rows(scale, weight)
            bias = (bias - mean) * scale + norm.bias
        return cls(module=module, weight=weight, bias=bias)

    @property
    def tied(self) -> bool:
        """Whether the module has no weights that a gain could fold into."""
        return isinstance(self.module, nn.Identity)

    @property
    def is_identity(self) -> bool:
        """Whether each channel reads only the channel of the same number."""
        return isinstance(_parts(self.module)[0], nn.Identity)

    def __call__(self, x: Tensor) -> Tensor:  # (T, N, C, H, W)
        conv, _ = _parts(self.module)
        if isinstance(conv, nn.Conv2d):
            out = functional.conv2d(
                x.flatten(0, 1), self.weight, self.bias, conv.stride, conv.padding, conv.dilation
            )
            return out.reshape(*x.shape[:2], *out.shape[1:])
        if isinstance(conv, nn.Linear):
            return functional.linear(x.flatten(2), self.weight, self.bias)
        return x * over_channels(self.weight, x) + over_channels(self.bias, x)

    def scale(self, gain: Tensor) -> None:
        """Multiply the output by a gain (C,)."""
        self.weight = self.weight * _over_rows(gain, self.weight)
        self.bias = self.bias * gain

    def rows(self, y: Tensor, chosen: Tensor) -> Tensor:
        """Return the inputs (R, F) of chosen outputs for y (N, C, H, W); of an identity (R, C).

        Args:
            y: what the map reads.
            chosen: (R,), numbers of the outputs as in `places`.
        """
        conv, _ = _parts(self.module)
        if not isinstance(conv, nn.Conv2d):
            return (y.flatten(1) if isinstance(conv, nn.Linear) else places(y))[chosen]
        # What torch pads by itself, also for a padding with a name such as "same".
        patches = functional.pad(y, conv._reversed_padding_repeated_twice)
        for side in range(2):  # a view (N, C, H, W, rows and columns of the kernel)
            reach = (conv.kernel_size[side] - 1) * conv.dilation[side] + 1
            patches = patches.unfold(2 + side, reach, conv.stride[side])
        patches = patches[..., :: conv.dilation[0], :: conv.dilation[1]]
        index = torch.unravel_index(chosen, (len(y), *patches.shape[2:4]))
        return patches.permute(0, 2, 3, 1, 4, 5)[index].flatten(1)

    def write(
        self, module: nn.Module, gain: Tensor, amplitude: Tensor, mean: Tensor, variance: Tensor
    ) -> None:
        """Write gain x map(amplitude x input) into a module like this map's, exactly.

        Args:
            module: the module that gets it.
            gain: (C,), of the outputs.
            amplitude: (C,), of the inputs.
            mean, variance: (C,), of the map's output; of an identity those of the raw input.
        """
        conv, norm = _parts(module)
        inputs = self.weight.shape[1] if self.weight.ndim > 1 else len(self.weight)
        amplitude = amplitude.repeat_interleave(inputs // len(amplitude))
        weight, bias = self.weight * _over_rows(gain, self.weight), self.bias * gain
        offset = torch.zeros_like(bias)
        if not isinstance(conv, nn.Conv2d | nn.Linear):
            scale = weight * amplitude
        else:
            weight = weight * amplitude.view(1, -1, *[1] * (weight.ndim - 2))
            if norm is None:
                if conv.bias is None:
                    raise OptionError(
                        "a layer without norm and bias can't be calibrated; set calibrate=none"
                    )
                conv.weight.copy_(weight)
                conv.bias.copy_(bias)
                return
            # The weights stay of the size that training gave them; the norm takes the factor.
            size, old = (w.flatten(1).norm(dim=1) for w in (weight, conv.weight))
            scale = torch.where((size > 0) & (old > 0), size / old, 1.0)
            conv.weight.copy_(weight / _over_rows(scale, weight))
            offset = offset if conv.bias is None else conv.bias
            mean = (mean - self.bias) * gain / scale + offset
            variance = variance * (gain / scale).square()
        assert norm is not None
        for statistic, value in zip(_statistics(norm), (mean, variance), strict=True):
            statistic.copy_(value)
        norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.bias.copy_(bias + scale * (mean - offset))


def over_channels(values: Tensor, x: Tensor) -> Tensor:
    """Return values (C,) that broadcast over x (T, N, C, ...)."""
    return values.view(-1, *[1] * (x.ndim - 3))


def places(x: Tensor) -> Tensor:
    """Return (N, C, H, W) or (N, C) as (R, C)."""
    return x.movedim(1, -1).flatten(0, -2)


def _over_rows(values: Tensor, weight: Tensor) -> Tensor:
    """Return values (C,) that broadcast over a weight (C, ...)."""
    return values.view(-1, *[1] * (weight.ndim - 1))


def _parts(module: nn.Module) -> tuple[nn.Module, nn.BatchNorm2d | None]:
    """Return what runs before the norm of a branch, and the norm."""
    return (module.conv, module.norm) if isinstance(module, ConvNorm) else (module, None)


def _statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var
