"""Samplers of torch, and the ranks of torch.distributed, for `FrameLoader`."""

import hashlib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from torch import distributed
from torch.utils.data import BatchSampler

from eventdata.errors import OptionError
from eventdata.order import Indices, batch_count, rank_batches


def ranks_of_job() -> tuple[int, int]:
    """Return rank and world size of torch.distributed, or (0, 1) where it is not set up."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes.isdecimal() and int(processes) > 1:
        warnings.warn(
            f"WORLD_SIZE is {processes}, but torch.distributed is not set up, so FrameLoader gives "
            "this process all samples; call torch.distributed.init_process_group first, or pass "
            "rank= and world_size=",
            stacklevel=4,
        )
    return 0, 1


def share_seed(seed: int) -> int:
    """Return the seed that rank 0 drew; all ranks must call this."""
    box = [seed]
    distributed.broadcast_object_list(box, src=0)
    return int(box[0])


class SamplerBatches:
    """Batches of the indices that a sampler yields, and its state for resuming.

    Args:
        sampler: yields indices, or lists of them (a batch sampler).
        samples: number of samples in the dataset.
        batch_size: samples in a batch, None for a batch sampler.

    Raises:
        OptionError: the sampler has no length, or does not go with batch_size.
    """

    def __init__(self, sampler: Iterable[Any], samples: int, batch_size: int | None) -> None:
        self.sampler: Any = sampler
        self._samples, self._batch_size = samples, batch_size
        self._inner: Any = getattr(sampler, "sampler", sampler)
        self.by_batch = batch_size is None or isinstance(sampler, BatchSampler)
        self._distributed = any(hasattr(one, "num_replicas") for one in (sampler, self._inner))
        self._begun: dict[str, str] | None = None
        if not hasattr(sampler, "__len__"):
            raise OptionError("a sampler without a length may never end; pass one with len()")
        own = getattr(sampler, "batch_size", None)
        if self.by_batch and batch_size is not None and own not in (None, batch_size):
            raise OptionError(
                f"the batch sampler has batches of {own}, not {batch_size}; pass batch_size=None"
            )

    @property
    def _generator(self) -> torch.Generator | None:
        found = (getattr(one, "generator", None) for one in (self.sampler, self._inner))
        return next((one for one in found if isinstance(one, torch.Generator)), None)

    def check_ranks(self, world_size: int) -> None:
        """Raise OptionError if several ranks would not share the samples."""
        if world_size == 1 or self._distributed:
            return
        if self.by_batch:
            raise OptionError(
                "a batch sampler gives each rank the same batches; pass BatchSampler("
                "DistributedSampler(dataset), ...), or a sampler and batch_size"
            )
        if hasattr(self._inner, "generator") and self._generator is None:
            raise OptionError(
                "a random sampler without a generator draws other samples on each rank; pass it "
                "generator=torch.Generator().manual_seed(0), or pass a DistributedSampler"
            )

    def count(self, rank: int, world_size: int, *, drop_last: bool) -> int:
        """Return the number of batches of a rank."""
        if self.by_batch:
            return len(self.sampler)
        rank, world_size = (0, 1) if self._distributed else (rank, world_size)
        return batch_count(
            len(self.sampler),
            batch_size=self._batch_size or 1,
            rank=rank,
            world_size=world_size,
            drop_last=drop_last,
        )

    def draw(
        self, epoch: int, rank: int, world_size: int, *, drop_last: bool, resume: Any = None
    ) -> list[Indices]:
        """Return the batches of an epoch, drawn now; with the state of an epoch, the same again.

        Raises:
            OptionError: the sampler yields other indices than in that epoch, or some that the
                dataset does not have.
        """
        self.check_ranks(world_size)
        for one in (self.sampler, self._inner):
            if hasattr(one, "set_epoch"):
                one.set_epoch(epoch)
        generator = self._generator
        if resume and generator is not None and resume.get("generator"):
            state = torch.tensor(list(bytes.fromhex(resume["generator"])), dtype=torch.uint8)
            generator.set_state(state)
        before = self._generator_state()
        drawn = list(self.sampler)
        rows = drawn if self.by_batch else [drawn]
        batches = [np.array([int(index) for index in row], np.int64) for row in rows]
        for batch in batches:
            if len(batch) and not 0 <= batch.min() <= batch.max() < self._samples:
                raise OptionError(
                    f"the sampler yields indices {batch.min()} to {batch.max()}, but the dataset "
                    f"has {self._samples} samples"
                )
        digest = hashlib.sha256(b"".join(batch.astype("<i8").tobytes() for batch in batches))
        self._begun = {"generator": before, "digest": digest.hexdigest()}
        if resume and resume.get("digest", self._begun["digest"]) != self._begun["digest"]:
            raise OptionError(
                "can't resume: the sampler yields another order than before; pass it a generator, "
                "such as generator=torch.Generator().manual_seed(0)"
            )
        if self.by_batch:
            return [batch for batch in batches if len(batch)]
        rank, world_size = (0, 1) if self._distributed else (rank, world_size)
        return rank_batches(
            batches[0],
            batch_size=self._batch_size or 1,
            rank=rank,
            world_size=world_size,
            drop_last=drop_last,
        )

    def state(self, *, begun: bool) -> dict[str, str]:
        """Return what draws the same epoch again: the one that began, or the next."""
        if begun and self._begun is not None:
            return self._begun
        return {"generator": self._generator_state()}

    def _generator_state(self) -> str:
        generator = self._generator
        return "" if generator is None else bytes(generator.get_state().tolist()).hex()


def _load_late(caller: FrameType) -> None:
    """Have Lightning load a loader's state that it has read from a checkpoint and not loaded.

    It loads states only while it sets up the loaders. If configure_optimizers asks for
    estimated_stepping_batches, it does that before it reads the checkpoint, and the epoch would
    silently begin anew. It hands nothing to the loader, so its loop is found on the stack.
    """
    loop = caller.f_back and caller.f_back.f_locals.get("self")
    load = getattr(loop, "_load_combined_loader_states", None)
    if load is not None:
        load()


class _Epochs(Protocol):
    """The methods of a loader that `BatchIndices` calls."""

    @property
    def epoch(self) -> int: ...
    @epoch.setter
    def epoch(self, epoch: int) -> None: ...
    def __len__(self) -> int: ...
    def set_epoch(self, epoch: int) -> None: ...


class BatchIndices:
    """The batches of a loader's epochs as lists of indices; each ``iter()`` is an epoch."""

    def __init__(self, loader: _Epochs, draw: Callable[[], list[Indices]]) -> None:
        self._loader, self._draw = loader, draw
        self.sampler = self  # where Lightning looks for set_epoch

    def __len__(self) -> int:
        return len(self._loader)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, as the loader's method does; Lightning calls this before each."""
        _load_late(sys._getframe(1))
        self._loader.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._draw():
            yield batch.tolist()
        self._loader.epoch += 1
