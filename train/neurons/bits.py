"""Zeros and ones as bits, an eighth of a byte each, and back.

Bit k of byte j is value ``k * bytes + j``: eight rows that lie one after the other are laid on top
of each other, so that no bit moves between neighbours and the loops vectorise.
"""

from typing import Any

import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from train.neurons.cpu import BLOCK, over_blocks, triton_kernels

ONES = {torch.float32: (torch.int32, 0x3F80_0000), torch.bfloat16: (torch.int16, 0x3F80)}
ONES |= {torch.float16: (torch.int16, 0x3C00)}
"""By dtype: integers of its width, and the one that has the bits of 1.0. Those of 0.0 are 0."""


@njit(cache=True, nogil=True)
def _pack(values: NDArray[Any], packed: NDArray[Any], first: int, last: int) -> None:
    for block in range(first, last):
        start, stop = block * BLOCK, min((block + 1) * BLOCK, packed.size)
        out = packed[start:stop]
        out[:] = 0
        for k in range(8):
            row = values[k * packed.size + start : k * packed.size + stop]
            for j in range(row.size):
                out[j] |= (row[j] != 0) << k


@njit(cache=True, nogil=True)
def _unpack(packed: NDArray[Any], one: Any, values: NDArray[Any], first: int, last: int) -> None:
    for block in range(first, last):
        start, stop = block * BLOCK, min((block + 1) * BLOCK, packed.size)
        bits = packed[start:stop]
        for k in range(8):
            row = values[k * packed.size + start : k * packed.size + stop]
            for j in range(row.size):
                row[j] = one if (bits[j] >> k) & 1 else 0


def pack(values: Tensor) -> Tensor:
    """Floating zeros and ones (n,) as uint8 bits (ceil(n / 8),); n bytes where there is no kernel.

    There are kernels for the CPU, and for GPUs where Triton is installed.
    """
    gpu = triton_kernels() if values.is_cuda else None
    if values.dtype not in ONES or not (values.is_cpu or gpu):
        return values.bool()
    if gpu:
        return gpu.pack(values)  # type: ignore[no-any-return]
    packed = torch.empty(-(-values.numel() // 8), dtype=torch.uint8)
    integers = values.view(ONES[values.dtype][0]).numpy()
    over_blocks(_pack, packed.numel(), torch.get_num_threads(), integers, packed.numpy())
    return packed


def unpack(packed: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """What `pack` was given: floating zeros and ones (size,)."""
    if packed.dtype == torch.bool:
        return packed.to(dtype)
    gpu = triton_kernels() if packed.is_cuda else None
    if gpu:
        return gpu.unpack(packed, size, dtype)  # type: ignore[no-any-return]
    width, one = ONES[dtype]
    integers = torch.empty(size, dtype=width)
    array = integers.numpy()
    arguments = packed.numpy(), array.dtype.type(one), array
    over_blocks(_unpack, packed.numel(), torch.get_num_threads(), *arguments)
    return integers.view(dtype)
