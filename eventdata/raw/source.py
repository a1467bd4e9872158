"""What a source of samples is, and the columns in which it lists them."""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.files import is_url
from eventdata.files.inputs import RemotePath, file_numbers, numbers_of
from eventdata.files.local import check_plain
from eventdata.jobs.worker import out_of_memory
from eventdata.store.layout import Parameters, SampleFormat

MAX_LIST_BYTES = 1 << 30  # the longest in use have some tens of MB
_PLAIN_PATH = re.compile(r"(?:\w[\w.-]*/)*\w[\w.-]*", re.ASCII)


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
    where unknown; details: int64 (N, D), whatever the source wants back in `Source.read`;
    problems: index -> why a listed sample can't be read (a bad line, a file that isn't there);
    notes: what a user should know of the listing.
    """

    names: list[str]
    labels: NDArray[np.int32]
    paths: list[str]
    details: NDArray[np.int64]
    problems: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    input_size: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    input_time: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def gather(cls, rows: Sequence[tuple["Samples", int]]) -> "Samples":
        """Single samples of one or several lists, their files not inspected yet."""
        width = rows[0][0].details.shape[1] if rows else 0
        return cls(
            names=[part.names[i] for part, i in rows],
            labels=np.array([part.labels[i] for part, i in rows], np.int32),
            paths=[part.paths[i] for part, i in rows],
            details=np.array([part.details[i] for part, i in rows], np.int64).reshape(
                len(rows), width
            ),
            problems={
                place: part.problems[i]
                for place, (part, i) in enumerate(rows)
                if i in part.problems
            },
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
        )

    def row(self, index: int) -> Sample:
        """One sample of the list."""
        details = tuple(self.details[index].tolist())
        return Sample(self.names[index], int(self.labels[index]), self.paths[index], details)

    def file_numbers(self, index: int) -> tuple[int, int]:
        """Size and time of change that `inspect_files` found of a sample's file."""
        return int(self.input_size[index]), int(self.input_time[index])

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns that a store keeps of its input, by the names of its arrays."""
        return {
            "name": np.array(self.names, dtype=object),
            "label": self.labels,
            "input_size": self.input_size,
            "input_time": self.input_time,
        }

    def inspect_files(self) -> None:
        """Fill input_size (bytes) and input_time (ns); note each file that isn't there."""
        self.input_size = np.zeros(len(self), np.uint64)
        self.input_time = np.zeros(len(self), np.int64)
        # Files behind a URL are looked up together, by listing their folders.
        step = max(len(self), 1) if any(map(is_url, self.paths)) else 1024
        with ThreadPoolExecutor(16) as threads:  # a stat over a network is slow, not busy
            batches = (self.paths[i : i + step] for i in range(0, len(self), step))
            numbers = threads.map(file_numbers, batches)
            found = (pair for batch in numbers for pair in batch)
            for index, (size, time) in enumerate(found):
                if size < 0:
                    self.problems.setdefault(index, f"{self.paths[index]}: the file isn't there")
                else:
                    self.input_size[index], self.input_time[index] = size, time


class SettingsOnly:
    """Base of sources that keep what they list: only their fields travel to worker processes."""

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]


class Source(Protocol):
    """Lists samples and reads one. A new source is one new file and one line in `raw.registry`.

    A source is a frozen dataclass of its settings: it travels to worker processes by pickle, and
    two with the same ``parameters`` read the same file to the same bytes.
    """

    @property
    def dataset(self) -> str:
        """Name of the data set."""

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
        """The samples of each split, in the order in which they will be stored.

        Raises InputError where the listing as a whole can't be used; a fault of a single sample
        goes into ``Samples.problems``. Files are not opened here.
        """

    def read(self, sample: Sample, out: NDArray[Any]) -> int:
        """Fill out (K, H, W, P) with one sample; return how many events its frames hold.

        Raises InputError, naming the file, where the sample can't be used.
        """


_told: ContextVar[Counter[str] | None] = ContextVar("told", default=None)


def tell(note: str) -> None:
    """Say what a user should know of the sample being read; equal notes are counted together."""
    notes = _told.get()
    if notes is not None:
        notes[note] += 1


@contextlib.contextmanager
def listen() -> Iterator[Counter[str]]:
    """Count what `Source.read` tells while this is open."""
    notes: Counter[str] = Counter()
    token = _told.set(notes)
    try:
        yield notes
    finally:
        _told.reset(token)


def safe_relative(name: str) -> bool:
    """Whether a listed path stays inside its folder, and does not pass for a URL."""
    if _PLAIN_PATH.fullmatch(name):  # most are, and a million of them are looked at
        return True
    path = Path(name)
    return (
        bool(name)
        and "\\" not in name
        and "\0" not in name
        and not re.search("://|::", name)  # :: leads from one file system of fsspec to another
        and not path.is_absolute()
        and (".." not in path.parts)
    )


def stored_name(name: str) -> str:
    """A file's name as text that can be stored: bytes that are no UTF-8 as backslash escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_lines(path: Path) -> list[str]:
    """Lines of a manifest or list, whatever its line ends, blank lines at the end left out.

    InputError where it can't be read, is no text, or has more than ``MAX_LIST_BYTES``.
    """
    try:
        remote = isinstance(path, RemotePath)
        size = numbers_of(str(path))[0] if remote else check_plain(path).st_size
        if size > MAX_LIST_BYTES:
            raise InputError(
                f"{path}: {size:,} bytes are more than the {MAX_LIST_BYTES:,} of a list; get it "
                "again"
            )
        text = path.read_text(encoding="utf-8-sig")
        return [line.rstrip() for line in text.rstrip().split("\n")] if text.strip() else []
    except OSError as error:
        raise InputError(
            f"{path}: can't be read ({error.strerror}); give the folder with it"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file; get it again") from None
    except MemoryError:
        raise out_of_memory(str(path)) from None
