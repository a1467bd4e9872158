"""Power cuts: the model of the disk, the record of operations, and jobs on what is left of them."""

import contextlib
import copy
import os
import random
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from eventdata.files import local
from tests.faults.cuts import (
    archive_cuts,
    clips_cuts,
    convert_cuts,
    cut_power,
    generate_cuts,
    overwrite_cuts,
    torn_stores,
    train_cuts,
    tree_of,
)
from tests.faults.disk import Disk
from tests.faults.recorder import Recorder

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="open files are found in Linux's /proc"
)

OLD, NEW = b"o" * 700, b"n" * 2000


def write(path, data, *, sync):
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def sync_folder(path):
    number = os.open(path, os.O_RDONLY)
    os.fsync(number)
    os.close(number)


def replace(root, *, sync, then=()):
    write(root / "new", NEW, sync=sync)
    (root / "new").replace(root / "file")
    for folder in then:
        sync_folder(root / folder)


def left_of(root, program):
    """Return what a power cut after a program may leave of ``file``."""
    write(root / "file", OLD, sync=True)
    disk, recorder = Disk(root), Recorder(root)
    with recorder.recording():
        program(root)
    for one in recorder.operations:
        disk.apply(one)
    assert disk.seen() == tree_of(root)
    return {make().tree.get("file") for make in disk.states(random.Random(0), 200)}


def test_a_rename_may_survive_without_the_bytes(tmp_path):
    left = left_of(tmp_path, lambda root: replace(root, sync=False))
    assert {OLD, NEW, b"", bytes(len(NEW))} <= left
    assert len(left) > 20
    cut = {data for data in left - {OLD} if NEW.startswith(data)}
    assert len(cut) > 5
    assert {len(data) for data in left - {OLD} - cut} == {len(NEW)}


def test_a_synced_file_is_whole_under_its_old_or_new_name(tmp_path):
    assert left_of(tmp_path, lambda root: replace(root, sync=True)) == {OLD, NEW}


def test_nothing_is_lost_after_the_sync_of_the_folder(tmp_path):
    assert left_of(tmp_path, lambda root: replace(root, sync=True, then=["."])) == {NEW}


def test_a_removed_file_may_come_back(tmp_path):
    assert left_of(tmp_path, lambda root: (root / "file").unlink()) == {OLD, None}


def test_bytes_that_were_synced_stay(tmp_path):
    def append(root):
        with (root / "file").open("ab") as file:
            file.write(NEW)

    left = left_of(tmp_path, append)
    assert len(left) > 10
    assert all(data.startswith(OLD) for data in left)


def test_changes_of_two_names_may_survive_in_any_order(tmp_path):
    def program(root):
        (root / "a").mkdir()
        (root / "b").touch()
        (root / "a" / "c").touch()
        sync_folder(root / "a")
        (root / "b").rename(root / "a" / "b")

    disk, recorder = Disk(tmp_path), Recorder(tmp_path)
    with recorder.recording():
        program(tmp_path)
    for one in recorder.operations:
        disk.apply(one)
    left = {frozenset(make().tree) for make in disk.states(random.Random(0), 200)}
    without, within = [(), ("b",)], [(), ("b",), ("a/b",), ("b", "a/b")]
    assert left == {*map(frozenset, without), *(frozenset(("a", "a/c", *one)) for one in within)}


@pytest.mark.parametrize("seed", range(20))
def test_a_record_gives_the_same_files_again(tmp_path, seed):
    """Draw calls of every recorded function; some calls fail."""
    draw = random.Random(seed)
    names = ("a", "b", "c", "d/a", "d/b", "d/e/a", "f")

    def somewhere():
        return str(tmp_path / draw.choice(names))

    def some_file():
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        return str(draw.choice(files)) if files else somewhere()

    def bytes_at_once(path, flags):
        number = os.open(path, flags | draw.choice((0, os.O_TRUNC)))
        try:
            os.write(number, draw.randbytes(draw.randrange(900)))
            os.pwrite(number, draw.randbytes(9), draw.randrange(2000))
            os.ftruncate(number, draw.randrange(1500))
            os.fdatasync(number)
        finally:
            os.close(number)

    def buffered(path):
        mode = draw.choice(("w", "a", "x", "r+", "w+"))
        with Path(path).open(f"{mode}b", buffering=draw.choice((0, -1))) as file:
            file.write(draw.randbytes(draw.randrange(900)))
            file.seek(draw.randrange(500))
            file.write(b"again")
            file.truncate(draw.randrange(600))

    calls = [
        lambda: bytes_at_once(somewhere(), os.O_RDWR | os.O_CREAT),
        lambda: bytes_at_once(some_file(), os.O_WRONLY | os.O_APPEND),
        lambda: buffered(somewhere()),
        lambda: buffered(some_file()),
        lambda: Path(somewhere()).write_text("text\n" * draw.randrange(9)),
        lambda: os.truncate(some_file(), draw.randrange(900)),
        lambda: Path(some_file()).rename(somewhere()),
        lambda: Path(some_file()).replace(somewhere()),
        lambda: os.link(some_file(), somewhere()),
        lambda: Path(some_file()).unlink(),
        lambda: (tmp_path / "d" / "e").mkdir(parents=True, exist_ok=draw.random() < 0.5),
        lambda: (tmp_path / "f").mkdir(),
        lambda: (tmp_path / "f").rmdir(),
        lambda: shutil.rmtree(tmp_path / "d") if draw.random() < 0.2 else None,
        lambda: shutil.copyfile(some_file(), somewhere()),
    ]
    write(tmp_path / "a", OLD, sync=True)
    disk, recorder = Disk(tmp_path), Recorder(tmp_path)
    with recorder.recording():
        for _ in range(60):
            with contextlib.suppress(OSError, shutil.SameFileError):
                draw.choice(calls)()
    known = [one for one in recorder.operations if one.kind != "unknown"]
    for one in known:
        disk.apply(one)
    if len(known) == len(recorder.operations):
        assert disk.seen() == tree_of(tmp_path)


@pytest.mark.parametrize(
    "program",
    [
        lambda root: (root / "link").symlink_to("file"),
        lambda root: (root.parent / "other").rename(root / "other"),
        lambda root: subprocess.run([sys.executable, "-c", f"open({str(root / 'x')!r}, 'w')"]),
    ],
)
def test_what_is_not_recorded_is_noticed(tmp_path, program):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "other").touch()
    disk, recorder = Disk(root), Recorder(root)
    with recorder.recording():
        program(root)
    unknown = any(one.kind == "unknown" for one in recorder.operations)
    assert unknown or copy.deepcopy(disk).seen() != tree_of(root)


@pytest.mark.parametrize(
    ("make", "count", "settings"),
    [
        (convert_cuts, 24, {}),
        (overwrite_cuts, 12, {}),
        (archive_cuts, 9, {}),
        (generate_cuts, 20, {}),
        (clips_cuts, 4, {"before": ["nothing"]}),
        (train_cuts, 3, {"before": ["nothing"]}),
    ],
)
def test_jobs_survive_power_cuts(tmp_path, make, count, settings):
    cuts = list(cut_power(make(tmp_path), tmp_path, count, **settings))
    assert [cut for cut in cuts if cut.faults] == []
    assert len(cuts) == count


@pytest.mark.parametrize(
    ("make", "missing", "fault"),
    [
        (generate_cuts, "folders", "the next call fails"),
        (convert_cuts, "files", "not whole"),
    ],
)
def test_a_missing_sync_is_found(tmp_path, monkeypatch, make, missing, fault):
    """Without a sync of folders, or of files, a power cut leaves what must not be."""
    if missing == "folders":
        monkeypatch.setattr(local, "_sync_folder", lambda folder: None)
    else:
        monkeypatch.setattr(local, "_write_durably", lambda path, data: path.write_bytes(data))
    cuts = cut_power(make(tmp_path), tmp_path, 400, before=["nothing"])
    assert any(fault in one for cut in cuts for one in cut.faults)


def test_verify_finds_every_damaged_store(tmp_path):
    found = list(islice(torn_stores(tmp_path, 60), 60))
    assert len(found) == 60
    assert all(found_it for _, found_it in found)
