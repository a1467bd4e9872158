"""`verify`: check a store against itself, and samples of it against their raw files."""

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.conversion import read_sample
from eventdata.errors import EventDataError, OptionError
from eventdata.raw.registry import build_source, source_entry
from eventdata.raw.source import Samples, Source
from eventdata.store.read import Split, Store, open_store
from eventdata.store.verify import (
    Problem,
    ShardCheck,
    check_metadata,
    check_shard,
    shard_checks,
)
from eventdata.workers import run_tasks, worker_pool

AGAINST_SAMPLES = 256
COMPARED_AT_ONCE = 64  # samples a task


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    samples: checked against the store's own checksums and columns; compared: read again from raw
    files; problems: empty for a sound store.
    """

    store: str
    samples: int
    bytes: int
    compared: int
    problems: list[Problem]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


def verify(
    store: str | os.PathLike[str],
    *,
    against: str | os.PathLike[str] | None = None,
    samples: int | None = AGAINST_SAMPLES,
    seed: int | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Verification:
    """Check every checksum, and every array of a store against the others.

    against: the raw folder; ``samples`` of each split, drawn at random (None: all), are converted
    again and compared. seed: of that draw. ``options``: of the source where the store does not
    know them (splits=DIR for es-ucf101, without which clips are found by their names).

    StoreError where there is no complete store to check; InputError where the raw folder can't be
    listed. Faults of single samples are in the result.
    """
    started = time.monotonic()
    opened = open_store(store)
    problems = list(check_metadata(opened))
    tasks: list[Iterator[ShardCheck | Comparison]] = [shard_checks(opened)]
    total = sum(len(split) for split in opened.splits.values())
    if against is not None:
        source = source_of(opened, Path(against), options)
        chosen = draw_samples(opened, samples, seed)
        total += sum(len(indices) for indices in chosen.values())
        tasks.append(comparisons(opened, source, chosen))
    checked = compared = 0
    with worker_pool(workers) as pool:
        for done in run_tasks(pool, _run_task, chain(*tasks), 4 * workers):
            problems += done.problems
            checked += done.checked
            compared += done.compared
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
    """The source that a store was made from, on a folder of its raw data."""
    parameters = store.header.parameters
    name = str(parameters.get("source"))
    try:
        entry = source_entry(name)
    except OptionError:
        raise OptionError(
            f"{store.files.where}: made from {name!r}, which has no raw files here"
        ) from None
    known = {key: parameters[key] for key in entry.options if key in parameters}
    if options.get("splits") is None:
        known.pop("fold", None)  # a fold means nothing without its lists
    return build_source(name, root, {**known, **options})


@dataclass(frozen=True)
class Comparison:
    """Stored samples to compare with what their source reads again; it travels by pickle.

    indices: in the store; samples: the raw ones, in the same order, None where there is none.
    """

    split: Split
    indices: list[int]
    source: Source
    samples: Samples
    found: list[int | None]
    labels: list[str]


@dataclass(frozen=True)
class _Done:
    problems: list[Problem]
    checked: int = 0
    compared: int = 0


def _run_task(task: ShardCheck | Comparison) -> _Done:
    if isinstance(task, ShardCheck):
        count, problems = check_shard(task)
        return _Done(problems, checked=count)
    return _Done(compare(task), compared=len(task.indices))


def draw_samples(store: Store, samples: int | None, seed: int | None) -> dict[str, list[int]]:
    """Valid samples of each split, ``samples`` of them drawn at random (None: all), ascending."""
    draw = random.Random(seed)
    chosen = {}
    for name, split in store.splits.items():
        valid = [int(index) for index in np.flatnonzero(split.valid)]
        everything = samples is None or samples >= len(valid)
        chosen[name] = valid if everything else sorted(draw.sample(valid, samples or 0))
    return chosen


def comparisons(
    store: Store, source: Source, chosen: Mapping[str, list[int]]
) -> Iterator[Comparison]:
    """Tasks of a few samples each, found in the raw data by their names."""
    listing = source.splits()
    for split_name, split in store.splits.items():
        # Raw data without split lists has one split for all.
        parts = [listing[split_name]] if split_name in listing else list(listing.values())
        places = {
            name: (part, i)
            for part in parts
            for i, name in enumerate(part.names)
            if i not in part.problems
        }
        for start in range(0, len(chosen[split_name]), COMPARED_AT_ONCE):
            indices = chosen[split_name][start : start + COMPARED_AT_ONCE]
            names = [str(split.sample_names[index]) for index in indices]
            rows = [places[name] for name in names if name in places]
            positions = iter(range(len(rows)))
            samples = Samples.gather(rows)
            samples.inspect_files()
            yield Comparison(
                split=split,
                indices=indices,
                source=source,
                samples=samples,
                found=[next(positions) if name in places else None for name in names],
                labels=[store.header.classes[split.labels[index]] for index in indices],
            )


def compare(task: Comparison) -> list[Problem]:
    """What differs between stored samples and their raw files read again."""
    split = task.split
    reader = split.reader()
    stored = np.empty(split.sample.packed_shape, split.sample.dtype)
    again = np.empty_like(stored)
    problems = []
    for index, place, label in zip(task.indices, task.found, task.labels, strict=True):
        try:
            reader.read(index, stored)
            problem = "not in the raw data"
            if place is not None:
                problem = _difference(task.source, task.samples, place, stored, label, again)
        except EventDataError as error:
            problem = str(error)
        if problem:
            name = str(split.sample_names[index])
            shard = index // split.shard_size
            problems.append(Problem(problem, split.name, shard, index, name))
    return problems


def _difference(
    source: Source,
    samples: Samples,
    index: int,
    stored: NDArray[Any],
    label: str,
    again: NDArray[Any],
) -> str:
    """What differs between a stored sample and its raw file read again; "" for nothing."""
    read_sample(source, samples, index, again)
    where = samples.paths[index] or samples.names[index]
    if not np.array_equal(stored, again):
        return f"{where}: other frames than in the store"
    raw_label = source.classes[samples.labels[index]]
    if raw_label != label:
        return f"{where}: class {raw_label}, in the store {label}"
    return ""
