"""Hold out training samples for the selection of models."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

UCF101_CLIP = re.compile(r"(v_\w+_g\d+)_c\d+")


def sample_keys(names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return a key for each sample; samples with the same key are held out together.

    The key is the class and the name without folder and suffix. For a clip of UCF101 such as
    v_Archery_g01_c02 it is the class and the group, because a group is cut from one video.

    Args:
        names: names of the samples in the store.
        classes: class name of each sample.
    """
    stems = (PurePosixPath(name).stem for name in names)
    return [
        f"{label}/{clip[1] if (clip := UCF101_CLIP.fullmatch(stem)) else stem}"
        for label, stem in zip(classes, stems, strict=True)
    ]


def whole_keys(names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return keys with the folder, for names such as DVSGesture's, user01_led/3.npy."""
    return [f"{label}/{name}" for name, label in zip(names, classes, strict=True)]


def hold_out(
    keys: Sequence[str], classes: Sequence[str], share: float, seed: int
) -> frozenset[str]:
    """Return the keys of a share of each class's samples: at least one key, and never all.

    The choice depends on the keys and the seed but not on their order, so two stores of the same
    samples agree.

    Args:
        keys: key of each sample (`sample_keys`).
        classes: class name of each sample; with slashes in it, a key does not give the class.
        share: share of the samples to hold out.
        seed: seed of the choice.
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
    """Return the random number of a key."""
    return hashlib.sha256(f"{seed}/{key}".encode()).digest()
