"""A clock that jumps changes nothing: only modification times of input files matter."""

import os
import pty
import subprocess
import sys

import pytest

import eventdata
from tests.makers import make_es_imagenet, tree_digest

JUMPING = """
import sys, time
jumps = iter(range(10**9))
time.time = lambda: (-1) ** next(jumps) * 1e11
time.time_ns = lambda: int(time.time() * 1e9)
from eventdata.cli import main
main(sys.argv[1:])
"""


def test_a_clock_that_jumps_changes_no_byte(tmp_path):
    raw = make_es_imagenet(tmp_path / "raw")
    eventdata.convert("es-imagenet", raw, tmp_path / "whole.zarr")
    words = ["convert", "es-imagenet", str(raw), str(tmp_path / "out.zarr")]
    terminal, other_end = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", JUMPING, *words, "--workers", "1"],
        stdout=subprocess.DEVNULL,
        stderr=other_end,
    ) as process:
        os.close(other_end)
        shown = read_all(terminal)
    assert process.returncode == 0, shown
    assert b"converting" in shown
    assert b"16/16" in shown
    assert tree_digest(tmp_path / "out.zarr") == tree_digest(tmp_path / "whole.zarr")


def read_all(terminal):
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # the error that Linux reports when the other end is closed
        pass
    os.close(terminal)
    return shown


SHOWING = """
import sys
from eventdata.progress import progress_bar
with progress_bar("working") as progress:
    progress(0, 10)
    print("begun", flush=True, file=sys.__stdout__)  # sys.stdout goes to the terminal too
    sys.stdin.readline()
    for done in range(10):
        progress(done + 1, 10)
print("done")
"""


def test_a_closed_terminal_does_not_end_the_work():
    terminal, other_end = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", SHOWING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=other_end,
        start_new_session=True,
    ) as process:
        os.close(other_end)
        assert process.stdout.readline() == b"begun\n"
        os.close(terminal)
        output, _ = process.communicate(b"continue\n", timeout=60)
    assert output == b"done\n"
    assert process.returncode == 0


@pytest.mark.parametrize("year", [1902, 1970, 2038, 2242, 2286, 2400])
def test_input_may_have_any_modification_time(tmp_path, year):
    """Nanoseconds beyond the year 2262 do not fit into 64 bits."""
    raw = make_es_imagenet(tmp_path / "raw", train=2, val=0)
    path = next(raw.rglob("*.npz"))
    seconds = int((year - 1970) * 365.2425 * 86400)
    os.utime(path, (seconds, seconds))
    out = tmp_path / "out.zarr"
    eventdata.convert("es-imagenet", raw, out)
    assert eventdata.convert("es-imagenet", raw, out).state == "already complete"
    os.utime(path, (seconds + 1, seconds + 1))
    with pytest.raises(eventdata.errors.MismatchError, match="changed since"):
        eventdata.convert("es-imagenet", raw, out)
