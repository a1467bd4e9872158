"""DVS128 Gesture as published: recordings of several gestures each, with lists of their times.

    INPUT/trials_to_train.txt, trials_to_test.txt     one recording a line
    INPUT/user01_fluorescent.aedat                    AEDAT 3.1
    INPUT/user01_fluorescent_labels.csv               class,startTime_usec,endTime_usec

A line of a label file is a sample: the events from its start time to before its end time. It is
named after the recording, with the number of the line from 0: ``user01_fluorescent#3``. The folder
``DvsGesture`` of the archive may lie in INPUT. Amir et al.: "A Low Power, Fully Event-Based Gesture
Recognition System", CVPR 2017.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.events import Events, join
from eventdata.files.inputs import Numbers, file_numbers, only_local
from eventdata.formats.decoding import Chunk, DecodeOptions, Place, Recording
from eventdata.formats.recording import read_recording
from eventdata.raw.clock import mend
from eventdata.raw.framed import FrameSettings, Stream
from eventdata.raw.listing import read_lines
from eventdata.raw.source import Sample, Samples, SourceSettings, note, note_skipped
from eventdata.settings import setting
from eventdata.store.layout import Parameters, SampleFormat

LISTS = {"train": "trials_to_train.txt", "test": "trials_to_test.txt"}
CLASSES = (  # of gesture_mapping.csv, which counts them from 1
    "hand_clapping",
    "right_hand_wave",
    "left_hand_wave",
    "right_arm_clockwise",
    "right_arm_counter_clockwise",
    "left_arm_clockwise",
    "left_arm_counter_clockwise",
    "arm_roll",
    "air_drums",
    "air_guitar",
    "other_gestures",
)
SIZE = (128, 128)
_NAME = re.compile(r"\w[\w.-]{0,200}\.aedat", re.ASCII)
LATEST = 2**40  # microseconds; a recording has some minutes


@dataclass(frozen=True, kw_only=True)
class DvsGesture(SourceSettings):
    """The gestures of DVS128 Gesture under ``root``."""

    frames: FrameSettings = setting(factory=FrameSettings, section="Frames from events")
    dataset = "dvs-gesture"
    example = "DvsGesture/ gesture.zarr --frames 16"
    walks = False
    classes = CLASSES

    def __post_init__(self) -> None:
        super().__post_init__()
        only_local(self.root, "DVS128 Gesture")

    @cached_property
    def _folder(self) -> Path:
        """The folder of the lists: the input, or the archive's folder in it."""
        for folder in (self.root, self.root / "DvsGesture"):
            if any((folder / name).is_file() for name in LISTS.values()):
                return folder
        raise InputError(
            f"{self.root}: no {' or '.join(LISTS.values())} in this folder; pass the folder of the "
            "archive DvsGesture.tar.gz"
        )

    @property
    def sample_format(self) -> SampleFormat:
        return self.frames.sample_format(SIZE)

    @property
    def parameters(self) -> Parameters:
        return {"source": self.dataset, **self.frames.parameters}

    def splits(self) -> dict[str, Samples]:
        folder = self._folder
        lists = {split: folder / name for split, name in LISTS.items()}
        found = {split: path for split, path in lists.items() if path.is_file()}
        self.check_split(found)
        names = {split: _read_list(path) for split, path in found.items()}
        both = set.intersection(*map(set, names.values())) if len(names) > 1 else set()
        if both:
            raise InputError(
                f"{folder}: {min(both)} is in both {' and '.join(LISTS.values())}; keep it in one"
            )
        listing = {
            split: list_gestures(split, folder, part)
            for split, part in names.items()
            if self.only in (None, split)
        }
        notes = next(iter(listing.values())).notes
        notes += [
            f"{lists[split]}: missing, so there is no {split}" for split in lists.keys() - found
        ]
        listed = {name for part in names.values() for name in part}
        rest = sum(path.name not in listed for path in folder.glob("*.aedat"))
        if rest:
            notes.append(f"skipped {rest:,} recordings that are in no list")
        if not any(map(len, listing.values())):
            raise InputError(f"{folder}: no listed recording is in this folder; get it again")
        return listing

    def read(self, sample: Sample, out: NDArray[Any]) -> int:
        start, end = sample.details
        path = Path(sample.path)
        options = DecodeOptions(outside=self.frames.outside)
        opened = _open(path, file_numbers([sample.path])[0], options)
        events, notes = mend(opened.between(start, end))
        for text, place in notes:
            note(text, f"{sample.name}: {place}")
        if not len(events):
            first, last = int(opened.first.min()), int(opened.last.max())
            raise InputError(
                f"{path}: no events from {start:,} to {end:,} us for {sample.name}; the recording "
                f"has {first:,} to {last:,} us, so check its label file"
            )
        if end > opened.last.max() + 1:
            note("a gesture ends after its recording; the events up to there were used")
        try:
            return self.frames.fill(Stream.of(events), SIZE, out)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def _read_list(path: Path) -> list[str]:
    """Return the names of the recordings in a list."""
    names = [line.strip() for line in read_lines(path) if line.strip()]
    for name in names:
        if not _NAME.fullmatch(name):
            raise InputError(f"{path}: {name!r} is not the name of a recording; get the list again")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: {twice} is listed twice; remove one line")
    return names


def list_gestures(split: str, folder: Path, listed: Sequence[str]) -> Samples:
    """Return the gestures in some recordings of a folder, by their label files.

    Args:
        split: name of the split, for notes.
        folder: folder of the recordings.
        listed: names of the recordings in it.
    """
    names: list[str] = []
    paths: list[str] = []
    labels: list[int] = []
    details: list[tuple[int, int]] = []
    problems: dict[int, str] = {}
    missing: list[str] = []
    for recording in listed:
        path = folder / recording
        if not path.is_file():
            missing.append(recording)
            continue
        called = recording.removesuffix(".aedat")
        for name, label, times, problem in _read_labels(labels_of(path), called):
            if problem:
                problems[len(names)] = problem
            names.append(name)
            paths.append(str(path))
            labels.append(label)
            details.append(times)
    times_of = np.array(details, np.int64).reshape(-1, 2)
    samples = Samples(names, np.array(labels, np.int32), paths, times_of, problems)
    if missing:
        samples.notes.append(
            f"{split}: {len(missing):,} of {len(listed):,} listed recordings are missing, such as "
            f"{missing[0]}"
        )
    return samples


def labels_of(recording: Path) -> Path:
    """Return the path of a recording's label file."""
    return recording.with_name(f"{recording.stem}_labels.csv")


def _read_labels(path: Path, called: str) -> list[tuple[str, int, tuple[int, int], str]]:
    """Return name, label, start and end of each line, and its fault or ""."""
    try:
        lines = read_lines(path)
    except InputError as error:
        return [(called, -1, (0, 0), str(error))]
    if lines and not lines[0][:1].isdigit():
        lines = lines[1:]
    if not lines:
        return [(called, -1, (0, 0), f"{path}: no lines with gestures; get it again")]
    rows = []
    for number, line in enumerate(lines):
        label, start, end, problem = _parse(line)
        problem = problem and f"{path}: line {number + 1} of the gestures, {line!r}: {problem}"
        rows.append((f"{called}#{number}", label, (start, end), problem))
    return rows


def _parse(line: str) -> tuple[int, int, int, str]:
    """Return label from 0, start and end of a line of a label file, and its fault or ""."""
    fields = [one.strip() for one in line.split(",")]
    if len(fields) != 3 or not all(one.isascii() and one.isdigit() for one in fields):
        return -1, 0, 0, "it is not class,startTime_usec,endTime_usec in whole numbers"
    if max(map(len, fields)) > 18:
        return -1, 0, 0, "a number is too large"
    label, start, end = map(int, fields)
    if not 1 <= label <= len(CLASSES):
        return -1, 0, 0, f"the class must be 1 to {len(CLASSES)}"
    if not start < end <= LATEST:
        return -1, 0, 0, "the end time must be after the start time, within 12 days"
    return label - 1, start, end, ""


@dataclass
class _Opened:
    """A recording, and the place, first and last time of each of its C chunks."""

    path: Path
    options: DecodeOptions
    recording: Recording
    places: list[Place]
    first: NDArray[np.int64]  # (C,)
    last: NDArray[np.int64]  # (C,)
    _held: dict[int, Chunk] = field(default_factory=dict)  # those of the sample before

    def between(self, start: int, end: int) -> Events:
        """Return the events with start <= t < end, in the order of the file."""
        inside = np.flatnonzero((self.first < end) & (self.last >= start))
        wanted = range(inside[0], inside[-1] + 1) if len(inside) else range(0)
        absent = [number for number in wanted if number not in self._held]
        if absent:
            chunks = self.recording.chunks(self.places[absent[0]])
            count = wanted.stop - absent[0]
            self._held.update(
                zip(range(absent[0], wanted.stop), islice(chunks, count), strict=True)
            )
        self._held = {number: self._held[number] for number in wanted}
        checker = self.recording.checker(SIZE, self.options, str(self.path))
        parts = []
        for chunk in self._held.values():
            keep = (chunk.t >= start) & (chunk.t < end)
            parts.append(checker.check(*(column[keep] for column in chunk[1:])))
        checker.finish()
        note_skipped(checker.skipped)
        for text in self.recording.notes:
            note(text)
        return join(parts)


@lru_cache(maxsize=1)  # the samples of a recording come one after the other
def _open(path: Path, _state: Numbers, options: DecodeOptions) -> _Opened:
    """Read a recording once for the times of its chunks."""
    recording = read_recording(path, options)
    if recording.sensor_size not in (None, SIZE):
        raise InputError(f"{path}: not of a DVS128; get DVS128 Gesture as it is published")
    spans = [(c.place, int(c.t.min()), int(c.t.max())) for c in recording.chunks(None) if len(c.t)]
    if not spans:
        raise InputError(f"{path}: no events in it; get it again")
    places, first, last = zip(*spans, strict=True)
    return _Opened(path, options, recording, list(places), np.array(first), np.array(last))
