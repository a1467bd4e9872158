"""Conversion: plan -> one task a shard -> executor -> store."""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import (
    InputError,
    LeftOutError,
    MismatchError,
    OptionError,
    StoreError,
    check_whole,
    reading,
)
from eventdata.files import WORK, Files, Output, is_url, open_files, path_or_url, write_behind
from eventdata.files.fetch import fetch_ahead, local_copy, open_input
from eventdata.files.local import LocalFiles
from eventdata.files.remote import check_reach
from eventdata.jobs.pool import (
    SerialExecutor,
    check_pool,
    check_workers,
    memory_ran_out,
    open_pool,
    run_tasks,
)
from eventdata.jobs.worker import out_of_memory, working_on
from eventdata.raw.registry import build_source, source_entry
from eventdata.raw.source import Samples, Source, file_numbers, listen
from eventdata.store.layout import (
    MAX_SAMPLE_BYTES,
    MAX_SHARD_SIZE,
    Header,
    SampleFormat,
    largest_shard,
    parameters_digest,
)
from eventdata.store.shard import ShardBuilder, compressed_bytes, index_bytes
from eventdata.store.write import (
    ShardRecord,
    StorePlan,
    already_complete,
    begin,
    clear,
    count_notes,
    count_skipped,
    existing_header,
    finish,
    is_begun,
    read_records,
    write_shard,
    writer_lock,
)

OnError = Literal["fail", "skip"]
Progress = Callable[[int, int], None]  # samples done, samples in all

DEFAULT_SHARD_SIZE = 512
PLAN_KEY = f"{WORK}/plan"
GROUP_BYTES = 1_700_000
"""Of samples that are read, then compressed: inflating and compressing in turn would push each
other's tables out of the cache."""
ESTIMATE_SAMPLES = 64  # samples that a dry run compresses to foretell the bytes


@dataclass(frozen=True)
class Conversion:
    """What a call of `convert` did, or with ``dry_run`` would do.

    samples: samples of each split; done_before: those that an earlier call had finished;
    skipped: slots without a sample; bytes: of the store (expected, in a dry run).
    """

    out: str
    state: Literal["complete", "already complete", "dry run"]
    samples: Mapping[str, int]
    done_before: int
    skipped: int
    bytes: int
    seconds: float
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to make one shard; it travels by pickle."""

    source: Source
    sample: SampleFormat
    files: Output
    split: str
    shard: int
    shard_size: int
    samples: Samples
    on_error: OnError
    plan: str
    """Its digest."""
    compressor: Executor
    """What compresses samples: a thread, while the next are read, or whoever reads them."""


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
    """Convert raw samples into a store; finish an interrupted conversion when called again.

    input, out: folders, or URLs that fsspec reaches (``s3://...``).
    source: a name (``es-imagenet``, ``es-ucf101``, ...) with that source's ``options`` (split,
    splits, fold, ...), or any `Source` (``input`` is then not read and may be None).
    workers: processes; 1 converts in this one. In a script, call this under
    ``if __name__ == "__main__":`` when workers > 1. scheduler: of a Dask cluster to use instead
    (``tcp://host:8786``); its workers must see input and out. executor: any
    `concurrent.futures.Executor` to use instead.
    limit: only the first so many samples of each split. on_error="skip": a sample that can't be
    read keeps its slot, invalid, with the reason in ``skipped.json``.
    overwrite: replace the store that is there. dry_run: only tell what would be done.

    Raises InputError (a raw file or manifest), MismatchError (OUT was made from something else),
    StoreError (OUT can't be written or is no store), OptionError.
    """
    started = time.monotonic()
    shard_size, limit = _check_options(workers, shard_size, limit, on_error)
    check_reach(workers, scheduler, input, out)
    walks = isinstance(source, str) and source_entry(source).walks
    if isinstance(source, str):
        if input is None:
            raise OptionError(f"input is None: give the folder with the raw data of {source}")
        source = build_source(source, open_input(input), options)
    elif given := sorted(key for key, value in options.items() if value is not None):
        raise OptionError(
            f"{', '.join(given)}: no option of convert where source is an object; give it to that"
        )
    files = open_files(out)
    if input is not None:
        check_apart(files, input, walked=walks)
    with reading(input or source.dataset):
        job = plan_job(source, shard_size=shard_size, limit=limit, on_error=on_error)
    found = existing_header(files)  # StoreError before anything is touched
    if dry_run:
        return _foretell(job, files, None if overwrite else found, started)
    done_before = job.total
    told: Mapping[str, int] = {}
    is_complete = not overwrite and already_complete(files, job.plan)
    if not is_complete:
        check_pool(workers, executor, scheduler)
    if not is_complete or WORK in files.names():
        files.prepare()
        with writer_lock(files):
            # Another call may have finished it since.
            is_complete = not overwrite and already_complete(files, job.plan)
            if is_complete:
                clear(files)  # killed between the last two steps
            else:
                begin(files, job.plan, overwrite=overwrite)
                where = {"workers": workers, "executor": executor, "scheduler": scheduler}
                done_before = _run(job, files, where, progress)
                told = count_notes(files, job.plan)
                finish(files, job.plan)
    return Conversion(
        out=files.where,
        state="already complete" if is_complete else "complete",
        samples=job.counts,
        done_before=done_before,
        skipped=count_skipped(files),
        bytes=files.total_bytes(),
        seconds=time.monotonic() - started,
        notes=job.notes + _in_words(told),
    )


@dataclass(frozen=True)
class Job:
    """A source, its listed samples and the plan of the store that they make."""

    source: Source
    listing: Mapping[str, Samples]
    plan: StorePlan
    on_error: OnError

    @property
    def counts(self) -> dict[str, int]:
        """Samples of each split."""
        return {split: len(samples) for split, samples in self.listing.items()}

    @property
    def total(self) -> int:
        """Samples of all splits."""
        return sum(self.counts.values())

    @property
    def first_files(self) -> dict[str, tuple[int, int]]:
        """A file of each split, with its size and time of change."""
        first = {}
        for samples in self.listing.values():
            index = next((i for i in range(len(samples)) if i not in samples.problems), None)
            if index is not None and samples.paths[index]:
                first[samples.paths[index]] = samples.file_numbers(index)
        return first

    @property
    def notes(self) -> list[str]:
        """What a user should know of the listing."""
        return [note for samples in self.listing.values() for note in samples.notes]


def _run(job: Job, files: Files, where: Mapping[str, Any], progress: Progress | None) -> int:
    """Make the shards that are not done yet; returns how many samples were done before.

    where: see `open_pool`.
    """
    todo, done_before = _unfinished(job, files)
    done = done_before
    plan = plan_document(job.plan.digest, job.on_error)
    files.write({PLAN_KEY: plan})
    with _memory_told(), contextlib.ExitStack() as stack:
        probe = partial(unseen, files, PLAN_KEY, plan, job.first_files)
        pool = stack.enter_context(open_pool(**where, probe=probe))
        here = isinstance(pool.executor, SerialExecutor)
        output = stack.enter_context(write_behind(files)) if here else files
        compressor: Executor = SerialExecutor()  # of workers: each has a core already
        if here:
            compressor = stack.enter_context(ThreadPoolExecutor(1, "eventdata-compress"))
        if progress is not None:
            progress(done, job.total)
        tasks = _tasks(job, output, compressor, todo)
        for count in stack.enter_context(contextlib.closing(run_tasks(pool, convert_shard, tasks))):
            done += count
            if progress is not None:
                progress(done, job.total)
    return done_before


@contextlib.contextmanager
def _memory_told() -> Iterator[None]:
    try:
        yield
    except MemoryError:  # of the last write behind
        raise memory_ran_out() from None


def plan_job(source: Source, *, shard_size: int, limit: int | None, on_error: OnError) -> Job:
    """List the source's samples and plan the store; no sample is opened.

    InputError for the first sample that can't be read, unless such are to be skipped.
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
            raise InputError(f"{first}{more}; mend that, or leave it out with --on-error skip")
        listing[split] = part
    sample = source.sample_format
    if sample.planes * sample.chunk_bytes > MAX_SAMPLE_BYTES:
        shape = "x".join(map(str, sample.packed_shape))
        raise OptionError(
            f"a sample of {shape} takes {sample.planes * sample.chunk_bytes / 1e9:.1f} GB, at most "
            f"{MAX_SAMPLE_BYTES / 1e9:.1f}; choose fewer frames, a smaller size or a narrower type"
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
    return Job(source, listing, StorePlan(header, sample, shard_size, columns), on_error)


def convert_shard(task: ShardTask) -> int:
    """Read the samples of one shard, pack and compress them, put the shard into its place.

    Returns the number of samples, skipped ones counted in.
    """
    builder = ShardBuilder(task.sample, task.shard_size)
    at_once = max(1, GROUP_BYTES // (task.sample.planes * task.sample.chunk_bytes))
    # Two groups: one is compressed while the other is filled.
    groups = np.zeros((2, at_once, *task.sample.packed_shape), task.sample.dtype)
    compressing = task.compressor.submit(builder.add_all, [])
    events = [0] * len(task.samples)
    skipped: dict[int, str] = {}
    with listen() as notes, fetch_ahead(task.samples.paths, task.samples.input_size):
        for start in range(0, len(task.samples), at_once):
            slots = range(start, min(start + at_once, len(task.samples)))
            group = list(zip(slots, groups[start // at_once % 2], strict=False))
            for slot, packed in group:
                try:
                    events[slot] = read_sample(task.source, task.samples, slot, packed)
                except InputError as error:
                    if task.on_error == "fail" and not isinstance(error, LeftOutError):
                        raise
                    # A path may hold bytes that are no UTF-8; JSON and terminals take text.
                    skipped[slot] = str(error).encode("utf-8", "backslashreplace").decode()
            read = [(slot, packed) for slot, packed in group if slot not in skipped]
            compressing.result()
            compressing = task.compressor.submit(builder.add_all, read)
        compressing.result()
    data = builder.finish()
    record = ShardRecord(events, skipped, len(data), dict(notes), task.plan)
    # This worker may have outlived its conversion, and another have taken the place.
    if task.files.read(PLAN_KEY) != plan_document(task.plan, task.on_error):
        raise StoreError(
            f"{task.files.where}: another call has finished or replaced the store; call again"
        )
    write_shard(task.files, task.split, task.sample, task.shard, data, record)
    return len(task.samples)


def read_sample(source: Source, samples: Samples, index: int, out: NDArray[Any]) -> int:
    """Read one listed sample into out (K, H, W, P); its number of events.

    InputError where it can't be used, MismatchError where its file is not the one listed.
    """
    if index in samples.problems:
        raise InputError(samples.problems[index])
    row = samples.row(index)
    what = row.path or row.name
    working_on(what)
    with reading(what), local_copy(row.path) as path:
        try:
            return source.read(row._replace(path=path), out)
        except MemoryError:
            raise out_of_memory(what) from None
        finally:
            # After reading, so that the store's record of the file is of what was read.
            if file_numbers([path]) != [samples.file_numbers(index)]:
                raise MismatchError(
                    f"{path}: changed while the conversion ran; call again once the input rests, "
                    "with --overwrite if it is meant to be another"
                )


def unseen(
    files: Files, key: str, content: bytes, inputs: Mapping[str, tuple[int, int]]
) -> str | None:
    """What this process does not see of the output, or of input files of these numbers."""
    if files.read(key) != content:
        return f"{files.where} is not there, or is another folder"
    for path, numbers in inputs.items():
        found = file_numbers([path])[0]
        if found != numbers:
            return f"{path} {'is not there' if found[0] < 0 else 'is another file'}"
    return None


def plan_document(digest: str, on_error: OnError) -> bytes:
    """What `PLAN_KEY` holds while tasks of this plan are wanted."""
    return f"{digest} {on_error}".encode()


def _unfinished(job: Job, files: Files) -> tuple[list[tuple[str, int]], int]:
    """(split, shard) of what is still to be done, and how many samples are done."""
    todo = []
    done = 0
    for split, count in job.counts.items():
        records = read_records(files, job.plan, split)
        for shard in range(job.plan.shards(split)):
            record = records.get(shard)
            if record is None or (record.skipped and job.on_error == "fail"):
                todo.append((split, shard))
            else:
                done += min(job.plan.shard_size, count - shard * job.plan.shard_size)
    return todo, done


def _tasks(
    job: Job, files: Output, compressor: Executor, todo: Iterable[tuple[str, int]]
) -> Iterator[ShardTask]:
    """Tasks made one at a time: a million samples need not travel at once."""
    size = job.plan.shard_size
    for split, shard in todo:
        yield ShardTask(
            source=job.source,
            sample=job.plan.sample,
            files=files,
            split=split,
            shard=shard,
            shard_size=size,
            samples=job.listing[split][shard * size : (shard + 1) * size],
            on_error=job.on_error,
            plan=job.plan.digest,
            compressor=compressor,
        )


def _in_words(notes: Mapping[str, int]) -> list[str]:
    return [f"{count:,} sample{'s'[: count > 1]}: {note}" for note, count in sorted(notes.items())]


def _foretell(job: Job, files: Files, found: Header | None, started: float) -> Conversion:
    """What a conversion would do; bytes from compressing samples spread over each split."""
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


def check_apart(files: Files, source: str | os.PathLike[str], *, walked: bool) -> None:
    """OptionError where the input lies in the output, which --overwrite would remove.

    Or, where all folders of the input are ``walked``, the output in the input: the next call would
    list it.
    """
    place = path_or_url(source)
    if isinstance(files, LocalFiles) and not is_url(place):
        # By realpath, which takes links that lead round for names.
        input_root, root = (Path(os.path.realpath(path)) for path in (place, files.root))
        if root.is_relative_to(input_root) and root != input_root and walked:
            raise OptionError(f"{files.where}: lies in the input; choose an OUT beside {place}")
        inside = input_root.is_relative_to(root)
    else:
        inside = f"{place.rstrip('/')}/".startswith(f"{files.where}/")
    if inside:
        raise OptionError(f"{files.where}: holds the input; choose an OUT that does not")


def _check_options(
    workers: int, shard_size: int, limit: int | None, on_error: str
) -> tuple[int, int | None]:
    """The shard size and the limit as plain ints; OptionError for what makes no sense."""
    check_workers(workers)
    (shard_size,) = check_whole(shard_size=shard_size)
    if limit is not None:
        (limit,) = check_whole(limit=limit)
    if shard_size > MAX_SHARD_SIZE:
        raise OptionError(f"--shard-size is at most {MAX_SHARD_SIZE:,}, not {shard_size:,}")
    if on_error not in ("fail", "skip"):
        raise OptionError(f"--on-error is fail or skip, not {on_error!r}")
    return shard_size, limit
