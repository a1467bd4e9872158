"""`FrameDataset`: a split of a store as a torch Dataset.

Shapes: N samples, T steps, K planes as stored (binary frames: ceil(T/8) time bytes), P polarities,
C colour channels, H rows, W columns.
"""

import contextlib
import copy
import operator
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike, NDArray
from torch.utils.data import ConcatDataset, Dataset, Subset, default_collate

from eventdata.batches import BITS, BufferPool, Decoding, holds
from eventdata.errors import OptionError
from eventdata.kernels.framing import Framing
from eventdata.settings import options_of
from eventdata.store.joined import JoinedSplits
from eventdata.store.layout import SampleFormat
from eventdata.store.read import AnySplit, OrderedReader, open_store

# The first operators that torch runs take locks, outside Python's. A child forked meanwhile by
# another thread would wait for those forever. So what datasets, loaders and collation call in
# threads runs here once.
torch.stack(torch.arange(2).to(torch.float32).view(torch.int32).unbind())

SampleLayout = Literal["TPHW", "PTHW"]
FRAMING_KEYS = (*(option.name for option in options_of(Framing)), "transform", "every")


class FrameDataset(Dataset[tuple[Any, Any]]):
    """The valid samples of one split: ``ds[i] -> (tensor (T, P, H, W), int label)``.

    Binary frames hold 0 and 1. Channel 0 is positive. Still images are (C, H, W).

    It can be pickled, shared by threads, and used in DataLoader workers by spawn and fork, even if
    the parent has read before. DataLoader reads each batch by one call of ``__getitems__``; pass it
    ``collate_fn=eventdata.collate`` to avoid another copy of the batch. Memory is used again once
    no tensor refers to it.

    Args:
        store: path, zip file (Zarr's ZipStore) or URL.
        split: by default ``train``, or the only split.
        dtype: uint8, int32, float16, bfloat16 or float32 of torch, for tensors, or of NumPy, for
            arrays. By default uint8, int32 for counts stored as uint16, or float16 for voxel grids
            and time surfaces.
        layout: "TPHW", or "PTHW" for 3D convolutions.
        transform: a function that is applied to the tensor or array of each sample. Those of Tonic
            get an array in any case.
        target_transform: a function that is applied to the label of each sample.

    Raises:
        StoreError: there is no store, or it is incomplete or damaged.
        OptionError: the store has no such split, or an option is invalid.
    """

    def __init__(
        self,
        store: str | os.PathLike[str],
        split: str | None = None,
        *,
        dtype: torch.dtype | DTypeLike | None = None,
        layout: SampleLayout = "TPHW",
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
    ) -> None:
        opened = open_store(store)
        self.split = opened.default_split if split is None else split
        part = opened.split(self.split)
        self._split: AnySplit = part
        self.reader: OrderedReader = part.reader()
        self.stored: NDArray[np.int64] = np.flatnonzero(part.valid)
        self.transform = transform
        self.target_transform = target_transform
        self.attrs: dict[str, Any] = asdict(opened.header)
        self.classes: list[str] = list(opened.header.classes)
        self.labels: NDArray[np.int64] = part.labels[self.stored].astype(np.int64)
        if layout not in get_args(SampleLayout):
            raise OptionError(f"layout must be TPHW or PTHW, not {layout!r}")
        self.layout = layout
        self.dtype = _checked_dtype(dtype, part.sample)
        self.as_numpy = dtype is not None and not isinstance(dtype, torch.dtype)
        self._decode = Decoding(part.sample, self.dtype, "NTPHW", dense=True)
        self._buffers = BufferPool(0, keep=2, pinned=False)

    @property
    def targets(self) -> list[int]:
        """The label of each sample, under the name of torchvision and SpikingJelly."""
        found: list[int] = self.labels.tolist()
        return found

    @property
    def class_to_idx(self) -> dict[str, int]:
        """The label of each class."""
        return {name: label for label, name in enumerate(self.classes)}

    @property
    def class_counts(self) -> dict[str, int]:
        """The number of samples of each class, in the order of labels."""
        counts = np.bincount(self.labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, counts, strict=True))

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
        return self._split.shards(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: int | slice) -> Any:
        """Return a sample and its label, or the dataset of a slice."""
        if isinstance(index, slice):
            return self.subset(range(*index.indices(len(self))))
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Any]]:
        """Return several samples, whose tensors are views of one."""
        places = [self._place(index) for index in indices]
        stored = self.stored[places].tolist()
        batch = self._buffers.take(self._decode.shape(len(stored)), self._decode.dtype)
        self._decode.fill(batch, slice(0, len(stored)), self.reader, stored)
        frames: Sequence[Any] = torch.from_numpy(batch).view(self.dtype).unbind()
        if self.layout == "PTHW" and self.sample_format.steps is not None:
            frames = [tensor.transpose(0, 1) for tensor in frames]
        if self.as_numpy or _is_tonic(self.transform):
            frames = [tensor.numpy() for tensor in frames]
        labels: Sequence[Any] = self.labels[places].tolist()
        if self.transform is not None:
            frames = [self.transform(one) for one in frames]
            if not self.as_numpy:
                frames = [torch.from_numpy(f) if isinstance(f, np.ndarray) else f for f in frames]
        if self.target_transform is not None:
            labels = [self.target_transform(label) for label in labels]
        return list(zip(frames, labels, strict=True))

    def __add__(self, other: Any) -> Any:
        """Return both datasets as one; see `concat`."""
        return concat([self, other]) if isinstance(other, FrameDataset) else super().__add__(other)

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

    def select(self, classes: Sequence[str]) -> Self:
        """Return the samples of some classes, labelled 0, 1, ... in the order given.

        Raises:
            OptionError: a name is not a class of the dataset, or appears twice.
        """
        known = self.class_to_idx
        names = [classes] if isinstance(classes, str) else list(classes)
        for name in names:
            if name not in known:
                shown = ", ".join(self.classes[:10]) + (", ..." if len(known) > 10 else "")
                raise OptionError(f"no class {name!r}; choose from {shown}")
        if len(set(names)) < len(names):
            raise OptionError(f"a class appears twice in {', '.join(names)}; name each once")
        labels = np.full(len(known), -1, np.int64)
        labels[[known[name] for name in names]] = np.arange(len(names))
        part = self.subset(labels[self.labels] >= 0)
        return part._relabelled(names, labels[part.labels])

    def _relabelled(self, classes: list[str], labels: NDArray[np.int64]) -> Self:
        part = copy.copy(self)
        part.classes, part.labels = classes, labels
        part.attrs = {**self.attrs, "classes": list(classes)}
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
            f"FrameDataset({self._split.where!r}, {self.split!r}: {len(self):,} samples "
            f"of {shape}, {kind}, {len(self.classes)} classes)"
        )


def concat(datasets: Sequence[FrameDataset]) -> FrameDataset:
    """Return several datasets as one, in their order, with classes united by name.

    Labels follow the first dataset's classes, then the new ones of the others. ``attrs`` are those
    of the first.

    Raises:
        OptionError: there is no dataset, or they differ in the shape of their samples, in how their
            frames were made, in dtype, layout or transforms.
    """
    if not datasets or not all(isinstance(one, FrameDataset) for one in datasets):
        raise OptionError("concat needs a list of FrameDatasets")
    first = datasets[0]
    for other in datasets[1:]:
        for what, ours, theirs in zip(_KIND, _kind_of(first), _kind_of(other), strict=True):
            if ours != theirs:
                raise OptionError(
                    f"{other._split.where}: {what} is {theirs}, but {ours} in "
                    f"{first._split.where}; convert both in the same manner"
                )
    names = list(dict.fromkeys(name for one in datasets for name in one.classes))
    labels = {name: label for label, name in enumerate(names)}
    joined = copy.copy(first)
    splits = JoinedSplits([one._split for one in datasets])
    joined._split, joined.reader = splits, splits.reader()
    joined.split = "+".join(dict.fromkeys(one.split for one in datasets))
    starts = zip(datasets, splits.starts, strict=False)
    joined.stored = np.concatenate([one.stored + start for one, start in starts])
    new = [np.array([labels[name] for name in one.classes], np.int64) for one in datasets]
    found = [table[one.labels] for table, one in zip(new, datasets, strict=True)]
    return joined._relabelled(names, np.concatenate(found))


_KIND = ("the format of samples", "framing", "dtype", "layout", "transform", "target_transform")


def frames_of(dataset: Any) -> FrameDataset:
    """Return a dataset, or torch's Subset or ConcatDataset of such, as one `FrameDataset`."""
    if isinstance(dataset, FrameDataset):
        return dataset
    if isinstance(dataset, Subset):
        return frames_of(dataset.dataset).subset(list(dataset.indices))
    if isinstance(dataset, ConcatDataset):
        return concat([frames_of(one) for one in dataset.datasets])
    raise OptionError(
        f"FrameLoader reads a FrameDataset, not a {type(dataset).__name__}; to read a part of one, "
        "pass dataset.subset(indices)"
    )


def _kind_of(dataset: FrameDataset) -> tuple[Any, ...]:
    """Return what must be equal in datasets that are read as one; see `_KIND`."""
    parameters = dataset.attrs["parameters"]
    framing = {key: parameters[key] for key in FRAMING_KEYS if parameters.get(key) is not None}
    return (
        dataset.sample_format,
        framing,
        dataset.dtype,
        dataset.layout,
        dataset.transform,
        dataset.target_transform,
    )


def _is_tonic(transform: Any) -> bool:
    """Return whether a transform is Tonic's, which need arrays."""
    return type(transform).__module__.partition(".")[0] == "tonic"


def _checked_dtype(dtype: torch.dtype | DTypeLike | None, sample: SampleFormat) -> torch.dtype:
    """Return the type of a dataset's tensors."""
    if dtype is None:
        return _DEFAULT_TYPES[sample.dtype]
    found: Any = dtype
    if not isinstance(dtype, torch.dtype):
        with contextlib.suppress(TypeError):
            found = _TORCH_TYPES.get(np.dtype(dtype).name)
    if not isinstance(found, torch.dtype) or found not in BITS:
        raise OptionError(f"dtype must be one of {', '.join(map(str, BITS))}, not {dtype!r}")
    if not holds(found, sample.dtype):
        raise OptionError(
            f"the store's values are {sample.dtype}, which {found} does not hold; pass "
            f"dtype={_DEFAULT_TYPES[sample.dtype]} or torch.float32"
        )
    return found


# Of tensors, by the type of stored values; torch has few operators for uint16.
_DEFAULT_TYPES = {"uint8": torch.uint8, "uint16": torch.int32, "float16": torch.float16}
_TORCH_TYPES = {str(kind).removeprefix("torch."): kind for kind in BITS}


def collate(samples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Return the samples of one ``__getitems__`` as a batch; a ``collate_fn`` for DataLoader.

    Frames are (N, T, P, H, W) and labels int64 (N,), equal to those of torch's default_collate.
    That copies the batch, which takes longer than reading it; this copies only what transforms
    have changed.
    """
    frames, labels = zip(*samples, strict=True)
    batch = getattr(frames[0], "_base", None)  # `__getitems__` returns views of one tensor
    if batch is not None and batch.dtype == BITS.get(frames[0].dtype):
        batch = batch.view(frames[0].dtype)
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
