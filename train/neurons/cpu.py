"""Numba kernels of the membrane over time: one pass forward, one pass backward.

Arrays are float32 (T, M), C-contiguous: T steps of M neurons; `run_forward` and `run_backward` run
the kernels on torch's tensors of that shape. Neurons do not see each other, so blocks of them are
spread over threads; all steps of a block are done while it is in the cache. The membrane of spiking
neurons never leaves it: the pass backward computes it again from the input, which costs less than
writing and reading it. The loops are free of branches and of negative
indices, which is what lets LLVM vectorise them.
"""

import math
import os
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]

BLOCK = 4096  # neurons; two rows of a block fit the first-level cache, tens of rows the second
PARTS = 8  # of the work of a thread
MOST_STEPS = math.inf  # that the kernels can do
MEMBRANE, RECTANGULAR, TRIANGULAR, ARCTANGENT = range(4)  # what comes out, and its slope backward
SURROGATES = {"rectangular": RECTANGULAR, "triangular": TRIANGULAR, "arctangent": ARCTANGENT}


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

    `output` is MEMBRANE, or any of the surrogates for spikes.
    """
    nothing = np.zeros(BLOCK, np.float32)  # what was before the first step
    rows = np.empty((2, BLOCK), np.float32)  # two: a loop that works in place is not vectorised
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
    """The output's gradient times its slope over u, and what comes back from the step after."""
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

    `saved` (T, M) is the membrane or, where it is not `is_membrane`, the input.
    """
    T = saved.shape[0]
    nothing = np.zeros(BLOCK, np.float32)  # before the first step, and back from after the last
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


def blocks(neurons: int) -> int:
    """How many blocks M neurons make."""
    return -(-neurons // BLOCK)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="neurons")


if hasattr(os, "register_at_fork"):  # a forked child has the pool but none of its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def over_blocks(kernel: Callable[..., None], neurons: int, threads: int, *args: Any) -> None:
    """Call ``kernel(*args, first, last)`` on ranges of blocks that together cover all neurons.

    A plain pool of threads and not Numba's own layer, which neither survives a fork nor bears two
    callers at once. A block's result does not depend on the thread it ran on, or on how many ran.
    """
    total = blocks(neurons)
    # More parts than threads: where a thread of torch's holds a core, waiting for its next work in
    # a loop, the others do the more. Under four blocks a part costs more than it saves.
    parts = max(1, min(total // 4, PARTS * threads)) if threads > 1 else 1
    edges = [total * part // parts for part in range(parts + 1)]
    todo = deque(pairwise(edges))
    waiting = [_pool().submit(_work, todo, kernel, args) for _ in range(min(threads, parts) - 1)]
    _work(todo, kernel, args)
    for future in waiting:
        future.result()


def _work(todo: deque[tuple[int, int]], kernel: Callable[..., None], args: tuple[Any, ...]) -> None:
    while True:
        try:
            part = todo.popleft()
        except IndexError:
            return
        kernel(*args, *part)


def run_forward(x: Tensor, decay: Tensor, threshold: float, output: int, out: Tensor) -> None:
    """Fill out (T, M) from the input x (T, M), both contiguous and of one dtype; see `forward`."""
    floats = x.float()
    filled = out if out.dtype == torch.float else torch.empty_like(floats)
    constants = np.float32(decay.item()), np.float32(threshold), output
    arrays = floats.numpy(), *constants, filled.numpy()
    over_blocks(forward, x.shape[1], torch.get_num_threads(), *arrays)
    if filled is not out:
        out.copy_(filled)


def run_backward(
    gradient: Tensor,
    saved: Tensor,
    decay: Tensor,
    threshold: float,
    output: int,
    gx: Tensor,
    *,
    is_membrane: bool,
    learn_decay: bool,
) -> Tensor | None:
    """Fill the input's gradient gx (T, M); the decay's, (), if it learns. See `backward`."""
    neurons = saved.shape[1]
    filled = gx if gx.dtype == torch.float else torch.empty(gx.shape)
    terms = np.zeros(blocks(neurons)) if learn_decay else None
    constants = np.float32(decay.item()), np.float32(threshold), output, is_membrane
    arrays = gradient.float().numpy(), saved.float().numpy(), *constants, filled.numpy(), terms
    over_blocks(backward, neurons, torch.get_num_threads(), *arrays)
    if filled is not gx:
        gx.copy_(filled)
    return None if terms is None else torch.tensor(terms.sum())


@cache
def triton_kernels() -> ModuleType | None:
    """The kernels for GPUs, `train.neurons.gpu`; None where Triton is not installed.

    Or where it does not run (it needs a C compiler and a GPU that it knows): that is tried once,
    and a warning says why the loop takes its place.
    """
    if find_spec("triton") is None:
        return None
    try:
        kernels = import_module("train.neurons.gpu")
        kernels.pack(torch.ones(1, device="cuda")).item()
    except Exception as error:  # compilers and drivers fail with errors of many kinds
        warnings.warn(
            f"Triton is installed but does not run here ({type(error).__name__}: {error}); neurons "
            "run as a loop of torch's, which is several times as slow",
            stacklevel=2,
        )
        return None
    return kernels
