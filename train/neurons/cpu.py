"""CPU kernels in Numba: the membrane over time, and spikes as bits.

Arrays are float32 (T, M), C-contiguous: T steps of M neurons, a multiple of LANES. Neurons do not
depend on each other, so threads share them out in blocks. In a block lanes of neurons run through
all steps, one after the other, with the membrane in registers. It is never written to memory for
spiking neurons: the backward pass computes it again from the input, which costs less than writing
and reading it. Loops over lanes take no slices, because counting their references waits for all
stores.
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
from torch.nn import functional

from train.neurons.lanes import BYTES, LANES, everywhere, load, store, stream, where_above
from train.neurons.surrogate import ARCTANGENT, MEMBRANE, RECTANGULAR, TRIANGULAR, Dynamics

Floats = NDArray[np.float32]

BLOCK = 4096
"""Neurons, or bytes of bits, per block."""
PARTS = 8  # pieces of work per thread
BYTES_PER_THREAD = 4_000_000
"""The bytes of floats for which a thread is worth it while torch's threads spin on their cores."""
MOST_STEPS = math.inf
ONES = {
    torch.float32: (torch.int32, 0x3F80_0000),
    torch.bfloat16: (torch.int16, 0x3F80),
    torch.float16: (torch.int16, 0x3C00),
}
"""For each dtype, the integers of its width and the one with the bits of 1.0; 0.0 has the bits of
0."""


@njit(cache=True, nogil=True)
def _advance(x: Any, before: Any, decay: Any, threshold: Any) -> Any:
    return where_above(before, threshold, everywhere(np.float32(0)), decay * before) + x


@njit(cache=True, nogil=True)
def _put(lanes: Any, address: int, past_cache: bool) -> None:
    """Store lanes; past the cache even if they fit it, which costs a training step less too."""
    if past_cache:
        stream(lanes, address)
    else:
        store(lanes, address)


@njit(cache=True, nogil=True)
def _address(array: Floats) -> Any:
    """Return the address of an array, which must be used again after the last use of this."""
    return np.intp(array.ctypes.data)


@njit(cache=True, nogil=True)
def forward(
    x: Floats, decay: float, threshold: float, output: int, out: Floats, first: int, last: int
) -> None:
    """Fill out (T, M) from the input x (T, M) in blocks first..last-1.

    `output` is MEMBRANE, or any surrogate for spikes.
    """
    d, limit = everywhere(decay), everywhere(threshold)
    zero, one = everywhere(np.float32(0)), everywhere(np.float32(1))
    T, M = x.shape
    source, target = _address(x), _address(out)
    past_cache = target % BYTES == 0
    for start in range(first * BLOCK, min(last * BLOCK, M), LANES):
        u = zero
        for t in range(T):
            place = 4 * (t * M + start)
            u = _advance(load(source + place), u, d, limit)
            response = u if output == MEMBRANE else where_above(u, limit, one, zero)
            _put(response, target + place, past_cache)


@njit(cache=True, nogil=True)
def _through(gradient: Any, distance: Any, output: int) -> Any:
    """Return the output's gradient times its slope at a distance of the membrane from the
    threshold."""
    zero, one = everywhere(np.float32(0)), everywhere(np.float32(1))
    size = where_above(zero, distance, zero - distance, distance)
    if output == RECTANGULAR:
        return where_above(everywhere(np.float32(0.5)), size, gradient, zero)
    if output == TRIANGULAR:
        return gradient * where_above(one, size, one - size, zero)
    if output == ARCTANGENT:
        scaled = everywhere(np.float32(np.pi)) * distance
        return gradient * (one / (one + scaled * scaled))
    return gradient


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
    T, M = saved.shape
    d, limit, zero = everywhere(decay), everywhere(threshold), everywhere(np.float32(0))
    scratch = np.empty(T * LANES + BLOCK, np.float32)  # the membranes of lanes; terms of the decay
    source, above, target = _address(saved), _address(gradient), _address(gx)
    membranes = _address(scratch)
    terms = membranes + T * BYTES
    past_cache = target % BYTES == 0
    for block in range(first, last):
        stop = min((block + 1) * BLOCK, M)
        for start in range(block * BLOCK, stop, LANES):
            u = zero
            for t in range(T):
                read = load(source + 4 * (t * M + start))
                u = read if is_membrane else _advance(read, u, d, limit)
                store(u, membranes + t * BYTES)
            after = total = zero
            for t in range(T - 1, -1, -1):
                u = load(membranes + t * BYTES)
                total = total + where_above(u, limit, zero, after * u)
                back = where_above(u, limit, zero, d * after)
                place = 4 * (t * M + start)
                after = _through(load(above + place), u - limit, output) + back
                _put(after, target + place, past_cache)
            store(total, terms + 4 * (start - block * BLOCK))
        if gdecay is not None:
            added = scratch[T * LANES :][: stop - block * BLOCK]
            gdecay[block] = added.astype(np.float64).sum()
    scratch[0] = 0  # a use after the loops, which know only its address, keeps it until here


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


def _threads(x: Tensor) -> int:
    return max(1, min(torch.get_num_threads(), x.nbytes // BYTES_PER_THREAD))


def run_forward(x: Tensor, neurons: Dynamics, out: Tensor) -> None:
    """Fill out (T, M) from the input x (T, M); see `train.neurons.kernels.Kernels`."""
    floats = _floats(x)
    filled = _fitting(out, floats)
    arrays = floats.numpy(), *_constants(neurons), filled.numpy()
    over_blocks(forward, x.shape[1], _threads(x), *arrays)
    if filled is not out:
        out.copy_(filled[:, : x.shape[1]])


def run_backward(gradient: Tensor, saved: Tensor, neurons: Dynamics, gx: Tensor) -> Tensor | None:
    """Fill the input's gradient gx (T, M); see `train.neurons.kernels.Kernels`."""
    size = saved.shape[1]
    floats = _floats(saved)
    filled = _fitting(gx, floats)
    terms = np.zeros(blocks(size)) if neurons.learns_decay else None
    arrays = _floats(gradient).numpy(), floats.numpy(), *_constants(neurons)
    results = neurons.saves_membrane, filled.numpy(), terms
    over_blocks(backward, size, _threads(saved), *arrays, *results)
    if filled is not gx:
        gx.copy_(filled[:, :size])
    return None if terms is None else torch.tensor(terms.sum())


def _floats(x: Tensor) -> Tensor:
    """Return x (T, M) in float32, with neurons of zeros added up to a multiple of LANES."""
    more = -x.shape[1] % LANES
    return functional.pad(x.float(), (0, more)) if more else x.float()


def _fitting(out: Tensor, floats: Tensor) -> Tensor:
    """Return out if kernels can fill it, else a tensor for them to fill."""
    fits = out.dtype == floats.dtype and out.shape == floats.shape
    return out if fits else torch.empty_like(floats)


def _constants(neurons: Dynamics) -> tuple[np.float32, np.float32, int]:
    return np.float32(neurons.decay.item()), np.float32(neurons.threshold), neurons.output


def pack(values: Tensor) -> Tensor:
    """Return floating zeros and ones (n,) as uint8 bits (ceil(n / 8),)."""
    packed = torch.empty(-(-values.numel() // 8), dtype=torch.uint8)
    integers = values.view(ONES[values.dtype][0]).numpy()
    over_blocks(_pack, packed.numel(), _threads(values), integers, packed.numpy())
    return packed


def unpack(packed: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Return the floating zeros and ones (size,) that `pack` was given."""
    width, one = ONES[dtype]
    integers = torch.empty(size, dtype=width)
    array = integers.numpy()
    arguments = packed.numpy(), array.dtype.type(one), array
    over_blocks(_unpack, packed.numel(), _threads(integers), *arguments)
    return integers.view(dtype)
