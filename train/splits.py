"""Which training samples are held out for the choice of models."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

UCF101_CLIP = re.compile(r"(v_\w+_g\d+)_c\d+")


def sample_keys(names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """By sample, what is kept together: its class and its name without folder and suffix.

    Of UCF101's clips (v_Archery_g01_c02) that is the group: its clips are cut from one video.

    Args:
        names: of the samples, as the store has them.
        classes: the name of each sample's class.
    """
    stems = (PurePosixPath(name).stem for name in names)
    return [
        f"{label}/{clip[1] if (clip := UCF101_CLIP.fullmatch(stem)) else stem}"
        for label, stem in zip(classes, stems, strict=True)
    ]


def whole_keys(names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """`sample_keys` that folders tell apart: for names such as DVSGesture's, user01_led/3.npy."""
    return [f"{label}/{name}" for name, label in zip(names, classes, strict=True)]


def hold_out(
    keys: Sequence[str], classes: Sequence[str], share: float, seed: int
) -> frozenset[str]:
    """The keys (`sample_keys`) of a share of each class's samples, at least one key of them.

    The choice hangs on the keys and the seed, not on the order, so that two stores of the same
    samples agree. A class's last key is never taken.

    Args:
        keys: by sample.
        classes: the name of each sample's class; it may have slashes, so that no key tells it.
        share: to be held out.
        seed: of the choice.
    """
    sizes = Counter(keys)
    by_class: dict[str, set[str]] = defaultdict(set)
    for key, label in zip(keys, classes, strict=True):
        by_class[label].add(key)
    chosen: set[str] = set()
    for members in by_class.values():
        wanted = share * sum(sizes[key] for key in members)
        taken = 0
        for key in sorted(members, key=lambda key: _rank(key, seed))[:-1]:
            if taken >= max(1, round(wanted)):
                break
            chosen.add(key)
            taken += sizes[key]
    return frozenset(chosen)


def _rank(key: str, seed: int) -> bytes:
    """A random number that belongs to a key."""
    return hashlib.sha256(f"{seed}/{key}".encode()).digest()
