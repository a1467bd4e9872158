"""Memory of training on the CPU and on GPUs: pages that stay, spikes as bits, work done again."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from train.neurons.bits import pack, unpack


def keep_pages() -> bool:
    """Have glibc serve large blocks from a heap that it does not give back; false without glibc.

    By default it returns every large tensor's pages to the system and gets fresh ones, which have
    to be zeroed, for the next: that can cost more than filling them (elementwise work on tensors
    of some 100 MB took three to four times as long). For the whole process, for good.
    """
    m_trim_threshold, m_mmap_max = -1, -4
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(m_mmap_max, 0)) and bool(mallopt(m_trim_threshold, 2**31 - 1))


@dataclass
class _Spikes:
    """What is known of a storage that holds nothing but 0 and 1."""

    version: int
    """Of its tensors when that was so; another one has been written to since."""
    packed: Tensor | None = None
    """The whole storage, once something has kept it; shared by all who do."""


@dataclass(frozen=True)
class _Kept:
    """A view of a packed storage."""

    packed: Tensor
    dtype: torch.dtype
    size: int
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class _AsItIs:
    """A tensor that is kept whole, and its version then: torch does not look under these hooks."""

    tensor: Tensor
    version: int


def mark_spikes(x: Tensor) -> Tensor:
    """Note that x, and so its views, are all 0 or 1: `packed_spikes` keeps them as bits. It is x.

    The note is on the storage and lasts as long as that does. x must fill its storage.
    """
    if not (torch.compiler.is_compiling() or x.is_inference()):
        setattr(x.untyped_storage(), _MARK, _Spikes(x._version))
    return x


_MARK = "_spikes"


def _keep(x: Tensor) -> _AsItIs | _Kept:
    """x in the form in which it is kept for the pass backward."""
    storage = x.untyped_storage()
    mark: _Spikes | None = getattr(storage, _MARK, None)
    if mark is None or mark.version != x._version:
        return _keep_as_it_is(x)
    size = storage.nbytes() // x.itemsize
    if mark.packed is None:
        mark.packed = _keep_as_it_is(pack(x.detach().as_strided((size,), (1,), 0))).tensor
    return _Kept(mark.packed, x.dtype, size, x.shape, x.stride(), int(x.storage_offset()))


def _keep_as_it_is(x: Tensor) -> _AsItIs:
    storage = x.untyped_storage()
    for counts in _counting:
        counts[storage.data_ptr()] = storage.nbytes()
    return _AsItIs(x.detach(), x._version)


_counting: list[dict[int, int]] = []


@contextmanager
def counted() -> Iterator[dict[int, int]]:
    """Count what a pass forward keeps for the pass backward: address -> bytes, parameters too.

    Look before the pass backward: what is let go of may be kept at the same address again.
    """
    counts: dict[int, int] = {}
    _counting.append(counts)
    try:
        with torch.autograd.graph.saved_tensors_hooks(_keep_as_it_is, _restore):
            yield counts
    finally:
        _counting.remove(counts)


def _restore(kept: _AsItIs | _Kept) -> Tensor:
    if isinstance(kept, _AsItIs):
        if kept.tensor._version != kept.version:
            raise RuntimeError(
                f"a tensor {tuple(kept.tensor.shape)} that is needed to compute gradients was "
                "modified by an inplace operation"
            )
        return kept.tensor
    flat = unpack(kept.packed, kept.size, kept.dtype)
    return flat.as_strided(kept.shape, kept.stride, kept.offset)


@contextmanager
def packed_spikes() -> Iterator[None]:
    """Spikes that are kept for the pass backward are kept as bits (bytes where there is no kernel).

    Gradients are the same to the bit. A spike tensor that several layers read is packed once and
    unpacked by each as it needs it. For the pass forward alone: `with` it or decorate it.
    """
    with torch.autograd.graph.saved_tensors_hooks(_keep, _restore):
        yield


@contextmanager
def _buffers_as_they_are(part: nn.Module) -> Iterator[None]:
    """Running statistics follow a batch once, not once more when it is run again."""
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
    """``part(x)`` that keeps only x for the pass backward, and is run again there.

    Gradients and running statistics are the same. Spikes within `packed_spikes` are kept as bits.
    The part must draw nothing at random.
    """
    out: Tensor = checkpoint(
        part,
        x,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), _buffers_as_they_are(part)),
    )
    return out
