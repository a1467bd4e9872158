"""Draw samples for the selection of models and for the test."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from eventdata.raw.hold_out import PIECE, UCF101_CLIP, hold_out


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


def draw(
    names: Sequence[str], classes: Sequence[str], shares: Sequence[float], seed: int
) -> tuple[list[str], list[frozenset[str]], bool]:
    """Draw parts of the samples, one after the other, each from what the earlier ones leave.

    Samples of one recording stay together, unless the classes have too few recordings for that.

    Args:
        names: names of the samples in the store.
        classes: class name of each sample.
        shares, seed: those of `eventdata.raw.hold_out.hold_out`, a share for each part.

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
