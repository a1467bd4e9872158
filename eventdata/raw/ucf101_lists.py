"""UCF101's clips and official lists, for the raw events (es_ucf101) and the videos (ucf101).

``classInd.txt``: ``1 ApplyEyeMakeup``; ``trainlist01.txt``: ``CLASS/v_CLASS_g08_c01.avi 1``;
``testlist01.txt``: the same without the label. Line ends are CRLF as published.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from eventdata.errors import InputError, OptionError
from eventdata.files.inputs import inside
from eventdata.raw.listing import read_lines, safe_relative, stored_name
from eventdata.raw.source import Samples, SourceSettings
from eventdata.settings import setting

_CLIP = re.compile(r"v_(?P<label>\w+)_g\d+_c\d+")
_Line = tuple[str, int | None, str]  # clip, label (None: by its name), problem ("": none)
ALL = "all"
FOLDERS = ""  # in place of a suffix: a clip as a folder of frames


@dataclass(frozen=True, kw_only=True)
class ClipFolders(SourceSettings):
    """A source of clips ``v_CLASS_gGG_cCC`` in ``root`` itself or in class folders there.

    With ``lists`` and ``fold`` the splits are train and test; without, there is one split ``all``.
    """

    lists: Path | None = setting(
        None,
        "Folder ucfTrainTestlist with the official lists; needs --fold.",
        unit="folder",
        option="splits",
        stored=False,
    )
    fold: int | None = setting(
        None, "Official split; needs --splits.", least=1, most=3, needs="splits"
    )
    suffixes: ClassVar[Sequence[str]]

    @cached_property
    def _clips(self) -> dict[str, list[Path]]:
        return find_clips(self.root, self.suffixes)

    @cached_property
    def classes(self) -> Sequence[str]:
        """The official class list where it is given, otherwise the classes of the clips."""
        return class_names(self._clips, self.lists)

    def splits(self) -> dict[str, Samples]:
        """Return train and test of the fold, or all clips."""
        return list_clips(self._clips, self.classes, self.lists, self.fold, self.only)


def find_clips(root: Path, suffixes: Collection[str]) -> dict[str, list[Path]]:
    """Return the paths of each clip, by its stem, in ``root`` or in class folders, sorted.

    A suffix of "" stands for folders: a clip as a folder of frames.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the one that holds the clips")
    found: dict[str, list[Path]] = {}
    entries = inside(root)
    for path, is_folder in list(entries):
        # A folder of frames is a clip or nothing: UCF101 as frames is two million files.
        if is_folder and not _CLIP.fullmatch(path.name):
            entries += inside(path)
    for path, is_folder in sorted(entries):
        name = path.name if is_folder else path.stem
        kind = "" if is_folder and _CLIP.fullmatch(name) else path.suffix.lower() or None
        if kind in suffixes and (kind == "") == is_folder:
            found.setdefault(name, []).append(path)
    if not found:
        kinds = " or ".join(suffix or "frame folders" for suffix in suffixes)
        raise InputError(f"{root}: no clips ({kinds}) in it or in class folders there")
    return found


def clip_class(clip: str) -> str | None:
    """Return the class in a clip's name, None if it is not named v_CLASS_gGG_cCC."""
    match = _CLIP.fullmatch(clip)
    return match["label"] if match else None


def read_class_index(lists: Path) -> list[str]:
    """Return class names of ``classInd.txt``; raise InputError if it does not count 1, 2, 3."""
    path = lists / "classInd.txt"
    classes = []
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if len(fields) != 2 or fields[0] != str(number):
            raise InputError(f"{path}:{number}: expected '{number} CLASS', found {line!r}")
        classes.append(fields[1])
    if len(set(classes)) != len(classes) or not classes:
        raise InputError(f"{path}: no classes in it, or one twice; get the file again")
    return classes


class _Numbers:
    """Numbers of classes by their names."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._exact = {name: number for number, name in enumerate(classes)}
        self._folded: dict[str, int] = {}
        for number, name in enumerate(classes):
            self._folded.setdefault(name.lower(), number)

    def of(self, name: str | None) -> int | None:
        """Return the number of a class, or None."""
        return None if name is None else self._exact.get(name)

    def of_published(self, name: str | None) -> int | None:
        """Return the same, ignoring case: UCF101 has HandStandPushups and HandstandPushups."""
        number = self.of(name)
        return self._folded.get(name.lower()) if name is not None and number is None else number


def class_names(clips: Collection[str], lists: Path | None) -> list[str]:
    """Return the official class list if there is one, otherwise the clips' classes, sorted."""
    if lists is not None:
        return read_class_index(lists)
    return sorted({name for clip in clips if (name := clip_class(clip))})


def list_clips(
    clips: Mapping[str, list[Path]],
    classes: Sequence[str],
    lists: Path | None,
    fold: int | None,
    only: str | None,
) -> dict[str, Samples]:
    """Return the clips of each split: train and test of the fold, or ``all`` without lists.

    The clips of a list that exist make the split, in the list's order, because many have only a
    part of UCF101. Notes count the missing clips, and the clips that no list names.
    """
    if (lists is None) != (fold is None):
        raise OptionError("--splits DIR and --fold 1|2|3 go together; give both or neither")
    numbers = _Numbers(classes)
    if lists is None or fold is None:
        if only not in (None, ALL):
            raise OptionError(f"without --splits there is one split, {ALL!r}, not {only!r}")
        everything: list[_Line] = [(clip, None, "") for clip in clips]
        return {ALL: _samples(everything, clips, numbers)}
    if only not in (None, "train", "test"):
        raise OptionError(f"with --splits the splits are train and test, not {only!r}")
    splits: dict[str, Samples] = {}
    notes = []
    elsewhere: dict[str, str] = {}  # clip -> the list that named it first
    for split in ("train", "test"):
        path = lists / f"{split}list{fold:02d}.txt"
        lines: list[_Line] = []
        missing = 0
        for number, line in enumerate(read_lines(path), 1):
            clip, label, problem = _parse_line(line, classes, numbers)
            if not problem and clip in elsewhere:
                problem = f"{clip!r} is listed twice (also in {elsewhere[clip]})"
            if not problem and clip not in clips:
                missing += 1
                continue
            elsewhere.setdefault(clip, path.name)
            lines.append((clip, label, f"{path}:{number}: {problem}" if problem else ""))
        if missing:
            notes.append(f"{path.name}: {missing:,} clips skipped, which are not in the input")
        if lines and only in (None, split):
            splits[split] = _samples(lines, clips, numbers)
    unlisted = sum(clip not in elsewhere for clip in clips)
    if unlisted:
        notes.append(f"{unlisted:,} clips skipped, which no list of fold {fold} names")
    if not splits:
        raise InputError(f"{lists}: none of the listed clips is in the input")
    next(iter(splits.values())).notes.extend(notes)
    return splits


def _parse_line(line: str, classes: Sequence[str], numbers: _Numbers) -> _Line:
    """Return clip, label and fault, or "", of a line of a train or test list."""
    fields = line.split()
    clip = PurePosixPath(fields[0]).stem if fields else ""
    if len(fields) not in (1, 2):
        return clip, None, f"{len(fields)} fields, not 1 or 2 (CLASS/CLIP.avi [label]): {line!r}"
    if not safe_relative(fields[0]):
        return clip, None, f"path {fields[0]!r} leaves the folder"
    label = numbers.of_published(clip_class(clip))
    if label is None:
        return clip, None, f"no class of classInd.txt is in the name: {line!r}"
    if len(fields) == 2 and fields[1] != str(label + 1):
        return clip, None, f"label {fields[1]} is not that of {classes[label]} ({label + 1})"
    return clip, label, ""


def _samples(
    lines: Sequence[_Line],
    clips: Mapping[str, list[Path]],
    numbers: _Numbers,
) -> Samples:
    """Return the columns of (clip, label or None to take it from the name, problem)."""
    problems = {}
    labels = np.full(len(lines), -1, np.int32)
    paths = []
    for index, (clip, label, problem) in enumerate(lines):
        places = clips.get(clip, [])
        if not problem and len(places) > 1:
            problem = f"{places[0]}: the same clip lies at {places[1]}"
        if label is None and not problem:
            label = numbers.of(clip_class(clip))
            if label is None:
                problem = f"{places[0]}: not named v_CLASS_gGG_cCC, so its class is unknown"
        if problem:
            problems[index] = problem
        labels[index] = -1 if label is None else label
        paths.append("" if problem else str(places[0]))
    # A sample is named as its file is; where there is none, as its line has it.
    names = [stored_name(clips[clip][0].name if clip in clips else clip) for clip, _, _ in lines]
    return Samples(names, labels, paths, np.empty((len(lines), 0), np.int64), problems)
