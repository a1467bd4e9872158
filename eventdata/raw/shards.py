"""List the images of WebDataset shards: tars whose members of one key are one sample.

    INPUT/imagenet-train-000000.tar       n01440764_10026.jpg and n01440764_10026.cls, ...
    INPUT/train/000000.tar                the same in split folders
    "INPUT/imagenet-val-*.tar"            shards by a pattern, also {000000..000146} and {a,b}

The key of a member is its path up to the first dot of its name. The label is the content of
KEY.cls, or the value of "label", "cls", "class" or "target" in KEY.json. Samples are in the order
of the shards and of the members in them.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path
from typing import cast

import numpy as np

from eventdata.errors import InputError
from eventdata.files.archives.index import key_of
from eventdata.files.archives.indexes import index_of, read_indexes
from eventdata.files.archives.paths import Archived, is_parquet
from eventdata.files.inputs import RemotePath, inside, is_hidden
from eventdata.files.parquet import list_rows
from eventdata.raw.listing import few
from eventdata.raw.split_folders import split_mark

_SPLIT = re.compile(r"(?<![a-z])(train|training|val|validation|test)(?![a-z])")
_NAMES = {"training": "train", "validation": "val"}
MAX_SHARDS = 100_000
_BRACES = re.compile(r"\{(?:([0-9]{1,9})\.\.([0-9]{1,9})|([^{}]*,[^{}]*))\}")
_OF = re.compile(r"-[0-9]+-of-([0-9]{1,9})")
_WILDCARD = re.compile(r"[*?]|\[.+\]")


@dataclass
class Shards:
    """The images of the shards of a split: names, labels, paths; problems by index."""

    names: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    """The names of the classes, if the shards have them."""
    notes: list[str] = field(default_factory=list)


def is_pattern(root: Path) -> bool:
    """Return whether an input is a pattern of names rather than a folder."""
    named = _WILDCARD.search(root.name) or _BRACES.search(root.name)
    return named is not None and not (root.is_dir() or root.is_file())


def find_shards(root: Path, is_image: Callable[[str], bool]) -> dict[str, Shards] | None:
    """Return the samples of each split of an input of shards, None for any other input.

    Raises:
        InputError: a pattern fits no archive, or a shard can't be read.
    """
    found = _archives(root)
    if is_pattern(root) and not found:
        raise InputError(f"{root}: no .tar of such a name; check the pattern")
    first = next((archive for _, archive in found), None)
    if first is None or not (is_parquet(first.archive) or _is_shard(first.archive, is_image)):
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


def _is_shard(archive: str, is_image: Callable[[str], bool]) -> bool:
    """Return whether a tar has labels, or images next to texts of the same key at its top."""
    index = index_of(archive)
    top = [] if index.labels else [name for name in index.names if "/" not in name]
    texts = {key_of(name) for name in top if name.endswith((".cls", ".json", ".txt"))}
    return bool(index.labels) or any(key_of(name) in texts for name in top if is_image(name))


def _part_note(archives: list[Archived]) -> Iterator[str]:
    """Yield a note if shards that count themselves, such as train-00000-of-00002, are not all."""
    totals = {match[1] for one in archives if (match := _OF.search(one.name))}
    if len(totals) == 1 and int(total := totals.pop()) != len(archives):
        yield f"{archives[0].archive}: {len(archives):,} of {int(total):,} shards are in the input"


def _archives(root: Path) -> list[tuple[str, Archived]]:
    """Return the tars of an input in the order of their names, and the folder of each."""
    if isinstance(root, Archived):
        return [] if root.inner else [("", root)]
    if is_pattern(root):
        parent = root.parent if isinstance(root, Path) else RemotePath(str(root).rpartition("/")[0])
        found = [
            Archived(str(path))
            for path, folder in inside(parent)
            if not folder and (path.name.endswith(".tar") or is_parquet(path.name))
        ]
        present = {one.archive.rpartition("/")[2] for one in found}
        wanted = set(_alternatives(root.name))
        missing = sorted(name for name in wanted - present if not _WILDCARD.search(name))
        if missing:
            raise InputError(f"{parent}: {few(missing)} missing; get them, or correct the pattern")
        patterns = re.compile("|".join(map(translate, wanted - present)) or "(?!)")
        named = {name for name in present if name in wanted or patterns.fullmatch(name)}
        return [
            (parent.name, one) for one in sorted(found) if one.archive.rpartition("/")[2] in named
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
    """Yield what a pattern with braces such as {000..146} or {train,val} stands for."""
    match = _BRACES.search(name)
    if match is None:
        yield name
        return
    before, after = name[: match.start()], name[match.end() :]
    choices: Iterable[str] = match[3].split(",") if match[3] else ()
    if not match[3]:
        first, last = int(match[1]), int(match[2])
        if last - first >= MAX_SHARDS:
            raise InputError(f"{name}: more than {MAX_SHARDS:,} shards; correct the pattern")
        choices = (f"{number:0{len(match[1])}}" for number in range(first, last + 1))
    for choice in choices:
        for rest in _alternatives(after):
            yield f"{before}{choice}{rest}"


def _read(archives: list[Archived], is_image: Callable[[str], bool]) -> Shards:
    """Return the images of some shards; names that several shards have begin with the shard's."""
    rows = Shards(notes=[*_part_note(archives)])
    read_indexes([one.archive for one in archives if not is_parquet(one.archive)])
    imageless = 0
    homes: list[tuple[str, int]] = []  # name of the shard, and where a path in it begins
    for archive in archives:
        if is_parquet(archive.archive):
            _add_rows(rows, archive.archive)
            home = archive.name, len(archive.archive) + 1
            homes += [home] * (len(rows.names) - len(homes))
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
            homes.append((archive.name, len(archive.archive) + 1))
        imageless += len(
            {key_of(index.names[at]) for at, label in enumerate(labels) if label} - keys
        )
    if imageless:
        rows.notes.append(f"samples of shards that have a label but no image: {imageless:,}")
    counted = Counter(rows.names)
    if len(counted) < len(rows.names):
        rows.names = [
            f"{home}/{path[start:]}" if counted[name] > 1 else name
            for (home, start), name, path in zip(homes, rows.names, rows.paths, strict=True)
        ]
    if len(set(rows.names)) < len(rows.names):
        first = archives[0].archive
        raise InputError(f"{first}: several shards of one split have one name; rename them")
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
