"""Parts of a store: what is trained on, selected by, tested on; and the batches of an epoch.

Legend: N samples, T steps, P polarities, C channels, H rows, W columns; K bytes of eight steps each
(of counts: steps, of images: one).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eventdata.dataset import FrameDataset
from eventdata.errors import InputError, OptionError
from eventdata.loader import FrameLoader, make_dense
from eventdata.store.layout import SampleFormat
from eventdata.store.read import open_store
from train.splits import hold_out, sample_keys, whole_keys

KeyRule = Callable[[Sequence[str], Sequence[str]], list[str]]


def keys_of(part: FrameDataset, rule: KeyRule = sample_keys) -> list[str]:
    """By sample, what is kept together (`train.splits.sample_keys`)."""
    return rule(part.names, _classes_of(part))


def _classes_of(part: FrameDataset) -> list[str]:
    """By sample, the name of its class."""
    return [part.classes[label] for label in part.labels]


JOIN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "binary": torch.bitwise_or,
    "count": torch.maximum,
    "image": torch.add,
}


def downscale(packed: Tensor, factor: int, sample: SampleFormat) -> Tensor:
    """A batch as stored (N, K, H, W, P) with rows and columns divided by a factor.

    Frames by their maximum (of packed bits, all eight steps at once), images by their mean,
    rounded. What is left over at the ends is dropped.
    """
    x = packed if sample.representation == "binary" else packed.int()  # has all that uint16 lacks
    for axis in (2, 3):
        length = x.shape[axis] // factor
        whole = x.narrow(axis, 0, length * factor)
        tiles = whole.reshape(*x.shape[:axis], length, factor, *x.shape[axis + 1 :])
        x = reduce(JOIN[sample.representation], tiles.unbind(axis + 1))
    return (x / factor**2).round() if sample.representation == "image" else x


@dataclass(kw_only=True)
class Epoch:
    """The batches of one epoch on one device: frames (N, T, P, H, W) or images (N, C, H, W), labels
    int64 (N,). Frames and images are uint8, counts that need more float32.

    Training batches are all whole; what is left over at the end is left out, another part each
    epoch. Evaluation has every sample once, in order. (A loader that keeps no state: the Trainer
    would save and load that of a FrameLoader in places of its own.)
    """

    part: FrameDataset
    batch_size: int
    """On this device."""
    steps: int | None = None
    """Frames: only the first so many steps; None: all."""
    downscale: int = 1
    """Rows and columns are divided by it."""
    shuffle_by: tuple[int, int] | None = None
    """Seed and epoch; None for evaluation."""
    multiple: int = 1
    """Training: the number of batches is one of this (gradients of so many make a step)."""
    rank: int = 0
    devices: int = 1
    threads: int = 1
    device: torch.device | str = "cpu"
    waited: float = field(default=0.0, init=False)
    """Seconds that whoever took the batches has waited for them."""

    def _loader(self) -> FrameLoader:
        training = self.shuffle_by is not None
        seed, epoch = self.shuffle_by or (0, 0)
        wide = self.part.sample_format.dtype != "uint8"
        loader = FrameLoader(
            self.part,
            self.batch_size,
            shuffle=training,
            drop_last=training,
            seed=seed,
            rank=self.rank,
            world_size=self.devices,
            threads=self.threads,
            device=self.device,
            layout="NTPHW" if self.downscale == 1 else "packed",
            dtype=torch.float32 if wide and self.downscale == 1 else torch.uint8,
            transform=self._cut if self.downscale == 1 else self._shrink,
        )
        loader.epoch = epoch
        return loader

    def _cut(self, batch: Tensor) -> Tensor:
        return batch[:, : self.steps] if batch.ndim == 5 else batch

    def _shrink(self, packed: Tensor) -> Tensor:
        """Where pixels are joined, before they are unpacked: that is an eighth of the work."""
        sample = self.part.sample_format
        steps = sample.steps if self.steps is None else self.steps
        if sample.steps is not None and steps is not None:
            packed = packed[:, : -(-steps // 8) if sample.representation == "binary" else steps]
            sample = replace(sample, steps=steps)
        dtype = torch.uint8 if sample.dtype == "uint8" else torch.float32
        return make_dense(downscale(packed, self.downscale, sample), sample, dtype, "NTPHW")

    def __len__(self) -> int:
        return len(self._loader()) // self.multiple * self.multiple

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = islice(self._loader(), len(self))
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch
            del batch  # or its buffer would wait for the next one


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a stage trains on, selects by and is tested on."""

    train: FrameDataset
    select: FrameDataset
    """Held out of the training set; in the published protocol the test set."""
    test: FrameDataset | None
    held: frozenset[str]
    """Keys of the samples held out of the training set (`train.splits.sample_keys`)."""
    others: dict[str, frozenset[str]]
    """Keys of the splits val and test, where the store has them."""

    @property
    def classes(self) -> list[str]:
        """Their names, by label."""
        return self.train.classes

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample: (T, P, H, W) or (C, H, W)."""
        sample = self.train.sample_format
        last = (sample.channels, sample.height, sample.width)
        return last if sample.steps is None else (sample.steps, *last)


def open_data(
    store: str,
    *,
    share: float,
    seed: int,
    later: Data | None = None,
    published: bool = False,
) -> Data:
    """The parts of a store.

    Trained on is the split `train`; the test set is the split `test`, else `val`. Models are
    selected on the split `val` where both are there, else on a share of each class held out of the
    training set (`train.splits.hold_out`). later: the data that the network goes on to, of whose
    samples none that select or test it there is trained on here: those held out, and those of a
    split that this store does not have (it may have put them into its split train). `published`:
    nothing is held out and the test set selects.

    Raises:
        InputError: fewer than two classes, or nothing to train on or select by.
        OptionError: no split train; in the published protocol, no test set.
    """
    splits = open_store(store).splits
    if "train" not in splits:
        raise OptionError(
            f"{store}: has no split train (there are: {', '.join(splits) or 'none'}); for clips "
            "convert with --splits and --fold"
        )
    tests: list[str] = [name for name in ("test", "val") if name in splits]
    test = _checked(store, tests[0]) if tests else None
    samples = _checked(store, "train")
    keys = keys_of(samples)
    if published:
        if test is None:
            raise OptionError(f"{store}: has no test set, by which the published protocol selects")
        held, select = frozenset[str](), test
    elif len(tests) == 2:
        held, select = frozenset[str](), _checked(store, "val")
    else:
        classes = _classes_of(samples)
        held = hold_out(keys, classes, share, seed)
        if not held:  # one key a class
            keys = keys_of(samples, whole_keys)
            held = hold_out(keys, classes, share, seed)
        select = samples.subset(_among(keys, held))
    also = frozenset[str]()
    if later is not None and not published:
        also = later.held.union(*(keys for name, keys in later.others.items() if name not in tests))
    train = samples.subset(~_among(keys, held | also))
    if not len(train) or not len(select):
        raise InputError(f"{store}: too few samples to train on some and select by others")
    others = {name: frozenset(keys_of(_checked(store, name))) for name in tests}
    return Data(train=train, select=select, test=test, held=held, others=others)


def _among(keys: list[str], chosen: frozenset[str]) -> NDArray[np.bool_]:
    return np.array([key in chosen for key in keys], np.bool_)


def _checked(store: str, split: str) -> FrameDataset:
    """All of a split, its labels checked."""
    part = FrameDataset(store, split)
    classes = len(part.classes)
    if classes < 2:
        raise InputError(f"{store}: has {classes} classes; a classifier needs at least two")
    if len(part) and not 0 <= part.labels.min() <= part.labels.max() < classes:
        raise InputError(
            f"{store}: split {split} has labels from {part.labels.min()} to {part.labels.max()}, "
            f"the store names {classes} classes; convert it again"
        )
    return part
