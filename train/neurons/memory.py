"""Memory of training: pages that are reused, spikes saved as bits, parts that are run again."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from train.neurons.bits import pack, unpack


def keep_pages() -> bool:
    """Make glibc keep the pages of freed tensors for the rest of the process; False without glibc.

    By default glibc returns the pages of every large tensor to the system and gets fresh ones for
    the next. Zeroing those can cost more than filling them: elementwise work on tensors of some
    100 MB took three to four times as long.
    """
    m_trim_threshold, m_mmap_max = -1, -4
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(m_mmap_max, 0)) and bool(mallopt(m_trim_threshold, 2**31 - 1))


@dataclass
class _Spikes:
    """A mark on a storage that holds only 0 and 1."""

    version: int
    """The tensor's version when it was marked; with another version the mark is out of date."""
    packed: Tensor | None = None
    """The whole storage as bits, once a layer has saved it; all layers share it."""


@dataclass(frozen=True)
class _Bits:
    """A view of a storage saved as bits."""

    packed: Tensor
    dtype: torch.dtype
    size: int
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class _Whole:
    """A tensor saved whole, with its version, which torch does not check under these hooks."""

    tensor: Tensor
    version: int


def mark_spikes(x: Tensor) -> Tensor:
    """Mark x and its views as all 0 or 1, so that `packed_spikes` saves them as bits; return x.

    The mark is on the storage and lasts as long as it does. x must fill its storage.
    """
    if not (torch.compiler.is_compiling() or x.is_inference()):
        setattr(x.untyped_storage(), _MARK, _Spikes(x._version))
    return x


_MARK = "_spikes"


def _keep(x: Tensor) -> _Whole | _Bits:
    """Return x in the form in which it is saved for the backward pass."""
    storage = x.untyped_storage()
    mark: _Spikes | None = getattr(storage, _MARK, None)
    if mark is None or mark.version != x._version:
        return _keep_whole(x)
    size = storage.nbytes() // x.itemsize
    if mark.packed is None:
        mark.packed = _keep_whole(pack(x.detach().as_strided((size,), (1,), 0))).tensor
    return _Bits(mark.packed, x.dtype, size, x.shape, x.stride(), int(x.storage_offset()))


def _keep_whole(x: Tensor) -> _Whole:
    storage = x.untyped_storage()
    for counts in _counting:
        counts[storage.data_ptr()] = storage.nbytes()
    return _Whole(x.detach(), x._version)


_counting: list[dict[int, int]] = []


@contextmanager
def counted() -> Iterator[dict[int, int]]:
    """Count the bytes that a forward pass saves for the backward pass, by address.

    Parameters count too. Read the counts before the backward pass: freed memory may be saved again
    at the same address.
    """
    counts: dict[int, int] = {}
    _counting.append(counts)
    try:
        with saved_tensors_hooks(_keep_whole, _restore):
            yield counts
    finally:
        _counting.remove(counts)


def _restore(kept: _Whole | _Bits) -> Tensor:
    if isinstance(kept, _Whole):
        if kept.tensor._version != kept.version:
            raise RuntimeError(
                f"a tensor {tuple(kept.tensor.shape)} that is needed to compute gradients was "
                "modified by an inplace operation"
            )
        return kept.tensor
    flat = unpack(kept.packed, kept.size, kept.dtype)
    return flat.as_strided(kept.shape, kept.stride, kept.offset)


class _MaxPool(torch.autograd.Function):
    """Max-pooling as in torch, without its input among what is saved for the backward pass.

    torch saves the input and reads only its shape and its memory layout.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *sizes: Any) -> Tensor:
        out: Tensor
        out, places = torch.ops.aten.max_pool2d_with_indices(x, *sizes)
        ctx.save_for_backward(places)
        ctx.sizes, ctx.shape, ctx.stride = sizes, x.shape, x.stride()
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        like_x = torch.empty_strided(
            ctx.shape, ctx.stride, dtype=gradient.dtype, device=gradient.device
        )
        run = torch.ops.aten.max_pool2d_with_indices_backward
        return run(gradient, like_x, *ctx.sizes, places), *[None] * len(ctx.sizes)


def max_pool(pool: nn.MaxPool2d, x: Tensor) -> Tensor:
    """Return ``pool(x)`` of x (N, C, H, W), saving only the places of the maxima."""
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and x.requires_grad):
        return pool(x)  # type: ignore[no-any-return]
    sizes = pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode
    return _MaxPool.apply(x, *sizes)  # type: ignore[no-any-return, no-untyped-call]


@contextmanager
def packed_spikes() -> Iterator[None]:
    """Save spikes for the backward pass as bits, or as bytes where there is no kernel.

    Gradients are the same to the bit. A spike tensor that several layers read is packed once, and
    each layer unpacks it when needed. Enter it for the forward pass only.
    """
    with saved_tensors_hooks(_keep, _restore):
        yield


@contextmanager
def _buffers_unchanged(part: nn.Module) -> Iterator[None]:
    """Keep running statistics from following a batch a second time when it is run again."""
    originals = [
        (module, name, buffer)
        for module in part.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    for module, name, buffer in originals:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in originals:
            setattr(module, name, buffer)


def recomputed(part: nn.Module, x: Tensor) -> Tensor:
    """Return ``part(x)``, saving only x for the backward pass, which runs the part again.

    Gradients and running statistics are the same. Inside `packed_spikes`, spikes are saved as bits.
    The part must draw no random numbers.
    """
    out: Tensor = checkpoint(
        part,
        x,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), _buffers_unchanged(part)),
    )
    return out
