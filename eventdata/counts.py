"""Count the samples of each class in each split, for reports."""

from collections.abc import Mapping, Sequence
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

SHOWN = 20  # classes in a table; more are summed up in one line
UNKNOWN = "(unknown)"
Counts = Mapping[str, Mapping[str, int]]
"""Samples by split and class."""


def class_counts(labels: NDArray[np.int32], classes: Sequence[str]) -> dict[str, int]:
    """Return the samples of each class, also of classes without any, by labels (N,)."""
    counts = dict.fromkeys(classes, 0)
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        name = classes[label] if 0 <= label < len(classes) else UNKNOWN
        counts[name] = counts.get(name, 0) + int(count)
    return counts


def look_alikes(classes: Sequence[str]) -> list[str]:
    """Return a note if names of classes differ only in case, blanks or Unicode form."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(normalize("NFKC", name).casefold().strip(), []).append(name)
    pairs = [names for names in alike.values() if len(names) > 1]
    if not pairs:
        return []
    shown = "; ".join(", ".join(map(repr, names)) for names in pairs[:SHOWN])
    return [f"classes that look alike: {shown}. If these are the same, give them one name"]


def class_table(counts: Counts) -> list[str]:
    """Return lines of a table, a row for each class and a column for each split."""
    splits = list(counts)
    names = list(dict.fromkeys(name for split in counts.values() for name in split))
    shown = names if len(names) <= SHOWN else names[: SHOWN // 2]
    rows = [["class", *splits]]
    rows += [[name, *(f"{counts[split].get(name, 0):,}" for split in splits)] for name in shown]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    if len(shown) < len(names):
        ranges = []
        for split in splits:
            each = [counts[split].get(name, 0) for name in names]
            ranges.append(f"{split} {min(each):,} to {max(each):,}")
        rest = len(names) - len(shown)
        lines.append(f"... and {rest:,} more classes; samples per class: {', '.join(ranges)}")
    return lines
