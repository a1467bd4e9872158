"""Batches in host memory: decoding by threads, and the memory that holds them.

Shapes: N samples, T steps, K planes as stored (binary frames: ceil(T/8) time bytes), P polarities,
C colour channels, H rows, W columns.
"""

import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from eventdata.errors import OptionError
from eventdata.kernels.packing import planes_first_batch, unpack_batch
from eventdata.store.layout import SampleFormat
from eventdata.store.read import SampleReader, read_samples

Layout = Literal["NTPHW", "TNPHW", "packed"]

# For each type of a dense batch, unsigned integers as wide: kernels write the values' bits.
BITS: dict[torch.dtype, torch.dtype] = {
    torch.uint8: torch.uint8,
    torch.float16: torch.uint16,
    torch.bfloat16: torch.uint16,
    torch.float32: torch.uint32,
    torch.int32: torch.uint32,
}

GROUP_BYTES = 1 << 20
"""The packed samples that one call makes dense, while they are in the cache."""


class Decoding:
    """Decodes a batch in host memory: dense, or packed as stored.

    Packed is (N, K, H, W, P). Dense is (N, T, P, H, W), or (T, N, P, H, W) with layout="TNPHW";
    images are (N, C, H, W).
    """

    def __init__(
        self, sample: SampleFormat, dtype: torch.dtype, layout: Layout, *, dense: bool
    ) -> None:
        self.sample = sample
        self.dense = dense
        self._time_first = dense and layout == "TNPHW" and sample.steps is not None
        # The bits in a dense batch of each value that may be stored, by its own bits. NumPy counts,
        # because torch would start threads for it, and a child that is forked later would wait.
        bits = np.dtype(f"u{np.dtype(sample.dtype).itemsize}")
        count = 2 if sample.is_packed else np.iinfo(bits).max + 1
        stored = np.arange(count, dtype=bits).view(sample.dtype)
        values = torch.from_numpy(stored.astype(np.float32))
        self._values: NDArray[Any] = values.to(dtype).view(BITS[dtype]).numpy()
        self.dtype = self._values.dtype if dense else np.dtype(sample.dtype)
        self._group = max(1, GROUP_BYTES // (sample.planes * sample.chunk_bytes))

    def shape(self, count: int) -> tuple[int, ...]:
        """Return the shape of a batch of this many samples."""
        if not self.dense:
            return (count, *self.sample.packed_shape)
        steps, *rest = self.sample.dense_shape
        return (steps, count, *rest) if self._time_first else (count, steps, *rest)

    def fill(
        self, batch: NDArray[Any], part: slice, reader: SampleReader, stored: Sequence[int]
    ) -> None:
        """Read and decode a part of a batch; ``stored`` has the store's index of each sample."""
        reader = reader.fetch(stored[part])
        samples = batch.swapaxes(0, 1) if self._time_first else batch
        scratch = np.empty((self._group, *self.sample.packed_shape), self.sample.dtype)
        for start in range(part.start, part.stop, self._group):
            group = slice(start, min(start + self._group, part.stop))
            packed = scratch[: group.stop - start] if self.dense else samples[group]
            read_samples(reader, stored[group], packed)
            if self.dense:
                self._make_dense(packed, samples[group])

    def _make_dense(self, packed: NDArray[Any], out: NDArray[Any]) -> None:
        if self.sample.is_packed:
            unpack_batch(packed, out, self._values[1])
        else:
            frames = out[:, None] if self.sample.steps is None else out  # (N, 1, C, H, W)
            bits = packed.view(f"u{packed.itemsize}")
            planes_first_batch(bits, self._values, frames)


def make_dense(
    packed: torch.Tensor, sample: SampleFormat, dtype: torch.dtype, layout: Layout
) -> torch.Tensor:
    """Return a packed batch (N, K, H, W, P) dense, as `FrameLoader` does, on its device."""
    # Either is (N, T, P, H, W), images (N, 1, C, H, W).
    frames = unpack_frames(packed, sample.steps or 0) if sample.is_packed else packed.movedim(-1, 2)
    if not sample.is_events:
        frames = frames[:, 0]
    elif layout == "TNPHW":
        frames = frames.transpose(0, 1)
    return frames.to(dtype).contiguous()


def unpack_frames(packed: torch.Tensor, steps: int) -> torch.Tensor:
    """Return packed frames uint8 (N, K, H, W, P) as dense uint8 (N, T, P, H, W)."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    planes = packed.movedim(-1, 2)  # (N, K, P, H, W)
    bits = (planes[:, :, None] >> shifts[:, None, None, None]) & 1  # (N, K, 8, P, H, W)
    return bits.flatten(1, 2)[:, :steps]


def holds(dtype: torch.dtype, stored: str) -> bool:
    """Return whether a type of dense batches has the stored values, floats if need be rounded."""
    if stored == "uint8":
        return True
    if stored == "float16":
        return dtype.is_floating_point
    return dtype in (torch.float32, torch.int32)


def checked_device(device: str | torch.device) -> torch.device:
    """Return a device of torch for batches; raise OptionError if it is not one here."""
    try:
        checked = torch.device(device)
        if checked.type not in ("cpu", "cuda"):
            torch.empty(1, device=checked)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError):
        raise OptionError(f"torch does not know the device {device!r} on this machine") from None
    if checked.type == "meta":
        raise OptionError("the device meta holds no data; choose another")
    if checked.type == "cuda" and (checked.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count() or "no"
        raise OptionError(f"device is {checked}, but torch finds {found} GPUs here")
    return checked


class Threads(ThreadPoolExecutor):
    """Threads that start nothing more when their block ends, even by an error or Ctrl-C."""

    def __exit__(self, *error: object) -> None:
        self.shutdown(cancel_futures=True)


class BufferPool:
    """Host memory for batches, reused once no tensor refers to it."""

    def __init__(self, nbytes: int, keep: int, pinned: bool) -> None:
        """Keep at most ``keep`` unused buffers of ``nbytes``, or of a larger batch once taken."""
        self._nbytes, self._keep, self._pinned = nbytes, keep, pinned
        # The arrays lent last, with their memory: twice as many as are in use at a time. An array
        # that is used for longer is forgotten and its memory not lent again.
        self._lent: list[tuple[weakref.ref[NDArray[Any]], NDArray[np.uint8]]] = []
        # One a process: a fork during another thread's `take` would leave a lock held forever.
        self._locks: dict[int, threading.Lock] = {}
        self._copies: deque[tuple[torch.cuda.Event, torch.Tensor]] = deque()

    def __reduce__(self) -> tuple[Any, ...]:  # memory does not travel to another process
        return BufferPool, (self._nbytes, self._keep, self._pinned)

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an uninitialised array; its memory is reused once it and its tensors are gone."""
        nbytes = prod(shape) * dtype.itemsize
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            if nbytes > self._nbytes:
                self._nbytes, self._lent = nbytes, []
            memory = self._unused()
            # Tensors and views of NumPy memory keep that array alive as long as they exist.
            array = memory[:nbytes].view(dtype).reshape(shape)
            self._lent.append((weakref.ref(array), memory))
        return array

    def _unused(self) -> NDArray[np.uint8]:
        # Searched here and not reported by a callback, in which Ctrl-C would be lost.
        unused = [entry for entry in self._lent if entry[0]() is None]
        used = [entry for entry in self._lent if entry[0]() is not None]
        self._lent = [*unused[1 : self._keep], *used[-2 * self._keep :]]
        if unused:
            return unused[0][1]
        if self._pinned:
            return torch.empty(self._nbytes, dtype=torch.uint8, pin_memory=True).numpy()
        # NumPy asks for huge pages, unlike torch: touching them first takes a fifth of the time.
        return np.empty(self._nbytes, np.uint8)

    def copy_to(self, batch: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Return the batch on the device; a pinned one is kept until its copy is done."""
        copied = batch.to(device, non_blocking=self._pinned)
        if self._pinned:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(copied.device))
            self._copies.append((event, batch))
            if len(self._copies) > self._keep:  # a host that runs far ahead waits for the device
                self._copies[0][0].synchronize()
            while self._copies and self._copies[0][0].query():  # type: ignore[no-untyped-call]
                self._copies.popleft()
        return copied
