"""Check a store against itself, and samples of it against their raw files."""

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np

from eventdata.errors import EventDataError, OptionError, StoreError, check_whole, reading
from eventdata.files.fetch import fetch_ahead
from eventdata.files.inputs import open_input
from eventdata.jobs.job import Claim
from eventdata.jobs.pool import Pool, run_tasks
from eventdata.raw.hold_out import HoldOut
from eventdata.raw.one_sample import read_sample
from eventdata.raw.registry import build_source, given_options, source_entry
from eventdata.raw.source import Samples, Source
from eventdata.store.layout import HEADER_KEY
from eventdata.store.read import SampleReader, SplitReader, Store, open_store
from eventdata.store.verify import Problem, ShardCheck, check_metadata, check_shard, shard_checks

AGAINST_SAMPLES = 256
MAX_PROBLEMS = 10_000  # the check ends after these
COMPARED_AT_ONCE = 64  # samples per task


@dataclass(frozen=True)
class Verification:
    """The result of `verify`.

    samples: how many were checked against the store's own checksums and columns; compared: how many
    were read again from raw files; problems: empty for a sound store.
    """

    store: str
    samples: int
    bytes: int
    compared: int
    problems: list[Problem]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems


def verify(
    store: str | os.PathLike[str],
    *,
    against: str | os.PathLike[str] | None = None,
    samples: int | EllipsisType | None = ...,
    seed: int | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Verification:
    """Check every checksum, and every array of a store against the others; report all problems.

    Args:
        store: a path or URL.
        against: the path or URL of the raw data; samples are converted again and compared.
        samples: number of samples per split, drawn at random for that; 256 by default, None for
            all.
        seed: random seed of the draw.
        workers, scheduler: see `convert`.
        progress: called with the samples done and in total.
        options: options of the source that the store does not record, such as ``splits`` for
            es-ucf101; without it, clips are found by their names.

    Raises:
        StoreError: there is no complete store.
        InputError: the raw data can't be listed.
        OptionError: an argument is invalid.
    """
    if against is None and options:
        raise OptionError(f"{', '.join(options)}: only valid with against; pass that, too")
    if against is None and (samples is not ... or seed is not None):
        raise OptionError("--samples and --seed need --against; pass the raw data")
    pool = Pool(workers, scheduler=scheduler, places=(store, against))
    if samples is ...:
        samples = AGAINST_SAMPLES
    if samples is not None:
        (samples,) = check_whole(samples=samples)
    if seed is not None:
        (seed,) = check_whole(0, seed=seed)
    started = time.monotonic()
    opened = open_store(store)
    problems = list(check_metadata(opened))
    tasks: list[Iterator[ShardCheck | Comparison]] = [shard_checks(opened)]
    total = sum(len(split) for split in opened.splits.values())
    if against is not None:
        source = source_of(opened, open_input(against), options)
        chosen = draw_samples(opened, samples, seed)
        total += sum(len(indices) for indices in chosen.values())
        tasks.append(comparisons(opened, source, chosen))
    checked = compared = 0
    claim = Claim(opened.files, HEADER_KEY, opened.files.read(HEADER_KEY) or b"")
    with (
        pool.open(claim.unseen) as running,
        contextlib.closing(run_tasks(running, _run_task, chain(*tasks))) as results,
    ):
        for found, checked_now, compared_now in results:
            problems += found
            if len(problems) > MAX_PROBLEMS:
                problems[MAX_PROBLEMS:] = [Problem("too many problems; the check ends here")]
                break
            checked += checked_now
            compared += compared_now
            if progress is not None:
                progress(checked + compared, total)
    return Verification(
        store=opened.files.where,
        samples=checked,
        bytes=opened.files.total_bytes(),
        compared=compared,
        problems=problems,
        seconds=time.monotonic() - started,
    )


def source_of(store: Store, root: Path, options: Mapping[str, Any]) -> Source:
    """Return the source that a store was made from, on a folder of its raw data."""
    parameters = store.header.parameters
    name = str(parameters.get("source"))
    try:
        entry = source_entry(name)
    except OptionError:
        raise OptionError(
            f"{store.files.where}: made from {name!r}, which verify can't read; omit --against"
        ) from None
    safe = entry.options.keys() - entry.files
    known = {key: parameters[key] for key in safe if key in parameters}
    for key, option in entry.options.items():
        if option.needs and options.get(option.needs) is None:
            known.pop(key, None)  # a fold is meaningless without its lists
    try:
        known = given_options(name, known)
    except OptionError as error:
        raise StoreError(f"{store.files.where}: its parameters are damaged ({error})") from None
    return build_source(name, root, {**known, **options})


def _held_out(store: Store) -> tuple[str, ...]:
    """Return the splits that a hold-out divided a split of the source into."""
    try:
        held = HoldOut.of(store.header.parameters)
    except OptionError as error:
        raise StoreError(f"{store.files.where}: its parameters are damaged ({error})") from None
    return () if held is None else ("train", held.split)


@dataclass(frozen=True)
class Comparison:
    """The work of comparing stored samples with their raw files; it travels by pickle.

    stored: index, name and class of each; samples: the raw ones that were found, by the same names;
    classes: those of ``samples``.
    """

    reader: SplitReader
    stored: list[tuple[int, str, str]]
    source: Source
    samples: Samples
    classes: list[str]


def _run_task(task: ShardCheck | Comparison) -> tuple[list[Problem], int, int]:
    """Return the problems, and how many samples were checked and compared."""
    if isinstance(task, ShardCheck):
        count, problems = check_shard(task)
        return problems, count, 0
    return compare(task), 0, len(task.stored)


def draw_samples(store: Store, samples: int | None, seed: int | None) -> dict[str, list[int]]:
    """Return ascending indices of valid samples of each split, drawn at random; None for all."""
    draw = random.Random(seed)
    chosen = {name: np.flatnonzero(split.valid).tolist() for name, split in store.splits.items()}
    for name, valid in chosen.items():
        if samples is not None and samples < len(valid):
            chosen[name] = sorted(draw.sample(valid, samples))
    return chosen


def comparisons(
    store: Store, source: Source, chosen: Mapping[str, list[int]]
) -> Iterator[Comparison]:
    """Yield tasks of a few samples each, found in the raw data by their names.

    Raise OptionError where no sample of a split was found, and a file's option may be missing.
    """
    entry = source_entry(str(store.header.parameters.get("source")))
    needed = " and ".join(f"--{option}" for option in sorted(entry.files))
    held = _held_out(store)
    with reading(store.files.where):
        listing = source.splits()
    for split_name, split in store.splits.items():
        if split.sample != source.sample_format:
            raise StoreError(
                f"{store.files.where}: damaged: its parameters make samples of another shape"
            )
        # Without split lists, the raw data are one split.
        origin = "train" if split_name in held and "train" in listing else split_name
        parts = [listing[origin]] if origin in listing else list(listing.values())
        places = [
            {name: i for i, name in enumerate(part.names) if i not in part.problems}
            for part in parts
        ]
        known = any(not at.keys().isdisjoint(split.sample_names) for at in places)
        if needed and chosen[split_name] and not known:
            raise OptionError(
                f"{store.files.where}: no sample of {split_name} is in the raw data; pass {needed} "
                "as for convert, if it was passed there"
            )
        for start in range(0, len(chosen[split_name]), COMPARED_AT_ONCE):
            stored = [
                (i, str(split.sample_names[i]), store.header.class_name(int(split.labels[i])))
                for i in chosen[split_name][start : start + COMPARED_AT_ONCE]
            ]
            samples = Samples.gather(
                [
                    (part, at[name])
                    for _, name, _ in stored
                    for part, at in zip(parts, places, strict=True)
                    if name in at
                ]
            )
            samples.inspect_files()
            classes = [source.classes[label] for label in samples.labels]
            yield Comparison(split.reader(), stored, source, samples, classes)


def compare(task: Comparison) -> list[Problem]:
    """Return the differences between stored samples and their raw files."""
    problems = []
    reader: SampleReader = task.reader
    with contextlib.suppress(StoreError):  # reported sample by sample
        reader = task.reader.fetch([index for index, _, _ in task.stored])
    listed = task.samples
    with fetch_ahead(listed.paths, listed.input_size, listed.all_places()):
        for index, name, label in task.stored:
            try:
                problem = _difference(task, reader, index, name, label)
            except EventDataError as error:
                problem = str(error)
            if problem:
                shard = index // task.reader.shard_size
                problems.append(Problem(problem, task.reader.split, shard, index, name))
    return problems


def _difference(task: Comparison, reader: SampleReader, index: int, name: str, label: str) -> str:
    """Return the difference between a stored sample and its raw file, "" for none."""
    sample = task.reader.sample
    stored, again = (np.empty(sample.packed_shape, sample.dtype) for _ in range(2))
    reader.read(index, stored)
    if name not in task.samples.names:
        return "not in the raw data"
    place = task.samples.names.index(name)
    read_sample(task.source, task.samples, place, again)
    where = task.samples.paths[place] or name
    if not np.array_equal(stored, again):
        return f"{where}: its frames differ from those in the store"
    raw_label = task.classes[place]
    return "" if raw_label == label else f"{where}: class {raw_label}, in the store {label}"
