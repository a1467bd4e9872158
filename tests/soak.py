"""Read one store in many processes for a long time while it is verified again and again.

    python -m tests.soak [--readers 8] [--minutes 10] [--output soak.json] [STORE]

Half of the readers are FrameLoaders, half are torch DataLoaders with persistent workers. Each reads
epoch after epoch and compares every sample with its checksum, while `verify` runs in its own
process. The exit code is 1 if a sample was wrong, if verify found a problem, or if a process's
memory or open files have grown since the beginning.
"""

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import click
import google_crc32c
import numpy as np
import torch
from torch.utils.data import DataLoader

import eventdata
from tests.drawn import Drawn
from tools.bench.report import machine, output_option

BATCH = 16
WARM_UP = 0.1  # share of the time in which memory may still grow, and at least
LEAST_ROUNDS = 4  # half of these rounds in a short run
GROWTH_BYTES = 16 << 20  # that an allocator may add afterwards
FILES_IN_FLIGHT = 16  # of batches in flight between a DataLoader's processes
SAMPLES = 512


@dataclass
class Watched:
    """The work of one process, with its peaks of memory in bytes and of open files.

    wrong: samples that differ, or problems that verify found; first, last: peaks in the first
    share of the time and after it.
    """

    name: str
    rounds: int = 0
    samples: int = 0
    wrong: int = 0
    first_bytes: int = 0
    last_bytes: int = 0
    first_files: int = 0
    last_files: int = 0
    error: str = ""
    faults: list[str] = field(default_factory=list)

    def look(self, share: float) -> None:
        """Record memory and files of this process and its children at a share of the time."""
        family = [os.getpid(), *(child.pid or 0 for child in multiprocessing.active_children())]
        memory, files = sum(map(_resident, family)), sum(map(_open_files, family))
        if share < WARM_UP or self.rounds < LEAST_ROUNDS / 2:
            self.first_bytes = max(self.first_bytes, memory)
            self.first_files = max(self.first_files, files)
        else:
            self.last_bytes = max(self.last_bytes, memory)
            self.last_files = max(self.last_files, files)

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
@output_option
def main(store: str | None, readers: int, minutes: float, output: Path | None) -> None:
    """Read and verify STORE, or a random store."""
    with tempfile.TemporaryDirectory() as folder:
        place = store or make_store(Path(folder))
        processes = run(place, readers, 60 * minutes)
    for one in processes:
        one.judge()
    click.echo(f"{'process':<14}{'rounds':>8}{'samples':>11}{'wrong':>7}{'MB':>15}{'files':>12}")
    for one in processes:
        memory = f"{one.first_bytes / 1e6:,.0f} -> {one.last_bytes / 1e6:,.0f}"
        files = f"{one.first_files} -> {one.last_files}"
        click.echo(
            f"{one.name:<14}{one.rounds:>8}{one.samples:>11,}{one.wrong:>7}{memory:>15}{files:>12}"
        )
    failures = [f"{one.name}: {fault}" for one in processes for fault in one.faults]
    for failure in failures:
        click.echo(failure, err=True)
    if output is not None:
        document = {
            "machine": machine(),
            "minutes": minutes,
            "readers": readers,
            "samples": sum(one.samples for one in processes),
            "failures": failures,
            "processes": [asdict(one) for one in processes],
        }
        output.write_text(json.dumps(document, indent=1))
    if failures:
        raise SystemExit(1)


def make_store(folder: Path) -> str:
    """Make a random store in shards of 16, so that files are opened all the time."""
    out = folder / "soak.zarr"
    eventdata.convert(Drawn(counts=(("train", SAMPLES),), side=64), "", out, shard_size=16)
    return str(out)


def run(store: str, readers: int, seconds: float) -> list[Watched]:
    """Run all processes at once; return what each reports at its end."""
    context = multiprocessing.get_context("spawn")
    reports: Queue[Watched] = context.Queue()
    sums = checksums(store)
    jobs: list[tuple[Any, ...]] = [(verify_over_and_over, "verify", store, seconds, reports)]
    for number in range(readers):
        kind = "DataLoader" if number % 2 else "FrameLoader"
        jobs.append((read_over_and_over, f"{kind} {number}", store, seconds, reports, kind, sums))
    processes = [context.Process(target=job, args=arguments) for job, *arguments in jobs]
    for process in processes:
        process.start()
    found = [reports.get(timeout=2 * seconds + 600) for _ in processes]
    for process in processes:
        process.join()
    return sorted(found, key=lambda one: one.name)


def checksums(store: str) -> list[int]:
    """Return the CRC-32C of each training sample's dense frames."""
    dataset = eventdata.FrameDataset(store)
    frames = (dataset[index][0] for index in range(len(dataset)))
    return [google_crc32c.value(one.numpy().tobytes()) for one in frames]


def verify_over_and_over(name: str, store: str, seconds: float, reports: "Queue[Watched]") -> None:
    """Verify in this process until the time is over."""
    watched, started = Watched(name), time.monotonic()
    try:
        while (share := (time.monotonic() - started) / seconds) < 1 or (
            watched.rounds < LEAST_ROUNDS
        ):
            result = eventdata.verify(store)
            watched.samples += result.samples
            watched.wrong += len(result.problems)
            watched.rounds += 1
            watched.look(share)
    except Exception as error:
        watched.error = repr(error)
    reports.put(watched)


def read_over_and_over(
    name: str, store: str, seconds: float, reports: "Queue[Watched]", kind: str, sums: list[int]
) -> None:
    """Read epochs until the time is over and compare each sample with its checksum."""
    torch.set_num_threads(1)
    watched, started = Watched(name), time.monotonic()
    try:
        batches = _batches(store, kind, int(name.split()[1]))
        expected = sorted(sums)
        while (share := (time.monotonic() - started) / seconds) < 1 or (
            watched.rounds < LEAST_ROUNDS
        ):
            found = []
            for frames, _ in batches:
                found += [google_crc32c.value(one.numpy().tobytes()) for one in frames]
                watched.look((time.monotonic() - started) / seconds)
            watched.samples += len(found)
            watched.wrong += int((np.array(sorted(found)) != np.array(expected)).sum())
            watched.rounds += 1
            watched.look(share)
    except Exception as error:
        watched.error = repr(error)
    reports.put(watched)


def _batches(store: str, kind: str, seed: int) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    dataset = eventdata.FrameDataset(store)
    if kind == "FrameLoader":
        return eventdata.FrameLoader(dataset, BATCH, shuffle=True, seed=seed)
    return DataLoader(dataset, BATCH, shuffle=True, num_workers=1, persistent_workers=True)


def _resident(process: int) -> int:
    """Return the resident bytes of a process, without those that it may share with others."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()
    except OSError:  # the process has just ended
        return 0
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")


def _open_files(process: int) -> int:
    try:
        return len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208 counted only
    except OSError:
        return 0


if __name__ == "__main__":
    main()
