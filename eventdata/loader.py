"""`FrameLoader`: whole batches of a `FrameDataset`, decoded by threads, dense on the device.

    epoch order -> batches of indices -> a part to each thread: read, check, decompress -> user
                                         CPU: dense and of the type wanted, while in the cache
                                         GPU: copied packed from pinned memory, unpacked there

Threads do without processes, because the work is done with Python's lock released; all of them work
on the batch that is wanted next. A batch lies in a buffer that is used again once no tensor looks
at it any more: fresh memory for each batch would cost more than decoding it.

N samples, T steps, K planes as stored (of binary frames time bytes, ceil(T/8)), P polarities,
C colour channels, H rows, W columns.
"""

import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
from math import prod
from typing import Any

import numpy as np
import torch

from eventdata.batches import BITS, BufferPool, Decoding, Layout
from eventdata.dataset import FrameDataset
from eventdata.errors import EventDataError, OptionError, check_whole
from eventdata.order import Indices, Order, batch_count, epoch_order, rank_batches
from eventdata.store.layout import SampleFormat
from eventdata.store.read import SampleReader

STATE_VERSION = 2
SHARD_WINDOW = 8  # shards whose samples are shuffled together with order="shards"


class FrameLoader:
    """Iterates over batches ``(frames, labels)`` on the device; labels are int64 (N,).

    layout="NTPHW": dense frames (N, T, P, H, W); "TNPHW": (T, N, P, H, W), SpikingJelly's order;
    images are (N, C, H, W) in both. dtype: uint8, float16, bfloat16 or float32. layout="packed":
    samples as they are stored, (N, K, H, W, P), an eighth of the bytes, for who unpacks them later
    (`unpack_frames`). Counts that are stored as uint16 come as float32 or packed.

    Each ``iter()`` is the next epoch, also after one that was broken off; its order depends on
    ``seed`` and the epoch alone (set ``epoch`` to choose it). order="shards" reads shard by shard,
    for slow disks and remote stores. Of ``world_size`` ranks, each sample is seen by one; use
    drop_last=True where they train in step. ``transform`` gets each batch on the device; a
    dataset with transforms of its own, which are of samples, is refused. threads: that decode;
    prefetch: batches made ahead. ``state_dict`` holds epoch and batch, those of the latest
    ``iter()``: a loader that loads it, of whatever rank, goes on in the middle of an epoch.

    A batch is the user's for as long as a tensor of it is kept. Raises OptionError for options that
    do not make sense; while iterating, StoreError where the store is damaged.
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
        # Plain ints, because NumPy's would not go into a state.
        batch_size, threads, prefetch, world_size = check_whole(
            batch_size=batch_size, threads=threads, prefetch=prefetch, world_size=world_size
        )
        seed, rank = check_whole(0, seed=seed, rank=rank)
        if not 0 <= rank < world_size:
            raise OptionError(f"rank {rank} of {world_size} ranks: ranks go from 0")
        if layout not in ("NTPHW", "TNPHW", "packed"):
            raise OptionError(f"layout is NTPHW, TNPHW or packed, not {layout!r}")
        if order not in ("samples", "shards"):
            raise OptionError(f"order is 'samples' or 'shards', not {order!r}")
        if not isinstance(dtype, torch.dtype) or dtype not in BITS:
            raise OptionError(f"dtype is one of {', '.join(map(str, BITS))}, not {dtype!r}")
        if transform is not None and not callable(transform):
            raise OptionError(f"transform is a function of a batch, not {transform!r:.80}")
        _check_dataset(dataset)
        sample = dataset.sample_format
        if layout == "packed":
            if dtype != torch.uint8:
                raise OptionError(f"packed batches are as stored: they can't be of {dtype}")
        elif sample.dtype == "uint16" and dtype != torch.float32:
            raise OptionError(
                f"the store's counts are uint16, which {dtype} does not hold; give torch.float32"
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = bool(shuffle)
        self.seed = seed
        self.order = order
        self.drop_last = bool(drop_last)
        self.device = _checked_device(device)
        self.dtype = dtype
        self.layout = layout
        self.transform = transform
        self.rank = rank
        self.world_size = world_size
        self.threads = threads
        self.prefetch = prefetch
        self._epoch = 0
        self._position = 0  # batches of this epoch that the user has had
        self._goes_on = False  # whether the next iter() is of the same epoch
        self._turn = 0  # of the iter() that the three above are of
        dense = self.device.type == "cpu" and layout != "packed"
        self._decode = Decoding(sample, dtype, layout, dense=dense)
        largest = prod(self._decode.shape(min(batch_size, len(dataset))))
        self._buffers = BufferPool(
            largest * self._decode.dtype.itemsize,
            keep=prefetch + 2,  # with the user's, and the one that is filled meanwhile
            pinned=self.device.type == "cuda",
        )

    @property
    def epoch(self) -> int:
        """The epoch that is being read, or was last, or, where none was, comes next."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        (self._epoch,) = check_whole(0, epoch=epoch)
        self._position, self._goes_on = 0, False
        self._turn += 1

    def __len__(self) -> int:
        return self._batch_count(self.rank)

    def _batch_count(self, rank: int) -> int:
        return batch_count(
            len(self.dataset),
            batch_size=self.batch_size,
            rank=rank,
            world_size=self.world_size,
            drop_last=self.drop_last,
        )

    def __iter__(self) -> Iterator[tuple[Any, torch.Tensor]]:
        if self._position and not self._goes_on:
            self.epoch += 1
        self._goes_on = False
        self._turn += 1
        turn = self._turn
        batches = self._batches()[self._position :]
        process = os.getpid()
        with self._reading(batches) as reader, _Threads(self.threads) as threads:
            todo = (self._start(threads, reader, batch) for batch in batches)
            coming = deque(islice(todo, self.prefetch))
            while coming:
                coming.extend(islice(todo, 1))
                batch = self._deliver(*coming.popleft().result())
                if turn == self._turn:
                    self._position += 1
                yield batch
                del batch  # or its buffer would wait for the next one
                if process != os.getpid():
                    raise EventDataError(
                        "this epoch was begun in another process, whose threads read it; after a "
                        "fork call iter() on the loader again"
                    )
        if turn == self._turn:
            self.epoch += 1

    def state_dict(self) -> dict[str, Any]:
        """Epoch, position in it and all that decides the order; plain numbers and strings."""
        return {
            "version": STATE_VERSION,
            "epoch": self._epoch,
            "position": self._position,
            **self._identity(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken; OptionError where this loader has another order."""
        if not isinstance(state, dict) or "epoch" not in state or "position" not in state:
            raise OptionError("can't resume: not the state of a FrameLoader")
        if state.get("version") != STATE_VERSION:
            raise OptionError(
                f"loader state of version {state.get('version')}, this is {STATE_VERSION}"
            )
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise OptionError(
                    f"can't resume: the state has {name}={state.get(name)!r}, this loader {value!r}"
                )
        (position,) = check_whole(0, position=state["position"])
        most = self._batch_count(rank=0)  # which may have one more than this rank
        if position > most:
            raise OptionError(f"can't resume: batch {position} of {most} an epoch")
        self.epoch = state["epoch"]
        self._position, self._goes_on = min(position, len(self)), True

    def _identity(self) -> dict[str, Any]:
        return {
            "split": self.dataset.split,
            "samples": len(self.dataset),
            "digest": _digest(self.dataset),
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
            epoch=self._epoch,
        )
        return rank_batches(
            indices,
            batch_size=self.batch_size,
            rank=self.rank,
            world_size=self.world_size,
            drop_last=self.drop_last,
        )

    def _reading(
        self, batches: Sequence[Indices]
    ) -> contextlib.AbstractContextManager[SampleReader]:
        """The reader of these batches, which reads ahead where their order keeps to shards."""
        reader = self.dataset.reader
        if not batches or (self.shuffle and self.order == "samples"):
            return contextlib.nullcontext(reader)
        order = self.dataset.stored[np.concatenate(batches)].tolist()
        return reader.ahead(order, SHARD_WINDOW)

    def _start(
        self, threads: ThreadPoolExecutor, reader: SampleReader, indices: Indices
    ) -> "_Coming":
        """Have the threads make a batch, a part each."""
        stored = self.dataset.stored[indices].tolist()
        batch = self._buffers.take(self._decode.shape(len(stored)), self._decode.dtype)
        parts = min(self.threads, len(stored))
        bounds = [len(stored) * part // parts for part in range(parts + 1)]
        return _Coming(
            torch.from_numpy(batch),
            torch.from_numpy(self.dataset.labels[indices]),
            [
                threads.submit(self._decode.fill, batch, slice(start, stop), reader, stored)
                for start, stop in pairwise(bounds)
            ],
        )

    def _deliver(self, frames: torch.Tensor, labels: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """A batch as the user gets it: on the device, of its type and layout, transformed."""
        if self._decode.dense:
            if frames.dtype != self.dtype:
                frames = frames.view(self.dtype)
        else:
            frames = self._buffers.copy_to(frames, self.device)
            if self.layout != "packed":
                frames = make_dense(frames, self.dataset.sample_format, self.dtype, self.layout)
        if labels.device != self.device:
            labels = labels.to(self.device, non_blocking=True)
        return frames if self.transform is None else self.transform(frames), labels


def _check_dataset(dataset: Any) -> None:
    if not isinstance(dataset, FrameDataset):
        raise OptionError(
            f"FrameLoader reads a FrameDataset, not a {type(dataset).__name__}; of a part of one "
            "give dataset.subset(indices)"
        )
    if dataset.transform is not None or dataset.target_transform is not None:
        raise OptionError(
            "the dataset's transform and target_transform are of single samples; give FrameLoader "
            "transform=, which gets whole batches, and a dataset without"
        )


def _checked_device(device: str | torch.device) -> torch.device:
    try:
        checked = torch.device(device)
        if checked.type not in ("cpu", "cuda"):
            torch.empty(1, device=checked)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError):
        raise OptionError(f"device {device!r} is none that torch knows here") from None
    if checked.type == "meta":
        raise OptionError("device is meta, which holds no data")
    if checked.type == "cuda" and (checked.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count() or "no"
        raise OptionError(f"device is {checked}, but torch finds {found} GPU here")
    return checked


def _digest(dataset: FrameDataset) -> str:
    """Tells a dataset from one of other samples, another order of them, or other labels."""
    digest = hashlib.sha256(dataset.stored.astype("<i8").tobytes())
    digest.update(dataset.labels.astype("<i8").tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Coming:
    """A batch that threads are at work on."""

    frames: torch.Tensor
    labels: torch.Tensor
    parts: list[Future[None]]

    def result(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames and labels when all parts are done; the error of one that failed."""
        for part in reversed(self.parts):  # the last is done last: the others need no waiting
            part.result()
        return self.frames, self.labels


class _Threads(ThreadPoolExecutor):
    """Threads that start nothing more once they are left, by an error or Ctrl-C too."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, "eventdata-loader")

    def __exit__(self, *error: object) -> None:
        self.shutdown(cancel_futures=True)


def make_dense(
    packed: torch.Tensor, sample: SampleFormat, dtype: torch.dtype, layout: Layout
) -> torch.Tensor:
    """Batches as stored (N, K, H, W, P), dense as `FrameLoader` gives them, on their device."""
    if sample.representation == "binary":
        frames = unpack_frames(packed, sample.steps or 0)
    else:
        frames = packed.movedim(-1, 2)  # (N, K, P, H, W)
    if sample.representation == "image":
        frames = frames[:, 0]
    elif layout == "TNPHW":
        frames = frames.transpose(0, 1)
    return frames.to(dtype).contiguous()


def unpack_frames(packed: torch.Tensor, steps: int) -> torch.Tensor:
    """Packed frames uint8 (N, K, H, W, P) as dense uint8 (N, T, P, H, W), on their device."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    planes = packed.movedim(-1, 2)  # (N, K, P, H, W)
    bits = (planes[:, :, None] >> shifts[:, None, None, None]) & 1  # (N, K, 8, P, H, W)
    return bits.flatten(1, 2)[:, :steps]
