"""Kills and full disks: nothing lost, nothing half done counted as done."""

import errno
import itertools
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from makers import make_es_imagenet, tree_digest

import eventdata
from eventdata.errors import StoreError
from eventdata.store import files

KILLS = 20


def command(raw, out):
    words = ["convert", "es-imagenet", str(raw), str(out), "--shard-size", "4", "--workers", "2"]
    return [sys.executable, "-m", "eventdata", *words]


def test_kill_at_random_moments(tmp_path):
    raw = make_es_imagenet(tmp_path / "raw", train=120, val=40)
    started = time.monotonic()
    subprocess.run(command(raw, tmp_path / "whole.zarr"), check=True, capture_output=True)
    seconds = time.monotonic() - started
    whole = tree_digest(tmp_path / "whole.zarr")
    draw = random.Random(0)
    found_parts = 0
    for trial in range(KILLS):
        out = tmp_path / f"{trial}.zarr"
        with subprocess.Popen(
            command(raw, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(draw.uniform(0.3, 1) * seconds)
            process.send_signal(signal.SIGKILL)
        if out.exists() and tree_digest(out) != whole:
            found_parts += 1
        subprocess.run(command(raw, out), check=True, capture_output=True)
        assert tree_digest(out) == whole
        shutil.rmtree(out)
    assert found_parts  # the moments do hit conversions in their middle


def test_disk_full_at_any_write(tmp_path, monkeypatch):
    """ENOSPC at every write in turn: one clear error, and the next call finishes the store."""
    raw = make_es_imagenet(tmp_path / "raw", train=6, val=2)
    eventdata.convert("es-imagenet", raw, tmp_path / "whole.zarr", shard_size=2)
    whole = tree_digest(tmp_path / "whole.zarr")
    real = files.os.fsync

    def convert_with_fault_at(number, out):
        """Convert; write ``number`` (from 0) finds the disk full. Returns the writes tried."""
        calls = itertools.count()

        def fsync(descriptor):
            if next(calls) == number:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(descriptor)

        monkeypatch.setattr(files.os, "fsync", fsync)
        try:
            eventdata.convert("es-imagenet", raw, out, shard_size=2)
        finally:
            monkeypatch.setattr(files.os, "fsync", real)
        return next(calls)

    total, out = convert_with_fault_at(-1, tmp_path / "count.zarr"), tmp_path / "out.zarr"
    assert total > 20
    for number in range(total):
        with pytest.raises(StoreError, match="No space left on device.*free some space"):
            convert_with_fault_at(number, out)
        with pytest.raises(StoreError):
            eventdata.open_store(out)
        eventdata.convert("es-imagenet", raw, out, shard_size=2)
        assert tree_digest(out) == whole
        shutil.rmtree(out)
