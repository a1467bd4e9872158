"""A job that may be interrupted anywhere and is resumed by the same command.

    OUT/.work/lock               held while a command works in a folder of this machine
    OUT/.work/SPLIT-N.json       the record of task N: its files are in place
    OUT/.work/*.tmp              temporary files of `eventdata.files.local.write_whole`

A task writes its files and then its record. It is done when its record can be read, is of this job
and has the sizes of its files. Two workers with one task write the same bytes, so a second one does
no harm. A worker may outlive its command: it checks its `Claim` before it writes.
"""

import contextlib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import MismatchError, StoreError
from eventdata.files import WORK, Files
from eventdata.files.inputs import MISSING, Numbers, file_numbers
from eventdata.files.local import LocalFiles, held
from eventdata.jobs.pool import Pool, run_tasks

Result = TypeVar("Result")
OnError = Literal["fail", "skip"]
Progress = Callable[[int, int], None]  # samples done, samples in total
Columns = Mapping[str, NDArray[Any]]

LOCK = f"{WORK}/lock"


@dataclass(frozen=True)
class Claim:
    """A place and the document that says to which job it belongs; it travels with each task.

    plan: a digest of everything that decides the files of the tasks; inputs: some input files, by
    which a worker on another machine checks what it sees.
    """

    files: Files
    key: str
    content: bytes
    plan: str = ""
    on_error: OnError = "fail"
    inputs: Mapping[str, Numbers] = field(default_factory=dict)

    def check(self) -> None:
        """Raise StoreError where another command has finished or replaced the job since."""
        if self.files.read(self.key) != self.content:
            raise StoreError(
                f"{self.files.where}: another command has finished or replaced it; run the same "
                "command again"
            )

    def unseen(self) -> str | None:
        """Return what this process cannot see of the place, or of the input files."""
        if self.files.read(self.key) != self.content:
            return f"{self.files.where} is missing or another folder"
        for path, numbers in self.inputs.items():
            found = file_numbers([path])[0]
            if found != numbers:
                return f"{path} is {'missing' if found == MISSING else 'another file'}"
        return None


@dataclass(frozen=True, kw_only=True)
class Record:
    """The result of a task for the end of the job. plan: `Claim.plan`, "" in old records."""

    skipped: Mapping[Any, str]
    plan: str = ""


RecordT = TypeVar("RecordT", bound=Record)


@dataclass(frozen=True)
class Task(ABC, Generic[RecordT]):
    """The work that one record stands for; it travels to a worker by pickle."""

    claim: Claim
    split: str
    number: int
    samples: Sized

    @abstractmethod
    def make(self) -> tuple[Mapping[str, bytes | bytearray], RecordT]:
        """Return the files and the record."""

    @abstractmethod
    def parse(self, document: bytes) -> RecordT:
        """Return the record if its files have their sizes.

        Raises ValueError, TypeError, KeyError or AttributeError otherwise, or if it is damaged.
        """

    @property
    def key(self) -> str:
        """The key of the record."""
        return f"{WORK}/{self.split}-{self.number}.json"

    def run(self) -> int:
        """Write the files, then the record; return the number of samples."""
        made, record = self.make()
        self.claim.check()
        self.claim.files.write({**made, self.key: json.dumps(asdict(record)).encode()})
        return len(self.samples)

    def record(self) -> RecordT | None:
        """Return the record, None where it is missing, damaged or of another job."""
        most = len(self.samples) * (1 << 15) + (1 << 20)  # one reason for each sample
        try:
            record = self.parse(self.claim.files.read(self.key, most) or b"")
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        return record if record.plan in ("", self.claim.plan) else None


@dataclass(frozen=True, kw_only=True)
class Job(Generic[RecordT, Result]):
    """The work of one command in one place.

    Args:
        claim: written once the job has begun.
        tasks: all tasks, those that are done included.
        is_complete: returns whether nothing is left; raises MismatchError for another job's place.
        begin: writes what is known before the first task.
        finish: writes what follows the last task; the last file marks the place complete.
    """

    claim: Claim
    tasks: Sequence[Task[RecordT]]
    is_complete: Callable[[], bool]
    begin: Callable[[], None]
    finish: Callable[[list[tuple[Task[RecordT], RecordT]]], Result]

    def resume(self, pool: Pool, progress: Progress | None) -> tuple[int, Result | None]:
        """Do what is left.

        Returns how many samples were done before, and what ``finish`` returned, None where nothing
        was left.
        """
        files, total = self.claim.files, sum(len(task.samples) for task in self.tasks)
        if self.is_complete() and WORK not in files.names():
            return total, None
        files.prepare()
        busy = "another command is writing to it; wait until that command ends"
        lock: contextlib.AbstractContextManager[None] = contextlib.nullcontext()  # of objects
        if isinstance(files, LocalFiles):
            lock = held(files.own(LOCK), StoreError(f"{files.where}: {busy}"))
        with lock:
            if self.is_complete():  # another command may have finished it since
                _clear(files)  # a kill between the last two steps leaves it
                return total, None
            self.begin()
            files.write({self.claim.key: self.claim.content})
            for key in files.list(WORK):
                if key.endswith(".tmp"):
                    files.remove(key)
            left, done_before = self.unfinished()
            done = done_before
            report = progress or (lambda done, total: None)
            with (
                pool.open(self.claim.unseen) as workers,
                contextlib.closing(run_tasks(workers, Task.run, left)) as counts,
            ):
                report(done, total)
                for count in counts:
                    done += count
                    report(done, total)
            records = [(task, record) for task, record in self._records() if record is not None]
            if len(records) < len(self.tasks):
                raise StoreError(
                    f"{files.where}: finished work is gone; run the same command again"
                )
            result = self.finish(records)
            _clear(files)
        return done_before, result

    def unfinished(self) -> tuple[list[Task[RecordT]], int]:
        """Return the tasks that are left, and how many samples are done."""
        left, done = [], 0
        for task, record in self._records():
            if record is None or (record.skipped and self.claim.on_error == "fail"):
                left.append(task)
            else:
                done += len(task.samples)
        return left, done

    def _records(self) -> Iterator[tuple[Task[RecordT], RecordT | None]]:
        keys = set(self.claim.files.list(WORK))
        with ThreadPoolExecutor(16) as threads:  # requests over a network are slow, not busy
            records = threads.map(
                lambda task: task.record() if task.key in keys else None, self.tasks
            )
            yield from zip(self.tasks, records, strict=True)


def _clear(files: Files) -> None:
    """Remove ``.work``. A command that comes meanwhile may put its lock there, and removes it."""
    if isinstance(files, LocalFiles):
        for key in files.list(WORK):
            if key != LOCK:
                files.remove(key)
    with contextlib.suppress(StoreError):
        files.remove(WORK)


def input_digest(splits: Mapping[str, Columns], facts: str = "") -> str:
    """Return the SHA-256 of facts and of the names, labels, sizes and times of the input files."""
    digest = hashlib.sha256(facts.encode())
    for split, columns in sorted(splits.items()):
        names = json.dumps([split, columns["name"].tolist()], indent=1, ensure_ascii=False)
        digest.update(names.encode("utf-8", "surrogatepass"))
        for key in ("label", "input_size", "input_time"):
            values = columns[key]
            digest.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def check_parameters(
    files: Files, old: Mapping[str, Any], new: Mapping[str, Any], place: str, remedy: str
) -> None:
    """Raise MismatchError where parameters differ; ``place`` is the name of OUT in the message."""
    different = [
        f"{key} is {old.get(key)!r} {place}, {new.get(key)!r} in this call"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    if different:
        raise MismatchError(
            f"{files.where}: made with other parameters: {'; '.join(different)}; {remedy}"
        )
