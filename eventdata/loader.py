"""`FrameLoader`: whole batches of a `FrameDataset`, decoded by threads, dense on the device.

    epoch order -> batches of indices -> a thread each: read, check, decompress -> user
                                         CPU: unpacked and cast in the same pass, by Numba
                                         GPU: copied packed from pinned memory, unpacked there

Threads do without processes, because the work is done with Python's lock released. A batch lies in
a buffer that is used again once no tensor looks at it any more: fresh memory for each batch would
cost more than decoding it.
"""

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from eventdata.dataset import FrameDataset
from eventdata.errors import OptionError
from eventdata.kernels.packing import unpack_into
from eventdata.order import Indices, Order, epoch_order, rank_batches

Layout = Literal["NTPHW", "TNPHW"]

STATE_VERSION = 1
SHARD_WINDOW = 8  # shards whose samples are shuffled together with order="shards"

# For each type a binary batch may have: unsigned integers as wide, and the bits of 1 in them.
_BITS: dict[torch.dtype, tuple[str, int]] = {
    torch.uint8: ("uint8", 1),
    torch.float16: ("uint16", 0x3C00),
    torch.bfloat16: ("uint16", 0x3F80),
    torch.float32: ("uint32", 0x3F800000),
}


class FrameLoader:
    """Iterates over batches ``(frames, labels)``: dense frames on the device, int64 labels.

    frames: (N, T, P, H, W), or (T, N, P, H, W) with layout="TNPHW" (SpikingJelly's order); images
    are (N, C, H, W). dtype: uint8, float16, bfloat16 or float32.

    Each ``iter()`` is the next epoch; its order depends on ``seed`` and the epoch alone.
    order="shards" reads shard by shard, for slow disks and remote stores. Of ``world_size`` ranks,
    each sample is seen by one; use drop_last=True where they train in step. ``transform`` gets each
    dense batch on the device. threads: that decode; prefetch: batches made ahead.
    ``state_dict`` holds epoch and batch: a loader that loads it goes on in the middle of an epoch.
    """

    def __init__(
        self,
        dataset: FrameDataset,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        order: Order = "samples",
        drop_last: bool = False,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.uint8,
        layout: Layout = "NTPHW",
        transform: Callable[[torch.Tensor], Any] | None = None,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 2,
        prefetch: int = 2,
    ) -> None:
        counts = {"batch_size": batch_size, "threads": threads, "prefetch": prefetch}
        for name, value in counts.items():
            if value < 1:
                raise OptionError(f"{name} must be at least 1, not {value}")
        if not 0 <= rank < world_size:
            raise OptionError(f"rank {rank} of {world_size} ranks: ranks go from 0")
        if layout not in ("NTPHW", "TNPHW"):
            raise OptionError(f"layout is NTPHW or TNPHW, not {layout!r}")
        if order not in ("samples", "shards"):
            raise OptionError(f"order is 'samples' or 'shards', not {order!r}")
        if dtype not in _BITS:
            raise OptionError(f"dtype is one of {', '.join(map(str, _BITS))}, not {dtype}")
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.order = order
        self.drop_last = drop_last
        self.device = torch.device(device)
        self.dtype = dtype
        self.layout = layout
        self.transform = transform
        self.rank = rank
        self.world_size = world_size
        self.threads = threads
        self.prefetch = prefetch
        self.epoch = 0
        self._position = 0  # batches of this epoch that the user has had
        self._buffers = BufferPool(pinned=self.device.type == "cuda")

    def __len__(self) -> int:
        return len(self._batches())

    def __iter__(self) -> Iterator[tuple[Any, torch.Tensor]]:
        todo = iter(self._batches()[self._position :])
        pool = ThreadPoolExecutor(self.threads, "eventdata-loader")
        try:
            ahead = self.threads + self.prefetch - 1
            made = deque(pool.submit(self._make, batch) for batch in islice(todo, ahead))
            while made:
                made.extend(pool.submit(self._make, batch) for batch in islice(todo, 1))
                frames, labels = made.popleft().result()
                self._position += 1
                yield self._deliver(frames), labels.to(self.device, non_blocking=True)
                del frames, labels  # or their buffer would wait for the next batch
        finally:
            pool.shutdown(cancel_futures=True)
        self.epoch += 1
        self._position = 0

    def state_dict(self) -> dict[str, Any]:
        """Epoch, position in it and all that decides the order; plain numbers and strings."""
        return {
            "version": STATE_VERSION,
            "epoch": self.epoch,
            "position": self._position,
            **self._identity(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken; OptionError where this loader has another order."""
        if state.get("version") != STATE_VERSION:
            raise OptionError(
                f"loader state of version {state.get('version')}, this is {STATE_VERSION}"
            )
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise OptionError(
                    f"can't resume: the state has {name}={state.get(name)!r}, this loader {value!r}"
                )
        self.epoch, self._position = int(state["epoch"]), int(state["position"])

    def _identity(self) -> dict[str, Any]:
        return {
            "samples": len(self.dataset),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "order": self.order,
            "drop_last": self.drop_last,
            "world_size": self.world_size,
        }

    def _batches(self) -> list[Indices]:
        indices = epoch_order(
            self.dataset.shards,
            shuffle=self.shuffle,
            order=self.order,
            window=SHARD_WINDOW,
            seed=self.seed,
            epoch=self.epoch,
        )
        return rank_batches(
            indices,
            batch_size=self.batch_size,
            rank=self.rank,
            world_size=self.world_size,
            drop_last=self.drop_last,
        )

    def _make(self, indices: Indices) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames and labels of a batch in host memory: dense for the CPU, else packed."""
        labels = torch.from_numpy(self.dataset.labels[indices])
        sample = self.dataset.sample_format
        if self.device.type == "cpu" and sample.representation == "binary":
            return self._make_dense(indices), labels
        packed = self._buffers.take((len(indices), *sample.packed_shape), sample.dtype)
        array = packed.numpy()
        for slot, index in enumerate(indices):
            self.dataset.read_packed(int(index), array[slot])
        return packed, labels

    def _make_dense(self, indices: Indices) -> torch.Tensor:
        sample = self.dataset.sample_format
        bits, one = _BITS[self.dtype]
        time_first = self.layout == "TNPHW"
        head = (sample.steps or 0, len(indices))
        shape = (*(head if time_first else head[::-1]), *sample.array_shape[1:])
        batch = self._buffers.take(shape, bits)
        array = batch.numpy()
        scratch = np.empty(sample.packed_shape, sample.dtype)
        for slot, index in enumerate(indices):
            self.dataset.read_packed(int(index), scratch)
            unpack_into(scratch, array, slot, one, time_first)  # while it is in the cache
        return batch.view(self.dtype)

    def _deliver(self, frames: torch.Tensor) -> Any:
        """A batch as the user gets it: on the device, dense, transformed."""
        sample = self.dataset.sample_format
        if self.device.type != "cpu" or sample.representation != "binary":
            frames = self._buffers.copy_to(frames, self.device)
            if sample.representation == "binary":
                frames = unpack_frames(frames, sample.steps or 0)
            else:
                frames = frames.movedim(-1, 2)  # (N, K, P, H, W)
            if sample.representation == "image":
                frames = frames[:, 0]
            elif self.layout == "TNPHW":
                frames = frames.transpose(0, 1)
            frames = frames.to(self.dtype).contiguous()
        return frames if self.transform is None else self.transform(frames)


def unpack_frames(packed: torch.Tensor, steps: int) -> torch.Tensor:
    """Packed frames uint8 (N, K, H, W, P) as dense uint8 (N, T, P, H, W), on their device."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    planes = packed.movedim(-1, 2)  # (N, K, P, H, W)
    bits = (planes[:, :, None] >> shifts[:, None, None, None]) & 1  # (N, K, 8, P, H, W)
    return bits.flatten(1, 2)[:, :steps]


class BufferPool:
    """Host memory for batches, given out again when no tensor looks at it any more."""

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._free: dict[tuple[tuple[int, ...], str], list[torch.Tensor]] = {}
        self._copies: deque[tuple[torch.cuda.Event, torch.Tensor]] = deque()

    def take(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        """An uninitialised tensor; its memory comes back once it and its views are gone."""
        free = self._free.setdefault((shape, dtype), [])
        try:
            memory = free.pop()
        except IndexError:
            kind = getattr(torch, dtype)
            memory = torch.empty(shape, dtype=kind, pin_memory=self._pinned)
        # A tensor of NumPy memory holds that array until its storage goes, whoever views it.
        view: NDArray[Any] = memory.numpy()[...]
        weakref.finalize(view, free.append, memory).atexit = False
        return torch.from_numpy(view)

    def copy_to(self, batch: torch.Tensor, device: torch.device) -> torch.Tensor:
        """The batch on the device; a pinned one is kept until its copy is done."""
        copied = batch.to(device, non_blocking=self._pinned)
        if self._pinned:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            self._copies.append((event, batch))
            while self._copies and self._copies[0][0].query():  # type: ignore[no-untyped-call]
                self._copies.popleft()
        return copied
