"""GPU kernels in Triton: the membrane over time, and spikes as bits.

A program takes a block of neurons through all steps, with their membranes in registers: each pass
reads and writes every tensor once. Tensors are float32, bfloat16 or float16 in memory and float32
in registers. Products are not fused with sums, so the numbers are those of the plain loop, except
for the arctangent's slope: an exactly rounded division would double a program's registers.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from train.neurons.surrogate import ARCTANGENT, MEMBRANE, RECTANGULAR, TRIANGULAR, Dynamics

MOST_STEPS: float = 32
"""More steps would not fit the registers and would take minutes to compile."""
WARPS = 4
MEMBRANES = tl.constexpr(MEMBRANE)
RECTANGLE, TRIANGLE = tl.constexpr(RECTANGULAR), tl.constexpr(TRIANGULAR)
ARCTAN = tl.constexpr(ARCTANGENT)


@triton.jit
def _advance(x: tl.tensor, before: tl.tensor, decay: tl.tensor, threshold: tl.tensor) -> tl.tensor:
    return tl.where(before > threshold, 0.0, decay * before) + x


@triton.jit
def _slope(u: tl.tensor, threshold: tl.tensor, OUTPUT: tl.constexpr) -> tl.tensor:
    distance = u - threshold
    if OUTPUT == RECTANGLE:
        slope = (tl.abs(distance) < 0.5).to(tl.float32)
    elif OUTPUT == TRIANGLE:
        slope = tl.maximum(1.0 - tl.abs(distance), 0.0)
    elif OUTPUT == ARCTAN:
        scaled = 3.141592653589793 * distance
        slope = 1.0 / (1.0 + scaled * scaled)
    else:
        slope = 1.0
    return slope


@triton.jit
def _rows(
    tensor: tl.tensor, row: tl.tensor, place: tl.tensor, inside: tl.tensor, T: tl.constexpr
) -> tuple[tl.tensor, ...]:
    """Load the rows of all steps. The compiler moves no load past a store, so all loads come
    before the first store."""
    rows = (tl.load(tensor + place, inside, 0.0),)
    for t in tl.static_range(1, T):
        rows = rows + (tl.load(tensor + t * row + place, inside, 0.0),)  # type: ignore[assignment]  # noqa: RUF005
    return rows


@triton.jit
def _forward(
    x: tl.tensor,
    decay: tl.tensor,
    out: tl.tensor,
    neurons: tl.tensor,
    threshold: tl.tensor,
    T: tl.constexpr,
    OUTPUT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < neurons
    row = tl.cast(neurons, tl.int64)
    d = tl.load(decay)
    currents = _rows(x, row, place, inside, T)
    u = currents[0].to(tl.float32)
    for t in tl.static_range(T):
        if t > 0:
            u = _advance(currents[t].to(tl.float32), u, d, threshold)
        response = u if OUTPUT == MEMBRANES else (u > threshold).to(tl.float32)
        tl.store(out + t * row + place, response, inside)


@triton.jit
def _backward(
    gradient: tl.tensor,
    saved: tl.tensor,
    decay: tl.tensor,
    gx: tl.tensor,
    gdecay: tl.tensor,
    neurons: tl.tensor,
    threshold: tl.tensor,
    T: tl.constexpr,
    OUTPUT: tl.constexpr,
    IS_MEMBRANE: tl.constexpr,
    LEARN_DECAY: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < neurons
    row = tl.cast(neurons, tl.int64)
    d = tl.load(decay)
    reads = _rows(saved, row, place, inside, T)
    u = reads[0].to(tl.float32)
    membranes = (u,)
    for t in tl.static_range(1, T):
        read = reads[t].to(tl.float32)
        u = read if IS_MEMBRANE else _advance(read, u, d, threshold)
        membranes = membranes + (u,)  # type: ignore[assignment]  # noqa: RUF005
    after = tl.zeros((BLOCK,), tl.float32)
    terms = tl.zeros((BLOCK,), tl.float32)
    # Loads run one step ahead of the stores for the same reason; more need too many registers.
    following = tl.load(gradient + (T - 1) * row + place, inside, 0.0)
    for t in tl.static_range(T - 1, -1, -1):
        g = following.to(tl.float32)
        if t > 0:
            following = tl.load(gradient + (t - 1) * row + place, inside, 0.0)
        u = membranes[t]
        passed = tl.where(u > threshold, 0.0, after)
        after = g * _slope(u, threshold, OUTPUT) + d * passed
        terms += passed * u
        tl.store(gx + t * row + place, after, inside)
    if LEARN_DECAY:
        tl.store(gdecay + tl.program_id(0), tl.sum(terms, 0))


@triton.jit
def _pack(
    values: tl.tensor, packed: tl.tensor, size: tl.tensor, length: tl.tensor, BLOCK: tl.constexpr
) -> None:
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row = tl.cast(length, tl.int64)  # computed here, its alignment would be unknown
    bits = tl.zeros((BLOCK,), tl.uint8)
    for k in tl.static_range(8):
        inside = (place < row) & (k * row + place < size)
        value = tl.load(values + k * row + place, inside, 0.0)
        bits |= (value != 0).to(tl.uint8) << k
    tl.store(packed + place, bits, place < row)


@triton.jit
def _unpack(
    packed: tl.tensor, values: tl.tensor, size: tl.tensor, length: tl.tensor, BLOCK: tl.constexpr
) -> None:
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row = tl.cast(length, tl.int64)  # computed here, its alignment would be unknown
    bits = tl.load(packed + place, place < row, 0)
    for k in tl.static_range(8):
        inside = (place < row) & (k * row + place < size)
        tl.store(values + k * row + place, ((bits >> k) & 1).to(tl.float32), inside)


def _launch(kernel: Any, programs: int, *arguments: Any, **settings: Any) -> None:
    """Start a kernel on the device of its first argument."""
    with torch.cuda.device_of(arguments[0]):  # type: ignore[no-untyped-call]
        kernel[(programs,)](*arguments, enable_fp_fusion=False, **settings)


def _shares(steps: int, neurons: int) -> tuple[int, int]:
    """Return the number of programs and the neurons of each.

    The membranes of a thread fill 32 registers. With everything else a thread needs about 80, so
    six programs share a multiprocessor's 65,536. A thread has at least two neurons.
    """
    block = 32 * WARPS * min(8, max(2, 32 // triton.next_power_of_2(steps)))
    return triton.cdiv(neurons, block), block


def run_forward(x: Tensor, neurons: Dynamics, out: Tensor) -> None:
    """Fill out (T, M) from the input x (T, M); see `train.neurons.kernels.Kernels`."""
    steps, size = x.shape
    programs, block = _shares(steps, size)
    arguments = x, neurons.decay, out, size, neurons.threshold, steps, neurons.output, block
    _launch(_forward, programs, *arguments, num_warps=WARPS)


def run_backward(gradient: Tensor, saved: Tensor, neurons: Dynamics, gx: Tensor) -> Tensor | None:
    """Fill the input's gradient gx (T, M); see `train.neurons.kernels.Kernels`."""
    steps, size = saved.shape
    programs, block = _shares(steps, size)
    terms = torch.empty(programs, device=saved.device)
    tensors = gradient, saved, neurons.decay, gx, terms
    _, threshold, *choices = neurons  # in the order of the kernel's arguments
    arguments = *tensors, size, threshold, steps, *choices, block
    _launch(_backward, programs, *arguments, num_warps=WARPS)
    return terms.sum() if neurons.learns_decay else None


def pack(values: Tensor) -> Tensor:
    """Return floating zeros and ones (n,) as uint8 bits (ceil(n / 8),)."""
    size = -(-values.numel() // 8)
    packed = torch.empty(size, dtype=torch.uint8, device=values.device)
    _launch(_pack, triton.cdiv(size, 1024), values, packed, values.numel(), size, 1024)
    return packed


def unpack(packed: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Return the floating zeros and ones (size,) that `pack` was given."""
    values = torch.empty(size, dtype=dtype, device=packed.device)
    row = packed.numel()
    _launch(_unpack, triton.cdiv(row, 1024), packed, values, size, row, 1024)
    return values
