"""The parts of a store for training, selection and testing, and the batches of an epoch.

Legend: N samples, T steps, P polarities, C channels, H rows, W columns; K bytes of eight steps
(counts: K = T, images: K = 1).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eventdata.batches import make_dense
from eventdata.dataset import FrameDataset
from eventdata.errors import InputError, OptionError
from eventdata.kernels.representations import REPRESENTATIONS
from eventdata.loader import FrameLoader
from eventdata.store.layout import SampleFormat
from eventdata.store.read import open_store
from train.align import Shifts, align, shifts_of
from train.splits import draw, sample_keys

PURPOSES = {"train": "train on", "select": "select models by", "test": "test on"}
"""The purpose of each part of a store."""


def keys_of(part: FrameDataset) -> list[str]:
    """Return a key for each sample (`train.splits.sample_keys`)."""
    return sample_keys(part.names, _classes_of(part))


def _classes_of(part: FrameDataset) -> list[str]:
    """Return the class name of each sample."""
    return [part.classes[label] for label in part.labels]


JOIN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "or": torch.bitwise_or,
    "max": torch.maximum,
    "sum": torch.add,
}
"""The functions that make one cell of two, by `Representation.pooling`."""


def downscale(packed: Tensor, factor: int, sample: SampleFormat) -> Tensor:
    """Divide the rows and columns of a batch as stored, (N, K, H, W, P), by a factor.

    A pixel of frames becomes the maximum of those it replaces, their sum in voxel grids, a pixel of
    images their rounded mean. Rows and columns that remain are dropped. Packed bits are joined
    eight steps at a time.
    """
    pooling = REPRESENTATIONS[sample.representation].pooling if sample.is_events else "sum"
    x = packed
    if not sample.is_packed:  # uint16 has few operations, and sums may exceed float16
        x = packed.float() if packed.is_floating_point() else packed.int()
    for axis in (2, 3):
        length = x.shape[axis] // factor
        whole = x.narrow(axis, 0, length * factor)
        tiles = whole.reshape(*x.shape[:axis], length, factor, *x.shape[axis + 1 :])
        x = reduce(JOIN[pooling], tiles.unbind(axis + 1))
    return x if sample.is_events else (x / factor**2).round()


def unpack_batch(
    packed: Tensor,
    sample: SampleFormat,
    steps: int | None,
    factor: int,
    shifts: Shifts | None = None,
) -> Tensor:
    """Return packed samples (N, K, H, W, P) as a batch of an `Epoch` with these settings.

    They are aligned and downscaled while packed, which is an eighth of the work.
    """
    if shifts is not None:
        packed = align(packed, shifts)
    steps = sample.steps if steps is None else steps
    if sample.steps is not None and steps is not None:
        sample = replace(sample, steps=steps)
        packed = packed[:, : sample.planes]
    dtype = torch.uint8 if sample.dtype == "uint8" else torch.float32
    return make_dense(downscale(packed, factor, sample), sample, dtype, "NTPHW")


def balance(part: FrameDataset, seed: int, epoch: int) -> FrameDataset:
    """Return as many samples as a part has, equally many of each class that it has.

    Samples of rare classes are repeated, each equally often, and some of common classes are
    skipped, others in each epoch.
    """
    rng = np.random.default_rng([seed, epoch, 1])
    present = rng.permutation(np.unique(part.labels))
    chosen = []
    for place, label in enumerate(present):
        count = len(part) // len(present) + (place < len(part) % len(present))
        members = np.flatnonzero(part.labels == label)
        rounds = [rng.permutation(members) for _ in range(-(-count // len(members)))]
        chosen.append(np.concatenate(rounds)[:count])
    return part.subset(np.concatenate(chosen))


def epoch_steps(steps: int, share: float) -> int:
    """Return the steps in a share of an epoch, at least one of them."""
    return steps if share == 1 else max(1, min(steps, round(steps * share)))


@dataclass(kw_only=True)
class Epoch:
    """The batches of one epoch on one device: frames (N, T, P, H, W) or images (N, C, H, W), and
    labels int64 (N,).

    Frames and images are uint8, those that do not fit are float32. All training batches are whole:
    the samples that remain at the end are skipped, others in each epoch. Evaluation has every
    sample once, in order.

    This is a loader without state: Lightning would save and load the state of a FrameLoader at
    times of its own.
    """

    part: FrameDataset
    batch_size: int
    """Samples per batch on this device."""
    steps: int | None = None
    """Frames: the number of first steps to use; None: all."""
    downscale: int = 1
    """Divisor of rows and columns."""
    align: bool = False
    """Whether to align the steps of ODG's frames (`train.align`)."""
    shuffle_by: tuple[int, int] | None = None
    """Seed and epoch; None for evaluation."""
    balanced: bool = False
    """Training: draw equally many samples of each class."""
    multiple: int = 1
    """Training: the number of batches per optimiser step; an epoch has whole steps."""
    share: float = 1.0
    """Training: the share of the steps to take, at least one."""
    rank: int = 0
    devices: int = 1
    threads: int = 1
    device: torch.device | str = "cpu"
    waited: float = field(default=0.0, init=False)
    """Seconds spent waiting for batches."""

    def _loader(self) -> FrameLoader:
        training = self.shuffle_by is not None
        seed, epoch = self.shuffle_by or (0, 0)
        part = balance(self.part, seed, epoch) if training and self.balanced else self.part
        wide = self.part.sample_format.dtype != "uint8"
        as_stored = self.downscale > 1 or self.align
        loader = FrameLoader(
            part,
            self.batch_size,
            shuffle=training,
            drop_last=training,
            seed=seed,
            rank=self.rank,
            world_size=self.devices,
            threads=self.threads,
            device=self.device,
            layout="packed" if as_stored else "NTPHW",
            dtype=torch.float32 if wide and not as_stored else torch.uint8,
            transform=self._unpack if as_stored else self._cut,
        )
        loader.epoch = epoch
        return loader

    def _cut(self, batch: Tensor) -> Tensor:
        return batch[:, : self.steps] if batch.ndim == 5 else batch

    @cached_property
    def _shifts(self) -> Shifts | None:
        attrs = self.part.attrs
        if not self.align:
            return None
        return shifts_of(attrs["parameters"], self.part.sample_format, attrs["dataset"])

    def _unpack(self, packed: Tensor) -> Tensor:
        sample = self.part.sample_format
        return unpack_batch(packed, sample, self.steps, self.downscale, self._shifts)

    def __len__(self) -> int:
        return epoch_steps(len(self._loader()) // self.multiple, self.share) * self.multiple

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = islice(self._loader(), len(self))
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch
            del batch  # frees its buffer for the next one


@dataclass(frozen=True, kw_only=True)
class Data:
    """The samples that a stage trains on, selects models by and is tested on."""

    train: FrameDataset
    select: FrameDataset
    """Samples held out of the training set; in the published protocol the test set."""
    test: FrameDataset | None
    held: frozenset[str]
    """Keys of the samples drawn for selection and test (`train.splits.sample_keys`)."""
    others: dict[str, frozenset[str]]
    """Keys of the splits val and test, if the store has them."""
    drawn: tuple[str, ...] = ()
    """Which of `select` and `test` were drawn."""
    notes: tuple[str, ...] = ()
    """Remarks about the parts for the user."""

    @property
    def counts(self) -> dict[str, int]:
        """The number of samples in each part."""
        parts = {"train": self.train, "select": self.select, "test": self.test}
        return {name: len(part) for name, part in parts.items() if part is not None}

    def summary(self) -> str:
        """Return the number of samples for each purpose, and which of them were drawn."""
        return ", ".join(
            f"{count:,}{' samples' * (name == 'train')} to {PURPOSES[name]}"
            f"{' (drawn)' * (name in self.drawn)}"
            for name, count in self.counts.items()
        )

    @property
    def classes(self) -> list[str]:
        """Class names by label."""
        return self.train.classes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample: (T, P, H, W) or (C, H, W)."""
        sample = self.train.sample_format
        last = (sample.channels, sample.height, sample.width)
        return last if sample.steps is None else (sample.steps, *last)


def open_data(
    store: str,
    *,
    share: float,
    seed: int,
    test_share: float = 0.0,
    later: Data | None = None,
    published: bool = False,
) -> Data:
    """Open a store and divide its samples.

    The split `train`, or the only split, is for training, and the split `test`, or without it
    `val`, for testing. Without both, a share of each class is drawn for testing. With both `val`
    and `test`, models are selected on `val`; else on a share of each class held out of the training
    set (`train.splits.draw`).

    Args:
        store: path or URL.
        share, seed: those of `eventdata.raw.hold_out.hold_out`.
        test_share: share of each class that is drawn for testing, if no split is for it; 0: none.
        later: the data of a later stage. Samples that select or test the network there are not
            trained on here: those drawn, and those of splits that this store does not have,
            which it may have put into its split train.
        published: follow the published protocol: hold nothing out, select on the test set.

    Raises:
        InputError: the store has fewer than two classes or too few samples.
        OptionError: there are several splits but not train; or, in the published protocol, no test
            set.
    """
    splits = list(open_store(store).splits)
    if "train" not in splits and len(splits) != 1:
        raise OptionError(
            f"{store} has no split train, only {', '.join(splits) or 'an empty group'}; convert "
            "it again with a split train, or with one split"
        )
    main = "train" if "train" in splits else splits[0]
    others: dict[str, FrameDataset] = {
        name: _checked(store, name) for name in ("test", "val") if name in splits and name != main
    }
    test = next(iter(others.values()), None)
    samples = _checked(store, main)
    keys = keys_of(samples)
    drawn: dict[str, float] = {}
    held: dict[str, frozenset[str]] = {}
    notes = []
    if published:
        if test is None:
            raise OptionError(f"{store} has no test set, which the published protocol needs")
    else:
        drawn |= {"test": test_share} if test is None and test_share else {}
        drawn |= {"select": share} if len(others) < 2 else {}
    if drawn:
        classes = _classes_of(samples)
        keys, found, together = draw(samples.names, classes, list(drawn.values()), seed)
        held = dict(zip(drawn, found, strict=True))
        if not together:
            notes.append(
                "has too few recordings of each class, so pieces of one recording are in several "
                "parts, and accuracies are too high. Add recordings"
            )
    if "test" in held:
        test = samples.subset(_among(keys, held["test"]))
        notes.insert(0, f"has no split test, so {test_share:.0%} of each class are drawn for it")
    select = others["val"] if len(others) == 2 and not published else test
    if "select" in held:
        select = samples.subset(_among(keys, held["select"]))
    without = frozenset[str]().union(*held.values())
    also = frozenset[str]()
    if later is not None and not published:
        also = later.held.union(
            *(keys for name, keys in later.others.items() if name not in others)
        )
    train = samples.subset(~_among(keys, without | also))
    if not len(train) or select is None or not len(select) or not held.get("test", True):
        needed = 1 + len(drawn)
        raise InputError(
            f"{store} has too few samples to train on some and select by others; convert at least "
            f"{needed} of a class, better {10 * needed}"
        )
    parts = {"train": train, "select": select, "test": test}
    labels_of = {
        f"to {PURPOSES[name]} ": set(part.labels.tolist())
        for name, part in parts.items()
        if part is not None
    }
    present = set().union(*labels_of.values())
    notes += _missing("", set(range(len(train.classes))) - present, train.classes)
    for what, labels in labels_of.items():
        notes += _missing(what, present - labels, train.classes)
    other_keys: dict[str, frozenset[str]] = {
        name: frozenset(keys_of(part)) for name, part in others.items()
    }
    return Data(
        train=train,
        select=select,
        test=test,
        held=without,
        others=other_keys,
        drawn=tuple(drawn),
        notes=tuple(notes),
    )


def _missing(what: str, labels: set[int], classes: Sequence[str]) -> list[str]:
    """Return a note that samples of some classes are missing; empty if there are none."""
    names = [classes[label] for label in sorted(labels)]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return [f"has no samples {what}of {', '.join(names[:5])}{more}"] if names else []


def _among(keys: list[str], chosen: frozenset[str]) -> NDArray[np.bool_]:
    return np.array([key in chosen for key in keys], np.bool_)


def _checked(store: str, split: str) -> FrameDataset:
    """Return a split after checking its labels."""
    part = FrameDataset(store, split)
    classes = len(part.classes)
    if classes < 2:
        raise InputError(f"{store} has {classes} classes; a classifier needs at least two")
    check_labels(part, store, split)
    return part


def check_labels(part: FrameDataset, store: str, split: str) -> None:
    """Raise InputError if a label is not the number of a class."""
    classes = len(part.classes)
    if len(part) and not 0 <= part.labels.min() <= part.labels.max() < classes:
        raise InputError(
            f"{store}: split {split} has labels from {part.labels.min()} to {part.labels.max()} "
            f"but {classes} classes; convert it again"
        )
