"""Commands that are killed, stopped or run twice lose nothing and leave no orphans."""

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from filelock import FileLock

import eventdata
from eventdata.errors import StoreError
from tests.faults.jobs import convert_job, generate_job, leftovers
from tests.faults.kills import MARK, Moment, Place, kill_at_random, outliving
from tests.makers import make_es_imagenet, tree_digest
from tests.programs import run_program

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="processes are found in Linux's /proc"
)

LONG = 512  # samples, so that a slow machine still finds the command running
TRIES = 3  # attempts, because this process may be too slow to find a command running


@pytest.mark.parametrize(
    ("make", "kills", "victims"),
    [
        (convert_job, 4, {"parent": 2, "worker": 2, "group": 1}),
        (generate_job, 2, {"parent": 1, "worker": 1}),
    ],
)
def test_commands_survive_kills_at_random_moments(tmp_path, make, kills, victims):
    tried = list(kill_at_random(make(tmp_path), tmp_path, kills, 0, victims))
    assert [kill.faults for kill in tried] == [()] * kills


@pytest.mark.parametrize(
    ("make", "samples", "workers"),
    [(convert_job, LONG, 1), (convert_job, LONG, 2), (generate_job, LONG, 2)],
)
def test_a_stopped_command_ends_and_resumes(tmp_path, make, samples, workers):
    """Signal all processes, as Ctrl-C in a terminal does, or one, as batch systems do."""
    job = make(tmp_path, samples=samples, workers=workers)
    place = Place(tmp_path, job)
    assert place.call().code == 0
    whole = job.content(place.out)
    place = Place(tmp_path, job)
    for victim, blow, code in (
        ("group", signal.SIGINT, 130),
        ("parent", signal.SIGINT, 130),
        ("parent", signal.SIGTERM, -signal.SIGTERM),
    ):
        for _ in range(TRIES):
            before = job.kept(place.out)
            call = place.call(victim, Moment(before + 1, 0), blow)
            if call.code:
                break
            place = Place(tmp_path, job)  # it had ended before the signal
        assert call.code == code, call.output
        assert "Traceback" not in call.output
        assert ("stopped; run the same command again to resume" in call.output) == (code == 130)
        assert job.kept(place.out) > before  # finished work is not lost
    assert place.call().code == 0
    assert job.content(place.out) == whole
    assert not leftovers(place.out, place.temporary)


@pytest.mark.parametrize("make", [convert_job, generate_job])
def test_a_second_command_on_the_same_output_is_refused(tmp_path, make):
    """The second command stops with a reason; if the first is killed, the next resumes its work."""
    job = make(tmp_path, samples=LONG)
    for _ in range(TRIES):
        place, mark = Place(tmp_path, job), uuid.uuid4().hex
        with place.start(mark) as first:
            assert place.wait_for(Moment(1, 0), first)
            os.killpg(first.pid, signal.SIGSTOP)
            second = run_program(job.command(place.out))
            os.killpg(first.pid, signal.SIGKILL)
        if second.returncode:
            break  # else the first has ended already
    assert second.returncode == 1
    assert "another command is writing to it; wait until that command ends" in second.stderr
    assert not outliving(mark)
    assert place.call().code == 0
    assert job.finished(place.out)


def test_the_lock_of_another_command_is_kept(tmp_path):
    """A complete store with .work may be in use by another command."""
    raw, out = make_es_imagenet(tmp_path / "raw"), tmp_path / "out.zarr"
    eventdata.convert("es-imagenet", raw, out)
    whole = tree_digest(out)
    (out / ".work").mkdir()
    with FileLock(out / ".work" / "lock"), pytest.raises(StoreError, match="is writing to it"):
        eventdata.convert("es-imagenet", raw, out)
    assert (out / ".work" / "lock").exists()
    assert eventdata.convert("es-imagenet", raw, out).state == "already complete"
    assert tree_digest(out) == whole


def test_commands_run_without_standard_streams(tmp_path):
    """Commands run as daemons do, and a worker that loses its parent ends."""
    raw = make_es_imagenet(tmp_path / "raw", train=64)
    out, mark = tmp_path / "out.zarr", uuid.uuid4().hex
    words = [sys.executable, "-m", "eventdata", "convert", "es-imagenet", str(raw), str(out)]
    words += ["--workers", "2", "--shard-size", "1"]
    shell = 'exec "$@" <&- >&- 2>&-'
    with subprocess.Popen(
        ["sh", "-c", shell, "sh", *words], env=os.environ | {MARK: mark}
    ) as process:
        while process.poll() is None and len(list(out.glob(".work/*.json"))) < 4:
            pass
        process.kill()
    assert not outliving(mark)
    subprocess.run(["sh", "-c", shell, "sh", *words], check=True)
    assert eventdata.verify(out).ok
