"""Recordings of event cameras in class folders, whole or cut into samples of equal time.

    INPUT/CLASS/.../FILE            one split, "all"
    INPUT/SPLIT/CLASS/.../FILE      splits; `raw.split_folders` has their names

A sample is named after its path in its split, with its number if the recording is cut:
``CLASS/FILE#3``. Formats: `formats.recording`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError, OptionError
from eventdata.events import SensorSize
from eventdata.files.inputs import file_numbers, only_local
from eventdata.formats.decoding import DecodeOptions
from eventdata.formats.recording import DECODERS, read_recording
from eventdata.jobs.worker import out_of_memory
from eventdata.raw.class_folders import ClassFolders, find_class_folders, is_document
from eventdata.raw.framed import FrameSettings
from eventdata.raw.listing import stored_name
from eventdata.raw.reading import Excerpt, Survey, open_again, survey
from eventdata.raw.source import (
    Sample,
    Samples,
    SourceSettings,
    collect_notes,
    count_notes,
    note,
    note_skipped,
)
from eventdata.raw.time_unit import UnitChoice, choose_unit
from eventdata.settings import parameters_of, setting
from eventdata.store.layout import Parameters, SampleFormat
from eventdata.units import LATEST, UNITS

_TEXT = (".txt", ".csv")  # in these formats there are also files that hold no events
_SIDECAR = re.compile(
    r"(.*[^a-z])?(labels?|classes|notes?|annotations?|timestamps?|frame_times|args|imu|images|"
    r"ground_?truth|calib(ration)?|bbox|boxes)",
    re.IGNORECASE,
)
Folders = dict[Path, list[Path]]  # class folder -> recordings


@dataclass(frozen=True, kw_only=True)
class Recordings(SourceSettings):
    """Event files under ``root``, all from sensors of one size."""

    every: int | None = setting(
        None,
        "Cut recordings into samples of this length; whole recordings by default.",
        unit="microseconds",
        least=1,
        most=LATEST,
    )
    reading: DecodeOptions = setting(factory=DecodeOptions)
    frames: FrameSettings = setting(factory=FrameSettings, section="Frames from events")
    dataset = "recordings"
    example = "hands/ hands.zarr --every 100000 --window 10000"

    def __post_init__(self) -> None:
        super().__post_init__()
        only_local(self.root, "recordings")
        for transform in self.frames.transforms:
            if self.every is not None and transform.changes_time:
                raise OptionError(
                    f"--transform {transform} changes times, so --every can't cut samples; remove "
                    "one of them"
                )

    def of_files(self, folder: Path, names: Sequence[str], size: SensorSize | None) -> "Recordings":
        """Return this source with given files of one split and class, whose name is the folder's.

        Args:
            folder: the folder of the files.
            names: their paths in it.
            size: (W, H) of the sensor; None where the first file states it.
        """
        source = replace(self)
        vars(source)["_files"] = {"all": {folder: [folder / name for name in names]}}
        vars(source)["_notes"] = []
        if size is not None:
            vars(source)["_sensor"] = size
        if unit := self.frames.time_unit:  # also where all these files state theirs
            vars(source)["_unit"] = UnitChoice(unit, unit, [])
        return source

    @cached_property
    def _found(self) -> ClassFolders:
        return find_class_folders(self.root, "recordings", is_recording)

    @cached_property
    def _notes(self) -> list[str]:
        return self._found.notes

    @cached_property
    def _files(self) -> dict[str, Folders]:
        """The recordings of each split, in the order of their names, without hidden ones."""
        found = self._found
        for name in found.loose:
            if not name.lower().endswith(_TEXT):
                raise InputError(
                    f"{self.root / name}: lies in no class folder; put the files of each class "
                    "into a folder"
                )
        files: dict[str, Folders] = {}
        for split, part in found.layout.parts.items():
            folder = found.folder(part)
            for name, paths in part.classes.items():
                if paths:
                    listed = sorted(folder / path for path in paths)
                    files.setdefault(split or "all", {})[folder / name] = listed
        if not files:
            notes = "".join(f" ({note})" for note in found.notes)
            raise InputError(
                f"{self.root}: no class folders with event files in it ({' '.join(DECODERS)}); "
                f"put the files of each class into a folder of their own{notes}"
            )
        return files

    @cached_property
    def classes(self) -> Sequence[str]:
        return sorted({stored_name(one.name) for one in chain(*self._files.values())})

    @cached_property
    def _sensor(self) -> SensorSize:
        """Size of the sensor: as set, or of the first recording that can be read."""
        if self.frames.sensor_size is not None:
            return self.frames.sensor_size
        failed: list[InputError] = []
        listed = chain.from_iterable(one.values() for one in self._files.values())
        for path in chain.from_iterable(listed):
            try:
                size = read_recording(path, self._decoding).sensor_size
            except InputError as error:
                failed.append(error)
                continue
            if size is None:
                raise OptionError(f"{path}: does not state its sensor size; pass --sensor-size WxH")
            return size
        raise failed[0]

    @cached_property
    def _decoding(self) -> DecodeOptions:
        return replace(
            self.reading,
            sensor_size=self.frames.sensor_size,
            time_unit=self.frames.time_unit,
            outside=self.frames.outside,
        )

    @cached_property
    def _unit(self) -> UnitChoice:
        listed = chain.from_iterable(one.values() for one in self._files.values())
        return choose_unit(chain.from_iterable(listed), self.frames.time_unit, self._decoding)

    def _expecting(self, unit: int) -> DecodeOptions:
        """Return the options for a unit by its number in ``UNITS``, -1 for none."""
        if unit < 0:
            return self._decoding
        return replace(self._decoding, expected_unit=list(UNITS)[unit])

    @cached_property
    def _settings(self) -> FrameSettings:
        return self.frames if self.every is None else self.frames.of_length(self.every)

    @property
    def sample_format(self) -> SampleFormat:
        return self._settings.sample_format(self._sensor)

    @property
    def parameters(self) -> Parameters:
        values = {"every": self.every, **parameters_of(self.reading)}
        given = {key: value for key, value in values.items() if value is not None}
        unit = self._unit.stored
        values = {"source": self.dataset, **given, **self.frames.parameters, "time_unit": unit}
        return {key: value for key, value in values.items() if value is not None}

    def splits(self) -> dict[str, Samples]:
        self.check_split(self._files)
        listing = {
            split: self._list(split, folders)
            for split, folders in self._files.items()
            if self.only in (None, split)
        }
        next(iter(listing.values())).notes[:0] = [*self._notes, *self._unit.notes]
        return listing

    def _list(self, split: str, folders: Folders) -> Samples:
        """Return the samples of a split; with ``every``, survey all recordings."""
        names: list[str] = []
        paths: list[str] = []
        labels: list[int] = []
        rows: list[NDArray[np.int64]] = []
        problems: dict[int, str] = {}
        rest = empty = 0
        unit = -1 if self._unit.unit is None else list(UNITS).index(self._unit.unit)
        common = [*self._sensor, unit]  # workers need not look for them again
        with collect_notes() as notes:
            for folder, files in folders.items():
                label = self.classes.index(stored_name(folder.name))
                for path in files:
                    called = stored_name(path.relative_to(folder.parent).as_posix())
                    marks, details = [""], np.zeros((1, 0), np.int64)
                    if self.every is not None:
                        try:
                            pieces = self._survey(path, called, *common).pieces(self.every)
                        except InputError as error:
                            problems[len(names)] = str(error)
                        except MemoryError:
                            raise out_of_memory(str(path)) from None
                        else:
                            marks = [f"#{number}" for number in pieces.numbers.tolist()]
                            details = pieces.rows
                            rest, empty = rest + pieces.rest, empty + pieces.empty
                    names += [called + mark for mark in marks]
                    paths += [str(path)] * len(marks)
                    labels += [label] * len(marks)
                    rows.append(details)
        width = max(part.shape[1] for part in rows)
        padded = [np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in rows]
        shared = np.tile(np.array(common, np.int64), (len(names), 1))
        details = np.concatenate([shared, np.concatenate(padded)], axis=1)
        samples = Samples(names, np.array(labels, np.int32), paths, details, problems)
        samples.notes += [f"{split}: {text}" for text in count_notes(notes, "recording")]
        if rest:
            samples.notes.append(
                f"{split}: skipped {rest:,} us at the ends of recordings, less than --every each"
            )
        if empty:
            samples.notes.append(
                f"{split}: skipped {empty:,} sample{'s'[: empty > 1]} without events; the numbers "
                "of the others count them"
            )
        return samples

    def read(self, sample: Sample, out: NDArray[Any]) -> int:
        width, height, unit, *row = sample.details
        path, size = Path(sample.path), (width, height)
        if self.every is None:
            events = self._survey(path, sample.name, width, height, unit).whole()
        else:
            excerpt = Excerpt.of_row(row)
            state = file_numbers([sample.path])[0]
            events = open_again(path, state, size, self._decoding, excerpt.unit).excerpt(excerpt)
        try:
            return self._settings.fill(events, size, out)
        except InputError as error:
            named = str(error).startswith(f"{sample.path}: ")
            raise error if named else InputError(f"{sample.path}: {error}") from None

    def _survey(self, path: Path, name: str, width: int, height: int, unit: int) -> Survey:
        """Return the survey of a recording, and add its notes."""
        cut = self.every is not None
        found = survey(path, (width, height), self._expecting(unit), cut=cut)
        note_skipped(found.reader.skipped)
        for text in found.reader.notes:
            note(text)
        for text, where in found.clock.notes:
            note(text, f"{name}: {where}")
        return found


def is_recording(name: str) -> bool:
    """Return whether a file has the suffix of a format, and not a name such as labels or README."""
    path = Path(name)
    suffix = path.suffix.lower()
    if suffix in (*_TEXT, ".npy") and (is_document(path.name) or _SIDECAR.fullmatch(path.stem)):
        return False
    return suffix in DECODERS
