"""Spikes as bits: an eighth of a byte per value.

Bit k of byte j is value ``k * bytes + j``: eight rows, one after the other in memory, are laid on
top of each other. No bit moves to a neighbouring byte, so the loops vectorise.
"""

import torch
from torch import Tensor

from train.neurons.kernels import kernels_for


def pack(values: Tensor) -> Tensor:
    """Return floating zeros and ones (n,) as uint8 bits (ceil(n / 8),).

    Where there is no kernel the result is bool (n,), one byte per value.
    """
    kernels = kernels_for(values.device, values.dtype)
    return values.bool() if kernels is None else kernels.pack(values)


def unpack(packed: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Return the floating zeros and ones (size,) that `pack` was given."""
    kernels = kernels_for(packed.device, dtype)
    return packed.to(dtype) if kernels is None else kernels.unpack(packed, size, dtype)
