"""Check a store against itself: every checksum, and every array against the others."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import StoreError
from eventdata.files import WORK, Files
from eventdata.files.local import MAX_ARRAY_DOCUMENT, MAX_HEADER
from eventdata.kernels.representations import REPRESENTATIONS
from eventdata.store.columns import TYPES, column_document
from eventdata.store.layout import (
    HEADER_DIGEST,
    HEADER_KEY,
    METADATA_CHUNK,
    SKIPPED_KEY,
    SampleFormat,
    group_document,
    parameters_digest,
    parse_json,
    same_document,
    shard_count,
    shard_key,
)
from eventdata.store.read import Split, Store
from eventdata.store.shard import (
    MISSING,
    ShardReader,
    index_bytes,
    most_chunk_bytes,
    parse_index,
    read_chunk,
)


@dataclass(frozen=True)
class Problem:
    """One fault of a store and its place, as far as that is known."""

    message: str
    split: str | None = None
    shard: int | None = None
    sample: int | None = None
    name: str | None = None

    def __str__(self) -> str:
        keys = ("split", "shard", "sample", "name")
        places = [f"{key} {getattr(self, key)}" for key in keys if getattr(self, key) is not None]
        return f"{', '.join(places)}: {self.message}" if places else self.message


@dataclass(frozen=True)
class ShardCheck:
    """One shard to check, with the columns of its samples. It is pickled for worker processes."""

    reader: ShardReader[Files]
    shard: int
    valid: NDArray[np.bool_]
    events: NDArray[np.uint32]
    names: NDArray[np.object_]


def check_metadata(store: Store) -> Iterator[Problem]:
    """Yield faults of headers, columns and ``skipped.json``, and files that do not belong."""
    header = store.header
    if parameters_digest(header.parameters) != header.parameters_sha256:
        yield Problem("the parameters do not match their sha256 in zarr.json")
    try:
        found = parse_json(store.files.read(HEADER_KEY, MAX_HEADER) or b"")
    except ValueError:  # the header changed since it was opened
        found = None
    expected = json.loads(header.document())
    older = {**expected, "attributes": {"eventdata": expected["attributes"]["eventdata"]}}
    if found not in (expected, older):
        yield Problem(f"{HEADER_KEY} is not as it was written: it or its {HEADER_DIGEST} changed")
    if not store.splits:
        yield Problem("the store has no splits")
    for split in store.splits.values():
        if list(header.polarity) != split.sample.polarity:
            yield Problem(f"{HEADER_KEY} and the frames differ in polarities", split=split.name)
        try:
            yield from _check_columns(split, len(header.classes))
        except StoreError as error:
            yield Problem(str(error), split=split.name)
        except ValueError as error:  # not JSON
            yield Problem(f"a zarr.json is damaged ({error})", split=split.name)
    yield from _check_skipped(store)
    for key in store.files.list(""):
        if not _belongs(store, key):
            yield Problem(f"{key}: a file that does not belong to the store")


def _belongs(store: Store, key: str) -> bool:
    split_name, _, rest = key.partition("/")
    if key in (HEADER_KEY, SKIPPED_KEY) or split_name == WORK:
        return True  # WORK: left by a kill at the end; the next `eventdata convert` removes it
    split = store.splits.get(split_name)
    if split is None:
        return False
    array, _, inside = rest.partition("/")
    if rest == "zarr.json" or (inside == "zarr.json" and array in (split.sample.array, *TYPES)):
        return True
    found = re.match("c/([0-9]+)", inside)
    if found is None:
        return False
    number = int(found[1])
    if array in TYPES:
        last = shard_count(split.count, METADATA_CHUNK) - 1
        return inside == f"c/{number}" and number <= last
    last = shard_count(split.count, split.shard_size) - 1
    return key == shard_key(split_name, split.sample, number) and number <= last


def _check_columns(split: Split, classes: int) -> Iterator[Problem]:
    # All columns are read before the first problem: a damaged one is reported instead.
    labels, events, valid, names = split.labels, split.event_counts, split.valid, split.sample_names
    split.input_sizes, split.input_times  # noqa: B018
    group = split.files.read(f"{split.name}/zarr.json", MAX_ARRAY_DOCUMENT) or b"{}"
    if parse_json(group) != json.loads(group_document()):
        yield Problem(f"{split.name}/zarr.json is not what this layout has", split=split.name)
    for column, kind in TYPES.items():
        key = f"{split.name}/{column}/zarr.json"
        found = parse_json(split.files.read(key) or b"{}")
        if not same_document(found, column_document(kind, split.count)):
            yield Problem(f"{key} is not what this layout has", split=split.name)
    faults = {
        "label {} has no class": valid & ((labels < 0) | (labels >= classes)),
        "skipped, but it has an event count": ~valid & (events != 0),
    }
    for message, found_at in faults.items():
        for index in np.flatnonzero(found_at)[:10].tolist():
            place = split.name, index // split.shard_size, index, str(names[index])
            yield Problem(message.format(labels[index]), *place)
    for name, times in Counter(names[valid]).most_common(10):
        if times > 1:
            yield Problem(f"{times} samples have this name", split=split.name, name=str(name))


def _check_skipped(store: Store) -> Iterator[Problem]:
    try:
        listed = {(entry["split"], entry["index"]) for entry in store.skipped}
    except StoreError as error:
        yield Problem(str(error))
        return
    try:
        invalid = {
            (split.name, int(index))
            for split in store.splits.values()
            for index in np.flatnonzero(~split.valid)
        }
    except StoreError:
        return  # reported by the check of the columns
    for split_name, index in sorted(listed ^ invalid, key=str)[:10]:
        where = f"listed in {SKIPPED_KEY}" if (split_name, index) in listed else "marked invalid"
        yield Problem(f"sample {index} is only {where}", split=split_name)


def shard_checks(store: Store) -> Iterator[ShardCheck]:
    """Yield a check of every shard of the splits whose columns can be read."""
    for split in store.splits.values():
        try:
            valid, events, names = split.valid, split.event_counts, split.sample_names
        except StoreError:
            continue  # reported by the check of the columns
        reader = ShardReader(split.files, split.name, split.sample, split.shard_size)
        for shard in range(shard_count(split.count, split.shard_size)):
            part = slice(shard * split.shard_size, (shard + 1) * split.shard_size)
            yield ShardCheck(reader, shard, valid[part], events[part], names[part])


def check_shard(task: ShardCheck) -> tuple[int, list[Problem]]:
    """Return the number of samples in a shard and its faults."""
    return len(task.valid), list(_shard_problems(task))


def _shard_problems(task: ShardCheck) -> Iterator[Problem]:
    reader, sample, shard_size = task.reader, task.reader.sample, task.reader.shard_size
    here = Problem("", split=reader.split, shard=task.shard)
    key, slots = reader.key(task.shard), min(shard_size, METADATA_CHUNK)
    try:
        most = slots * sample.planes * most_chunk_bytes(sample) + 1024
        data = reader.files.read(key, most)
        if data is None:
            raise StoreError(f"{key}: the shard is missing")
        view = memoryview(data)
        index = parse_index(view, sample, shard_size, key, len(view))
    except StoreError as error:
        yield replace(here, message=str(error))
        return
    entries = index[index[..., 0] != MISSING]
    entries = entries[np.argsort(entries[:, 0])]
    starts = np.concatenate([[0], np.cumsum(entries[:, 1], dtype=np.uint64)])
    body = len(data) - index_bytes(sample, shard_size)
    if (entries[:, 0] != starts[:-1]).any() or starts[-1] != body:
        yield replace(here, message=f"{key}: chunks overlap or leave gaps")
    if (index[len(task.valid) :, :, 0] != MISSING).any():
        yield replace(here, message=f"{key}: there are chunks after the last sample")
    packed = np.empty(sample.packed_shape, sample.dtype)
    for slot, valid in enumerate(task.valid):
        number = task.shard * shard_size + slot
        at = replace(here, sample=number, name=str(task.names[slot]))
        if not valid:
            if (index[slot, :, 0] != MISSING).any():
                yield replace(at, message="skipped, but it has data")
            continue
        try:
            for plane in range(sample.planes):
                read_chunk(view, index[slot, plane], packed[plane], f"time chunk {plane}")
        except StoreError as error:
            yield replace(at, message=str(error))
            continue
        yield from _content_problems(sample, packed, int(task.events[slot]), at)


def _content_problems(
    sample: SampleFormat, packed: NDArray[Any], events: int, at: Problem
) -> Iterator[Problem]:
    if not sample.is_events or sample.steps is None:
        if events:
            yield replace(at, message=f"a still image, but event_count is {events:,}")
        return
    for message in REPRESENTATIONS[sample.representation].faults(packed, sample.steps, events):
        yield replace(at, message=message)
