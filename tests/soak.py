"""Read one store in many processes for a long time while it is verified again and again.

    python -m tests.soak [--readers 8] [--minutes 10] [--open-files N] [--output soak.json] [STORE]

Half of the readers are FrameLoaders, half are torch DataLoaders with persistent workers. Each reads
epoch after epoch and compares every sample with its checksum, while `verify` runs in its own
process. They begin together, when all have opened the store. The exit code is 1 if a sample was
wrong, if verify found a problem, or if a process's memory or open files have grown since the
beginning.
"""

import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import click
import google_crc32c
import numpy as np
import torch
from torch.utils.data import DataLoader

import eventdata
from tests.drawn import Drawn
from tests.usage import family, open_files, private, proportional
from tools.bench.report import machine, output_option

BATCH = 16
WARM_UP = 0.1  # share of the time in which memory may still grow, and at least
LEAST_ROUNDS = 4  # half of these rounds in a short run
GROWTH_BYTES = 16 << 20  # that an allocator may add afterwards
FILES_IN_FLIGHT = 16  # of batches in flight between a DataLoader's processes
SAMPLES = 512
PRELOADED = ["torch.utils.data", "eventdata.loader", "eventdata.verification", "tests.drawn"]
READY_SECONDS = 1800  # until the last of many processes has started

Rounds = Iterator[tuple[int, int] | None]
"""The samples of each round and those wrong, and None at other times to record the memory."""


@dataclass
class Watched:
    """The work of one process, with its peaks of memory in bytes and of open files.

    wrong: samples that differ, or problems that verify found; first, last: peaks in the first
    share of the time and after it, without the memory that other processes share;
    proportional_bytes: the peak with its part of the shared memory.
    """

    name: str
    rounds: int = 0
    seconds: float = 0.0
    samples: int = 0
    wrong: int = 0
    first_bytes: int = 0
    last_bytes: int = 0
    proportional_bytes: int = 0
    first_files: int = 0
    last_files: int = 0
    error: str = ""
    faults: list[str] = field(default_factory=list)

    def look(self, share: float) -> None:
        """Record memory and files of this process and its children at a share of the time."""
        memory, files = sum(map(private, family())), sum(map(open_files, family()))
        if share < WARM_UP or self.rounds < LEAST_ROUNDS / 2:
            self.first_bytes = max(self.first_bytes, memory)
            self.first_files = max(self.first_files, files)
        else:
            self.last_bytes = max(self.last_bytes, memory)
            self.last_files = max(self.last_files, files)

    def end_round(self, samples: int, wrong: int) -> None:
        """Count a round, and record the memory with its shared part."""
        self.rounds += 1
        self.samples += samples
        self.wrong += wrong
        self.proportional_bytes = max(self.proportional_bytes, sum(map(proportional, family())))

    def judge(self) -> None:
        """List the failures of this process."""
        if self.error:
            self.faults.append(self.error)
        if self.wrong:
            self.faults.append(f"{self.wrong} wrong")
        if self.last_bytes > self.first_bytes + GROWTH_BYTES:
            self.faults.append(f"memory grew from {self.first_bytes:,} to {self.last_bytes:,}")
        if self.last_files > self.first_files + FILES_IN_FLIGHT:
            self.faults.append(f"open files grew from {self.first_files} to {self.last_files}")


@click.command()
@click.argument("store", required=False)
@click.option("--readers", default=8, show_default=True)
@click.option("--minutes", default=10.0, show_default=True)
@click.option(
    "--open-files",
    "most",
    type=click.IntRange(64),  # Python, torch and the queues need some
    help="Limit on the open files of each process (ulimit -n).",
)
@output_option
def main(
    store: str | None, readers: int, minutes: float, most: int | None, output: Path | None
) -> None:
    """Read and verify STORE, or a random store with more shards than a reader may keep open."""
    with tempfile.TemporaryDirectory() as folder:
        place = store or make_store(Path(folder), SAMPLES // most if most else 16)
        processes = run(place, readers, 60 * minutes, most)
    for one in processes:
        one.judge()
    failures = [f"{one.name}: {fault}" for one in processes for fault in one.faults]
    rate = sum(one.samples / one.seconds for one in processes if one.samples)
    median = statistics.median(one.proportional_bytes for one in processes if one.name != "verify")
    head = f"{'process':<15}{'rounds':>7}{'samples':>12}{'wrong':>7}"
    click.echo(f"{head}{'private MB':>15}{'MB':>6}{'files':>12}")
    for one in processes:
        memory = f"{one.first_bytes / 1e6:,.0f} -> {one.last_bytes / 1e6:,.0f}"
        click.echo(
            f"{one.name:<15}{one.rounds:>7}{one.samples:>12,}{one.wrong:>7}{memory:>15}"
            f"{one.proportional_bytes / 1e6:>6,.0f}{f'{one.first_files} -> {one.last_files}':>12}"
        )
    click.echo(f"{rate:,.0f} samples per second, {median / 1e6:,.0f} MB per reader")
    for failure in failures:
        click.echo(failure, err=True)
    if output is not None:
        document = {
            "machine": machine(),
            "minutes": minutes,
            "readers": readers,
            "open_files": most,
            "samples": sum(one.samples for one in processes),
            "samples_per_second": rate,
            "bytes_per_reader": median,
            "failures": failures,
            "processes": [asdict(one) for one in processes],
        }
        output.write_text(json.dumps(document, indent=1))
    if failures:
        raise SystemExit(1)


def make_store(folder: Path, shard_size: int) -> str:
    """Make a random store in small shards, so that files are opened all the time."""
    out = folder / "soak.zarr"
    samples = Drawn(counts=(("train", SAMPLES),), side=64)
    eventdata.convert(samples, "", out, shard_size=max(1, shard_size))
    return str(out)


def run(store: str, readers: int, seconds: float, most_files: int | None = None) -> list[Watched]:
    """Run all processes at once; return what each reports at its end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)  # all share the memory of what it imports
    reports: Queue[Watched] = context.Queue()
    start = context.Barrier(readers + 1)
    sums = checksums(store)
    jobs: dict[str, Callable[[], Rounds]] = {"verify": partial(verify_over_and_over, store)}
    for number in range(readers):
        kind = "DataLoader" if number % 2 else "FrameLoader"
        jobs[f"{kind} {number}"] = partial(read_over_and_over, store, kind, number, sums)
    processes = [
        context.Process(target=work, args=(name, begin, seconds, most_files, start, reports))
        for name, begin in jobs.items()
    ]
    for process in processes:
        process.start()
    found = [reports.get(timeout=2 * seconds + READY_SECONDS) for _ in processes]
    for process in processes:
        process.join()
    return sorted(found, key=lambda one: one.name)


def checksums(store: str) -> list[int]:
    """Return the CRC-32C of each training sample's dense frames."""
    dataset = eventdata.FrameDataset(store)
    frames = (dataset[index][0] for index in range(len(dataset)))
    return [google_crc32c.value(one.numpy().tobytes()) for one in frames]


def work(
    name: str,
    begin: Callable[[], Rounds],
    seconds: float,
    most_files: int | None,
    start: Barrier,
    reports: "Queue[Watched]",
) -> None:
    """Do rounds in this process until the time is over; begin when all processes are ready."""
    torch.set_num_threads(1)
    if most_files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    watched = Watched(name)
    try:
        rounds = begin()
        next(rounds)
        start.wait(READY_SECONDS)
        started = time.monotonic()
        while watched.seconds < seconds or watched.rounds < LEAST_ROUNDS:
            done = next(rounds)
            watched.seconds = time.monotonic() - started
            if done is not None:
                watched.end_round(*done)
            watched.look(watched.seconds / seconds)
    except Exception as error:
        start.abort()
        watched.error = repr(error)
    reports.put(watched)


def verify_over_and_over(store: str) -> Rounds:
    """Verify a store; each problem is a wrong sample."""
    yield None
    while True:
        result = eventdata.verify(store)
        yield result.samples, len(result.problems)


def read_over_and_over(store: str, kind: str, seed: int, sums: list[int]) -> Rounds:
    """Read epochs and compare each sample with its checksum."""
    batches = _batches(store, kind, seed)
    expected = sorted(sums)
    yield None
    while True:
        found = []
        for frames, _ in batches:
            found += [google_crc32c.value(one.numpy().tobytes()) for one in frames]
            yield None
        yield len(found), int((np.array(sorted(found)) != np.array(expected)).sum())


def _batches(store: str, kind: str, seed: int) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    dataset = eventdata.FrameDataset(store)
    if kind == "FrameLoader":
        return eventdata.FrameLoader(dataset, BATCH, shuffle=True, seed=seed)
    return DataLoader(dataset, BATCH, shuffle=True, num_workers=1, persistent_workers=True)


if __name__ == "__main__":
    main()
