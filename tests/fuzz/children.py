"""Run cases in a child process; if a case kills it, another child resumes with the next case."""

import ctypes
import faulthandler
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tests.fuzz.cases import DEADLINE, Finding, Watch, make_cases
from tests.fuzz.readers import READERS
from tests.fuzz.seeds.trees import Real, Tree, write_tree
from tools.bench.report import resident

ADDRESS_SPACE = 4 << 30
"""Bytes that a child may allocate beyond those it has once everything is loaded."""
KEPT = 3
"""Findings of one place that are kept."""


@dataclass(frozen=True)
class Job:
    """Cases of one reader from a number on, limited by their number or by seconds."""

    reader: str
    seed: int = 0
    first: int = 0
    cases: int = sys.maxsize
    seconds: float = float("inf")


class Tally(ctypes.Structure):
    """The progress of a job, in memory shared with the child."""

    _fields_ = (
        ("next", ctypes.c_longlong),  # the running case, or the next one
        ("running", ctypes.c_bool),
        ("read", ctypes.c_longlong),
        ("refused", ctypes.c_longlong),
        ("seconds", ctypes.c_double),
    )


@dataclass(frozen=True)
class Done:
    """The outcome of a job; cases neither read nor refused are findings."""

    reader: str
    cases: int
    read: int
    refused: int
    seconds: float


def run_jobs(
    jobs: Sequence[Job],
    findings: Path,
    real: Real = None,
    say: Callable[[Finding], object] = lambda _: None,
) -> list[Done]:
    """Run jobs in turn in a child process, and in another one whenever it dies.

    Args:

        jobs: Jobs of different readers.
        findings: Folder for findings: READER-CASE/ with the files, READER-CASE.json.
        real: Folder of real data to take more seeds from.
        say: A function that is called with each death of a child.
    """
    findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_memory_folder()) as work:
        return _run_jobs(jobs, Path(work), findings, real, say)


def _memory_folder() -> str | None:
    """Return a folder in memory if there is one, because each case writes files."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _run_jobs(
    jobs: Sequence[Job], work: Path, findings: Path, real: Real, say: Callable[[Finding], object]
) -> list[Done]:
    context = multiprocessing.get_context("spawn")
    tallies: Any = context.RawArray(Tally, len(jobs))
    for job, tally in zip(jobs, tallies, strict=True):
        tally.next = job.first
    while any(not _is_done(*pair) for pair in zip(jobs, tallies, strict=True)):
        process = context.Process(target=_child, args=(list(jobs), tallies, work, findings, real))
        process.start()
        _wait(process, tallies)
        if process.exitcode == 0:
            break
        running = [pair for pair in zip(jobs, tallies, strict=True) if pair[1].running]
        if not running:
            words = (work / "stderr").read_text(errors="replace")
            raise RuntimeError(f"a child died between cases ({process.exitcode}): {words[-4000:]}")
        ((job, tally),) = running
        finding = _death(job, tally.next, process.exitcode, work)
        say(finding)
        save(finding, work / "case/input", findings)
        tally.running = False
        tally.next += 1
    return [
        Done(job.reader, tally.next - job.first, tally.read, tally.refused, tally.seconds)
        for job, tally in zip(jobs, tallies, strict=True)
    ]


def _is_done(job: Job, tally: Any) -> bool:
    return bool(tally.next - job.first >= job.cases or tally.seconds >= job.seconds)


def _wait(process: Any, tallies: Any) -> None:
    """Wait until a child ends; kill it if it hangs."""
    seen, since = bytes(tallies), time.monotonic()
    while process.is_alive():
        process.join(1)
        if bytes(tallies) != seen:
            seen, since = bytes(tallies), time.monotonic()
        elif time.monotonic() - since > 30 * DEADLINE:
            process.kill()


def _child(jobs: Sequence[Job], tallies: Any, work: Path, findings: Path, real: Real) -> None:
    with (work / "stderr").open("w+") as log:
        os.dup2(log.fileno(), 2)  # output of C libraries too
        faulthandler.enable(log)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        trees = {job.reader: READERS[job.reader].seeds(real) for job in jobs}
        watch = Watch(work)
        for name, seeds in trees.items():
            watch.warm_up(name, seeds)
        warnings.simplefilter("error")  # as in the tests, but only for our readers, not for imports
        limit = resident("VmSize") + ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for job, tally in zip(jobs, tallies, strict=True):
            if not _is_done(job, tally):
                _run_job(job, tally, watch, trees[job.reader], findings)


def _run_job(job: Job, tally: Any, watch: Watch, trees: list[Tree], findings: Path) -> None:
    started = time.monotonic() - tally.seconds
    places: Counter[str] = Counter()
    for number, tree in make_cases(job.reader, trees, job.seed, tally.next):
        tally.next, tally.seconds = number, time.monotonic() - started
        if _is_done(job, tally):
            return
        tally.running = True
        outcome = watch.run(job.reader, tree)
        tally.running = False
        if outcome == "read":
            tally.read += 1
        elif outcome == "refused":
            tally.refused += 1
        else:
            places[outcome.place] += 1
            if places[outcome.place] <= KEPT:
                files = watch.case / "again"  # the reader may have changed its files
                write_tree(files, tree)
                save(replace(outcome, case=number), files, findings)


def _death(job: Job, case: int, code: int | None, work: Path) -> Finding:
    """Return the finding for a child's death from its exit code and its last output."""
    words = (work / "stderr").read_text(errors="replace")[-8000:]
    if "Timeout (" in words:
        return Finding(job.reader, "deadline", _innermost(words), words, case)
    name = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
    return Finding(job.reader, "died", f"{name} {_innermost(words)}", words, case)


def _innermost(words: str) -> str:
    """Return our innermost line in faulthandler's traceback, which begins at the innermost."""
    lines = [line.strip() for line in words.splitlines() if line.startswith("  File ")]
    ours = [line for line in lines if "/eventdata/" in line or "/train/" in line]
    return (ours or lines or ["?"])[0].rsplit("/", 1)[-1].replace('", line ', ":")


def save(finding: Finding, files: Path, findings: Path) -> None:
    """Write a finding and its files."""
    name = f"{finding.reader}-{finding.case}"
    shutil.copytree(files, findings / name, dirs_exist_ok=True)
    (findings / f"{name}.json").write_text(json.dumps(asdict(finding), indent=1))
