"""Inject faults at each file operation in turn, and fill a real disk."""

import errno
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

import eventdata
from eventdata.errors import StoreError
from eventdata.files import local as files
from tests.drawn import Drawn
from tests.faults.plan import main
from tests.makers import make_es_imagenet, tree_digest


@pytest.mark.parametrize(
    ("job", "turns", "faults"),
    [
        ("convert", 6, ["kill", "disk full", "read error", "file vanishes", "file changes"]),
        ("generate", 4, ["kill", "disk full", "read error", "file vanishes", "file changes"]),
        ("train", 1, ["kill", "disk full"]),
    ],
)
def test_jobs_survive_a_fault_at_each_operation(tmp_path, job, turns, faults):
    output = tmp_path / "faults.json"
    words = ["--kills", "0", "--turns", str(turns), "--cuts", "0", "--job", job]
    words += ["--output", str(output), "--folder", str(tmp_path / "work")]
    words += [word for fault in faults for word in ("--fault", fault)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    rows = json.loads(output.read_text())["rows"]
    assert [row["fault"] for row in rows] == faults
    assert all(row["survived"] == row["tried"] == turns for row in rows)


@pytest.mark.parametrize("step", ["write", "rename"])
def test_a_conversion_survives_a_full_disk_at_every_write(tmp_path, monkeypatch, step):
    """Each failure gives one sentence and no store; the next call writes the same bytes."""
    source, lock = Drawn(counts=(("train", 9), ("test", 4))), threading.Lock()
    owner, name = {"write": (files, "_write_durably"), "rename": (Path, "replace")}[step]
    real = getattr(owner, name)

    def attempt(out, number):
        """Convert with a full disk at write ``number``; return how many writes there were."""
        count = 0

        def write(*arguments):
            nonlocal count
            with lock:
                count += 1
                mine = count - 1
            if mine == number:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, write)
            eventdata.convert(source, "", out, shard_size=4)
        return count

    total = attempt(tmp_path / "whole", -1)
    assert total > 30
    whole = tree_digest(tmp_path / "whole")
    for number in range(total):
        out = tmp_path / str(number)
        with pytest.raises(StoreError, match="No space left on device.*run the same command again"):
            attempt(out, number)
        with pytest.raises(StoreError):
            eventdata.open_store(out)
        assert eventdata.convert(source, "", out, shard_size=4).state == "complete"
        assert tree_digest(out) == whole
        shutil.rmtree(out)


FILL = """
import shutil, subprocess, sys
from pathlib import Path
import eventdata
from eventdata.errors import StoreError
from tests.makers import tree_digest

disk, raw, whole = Path(sys.argv[1]), sys.argv[2], tree_digest(Path(sys.argv[3]))
faults = 0
for kib in range(8, 2000, 28):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", disk], check=True)
    try:
        eventdata.convert("es-imagenet", raw, disk / "out.zarr", shard_size=2)
    except StoreError as error:
        assert "No space left on device" in str(error), error
        faults += 1
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        eventdata.convert("es-imagenet", raw, disk / "out.zarr", shard_size=2)
    else:
        kib = None
    assert tree_digest(disk / "out.zarr") == whole
    subprocess.run(["umount", disk], check=True)
    if kib is None:
        break
print(faults)
"""


def test_a_conversion_survives_a_small_disk(tmp_path):
    """A conversion fails cleanly on file systems of growing size until the store fits."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here, so nothing can be mounted")
    private = ["unshare", "--user", "--map-root-user", "--mount"]
    disk = tmp_path / "disk"
    disk.mkdir()
    tried = subprocess.run([*private, "mount", "-t", "tmpfs", "tmpfs", disk], capture_output=True)
    if tried.returncode:
        pytest.skip(f"nothing can be mounted here: {tried.stderr.decode().strip()}")
    raw, whole = make_es_imagenet(tmp_path / "raw", train=12, val=4), tmp_path / "whole.zarr"
    words = ["import eventdata, sys; eventdata.convert('es-imagenet', *sys.argv[1:], shard_size=2)"]
    subprocess.run([sys.executable, "-c", *words, raw, whole], check=True)
    script = tmp_path / "fill.py"
    script.write_text(FILL)
    done = subprocess.run(
        [*private, sys.executable, script, disk, raw, whole], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3
