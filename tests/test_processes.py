"""Datasets and loaders never hang in forks, spawns and threads, and return the same samples.

Each case is a program with a deadline, at which all its processes end with the tracebacks of their
threads.
"""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from tests import sharing
from tests.drawn import make_store
from tests.gated import wait_for
from tests.programs import run_program

PROGRAM = Path(__file__).parent / "sharing.py"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("sharing") / "store.zarr")


@pytest.fixture(scope="module")
def truth(store):
    """Digest of all training samples, read by zarr-python."""
    packed = zarr.open_array(f"{store}/train/frames", mode="r")[:]
    frames = np.stack([np.unpackbits(sample, axis=0, count=4) for sample in packed])
    labels = zarr.open_array(f"{store}/train/label", mode="r")[:]
    return sharing.digest([(torch.from_numpy(frames), torch.from_numpy(labels))])


def run(*words: object) -> list[str]:
    """Run a case and return what it prints."""
    done = run_program(
        [sys.executable, "-W", "ignore", PROGRAM, *words],
        deadline=120,  # of work that takes a few
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("case", sharing.CASES)
def test_same_samples(store, truth, case):
    method = case.removeprefix("by ")
    if method != case and method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    found = run(case, store)
    assert set(found) == {truth}
    assert len(found) >= (8 if method != case else 3)


# torch remembers what it found out about the processor; from now on it would find "DEFAULT".
LOOK_AT_PROCESSOR = """
import os, sys
if sys.argv[1:]:
    import eventdata.dataset
import torch
os.environ["ATEN_CPU_CAPABILITY"] = "default"
print(torch.backends.cpu.get_cpu_capability())
"""


def test_no_thread_is_the_first_to_run_an_operator():
    """A child forked while torch inspects the processor hangs, about once in hundreds."""

    def seen(*words: str) -> str:
        return run_program([sys.executable, "-c", LOOK_AT_PROCESSOR, *words]).stdout.strip()

    assert seen() == "DEFAULT"
    assert seen("import") == torch.backends.cpu.get_cpu_capability()


# Counts of 16 bits, for which a loader has a table of 65,536 values. A child's exit code is 0 if
# it has read everything, 2 if the error says that the epoch began in another process.
FORKS = """
import os, sys
os.environ["OMP_NUM_THREADS"] = "2"
import torch
import eventdata
from eventdata.errors import EventDataError
dataset = eventdata.FrameDataset(sys.argv[1])
loader = eventdata.FrameLoader(dataset, 4, dtype=torch.float32)
(torch.arange(1 << 20) + 1).sum()  # torch's threads have started
begun = iter(loader)
next(begun)

def child(work):
    if not os.fork():
        try:
            work()
        except EventDataError as error:
            os._exit(2 if "began in another process" in str(error) else 3)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]))

child(lambda: list(eventdata.FrameLoader(dataset, 4, dtype=torch.float32)))
child(lambda: list(loader))
child(lambda: list(begun))
print(len(list(begun)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forks_after_threads_of_torch_and_during_an_epoch(tmp_path):
    store = make_store(tmp_path / "wide.zarr", kind="wide", counts=(("train", 16),))
    done = run_program([sys.executable, "-c", FORKS, store], deadline=60)
    assert done.stdout.split() == ["0", "0", "2", "3"], done.stderr


def test_data_parallel_by_lightning(store, truth, tmp_path):
    assert run("ddp", store, tmp_path) == [truth]


STUCK = """
import sys, time
def stuck():
    open(sys.argv[1], "x")
    time.sleep(600)
stuck()
"""


def test_a_hang_is_reported(tmp_path, monkeypatch):
    real = subprocess.Popen.communicate

    def communicate(self, timeout=None):
        if timeout is not None:  # which begins once the program hangs, even if it starts slowly
            wait_for(tmp_path / "begun")
        return real(self, timeout=timeout)

    monkeypatch.setattr(subprocess.Popen, "communicate", communicate)
    with pytest.raises(pytest.fail.Exception, match="in stuck"):
        run_program([sys.executable, "-c", STUCK, tmp_path / "begun"], deadline=0.1)
