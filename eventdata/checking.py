"""`verify`: check a store against itself, and samples of it against their raw files."""

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.conversion import read_sample
from eventdata.errors import EventDataError, OptionError
from eventdata.raw.registry import SOURCES, build_source
from eventdata.raw.source import Samples, Source
from eventdata.store.read import Store, open_store
from eventdata.store.verify import Problem, check_metadata, check_shard, shard_checks
from eventdata.workers import run_tasks, worker_pool

AGAINST_SAMPLES = 256


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
    total = sum(len(split) for split in opened.splits.values())
    done = 0
    with worker_pool(workers) as pool:
        for count, found in run_tasks(pool, check_shard, shard_checks(opened), 4 * workers):
            problems += found
            done += count
            if progress is not None:
                progress(done, total)
    compared = 0
    if against is not None:
        source = source_of(opened, Path(against), options)
        for problem in compare(opened, source, samples, seed):
            compared += 1
            if problem is not None:
                problems.append(problem)
    return Verification(
        store=opened.files.where,
        samples=done,
        bytes=opened.files.total_bytes(),
        compared=compared,
        problems=problems,
        seconds=time.monotonic() - started,
    )


def source_of(store: Store, root: Path, options: Mapping[str, Any]) -> Source:
    """The source that a store was made from, on a folder of its raw data."""
    parameters = store.header.parameters
    name = str(parameters.get("source"))
    if name not in SOURCES:
        raise OptionError(f"{store.files.where}: made from {name!r}, which has no raw files here")
    known = {key: parameters[key] for key in SOURCES[name].options if key in parameters}
    if options.get("splits") is None:
        known.pop("fold", None)  # a fold means nothing without its lists
    return build_source(name, root, {**known, **options})


def compare(
    store: Store, source: Source, samples: int | None, seed: int | None
) -> Iterator[Problem | None]:
    """Read samples again from raw; a problem, or None where it is the same, for each."""
    listing = source.splits()
    for part in listing.values():
        part.inspect_files()
    draw = random.Random(seed)
    for split_name, split in store.splits.items():
        # Raw data without split lists has one split for all.
        parts = [listing[split_name]] if split_name in listing else list(listing.values())
        places = {
            name: (part, i)
            for part in parts
            for i, name in enumerate(part.names)
            if i not in part.problems
        }
        valid = [int(index) for index in np.flatnonzero(split.valid)]
        chosen = valid if samples is None or samples >= len(valid) else draw.sample(valid, samples)
        reader = split.reader()
        stored = np.empty(split.sample.packed_shape, split.sample.dtype)
        again = np.empty_like(stored)
        for index in sorted(chosen):
            name = str(split.sample_names[index])
            here = Problem("", split_name, index // split.shard_size, index, name)
            try:
                reader.read(index, stored)
                label = store.header.classes[split.labels[index]]
                problem = _difference(source, places.get(name), stored, label, again)
            except EventDataError as error:
                problem = str(error)
            yield replace(here, message=problem) if problem else None


def _difference(
    source: Source,
    place: tuple[Samples, int] | None,
    stored: NDArray[Any],
    label: str,
    again: NDArray[Any],
) -> str:
    """What differs between a stored sample and its raw file read again; "" for nothing."""
    if place is None:
        return "not in the raw data"
    part, index = place
    read_sample(source, part, index, again)
    if not np.array_equal(stored, again):
        return f"{part.paths[index]}: other frames than in the store"
    raw_label = source.classes[part.labels[index]]
    if raw_label != label:
        return f"{part.paths[index]}: class {raw_label}, in the store {label}"
    return ""
