"""Write a store that may be interrupted anywhere and finished by the same command.

Order of writing: the root header (complete: false), the input columns of each split, shards in any
order, each followed by its record (`eventdata.jobs.job`), the result columns, and the root header
again (complete: true).
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import numpy as np

from eventdata.errors import MismatchError, StoreError
from eventdata.files import WORK, Files
from eventdata.files.local import MAX_HEADER, LocalFiles, is_larger, read_bounded
from eventdata.jobs.job import (
    LOCK,
    Columns,
    check_parameters,
    input_digest,
    read_record,
    record_key,
)
from eventdata.store.columns import encode_column, read_column
from eventdata.store.layout import (
    HEADER_KEY,
    SKIPPED_KEY,
    Header,
    SampleFormat,
    group_document,
    parse_header,
    parse_json,
    sample_array_document,
    shard_count,
    shard_key,
    whole_number,
)

INPUT_COLUMNS = {
    "name": "is a different sample",
    "label": "has a different label",
    "input_size": "is a file of a different size",
    "input_time": "is a file that was changed since",
}
"""The columns known before samples are read, and what a difference in each means."""
_REMEDY = "pass the same, choose another OUT, or replace the store with --overwrite"


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

    def samples(self, split: str) -> int:
        """Return how many samples the split has."""
        return len(self.splits[split]["label"])

    def shards(self, split: str) -> int:
        """Return how many shards the split has."""
        return shard_count(self.samples(split), self.shard_size)

    def samples_in(self, split: str, shard: int) -> int:
        """Return how many samples a shard has."""
        return min(self.shard_size, self.samples(split) - shard * self.shard_size)


@dataclass(frozen=True)
class ShardRecord:
    """The record of a shard that is in its place.

    events: of each sample; skipped: reasons by slot; size: bytes of the shard; notes: how many
    samples each note of the source is about; plan: `StorePlan.digest`, "" in old records.
    """

    events: Sequence[int]
    skipped: Mapping[int, str]
    size: int
    notes: Mapping[str, int] = field(default_factory=dict)
    plan: str = ""

    def document(self) -> bytes:
        """Return the record as JSON, whose keys are strings."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def parse(cls, document: bytes) -> "ShardRecord":
        """Parse JSON; raise ValueError, TypeError, KeyError or AttributeError if it is damaged."""
        values = parse_json(document)
        skipped = {int(slot): str(reason) for slot, reason in values["skipped"].items()}
        notes = {
            note: whole_number(count, least=0) for note, count in values.get("notes", {}).items()
        }
        events = [whole_number(count, least=0) for count in values["events"]]
        if max(events, default=0) >= 2**32 or not all(0 <= slot < len(events) for slot in skipped):
            raise ValueError("events or slots that no shard has")
        size = whole_number(values["size"], least=0)
        return cls(events, skipped, size, notes, str(values.get("plan", "")))


def existing_header(files: Files) -> Header | None:
    """Return the header of the store in a place, None if it is empty; StoreError otherwise."""
    document = read_bounded(files, HEADER_KEY, MAX_HEADER)
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

    Another store is replaced with ``overwrite``, or if none of its shards is done.

    Raises:
        MismatchError: OUT holds another store.
    """
    found = existing_header(files)
    if found is not None and (overwrite or not is_begun(files, found, plan)):
        _discard(files, found)
    fixed = {HEADER_KEY: plan.header.document()}
    for split in plan.splits:
        fixed |= _fixed_files(plan, split)
    files.write({key: data for key, data in fixed.items() if files.size(key) is None})


def is_begun(files: Files, found: Header, plan: StorePlan) -> bool:
    """Return whether a store is the plan's; False if nothing in it is worth keeping.

    Nothing is worth keeping in a store that is being replaced, or one of another plan that stopped
    before its first shard, as after a wrong option.

    Raises:
        MismatchError: the store is another one and holds work.
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

    Raises:
        StoreError: the folder holds something that is not the store's.
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
    files.remove(HEADER_KEY)


def check_same(files: Files, found: Header, plan: StorePlan) -> None:
    """Raise MismatchError unless a store has the plan's parameters and input."""
    wanted = plan.header
    values = [
        (key, getattr(found, key), getattr(wanted, key))
        for key in ("dataset", "representation", "steps")
    ]
    keys = sorted({*found.parameters, *wanted.parameters})
    values += [(key, found.parameters.get(key), wanted.parameters.get(key)) for key in keys]
    check_parameters(files, values, "in the store", _REMEDY)
    if list(found.classes) != list(wanted.classes):
        raise MismatchError(f"{files.where}: made with other classes; {_REMEDY}")
    for split in plan.splits:
        for key, data in _fixed_files(plan, split).items():
            if is_larger(files, key, len(data)) or files.read(key) not in (None, data):
                _check_input(files, plan, split, key)


def _fixed_files(plan: StorePlan, split: str) -> dict[str, bytes]:
    """Return the files of a split that are known before its samples are read."""
    array = sample_array_document(plan.sample, plan.samples(split), plan.shard_size)
    documents = {"zarr.json": group_document(), f"{plan.sample.array}/zarr.json": array}
    for name in INPUT_COLUMNS:
        documents |= encode_column(name, plan.splits[split][name])
    return {f"{split}/{key}": data for key, data in documents.items()}


def _check_input(files: Files, plan: StorePlan, split: str, key: str) -> None:
    """Raise MismatchError for the first sample whose input is not what the store was made from.

    Equal values may differ in bytes, if another version of a library encoded them.
    """
    columns = plan.splits[split]
    stored_count = len(read_column(files, split, "label"))
    if stored_count != plan.samples(split):
        raise MismatchError(
            f"{files.where}: {split} has {stored_count:,} samples in the store, "
            f"{plan.samples(split):,} in the input; {_REMEDY}"
        )
    name = key.split("/")[1]
    if name not in INPUT_COLUMNS:
        raise MismatchError(f"{files.where}/{key}: made with other shapes; {_REMEDY}")
    stored, wanted = read_column(files, split, name), columns[name]
    if (stored != wanted).any():
        index = int(np.flatnonzero(stored != wanted)[0])
        raise MismatchError(
            f"{files.where}: sample {index} of {split}, {columns['name'][index]}, "
            f"{INPUT_COLUMNS[name]} ({stored[index]} in the store, {wanted[index]} now); {_REMEDY}"
        )


def write_shard(
    files: Files,
    split: str,
    sample: SampleFormat,
    shard: int,
    data: bytes | bytearray,
    record: ShardRecord,
) -> None:
    """Write a shard, then its record."""
    files.write(
        {shard_key(split, sample, shard): data, record_key(split, shard): record.document()}
    )


def read_records(files: Files, plan: StorePlan, split: str) -> dict[int, ShardRecord]:
    """Return the records of the shards that are done."""
    keys = set(files.list(WORK))
    shards = [n for n in range(plan.shards(split)) if record_key(split, n) in keys]
    ours = ("", plan.digest)  # not in the threads, each of which would compute it

    def read(shard: int) -> ShardRecord | None:
        key = record_key(split, shard)
        record = read_record(files, key, plan.shard_size, ShardRecord.parse)
        if record is None or record.plan not in ours:
            return None
        size = files.size(shard_key(split, plan.sample, shard))
        whole = record.size == size and len(record.events) == plan.samples_in(split, shard)
        return record if whole else None

    with ThreadPoolExecutor(16) as threads:  # requests over a network are slow, not busy
        records = zip(shards, threads.map(read, shards), strict=True)
        return {shard: record for shard, record in records if record is not None}


def finish(files: Files, plan: StorePlan) -> Counter[str]:
    """Write the result columns and mark the store complete; return how often each note occurs."""
    results: dict[str, bytes] = {}
    skips = []
    notes: Counter[str] = Counter()
    for split, columns in plan.splits.items():
        records = read_records(files, plan, split)
        lost = set(range(plan.shards(split))) - set(records)
        if lost:
            raise StoreError(
                f"{files.where}: shard {min(lost)} of {split} is gone; run the same command again"
            )
        events = np.zeros(plan.samples(split), np.uint32)
        valid = np.ones(plan.samples(split), np.bool_)
        for shard, record in sorted(records.items()):
            notes.update(record.notes)
            start = shard * plan.shard_size
            events[start : start + len(record.events)] = record.events
            for slot, reason in sorted(record.skipped.items()):
                index = start + slot
                valid[index] = False
                name = str(columns["name"][index])
                skips.append({"split": split, "index": index, "name": name, "reason": reason})
        for name, values in (("event_count", events), ("valid", valid)):
            encoded = encode_column(name, values)
            results |= {f"{split}/{key}": data for key, data in encoded.items()}
    if skips:
        results[SKIPPED_KEY] = json.dumps(skips, indent=1, ensure_ascii=False).encode()
    results[HEADER_KEY] = replace(plan.header, complete=True).document()  # the last to appear
    files.write(results)
    return notes
