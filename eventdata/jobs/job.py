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
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import MismatchError, StoreError, writing
from eventdata.files import WORK, Files
from eventdata.files.inputs import MISSING, Numbers, file_numbers
from eventdata.files.local import LocalFiles, held, most_record_bytes, read_bounded
from eventdata.jobs.pool import OpenPool, Pool, memory_ran_out

Task = TypeVar("Task")
Result = TypeVar("Result")
Record = TypeVar("Record")
OnError = Literal["fail", "skip"]
Progress = Callable[[int, int], None]  # samples done, samples in total
Columns = Mapping[str, NDArray[Any]]

LOCK = f"{WORK}/lock"


@dataclass(frozen=True)
class Claim:
    """The document that says to which job a folder belongs; it travels with each task."""

    key: str
    content: bytes

    def check(self, files: Files) -> None:
        """Raise StoreError where another command has finished or replaced the job since."""
        if files.read(self.key) != self.content:
            raise StoreError(
                f"{files.where}: another command has finished or replaced it; run the same command "
                "again"
            )


def unseen(files: Files, claim: Claim, inputs: Mapping[str, Numbers]) -> str | None:
    """Return what this process cannot see of the output, or of input files by size and time."""
    if files.read(claim.key) != claim.content:
        return f"{files.where} is missing or another folder"
    for path, numbers in inputs.items():
        found = file_numbers([path])[0]
        if found != numbers:
            return f"{path} is {'missing' if found == MISSING else 'another file'}"
    return None


@dataclass(frozen=True, kw_only=True)
class Job(Generic[Task, Result]):
    """The work of one command in one place.

    Args:
        files: the place.
        claim: written once the job has begun.
        inputs: some input files, by which a worker on another machine checks what it sees.
        total: the samples of all tasks.
        is_complete: returns whether nothing is left; raises MismatchError for another job's place.
        begin: writes what is known before the first task.
        unfinished: returns the tasks that are left and how many samples are done.
        run: runs tasks and yields the number of samples of each.
        finish: writes what follows the last task; the last file marks the place complete.
    """

    files: Files
    claim: Claim
    inputs: Mapping[str, Numbers]
    total: int
    is_complete: Callable[[], bool]
    begin: Callable[[], None]
    unfinished: Callable[[], tuple[list[Task], int]]
    run: Callable[[OpenPool, list[Task]], Generator[int, None, None]]
    finish: Callable[[], Result]

    def resume(self, pool: Pool, progress: Progress | None) -> tuple[int, Result | None]:
        """Do what is left.

        Returns:
            The number of samples that were done before, and what ``finish`` returned; None where
            nothing was left.
        """
        files = self.files
        if self.is_complete() and WORK not in files.names():
            return self.total, None
        files.prepare()
        with _locked(files):
            if self.is_complete():  # another command may have finished it since
                _clear(files)  # a kill between the last two steps leaves it
                return self.total, None
            self.begin()
            files.write({self.claim.key: self.claim.content})
            for key in files.list(WORK):
                if key.endswith(".tmp"):
                    files.remove(key)
            tasks, done = self.unfinished()
            self._run(pool, tasks, done, progress or (lambda done, total: None))
            result = self.finish()
            _clear(files)
        return done, result

    def _run(self, pool: Pool, tasks: list[Task], done: int, progress: Progress) -> None:
        probe = partial(unseen, self.files, self.claim, self.inputs)
        try:
            with (
                pool.open(probe) as workers,
                contextlib.closing(self.run(workers, tasks)) as counts,
            ):
                progress(done, self.total)
                for count in counts:
                    done += count
                    progress(done, self.total)
        except MemoryError:  # of a write in a thread
            raise memory_ran_out() from None


@contextlib.contextmanager
def _locked(files: Files) -> Iterator[None]:
    if not isinstance(files, LocalFiles):
        yield
        return
    busy = StoreError(f"{files.where}: another command is writing to it; wait until that has ended")
    with contextlib.ExitStack() as stack:
        with writing(files.where):
            stack.enter_context(held(files.own(LOCK), busy))
        yield


def _clear(files: Files) -> None:
    """Remove ``.work``. A command that comes meanwhile may put its lock there, and removes it."""
    if isinstance(files, LocalFiles):
        for key in files.list(WORK):
            if key != LOCK:
                files.remove(key)
    with contextlib.suppress(StoreError):
        files.remove(WORK)


def record_key(split: str, number: int) -> str:
    """Return the key of a task's record."""
    return f"{WORK}/{split}-{number}.json"


def read_record(
    files: Files, key: str, samples: int, parse: Callable[[bytes], Record]
) -> Record | None:
    """Return a task's record, None where it is missing or damaged.

    Args:
        files: where it lies.
        key: see `record_key`.
        samples: how many samples the task has.
        parse: raises ValueError, TypeError, KeyError or AttributeError for a damaged document.
    """
    try:
        return parse(read_bounded(files, key, most_record_bytes(samples)) or b"")
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


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
    files: Files, values: Iterable[tuple[str, Any, Any]], place: str, remedy: str
) -> None:
    """Raise MismatchError where parameters of OUT differ from those of this call.

    Args:
        files: OUT.
        values: name, value in OUT and value in this call.
        place: the name of OUT in the message.
        remedy: what to do, as an imperative.
    """
    different = [f"{key} is {a!r} {place}, {b!r} in this call" for key, a, b in values if a != b]
    if different:
        raise MismatchError(
            f"{files.where}: made with other parameters: {'; '.join(different)}; {remedy}"
        )
