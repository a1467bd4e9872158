"""`FrameDataset`: a split of a store as a torch Dataset."""

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
from eventdata.store.read import SplitReader, open_store

# The first operators that torch runs, without Python's lock, look at the processor and for their
# kernels under locks of their own: a child forked meanwhile by another thread would wait for those
# for ever. So they run here, once: what datasets, loaders and torch's collation call in threads.
torch.stack(torch.arange(2).to(torch.float32).view(torch.int32).unbind())


class FrameDataset(Dataset[tuple[Any, Any]]):
    """The valid samples of one split: ``ds[i] -> (uint8 tensor (T, P, H, W), int label)``.

    Binary frames hold 0 and 1, count frames counts; of a store of still images a sample is
    (C, H, W). Counts that are stored as uint16, for which torch has few operators, come as int32.
    Channel 0 is positive. ``transform`` and ``target_transform`` get the tensor and the label of
    each sample.

    It pickles, works in DataLoader workers by fork (also after the parent has read) and by spawn,
    and threads may share it. Batches are read by one call of ``__getitems__``, which torch's
    DataLoader uses by itself; with ``collate_fn=eventdata.collate`` it does not copy them again.

    Raises StoreError where there is no store, it is incomplete or damaged; OptionError for a
    split that it does not have.
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
        self._reader = self._split.reader()
        self._indices = np.flatnonzero(self._split.valid)
        self.transform = transform
        self.target_transform = target_transform
        self.split = split
        self.attrs: dict[str, Any] = asdict(opened.header)
        self.classes: list[str] = list(opened.header.classes)
        self.labels: NDArray[np.int64] = self._split.labels[self._indices].astype(np.int64)

    @property
    def sample_format(self) -> SampleFormat:
        """Shape and type of a stored sample."""
        return self._split.sample

    @property
    def names(self) -> list[str]:
        """Name of each sample, as its raw file is called."""
        return list(self._split.sample_names[self._indices])

    @property
    def event_counts(self) -> NDArray[np.uint32]:
        """Events in the frames of each sample."""
        return self._split.event_counts[self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Any]]:
        """Samples of several indices; their tensors are views of one."""
        sample = self._split.sample
        places = [self._place(index) for index in indices]
        stored = self._indices[places].tolist()
        reader = self._reader.fetch(stored)
        packed = np.empty(sample.packed_shape, sample.dtype)
        dtype = "int32" if sample.dtype == "uint16" else sample.dtype
        batch = np.empty((len(stored), *_dense_shape(sample)), dtype)
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
        """Some samples as a dataset of their own, which shares all else with this one.

        indices: integers (M,) in the order wanted, repeats allowed, or bool (N,), true for those
        to keep. IndexError where one is outside, or where they are not a list.
        """
        if np.ndim(indices) != 1:
            raise IndexError(f"a subset is of a list of indices, not of {indices!r:.80}")
        chosen = np.arange(len(self))[np.asarray(indices) if np.size(indices) else []]
        part = copy.copy(self)
        part._indices, part.labels = self._indices[chosen], self.labels[chosen]
        return part

    @property
    def shards(self) -> NDArray[np.int64]:
        """The shard in which each sample lies."""
        return self._indices // self._split.shard_size

    @property
    def reader(self) -> SplitReader:
        """Reads samples packed, as they are stored, by their number in `stored`."""
        return self._reader

    @property
    def stored(self) -> NDArray[np.int64]:
        """The number in the store's split of each sample."""
        return self._indices

    def packed(self, index: int) -> NDArray[Any]:
        """One sample as it is stored, (K, H, W, P); see `eventdata.store.layout.SampleFormat`."""
        sample = self._split.sample
        out = np.empty(sample.packed_shape, sample.dtype)
        self._reader.read(int(self._indices[self._place(index)]), out)
        return out

    def _place(self, index: int) -> int:
        try:
            place = operator.index(index)
        except (TypeError, ValueError):
            raise TypeError(
                f"an index is a whole number, not {index!r:.80}; several: ds.subset(indices)"
            ) from None
        if not -len(self) <= place < len(self):
            raise IndexError(f"sample {place} of {len(self)}")
        return place

    def __repr__(self) -> str:
        shape = "x".join(map(str, _dense_shape(self._split.sample)))
        kind = self._split.sample.representation
        return (
            f"FrameDataset({self._split.files.where!r}, {self.split!r}: {len(self):,} samples "
            f"of {shape}, {kind}, {len(self.classes)} classes)"
        )


def collate(samples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Samples of one ``__getitems__`` as a batch: DataLoader's ``collate_fn``, without a copy.

    Frames (N, T, P, H, W) and labels int64 (N,), as torch's default_collate makes them of a copy,
    which takes longer than to read them. So does this what transforms have changed.
    """
    frames, labels = zip(*samples, strict=True)
    batch = getattr(frames[0], "_base", None)  # `__getitems__` gives views of one tensor, in order
    whole = (
        batch is not None
        and batch.shape[:1] == (len(frames),)  # a transform may give views of anything
        and list(map(_memory, frames)) == list(map(_memory, batch))
    )
    return batch if whole else default_collate(list(frames)), default_collate(list(labels))


def _memory(one: Any) -> Any:
    """Where a tensor lies and how it is read; itself where it is none."""
    if not isinstance(one, torch.Tensor):
        return one
    return one.data_ptr(), one.dtype, one.shape, one.stride()


def _dense_shape(sample: SampleFormat) -> tuple[int, ...]:
    """(T, P, H, W), or (C, H, W) of images."""
    shape = (sample.channels, sample.height, sample.width)
    return shape if sample.steps is None else (sample.steps, *shape)


def _make_dense(sample: SampleFormat, packed: NDArray[Any], out: NDArray[Any]) -> None:
    """A stored sample (K, H, W, P) as frames (T, P, H, W) or an image (C, H, W)."""
    if sample.representation == "binary":
        unpack(packed, out)
    else:
        out[:] = np.moveaxis(packed, -1, 1).reshape(out.shape)
