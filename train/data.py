"""Parts of a store: what is trained on, selected by, tested on; and the batches of an epoch.

Legend: N samples, T steps, P polarities, C channels, H rows, W columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eventdata.dataset import FrameDataset
from eventdata.errors import InputError, OptionError
from eventdata.loader import FrameLoader
from eventdata.store.read import open_store
from train.splits import hold_out, sample_keys


class Part(FrameDataset):
    """Some samples of a split, as a dataset of its own."""

    def __init__(self, store: str, split: str, chosen: NDArray[np.bool_] | None = None) -> None:
        """`chosen`: by sample of the split; None: all."""
        super().__init__(store, split)
        if chosen is not None:
            self._indices = self._indices[chosen]
            self.labels = self.labels[chosen]

    @property
    def keys(self) -> list[str]:
        """By sample, what is kept together (`train.splits.sample_keys`)."""
        return sample_keys(self.names, [self.classes[label] for label in self.labels])


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The batches of one epoch on one device: uint8 (N, T, P, H, W) or (N, C, H, W), int64 (N,).

    Training batches are all whole; what is left over at the end is left out, another part each
    epoch. Evaluation has every sample once, in order. (A loader that keeps no state: the Trainer
    would save and load that of a FrameLoader in places of its own.)
    """

    part: Part
    batch_size: int
    """On this device."""
    shuffle_by: tuple[int, int] | None = None
    """Seed and epoch; None for evaluation."""
    multiple: int = 1
    """Training: the number of batches is one of this (gradients of so many make a step)."""
    rank: int = 0
    devices: int = 1
    threads: int = 1
    device: torch.device | str = "cpu"

    def _loader(self) -> FrameLoader:
        training = self.shuffle_by is not None
        seed, epoch = self.shuffle_by or (0, 0)
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
        )
        loader.epoch = epoch
        return loader

    def __len__(self) -> int:
        return len(self._loader()) // self.multiple * self.multiple

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return islice(self._loader(), len(self))


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a stage trains on, selects by and is tested on."""

    train: Part
    select: Part
    """Held out of the training set; in the published protocol the test set."""
    test: Part | None
    held: frozenset[str]
    """Keys of the samples held out of the training set (`train.splits.sample_keys`)."""

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
    also: frozenset[str] = frozenset(),
    published: bool = False,
) -> Data:
    """The parts of a store.

    Trained on is the split `train`; the test set is the split `test`, else `val`. Models are
    selected on the split `val` where both are there, else on a share of each class held out of the
    training set (`train.splits.hold_out`). What has a key in `also` is not trained on either: a
    network must not be pretrained on the pictures that select it later. `published`: nothing is
    held out and the test set selects.

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
    tests = [name for name in ("test", "val") if name in splits]
    test = _checked(store, tests[0]) if tests else None
    keys = _checked(store, "train").keys
    if published:
        if test is None:
            raise OptionError(f"{store}: has no test set, by which the published protocol selects")
        held, select = frozenset[str](), test
    elif len(tests) == 2:
        held, select = frozenset[str](), _checked(store, "val")
    else:
        held = hold_out(keys, share, seed)
        select = Part(store, "train", _among(keys, held))
    train = Part(store, "train", ~_among(keys, held | also))
    if not len(train) or not len(select):
        raise InputError(f"{store}: too few samples to train on some and select by others")
    return Data(train=train, select=select, test=test, held=held)


def _among(keys: list[str], chosen: frozenset[str]) -> NDArray[np.bool_]:
    return np.array([key in chosen for key in keys], np.bool_)


def _checked(store: str, split: str) -> Part:
    """All of a split, its labels checked."""
    part = Part(store, split)
    classes = len(part.classes)
    if classes < 2:
        raise InputError(f"{store}: has {classes} classes; a classifier needs at least two")
    if len(part) and not 0 <= part.labels.min() <= part.labels.max() < classes:
        raise InputError(
            f"{store}: split {split} has labels from {part.labels.min()} to {part.labels.max()}, "
            f"the store names {classes} classes; convert it again"
        )
    return part
