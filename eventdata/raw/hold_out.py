"""Hold out a share of the samples of each class, for data without a split for testing.

Samples of one recording stay on one side, and so do clips of one group of UCF101.
"""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from eventdata.errors import OptionError
from eventdata.raw.listing import few
from eventdata.raw.source import Samples
from eventdata.settings import Settings, from_options, options_of, setting
from eventdata.store.layout import Parameters

UCF101_CLIP = re.compile(r"(v_\w+_g\d+)_c\d+")
PIECE = re.compile(r"#\d+$")
"""The end of the name of a piece that was cut from a recording."""
Order = Literal["first", "last", "first-by-text", "last-by-text"]
_SPLIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def group_keys(names: Iterable[str]) -> list[str]:
    """Return the recording or the UCF101 group of each sample; the same key stays on one side.

    Pieces such as FILE#3 have the key FILE. A name with a clip in it, such as
    v_Archery_g01_c02.avi, has the group v_Archery_g01, because a group is cut from one video.
    """
    keys = []
    for name in names:
        parts = PIECE.sub("", name).split("/")
        clips = (UCF101_CLIP.fullmatch(part.split(".")[0]) for part in parts)
        keys.append(next((clip[1] for clip in clips if clip), "/".join(parts)))
    return keys


def hold_out(
    keys: Sequence[str], classes: Sequence[str], share: float, seed: int | Order
) -> frozenset[str]:
    """Return the keys of a share of each class's samples: at least one key, and never all.

    A class with one key keeps it, and so does a recording with samples of such a class. The
    choice by a seed depends on the keys but not on their order, so two stores of the same samples
    agree.

    Args:
        keys: key of each sample, such as its recording; it may have samples of several classes.
        classes: class name of each sample.
        share: share of the samples to hold out.
        seed: seed of the choice; or "first" or "last" in the order of the keys, in which numbers
            count as numbers. With "-by-text" their digits are compared.
    """
    sizes: dict[str, Counter[str]] = defaultdict(Counter)  # class -> key -> samples
    owners: dict[str, set[str]] = defaultdict(set)  # key -> classes
    for key, label in zip(keys, classes, strict=True):
        sizes[label][key] += 1
        owners[key].add(label)
    left = {label: len(members) for label, members in sizes.items()}  # keys not chosen
    chosen: set[str] = set()
    for members in sizes.values():
        total = members.total()
        if isinstance(seed, int):
            wanted = round(share * total)
            ranked = sorted(members, key=lambda key: _rank(key, seed))
        else:
            wanted = total - math.ceil(total * (1 - share))
            ranked = sorted(members, key=None if seed.endswith("text") else natural_order)
            if seed.startswith("last"):
                ranked.reverse()
        taken = sum(members[key] for key in members.keys() & chosen)
        for key in ranked:
            if taken >= max(1, wanted):
                break
            if key not in chosen and all(left[label] > 1 for label in owners[key]):
                chosen.add(key)
                left |= {label: left[label] - 1 for label in owners[key]}
                taken += members[key]
    return frozenset(chosen)


def _rank(key: str, seed: int) -> bytes:
    """Return the random number of a key."""
    return hashlib.sha256(f"{seed}/{key}".encode()).digest()


def natural_order(name: str) -> tuple[list[tuple[str, int, str]], str]:
    """Return a sort key by which 2 comes before 10, folder by folder."""
    parts = re.findall(r"([^0-9]*)0*([0-9]*)", name.replace("/", "\0"))
    return [(text, len(digits), digits) for text, digits in parts], name


@dataclass(frozen=True, kw_only=True)
class HoldOut(Settings):
    """A share of each class that becomes a split of its own."""

    share: float = setting(
        help="Share of each class to hold out as a split; samples of one recording stay together.",
        option="hold_out",
        above=0,
        below=1,
    )
    split: str = setting("test", "Name of the split that is held out.", option="hold_out_split")
    seed: int | Order = setting(
        0,
        "Random seed of the choice; or first or last in the natural order of names in each class, "
        "or first-by-text or last-by-text for SpikingJelly's order of names.",
        option="hold_out_seed",
        least=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _SPLIT.fullmatch(self.split) or self.split in ("train", "all"):
            raise OptionError(
                f"--hold-out-split is {self.split!r:.80}: choose a name such as test or val"
            )

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "HoldOut | None":
        """Return the settings made from options or a store's parameters; None without a share.

        Raises:
            OptionError: a value is invalid, or the share is missing.
        """
        kind: Any = cls
        given = {
            one.name: options[one.name]
            for one in options_of(kind)
            if options.get(one.name) is not None
        }
        if given and "hold_out" not in given:
            raise OptionError(
                f"{', '.join(given)}: only valid with hold_out; pass --hold-out SHARE"
            )
        return from_options(cls, given) if given else None

    @property
    def parameters(self) -> Parameters:
        """The settings as a store's parameters."""
        return {"hold_out": self.share, "hold_out_split": self.split, "hold_out_seed": self.seed}

    def origin(self, splits: Iterable[str]) -> str:
        """Return the split of a source that is divided.

        Raises:
            OptionError: the source has the split to hold out, or none to draw it from.
        """
        names = list(splits)
        if self.split in names:
            raise OptionError(
                f"the source has a split {self.split} already; omit --hold-out, or choose another "
                "name with --hold-out-split"
            )
        if "train" in names:
            return "train"
        if len(names) == 1 and names[0] not in ("val", "test"):
            return names[0]
        raise OptionError(
            f"--hold-out divides the split train, or the only one of data without splits; the "
            f"source has {', '.join(names)}"
        )

    def divide(self, listing: Mapping[str, Samples], classes: Sequence[str]) -> dict[str, Samples]:
        """Return a listing with the split that is held out; the rest of it is called train."""
        origin = self.origin(listing)
        samples = listing[origin]
        keys = group_keys(samples.names)
        chosen = hold_out(keys, list(map(str, samples.labels.tolist())), self.share, self.seed)
        held = np.array([key in chosen for key in keys], bool)
        train, test = samples.take(np.flatnonzero(~held)), samples.take(np.flatnonzero(held))
        train.notes = [*samples.notes, *self._notes(samples, held, classes)]
        if not len(test):
            raise OptionError(
                "--hold-out finds no class with two recordings, so nothing can be held out; add "
                "recordings, or convert without it"
            )
        rest = {name: part for name, part in listing.items() if name != origin}
        found = {"train": train, self.split: test} | rest
        order = [name for name in ("train", "val", "test") if name in found]
        return {name: found[name] for name in [*order, *(found.keys() - set(order))]}

    def _notes(self, samples: Samples, held: Any, classes: Sequence[str]) -> list[str]:
        """Return notes on classes whose held-out share is zero or far from the wanted one."""
        labels = samples.labels.clip(-1) + 1
        names = ["unknown", *classes]
        total = np.bincount(labels, minlength=len(names))
        taken = np.bincount(labels[held], minlength=len(names))
        without = [names[i] for i in np.flatnonzero((total > 0) & (taken == 0))]
        uneven = [
            f"{names[i]} {taken[i]:,} of {total[i]:,}"
            for i in np.flatnonzero(taken > np.maximum(2 * self.share * total, 1))
        ]
        notes = []
        if without:
            notes.append(
                f"nothing is held out for {self.split} of classes with only one recording: "
                f"{few(without)}"
            )
        if uneven:
            notes.append(
                f"more than twice --hold-out is held out, because recordings stay whole: "
                f"{few(uneven)}"
            )
        return notes
