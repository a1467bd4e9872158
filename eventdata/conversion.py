"""Convert raw samples into a store: plan it, then run one task per shard."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from eventdata.counts import Counts, class_counts, look_alikes
from eventdata.errors import (
    InputError,
    LeftOutError,
    OptionError,
    check_whole,
    reading,
)
from eventdata.files import WORK, open_files
from eventdata.files.archives.indexes import keep_indexes
from eventdata.files.archives.members import split_path
from eventdata.files.fetch import fetch_ahead
from eventdata.files.inputs import check_apart, file_numbers, open_input
from eventdata.jobs.job import Claim, Job, OnError, Progress, Task
from eventdata.jobs.pool import Pool
from eventdata.jobs.worker import background
from eventdata.raw.hold_out import HoldOut
from eventdata.raw.one_sample import read_sample
from eventdata.raw.registry import build_source, source_entry
from eventdata.raw.source import Samples, Source, collect_notes, count_notes
from eventdata.store import write
from eventdata.store.layout import (
    MAX_SAMPLE_BYTES,
    Header,
    SampleFormat,
    largest_shard,
    parameters_digest,
    parse_json,
    shard_count,
    shard_key,
    whole_number,
)
from eventdata.store.read import read_skipped
from eventdata.store.shard import ShardBuilder, compressed_bytes, index_bytes

DEFAULT_SHARD_SIZE = 512
PLAN_KEY = f"{WORK}/plan"
GROUP_BYTES = 1_700_000  # read, then compressed, in turn: they stay in the cache
ESTIMATE_SAMPLES = 64  # samples of each split that a dry run compresses to estimate the bytes
State = Literal["complete", "already complete", "dry run"]


@dataclass(frozen=True)
class Conversion:
    """The result of `convert`; with ``dry_run``, the expected one.

    samples: samples of each split; done_before: samples that an earlier call finished;
    skipped: slots without a sample; bytes: size of the store, an estimate in a dry run;
    classes: listed samples of each split and class.
    """

    out: str
    state: State
    samples: Mapping[str, int]
    done_before: int
    skipped: int
    bytes: int
    seconds: float
    notes: list[str] = field(default_factory=list)
    classes: Counts = field(default_factory=dict)


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
    hold_out: float | None = None,
    hold_out_split: str | None = None,
    hold_out_seed: int | str | None = None,
    **options: Any,
) -> Conversion:
    """Convert raw samples into a store. To resume an interrupted one, make the same call.

    Args:
        source: a name (``es-imagenet``, ``es-ucf101``, ...), or any `Source` object, which does
            not read ``input``. A script that defines its class needs ``if __name__ ==
            "__main__":`` around the call when workers > 1.
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
        hold_out: share of each class that is held out of a source's split train, or of its only
            split, as a split of its own.
        hold_out_split: its name, test by default.
        hold_out_seed: random seed of the choice, 0 by default; or "first" or "last" in each
            class, in the natural order of names.
        options: options of the named source (split, splits, fold, ...).

    Raises:
        InputError: a raw file or manifest can't be used.
        MismatchError: ``out`` was made with other parameters or from other input.
        StoreError: ``out`` can't be written or is not a store.
        OptionError: an argument is invalid.
    """
    started = time.monotonic()
    held = HoldOut.of(
        {"hold_out": hold_out, "hold_out_split": hold_out_split, "hold_out_seed": hold_out_seed}
    )
    pool = Pool(workers, executor, scheduler, (input, out))
    walks = isinstance(source, str) and source_entry(source).kind.walks
    if isinstance(source, str):
        if input is None:
            raise OptionError(f"input is None; pass the folder with the raw data of {source}")
        source = build_source(source, open_input(input), options)
    elif given := sorted(key for key, value in options.items() if value is not None):
        raise OptionError(
            f"{', '.join(given)}: not allowed with a Source object; set it on the object"
        )
    files = open_files(out)
    if input is not None:
        check_apart(files, input, walked=walks)
    with reading(input or source.dataset), keep_indexes(files) as indexes:
        plan = plan_job(source, shard_size=shard_size, limit=limit, on_error=on_error, held=held)
    found = write.existing_header(files)  # StoreError before anything changes
    content = f"{plan.digest} {on_error}".encode()
    claim = Claim(files, PLAN_KEY, content, plan.digest, on_error, plan.first_files)

    def begin() -> None:
        write.begin(files, plan, overwrite=overwrite)
        indexes.save()

    job: Job[write.ShardRecord, Counter[str]] = Job(
        claim=claim,
        tasks=[
            ShardTask(claim, *part, source, plan.sample, plan.shard_size) for part in plan.parts()
        ],
        is_complete=lambda: not overwrite and write.already_complete(files, plan),
        begin=begin,
        finish=lambda records: write.finish(files, plan, records),
    )
    notes = plan.notes
    if dry_run:
        state: State = "dry run"
        done_before = 0
        if found is not None and not overwrite and write.is_begun(files, found, plan):
            done_before = plan.total if found.complete else job.unfinished()[1]
        skipped, size = _estimate(source, plan, on_error)
    else:
        done_before, counted = job.resume(pool, progress)
        state = "already complete" if counted is None else "complete"
        skipped, size = len(read_skipped(files)), files.total_bytes()
        notes += count_notes(counted or {}, "sample")
    return Conversion(
        out=files.where,
        state=state,
        samples=plan.counts,
        done_before=done_before,
        skipped=skipped,
        bytes=size,
        seconds=time.monotonic() - started,
        notes=notes,
        classes={
            split: class_counts(samples.labels, source.classes)
            for split, samples in plan.listing.items()
        },
    )


@dataclass(frozen=True)
class SourcePlan(write.StorePlan):
    """The plan of a store and the listed samples of its source."""

    listing: Mapping[str, Samples]

    @property
    def first_files(self) -> dict[str, tuple[int, int]]:
        """One file of each split, with its size and time of change."""
        first = {}
        for samples in self.listing.values():
            index = next((i for i in range(len(samples)) if i not in samples.problems), None)
            if index is not None and (path := samples.paths[index]):
                member = samples.place(index) and split_path(path)
                first[member[0] if member else path] = (
                    file_numbers([member[0]])[0] if member else samples.file_numbers(index)
                )
        return first

    @property
    def notes(self) -> list[str]:
        """The notes of the listing, for users."""
        notes = [note for samples in self.listing.values() for note in samples.notes]
        return [*notes, *look_alikes(self.header.classes)]

    def parts(self) -> Iterator[tuple[str, int, Samples]]:
        """Yield the split, number and samples of each task."""
        size = self.shard_size
        for split, samples in self.listing.items():
            for number, start in enumerate(range(0, len(samples), size)):
                yield split, number, samples[start : start + size]


def plan_job(
    source: Source,
    *,
    shard_size: int,
    limit: int | None,
    on_error: OnError,
    held: HoldOut | None = None,
) -> SourcePlan:
    """List the samples of a source and plan their store; open no sample.

    ``held`` states which of them become a split of their own.

    Raises:
        OptionError: an argument is invalid.
        InputError: the first sample that can't be read, unless ``on_error`` is "skip".
    """
    (shard_size,) = check_whole(shard_size=shard_size)
    if limit is not None:
        (limit,) = check_whole(limit=limit)
    if on_error not in ("fail", "skip"):
        raise OptionError(f"--on-error must be fail or skip, not {on_error!r}")
    listing = source.splits()
    if held is not None:
        listing = held.divide(listing, source.classes)
    for split, samples in listing.items():
        part = samples if limit is None else samples[:limit]
        part.notes = samples.notes
        part.inspect_files()
        if part.problems and on_error == "fail":
            first = part.problems[min(part.problems)]
            others = len(part.problems) - 1
            more = f" (and {others:,} more in {split})" if others else ""
            raise InputError(f"{first}{more}; fix the input, or pass --on-error skip")
        listing[split] = part
    sample = source.sample_format
    size = sample.planes * sample.chunk_bytes
    if size > MAX_SAMPLE_BYTES:
        raise OptionError(
            f"a sample of {'x'.join(map(str, sample.packed_shape))} takes {size / 1e9:.1f} GB, "
            f"more than {MAX_SAMPLE_BYTES / 1e9:.1f} GB; choose fewer frames, a smaller size or a "
            "narrower type"
        )
    if shard_size > largest_shard(sample):
        raise OptionError(
            f"--shard-size must be at most {largest_shard(sample):,} for samples of "
            f"{sample.planes:,} planes, not {shard_size:,}"
        )
    parameters = {
        **source.parameters,
        **(held.parameters if held is not None else {}),
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
    return SourcePlan(header, sample, shard_size, columns, listing)


@dataclass(frozen=True)
class ShardTask(Task[write.ShardRecord]):
    """The work of making one shard."""

    samples: Samples
    source: Source
    sample: SampleFormat
    shard_size: int

    @property
    def shard(self) -> str:
        """The key of the shard."""
        return shard_key(self.split, self.sample, self.number)

    def make(self) -> tuple[Mapping[str, bytes | bytearray], write.ShardRecord]:
        builder = ShardBuilder(self.sample, self.shard_size)
        at_once = max(1, GROUP_BYTES // (self.sample.planes * self.sample.chunk_bytes))
        buffers = np.zeros((2, at_once, *self.sample.packed_shape), self.sample.dtype)
        events = [0] * len(self.samples)
        skipped: dict[int, str] = {}
        listed = self.samples
        ahead = fetch_ahead(listed.paths, listed.input_size, listed.all_places())
        with ahead, collect_notes() as notes, background() as submit:
            for start in range(0, len(events), at_once):
                buffer = buffers[start // at_once % 2]  # the other one is being compressed
                group = list(zip(range(start, len(events)), buffer, strict=False))
                for slot, packed in group:
                    try:
                        events[slot] = read_sample(self.source, self.samples, slot, packed)
                    except InputError as error:
                        if self.claim.on_error == "fail" and not isinstance(error, LeftOutError):
                            raise
                        skipped[slot] = str(error)
                submit(builder.add, [one for one in group if one[0] not in skipped])
        data = builder.finish()
        return {self.shard: data}, write.ShardRecord(
            events=events, skipped=skipped, size=len(data), notes=dict(notes), plan=self.claim.plan
        )

    def parse(self, document: bytes) -> write.ShardRecord:
        values = parse_json(document)
        record = write.ShardRecord(
            events=[whole_number(count, least=0) for count in values["events"]],
            skipped={int(slot): str(reason) for slot, reason in values["skipped"].items()},
            size=whole_number(values["size"], least=0),
            notes={key: whole_number(n, least=0) for key, n in values.get("notes", {}).items()},
            plan=str(values.get("plan", "")),
        )
        if (
            len(record.events) != len(self.samples)
            or max(record.events) >= 2**32
            or not record.skipped.keys() <= set(range(len(self.samples)))
            or record.size != self.claim.files.size(self.shard)
        ):
            raise ValueError("of another shard")
        return record


def _estimate(source: Source, plan: SourcePlan, on_error: OnError) -> tuple[int, int]:
    """Return how many samples will be skipped, and bytes by samples spread over each split."""
    sample = plan.sample
    packed = np.zeros(sample.packed_shape, sample.dtype)
    expected = 0.0
    skipped = 0
    for split, samples in plan.listing.items():
        skipped += len(samples.problems)
        shards = shard_count(plan.counts[split], plan.shard_size)
        expected += shards * index_bytes(sample, plan.shard_size)
        sizes = []
        some = min(ESTIMATE_SAMPLES, len(samples))
        chosen = np.unique(np.linspace(0, len(samples) - 1, some).astype(int))
        paths = [samples.paths[i] for i in chosen]
        places = [samples.place(i) for i in chosen]
        with fetch_ahead(paths, samples.input_size[chosen], places):
            for index in chosen:
                try:
                    read_sample(source, samples, int(index), packed)
                except InputError as error:
                    if on_error == "fail" and not isinstance(error, LeftOutError):
                        raise
                else:
                    sizes.append(compressed_bytes(packed))
        expected += len(samples) * float(np.mean(sizes)) if sizes else 0.0
    return skipped, round(expected)
