"""Convert raw samples into a store: plan it, then run one task per shard."""

import contextlib
import os
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import (
    InputError,
    LeftOutError,
    MismatchError,
    OptionError,
    check_whole,
    reading,
)
from eventdata.files import WORK, Files, open_files
from eventdata.files.fetch import fetch_ahead, local_copy
from eventdata.files.inputs import check_apart, file_numbers, open_input
from eventdata.jobs.job import Claim, Job, OnError, Progress
from eventdata.jobs.pool import OpenPool, Pool, run_tasks
from eventdata.jobs.worker import out_of_memory, working_on
from eventdata.raw.registry import build_source, source_entry
from eventdata.raw.source import Sample, Samples, Source, collect_notes
from eventdata.store.layout import (
    MAX_SAMPLE_BYTES,
    MAX_SHARD_SIZE,
    Header,
    SampleFormat,
    largest_shard,
    parameters_digest,
)
from eventdata.store.read import read_skipped
from eventdata.store.shard import ShardBuilder, compressed_bytes, index_bytes
from eventdata.store.write import (
    ShardRecord,
    StorePlan,
    already_complete,
    begin,
    existing_header,
    finish,
    is_begun,
    read_records,
    write_shard,
)

DEFAULT_SHARD_SIZE = 512
PLAN_KEY = f"{WORK}/plan"
GROUP_BYTES = (
    1_700_000  # samples read, then compressed, in turn: each keeps its tables in the cache
)
ESTIMATE_SAMPLES = 64  # samples of each split that a dry run compresses to estimate the bytes


@dataclass(frozen=True)
class Conversion:
    """The result of `convert`; with ``dry_run``, the expected one.

    samples: samples of each split; done_before: samples that an earlier call finished;
    skipped: slots without a sample; bytes: size of the store, an estimate in a dry run.
    """

    out: str
    state: Literal["complete", "already complete", "dry run"]
    samples: Mapping[str, int]
    done_before: int
    skipped: int
    bytes: int
    seconds: float
    notes: list[str] = field(default_factory=list)


def convert(
    source: str | Source,
    input: str | os.PathLike[str] | None,  # noqa: A002 the command's own word
    out: str | os.PathLike[str],
    *,
    workers: int = 1,
    shard_size: int = DEFAULT_SHARD_SIZE,
    limit: int | None = None,
    on_error: OnError = "fail",
    overwrite: bool = False,
    dry_run: bool = False,
    executor: Executor | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Conversion:
    """Convert raw samples into a store. To resume an interrupted one, make the same call.

    In a script, call it under ``if __name__ == "__main__":`` when workers > 1.

    Args:
        source: a name (``es-imagenet``, ``es-ucf101``, ...), or any `Source` object, which does
            not read ``input``.
        input: a folder, or a URL that fsspec opens (``s3://...``).
        out: a folder or URL for the store.
        workers: processes; 1 converts in this one.
        shard_size: samples per shard.
        limit: convert only this many samples of each split.
        on_error: "fail", or "skip": a sample that can't be read keeps its slot, marked invalid,
            with the reason in ``skipped.json``.
        overwrite: replace the store in ``out``.
        dry_run: only report what would be done.
        executor: a `concurrent.futures.Executor` to use instead of processes.
        scheduler: the address of a Dask scheduler (``tcp://host:8786``) to use instead; its
            workers must see input and out.
        progress: called with the samples done and in total.
        options: options of the named source (split, splits, fold, ...).

    Raises:
        InputError: a raw file or manifest can't be used.
        MismatchError: ``out`` was made with other parameters or from other input.
        StoreError: ``out`` can't be written or is not a store.
        OptionError: an argument makes no sense.
    """
    started = time.monotonic()
    pool = Pool.choose(workers, executor, scheduler, (input, out))
    shard_size, limit = _check_options(shard_size, limit, on_error)
    walks = isinstance(source, str) and source_entry(source).kind.walks
    if isinstance(source, str):
        if input is None:
            raise OptionError(f"input is None; pass the folder with the raw data of {source}")
        source = build_source(source, open_input(input), options)
    elif given := sorted(key for key, value in options.items() if value is not None):
        raise OptionError(
            f"{', '.join(given)}: not an option of convert for a Source object; pass it to that"
        )
    files = open_files(out)
    if input is not None:
        check_apart(files, input, walked=walks)
    with reading(input or source.dataset):
        plan = plan_job(source, shard_size=shard_size, limit=limit, on_error=on_error)
    found = existing_header(files)  # StoreError before anything changes
    if dry_run:
        return _estimate(plan, files, None if overwrite else found, started)
    claim = Claim(f"{WORK}/plan", f"{plan.plan.digest} {on_error}".encode())
    job = Job(
        files=files,
        claim=claim,
        inputs=plan.first_files,
        total=plan.total,
        is_complete=lambda: not overwrite and already_complete(files, plan.plan),
        begin=lambda: begin(files, plan.plan, overwrite=overwrite),
        unfinished=lambda: _unfinished(plan, files),
        run=partial(_run, plan, files, claim),
        finish=lambda: finish(files, plan.plan),
    )
    done_before, notes = job.resume(pool, progress)
    counted = [
        f"{count:,} sample{'s'[: count > 1]}: {note}"
        for note, count in sorted((notes or {}).items())
    ]
    return Conversion(
        out=files.where,
        state="already complete" if notes is None else "complete",
        samples=plan.counts,
        done_before=done_before,
        skipped=len(read_skipped(files)),
        bytes=files.total_bytes(),
        seconds=time.monotonic() - started,
        notes=plan.notes + counted,
    )


@dataclass(frozen=True)
class SourcePlan:
    """A source, its listed samples and the plan of their store."""

    source: Source
    listing: Mapping[str, Samples]
    plan: StorePlan
    on_error: OnError

    @property
    def counts(self) -> dict[str, int]:
        """The number of samples of each split."""
        return {split: len(samples) for split, samples in self.listing.items()}

    @property
    def total(self) -> int:
        """The number of samples of all splits."""
        return sum(self.counts.values())

    @property
    def first_files(self) -> dict[str, tuple[int, int]]:
        """One file of each split, with its size and time of change."""
        first = {}
        for samples in self.listing.values():
            index = next((i for i in range(len(samples)) if i not in samples.problems), None)
            if index is not None and samples.paths[index]:
                first[samples.paths[index]] = samples.file_numbers(index)
        return first

    @property
    def notes(self) -> list[str]:
        """The notes of the listing, for users."""
        return [note for samples in self.listing.values() for note in samples.notes]


@dataclass(frozen=True)
class ShardTask:
    """The work of making one shard; it travels to a worker by pickle."""

    source: Source
    sample: SampleFormat
    files: Files
    split: str
    shard: int
    shard_size: int
    samples: Samples
    on_error: OnError
    plan: str
    """`StorePlan.digest`."""
    claim: Claim


def _unfinished(plan: SourcePlan, files: Files) -> tuple[list[tuple[str, int]], int]:
    """Return (split, shard) of what is left, and how many samples are done."""
    left, done = [], 0
    for split in plan.plan.splits:
        records = read_records(files, plan.plan, split)
        for shard in range(plan.plan.shards(split)):
            record = records.get(shard)
            if record is None or (record.skipped and plan.on_error == "fail"):
                left.append((split, shard))
            else:
                done += plan.plan.samples_in(split, shard)
    return left, done


def _run(
    plan: SourcePlan, files: Files, claim: Claim, pool: OpenPool, left: list[tuple[str, int]]
) -> Generator[int, None, None]:
    size = plan.plan.shard_size
    tasks = (  # one by one: a million samples need not travel at once
        ShardTask(
            source=plan.source,
            sample=plan.plan.sample,
            files=files,
            split=split,
            shard=shard,
            shard_size=size,
            samples=plan.listing[split][shard * size : (shard + 1) * size],
            on_error=plan.on_error,
            plan=plan.plan.digest,
            claim=claim,
        )
        for split, shard in left
    )
    with contextlib.closing(run_tasks(pool, convert_shard, tasks)) as counts:
        yield from counts


def plan_job(
    source: Source, *, shard_size: int, limit: int | None, on_error: OnError
) -> SourcePlan:
    """List the samples of a source and plan their store; open no sample.

    Raises:
        InputError: the first sample that can't be read, unless ``on_error`` is "skip".
    """
    listing = source.splits()
    for split, samples in listing.items():
        part = samples if limit is None else samples[:limit]
        part.notes = samples.notes
        part.inspect_files()
        if part.problems and on_error == "fail":
            first = part.problems[min(part.problems)]
            others = len(part.problems) - 1
            more = f" (and {others:,} more in {split})" if others else ""
            raise InputError(f"{first}{more}; correct that, or pass --on-error skip")
        listing[split] = part
    sample = source.sample_format
    if sample.planes * sample.chunk_bytes > MAX_SAMPLE_BYTES:
        shape = "x".join(map(str, sample.packed_shape))
        raise OptionError(
            f"a sample of {shape} has {sample.planes * sample.chunk_bytes / 1e9:.1f} GB, more than "
            f"{MAX_SAMPLE_BYTES / 1e9:.1f} GB; choose fewer frames, a smaller size or a narrower "
            "type"
        )
    if shard_size > largest_shard(sample):
        raise OptionError(
            f"--shard-size is at most {largest_shard(sample):,} for samples of {sample.planes:,} "
            f"planes, not {shard_size:,}"
        )
    parameters = {
        **source.parameters,
        "split_names": sorted(listing),
        "limit": limit,
        "shard_size": shard_size,
    }
    header = Header(
        dataset=source.dataset,
        representation=sample.representation,
        steps=sample.steps,
        polarity=sample.polarity,
        classes=list(source.classes),
        parameters=parameters,
        parameters_sha256=parameters_digest(parameters),
        complete=False,
    )
    columns = {split: samples.columns() for split, samples in listing.items()}
    return SourcePlan(source, listing, StorePlan(header, sample, shard_size, columns), on_error)


def convert_shard(task: ShardTask) -> int:
    """Make and write one shard; return how many samples it has, skipped ones included."""
    builder = ShardBuilder(task.sample, task.shard_size)
    at_once = max(1, GROUP_BYTES // (task.sample.planes * task.sample.chunk_bytes))
    buffer = np.zeros((at_once, *task.sample.packed_shape), task.sample.dtype)
    events = [0] * len(task.samples)
    skipped: dict[int, str] = {}
    with collect_notes() as notes, fetch_ahead(task.samples.paths, task.samples.input_size):
        for start in range(0, len(task.samples), at_once):
            slots = range(start, min(start + at_once, len(task.samples)))
            group = list(zip(slots, buffer, strict=False))
            for slot, packed in group:
                try:
                    events[slot] = read_sample(task.source, task.samples, slot, packed)
                except InputError as error:
                    if task.on_error == "fail" and not isinstance(error, LeftOutError):
                        raise
                    # A path may hold bytes that are not UTF-8, which JSON and terminals can't take.
                    skipped[slot] = str(error).encode("utf-8", "backslashreplace").decode()
            for slot, packed in group:
                if slot not in skipped:
                    builder.add(slot, packed)
    data = builder.finish()
    record = ShardRecord(events, skipped, len(data), dict(notes), task.plan)
    task.claim.check(task.files)
    write_shard(task.files, task.split, task.sample, task.shard, data, record)
    return len(task.samples)


def read_sample(source: Source, samples: Samples, index: int, out: NDArray[Any]) -> int:
    """Read one listed sample into out (K, H, W, P); return its number of events.

    Raises as `local_sample`.
    """
    with local_sample(samples, index) as sample:
        return source.read(sample, out)


@contextlib.contextmanager
def local_sample(samples: Samples, index: int) -> Iterator[Sample]:
    """Yield a listed sample with its file on this machine.

    Raises:
        InputError: the sample can't be used.
        MismatchError: its file has changed since it was listed.
    """
    if index in samples.problems:
        raise InputError(samples.problems[index])
    row = samples.row(index)
    what = row.path or row.name
    working_on(what)
    with reading(what), local_copy(row.path) as path:
        try:
            yield row._replace(path=path)
        except MemoryError:
            raise out_of_memory(what) from None
        finally:
            # After reading, so that the store records the size and time of what was read.
            if file_numbers([path]) != [samples.file_numbers(index)]:
                raise MismatchError(
                    f"{path}: changed while it was read; wait until nothing writes to the input, "
                    "then run the same command again"
                )


def _estimate(job: SourcePlan, files: Files, found: Header | None, started: float) -> Conversion:
    """Return what a conversion would do; estimate bytes from samples spread over each split."""
    done = 0
    if found is not None and is_begun(files, found, job.plan):
        done = job.total if found.complete else _unfinished(job, files)[1]
    packed = np.zeros(job.plan.sample.packed_shape, job.plan.sample.dtype)
    expected = 0.0
    skipped = 0
    for split, samples in job.listing.items():
        skipped += len(samples.problems)
        expected += job.plan.shards(split) * index_bytes(job.plan.sample, job.plan.shard_size)
        sizes = []
        some = min(ESTIMATE_SAMPLES, len(samples))
        chosen = np.unique(np.linspace(0, len(samples) - 1, some).astype(int))
        with fetch_ahead([samples.paths[i] for i in chosen], samples.input_size[chosen]):
            for index in chosen:
                try:
                    read_sample(job.source, samples, int(index), packed)
                except InputError as error:
                    if job.on_error == "fail" and not isinstance(error, LeftOutError):
                        raise
                else:
                    sizes.append(compressed_bytes(packed))
        expected += len(samples) * float(np.mean(sizes)) if sizes else 0.0
    return Conversion(
        out=files.where,
        state="dry run",
        samples=job.counts,
        done_before=done,
        skipped=skipped,
        bytes=round(expected),
        seconds=time.monotonic() - started,
        notes=job.notes,
    )


def _check_options(shard_size: int, limit: int | None, on_error: str) -> tuple[int, int | None]:
    """Return the shard size and the limit as plain ints; raise OptionError for invalid options."""
    (shard_size,) = check_whole(shard_size=shard_size)
    if limit is not None:
        (limit,) = check_whole(limit=limit)
    if shard_size > MAX_SHARD_SIZE:
        raise OptionError(f"--shard-size is at most {MAX_SHARD_SIZE:,}, not {shard_size:,}")
    if on_error not in ("fail", "skip"):
        raise OptionError(f"--on-error is fail or skip, not {on_error!r}")
    return shard_size, limit
