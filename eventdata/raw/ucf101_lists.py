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
from eventdata.files.archives.paths import unwrapped
from eventdata.files.inputs import inside
from eventdata.raw.listing import few, read_lines, safe_relative, stored_name
from eventdata.raw.source import Samples, SourceSettings
from eventdata.raw.split_folders import split_mark
from eventdata.settings import setting

_CLIP = re.compile(r"v_(?P<label>\w+)_g\d+_c\d+")
_Line = tuple[str, int, str]  # clip, label or -1, problem or ""
FOLDERS = ""  # in place of a suffix: a clip as a folder of frames


@dataclass(frozen=True, kw_only=True)
class ClipFolders(SourceSettings):
    """A source of clips ``v_CLASS_gGG_cCC`` in ``root`` itself or in class folders there.

    With ``lists`` and ``fold`` the splits are train and test; without, there is one split ``all``.
    The clips of a list that exist make the split, in the list's order, because many have only a
    part of UCF101. Notes count the missing clips, and the clips that no list names.
    """

    lists: Path | None = setting(
        None,
        "Folder ucfTrainTestlist with the official lists; needs --fold.",
        unit="folder",
        option="splits",
        stored=False,
    )
    fold: int | None = setting(
        None, "Official split, 1 to 3; needs --splits.", least=1, most=3, needs="splits"
    )
    suffixes: ClassVar[Sequence[str]]
    archives: ClassVar[bool] = False  # whether clips are read in archives

    @cached_property
    def _clips(self) -> dict[str, list[Path]]:
        return find_clips(self.root, self.suffixes, archives=self.archives)

    @cached_property
    def classes(self) -> Sequence[str]:
        if self.lists is not None:
            return _read_class_index(self.lists / "classInd.txt")
        return sorted({match["label"] for match in map(_CLIP.fullmatch, self._clips) if match})

    def splits(self) -> dict[str, Samples]:
        if (self.lists is None) != (self.fold is None):
            raise OptionError("--splits DIR and --fold 1|2|3 go together; pass both or neither")
        exact = {name: label for label, name in enumerate(self.classes)}
        # In lower case too: UCF101 has HandStandPushups and HandstandPushups.
        labels = {name.lower(): label for name, label in exact.items()} | exact
        if self.lists is None:
            if self.only not in (None, "all"):
                raise OptionError(f"without --splits there is one split, 'all', not {self.only!r}")
            samples = self._samples([(clip, -1, "") for clip in self._clips], labels)
            paths = (str(path) for places in self._clips.values() for path in places)
            parents = {path.rsplit("/", 2)[-2] for path in paths} - {self.root.name}
            named = sorted(name for name in parents if split_mark(name))
            if named:
                samples.notes.append(
                    f"clips in the folders {few(named)} are in the split all; pass --splits and "
                    "--fold for UCF101's splits"
                )
            return {"all": samples}
        self.check_split(("train", "test"))
        splits: dict[str, Samples] = {}
        notes = []
        elsewhere: dict[str, str] = {}  # clip -> the list that named it first
        for split in ("train", "test"):
            path = self.lists / f"{split}list{self.fold:02d}.txt"
            lines: list[_Line] = []
            missing = 0
            for number, line in enumerate(read_lines(path), 1):
                clip, label, problem = self._parse_line(line, labels)
                if not problem and clip in elsewhere:
                    problem = f"{clip!r} is listed twice (also in {elsewhere[clip]})"
                if not problem and clip not in self._clips:
                    missing += 1
                    continue
                elsewhere.setdefault(clip, path.name)
                lines.append((clip, label, f"{path}:{number}: {problem}" if problem else ""))
            if missing:
                notes.append(f"{path.name}: skipped {missing:,} clips that are not in the input")
            if lines and self.only in (None, split):
                splits[split] = self._samples(lines, labels)
        unlisted = sum(clip not in elsewhere for clip in self._clips)
        if unlisted:
            notes.append(f"skipped {unlisted:,} clips that no list of fold {self.fold} names")
        if not splits:
            raise InputError(
                f"{self.lists}: none of the listed clips is in the input; check both folders"
            )
        next(iter(splits.values())).notes.extend(notes)
        return splits

    def _parse_line(self, line: str, labels: Mapping[str, int]) -> _Line:
        fields = line.split()
        clip = PurePosixPath(fields[0]).stem if fields else ""
        if len(fields) not in (1, 2):
            return clip, -1, f"{len(fields)} fields, not 1 or 2 (CLASS/CLIP.avi [label]): {line!r}"
        if not safe_relative(fields[0]):
            return clip, -1, f"path {fields[0]!r} leaves the folder"
        label = _label(clip, labels)
        if label < 0:
            return clip, -1, f"no class of classInd.txt is in the name: {line!r}"
        if len(fields) == 2 and fields[1] != str(label + 1):
            name = self.classes[label]
            return clip, -1, f"label {fields[1]} is not that of {name} ({label + 1})"
        return clip, label, ""

    def _samples(self, lines: Sequence[_Line], numbers: Mapping[str, int]) -> Samples:
        """Return the columns of a split; a label of -1 is taken from the clip's name."""
        names: list[str] = []
        paths: list[str] = []
        labels = np.empty(len(lines), np.int32)
        problems: dict[int, str] = {}
        for index, (clip, label, problem) in enumerate(lines):
            places = self._clips.get(clip, [])
            if not problem and len(places) > 1:
                problem = f"{places[0]}: the same clip is also at {places[1]}"
            if not problem and label < 0:
                label = _label(clip, numbers)
                if label < 0:
                    problem = f"{places[0]}: not named v_CLASS_gGG_cCC, so its class is unknown"
            if problem:
                problems[index] = problem
            labels[index] = label
            paths.append("" if problem else str(places[0]))
            # A sample is named as its file is; where there is none, as its line has it.
            names.append(stored_name(places[0].name if places else clip))
        return Samples(names, labels, paths, np.empty((len(lines), 0), np.int64), problems)


def find_clips(
    root: Path, suffixes: Collection[str], *, archives: bool = False
) -> dict[str, list[Path]]:
    """Return the paths of each clip, by its stem, in ``root`` or in class folders, sorted.

    With ``archives``, those in the input are folders, and a folder around all class folders in one
    does not count.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; pass the one that holds the clips")
    found: dict[str, list[Path]] = {}
    entries = inside(unwrapped(root), archives=archives)
    for index, (path, _) in enumerate(entries):
        entries[index] = unwrapped(path), entries[index][1]
    for path, is_folder in list(entries):
        # A folder of frames is a clip or nothing: UCF101 as frames is two million files.
        if is_folder and not _CLIP.fullmatch(path.name):
            entries += inside(path)
    for path, is_folder in sorted(entries):
        name = path.name if is_folder else path.stem
        kind = FOLDERS if is_folder and _CLIP.fullmatch(name) else path.suffix.lower() or None
        if kind in suffixes and (kind == FOLDERS) == is_folder:
            found.setdefault(name, []).append(path)
    if not found:
        kinds = " or ".join(suffix or "frame folders" for suffix in suffixes)
        raise InputError(f"{root}: no clips ({kinds}) in it or its class folders; check it")
    return found


def _label(clip: str, labels: Mapping[str, int]) -> int:
    """Return the label of the class in a clip's name; -1 without one."""
    match = _CLIP.fullmatch(clip)
    name = match["label"] if match else ""
    return labels.get(name, labels.get(name.lower(), -1))


def _read_class_index(path: Path) -> list[str]:
    """Return class names from lines that count 1, 2, 3, ... in this order."""
    classes = []
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if len(fields) != 2 or fields[0] != str(number):
            raise InputError(f"{path}:{number}: expected '{number} CLASS', found {line!r}")
        classes.append(fields[1])
    if len(set(classes)) != len(classes) or not classes:
        raise InputError(f"{path}: it names no class, or one twice; get the file again")
    return classes
