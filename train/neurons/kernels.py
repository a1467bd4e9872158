"""The choice of kernels by device: Numba on the CPU, Triton on GPUs.

Legend: T steps, M neurons, n values.
"""

import warnings
from functools import cache
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from train.neurons import cpu
from train.neurons.surrogate import Dynamics

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""Dtypes of tensors that kernels work on; all compute in float32."""


class Kernels(Protocol):
    """The functions of `train.neurons.cpu` and `train.neurons.gpu`.

    Tensors are contiguous, on one device and of one of DTYPES.
    """

    MOST_STEPS: float

    def run_forward(self, x: Tensor, neurons: Dynamics, out: Tensor) -> None:
        """Fill out (T, M), the membrane or spikes, from the input x (T, M)."""

    def run_backward(
        self, gradient: Tensor, saved: Tensor, neurons: Dynamics, gx: Tensor
    ) -> Tensor | None:
        """Fill the input's gradient gx (T, M) from the output's; return the decay's, (), or None.

        `saved` (T, M) is the membrane or the input.
        """

    def pack(self, values: Tensor) -> Tensor:
        """Return zeros and ones (n,) as bits; see `train.neurons.bits`."""

    def unpack(self, packed: Tensor, size: int, dtype: torch.dtype) -> Tensor:
        """Return zeros and ones (size,) from bits."""


def kernels_for(device: torch.device, dtype: torch.dtype, steps: int = 1) -> Kernels | None:
    """Return the kernels for a tensor of T steps, or None where only plain torch runs."""
    if dtype not in DTYPES:
        return None
    kernels: Kernels | None = None
    if device.type == "cpu":
        kernels = cpu
    elif device.type == "cuda":
        kernels = triton_kernels()
    return kernels if kernels is not None and steps <= kernels.MOST_STEPS else None


@cache
def triton_kernels() -> Kernels | None:
    """Return `train.neurons.gpu`, or None where Triton is not installed or does not run.

    Triton needs a C compiler and a GPU that it supports. The first call tries it, and warns if it
    fails.
    """
    if find_spec("triton") is None:
        return None
    try:
        from train.neurons import gpu

        gpu.pack(torch.ones(1, device="cuda")).item()
    except Exception as error:  # compilers and drivers raise many kinds of errors
        warnings.warn(
            f"Triton is installed but does not run here ({type(error).__name__}: {error}); neurons "
            "use plain torch instead, which is several times slower",
            stacklevel=2,
        )
        return None
    return gpu
