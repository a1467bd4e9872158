"""Write a store so that it can be interrupted anywhere and finished by the same call.

Order of writing: root header (complete: false), input columns of each split, shards in any order
(each followed by its record in ``.work``), columns of results, root header (complete: true), and
``.work`` is removed. A shard counts as done when its record says so, and is the same bytes
whoever writes it, so that a second writer can do no harm.
"""

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import MismatchError, StoreError
from eventdata.files import WORK, Files, Output
from eventdata.files.local import (
    MAX_HEADER,
    LocalFiles,
    held,
    is_larger,
    most_record_bytes,
    read_bounded,
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
from eventdata.store.read import read_skipped

Columns = Mapping[str, NDArray[Any]]
LOCK = f"{WORK}/lock"
INPUT_COLUMNS = ("name", "label", "input_size", "input_time")
_CHANGED = {
    "name": "is another one",
    "label": "has another label",
    "input_size": "is a file of another size",
    "input_time": "is a file that was changed since",
}
_WAY_OUT = "call with the same, choose another OUT, or replace the store with --overwrite"


@dataclass(frozen=True)
class StorePlan:
    """All that is known of a store before its samples are read.

    ``splits``: the input columns (name, label, input_size, input_time) of each split.
    """

    header: Header
    sample: SampleFormat
    shard_size: int
    splits: Mapping[str, Columns]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of parameters and input: two plans with one digest make the same shards."""
        return input_digest(self.splits, self.header.parameters_sha256)

    def shards(self, split: str) -> int:
        """How many shards the split has."""
        return shard_count(len(self.splits[split]["label"]), self.shard_size)


def input_digest(splits: Mapping[str, Columns], facts: str = "") -> str:
    """SHA-256 of facts and of what the input is: names, labels, sizes and times of its files."""
    digest = hashlib.sha256(facts.encode())
    for split, columns in sorted(splits.items()):
        names = json.dumps([split, columns["name"].tolist()], indent=1, ensure_ascii=False)
        digest.update(names.encode("utf-8", "surrogatepass"))
        for key in ("label", "input_size", "input_time"):
            values = columns[key]
            digest.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class ShardRecord:
    """What came of one shard.

    events: of each sample; skipped: reasons by slot; size: bytes of the shard; notes: what its
    samples told (`raw.source.tell`), and how many each; plan: whose shard it is, by
    `StorePlan.digest` ("" in those of versions that did not say).
    """

    events: Sequence[int]
    skipped: Mapping[int, str]
    size: int
    notes: Mapping[str, int] = field(default_factory=dict)
    plan: str = ""

    def document(self) -> bytes:
        """The record as JSON, whose keys are strings."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def parse(cls, document: bytes) -> "ShardRecord":
        """ValueError, TypeError, KeyError or AttributeError where the document is not whole."""
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
    """Header of the store that is there; None for an empty place; StoreError for something else."""
    document = read_bounded(files, HEADER_KEY, MAX_HEADER)
    if document is not None:
        return parse_header(document, files.where)
    if set(files.names()) - {WORK}:
        raise StoreError(
            f"{files.where}: holds something else than a store of eventdata; choose another OUT"
        )
    return None


@contextlib.contextmanager
def writer_lock(files: Files) -> Iterator[None]:
    """Hold the store for this process; the system lets go of it whatever way the process ends."""
    if not isinstance(files, LocalFiles):
        yield
        return
    busy = StoreError(f"{files.where}: another conversion is writing to it; wait for that to end")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(files.own(LOCK), busy))
        except OSError as error:
            raise StoreError(f"{files.where}: can't be locked ({error.strerror})") from error
        yield


def already_complete(files: Files, plan: StorePlan) -> bool:
    """Whether the plan's store is there and complete. MismatchError where it is another one."""
    found = existing_header(files)
    if found is None or not found.complete:
        return False
    check_same(files, found, plan)
    return True


def begin(files: Files, plan: StorePlan, *, overwrite: bool) -> None:
    """Lay out the store, or check that the unfinished one that is there is this one.

    Another one, of which no shard is done, is replaced. Call with `writer_lock` held. MismatchError
    tells what differs.
    """
    found = existing_header(files)
    if found is not None and (overwrite or not is_begun(files, found, plan)):
        _discard(files, found)
    for key in files.list(WORK):
        if key.endswith(".tmp"):
            files.remove(key)
    fixed = {HEADER_KEY: plan.header.document()}
    for split in plan.splits:
        fixed |= _fixed_files(plan, split)
    files.write({key: data for key, data in fixed.items() if files.size(key) is None})


def is_begun(files: Files, found: Header, plan: StorePlan) -> bool:
    """Whether the store that was found is the plan's; False where nothing in it is to be kept.

    That is one that is being replaced, or was begun by a call with a wrong option, which stopped
    before its first shard. MismatchError tells what differs from the plan in any other.
    """
    if not found.parameters_sha256:
        return False
    try:
        check_same(files, found, plan)
    except MismatchError:
        if found.complete or _may_hold_work(files):
            raise
        return False
    return True


def _may_hold_work(files: Files) -> bool:
    """Whether a shard is done, or another call may be at work, where no lock would tell."""
    return not isinstance(files, LocalFiles) or any(
        key.endswith(".json") for key in files.list(WORK)
    )


def _discard(files: Files, found: Header) -> None:
    """Remove a store, its header last; without a digest it is one to discard, should this stop.

    StoreError where anything lies in its folder that is not the store's.
    """
    own = {HEADER_KEY, SKIPPED_KEY, WORK, *found.split_names}
    foreign = sorted(set(files.names()) - own)
    if foreign:
        raise StoreError(
            f"{files.where}: holds {foreign[0]!r}, which is not the store's; move it away before "
            "you replace the store"
        )
    unfinished = replace(found, complete=False, parameters_sha256="")
    files.write({HEADER_KEY: unfinished.document()})
    for key in files.list(WORK):  # first: a worker that has outlived its conversion looks there
        if key != LOCK:
            files.remove(key)
    for name in (*found.split_names, SKIPPED_KEY):
        files.remove(name)
    files.remove(HEADER_KEY)


def check_same(files: Files, found: Header, plan: StorePlan) -> None:
    """MismatchError unless the store was begun with the plan's parameters and input."""
    pairs = [
        (key, getattr(found, key), getattr(plan.header, key))
        for key in ("dataset", "representation", "steps")
    ]
    keys = sorted({*found.parameters, *plan.header.parameters})
    pairs += [(k, found.parameters.get(k), plan.header.parameters.get(k)) for k in keys]
    different = [
        f"{key} is {a!r} in the store, {b!r} in this call" for key, a, b in pairs if a != b
    ]
    if list(found.classes) != list(plan.header.classes):
        different.append("the classes are others")
    if different:
        raise MismatchError(
            f"{files.where}: made with other parameters: {'; '.join(different)}; {_WAY_OUT}"
        )
    for split, columns in plan.splits.items():
        for key, data in _fixed_files(plan, split).items():
            if is_larger(files, key, len(data)) or files.read(key) not in (None, data):
                _tell_difference(files, split, key, columns)


def _fixed_files(plan: StorePlan, split: str) -> dict[str, bytes]:
    """The files of a split that are known before its samples are read."""
    columns = plan.splits[split]
    array = sample_array_document(plan.sample, len(columns["label"]), plan.shard_size)
    documents = {"zarr.json": group_document(), f"{plan.sample.array}/zarr.json": array}
    for name in INPUT_COLUMNS:
        documents |= encode_column(name, columns[name])
    return {f"{split}/{key}": data for key, data in documents.items()}


def _tell_difference(files: Files, split: str, key: str, columns: Columns) -> None:
    """MismatchError with the first sample whose input is not what the store was made from.

    Returns where the values are the same after all, encoded by another version of a library.
    """
    stored_count = len(read_column(files, split, "label"))
    if stored_count != len(columns["label"]):
        raise MismatchError(
            f"{files.where}: {split} has {stored_count:,} samples in the store, "
            f"{len(columns['label']):,} in the input now; {_WAY_OUT}"
        )
    name = key.split("/")[1]
    if name not in INPUT_COLUMNS:
        raise MismatchError(f"{files.where}/{key}: other shapes than this call makes; {_WAY_OUT}")
    stored, wanted = read_column(files, split, name), columns[name]
    if (stored != wanted).any():
        index = int(np.flatnonzero(stored != wanted)[0])
        raise MismatchError(
            f"{files.where}: sample {index} of {split}, {columns['name'][index]}, {_CHANGED[name]} "
            f"({stored[index]} in the store, {wanted[index]} now); {_WAY_OUT}"
        )


def write_shard(
    files: Output,
    split: str,
    sample: SampleFormat,
    shard: int,
    data: bytes | bytearray,
    record: ShardRecord,
) -> None:
    """Put a shard into its place, then its record."""
    files.write(
        {shard_key(split, sample, shard): data, _record_key(split, shard): record.document()}
    )


def read_records(files: Files, plan: StorePlan, split: str) -> dict[int, ShardRecord]:
    """Records of the shards that are done: the record reads well and the shard has its size."""
    shards = []
    for key in files.list(WORK):
        name = key.removeprefix(f"{WORK}/{split}-").removesuffix(".json")
        if name.isdecimal() and key == _record_key(split, int(name)):
            shards.append(int(name))
    shards = [shard for shard in shards if shard < plan.shards(split)]
    total = len(plan.splits[split]["label"])
    most = most_record_bytes(plan.shard_size)
    ours = ("", plan.digest)  # not in the threads, each of which would count it

    def read(shard: int) -> ShardRecord | None:
        try:
            document = read_bounded(files, _record_key(split, shard), most)
            record = ShardRecord.parse(document or b"")
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        size = files.size(shard_key(split, plan.sample, shard))
        count = min(plan.shard_size, total - shard * plan.shard_size)
        same = record.plan in ours and record.size == size and len(record.events) == count
        return record if same else None

    with ThreadPoolExecutor(16) as threads:  # to ask over a network is slow, not busy
        records = list(threads.map(read, shards))
    pairs = zip(shards, records, strict=True)
    return {shard: record for shard, record in pairs if record is not None}


def count_notes(files: Files, plan: StorePlan) -> Counter[str]:
    """The notes of all shards that are done, with the number of samples of each."""
    notes: Counter[str] = Counter()
    for split in plan.splits:
        for record in read_records(files, plan, split).values():
            notes.update(record.notes)
    return notes


def finish(files: Files, plan: StorePlan) -> None:
    """Write the columns of results, mark the store complete, remove ``.work``."""
    results: dict[str, bytes] = {}
    skips = []
    for split, columns in plan.splits.items():
        count = len(columns["label"])
        records = read_records(files, plan, split)
        lost = set(range(plan.shards(split))) - set(records)
        if lost:
            raise StoreError(f"{files.where}: shard {min(lost)} of {split} is gone; call again")
        events = np.zeros(count, np.uint32)
        valid = np.ones(count, np.bool_)
        for shard, record in sorted(records.items()):
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
    clear(files)


def clear(files: Files) -> None:
    """Remove ``.work`` of a store that is complete; call with `writer_lock` held.

    A call that comes meanwhile may put a lock of its own there, which is for that call to remove.
    """
    if isinstance(files, LocalFiles):
        for key in files.list(WORK):
            if key != LOCK:
                files.remove(key)
    with contextlib.suppress(StoreError):
        files.remove(WORK)


def count_skipped(files: Files) -> int:
    """How many samples the store's ``skipped.json`` lists."""
    return len(read_skipped(files))


def _record_key(split: str, shard: int) -> str:
    return f"{WORK}/{split}-{shard}.json"
