"""Kill real commands at random moments, again and again, and then let them finish."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.faults.jobs import Content, Job, leftovers, without_work

MARK = "EVENTDATA_FAULTS"  # in the environment of a call and of all its processes
IN_A_ROW = 4  # kills before a job may finish
CALL_LIMIT = 200  # seconds after which a call counts as hanging
END_LIMIT = 20  # seconds that a worker may outlive its parent

Victim = Literal["parent", "worker", "group"]


@dataclass(frozen=True)
class Moment:
    """The moment of a kill: seconds after the start, or after this much work is kept."""

    kept: int | None
    seconds: float


@dataclass(frozen=True)
class Kill:
    """One call that was killed.

    seconds: its duration; kept: units of work done by then; faults: what was wrong.
    """

    job: str
    victim: Victim
    seconds: float
    kept: int
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Call:
    """A call that has ended."""

    code: int
    output: str
    victim: Victim | None
    seconds: float


class Place:
    """The place of a job's calls: its output and the folder of temporary files."""

    def __init__(self, folder: Path, job: Job) -> None:
        self.job = job
        self.out = folder / f"{job.name}.out"
        self.temporary = folder / f"{job.name}.tmp"
        self.log = folder / f"{job.name}.txt"
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir()

    def start(self, mark: str) -> subprocess.Popen[bytes]:
        """Start a call in its own process group."""
        environment = os.environ | {
            MARK: mark,
            "TMPDIR": str(self.temporary),
            "TORCHINDUCTOR_CACHE_DIR": str(self.temporary.with_suffix(".cache")),
            "OMP_NUM_THREADS": "1",
            "PYTHONFAULTHANDLER": "1",
        }
        with self.log.open("wb") as log:
            return subprocess.Popen(
                self.job.command(self.out),
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def call(
        self,
        victim: Victim | None = None,
        moment: Moment | None = None,
        blow: signal.Signals = signal.SIGKILL,
    ) -> Call:
        """Run one call to its end, or until one of its processes gets a signal at a moment."""
        mark = uuid.uuid4().hex
        started = time.monotonic()
        with self.start(mark) as process:
            hit: Victim | None = None
            if victim is not None and moment is not None and self.wait_for(moment, process):
                hit = _hit(process, victim, mark, blow)
            try:
                process.wait(CALL_LIMIT)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGABRT)  # makes faulthandler print tracebacks
                process.wait()
                output = self.log.read_text(errors="replace")
                raise TimeoutError(
                    f"{self.job.name}: hung after the kill of {hit}: {output}"
                ) from None
        seconds = time.monotonic() - started
        for pid in outliving(mark):
            os.kill(pid, signal.SIGKILL)
            raise TimeoutError(f"{self.job.name}: process {pid} outlived its call")
        return Call(process.returncode, self.log.read_text(errors="replace"), hit, seconds)

    def wait_for(self, moment: Moment, process: subprocess.Popen[bytes]) -> bool:
        """Wait for the moment; return false if the call ends before it."""
        deadline = time.monotonic() + CALL_LIMIT
        while process.poll() is None and time.monotonic() < deadline:
            if moment.kept is None or self.job.kept(self.out) >= moment.kept:
                time.sleep(moment.seconds)
                return process.poll() is None
            time.sleep(0.03)
        return False


def kill_at_random(
    job: Job, folder: Path, kills: int, seed: int, victims: Mapping[Victim, int]
) -> Iterator[Kill]:
    """Kill ``kills`` calls of a job; after a few in a row, let one call finish.

    victims: the processes to kill, each with its relative frequency.
    """
    draw = random.Random(f"{seed} {job.name}")
    place = Place(folder, job)
    first = place.call()
    faults = _faults_at_the_end(job, place, first, None, 0)
    if faults:
        raise RuntimeError(f"{job.name}: without any fault: {'; '.join(faults)}")
    whole = job.content(place.out)
    done = 0
    while done < kills:
        place = Place(folder, job)
        row: list[Kill] = []
        for _ in range(min(IN_A_ROW, kills - done)):
            (victim,) = draw.choices(list(victims), list(victims.values()))
            kill = _one_kill(job, place, whole, victim, _draw_moment(draw, job, place, first))
            if kill is None:  # it had finished before the kill
                break
            row.append(kill)
        kept = row[-1].kept if row else 0
        faults = _faults_at_the_end(job, place, place.call(), whole, kept)
        done += len(row)
        yield from row[:-1]
        if row:
            last = row[-1]
            yield Kill(last.job, last.victim, last.seconds, last.kept, (*last.faults, *faults))
        elif faults:
            raise RuntimeError(f"{job.name}: {'; '.join(faults)}")


def _draw_moment(draw: random.Random, job: Job, place: Place, whole: Call) -> Moment:
    """Draw any time of a call or, every other time, a moment after more work than ever before."""
    if draw.random() < 0.5:
        return Moment(None, draw.uniform(0, 1) * whole.seconds)
    return Moment(job.kept(place.out) + 1, draw.uniform(0, 0.1) * whole.seconds)


def _one_kill(
    job: Job, place: Place, whole: Content, victim: Victim, moment: Moment
) -> Kill | None:
    call = place.call(victim, moment)
    if call.victim is None or call.code == 0:
        return None
    faults = []
    if "Traceback" in call.output:
        faults.append(f"a traceback after the kill of {call.victim}: {call.output[-2000:]}")
    if call.victim == "worker" and "a worker process ended early" not in call.output:
        faults.append(f"the death of a worker is not reported: {call.output[-500:]}")
    if job.finished(place.out) and without_work(job.content(place.out)) != whole:
        faults.append("counts as finished, but is not")
    return Kill(job.name, call.victim, round(call.seconds, 2), job.kept(place.out), tuple(faults))


def _faults_at_the_end(
    job: Job, place: Place, call: Call, whole: Content | None, kept: int
) -> list[str]:
    """Return what is wrong after a call without faults."""
    if call.code != 0:
        return [f"the next call failed: {call.output[-2000:]}"]
    faults = []
    if whole is not None and job.content(place.out) != whole:
        faults.append("content differs from that of an uninterrupted call")
    if left := leftovers(place.out, place.temporary):
        faults.append(f"left over: {', '.join(left)}")
    return faults


def _hit(
    process: subprocess.Popen[bytes], victim: Victim, mark: str, blow: signal.Signals
) -> Victim:
    """Signal the victim, or the parent if no worker is running; return which one."""
    if victim == "group":
        os.killpg(process.pid, blow)
        return victim
    workers = workers_of(process.pid, mark) if victim == "worker" else []
    with contextlib.suppress(ProcessLookupError):
        if workers:
            os.kill(workers[-1], blow)
            return victim
    process.send_signal(blow)
    return "parent"


def marked(mark: str) -> list[int]:
    """Return the processes that carry the mark in their environment, without zombies."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                with open(f"/proc/{entry.name}/environ", "rb") as file:  # noqa: PTH123 short-lived
                    if f"{MARK}={mark}".encode() in file.read():
                        found.append(int(entry.name))
            except OSError:
                continue
    return sorted(found)


def workers_of(parent: int, mark: str) -> list[int]:
    """Return the worker processes of a call, the children of the fork server that it started."""
    family = {pid: _parent(pid) for pid in marked(mark)}
    servers = {pid for pid, above in family.items() if above == parent}
    return [pid for pid, above in family.items() if above in servers]


def outliving(mark: str) -> list[int]:
    """Return the marked processes that still exist after ``END_LIMIT`` seconds."""
    deadline = time.monotonic() + END_LIMIT
    while (found := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def _parent(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])
