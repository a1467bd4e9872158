"""The Protocol of a source of samples, and the columns in which it lists them."""

import contextlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import OptionError
from eventdata.events import count_events
from eventdata.files import is_url
from eventdata.files.archives.index import Place
from eventdata.files.archives.members import locate
from eventdata.files.inputs import file_numbers
from eventdata.settings import Settings, from_options, parameters_of, setting
from eventdata.store.layout import Parameters, SampleFormat


class Sample(NamedTuple):
    """One listed sample: its name (unique in its split), label, and numbers its source needs."""

    name: str
    label: int
    path: str
    details: tuple[int, ...]


@dataclass
class Samples:
    """The samples of one split as columns (a million samples as objects would fill the memory).

    names: unique; paths: files they are read from ("" where there is none); labels: int32, -1
    where unknown; details: int64 (N, D), values that the source needs in `Source.read`;
    problems: index -> why a listed sample can't be read (a bad line, a missing file);
    notes: remarks on the listing for the user; places: int64 (N, 4), those of members of archives,
    -1 for other files, or (0, 4) where there are no members.
    """

    names: list[str]
    labels: NDArray[np.int32]
    paths: list[str]
    details: NDArray[np.int64]
    problems: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    input_size: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    input_time: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    places: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 4), np.int64))

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def gather(cls, rows: Sequence[tuple["Samples", int]]) -> "Samples":
        """Return single samples without problems, their files not inspected yet."""
        return cls(
            names=[part.names[i] for part, i in rows],
            labels=np.array([part.labels[i] for part, i in rows], np.int32),
            paths=[part.paths[i] for part, i in rows],
            details=np.array([part.details[i] for part, i in rows], np.int64),
        )

    def __getitem__(self, part: slice) -> "Samples":
        indices = range(*part.indices(len(self)))
        return Samples(
            names=self.names[part],
            labels=self.labels[part],
            paths=self.paths[part],
            details=self.details[part],
            problems={i - indices.start: self.problems[i] for i in indices if i in self.problems},
            input_size=self.input_size[part],
            input_time=self.input_time[part],
            places=self.places[part],
        )

    def take(self, indices: NDArray[np.intp]) -> "Samples":
        """Return some of the samples, their files not inspected yet, without the notes."""
        chosen = indices.tolist()
        return Samples(
            names=[self.names[i] for i in chosen],
            labels=self.labels[indices],
            paths=[self.paths[i] for i in chosen],
            details=self.details[indices],
            problems={
                place: self.problems[i] for place, i in enumerate(chosen) if i in self.problems
            },
        )

    def row(self, index: int) -> Sample:
        """Return one sample of the list."""
        details = tuple(self.details[index].tolist())
        return Sample(self.names[index], int(self.labels[index]), self.paths[index], details)

    def place(self, index: int) -> Place | None:
        """Return the place of a sample in an archive, None for a file."""
        if not len(self.places) or self.places[index, 0] < 0:
            return None
        return Place(*self.places[index].tolist())

    def all_places(self) -> list[Place | None]:
        """Return the places of all samples."""
        return [self.place(index) for index in range(len(self))]

    def file_numbers(self, index: int) -> tuple[int, int]:
        """Return the size and time of change that `inspect_files` found for a sample."""
        return int(self.input_size[index]), int(self.input_time[index])

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns that a store keeps of its input, by the names of its arrays."""
        return {
            "name": np.array(self.names, dtype=object),
            "label": self.labels,
            "input_size": self.input_size,
            "input_time": self.input_time,
        }

    def inspect_files(self) -> None:
        """Fill input_size (bytes), input_time (ns) and places; note each missing file.

        A member of an archive has the time of the archive, by which a changed one is noticed.
        """
        # Files behind a URL are looked up together, by listing their folders.
        step = max(len(self), 1) if any(map(is_url, self.paths)) else 1024
        pair: Any = np.dtype((np.int64, 2))
        plain = self.paths
        times = array("q")  # of the archive of each member
        members = array("q")
        places = array("q")
        for index, found_at in enumerate(locate(self.paths)):
            if found_at is not None:
                if not members:
                    plain = list(self.paths)
                plain[index] = ""
                members.append(index)
                times.append(found_at[0])
                places.extend(found_at[1])
        if members:
            self.places = np.full((len(self), 4), -1, np.int64)
            self.places[members] = np.reshape(places, (-1, 4))
        batches = (plain[i : i + step] for i in range(0, len(self), step))
        with ThreadPoolExecutor(16) as threads:  # a stat over a network is slow, not busy
            found = chain.from_iterable(threads.map(file_numbers, batches))
            numbers = np.fromiter(found, pair, len(self))
        if members:
            numbers[members] = np.stack([self.places[members, 2], times], axis=1)
        for index in np.flatnonzero(numbers[:, 0] < 0).tolist():
            self.problems.setdefault(index, f"{self.paths[index]}: the file is missing")
        self.input_size = numbers[:, 0].clip(0).astype(np.uint64)
        self.input_time = numbers[:, 1].copy()


class Source(Protocol):
    """A source lists samples and reads one.

    A source is a frozen dataclass of its settings: it travels to worker processes by pickle, and
    two sources with the same ``parameters`` read the same file to the same bytes.
    """

    @property
    def dataset(self) -> str:
        """Name of the dataset."""

    @property
    def classes(self) -> Sequence[str]:
        """Class names, by label."""

    @property
    def sample_format(self) -> SampleFormat:
        """Shape and type of each sample."""

    @property
    def parameters(self) -> Parameters:
        """Settings that decide what the samples hold, as JSON values."""

    def splits(self) -> dict[str, Samples]:
        """Return the samples of each split, in the order in which they will be stored.

        Files are not opened here. A fault of a single sample goes into ``Samples.problems``.

        Raises:
            InputError: the listing as a whole can't be used.
        """

    def read(self, sample: Sample, out: NDArray[Any]) -> int:
        """Fill out (K, H, W, P) with one sample; return the number of events in its frames.

        Raises:
            InputError: the sample can't be used; the message names the file.
        """


@dataclass(frozen=True)
class SourceSettings(Settings):
    """Base of the sources in `raw.registry`, whose fields are their options.

    Only the fields travel to worker processes, not the listing that a source keeps.
    """

    root: Path
    only: str | None = setting(
        None, "Split to use, such as train or val; all by default.", option="split", stored=False
    )

    dataset: ClassVar[str]
    walks: ClassVar[bool] = True  # into all folders of the input, not only into known ones
    example: ClassVar[str] = "INPUT OUT"  # for the help page, after the source's name

    @classmethod
    def build(cls, name: str, root: Path, options: Mapping[str, Any]) -> Source:
        """Return the source ``name`` on a folder or URL; options as `from_options` reads them."""
        return cast(Source, from_options(cls, options, root=root))

    @property
    def parameters(self) -> Parameters:
        """The stored options, those that decide what the samples hold."""
        return {"source": self.dataset, **parameters_of(self)}

    def check_split(self, known: Iterable[str]) -> None:
        """Raise OptionError if the only split to convert is not a known one."""
        if self.only is not None and self.only not in known:
            raise OptionError(
                f"{self.root}: no split {self.only!r}; choose from {', '.join(known)}"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


_notes: ContextVar[Counter[str]] = ContextVar("notes")


OFF_SENSOR = "skipped {} off the sensor"
EVENTS = "\tevents"  # ends the key under which the events of a note are counted


def note(text: str, example: str = "") -> None:
    """Add a note for the user about the sample being read.

    Equal texts are counted together; the first example, which names its sample, is kept.
    """
    notes = _notes.get(Counter())
    same = (key for key in notes if example and key.partition("\n")[0] == text)
    notes[next(same, f"{text}\n{example}" if example else text)] += 1


def note_skipped(events: int) -> None:
    """Add a note on events off the sensor, whose numbers in all samples are added up."""
    if events:
        note(OFF_SENSOR)
        _notes.get(Counter())[OFF_SENSOR + EVENTS] += events


def count_notes(counted: Mapping[str, int], what: str) -> list[str]:
    """Return the notes of `collect_notes`, in one or more parts, with the number of samples.

    Args:
        counted: notes, with their numbers.
        what: a noun for what was counted, such as sample.
    """
    numbers: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for key, count in sorted(counted.items()):
        if key.endswith(EVENTS):
            continue
        text, _, example = key.partition("\n")
        numbers[text] += count
        examples.setdefault(text, example)

    def spell(text: str) -> str:
        events = counted.get(text + EVENTS)
        return text if events is None else text.format(count_events(events))

    return [
        f"{count:,} {what}{'s'[: count > 1]}: {spell(text)}"
        + f"; {'first ' if count > 1 else ''}{examples[text]}" * bool(examples[text])
        for text, count in numbers.items()
    ]


@contextlib.contextmanager
def collect_notes() -> Iterator[Counter[str]]:
    """Count the notes that `Source.read` adds while this is open."""
    notes: Counter[str] = Counter()
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)
