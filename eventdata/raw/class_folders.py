"""Find the samples of a dataset in class folders, also in split folders with class folders.

`raw.split_folders` has the layouts. Links are followed. Notes report all files and folders that
are not read, and each guess.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os.path import realpath
from pathlib import Path
from typing import cast

from eventdata.errors import InputError
from eventdata.files.archives.indexes import read_indexes
from eventdata.files.archives.paths import Archived, unwrapped
from eventdata.files.inputs import RemotePath, files_below, inside, is_hidden
from eventdata.raw.listing import SHOWN, few, stored_name
from eventdata.raw.split_folders import Layout, Part, arrange, arrange_listed, split_mark

_DOCUMENT = re.compile(  # license_plate_01.csv is a recording
    r"readme.*|(licen[cs]e|copying|changelog|citation)s?(_(v\d|cc|mit|bsd|gpl|apache).*|\W.*)?",
    re.IGNORECASE,
)
_SPLIT_WORD = re.compile(r"(?<![a-z])(train|val|test)(?![a-z])")
_FOREIGN = re.compile(r"docs?|documentation", re.IGNORECASE)


@dataclass(frozen=True)
class ClassFolders:
    """The class folders of an input.

    loose: paths in it of samples that lie in no class folder; notes: remarks for the user.
    """

    root: Path
    layout: Layout
    loose: list[str]
    notes: list[str]
    archives: dict[str, Path] = field(default_factory=dict)
    """The folders that are archives in the input."""

    def folder(self, part: Part) -> Path:
        """Return the folder to which the paths of a part are relative."""
        if part.folder in self.archives:
            return self.archives[part.folder]
        return self.root / part.folder if part.folder else self.root

    def place(self, path: str) -> str:
        """Return where a sample is whose path is relative to the input."""
        folder, slash, rest = path.partition("/")
        archive = self.archives.get(folder)
        return f"{self.root}/{path}" if archive is None else f"{archive}{slash}{rest}"


def is_document(name: str) -> bool:
    """Return whether a file's name is that of a README, a licence or the like."""
    return _DOCUMENT.fullmatch(name) is not None


def find_class_folders(
    root: Path,
    what: str,
    is_sample: Callable[[str], bool],
    *,
    listed: bool = False,
    known: Collection[Path] = (),
    archives: bool = False,
) -> ClassFolders:
    """Find the class folders of an input.

    Args:
        root: the input, a folder on this machine or behind a URL.
        what: plural noun for the samples, for messages.
        is_sample: whether a file is a sample, by its name.
        listed: whether a list names samples, so that they need not lie in class folders.
        known: files that are read for other purposes, so that no note counts them.
        archives: whether archives in the input are read as folders.

    Raises:
        InputError: there is no such folder, or its layout is not clear.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; pass the one that holds the {what}")
    if archives and not split_mark((inner := unwrapped(root)).name):
        root = inner
    listed_paths = sorted(inside(root, archives=archives), key=lambda entry: str(entry[0]))
    visible = [(path, folder) for path, folder in listed_paths if not is_hidden(path.name)]
    opened, notes = _archives([path for path, _ in visible], str(root))
    visible = [(path, folder) for path, folder in visible if path not in opened.values()]
    beside = [path.name for path, folder in visible if not folder]
    folders = [path.name for path, folder in visible if folder]
    circular = [name for name in folders if _holds(root / name, root)]
    folders = [*(name for name in folders if name not in circular), *opened]
    read_indexes([cast(Archived, path).archive for path in opened.values()])
    opened = {name: unwrapped(path, name) for name, path in opened.items()}
    unfollowed: dict[str, list[str]] = {name: [] for name in folders}
    with ThreadPoolExecutor(16) as threads:  # to list over a network is slow, not busy
        places = [opened.get(name, root / name) for name in folders]
        found = dict(
            zip(folders, threads.map(files_below, places, unfollowed.values()), strict=True)
        )
    tree = {name: [path for path in paths if is_sample(path)] for name, paths in found.items()}
    unread = [
        f"{name}/{path}" for name, paths in found.items() for path in paths if not is_sample(path)
    ]
    unread += [name for name in beside if not is_sample(name) and root / name not in known]
    foreign = [name for name in folders if _FOREIGN.fullmatch(name)]
    if any(tree[name] for name in tree if name not in foreign):
        notes += _skipped([(name, len(tree.pop(name))) for name in foreign], what)
    layout = (arrange_listed if listed else arrange)(tree, str(root))
    notes += layout.notes
    notes += _skipped([(name, len(tree[name])) for name in layout.unused], what)
    loose = [name for name in beside if is_sample(name)]
    for part in layout.parts.values():
        loose += [f"{part.folder}/{name}" for name in part.loose]
    if loose and not listed:
        notes.append(f"skipped {len(loose):,} {what} that lie in no class folder: {few(loose)}")
    notes += _class_notes(root, layout)
    empty = [name for name in tree if not tree[name]]
    empty += [
        name
        for part in layout.parts.values()
        if part.folder not in opened
        for name in _empty(root, part)
    ]
    if empty:
        notes.append(f"skipped folders without {what}, which get no label: {few(empty)}")
    notes += _outer_folders(root, layout, what)
    links = [*circular, *(f"{name}/{one}" for name in folders for one in unfollowed[name])]
    if links:
        notes.append(
            f"links that lead to nothing, or to a folder that is read anyhow: {few(links)}"
        )
    unread = sorted(path for path in unread if not is_document(Path(path).name))
    if unread:
        s = "s" * (len(unread) > 1)
        notes.append(f"skipped {len(unread):,} file{s}, not {what}: {_kinds(unread)}")
    return ClassFolders(root, layout, loose, notes, opened)


def _archives(paths: Iterable[Path], where: str) -> tuple[dict[str, Path], list[str]]:
    """Return the archives among the paths by the names of their folders, and notes on the names.

    Those such as ILSVRC2012_img_train.tar are splits if all are and no two are the same one.
    """
    found = [cast(Archived, path) for path in paths if isinstance(path, Archived)]
    found = [path for path in found if not path.inner]
    words = [_SPLIT_WORD.findall(path.name.lower()) for path in found]
    if all(len(one) == 1 for one in words) and len({one[0] for one in words}) == len(words):
        named = {one[0]: path for one, path in zip(words, found, strict=True)}
        said = [f"{path.archive} is {name}" for name, path in named.items() if path.name != name]
        return cast(dict[str, Path], named), [f"split archives: {', '.join(said)}"] * bool(said)
    named = {}
    for path in found:
        if named.setdefault(path.name, path) != path:
            raise InputError(f"{where}: two archives are called {path.name}; keep one")
    return cast(dict[str, Path], named), []


def _holds(folder: Path, root: Path) -> bool:
    """Return whether a folder is a link to the input or to a folder around it."""
    if isinstance(root, RemotePath | Archived):
        return False
    return Path(realpath(root)).is_relative_to(realpath(folder))


def _empty(root: Path, part: Part) -> list[str]:
    """Return the folders in a split folder that hold no sample."""
    if not part.folder:
        return []
    folders = [path.name for path, folder in sorted(inside(root / part.folder)) if folder]
    return [
        f"{part.folder}/{name}"
        for name in folders
        if not is_hidden(name) and not part.classes.get(name)
    ]


def _class_notes(root: Path, layout: Layout) -> Iterator[str]:
    """Yield notes on classes in some splits only; InputError where classes differ only in case."""
    classes = {
        split: {name for name, paths in part.classes.items() if paths}
        for split, part in layout.parts.items()
    }
    classes = {split: names for split, names in classes.items() if names}
    for split, names in classes.items():
        others = set[str]().union(*(classes[other] for other in classes if other != split))
        only = sorted(names - others)
        lower = {one.lower(): one for one in others - names}
        for name in only:
            if name.lower() in lower:
                raise InputError(
                    f"{root}: the class {name} of {split} is {lower[name.lower()]} in another "
                    "split; give the folders one name"
                )
        if only and len(classes) > 1:
            yield f"classes only in {split}: {few(only)}"


def _outer_folders(root: Path, layout: Layout, what: str) -> Iterator[str]:
    """Yield a note if the classes may be inside the folders that are taken for classes."""
    inner: dict[str, set[str]] = {}
    for part in layout.parts.values():
        for name, paths in part.classes.items():
            found = [path.split("/", 2) for path in paths]
            if found:
                inner.setdefault(name, set()).update(one[1] for one in found if len(one) > 2)
    shared = set.intersection(*inner.values()) if inner else set()
    if len(shared) > 1 and len(inner) == 1:
        (name,) = inner
        remedy = f"pass {root / name}" if "" in layout.parts else "move these up"
        yield f"all {what} are of one class, {name}; if it holds class folders, {remedy}"
    elif "" not in layout.parts:
        return  # classes with folders of their own, such as those of subjects
    elif len(shared) > 1:
        yield (
            f"all classes hold the folders {few(sorted(shared))}; if these are the classes, name "
            f"the folders around them as splits: {few([*inner])}"
        )


def _skipped(folders: Iterable[tuple[str, int]], what: str) -> list[str]:
    return [
        f"skipped the folder {name}, which is no split and no class; {what} in it: {count:,}"
        for name, count in folders
        if count
    ]


def _kinds(paths: Sequence[str]) -> str:
    """Return the number of files by suffix, with an example each."""
    examples = {Path(path).suffix.lower(): path for path in reversed(paths)}
    counted = Counter(Path(path).suffix.lower() for path in paths).most_common()
    parts = [
        f"{count:,} {suffix or 'without a suffix'} ({stored_name(examples[suffix])})"
        for suffix, count in counted[:SHOWN]
    ]
    rest = sum(count for _, count in counted[SHOWN:])
    return ", ".join(parts + [f"{rest:,} others"] * bool(rest))
