"""`FrameLoader`: whole batches of a `FrameDataset`, decoded by threads, dense on the device.

    epoch order -> batches of indices -> a part to each thread: read, check, decompress -> user
                                         CPU: dense and of the final type, while in the cache
                                         GPU: copied packed from pinned memory, unpacked there

Threads suffice without processes, because the work is done with Python's lock released. All of them
work on the batch that is needed next. A batch lies in a buffer that is reused once no tensor refers
to it: fresh memory for each batch would cost more than decoding it.

Shapes: N samples, T steps, K planes as stored (binary frames: ceil(T/8) time bytes), P polarities,
C colour channels, H rows, W columns.
"""

import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from itertools import islice, pairwise
from math import prod
from typing import Any, get_args

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


@dataclass(eq=False, repr=False)
class FrameLoader:
    """Iterates over batches ``(frames, labels)`` on a device; labels are int64 (N,).

    Each ``iter()`` reads the next epoch, even if the last one was not finished; set ``epoch`` to
    choose another. The order depends only on the options and the epoch. A batch is not overwritten
    as long as a tensor of it is kept. Damage raises StoreError while iterating.

    Args:
        dataset: a dataset without transforms of its own, which are for single samples.
        batch_size: samples in a batch of one rank.
        shuffle, seed: shuffle each epoch with this random seed; otherwise read it as stored.
        order: "samples" shuffles all samples; "shards" shuffles within a few shards at a time, for
            slow disks and remote stores.
        drop_last: whether to drop the last batch, whose shares may be unequal; ranks that train in
            step need it.
        dtype: uint8, float16, bfloat16 or float32. Counts stored as uint16 need float32, voxel
            grids and time surfaces any of the floating types, or layout="packed".
        layout: "NTPHW": dense frames (N, T, P, H, W); "TNPHW": (T, N, P, H, W), SpikingJelly's
            order; images are (N, C, H, W) in both. "packed": samples as stored, (N, K, H, W, P), an
            eighth of the bytes, for `unpack_frames`.
        transform: a function that gets each batch on the device.
        rank, world_size: each sample is read by only one of the ranks.
        threads: number of decoding threads.
        prefetch: number of batches decoded ahead.

    Raises:
        OptionError: an option is invalid.
    """

    dataset: FrameDataset
    batch_size: int
    _: KW_ONLY
    shuffle: bool = False
    seed: int = 0
    order: Order = "samples"
    drop_last: bool = False
    device: str | torch.device = "cpu"
    dtype: torch.dtype = torch.uint8
    layout: Layout = "NTPHW"
    transform: Callable[[torch.Tensor], Any] | None = None
    rank: int = 0
    world_size: int = 1
    threads: int = 2
    prefetch: int = 2

    def __post_init__(self) -> None:
        # Plain ints, because a state with NumPy's could not be written as JSON.
        for name in ("batch_size", "threads", "prefetch", "world_size", "seed", "rank"):
            least = 0 if name in ("seed", "rank") else 1
            (value,) = check_whole(least, **{name: getattr(self, name)})
            setattr(self, name, value)
        self.shuffle, self.drop_last = bool(self.shuffle), bool(self.drop_last)
        self.device = device = _checked_device(self.device)
        self._check_options()
        self._epoch = 0
        self._position = 0  # batches of this epoch that the user has received
        self._resumes = False  # whether the next iter() continues the same epoch
        self._turn = 0  # the iter() that the three above belong to
        dense = device.type == "cpu" and self.layout != "packed"
        self._decode = Decoding(self.dataset.sample_format, self.dtype, self.layout, dense=dense)
        largest = prod(self._decode.shape(min(self.batch_size, len(self.dataset))))
        self._buffers = BufferPool(
            largest * self._decode.dtype.itemsize,
            keep=self.prefetch + 2,  # with the user's and the one that is being filled
            pinned=device.type == "cuda",
        )

    def _check_options(self) -> None:
        if self.rank >= self.world_size:
            raise OptionError(f"rank must be 0 to {self.world_size - 1}, not {self.rank}")
        allowed = {"layout": get_args(Layout), "order": get_args(Order), "dtype": tuple(BITS)}
        for name, choices in allowed.items():
            if (value := getattr(self, name)) not in choices:
                values = ", ".join(map(str, choices))
                raise OptionError(f"{name} must be one of {values}, not {value!r}")
        if self.transform is not None and not callable(self.transform):
            raise OptionError(f"transform must be a function, not {self.transform!r:.80}")
        if not isinstance(self.dataset, FrameDataset):
            raise OptionError(
                f"FrameLoader reads a FrameDataset, not a {type(self.dataset).__name__}; to "
                "read a part of one, pass dataset.subset(indices)"
            )
        if self.dataset.transform is not None or self.dataset.target_transform is not None:
            raise OptionError(
                "the dataset's transform and target_transform are for single samples; pass "
                "FrameLoader transform=, which gets whole batches, and a dataset without them"
            )
        if self.layout == "packed" and self.dtype != torch.uint8:
            raise OptionError(f"packed batches can't be {self.dtype}; omit dtype or layout")
        stored = self.dataset.sample_format.dtype
        if self.layout != "packed" and not _holds(self.dtype, stored):
            raise OptionError(
                f"the store's values are {stored}, which {self.dtype} does not hold; pass "
                "dtype=torch.float32"
            )

    @property
    def epoch(self) -> int:
        """The epoch that is being read, was read last, or comes first."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        (self._epoch,) = check_whole(0, epoch=epoch)
        self._position, self._resumes = 0, False
        self._turn += 1

    @property
    def _shares(self) -> dict[str, Any]:
        keys = ("batch_size", "world_size", "drop_last")
        return {key: getattr(self, key) for key in keys}

    def __len__(self) -> int:
        return batch_count(len(self.dataset), rank=self.rank, **self._shares)

    def __iter__(self) -> Iterator[tuple[Any, torch.Tensor]]:
        if self._position and not self._resumes:
            self.epoch += 1
        self._resumes = False
        self._turn += 1
        turn = self._turn
        batches = self._batches()[self._position :]
        process = os.getpid()
        with self._open(batches) as reader, _Threads(self.threads, "eventdata-loader") as threads:
            todo = (self._start(threads, reader, batch) for batch in batches)
            coming = deque(islice(todo, self.prefetch))
            while coming:
                coming.extend(islice(todo, 1))
                batch = self._deliver(*coming.popleft())
                if turn == self._turn:
                    self._position += 1
                yield batch
                del batch  # otherwise its buffer could not be used for the next one
                if process != os.getpid():
                    raise EventDataError(
                        "this epoch began in another process, whose threads read it; call iter() "
                        "on the loader after a fork"
                    )
        if turn == self._turn:
            self.epoch += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the latest ``iter()`` and the options that decide the order.

        Any rank can load the state of any other.
        """
        place = {"epoch": self._epoch, "position": self._position}
        return {"version": STATE_VERSION, **place, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a saved state, also within an epoch.

        Raises:
            OptionError: the state is not from a loader of the same samples in the same order.
        """
        if not isinstance(state, dict) or "epoch" not in state or "position" not in state:
            raise OptionError("can't resume: not the state of a FrameLoader")
        for name, value in {"version": STATE_VERSION, **self._identity()}.items():
            if state.get(name) != value:
                raise OptionError(
                    f"can't resume: the state has {name}={state.get(name)!r}, not {value!r}"
                )
        (position,) = check_whole(0, position=state["position"])
        most = batch_count(len(self.dataset), rank=0, **self._shares)  # other ranks may have less
        if position > most:
            raise OptionError(f"can't resume: batch {position} in an epoch of {most} batches")
        self.epoch = state["epoch"]
        self._position, self._resumes = min(position, len(self)), True

    def _identity(self) -> dict[str, Any]:
        """Return all that decides which samples come in which order."""
        digest = hashlib.sha256(self.dataset.stored.astype("<i8").tobytes())
        digest.update(self.dataset.labels.astype("<i8").tobytes())
        return {
            "split": self.dataset.split,
            "samples": len(self.dataset),
            "digest": digest.hexdigest(),
            "shuffle": self.shuffle,
            "seed": self.seed,
            "order": self.order,
            **self._shares,
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
        return rank_batches(indices, rank=self.rank, **self._shares)

    def _open(self, batches: Sequence[Indices]) -> contextlib.AbstractContextManager[SampleReader]:
        """Open a reader of these batches, which reads ahead if their order keeps to shards."""
        reader = self.dataset.reader
        if not batches or (self.shuffle and self.order == "samples"):
            return contextlib.nullcontext(reader)
        order = self.dataset.stored[np.concatenate(batches)].tolist()
        return reader.ahead(order, SHARD_WINDOW)

    def _start(
        self, threads: ThreadPoolExecutor, reader: SampleReader, indices: Indices
    ) -> tuple[torch.Tensor, torch.Tensor, list[Future[None]]]:
        """Have the threads make a batch, a part each; return it before its parts are done."""
        stored = self.dataset.stored[indices].tolist()
        batch = self._buffers.take(self._decode.shape(len(stored)), self._decode.dtype)
        count = min(self.threads, len(stored))
        bounds = [len(stored) * part // count for part in range(count + 1)]
        parts = [
            threads.submit(self._decode.fill, batch, slice(start, stop), reader, stored)
            for start, stop in pairwise(bounds)
        ]
        return torch.from_numpy(batch), torch.from_numpy(self.dataset.labels[indices]), parts

    def _deliver(
        self, frames: torch.Tensor, labels: torch.Tensor, parts: list[Future[None]]
    ) -> tuple[Any, torch.Tensor]:
        """Return a batch whose parts are done, on the device, in its type and layout."""
        for part in reversed(parts):  # the last part is done last: one wait is enough
            part.result()
        device = torch.device(self.device)
        if self._decode.dense:
            frames = frames.view(self.dtype)
        else:
            frames = self._buffers.copy_to(frames, device)
            if self.layout != "packed":
                frames = make_dense(frames, self.dataset.sample_format, self.dtype, self.layout)
        labels = labels.to(device, non_blocking=True)
        return frames if self.transform is None else self.transform(frames), labels


def _holds(dtype: torch.dtype, stored: str) -> bool:
    """Return whether a type of dense batches has the stored values, floats if need be rounded."""
    if stored == "uint8":
        return True
    return dtype == torch.float32 or (stored == "float16" and dtype.is_floating_point)


def _checked_device(device: str | torch.device) -> torch.device:
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


class _Threads(ThreadPoolExecutor):
    """Threads that start nothing more when their block ends, even by an error or Ctrl-C."""

    def __exit__(self, *error: object) -> None:
        self.shutdown(cancel_futures=True)


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
