"""Lists folders of labelled images, for events from them (imagenet) and for themselves (images).

    INPUT/CLASS/*.JPEG              class folders: one split, train
    INPUT/SPLIT/CLASS/*             splits; `raw.split_folders` has their names
    INPUT/val/*.JPEG and a list     a split folder without class folders, as ImageNet's val comes

`raw.label_lists` has the lists. A label in one is a class's name or its index. A class's index is
its place among the sorted names, which for ImageNet are WordNet ids, or as a file of lines
``name index`` says. A sample's name is its path in its split's folder. Samples are sorted, or in
the order of the list if it has them.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from eventdata.errors import InputError
from eventdata.files.archives.paths import Archived
from eventdata.raw.class_folders import find_class_folders
from eventdata.raw.label_lists import read_labels
from eventdata.raw.listing import few, read_lines, safe_relative, stored_name
from eventdata.raw.shards import Shards, find_shards
from eventdata.raw.source import Samples, SourceSettings
from eventdata.raw.split_folders import Part
from eventdata.settings import setting

MAX_CLASSES = 1_000_000
_INDEX = re.compile("[0-9]{1,1000}")  # what int() takes, and no digits of other scripts
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


@dataclass
class _Rows:
    """The rows of a split: names in its folder, class names or indices, problems."""

    folder: Path
    names: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)
    place: Callable[[str], str] | None = None
    """The path of an image of a name, if not in the folder."""
    paths: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class ImageFolders(SourceSettings):
    """A source of labelled images under ``root``; all splits number the classes."""

    list_file: Path | None = setting(
        None,
        "File of labels: lines 'path label', or a list of ImageNet's validation set.",
        unit="file",
        option="list",
        stored=False,
    )
    classes_file: Path | None = setting(
        None, "File of classes: lines 'class number'.", unit="file", option="classes", stored=False
    )

    @property
    def classes(self) -> Sequence[str]:
        return self._listing[0]

    def splits(self) -> dict[str, Samples]:
        return dict(self._listing[1])

    @cached_property
    def _listing(self) -> tuple[list[str], dict[str, Samples]]:
        """The class names by label, and the samples of each split."""
        root, only = self.root, self.only
        shards = None if self.list_file else find_shards(root, is_image)
        if shards is not None:
            return self._of_shards(shards)
        found = find_class_folders(
            root,
            "images",
            is_image,
            listed=self.list_file is not None,
            known=[path.absolute() for path in (self.list_file, self.classes_file) if path],
            archives=True,
        )
        parts = {split or "train": part for split, part in found.layout.parts.items()}
        root = found.root
        folders = {split: found.folder(part) for split, part in parts.items()}
        places = {
            split: found.place
            for split, part in parts.items()
            if found.archives and not part.folder
        }
        notes = []
        if "" in found.layout.parts and only is None:
            notes.append("the input has no folder train, val or test: it is one split, train")
        notes += found.notes
        self.check_split(folders)
        without = {split: part.loose for split, part in parts.items() if not part.classes}
        listed = (
            _read_list(self.list_file, root, folders, places, without) if self.list_file else {}
        )
        walked = {
            split: _walked(folders[split], part, places.get(split))
            for split, part in parts.items()
            if split not in listed
        }
        notes += [
            f"{rows.folder}: skipped, because no class folder or list has images for it"
            for rows in walked.values()
            if not rows.names and only is None
        ]
        file = self.classes_file
        classes = _read_classes(file) if file else _classes(listed.values(), walked.values())
        _check_numbers(str(self.list_file), listed.values(), classes)
        labels = dict.fromkeys(walked, _by_name(classes))
        labels |= dict.fromkeys(listed, _labels(str(self.list_file), listed.values(), classes))
        splits = {
            split: _samples(rows, labels[split], len(classes))
            for split in folders
            if (rows := (listed | walked)[split]).names and only in (None, split)
        }
        if not splits:
            raise InputError(
                f"{folders.get(only or '', root)}: no images in class folders; pass a folder of "
                "class folders, or the images' labels with --list FILE (lines 'path label')"
            )
        next(iter(splits.values())).notes.extend(notes)
        return [stored_name(name) for name in classes], splits

    def _of_shards(self, shards: Mapping[str, Shards]) -> tuple[list[str], dict[str, Samples]]:
        """Return the class names by label, and the samples of each split of some shards."""
        self.check_split(shards)
        labelled = [split for split, one in shards.items() if any(one.labels)]
        bare = [split for split in shards if labelled and not self.only and split not in labelled]
        shards = {split: one for split, one in shards.items() if split not in bare}
        listed = {
            split: _Rows(self.root, one.names, one.labels, one.problems, paths=one.paths)
            for split, one in shards.items()
        }
        file = self.classes_file
        own = next(iter(shards.values())).classes
        if any(one.classes != own for one in shards.values()):
            raise InputError(f"{self.root}: its splits have other classes; convert each split")
        classes = own or _classes(listed.values(), ())
        if file:
            classes = _read_classes(file)
        labels = _labels(str(self.root), listed.values(), classes)
        splits = {
            split: _samples(rows, labels, len(classes))
            for split, rows in listed.items()
            if rows.names and self.only in (None, split)
        }
        if not splits:
            raise InputError(f"{self.root}: no images with labels in its shards; check it")
        shown = ", ".join(f"{split} {len(samples):,}" for split, samples in splits.items())
        notes = [note for split in splits for note in shards[split].notes]
        notes += [f"{split}: skipped, because none of its samples has a label" for split in bare]
        next(iter(splits.values())).notes.extend(
            [f"read as shards, with the labels in them: {shown}", *notes]
        )
        return [stored_name(name) for name in classes], splits


def is_image(name: str) -> bool:
    """Return whether a file has the suffix of an image."""
    return name.lower().endswith(SUFFIXES)


def _walked(folder: Path, part: Part, place: Callable[[str], str] | None) -> _Rows:
    """Return all images of the class folders, at any depth, by class and then by path."""
    rows = _Rows(folder, place=place)
    for name, images in part.classes.items():
        rows.names += sorted(images)
        rows.labels += [name] * len(images)
    return rows


def _read_list(
    path: Path,
    root: Path,
    folders: Mapping[str, Path],
    places: Mapping[str, Callable[[str], str]],
    without: Mapping[str, Sequence[str]],
) -> dict[str, _Rows]:
    """Return the rows of each split that the list has.

    A line is of the split that its path starts with. Where it starts with none, it is of the only
    split (INPUT itself, say), or of the one ``without`` class folders that has such an image.
    """
    listed: dict[str, _Rows] = {}
    single = folders if len(folders) == 1 else without if len(without) == 1 else {}
    home = next(iter(single), None)
    counted = Counter(name for names in without.values() for name in names)
    homes = {name: one for one, names in without.items() for name in names if counted[name] == 1}
    named = {folder.name: split for split, folder in folders.items() if folder != root}
    named |= {split: split for split, folder in folders.items() if isinstance(folder, Archived)}
    seen: set[tuple[str, str]] = set()
    for number, line in enumerate(read_labels(path, homes), 1):
        name, label = [*line.rsplit(maxsplit=1), "", ""][:2]
        first, _, rest = name.partition("/")
        split = home or homes.get(name)
        if rest and first in named:
            split, name = named[first], rest
        if split is None:
            raise InputError(
                f"{path}:{number}: {line!r} belongs to no split; begin its path with "
                f"{' or '.join(f'{one}/' for one in named)}"
            )
        problem = ""
        if not (name and label):
            problem = f"expected 'path label', found {line!r}"
        elif not safe_relative(name):
            problem = f"path {name!r} leaves the folder"
        elif (split, name) in seen:
            problem = f"{name!r} is listed twice"
        seen.add((split, name))
        rows = listed.setdefault(split, _Rows(folders[split], place=places.get(split)))
        if problem:
            rows.problems[len(rows.names)] = f"{path}:{number}: {problem}"
        rows.names.append(name or line)
        rows.labels.append(label)
    return listed


def _classes(listed: Iterable[_Rows], walked: Iterable[_Rows]) -> list[str]:
    """Return class names by index: those of the folders and lists, or just numbers."""
    labels = {
        label
        for rows in listed
        for index, label in enumerate(rows.labels)
        if index not in rows.problems
    }
    numbers = set(filter(_INDEX.fullmatch, labels))
    names = (labels - numbers).union(*(rows.labels for rows in walked))
    highest = max(map(int, numbers), default=-1)
    if not names and highest < MAX_CLASSES:
        return [str(index) for index in range(highest + 1)]
    return sorted(names)


def _check_numbers(where: str, listed: Iterable[_Rows], classes: Sequence[str]) -> None:
    """Raise InputError if a list seems to number the classes from 1."""
    labels = {label for rows in listed for label in rows.labels}
    from_1 = str(len(classes)) in labels and "0" not in labels and len(labels) > 1
    if from_1 and not labels <= set(classes):
        raise InputError(
            f"{where}: numbers classes from 1 to {len(classes):,}, but an index counts from 0 in "
            "the order of the names; write names of classes into the list"
        )


def _by_name(classes: Sequence[str]) -> dict[str, int]:
    return {name: index for index, name in enumerate(classes)}


def _labels(where: str, listed: Iterable[_Rows], classes: Sequence[str]) -> dict[str, int]:
    """Return the label for each word in a list: the name of a class, or its index.

    Raises:
        InputError: the names are numbers, and the words can be names and indices.
    """
    names = _by_name(classes)
    indices = {str(index): index for index in range(len(classes))}
    words = {
        word
        for rows in listed
        for index, word in enumerate(rows.labels)
        if index not in rows.problems
    }
    if all(indices.get(word, names[word]) == names[word] for word in words & names.keys()):
        return indices | names
    if names.keys() == indices.keys():  # "10" comes before "2"
        return names
    if (words <= names.keys()) == (words <= indices.keys()):
        raise InputError(
            f"{where}: the classes are named {few(classes)}, and the labels can be these names or "
            "indices from 0 in their order; pass --classes FILE with lines 'name index'"
        )
    return names if words <= names.keys() else indices


def _read_classes(path: Path) -> list[str]:
    """Return class names from lines ``name index``, which count 0, 1, 2, ... in any order."""
    names: dict[int, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if len(fields) < 2 or not _INDEX.fullmatch(fields[1]) or int(fields[1]) in names:
            raise InputError(f"{path}:{number}: expected 'name index', each once, found {line!r}")
        names[int(fields[1])] = fields[0]
    if sorted(names) != list(range(len(names))) or len(set(names.values())) != len(names):
        raise InputError(f"{path}: the indices must be 0, 1, 2, ..., one for each name")
    return [names[index] for index in range(len(names))]


def _samples(rows: _Rows, known: Mapping[str, int], classes: int) -> Samples:
    """Return the columns of a split, whose words have known labels."""
    labels = np.array([known.get(label, -1) for label in rows.labels], np.int32)
    for index in np.flatnonzero(labels < 0).tolist():
        where, label = f"{rows.folder}/{rows.names[index]}", rows.labels[index]
        problem = f"{where}: its class {label!r} is not one of the {classes:,} classes"
        rows.problems.setdefault(index, problem)
    folder = str(rows.folder)
    paths = [rows.place(name) if rows.place else f"{folder}/{name}" for name in rows.names]
    paths = paths if rows.paths is None else list(rows.paths)
    for index in rows.problems:
        paths[index] = ""
    names = [stored_name(name) for name in rows.names]
    return Samples(names, labels, paths, np.empty((len(names), 0), np.int64), rows.problems)
