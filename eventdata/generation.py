"""Raw files in the published layouts of ES-ImageNet and ES-UCF101, from images and clips.

    RAW/train/class{K}/class{K}_{n}.npz    RAW/val/ILSVRC2012_val_{n:08d}.npz
    RAW/trainlabel.txt, vallabel.txt       lines: path label height width; written last
    RAW/v_CLASS_gGG_cCC.npz                ES-UCF101
    RAW/generated.json                     from what and how the files were made, what was left out
    RAW/.work/                             only while this runs or after it was interrupted

Work goes in batches of samples, as a conversion's in shards: the files of a batch are written
beside their places and renamed, then its record. The same call goes on after the last record.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from eventdata.conversion import OnError, Progress, check_apart, plan_job, unseen
from eventdata.errors import (
    InputError,
    LeftOutError,
    MismatchError,
    OptionError,
    StoreError,
    check_whole,
    reading,
)
from eventdata.files import WORK, Files, is_url, path_or_url
from eventdata.files.fetch import fetch_ahead, local_copy, open_input
from eventdata.files.local import (
    MAX_SKIPPED,
    LocalFiles,
    is_larger,
    most_record_bytes,
    read_bounded,
)
from eventdata.files.remote import check_reach
from eventdata.jobs.pool import Pool, check_pool, check_workers, open_pool, run_tasks
from eventdata.jobs.worker import out_of_memory, working_on
from eventdata.raw.published import Maker, manifests, raw_file, raw_keys, source_of
from eventdata.raw.source import Samples, file_numbers
from eventdata.store.layout import parse_json
from eventdata.store.write import clear, input_digest, writer_lock

ABOUT = "generated.json"
BATCH = 64  # samples whose work an interruption loses, a worker
LEFT = ("left_out", "skipped")


@dataclass(frozen=True)
class Generation:
    """What a call of `generate` did.

    samples: files of each split; done_before: samples that an earlier call had finished;
    left_out: images with too few events; skipped: those that can't be read.
    """

    out: str
    state: str
    samples: Mapping[str, int]
    done_before: int
    left_out: int
    skipped: int
    seconds: float
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """Samples to make files of, and where those go; it travels by pickle."""

    source: Maker
    files: Files
    split: str
    number: int
    samples: Samples
    keys: list[str]
    on_error: OnError
    about: bytes
    """What generated.json holds while it is wanted."""

    @property
    def plan(self) -> str:
        """Digest of what decides its files."""
        return hashlib.sha256(self.about).hexdigest()


@dataclass(frozen=True)
class Record:
    """What came of a batch: bytes a file, its manifest line, or why there is no file.

    plan: see `Batch`; "" in those of versions that did not say.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    plan: str = ""


def generate(
    kind: str,
    input: str | os.PathLike[str],  # noqa: A002 the command's own word
    out: str | os.PathLike[str],
    *,
    workers: int = 1,
    on_error: OnError = "fail",
    limit: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Generation:
    """Make raw files of ``es-imagenet`` from images, or of ``es-ucf101`` from clips.

    `convert` reads them to the frames that it makes straight from the same input. ``options``:
    of the sources imagenet or ucf101, but for those that the raw layout fixes. The same call goes
    on where another stopped, and makes the same bytes. input: a folder or URL; out: a folder.
    workers, scheduler: as for `convert`.

    Raises InputError (an image or clip, unless on_error="skip"), MismatchError (OUT was made from
    other input or with other options), StoreError (OUT can't be written), OptionError.
    """
    started = time.monotonic()
    check_workers(workers)
    check_reach(workers, scheduler, input)
    if limit is not None:
        (limit,) = check_whole(limit=limit)
    folder = path_or_url(out)
    if is_url(folder):
        raise OptionError(f"{out}: raw files are made in a folder; copy it there afterwards")
    files = LocalFiles(Path(folder).absolute())
    check_apart(files, input, walked=True)
    with reading(input):
        source = source_of(kind, open_input(input), options)
        job = plan_job(source, shard_size=BATCH, limit=limit, on_error=on_error)
    keys = {split: raw_keys(kind, split, part) for split, part in job.listing.items()}
    about = {
        "kind": kind,
        "parameters": {**source.parameters, "limit": limit, "splits": sorted(keys)},
        "input_sha256": input_digest(job.plan.splits),
    }
    begun = _json({**about, "complete": False})
    batches = list(_batches(source, files, job.listing, keys, on_error, begun))
    done_before = job.total
    found = _read_same(files, about)
    complete = _is_complete(files, found, keys)
    if not complete:
        check_pool(workers, scheduler=scheduler)
    if not complete or WORK in files.names():
        files.prepare()
        with writer_lock(files):
            found = _read_same(files, about)  # another call may have finished it since
            complete = _is_complete(files, found, keys)
            if complete:
                clear(files)  # killed between the last two steps
            else:
                files.write({ABOUT: begun})
                for key in files.list(WORK):
                    if key.endswith(".tmp"):
                        files.remove(key)
                todo = [batch for batch in batches if not _is_done(batch)]
                done_before = job.total - sum(len(batch.samples) for batch in todo)
                probe = partial(unseen, files, ABOUT, begun, job.first_files)
                with open_pool(workers, scheduler=scheduler, probe=probe) as pool:
                    _run(pool, todo, done_before, job.total, progress)
                found = _finish(kind, files, batches, about)
    return Generation(
        out=files.where,
        state="already complete" if complete else "complete",
        samples=found["samples"],
        done_before=done_before,
        left_out=len(found["left_out"]),
        skipped=len(found["skipped"]),
        seconds=time.monotonic() - started,
        notes=job.notes,
    )


def make_batch(batch: Batch) -> int:
    """Make the files of a batch, then its record; returns how many samples were tried."""
    with fetch_ahead(batch.samples.paths, batch.samples.input_size):
        made, record = _make_files(batch)
    if batch.files.read(ABOUT) != batch.about:  # this worker has outlived its call
        raise StoreError(f"{batch.files.where}: another call has taken the place; call again")
    batch.files.write({**made, _record_key(batch): _json(asdict(record))})
    return len(batch.keys)


def _make_files(batch: Batch) -> tuple[dict[str, bytes], Record]:
    record = Record(plan=batch.plan)
    made: dict[str, bytes] = {}
    for index, key in enumerate(batch.keys):
        try:
            if index in batch.samples.problems:
                raise InputError(batch.samples.problems[index])
            row = batch.samples.row(index)
            working_on(row.path)
            with local_copy(row.path) as path:
                made[key], size = raw_file(batch.source, path)
                if file_numbers([path]) != [batch.samples.file_numbers(index)]:
                    raise MismatchError(f"{path}: changed while this ran; call again once it rests")
        except LeftOutError as error:
            record.left_out[key] = str(error)
        except InputError as error:
            if batch.on_error == "fail":
                raise
            record.skipped[key] = str(error)
        except MemoryError:
            raise out_of_memory(row.path) from None
        else:
            record.sizes[key] = len(made[key])
            name = key.removeprefix(f"{batch.split}/")
            record.lines.append(f"{name} {row.label} {size[0]} {size[1]}")
    return made, record


def _read_about(files: LocalFiles) -> dict[str, Any]:
    """What generated.json says; empty where there is nothing, StoreError for something else."""
    document = b"" if is_larger(files, ABOUT, MAX_SKIPPED) else files.read(ABOUT)
    if document is None:
        if set(files.names()) - {WORK}:
            raise StoreError(f"{files.where}: holds something else; choose another folder")
        return {}
    try:
        found = parse_json(document)
        tables = ("parameters", *(("samples", *LEFT) if found["complete"] is True else ()))
        sound = all(isinstance(found[key], dict) for key in tables)
    except (ValueError, TypeError, KeyError):
        sound = False
    if not sound:
        raise StoreError(f"{files.where}/{ABOUT}: damaged; choose another folder")
    return dict(found)


def _read_same(files: LocalFiles, about: dict[str, Any]) -> dict[str, Any]:
    """`_read_about`, checked by `_check_same`."""
    found = _read_about(files)
    _check_same(files, found, about)
    return found


def _is_complete(files: LocalFiles, found: dict[str, Any], keys: Mapping[str, list[str]]) -> bool:
    """Whether it was finished and each file is still there; if one is gone, all are made again."""
    if found.get("complete") is not True:
        return False
    without = {key for part in LEFT for key in found[part]}
    return all(
        key in without or files.size(key) is not None for part in keys.values() for key in part
    )


def _check_same(files: LocalFiles, found: dict[str, Any], about: dict[str, Any]) -> None:
    """MismatchError unless what is there was begun with the same settings and input."""
    way_out = "call with the same, or choose another folder"
    old, new = (
        {"kind": one.get("kind"), **one.get("parameters", {})} for one in (found or about, about)
    )
    different = [
        f"{key} is {old.get(key)!r} there, {new.get(key)!r} in this call"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    if different:
        raise MismatchError(
            f"{files.where}: made with other parameters: {'; '.join(different)}; {way_out}"
        )
    if found and found.get("input_sha256") != about["input_sha256"]:
        raise MismatchError(
            f"{files.where}: made from other input (names, labels, sizes or times of change "
            f"differ); {way_out}"
        )


def _batches(
    source: Maker,
    files: Files,
    listing: Mapping[str, Samples],
    keys: Mapping[str, list[str]],
    on_error: OnError,
    about: bytes,
) -> Iterator[Batch]:
    for split, samples in listing.items():
        for start in range(0, len(samples), BATCH):
            part = slice(start, start + BATCH)
            number = start // BATCH
            yield Batch(
                source, files, split, number, samples[part], keys[split][part], on_error, about
            )


def _run(pool: Pool, todo: list[Batch], done: int, total: int, progress: Progress | None) -> None:
    if progress is not None:
        progress(done, total)
    with closing(run_tasks(pool, make_batch, todo)) as results:
        for count in results:
            done += count
            if progress is not None:
                progress(done, total)


def _read_record(batch: Batch) -> Record | None:
    """What came of a batch before; None where its record is not there, or not whole."""
    try:
        most = most_record_bytes(len(batch.keys))
        document = read_bounded(batch.files, _record_key(batch), most)
        record = Record(**parse_json(document or b""))
        left = {**record.left_out, **record.skipped}
        sound = sorted([*record.sizes, *left]) == sorted(batch.keys)
        sound = sound and record.plan in ("", batch.plan)
        "".join([*left.values(), *record.lines]).encode()  # all of it text that can be written
    except (ValueError, TypeError):
        return None
    return record if sound else None


def _is_done(batch: Batch) -> bool:
    """Whether its record is there and all its files are whole."""
    record = _read_record(batch)
    if record is None or (record.skipped and batch.on_error == "fail"):
        return False
    return all(batch.files.size(key) == size for key, size in record.sizes.items())


def _finish(
    kind: str, files: LocalFiles, batches: list[Batch], about: dict[str, Any]
) -> dict[str, Any]:
    """Write manifests and what was left out, remove ``.work``; what generated.json now says."""
    lines: dict[str, list[str]] = {batch.split: [] for batch in batches}
    left_out: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for batch in batches:
        record = _read_record(batch)
        if record is None:
            raise StoreError(f"{files.where}: the record of a batch is gone; call again")
        lines[batch.split] += record.lines
        left_out |= record.left_out
        skipped |= record.skipped
    finished = {
        **about,
        "samples": {split: len(part) for split, part in lines.items()},
        "left_out": left_out,
        "skipped": skipped,
        "complete": True,
    }
    files.write({**manifests(kind, lines), ABOUT: _json(finished)})
    clear(files)
    return finished


def _record_key(batch: Batch) -> str:
    return f"{WORK}/{batch.split}-{batch.number}.json"


def _json(values: Any) -> bytes:
    return json.dumps(values, indent=1, ensure_ascii=False).encode()
