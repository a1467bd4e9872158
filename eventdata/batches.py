"""Batches in host memory: how threads make them of samples, and the memory that they lie in.

N samples, T steps, K planes as stored (of binary frames time bytes, ceil(T/8)), P polarities,
C colour channels, H rows, W columns.
"""

import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from eventdata.kernels.packing import planes_first_batch, unpack_batch
from eventdata.store.layout import SampleFormat
from eventdata.store.read import SampleReader, read_samples

Layout = Literal["NTPHW", "TNPHW", "packed"]

# For each type a dense batch may have, unsigned integers as wide: kernels write its values' bits.
BITS: dict[torch.dtype, torch.dtype] = {
    torch.uint8: torch.uint8,
    torch.float16: torch.uint16,
    torch.bfloat16: torch.uint16,
    torch.float32: torch.uint32,
}

GROUP_BYTES = 1 << 20
"""Of packed samples that are made dense by one call, while they are in the cache."""


class Decoding:
    """How a batch is made in host memory: dense, or as stored.

    As stored is (N, K, H, W, P). Dense is (N, T, P, H, W), or (T, N, P, H, W) with layout="TNPHW";
    of images (N, C, H, W).
    """

    def __init__(
        self, sample: SampleFormat, dtype: torch.dtype, layout: Layout, *, dense: bool
    ) -> None:
        self.sample = sample
        self.dense = dense
        self._time_first = dense and layout == "TNPHW" and sample.steps is not None
        count = 2 if sample.representation == "binary" else np.iinfo(sample.dtype).max + 1
        # The bits of each stored value as a dense batch has it. Counted by NumPy: torch would have
        # its threads count many, and a child that was forked after them would wait for them.
        values = torch.from_numpy(np.arange(count, dtype=np.float32))
        self._values: NDArray[Any] = values.to(dtype).view(BITS[dtype]).numpy()
        self.dtype = self._values.dtype if dense else np.dtype(sample.dtype)
        self._group = max(1, GROUP_BYTES // (sample.planes * sample.chunk_bytes))

    def shape(self, count: int) -> tuple[int, ...]:
        """Of a batch of so many samples."""
        if not self.dense:
            return (count, *self.sample.packed_shape)
        if self.sample.steps is None:
            return (count, *self.sample.array_shape)
        head = (self.sample.steps, count) if self._time_first else (count, self.sample.steps)
        return (*head, *self.sample.array_shape[1:])

    def fill(
        self, batch: NDArray[Any], part: slice, reader: SampleReader, stored: Sequence[int]
    ) -> None:
        """Read and decode a part of a batch's samples; ``stored``: by slot, which one it is."""
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
        if self.sample.representation == "binary":
            unpack_batch(packed, out, self._values[1])
        else:
            frames = out[:, None] if self.sample.steps is None else out  # (N, 1, C, H, W)
            planes_first_batch(packed, self._values, frames)


class BufferPool:
    """Host memory for batches, given out again when no tensor looks at it any more."""

    def __init__(self, nbytes: int, keep: int, pinned: bool) -> None:
        """nbytes: of the largest batch; keep: so many buffers when none is in use."""
        self._nbytes, self._keep, self._pinned = nbytes, keep, pinned
        # The arrays given out last, and their memory. Twice as many as are in use at a time: one
        # that is used for longer is forgotten and not given out again.
        self._lent: list[tuple[weakref.ref[NDArray[Any]], NDArray[np.uint8]]] = []
        # By process: one that was forked amid a thread's `take` would wait for that for ever.
        self._locks: dict[int, threading.Lock] = {}
        self._copies: deque[tuple[torch.cuda.Event, torch.Tensor]] = deque()

    def __reduce__(self) -> tuple[Any, ...]:  # memory does not travel to another process
        return BufferPool, (self._nbytes, self._keep, self._pinned)

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An uninitialised array; its memory comes back once it and tensors of it are gone."""
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            memory = self._unused()
            # A tensor of NumPy memory holds that array until its storage goes, whoever views it.
            array = memory[: prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            self._lent.append((weakref.ref(array), memory))
        return array

    def _unused(self) -> NDArray[np.uint8]:
        # Looked for here and not told by a callback, in which Ctrl-C would be lost.
        unused = [entry for entry in self._lent if entry[0]() is None]
        used = [entry for entry in self._lent if entry[0]() is not None]
        self._lent = [*unused[1 : self._keep], *used[-2 * self._keep :]]
        return unused[0][1] if unused else self._allocate()

    def copy_to(self, batch: torch.Tensor, device: torch.device) -> torch.Tensor:
        """The batch on the device; a pinned one is kept until its copy is done."""
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

    def _allocate(self) -> NDArray[np.uint8]:
        if self._pinned:
            return torch.empty(self._nbytes, dtype=torch.uint8, pin_memory=True).numpy()
        # NumPy asks for huge pages, torch does not: to touch them first takes a fifth of the time.
        return np.empty(self._nbytes, np.uint8)
