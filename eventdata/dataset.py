"""`FrameDataset`: a split of a store as a torch Dataset.

Shapes: N samples, T steps, K planes as stored (binary frames: ceil(T/8) time bytes), P polarities,
C colour channels, H rows, W columns.
"""

import copy
import operator
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Dataset, default_collate

from eventdata.kernels.packing import unpack
from eventdata.store.layout import SampleFormat
from eventdata.store.read import open_store

# The first operators that torch runs take locks, outside Python's. A child forked meanwhile by
# another thread would wait for those forever. So what datasets, loaders and collation call in
# threads runs here once.
torch.stack(torch.arange(2).to(torch.float32).view(torch.int32).unbind())


class FrameDataset(Dataset[tuple[Any, Any]]):
    """The valid samples of one split: ``ds[i] -> (tensor (T, P, H, W), int label)``.

    Tensors are uint8, int32 for counts stored as uint16, for which torch has few operators, or
    float16 for voxel grids and time surfaces. Binary frames hold 0 and 1. Channel 0 is positive.
    Still images are (C, H, W).

    It can be pickled, shared by threads, and used in DataLoader workers by spawn and fork, even if
    the parent has read before. DataLoader reads each batch by one call of ``__getitems__``; pass it
    ``collate_fn=eventdata.collate`` to avoid another copy of the batch.

    Args:
        store: path or URL.
        transform: a function that is applied to the tensor of each sample.
        target_transform: a function that is applied to the label of each sample.

    Raises:
        StoreError: there is no store, or it is incomplete or damaged.
        OptionError: the store has no such split.
    """

    def __init__(
        self,
        store: str | os.PathLike[str],
        split: str = "train",
        *,
        transform: Callable[[torch.Tensor], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
    ) -> None:
        opened = open_store(store)
        self._split = opened.split(split)
        self.reader = self._split.reader()
        self.stored: NDArray[np.int64] = np.flatnonzero(self._split.valid)
        self.transform = transform
        self.target_transform = target_transform
        self.split = split
        self.attrs: dict[str, Any] = asdict(opened.header)
        self.classes: list[str] = list(opened.header.classes)
        self.labels: NDArray[np.int64] = self._split.labels[self.stored].astype(np.int64)

    @property
    def sample_format(self) -> SampleFormat:
        """The shape and type of a stored sample."""
        return self._split.sample

    @property
    def names(self) -> list[str]:
        """The name of each sample's raw file."""
        return list(self._split.sample_names[self.stored])

    @property
    def event_counts(self) -> NDArray[np.uint32]:
        """The number of events in the frames of each sample (N,)."""
        return self._split.event_counts[self.stored]

    @property
    def shards(self) -> NDArray[np.int64]:
        """The shard in which each sample lies (N,)."""
        return self.stored // self._split.shard_size

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Any]]:
        """Return several samples, whose tensors are views of one."""
        sample = self._split.sample
        places = [self._place(index) for index in indices]
        stored = self.stored[places].tolist()
        reader = self.reader.fetch(stored)
        packed = np.empty(sample.packed_shape, sample.dtype)
        dtype = "int32" if sample.dtype == "uint16" else sample.dtype
        batch = np.empty((len(stored), *sample.dense_shape), dtype)
        for slot, index in enumerate(stored):
            reader.read(index, packed)
            _make_dense(sample, packed, batch[slot])
        frames: Sequence[Any] = torch.from_numpy(batch).unbind()
        labels: Sequence[Any] = self.labels[places].tolist()
        if self.transform is not None:
            frames = [self.transform(tensor) for tensor in frames]
        if self.target_transform is not None:
            labels = [self.target_transform(label) for label in labels]
        return list(zip(frames, labels, strict=True))

    def subset(self, indices: ArrayLike) -> Self:
        """Return a dataset of some samples, which shares everything else with this one.

        Args:
            indices: integers (M,) in the order wanted, repeats allowed; or bool (N,), true for the
                samples to keep.

        Raises:
            IndexError: an index is out of range, or ``indices`` is not a list.
        """
        if np.ndim(indices) != 1:
            raise IndexError(f"subset needs a list of indices, not {indices!r:.80}")
        chosen = np.arange(len(self))[np.asarray(indices) if np.size(indices) else []]
        part = copy.copy(self)
        part.stored, part.labels = self.stored[chosen], self.labels[chosen]
        return part

    def packed(self, index: int) -> NDArray[Any]:
        """Return a sample as stored, (K, H, W, P); see `eventdata.store.layout.SampleFormat`."""
        sample = self._split.sample
        out = np.empty(sample.packed_shape, sample.dtype)
        self.reader.read(int(self.stored[self._place(index)]), out)
        return out

    def _place(self, index: int) -> int:
        try:
            place = operator.index(index)
        except (TypeError, ValueError):
            raise TypeError(
                f"an index is a whole number, not {index!r:.80}; for several use ds.subset(indices)"
            ) from None
        if not -len(self) <= place < len(self):
            raise IndexError(f"index {place} is out of range: the dataset has {len(self)} samples")
        return place

    def __repr__(self) -> str:
        shape = "x".join(map(str, self._split.sample.dense_shape))
        kind = self._split.sample.representation
        return (
            f"FrameDataset({self._split.files.where!r}, {self.split!r}: {len(self):,} samples "
            f"of {shape}, {kind}, {len(self.classes)} classes)"
        )


def collate(samples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Return the samples of one ``__getitems__`` as a batch; a ``collate_fn`` for DataLoader.

    Frames are (N, T, P, H, W) and labels int64 (N,), equal to those of torch's default_collate.
    That copies the batch, which takes longer than reading it; this copies only what transforms
    have changed.
    """
    frames, labels = zip(*samples, strict=True)
    batch = getattr(frames[0], "_base", None)  # `__getitems__` returns views of one tensor
    whole = (
        batch is not None
        and batch.shape[:1] == (len(frames),)  # a transform may return other views
        and list(map(_memory, frames)) == list(map(_memory, batch))
    )
    return batch if whole else default_collate(list(frames)), default_collate(list(labels))


def _memory(one: Any) -> Any:
    """Return where a tensor lies and how it is read; other values as they are."""
    if not isinstance(one, torch.Tensor):
        return one
    return one.data_ptr(), one.dtype, one.shape, one.stride()


def _make_dense(sample: SampleFormat, packed: NDArray[Any], out: NDArray[Any]) -> None:
    """Fill frames (T, P, H, W) or an image (C, H, W) from a stored sample (K, H, W, P)."""
    if sample.is_packed:
        unpack(packed, out)
    else:
        out[:] = np.moveaxis(packed, -1, 1).reshape(out.shape)
