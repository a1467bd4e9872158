"""Generate raw files in the published layouts of ES-ImageNet and ES-UCF101.

    RAW/train/class{K}/class{K}_{n}.npz    RAW/val/ILSVRC2012_val_{n:08d}.npz
    RAW/trainlabel.txt, vallabel.txt       lines: path label height width; written last
    RAW/v_CLASS_gGG_cCC.npz                ES-UCF101
    RAW/generated.json                     parameters and input, skipped images and why
    RAW/.work/                             only until the job is finished (`eventdata.jobs.job`)

A task makes the files of a batch of samples, and its record has their lines of the manifest.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eventdata.conversion import plan_job
from eventdata.errors import (
    InputError,
    LeftOutError,
    MismatchError,
    OptionError,
    StoreError,
    reading,
)
from eventdata.files import WORK, is_url, path_or_url
from eventdata.files.fetch import fetch_ahead
from eventdata.files.inputs import check_apart, open_input
from eventdata.files.local import MAX_SKIPPED, LocalFiles
from eventdata.jobs.job import (
    Claim,
    Job,
    OnError,
    Progress,
    Record,
    Task,
    check_parameters,
    input_digest,
)
from eventdata.jobs.pool import Pool
from eventdata.raw.layouts import Maker, manifests, raw_file, raw_keys, source_of
from eventdata.raw.one_sample import local_sample
from eventdata.raw.source import Samples
from eventdata.store.layout import parse_json

ABOUT = "generated.json"
BATCH = 64  # samples of one task, whose work an interruption loses
LEFT = ("left_out", "skipped")


@dataclass(frozen=True)
class Generation:
    """The result of `generate`.

    samples: files of each split; done_before: samples that an earlier call finished;
    left_out: images with too few events; skipped: images or clips that can't be read.
    """

    out: str
    state: str
    samples: Mapping[str, int]
    done_before: int
    left_out: int
    skipped: int
    seconds: float
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class BatchRecord(Record):
    """The record of a batch: bytes of each file, its manifest lines, reasons for missing files."""

    skipped: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch(Task[BatchRecord]):
    """The work of making the files of some samples, whose places are ``keys``."""

    samples: Samples
    source: Maker
    keys: list[str]

    def make(self) -> tuple[Mapping[str, bytes], BatchRecord]:
        record = BatchRecord(plan=self.claim.plan)
        made: dict[str, bytes] = {}
        listed = self.samples
        with fetch_ahead(listed.paths, listed.input_size, listed.all_places()):
            for index, key in enumerate(self.keys):
                try:
                    with local_sample(self.samples, index) as sample:
                        made[key], size = raw_file(self.source, sample.path)
                except LeftOutError as error:
                    record.left_out[key] = str(error)
                except InputError as error:
                    if self.claim.on_error == "fail":
                        raise
                    record.skipped[key] = str(error)
                else:
                    record.sizes[key] = len(made[key])
                    name = key.removeprefix(f"{self.split}/")
                    record.lines.append(f"{name} {sample.label} {size[0]} {size[1]}")
        return made, record

    def parse(self, document: bytes) -> BatchRecord:
        record = BatchRecord(**parse_json(document))
        left = {**record.left_out, **record.skipped}
        "".join([*left.values(), *record.lines]).encode()  # all of it can be written as text
        if sorted([*record.sizes, *left]) != sorted(self.keys):
            raise ValueError("of other samples")
        if any(self.claim.files.size(key) != size for key, size in record.sizes.items()):
            raise ValueError("of other files")
        return record


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
    """Generate raw files of ``es-imagenet`` from images, or of ``es-ucf101`` from clips.

    `convert` makes the same frames from them as from the input itself. To resume an interrupted
    generation, make the same call; the files have the same bytes.

    Args:
        kind: "es-imagenet" or "es-ucf101".
        input: a folder or URL of images or clips.
        out: a folder.
        workers, scheduler: see `convert`.
        on_error: "fail", or "skip" an image or clip that can't be read.
        limit: use only this many samples of each split.
        progress: called with the samples done and in total.
        options: options of the sources imagenet or ucf101, except those that the layout fixes.

    Raises:
        InputError: an image or clip can't be used.
        MismatchError: ``out`` was made with other parameters or from other input.
        StoreError: ``out`` can't be written.
        OptionError: an argument is invalid.
    """
    started = time.monotonic()
    pool = Pool(workers, scheduler=scheduler, places=(input,))
    folder = path_or_url(out)
    if is_url(folder):
        raise OptionError(f"{out}: raw files need a folder; generate them in one, then copy it")
    files = LocalFiles(Path(folder).absolute())
    check_apart(files, input, walked=True)
    with reading(input):
        source = source_of(kind, open_input(input), options)
        plan = plan_job(source, shard_size=BATCH, limit=limit, on_error=on_error)
    keys = {split: raw_keys(kind, split, part) for split, part in plan.listing.items()}
    about = {
        "kind": kind,
        "parameters": {
            **source.parameters,
            "limit": plan.header.parameters["limit"],
            "splits": sorted(keys),
        },
        "input_sha256": input_digest(plan.splits),
    }
    content = _json({**about, "complete": False})
    digest = hashlib.sha256(content).hexdigest()
    claim = Claim(files, ABOUT, content, digest, on_error, plan.first_files)
    job: Job[BatchRecord, dict[str, Any]] = Job(
        claim=claim,
        tasks=[
            Batch(claim, split, number, samples, source, keys[split][number * BATCH :][:BATCH])
            for split, number, samples in plan.parts()
        ],
        is_complete=lambda: _is_complete(files, _read_about(files, about), keys),
        begin=lambda: None,  # the claim is all that is known
        finish=lambda records: _finish(files, about, records),
    )
    done_before, finished = job.resume(pool, progress)
    found = finished or _read_about(files, about)
    return Generation(
        out=files.where,
        state="complete" if finished else "already complete",
        samples=found["samples"],
        done_before=done_before,
        left_out=len(found["left_out"]),
        skipped=len(found["skipped"]),
        seconds=time.monotonic() - started,
        notes=plan.notes,
    )


def _read_about(files: LocalFiles, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of generated.json, empty if the folder is.

    Raise StoreError for another folder or a damaged document, MismatchError for other parameters or
    input than ``about`` has.
    """
    document = b"" if (files.size(ABOUT) or 0) > MAX_SKIPPED else files.read(ABOUT)
    if document is None:
        if set(files.names()) - {WORK}:
            raise StoreError(f"{files.where}: is not empty; choose another folder")
        return {}
    try:
        found = dict(parse_json(document))
        tables = ("parameters", *(("samples", *LEFT) if found["complete"] is True else ()))
        sound = all(isinstance(found[key], dict) for key in tables)
    except (ValueError, TypeError, KeyError):
        sound = False
    if not sound:
        raise StoreError(f"{files.where}/{ABOUT}: damaged; choose another folder")
    remedy = "pass the same again, or choose another folder"
    old, new = ({"kind": one.get("kind"), **one["parameters"]} for one in (found, about))
    check_parameters(files, old, new, "there", remedy)
    if found.get("input_sha256") != about["input_sha256"]:
        raise MismatchError(
            f"{files.where}: made from other input (names, labels, sizes or times differ); {remedy}"
        )
    return found


def _is_complete(files: LocalFiles, found: dict[str, Any], keys: Mapping[str, list[str]]) -> bool:
    """Return whether all files are in place; if one is missing, all are made again."""
    if found.get("complete") is not True:
        return False
    without = {key for part in LEFT for key in found[part]}
    return all(
        key in without or files.size(key) is not None for part in keys.values() for key in part
    )


def _finish(
    files: LocalFiles, about: dict[str, Any], records: list[tuple[Task[BatchRecord], BatchRecord]]
) -> dict[str, Any]:
    """Write the manifests and generated.json; return the content of the latter."""
    lines: dict[str, list[str]] = {task.split: [] for task, _ in records}
    for task, record in records:
        lines[task.split] += record.lines
    finished = {
        **about,
        "samples": {split: len(part) for split, part in lines.items()},
        "left_out": {key: why for _, one in records for key, why in one.left_out.items()},
        "skipped": {key: why for _, one in records for key, why in one.skipped.items()},
        "complete": True,
    }
    files.write(manifests(lines))
    files.sync()
    files.write({ABOUT: _json(finished)})
    return finished


def _json(values: Any) -> bytes:
    return json.dumps(values, indent=1, ensure_ascii=False).encode()
