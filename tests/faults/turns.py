"""Inject a fault at each file operation of a job in turn.

The process is killed there, the disk is full, a read fails, or a file vanishes or changes. An audit
hook in the process of a call counts the operations on its files and strikes at one of them. Then
the same call must finish the work.
"""

import errno
import os
import random
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.faults.forks import Forks
from tests.faults.jobs import Job, without_work

Fault = Literal["kill", "disk full", "read error", "file vanishes", "file changes"]
FAULTS: tuple[Fault, ...] = ("kill", "disk full", "read error", "file vanishes", "file changes")

_TAKES_SPACE = {"open", "os.mkdir", "os.rename", "os.fsync"}
_CHANGES = {*_TAKES_SPACE, "os.remove", "os.rmdir"}
_LOOKS = {"open", "os.listdir", "os.scandir"}


@dataclass(frozen=True)
class Turn:
    """A fault at one operation; code: the call's exit code; faults: what was wrong."""

    job: str
    fault: Fault
    number: int
    code: int
    faults: tuple[str, ...]


def in_turn(
    job: Job, fault: Fault, folder: Path, *, sample: int | None = None, seed: int = 0
) -> Iterator[Turn]:
    """Strike at every operation, or at a random ``sample`` of them, each in its own call."""
    place = Forks(job, folder / f"{job.name}-turns")
    place.get_ready()
    code, output = place.call(_Striker(job, place, fault, -1).watch)
    if code:
        raise RuntimeError(f"{job.name}: without any fault: {output[-2000:]}")
    whole = job.content(place.out)
    for number in _chosen(place.operations.stat().st_size, sample, f"{seed} {job.name} {fault}"):
        place.renew()
        striker = _Striker(job, place, fault, number)
        code, output = place.call(striker.watch)
        faults = _faults_of_the_end(fault, code, output)
        if job.finished(place.out) and without_work(job.content(place.out)) != whole:
            faults.append("counts as finished, but is not")
        striker.restore()
        faults += place.faults_of_the_next_call(whole)
        yield Turn(job.name, fault, number, code, tuple(faults))


def _chosen(count: int, sample: int | None, seed: str) -> Sequence[int]:
    if sample is None or sample >= count:
        return range(count)
    return sorted(random.Random(seed).sample(range(count), sample))


def _faults_of_the_end(fault: Fault, code: int, output: str) -> list[str]:
    if fault == "kill":
        return [] if code == -signal.SIGKILL else [f"not killed, exit code {code}: {output[-500:]}"]
    # 0: the call could do without the file, as `info` can without the size of a store. 2: a recipe
    # that has changed may have invalid settings.
    codes = (0, 1, 2) if fault == "file changes" else (0, 1)
    if code not in codes or "Traceback" in output or (code and "eventdata: " not in output):
        return [f"the error is not one sentence, exit code {code}: {output[-2000:]}"]
    return []


class _Striker:
    """A hook that counts operations on a job's files and strikes at one of them; -1: at none."""

    def __init__(self, job: Job, place: Forks, fault: Fault, number: int) -> None:
        self.fault, self.number, self.log = fault, number, place.operations
        self.away = place.folder / "away"
        self.of_output = fault in ("kill", "disk full")
        self.below = f"{place.out if self.of_output else job.inputs}/"
        self.kinds = {"kill": _CHANGES, "disk full": _TAKES_SPACE, "read error": _LOOKS}.get(
            fault, {"open"}
        )
        self.count = 0
        self.file = -1

    def watch(self) -> None:
        """Start to count, in a fork."""
        self.file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        sys.addaudithook(self.hear)
        fsync = os.fsync

        def heard_fsync(number: Any) -> None:
            self.hear("os.fsync", (f"/proc/self/fd/{number}",))
            fsync(number)

        os.fsync = heard_fsync  # type: ignore[assignment]

    def hear(self, event: str, details: tuple[Any, ...]) -> None:
        """Count an operation; an error raised by this audit hook fails the operation."""
        if event not in self.kinds or not isinstance(details[0], str | bytes | os.PathLike):
            return
        path = os.fsdecode(details[0])
        if event == "os.fsync":
            path = str(Path(path).readlink())
        if not path.startswith(self.below):
            return
        writes = event == "open" and details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event == "open" and bool(writes) != self.of_output:
            return
        if self.fault == "file changes" and path.endswith(".txt"):
            return  # a list read after its change is simply another list
        os.write(self.file, b".")
        self.count += 1
        if self.count == self.number + 1:
            self.strike(Path(path))

    def strike(self, path: Path) -> None:
        """Inject the fault once."""
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault == "disk full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        elif self.fault == "read error":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        else:
            self.kinds = set()
            shutil.copy2(path, self.away)
            self.away.with_suffix(".path").write_text(str(path))
            if self.fault == "file vanishes":
                path.unlink()
            else:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def restore(self) -> None:
        """Restore the file that vanished or changed, with its times."""
        if self.away.exists():
            shutil.copy2(self.away, self.away.with_suffix(".path").read_text())
