"""Write a store that may be interrupted anywhere and finished by the same command.

Order of writing: the root header (complete: false), the input columns of each split, shards in any
order, each followed by its record (`eventdata.jobs.job`), the result columns, and the root header
again (complete: true).
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from eventdata.errors import MismatchError, StoreError
from eventdata.files import WORK, Files
from eventdata.files.local import MAX_ARRAY_DOCUMENT, MAX_HEADER, LocalFiles
from eventdata.jobs.job import LOCK, Columns, Record, Task, check_parameters, input_digest
from eventdata.store.columns import encode_column, read_column
from eventdata.store.layout import (
    HEADER_KEY,
    SKIPPED_KEY,
    Header,
    SampleFormat,
    group_document,
    older_document,
    parse_header,
    sample_array_document,
)

INPUT_COLUMNS = {
    "name": "is a different sample",
    "label": "has a different label",
    "input_size": "is a file of a different size",
    "input_time": "is a file that was changed since",
}
"""The columns known before samples are read, and what a difference in each means."""
_REMEDY = "pass the same again, choose another OUT, or replace the store with --overwrite"


@dataclass(frozen=True)
class StorePlan:
    """A store before its samples are read. ``splits``: the input columns of each split."""

    header: Header
    sample: SampleFormat
    shard_size: int
    splits: Mapping[str, Columns]

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of parameters and input: plans with the same one make the same shards."""
        return input_digest(self.splits, self.header.parameters_sha256)

    @property
    def counts(self) -> dict[str, int]:
        """The number of samples of each split."""
        return {split: len(columns["label"]) for split, columns in self.splits.items()}

    @property
    def total(self) -> int:
        """The number of samples of all splits."""
        return sum(self.counts.values())


@dataclass(frozen=True, kw_only=True)
class ShardRecord(Record):
    """The record of a shard.

    events: of each sample; size: bytes of the shard; skipped: reasons by slot; notes: how many
    samples each note of the source is about.
    """

    events: Sequence[int]
    size: int
    notes: Mapping[str, int] = field(default_factory=dict)


def existing_header(files: Files) -> Header | None:
    """Return the header of the store in a place, None if it is empty; StoreError otherwise."""
    document = files.read(HEADER_KEY, MAX_HEADER)
    if document is not None:
        return parse_header(document, files.where)
    if set(files.names()) - {WORK}:
        raise StoreError(
            f"{files.where}: is not empty and is not an eventdata store; choose another OUT"
        )
    return None


def already_complete(files: Files, plan: StorePlan) -> bool:
    """Return whether the plan's store is complete; MismatchError for a complete other one."""
    found = existing_header(files)
    if found is None or not found.complete:
        return False
    check_same(files, found, plan)
    return True


def begin(files: Files, plan: StorePlan, *, overwrite: bool) -> None:
    """Write the files that are known before samples are read. Call it with the lock held.

    Another store is replaced with ``overwrite``, or if none of its shards is done; otherwise raise
    MismatchError.
    """
    found = existing_header(files)
    if found is not None and (overwrite or not is_begun(files, found, plan)):
        _discard(files, found)
    if files.size(HEADER_KEY) is None:  # first: a folder with anything else needs one to be a store
        files.write({HEADER_KEY: plan.header.document()})
    missing = {key: data for key, data in _fixed_files(plan).items() if files.size(key) is None}
    files.write(missing | _older_documents(files, plan))


def is_begun(files: Files, found: Header, plan: StorePlan) -> bool:
    """Return whether a store is the plan's; False if nothing in it is worth keeping.

    So it is in a store that is being replaced, or in one of another plan that stopped before its
    first shard, as after a wrong option. Raise MismatchError for another one that holds work.
    """
    if not found.parameters_sha256:
        return False
    try:
        check_same(files, found, plan)
    except MismatchError:
        # Without a lock, another command may be at work there.
        may_hold_work = not isinstance(files, LocalFiles) or any(
            key.endswith(".json") for key in files.list(WORK)
        )
        if found.complete or may_hold_work:
            raise
        return False
    return True


def _discard(files: Files, found: Header) -> None:
    """Remove a store, its header last. A header without digest marks a store to discard.

    Raise StoreError where the folder holds something that is not the store's.
    """
    own = {HEADER_KEY, SKIPPED_KEY, WORK, *found.split_names}
    foreign = sorted(set(files.names()) - own)
    if foreign:
        raise StoreError(
            f"{files.where}: holds {foreign[0]!r}, which is not part of the store; move it "
            "elsewhere, then run the same command again"
        )
    unfinished = replace(found, complete=False, parameters_sha256="")
    files.write({HEADER_KEY: unfinished.document()})
    for key in files.list(WORK):  # first: a worker that outlives its conversion checks there
        if key != LOCK:
            files.remove(key)
    for name in (*found.split_names, SKIPPED_KEY):
        files.remove(name)
    files.sync()
    files.remove(HEADER_KEY)


def check_same(files: Files, found: Header, plan: StorePlan) -> None:
    """Raise MismatchError unless a store has the plan's parameters and input."""
    own = ("dataset", "representation", "steps")
    old, new = (
        {**header.parameters, **{key: getattr(header, key) for key in own}}
        for header in (found, plan.header)
    )
    if found.version == 1 and found.dataset == "recordings" and new.get("time_unit") == "s":
        old.setdefault("time_unit", "s")  # version 1 took floats for seconds, and did not state it
    check_parameters(files, old, new, "in the store", _REMEDY)
    if list(found.classes) != list(plan.header.classes):
        raise MismatchError(f"{files.where}: made with other classes; {_REMEDY}")
    older = _older_documents(files, plan)
    for key, data in _fixed_files(plan).items():
        if key in older:
            continue
        if files.size(key) not in (None, len(data)) or files.read(key) not in (None, data):
            _check_input(files, plan, key)


def _fixed_files(plan: StorePlan) -> dict[str, bytes]:
    """Return the files of all splits that are known before samples are read."""
    fixed: dict[str, bytes] = {}
    for split, count in plan.counts.items():
        array = sample_array_document(plan.sample, count, plan.shard_size)
        documents = {"zarr.json": group_document(), f"{plan.sample.array}/zarr.json": array}
        for name in INPUT_COLUMNS:
            documents |= encode_column(name, plan.splits[split][name])
        fixed |= {f"{split}/{key}": data for key, data in documents.items()}
    return fixed


def _older_documents(files: Files, plan: StorePlan) -> dict[str, bytes]:
    """Return the ``zarr.json`` of the arrays that an older version began, as this one has them."""
    if not plan.sample.attributes:
        return {}
    documents = {
        f"{split}/{plan.sample.array}/zarr.json": sample_array_document(
            plan.sample, count, plan.shard_size
        )
        for split, count in plan.counts.items()
    }
    return {
        key: data
        for key, data in documents.items()
        if files.read(key, MAX_ARRAY_DOCUMENT) == older_document(data)
    }


def _check_input(files: Files, plan: StorePlan, key: str) -> None:
    """Raise MismatchError for the first sample whose input is not what the store was made from.

    Equal values may differ in bytes, if another version of a library encoded them.
    """
    split, name, *_ = key.split("/")
    columns, count = plan.splits[split], plan.counts[split]
    stored_count = len(read_column(files, split, "label"))
    if stored_count != count:
        raise MismatchError(
            f"{files.where}: {split} has {stored_count:,} samples in the store, {count:,} in the "
            f"input; {_REMEDY}"
        )
    if name not in INPUT_COLUMNS:
        raise MismatchError(f"{files.where}/{key}: made with other shapes; {_REMEDY}")
    stored, wanted = read_column(files, split, name), columns[name]
    if (stored != wanted).any():
        index = int(np.flatnonzero(stored != wanted)[0])
        raise MismatchError(
            f"{files.where}: sample {index} of {split}, {columns['name'][index]}, "
            f"{INPUT_COLUMNS[name]} ({stored[index]} in the store, {wanted[index]} now); {_REMEDY}"
        )


def finish(
    files: Files, plan: StorePlan, records: Iterable[tuple[Task[Any], ShardRecord]]
) -> Counter[str]:
    """Write the result columns and mark the store complete; return how often each note occurs."""
    events = {split: np.zeros(count, np.uint32) for split, count in plan.counts.items()}
    valid = {split: np.ones(count, np.bool_) for split, count in plan.counts.items()}
    skips = []
    notes: Counter[str] = Counter()
    for task, record in records:
        notes.update(record.notes)
        start = task.number * plan.shard_size
        events[task.split][start : start + len(record.events)] = record.events
        for slot, reason in sorted(record.skipped.items()):
            index = start + slot
            valid[task.split][index] = False
            name = str(plan.splits[task.split]["name"][index])
            skips.append({"split": task.split, "index": index, "name": name, "reason": reason})
    results: dict[str, bytes] = {}
    for split in plan.splits:
        columns = encode_column("event_count", events[split]) | encode_column("valid", valid[split])
        results |= {f"{split}/{key}": data for key, data in columns.items()}
    if skips:
        results[SKIPPED_KEY] = json.dumps(skips, indent=1, ensure_ascii=False).encode()
    files.write(results)
    files.sync()
    files.write({HEADER_KEY: replace(plan.header, complete=True).document()})
    return notes
