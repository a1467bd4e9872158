"""Try faults for a long time: kills at random moments, faults of file operations, power cuts.

    python -m tests.faults [--kills 200] [--turns 40] [--cuts 4000] [--output faults.json]

Real calls of convert, generate and train are killed (the parent, a worker, all at once), several in
a row, and then one call may finish. After that, a fault strikes at many file operations in turn:
the process is killed, the disk is full, a read fails, or a file vanishes or changes. Each time
these must hold: what counts as finished is complete, an error is one sentence, no process outlives
its call, the next call finishes with the content of an uninterrupted one, and no temporary files
are left. Last, the same must hold of states that a power cut could leave, and `eventdata verify`
must find each damaged store that a disk could leave which ignores syncs. The exit code is 1 if any
of that fails.
"""

import json
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from tests.faults.cuts import CUT_JOBS, cut_power, torn_stores
from tests.faults.jobs import convert_job, generate_job, train_job
from tests.faults.kills import Victim, kill_at_random
from tests.faults.turns import FAULTS, Fault, in_turn
from tools.bench.report import machine, output_option

JOBS = ("convert", "generate", "train")
SHARES = {"convert": 0.6, "generate": 0.25, "train": 0.15}  # of the kills
VICTIMS: dict[Victim, int] = {"parent": 3, "worker": 2, "group": 1}


@dataclass(frozen=True)
class Row:
    """One kind of fault on one job.

    midway: kills that found part of the work done; kinds: states after a power cut, by what is lost
    in them and by what came before the call.
    """

    job: str
    fault: str
    tried: int
    survived: int
    midway: int | None
    seconds: float
    failures: list[str]
    kinds: dict[str, int] = field(default_factory=dict)


@click.command()
@click.option("--kills", default=200, show_default=True, help="Calls killed at random moments.")
@click.option(
    "--turns", default=40, show_default=True, help="Operations to strike with each fault."
)
@click.option(
    "--cuts", default=4000, show_default=True, help="States after a power cut, of all jobs."
)
@click.option(
    "--job", "jobs", multiple=True, type=click.Choice(JOBS), help="Job to try; all by default."
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    type=click.Choice(FAULTS),
    help="Fault to try; all by default.",
)
@click.option(
    "--seed", default=0, show_default=True, help="Random seed of moments, victims and operations."
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to work in; a temporary one by default.",
)
@output_option
def main(
    kills: int,
    turns: int,
    cuts: int,
    jobs: Sequence[str],
    faults: Sequence[Fault],
    seed: int,
    folder: Path | None,
    output: Path | None,
) -> None:
    """Try faults on convert, generate and train, and print how many were survived."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(str(folder)) as place:
        Path(place).mkdir(exist_ok=True)
        click.echo(f"{'job':<10}{'fault':<16}{'tried':>8}{'survived':>10}{'midway':>8}{'s':>8}")
        plan = Plan(jobs or JOBS, faults or FAULTS, kills, turns, cuts, seed, Path(place))
        for row in plan.rows():
            rows.append(row)
            midway = "" if row.midway is None else row.midway
            click.echo(
                f"{row.job:<10}{row.fault:<16}{row.tried:>8}{row.survived:>10}{midway:>8}"
                f"{row.seconds:>8.0f}"
            )
            if row.kinds:
                click.echo(f"  {', '.join(f'{kind}: {n}' for kind, n in row.kinds.items())}")
            for failure in row.failures:
                click.echo(f"  {failure}", err=True)
            if output is not None:  # after each row, because all of them take long
                output.write_text(json.dumps(_document(rows, seed), indent=1))
    if any(row.failures for row in rows):
        raise SystemExit(1)


@dataclass(frozen=True)
class Plan:
    """The faults to try: kills and power cuts in all, and turns of each fault on each job."""

    jobs: Sequence[str]
    faults: Sequence[Fault]
    kills: int
    turns: int
    cuts: int
    seed: int
    folder: Path

    def rows(self) -> Iterator[Row]:
        """Yield each row as soon as it is known."""
        shares = sum(SHARES[name] for name in self.jobs)
        for name in self.jobs:
            if self.kills:
                yield self._kill_row(name, round(self.kills * SHARES[name] / shares))
            if self.turns:
                # A new process, so that its forks inherit nothing from earlier jobs.
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                    for fault in self.faults:
                        yield process.submit(self.turn_row, name, fault).result()
            if self.cuts:
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                    for kind in CUT_JOBS[name]:
                        yield process.submit(self.cut_row, kind).result()
                    if name == "convert":
                        yield process.submit(self.torn_row).result()

    def _kill_row(self, name: str, kills: int) -> Row:
        started = time.monotonic()
        job = {"convert": convert_job, "generate": generate_job, "train": train_job}[name](
            self.folder
        )
        victims: dict[Victim, int] = VICTIMS if name != "train" else {"parent": 1}
        tried = list(kill_at_random(job, self.folder, kills, self.seed, victims))
        return Row(
            job=name,
            fault="killed",
            tried=len(tried),
            survived=sum(not kill.faults for kill in tried),
            midway=sum(bool(kill.kept) for kill in tried),
            seconds=round(time.monotonic() - started, 1),
            failures=[f"{kill.victim}: {fault}" for kill in tried for fault in kill.faults],
        )

    def turn_row(self, name: str, fault: Fault) -> Row:
        """Run the turns on less data than the kills, because each takes two calls."""
        started = time.monotonic()
        if name == "convert":
            job = convert_job(self.folder, samples=16, workers=1)
        elif name == "generate":
            job = generate_job(self.folder, samples=8, workers=1)
        else:
            job = train_job(self.folder)
        tried = list(in_turn(job, fault, self.folder, sample=self.turns, seed=self.seed))
        return Row(
            job=name,
            fault=fault,
            tried=len(tried),
            survived=sum(not turn.faults for turn in tried),
            midway=None,
            seconds=round(time.monotonic() - started, 1),
            failures=[f"operation {turn.number}: {one}" for turn in tried for one in turn.faults],
        )

    def cut_row(self, kind: str) -> Row:
        """Run a job on states that a power cut could leave."""
        started = time.monotonic()
        kinds: Counter[str] = Counter()
        shares = {one: share for name in self.jobs for one, (_, share) in CUT_JOBS[name].items()}
        make, share = next(jobs[kind] for jobs in CUT_JOBS.values() if kind in jobs)
        count = round(self.cuts * share / sum(shares.values()))
        failures = []
        survived = tried = 0
        for cut in cut_power(make(self.folder), self.folder, count, seed=self.seed):
            tried += 1
            survived += not cut.faults
            kinds.update(cut.kinds)
            failures += [f"after {cut.operation} operations: {one}" for one in cut.faults]
        return Row(
            job=kind,
            fault="power cut",
            tried=tried,
            survived=survived,
            midway=None,
            seconds=round(time.monotonic() - started, 1),
            failures=failures,
            kinds=dict(sorted(kinds.items())),
        )

    def torn_row(self) -> Row:
        """Verify stores that a disk could leave which ignores syncs."""
        started = time.monotonic()
        tried = [found for _, found in torn_stores(self.folder, self.cuts // 5, seed=self.seed)]
        return Row(
            job="verify",
            fault="syncs ignored",
            tried=len(tried),
            survived=sum(tried),
            midway=None,
            seconds=round(time.monotonic() - started, 1),
            failures=["verify does not find the damage"] * (len(tried) - sum(tried)),
        )


def _document(rows: Sequence[Row], seed: int) -> dict[str, object]:
    killed = [row for row in rows if row.fault == "killed"]
    return {
        "machine": machine(),
        "seed": seed,
        "kills_tried": sum(row.tried for row in killed),
        "kills_survived": sum(row.survived for row in killed),
        "faults_tried": sum(row.tried for row in rows),
        "faults_survived": sum(row.survived for row in rows),
        "rows": [asdict(row) for row in rows],
    }
