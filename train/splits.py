"""Draw samples for the selection of models and for the test."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

UCF101_CLIP = re.compile(r"(v_\w+_g\d+)_c\d+")
PIECE = re.compile(r"#\d+$")
"""The end of the name of a piece that was cut from a recording."""


def sample_keys(names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return a key for each sample; samples with the same key are held out together.

    The key is the class and the name without folder and suffix. For a clip of UCF101 such as
    v_Archery_g01_c02 it is the class and the group, because a group is cut from one video. Pieces
    of one recording, such as FILE#3, have the same key.

    Args:
        names: names of the samples in the store.
        classes: class name of each sample.
    """
    stems = (PurePosixPath(PIECE.sub("", name)).stem for name in names)
    return [
        f"{label}/{clip[1] if (clip := UCF101_CLIP.fullmatch(stem)) else stem}"
        for label, stem in zip(classes, stems, strict=True)
    ]


def recording_keys(names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return keys with the folder, for names such as DVSGesture's, user01_led/3.npy."""
    return piece_keys([PIECE.sub("", name) for name in names], classes)


def piece_keys(names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return a key of its own for each sample, even for pieces of one recording."""
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


def draw(
    names: Sequence[str], classes: Sequence[str], shares: Sequence[float], seed: int
) -> tuple[list[str], list[frozenset[str]], bool]:
    """Draw parts of the samples, one after the other, each from what the earlier ones leave.

    Samples of one recording stay together, unless the classes have too few recordings for that.

    Args:
        names: names of the samples in the store.
        classes: class name of each sample.
        shares, seed: those of `hold_out`, a share for each part.

    Returns:
        The key of each sample, the keys of each part, and whether recordings stay together.
    """
    keys: list[str] = []
    parts: list[frozenset[str]] = []
    for rule in (sample_keys, recording_keys, piece_keys):
        keys = rule(names, classes)
        rest = list(zip(keys, classes, strict=True))
        parts = []
        for share in shares:
            parts.append(hold_out([key for key, _ in rest], [one for _, one in rest], share, seed))
            rest = [pair for pair in rest if pair[0] not in parts[-1]]
        if all(parts):
            return keys, parts, rule is not piece_keys or not any(map(PIECE.search, names))
    return keys, parts, True


def _rank(key: str, seed: int) -> bytes:
    """Return the random number of a key."""
    return hashlib.sha256(f"{seed}/{key}".encode()).digest()
