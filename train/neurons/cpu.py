"""CPU kernels in Numba: the membrane over time, and spikes as bits.

Arrays are float32 (T, M), C-contiguous: T steps of M neurons. Neurons do not depend on each other,
so threads share them out in blocks, and all steps of a block run while it is in the cache. The
membrane of spiking neurons is never written to memory: the backward pass computes it again from
the input, which costs less than writing and reading it. The loops have no branches and no negative
indices, so that LLVM can vectorise them.
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from train.neurons.surrogate import ARCTANGENT, MEMBRANE, RECTANGULAR, TRIANGULAR, Dynamics

Floats = NDArray[np.float32]

BLOCK = 4096
"""Neurons per block: two rows of it fit the first-level cache, tens of rows the second."""
PARTS = 8  # pieces of work per thread
MOST_STEPS = math.inf
ONES = {
    torch.float32: (torch.int32, 0x3F80_0000),
    torch.bfloat16: (torch.int16, 0x3F80),
    torch.float16: (torch.int16, 0x3C00),
}
"""For each dtype, the integers of its width and the one with the bits of 1.0; 0.0 has the bits of
0."""


@njit(cache=True, nogil=True)
def _advance(x: Floats, before: Floats, decay: float, threshold: float, u: Floats) -> None:
    for j in range(u.size):
        kept = np.float32(0) if before[j] > threshold else decay * before[j]
        u[j] = kept + x[j]


@njit(cache=True, nogil=True)
def _advance_and_fire(
    x: Floats, before: Floats, decay: float, threshold: float, u: Floats, spikes: Floats
) -> None:
    for j in range(u.size):
        kept = np.float32(0) if before[j] > threshold else decay * before[j]
        membrane = kept + x[j]
        u[j] = membrane
        spikes[j] = np.float32(1) if membrane > threshold else np.float32(0)


@njit(cache=True, nogil=True)
def forward(
    x: Floats, decay: float, threshold: float, output: int, out: Floats, first: int, last: int
) -> None:
    """Fill out (T, M) from the input x (T, M) in blocks first..last-1.

    `output` is MEMBRANE, or any surrogate for spikes.
    """
    nothing = np.zeros(BLOCK, np.float32)  # the membrane before the first step
    rows = np.empty((2, BLOCK), np.float32)  # two, because LLVM does not vectorise in-place loops
    for block in range(first, last):
        start, stop = block * BLOCK, min((block + 1) * BLOCK, x.shape[1])
        before = nothing[: stop - start]
        for t in range(x.shape[0]):
            if output == MEMBRANE:
                u = out[t, start:stop]
                _advance(x[t, start:stop], before, decay, threshold, u)
            else:
                u = rows[t % 2, : stop - start]
                spikes = out[t, start:stop]
                _advance_and_fire(x[t, start:stop], before, decay, threshold, u, spikes)
            before = u


@njit(cache=True, nogil=True, error_model="numpy")
def _retreat(
    gradient: Floats,
    u: Floats,
    after: Floats,
    decay: float,
    threshold: float,
    output: int,
    gx: Floats,
) -> None:
    """Add the gradient from the next step to the output's gradient times its slope at u."""
    zero, one, half, pi = np.float32(0), np.float32(1), np.float32(0.5), np.float32(np.pi)
    if output == RECTANGULAR:
        for j in range(u.size):
            back = zero if u[j] > threshold else decay * after[j]
            gx[j] = (gradient[j] if abs(u[j] - threshold) < half else zero) + back
    elif output == TRIANGULAR:
        for j in range(u.size):
            back = zero if u[j] > threshold else decay * after[j]
            gx[j] = gradient[j] * max(one - abs(u[j] - threshold), zero) + back
    elif output == ARCTANGENT:
        for j in range(u.size):
            back = zero if u[j] > threshold else decay * after[j]
            scaled = pi * (u[j] - threshold)
            gx[j] = gradient[j] * (one / (one + scaled * scaled)) + back
    else:
        for j in range(u.size):
            gx[j] = gradient[j] + (zero if u[j] > threshold else decay * after[j])


@njit(cache=True, nogil=True)
def _decay_terms(after: Floats, u: Floats, threshold: float, terms: Floats) -> None:
    for j in range(u.size):
        terms[j] += np.float32(0) if u[j] > threshold else after[j] * u[j]


@njit(cache=True, nogil=True)
def backward(
    gradient: Floats,
    saved: Floats,
    decay: float,
    threshold: float,
    output: int,
    is_membrane: bool,
    gx: Floats,
    gdecay: NDArray[np.float64] | None,
    first: int,
    last: int,
) -> None:
    """Fill the input's gradient gx (T, M) and, if given, the decay's gradient of each block.

    `saved` (T, M) is the membrane if `is_membrane`, else the input.
    """
    T = saved.shape[0]
    nothing = np.zeros(BLOCK, np.float32)  # before the first step and after the last
    membranes = np.empty((T, BLOCK), np.float32)
    terms = np.empty(BLOCK, np.float32)
    for block in range(first, last):
        start, stop = block * BLOCK, min((block + 1) * BLOCK, saved.shape[1])
        size = stop - start
        if not is_membrane:
            before = nothing[:size]
            for t in range(T):
                u = membranes[t, :size]
                _advance(saved[t, start:stop], before, decay, threshold, u)
                before = u
        terms[:] = 0
        after = nothing[:size]
        for t in range(T - 1, -1, -1):
            u = saved[t, start:stop] if is_membrane else membranes[t, :size]
            now = gx[t, start:stop]
            _retreat(gradient[t, start:stop], u, after, decay, threshold, output, now)
            if gdecay is not None:
                _decay_terms(after, u, threshold, terms[:size])
            after = now
        if gdecay is not None:
            gdecay[block] = terms[:size].astype(np.float64).sum()


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


def blocks(size: int) -> int:
    """Return the number of blocks that cover `size` neurons or bytes."""
    return -(-size // BLOCK)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="neurons")


if hasattr(os, "register_at_fork"):  # a forked child inherits the pool but none of its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def over_blocks(kernel: Callable[..., None], size: int, threads: int, *args: Any) -> None:
    """Run ``kernel(*args, first, last)`` on ranges of blocks that together cover `size`.

    This uses a plain pool of threads because Numba's own threading layer neither survives a fork
    nor allows two callers at once. A block's result does not depend on the number of threads.
    """
    total = blocks(size)
    # More parts than threads: while one of torch's threads spins on a core, the other threads take
    # more parts. A part of fewer than four blocks costs more than it saves.
    parts = max(1, min(total // 4, PARTS * threads)) if threads > 1 else 1
    edges = [total * part // parts for part in range(parts + 1)]
    todo = iter(list(pairwise(edges)))  # shared: each thread takes the next part when it is free

    def work() -> None:
        for first, last in todo:
            kernel(*args, first, last)

    helpers = [_pool().submit(work) for _ in range(min(threads, parts) - 1)]
    work()
    for helper in helpers:
        helper.result()


def run_forward(x: Tensor, neurons: Dynamics, out: Tensor) -> None:
    """Fill out (T, M) from the input x (T, M); see `train.neurons.kernels.Kernels`."""
    floats = x.float()
    filled = out if out.dtype == torch.float else torch.empty_like(floats)
    arrays = floats.numpy(), *_constants(neurons), filled.numpy()
    over_blocks(forward, x.shape[1], torch.get_num_threads(), *arrays)
    if filled is not out:
        out.copy_(filled)


def run_backward(gradient: Tensor, saved: Tensor, neurons: Dynamics, gx: Tensor) -> Tensor | None:
    """Fill the input's gradient gx (T, M); see `train.neurons.kernels.Kernels`."""
    size = saved.shape[1]
    filled = gx if gx.dtype == torch.float else torch.empty(gx.shape)
    terms = np.zeros(blocks(size)) if neurons.learns_decay else None
    arrays = gradient.float().numpy(), saved.float().numpy(), *_constants(neurons)
    results = neurons.saves_membrane, filled.numpy(), terms
    over_blocks(backward, size, torch.get_num_threads(), *arrays, *results)
    if filled is not gx:
        gx.copy_(filled)
    return None if terms is None else torch.tensor(terms.sum())


def _constants(neurons: Dynamics) -> tuple[np.float32, np.float32, int]:
    return np.float32(neurons.decay.item()), np.float32(neurons.threshold), neurons.output


def pack(values: Tensor) -> Tensor:
    """Return floating zeros and ones (n,) as uint8 bits (ceil(n / 8),)."""
    packed = torch.empty(-(-values.numel() // 8), dtype=torch.uint8)
    integers = values.view(ONES[values.dtype][0]).numpy()
    over_blocks(_pack, packed.numel(), torch.get_num_threads(), integers, packed.numpy())
    return packed


def unpack(packed: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Return the floating zeros and ones (size,) that `pack` was given."""
    width, one = ONES[dtype]
    integers = torch.empty(size, dtype=width)
    array = integers.numpy()
    arguments = packed.numpy(), array.dtype.type(one), array
    over_blocks(_unpack, packed.numel(), torch.get_num_threads(), *arguments)
    return integers.view(dtype)
