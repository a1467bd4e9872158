"""Decide which folders of a dataset are its splits and which are its classes.

    CLASS/.../FILE              classes, one split
    SPLIT/CLASS/.../FILE        splits, each with its classes
    CLASS/SPLIT/.../FILE        classes, each with its splits

The names of folders and the places of the samples in them decide. Folders that fit two of these
layouts are refused, with what to rename.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from eventdata.errors import InputError

Tree = Mapping[str, Sequence[str]]
"""The paths of the samples in each folder, relative to the folder."""

_KINDS = {
    "train": "train training trainval",
    "val": "val valid validation dev",
    "test": "test testing",
    "eval": "eval evaluation",
}
_WORDS = {word: kind for kind, words in _KINDS.items() for word in words.split()}
_WORDS |= {f"{word}set": kind for word, kind in _WORDS.items()}
_FILLERS = "set split part subset data dataset samples files events recordings images".split()  # noqa: SIM905
_OBVIOUS = {"train", "val", "valid", "validation", "test"}  # names that need no note
_RUN = re.compile(r"[^\W\d_]+|[0-9]+")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_]+")


class Mark(NamedTuple):
    """The split that a folder's name means, and the rest of the name; "" for a plain one."""

    kind: str
    rest: str


def split_mark(name: str) -> Mark | None:
    """Return the mark of names such as Training, test_set, n-cars_train; None for other names."""
    tokens: list[str] = []
    for run in _RUN.findall(name):
        tokens += [run.lower()] if run.lower() in _WORDS else map(str.lower, _CAMEL.findall(run))
    tokens = [token for token in tokens if token not in _FILLERS]
    places = [place for place, token in enumerate(tokens) if token in _WORDS]
    if len(places) != 1 or places[0] not in (0, len(tokens) - 1):
        return None
    return Mark(_WORDS[tokens.pop(places[0])], " ".join(tokens))


@dataclass(frozen=True)
class Part:
    """The samples of one split, as paths relative to ``folder``, "" for the input itself."""

    folder: str
    classes: dict[str, list[str]]
    """The samples of each class; in class folders without samples, an empty list."""
    loose: list[str] = field(default_factory=list)
    """Samples that lie in no class folder."""


@dataclass(frozen=True)
class Layout:
    """The splits of a dataset, with "" for the only one of a dataset without splits."""

    parts: dict[str, Part]
    notes: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    """Folders with samples next to split folders."""


@dataclass(frozen=True)
class _Folder:
    """The samples directly in a folder, and those in each of its folders, by paths in it."""

    loose: list[str] = field(default_factory=list)
    inner: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, paths: Iterable[str]) -> "_Folder":
        found = cls()
        for path in paths:
            name, slash, _ = path.partition("/")
            if slash:
                found.inner.setdefault(name, []).append(path)
            else:
                found.loose.append(name)
        return found

    @property
    def nested(self) -> bool:
        return bool(self.inner) and not self.loose


def arrange(tree: Tree, where: str) -> Layout:
    """Return the layout of the folders of an input.

    Args:
        tree: the samples in each folder, also in folders without any.
        where: the input, for messages.

    Raises:
        InputError: the folders are no layout, or could be two.
    """
    folders = {name: _Folder.of(paths) for name, paths in sorted(tree.items()) if paths}
    notes: list[str] = []
    if _are_splits(folders, where, notes):
        return _split_layout(tree, list(folders), where)
    kids = _class_first(folders, where)
    if not kids:
        _check_wrapped(folders, where)
        return Layout({"": _whole(tree)}, notes)
    splits = _split_names({kid for inner in kids.values() for kid in inner}, where)
    parts = {split: Part("", {}) for split in _ordered(splits.values())}
    for name, folder in folders.items():
        for split, kid in _by_split(kids[name], splits, f"{where}/{name}").items():
            parts[split].classes[name] = [f"{name}/{path}" for path in folder.inner[kid]]
    listed = ", ".join(f"{kid} is {split}" for kid, split in sorted(splits.items()))
    return Layout(parts, [*notes, f"the folders in each class folder are splits: {listed}"])


def arrange_listed(tree: Tree, where: str) -> Layout:
    """Return the layout of an input whose samples a list may name.

    Folders that are called as splits are splits. All other folders are classes. Raise InputError
    for two folders of one split.
    """
    exact = [name for name in sorted(tree) if (mark := split_mark(name)) and not mark.rest]
    return _split_layout(tree, exact, where) if exact else Layout({"": _whole(tree)})


def _split_layout(tree: Tree, names: Iterable[str], where: str) -> Layout:
    splits = _split_names(names, where)
    folders = _by_split(splits, splits, where)
    parts = {}
    for split in _ordered(folders):
        folder = _Folder.of(tree[folders[split]])
        parts[split] = Part(folders[split], dict(sorted(folder.inner.items())), folder.loose)
    renamed = [
        f"{name} is {split}" for split, name in folders.items() if name.lower() not in _OBVIOUS
    ]
    notes = [f"split folders: {', '.join(renamed)}"] if renamed else []
    unused = [name for name, paths in tree.items() if paths and name not in splits]
    return Layout(parts, notes, unused)


def _whole(tree: Tree) -> Part:
    """Return the part of an input whose folders are classes."""
    found = {name: [f"{name}/{path}" for path in paths] for name, paths in sorted(tree.items())}
    return Part("", found)


def _ordered(splits: Iterable[str]) -> list[str]:
    return [split for split in ("train", "val", "test") if split in splits]


def _split_names(names: Iterable[str], where: str) -> dict[str, str]:
    """Return the split that each folder name means; eval is the test or validation set."""
    marks = {name: mark for name in names if (mark := split_mark(name))}
    kinds = {mark.kind for mark in marks.values()}
    free = [split for split in ("test", "val") if split not in kinds]
    if "eval" in kinds and not free:
        named = next(name for name, mark in marks.items() if mark.kind == "eval")
        raise InputError(
            f"{where}/{named}: a third set next to val and test; move it out of the input"
        )
    return {name: free[0] if mark.kind == "eval" else mark.kind for name, mark in marks.items()}


def _by_split(names: Iterable[str], splits: Mapping[str, str], where: str) -> dict[str, str]:
    """Return the folder of each split; raise InputError for two folders of one split."""
    found: dict[str, str] = {}
    for name in names:
        other = found.setdefault(splits[name], name)
        if other != name:
            raise InputError(
                f"{where}/{name}: a second folder for the split {splits[name]}, next to {other}; "
                "keep one, or rename them if they are classes"
            )
    return found


def _are_splits(folders: Mapping[str, _Folder], where: str, notes: list[str]) -> bool:
    """Return whether the folders with samples are splits; raise InputError if they may be."""
    marks = {name: mark for name in folders if (mark := split_mark(name))}
    plain = [name for name in folders if name not in marks]
    found = {name: folder for name, folder in folders.items() if name in marks}
    exact = [name for name in found if not marks[name].rest]
    alike = [name for name in found if marks[name].rest]
    nested = [name for name, folder in found.items() if folder.nested]
    sets: dict[str, set[str]] = {}  # rest of the name -> splits
    for name in found:
        sets.setdefault(marks[name].rest, set()).add(marks[name].kind)
    doubtful = InputError(
        f"{where}: unclear whether these folders are splits or classes: {', '.join(found)}; for "
        "splits, call them train, val and test, put a folder for each class into each of them, "
        "and move other folders out of the input; for classes, rename them"
    )
    if not found:
        return False
    if not plain:
        if not alike or (len(nested) == len(found) and (len(sets) == 1 or _share_classes(found))):
            return True
        if exact or nested or any(len(kinds) > 1 for kinds in sets.values()):
            raise doubtful
        notes.append(f"{', '.join(found)}: taken for classes; call splits train, val and test")
        return False
    if any(len(kinds) > 1 for kinds in sets.values()):
        if all(name in nested for name in found) and len(sets) == 1:
            return True
        raise doubtful
    flat_siblings = not any(folders[name].inner for name in plain)
    if any(name in nested for name in exact) or (flat_siblings and nested):
        raise doubtful
    if exact:
        notes.append(f"{', '.join(exact)}: taken for a class, like the folders next to it")
    return False


def _share_classes(found: Mapping[str, _Folder]) -> bool:
    """Return whether each folder has a class of another one."""
    inner = {name: {one.lower() for one in folder.inner} for name, folder in found.items()}
    return all(
        any(classes & others for other, others in inner.items() if other != name)
        for name, classes in inner.items()
    )


def _kids(folder: _Folder) -> list[str]:
    """Return the split folders in a class folder, recognised as next to plain classes."""
    marks = {name: mark for name in folder.inner if (mark := split_mark(name))}
    kinds: dict[str, set[str]] = {}
    for mark in marks.values():
        kinds.setdefault(mark.rest, set()).add(mark.kind)
    return sorted(
        name for name, mark in marks.items() if not mark.rest or len(kinds[mark.rest]) > 1
    )


def _class_first(folders: Mapping[str, _Folder], where: str) -> dict[str, list[str]]:
    """Return the split folders in each class folder; empty if no class has them."""
    kids = {name: found for name, folder in folders.items() if (found := _kids(folder))}
    if not kids:
        return {}
    for name, folder in folders.items():
        if folder.loose or {*folder.inner} != {*kids.get(name, [])}:
            named = next(iter(kids))
            raise InputError(
                f"{where}/{named}/{kids[named][0]}: looks like a split in a class folder, but not "
                f"all samples of {name} lie in such folders; rename it, or put split folders with "
                "class folders into the input: train/CLASS/FILE"
            )
    if len(folders) == 1:
        ((name, folder),) = folders.items()
        if any(path.count("/") > 1 for paths in folder.inner.values() for path in paths):
            raise _wrapped(where, f"{where}/{name}")
    return kids


def _check_wrapped(folders: Mapping[str, _Folder], where: str) -> None:
    """Raise InputError if a folder in the only folder holds the split folders."""
    inner = where
    while len(folders) == 1:
        ((name, folder),) = folders.items()
        inner = f"{inner}/{name}"
        if _kids(folder):
            raise _wrapped(where, inner)
        inside = {} if folder.loose else folder.inner
        folders = {
            kid: _Folder.of(path.partition("/")[2] for path in paths)
            for kid, paths in inside.items()
        }


def _wrapped(where: str, inner: str) -> InputError:
    return InputError(f"{where}: holds only a folder with the splits; pass {inner}")
