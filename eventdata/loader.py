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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from itertools import islice, pairwise
from math import prod
from typing import Any, ClassVar, get_args

import numpy as np
import torch

from eventdata.batches import (
    BITS,
    BufferPool,
    Decoding,
    Layout,
    Threads,
    checked_device,
    holds,
    make_dense,
    unpack_frames,
)
from eventdata.dataset import FrameDataset, collate, frames_of
from eventdata.errors import EventDataError, OptionError, check_whole
from eventdata.order import Indices, Order, batch_count, epoch_order, rank_batches
from eventdata.sampling import BatchIndices, SamplerBatches, ranks_of_job, share_seed
from eventdata.store.read import SampleReader

__all__ = ["FrameLoader", "unpack_frames"]

STATE_VERSION = 2
SHARD_WINDOW = 8  # shards whose samples are shuffled together with order="shards"


@dataclass(eq=False, repr=False)
class FrameLoader:
    """Iterates over batches ``(frames, labels)`` on a device; labels are int64 (N,).

    Each ``iter()`` reads the next epoch, even if the last one was not finished; set ``epoch`` to
    choose another. The order depends only on the options and the epoch. A batch is not overwritten
    as long as a tensor of it is kept. Damage raises StoreError while iterating.

    Args:
        dataset: a dataset without transforms of its own, which are for single samples; also
            torch's Subset or ConcatDataset of such, the latter as `eventdata.concat` joins them.
        batch_size: samples in a batch of one rank; None with a batch sampler.
        shuffle, seed: shuffle each epoch with this random seed; otherwise read it as stored. None
            draws a seed from torch's generator, so that each loader has its own order; the ranks
            of torch.distributed share it.
        sampler: a sampler or batch sampler of torch, instead of ``shuffle``. To resume within an
            epoch, a random one needs a generator.
        order: "samples" shuffles all samples; "shards" shuffles within a few shards at a time, for
            slow disks and remote stores.
        drop_last: whether to drop the last batch, whose shares may be unequal; ranks that train in
            step need it.
        dtype: uint8, int32, float16, bfloat16 or float32; by default the dataset's. Counts stored
            as uint16 need int32 or float32, voxel grids and time surfaces a floating type.
        layout: "NTPHW": dense frames (N, T, P, H, W); "TNPHW": (T, N, P, H, W), SpikingJelly's
            order; images are (N, C, H, W) in both. "packed": samples as stored, (N, K, H, W, P), an
            eighth of the bytes, for `unpack_frames`.
        transform: a function that gets each batch on the device.
        target_transform: a function that gets the labels of each batch.
        rank, world_size: each sample is read by only one of the ranks, by default those of
            torch.distributed once it is set up, else one rank.
        threads: number of decoding threads.
        prefetch: number of batches decoded ahead.

    Raises:
        OptionError: an option is invalid.
    """

    dataset: FrameDataset
    batch_size: int | None
    _: KW_ONLY
    shuffle: bool = False
    seed: int | None = None
    sampler: Iterable[Any] | None = None
    order: Order = "samples"
    drop_last: bool = False
    device: str | torch.device = "cpu"
    dtype: torch.dtype | None = None
    layout: Layout = "NTPHW"
    transform: Callable[[torch.Tensor], Any] | None = None
    target_transform: Callable[[torch.Tensor], Any] | None = None
    rank: int | None = None
    world_size: int | None = None
    threads: int = 2
    prefetch: int = 2
    num_workers: ClassVar[int] = 0  # as accelerate reads these two of a DataLoader
    prefetch_factor: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        self.dataset = frames_of(self.dataset)
        # Plain ints, because a state with NumPy's could not be written as JSON.
        for name in ("batch_size", "threads", "prefetch", "world_size", "seed", "rank"):
            least = 0 if name in ("seed", "rank") else 1
            given = getattr(self, name)
            if given is not None or name in ("threads", "prefetch"):
                (value,) = check_whole(least, **{name: given})
                setattr(self, name, value)
        self.shuffle, self.drop_last = bool(self.shuffle), bool(self.drop_last)
        self.device = device = checked_device(self.device)
        usual = torch.uint8 if self.layout == "packed" else self.dataset.dtype
        self.dtype = self._dtype = usual if self.dtype is None else self.dtype
        self._check_options()
        self._epoch = 0
        self._position = 0  # batches of this epoch that the user has received
        self._resumes = False  # whether the next iter() continues the same epoch
        self._turn = 0  # the iter() that the three above belong to
        self._drawn: SamplerBatches | None = None
        self._resumed: dict[str, Any] | None = None  # state of the sampler
        if self.sampler is not None:
            self._drawn = SamplerBatches(self.sampler, len(self.dataset), self.batch_size)
            if self.drop_last and self._drawn.by_batch:
                raise OptionError(
                    "drop_last has no effect on batches of a sampler; pass it to the BatchSampler"
                )
        self._seed, self._shared = self.seed or 0, self.seed is not None or not self.shuffle
        if not self._shared:
            self._seed = int(torch.randint(2**31, ()))
            self._share_seed()
        dense = device.type == "cpu" and self.layout != "packed"
        self._decode = Decoding(self.dataset.sample_format, self._dtype, self.layout, dense=dense)
        largest = prod(self._decode.shape(min(self.batch_size or 1, len(self.dataset))))
        self._buffers = BufferPool(
            largest * self._decode.dtype.itemsize,
            keep=self.prefetch + 2,  # with the user's and the one that is being filled
            pinned=device.type == "cuda",
        )

    def _check_options(self) -> None:
        if self.world_size is None and self.rank is not None:
            self.world_size = 1
        if self.world_size is not None and self.rank is None:
            raise OptionError("world_size is given without rank; pass both or neither")
        if self.rank is not None and self.world_size is not None:
            if self.rank >= self.world_size:
                raise OptionError(f"rank must be 0 to {self.world_size - 1}, not {self.rank}")
            if self.world_size > 1 and self.shuffle and self.seed is None:
                raise OptionError("ranks that share the samples need the same seed; pass seed=0")
        if self.sampler is not None and (self.shuffle or self.order != "samples"):
            raise OptionError("the sampler decides the order; omit shuffle and order")
        if self.batch_size is None and self.sampler is None:
            raise OptionError("batch_size is None, which needs a batch sampler; pass a number")
        allowed = {"layout": get_args(Layout), "order": get_args(Order), "dtype": tuple(BITS)}
        for name, choices in allowed.items():
            if (value := getattr(self, name)) not in choices:
                values = ", ".join(map(str, choices))
                raise OptionError(f"{name} must be one of {values}, not {value!r}")
        for name in ("transform", "target_transform"):
            if (value := getattr(self, name)) is not None and not callable(value):
                raise OptionError(f"{name} must be a function, not {value!r:.80}")
        if self.dataset.transform is not None or self.dataset.target_transform is not None:
            raise OptionError(
                "the dataset's transform and target_transform are for single samples; pass "
                "FrameLoader's own, which get whole batches, and a dataset without them"
            )
        if self.dataset.layout != "TPHW":
            raise OptionError(
                f"the dataset's layout {self.dataset.layout} is for single samples; omit it, and "
                "pass FrameLoader's own"
            )
        if self.layout == "packed" and self.dtype != torch.uint8:
            raise OptionError(f"packed batches can't be {self.dtype}; omit dtype or layout")
        stored = self.dataset.sample_format.dtype
        if self.layout != "packed" and not holds(self._dtype, stored):
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
        self._position, self._resumes, self._resumed = 0, False, None
        self._turn += 1

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next ``iter()`` reads; do nothing within this epoch.

        Lightning and accelerate call this before each epoch.
        """
        if epoch != self._epoch:
            self.epoch = epoch

    @property
    def _ranks(self) -> tuple[int, int]:
        """Rank and world size, as passed or those of torch.distributed."""
        if self.rank is not None and self.world_size is not None:
            return self.rank, self.world_size
        return ranks_of_job()

    def _share_seed(self) -> None:
        """Take the seed that rank 0 drew, once torch.distributed is set up."""
        if not self._shared and self.world_size is None and ranks_of_job()[1] > 1:
            self._seed, self._shared = share_seed(self._seed), True

    def _count(self, rank: int, world_size: int) -> int:
        """Return the batches of a rank."""
        if self._drawn is not None:
            return self._drawn.count(rank, world_size, drop_last=self.drop_last)
        return batch_count(
            len(self.dataset),
            batch_size=self.batch_size or 1,
            rank=rank,
            world_size=world_size,
            drop_last=self.drop_last,
        )

    def __len__(self) -> int:
        return self._count(*self._ranks)

    def __iter__(self) -> Iterator[tuple[Any, torch.Tensor]]:
        if self._position and not self._resumes:
            self.epoch += 1
        self._resumes = False
        self._turn += 1
        turn = self._turn
        batches = self._batches()[self._position :]
        process = os.getpid()
        with self._open(batches) as reader, Threads(self.threads, "eventdata-loader") as threads:
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
        place: dict[str, Any] = {"epoch": self._epoch, "position": self._position}
        if self._drawn is not None:
            resumed = self._resumed if self._resumes else None
            place["sampler"] = resumed or self._drawn.state(begun=self._position > 0)
        return {"version": STATE_VERSION, **place, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a saved state, also within an epoch.

        Raises:
            OptionError: the state is not from a loader of the same samples in the same order.
        """
        if not isinstance(state, dict) or "epoch" not in state or "position" not in state:
            raise OptionError("can't resume: not the state of a FrameLoader")
        identity = self._identity()
        if self.seed is None:  # the order is that of the state's seed
            identity["seed"] = state.get("seed")
        for name, value in {"version": STATE_VERSION, **identity}.items():
            if state.get(name) != value:
                raise OptionError(
                    f"can't resume: the state has {name}={state.get(name)!r}, not {value!r}"
                )
        (position,) = check_whole(0, position=state["position"])
        most = self._count(0, self._ranks[1])  # other ranks may have less
        if position > most:
            raise OptionError(f"can't resume: batch {position} in an epoch of {most} batches")
        if self.seed is None:
            (self._seed,) = check_whole(0, seed=identity["seed"])
            self._shared = True
        if most and position == most:  # saved after the last batch: the next epoch comes
            self.epoch = state["epoch"] + 1
        else:
            self.epoch = state["epoch"]
            self._resumed = state.get("sampler")
            self._position = min(position, len(self))
        self._resumes = True

    def _identity(self) -> dict[str, Any]:
        """Return all that decides which samples come in which order."""
        digest = hashlib.sha256(self.dataset.stored.astype("<i8").tobytes())
        digest.update(self.dataset.labels.astype("<i8").tobytes())
        return {
            "split": self.dataset.split,
            "samples": len(self.dataset),
            "digest": digest.hexdigest(),
            "shuffle": self.shuffle,
            "seed": self._seed,
            "order": self.order,
            "batch_size": self.batch_size,
            "world_size": self._ranks[1],
            "drop_last": self.drop_last,
        }

    def _batches(self) -> list[Indices]:
        rank, world_size = self._ranks
        if self._drawn is not None:
            resumed, self._resumed = self._resumed, None
            return self._drawn.draw(
                self._epoch, rank, world_size, drop_last=self.drop_last, resume=resumed
            )
        self._share_seed()
        indices = epoch_order(
            self.dataset.shards,
            shuffle=self.shuffle,
            order=self.order,
            window=SHARD_WINDOW,
            seed=self._seed,
            epoch=self._epoch,
        )
        return rank_batches(
            indices,
            batch_size=self.batch_size or 1,
            rank=rank,
            world_size=world_size,
            drop_last=self.drop_last,
        )

    def _open(self, batches: Sequence[Indices]) -> contextlib.AbstractContextManager[SampleReader]:
        """Open a reader of these batches, which reads ahead if their order keeps to shards."""
        reader = self.dataset.reader
        scattered = self.sampler is not None or (self.shuffle and self.order == "samples")
        if not batches or scattered:
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
            frames = frames.view(self._dtype)
        else:
            frames = self._buffers.copy_to(frames, device)
            if self.layout != "packed":
                frames = make_dense(frames, self.dataset.sample_format, self._dtype, self.layout)
        return self._transformed(frames, labels.to(device, non_blocking=True))

    def _transformed(self, frames: torch.Tensor, labels: Any) -> tuple[Any, Any]:
        if self.transform is not None:
            frames = self.transform(frames)
        return frames, labels if self.target_transform is None else self.target_transform(labels)

    @property
    def batch_sampler(self) -> BatchIndices:
        """The indices of each batch, for programs that read the dataset themselves.

        With `collate_fn` they get the same batches, such as from accelerate's skip_first_batches.
        """
        return BatchIndices(self, self._batches)

    def collate_fn(self, samples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
        """Return samples of the dataset as a batch of this loader."""
        if self.layout == "packed":
            raise OptionError("samples of the dataset are not packed; choose another layout")
        frames, labels = collate(samples)
        frames = frames.to(torch.device(self.device), self._dtype)
        if self.layout == "TNPHW" and frames.ndim == 5:
            frames = frames.transpose(0, 1).contiguous()
        return self._transformed(frames, labels.to(torch.device(self.device)))
