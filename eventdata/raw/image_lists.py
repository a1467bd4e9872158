"""Lists folders of labelled images, for events from them (imagenet) and for themselves (images).

    INPUT/CLASS/*.JPEG              class folders: one split, train
    INPUT/{train,val,test}/CLASS/*  split folders with class folders
    INPUT/val/*.JPEG and a list     a split folder without class folders, as ImageNet's val comes

A list has lines ``path label``, where a label is a class's name or its index. A class's index is
its place among the sorted names, which for ImageNet are WordNet ids, or as a file of lines
``name index`` says.
"""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from eventdata.errors import InputError, OptionError
from eventdata.files.inputs import files_below, inside
from eventdata.raw.listing import read_lines, safe_relative, stored_name
from eventdata.raw.source import Samples, SourceSettings
from eventdata.settings import setting

SPLITS = ("train", "val", "test")
MAX_CLASSES = 1_000_000
_INDEX = re.compile("[0-9]{1,1000}")  # what int() takes, and no digits of other scripts
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


@dataclass
class _Rows:
    """The rows of a split: names in its folder, class names or indices, problems."""

    folder: Path
    names: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    from_list: bool = False
    problems: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageList:
    """Class names by label, and the samples of each split."""

    classes: Sequence[str]
    splits: Mapping[str, Samples]


@dataclass(frozen=True, kw_only=True)
class ImageFolders(SourceSettings):
    """A source of labelled images under ``root``."""

    list_file: Path | None = setting(
        None, "Labels, in lines 'path label'.", unit="file", option="list", stored=False
    )
    classes_file: Path | None = setting(
        None,
        "Class numbers, in lines 'class number'.",
        unit="file",
        option="classes",
        stored=False,
    )

    @cached_property
    def _listing(self) -> ImageList:
        return list_images(self.root, self.list_file, self.classes_file, self.only)

    @property
    def classes(self) -> Sequence[str]:
        """Names of the class folders, or those in the file of classes."""
        return self._listing.classes

    def splits(self) -> dict[str, Samples]:
        """Return the splits that exist of train, val and test."""
        return dict(self._listing.splits)


def list_images(
    root: Path, list_file: Path | None, classes_file: Path | None, only: str | None
) -> ImageList:
    """Return the images under ``root``, sorted, or in the order of ``list_file`` if it has them.

    A sample's name is its path in its split's folder. A bad line is a problem of its sample.

    Args:
        root: the folder.
        list_file: lines ``path label``.
        classes_file: lines ``name index``.
        only: the one split to list. All splits number the classes, so its labels stay the same.

    Raises:
        InputError: nothing can be listed.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the one that holds the images")
    folders = {split: root / split for split in SPLITS if (root / split).is_dir()}
    notes = []
    if not folders:
        if list_file is None:
            _check_level(root)
        folders = {"train": root}
        if only is None:
            notes.append("no folders train, val or test in the input: all is one split, train")
    if only is not None and only not in folders:
        raise OptionError(f"{root}: no split {only!r}; there are: {', '.join(folders)}")
    rows = {split: _Rows(folder) for split, folder in folders.items()}
    class_folders = {split: _class_folders(folder) for split, folder in folders.items()}
    if list_file is not None:
        _read_list(list_file, rows, [split for split in rows if not class_folders[split]])
    for split, part in rows.items():
        if not part.names:
            _walk_classes(part, class_folders[split])
        if not part.names and only is None:
            notes.append(f"{part.folder}: skipped, without images in class folders or in the list")
    classes = _classes(rows, classes_file)
    splits = {
        split: _samples(part, classes)
        for split, part in rows.items()
        if part.names and only in (None, split)
    }
    if not splits:
        raise InputError(
            f"{folders.get(only or '', root)}: no images in class folders; give a folder of class "
            "folders, or the images' labels by --list FILE (lines 'path label')"
        )
    next(iter(splits.values())).notes.extend(notes)
    return ImageList([stored_name(name) for name in classes], splits)


def _check_level(root: Path) -> None:
    """InputError where the folder below is meant: its only class folder has the splits in it."""
    lone = _class_folders(root)
    if len(lone) == 1 and set(SPLITS) & set(_class_folders(root / lone[0])):
        raise InputError(f"{root}: holds one folder, which holds the splits; give {root / lone[0]}")


def _class_folders(folder: Path) -> list[str]:
    folders = (path.name for path, is_folder in inside(folder) if is_folder)
    return sorted(name for name in folders if not name.startswith("."))


def _walk_classes(rows: _Rows, class_folders: Sequence[str]) -> None:
    """Add all images of the class folders, at any depth, by class and then by path."""
    with ThreadPoolExecutor(16) as threads:  # to list over a network is slow, not busy
        listed = threads.map(files_below, (rows.folder / name for name in class_folders))
        for name, files in zip(class_folders, listed, strict=True):
            images = [f"{name}/{file}" for file in files if file.lower().endswith(SUFFIXES)]
            rows.names += sorted(images)
            rows.labels += [name] * len(images)


def _read_list(path: Path, rows: Mapping[str, _Rows], flat: Sequence[str]) -> None:
    """Add each line to the split that its path starts with.

    Where it starts with none, to the only split (INPUT itself, say), or to the only one without
    class folders.
    """
    home = next(iter(rows)) if len(rows) == 1 else flat[0] if len(flat) == 1 else None
    seen: set[tuple[str, str]] = set()
    lines = read_lines(path)
    if not lines:
        raise InputError(f"{path}: the list is empty")
    for number, line in enumerate(lines, 1):
        name, label = [*line.rsplit(maxsplit=1), "", ""][:2]
        problem = ""
        first, _, rest = name.partition("/")
        split = first if rest and first in rows and rows[first].folder.name == first else home
        if split is None:
            raise InputError(
                f"{path}:{number}: {line!r} is of no split; begin its path with "
                f"{' or '.join(f'{one}/' for one in rows)}"
            )
        name = rest if split == first and rest else name
        if not (name and label):
            problem = f"expected 'path label', found {line!r}"
        elif not safe_relative(name):
            problem = f"path {name!r} leaves the folder"
        elif (split, name) in seen:
            problem = f"{name!r} is listed twice"
        seen.add((split, name))
        part = rows[split]
        part.from_list = True
        if problem:
            part.problems[len(part.names)] = f"{path}:{number}: {problem}"
        part.names.append(name or line)
        part.labels.append(label)


def _classes(rows: Mapping[str, _Rows], classes_file: Path | None) -> list[str]:
    """Return class names by index: from the file, the folders and lists, or just numbers."""
    if classes_file is not None:
        return _read_classes(classes_file)
    listed = {
        label
        for part in rows.values()
        if part.from_list
        for index, label in enumerate(part.labels)
        if index not in part.problems
    }
    numbers = {int(label) for label in listed if _INDEX.fullmatch(label)}
    names = {name for part in rows.values() if not part.from_list for name in part.labels}
    names |= {label for label in listed if not _INDEX.fullmatch(label)}
    if not names and max(numbers, default=0) < MAX_CLASSES:
        return [str(index) for index in range(max(numbers, default=-1) + 1)]
    return sorted(names)


def _read_classes(path: Path) -> list[str]:
    """Return class names from lines ``name index``, which count 0, 1, 2, ... in any order."""
    names: dict[int, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if len(fields) < 2 or not _INDEX.fullmatch(fields[1]) or int(fields[1]) in names:
            raise InputError(f"{path}:{number}: expected 'name index', each once, found {line!r}")
        names[int(fields[1])] = fields[0]
    if sorted(names) != list(range(len(names))) or len(set(names.values())) != len(names):
        raise InputError(f"{path}: the indices must be 0, 1, 2, ..., each of another name")
    return [names[index] for index in range(len(names))]


def _samples(rows: _Rows, classes: Sequence[str]) -> Samples:
    """Return the columns of a split."""
    indices = {name: index for index, name in enumerate(classes)}
    indices |= {str(index): index for index in range(len(classes)) if str(index) not in indices}
    labels = np.full(len(rows.names), -1, np.int32)
    for index, label in enumerate(rows.labels):
        if label in indices:
            labels[index] = indices[label]
        else:
            where = f"{rows.folder}/{rows.names[index]}"
            rows.problems.setdefault(
                index, f"{where}: its class {label!r} is not one of the {len(classes):,} classes"
            )
    folder = str(rows.folder)
    paths = [
        "" if index in rows.problems else f"{folder}/{name}"
        for index, name in enumerate(rows.names)
    ]
    details = np.empty((len(rows.names), 0), np.int64)
    names = [stored_name(name) for name in rows.names]
    return Samples(names, labels, paths, details, rows.problems)
