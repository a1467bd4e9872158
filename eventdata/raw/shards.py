"""List the images of WebDataset shards: tars whose members of one key are one sample.

    INPUT/imagenet-train-000000.tar       n01440764_10026.jpg and n01440764_10026.cls, ...
    INPUT/train/000000.tar                the same in split folders
    "INPUT/imagenet-val-*.tar"            shards by a pattern, also {000000..000146}

The key of a member is its path up to the first dot of its name. The label is the content of
KEY.cls, or the value of "label", "cls", "class" or "target" in KEY.json. Samples are in the order
of the shards and of the members in them.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import cast

import numpy as np

from eventdata.errors import InputError
from eventdata.files.archives.index import key_of
from eventdata.files.archives.indexes import index_of
from eventdata.files.archives.paths import Archived, is_parquet
from eventdata.files.inputs import RemotePath, inside, is_hidden
from eventdata.files.parquet import list_rows
from eventdata.raw.split_folders import split_mark

_SPLIT = re.compile(r"(?<![a-z])(train|training|val|validation|test)(?![a-z])")
_NAMES = {"training": "train", "validation": "val"}
_RANGE = re.compile(r"\{([0-9]{1,9})\.\.([0-9]{1,9})\}")
_PATTERN = re.compile(r"[*?]|\[.+\]|\{[0-9]+\.\.[0-9]+\}")


@dataclass
class Shards:
    """The images of the shards of a split: names, labels, paths; problems by index."""

    names: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    """The names of the classes, if the shards have them."""


def is_pattern(root: Path) -> bool:
    """Return whether an input is a pattern of names rather than a folder."""
    return _PATTERN.search(root.name) is not None and not (root.is_dir() or root.is_file())


def find_shards(root: Path, is_image: Callable[[str], bool]) -> dict[str, Shards] | None:
    """Return the samples of each split of an input of shards, None for any other input.

    Raises:
        InputError: a pattern fits no archive, or a shard can't be read.
    """
    found = _archives(root)
    if is_pattern(root) and not found:
        raise InputError(f"{root}: no .tar of such a name; check the pattern")
    first = next((archive for _, archive in found), None)
    if first is None or not (is_parquet(first.archive) or index_of(first.archive).labels):
        return None
    splits: dict[str, list[Archived]] = {}
    for folder, archive in found:
        marks = {_NAMES.get(word, word) for word in _SPLIT.findall(archive.name.lower())}
        mark = split_mark(folder)
        split = marks.pop() if len(marks) == 1 else mark.kind if mark else "train"
        splits.setdefault(split, []).append(archive)
    order = ["train", "val", "test", *splits]
    return {
        split: _read(splits[split], is_image) for split in dict.fromkeys(order) if split in splits
    }


def _archives(root: Path) -> list[tuple[str, Archived]]:
    """Return the tars of an input in the order of their names, and the folder of each."""
    if isinstance(root, Archived):
        return [("", root)]
    if is_pattern(root):
        parent = root.parent if isinstance(root, Path) else RemotePath(str(root).rpartition("/")[0])
        names = list(_alternatives(root.name))
        found = [
            Archived(str(path))
            for path, folder in inside(parent)
            if not folder and any(fnmatchcase(path.name, name) for name in names)
        ]
        return [
            (parent.name, one)
            for one in sorted(found)
            if one.archive.endswith(".tar") or is_parquet(one.archive)
        ]
    if not root.is_dir():
        return []
    found = _in_folder(root)
    if found:
        return [("", one) for one in found]
    folders = sorted(path for path, folder in inside(root) if folder and not is_hidden(path.name))
    return [
        (folder.name, one)
        for folder in folders
        if split_mark(folder.name) or folder.name == "data"
        for one in _in_folder(folder)
    ]


def _in_folder(folder: Path) -> list[Archived]:
    """Return the archives in a folder; of Parquet shards only these."""
    entries = sorted(inside(folder, archives=True), key=lambda entry: str(entry[0]))
    visible = [(path, kind) for path, kind in entries if not is_hidden(path.name)]
    shards = [Archived(str(path)) for path, kind in visible if not kind and is_parquet(path.name)]
    return shards or [cast(Archived, path) for path, _ in visible if isinstance(path, Archived)]


def _alternatives(name: str) -> Iterator[str]:
    """Yield the patterns that a pattern with a range such as {000..146} stands for."""
    match = _RANGE.search(name)
    if match is None:
        yield name
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from _alternatives(
            f"{name[: match.start()]}{number:0{len(first)}}{name[match.end() :]}"
        )


def _read(archives: list[Archived], is_image: Callable[[str], bool]) -> Shards:
    """Return the images of some shards; names that several shards have begin with the shard's."""
    rows = Shards()
    homes: list[str] = []
    for archive in archives:
        if is_parquet(archive.archive):
            _add_rows(rows, archive.archive)
            homes += [archive.name] * (len(rows.names) - len(homes))
            continue
        index = index_of(archive.archive)
        labels = index.labels or [""] * len(index.names)
        keys: set[str] = set()
        for at in np.argsort(index.places[:, 0], kind="stable").tolist():
            name = index.names[at]
            if not is_image(name) or is_hidden(name.rpartition("/")[2]):
                continue
            key, path = key_of(name), f"{archive}/{name}"
            if key in keys:
                rows.problems[len(rows.names)] = f"{path}: a second image of the sample {key}"
            elif not labels[at]:
                rows.problems[len(rows.names)] = f"{path}: has no label in a .cls or .json member"
            keys.add(key)
            rows.names.append(name)
            rows.labels.append(labels[at])
            rows.paths.append(path)
            homes.append(archive.name)
    counted = Counter(rows.names)
    if len(counted) < len(rows.names):
        rows.names = [
            f"{home}/{name}" if counted[name] > 1 else name
            for home, name in zip(homes, rows.names, strict=True)
        ]
    return rows


def _add_rows(rows: Shards, shard: str) -> None:
    """Add the rows of a Parquet shard; raise InputError if its classes are not the others'."""
    found = list_rows(shard)
    counted = Counter(found.classes)
    classes = [
        f"{name} ({number})" if counted[name] > 1 else name
        for number, name in enumerate(found.classes)
    ]
    if rows.names and classes != rows.classes:
        raise InputError(f"{shard}: has other classes than the shards before it; convert it apart")
    rows.classes = classes
    for path, label in zip(found.paths, found.labels, strict=True):
        known = not classes or (label.isdecimal() and int(label) < len(classes))
        if not (label and known):
            rows.problems[len(rows.names)] = f"{shard}/{path}: has no label, or an unknown one"
        rows.names.append(path.rpartition("/")[2])
        rows.labels.append(classes[int(label)] if classes and label and known else label)
        rows.paths.append(f"{shard}/{path}")
