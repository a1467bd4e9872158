"""Run every reader on damaged and made-up files: a short form of `python -m tests.fuzz`."""

import itertools
import json
import subprocess
import sys

import pytest

from tests.fuzz.cases import make_cases
from tests.fuzz.children import Job, run_jobs
from tests.fuzz.readers import READERS
from tests.nasty import CAN_MEASURE

pytestmark = pytest.mark.skipif(not CAN_MEASURE, reason="memory is measured by Linux's /proc")

CASES, SLOW_CASES = 100, 20
SLOW = {
    *("stores", "grey-stores", "stores-against-raw", "unfinished-stores"),
    *("unfinished-raw", "runs", "recordings"),
}


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """Run thousands of cases in one child; return the outcome by reader."""
    findings = tmp_path_factory.mktemp("fuzz")
    jobs = [Job(name, cases=SLOW_CASES if name in SLOW else CASES) for name in READERS]
    done = run_jobs(jobs, findings)
    found = [json.loads(path.read_text()) for path in findings.glob("*.json")]
    return {one.reader: one for one in done}, found


@pytest.mark.parametrize("name", READERS)
def test_damaged_and_made_up_files_are_read_or_refused(short_run, name):
    done, found = short_run
    assert [(one["place"], one["details"]) for one in found if one["reader"] == name] == []
    assert done[name].cases == (SLOW_CASES if name in SLOW else CASES)
    assert done[name].read + done[name].refused == done[name].cases
    assert done[name].read > 0  # the seeds are sound


BAD_READERS = """
import os, socket, sys, time
import numpy as np
from pathlib import Path
from eventdata.errors import InputError
from tests.fuzz import cases, children
from tests.fuzz.readers import Reader

SOUND = bytes(range(256))

def only_when_damaged(what):
    def read(folder, out):
        if (folder / "input").read_bytes() != SOUND:
            what(out)
    return Reader(lambda real: [{"input": SOUND}], read, times=0)

def message(out):
    raise InputError("")

BAD = {
    "error": lambda out: {}["key"],
    "message": message,
    "memory": lambda out: np.ones(1 << 28, np.uint8),
    "address space": lambda out: np.empty(1 << 40, np.uint8),
    "write": lambda out: (out.parent.parent / "escaped").write_text(""),
    "remove": lambda out: os.rmdir(out.parent / "input"),
    "process": lambda out: os.system("true"),
    "connection": lambda out: socket.create_connection(("localhost", 9), 1),
    "deadline": lambda out: time.sleep(60),
    "died": lambda out: os.abort(),
}
cases.DEADLINE = 10.0
cases.READERS = children.READERS = {name: only_when_damaged(BAD[name]) for name in BAD}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    jobs = [children.Job(name, cases=2) for name in BAD]
    for done in children.run_jobs(jobs, folder / "findings"):
        print(done.reader, done.cases, done.read, sep=":")
"""


def test_the_fuzzer_finds_every_kind_of_fault(tmp_path):
    """Readers that break each rule are reported, also when they kill the child."""
    script = tmp_path / "bad.py"
    script.write_text(BAD_READERS)
    run = subprocess.run(
        [sys.executable, script, tmp_path], check=True, capture_output=True, text=True
    )
    done = [line.split(":") for line in run.stdout.split("\n") if line]
    assert len(done) == 10
    for name, cases, sound in done:
        assert (cases, sound) == ("2", "1")
        found = [json.loads(path.read_text()) for path in tmp_path.glob(f"findings/{name}-*.json")]
        kinds = dict.fromkeys(["remove", "process", "connection"], "write")
        kinds["address space"] = "error"
        assert {one["kind"] for one in found} == {kinds.get(name, name)}
        assert all((tmp_path / f"findings/{name}-{one['case']}/input").exists() for one in found)


ALL_FILES_GONE = """
import sys
from pathlib import Path
from tests.fuzz.cases import Watch

if __name__ == "__main__":
    print(Watch(Path(sys.argv[1])).run("manifests", {}))
"""


def test_a_case_may_have_no_files(tmp_path):
    """Damage may remove the last file."""
    script = tmp_path / "empty.py"
    script.write_text(ALL_FILES_GONE)
    (tmp_path / "work").mkdir()
    command = [sys.executable, script, tmp_path / "work"]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert run.stdout == "refused\n"


def test_cases_can_be_made_again():
    for name in ("manifests", "archives"):
        trees = READERS[name].seeds(None)
        whole = dict(itertools.islice(make_cases(name, trees, 5, 0), 130))
        assert len({str(tree) for tree in whole.values()}) > 100
        for number in (0, 20, 101, 129):
            assert next(make_cases(name, trees, 5, number)) == (number, whole[number])
