"""Datasets and loaders among forks, spawns and threads: never a hang, always the same samples.

Each case is a program of its own with a deadline, at which all its processes are ended with the
tracebacks of their threads.
"""

import json
import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pytest
import sharing
import torch
import zarr
from drawn import make_store
from programs import run_program

PROGRAM = Path(__file__).parent / "sharing.py"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("sharing") / "store.zarr")


@pytest.fixture(scope="module")
def truth(store):
    """The digest of all training samples, read by zarr-python."""
    packed = zarr.open_array(f"{store}/train/frames", mode="r")[:]
    frames = np.stack([np.unpackbits(sample, axis=0, count=4) for sample in packed])
    labels = zarr.open_array(f"{store}/train/label", mode="r")[:]
    return sharing.digest([(torch.from_numpy(frames), torch.from_numpy(labels))])


def run(*words: object) -> list[str]:
    """What a case prints."""
    done = run_program(
        [sys.executable, "-W", "ignore", PROGRAM, *words],
        deadline=120,  # of work that takes a few
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("case", sharing.CASES)
def test_same_samples(store, truth, case):
    method = case.rpartition(" by ")[2]
    if " by " in case and method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    found = run(case, store)
    assert set(found) == {truth}
    assert len(found) >= 3


# What torch found out about the processor is kept; a look from now on would tell of "DEFAULT".
LOOK_AT_PROCESSOR = """
import os, sys
if sys.argv[1:]:
    import eventdata.dataset
import torch
os.environ["ATEN_CPU_CAPABILITY"] = "default"
print(torch.backends.cpu.get_cpu_capability())
"""


def test_no_thread_is_the_first_to_run_an_operator():
    """A child forked amid torch's look at the processor waits for ever, once in hundreds."""

    def seen(*words: str) -> str:
        return run_program([sys.executable, "-c", LOOK_AT_PROCESSOR, *words]).stdout.strip()

    assert seen() == "DEFAULT"
    assert seen("import") == torch.backends.cpu.get_cpu_capability()


def test_data_parallel_by_lightning(store, truth, tmp_path):
    assert run("ddp", store, tmp_path) == [truth]


def test_a_hang_would_be_told():
    stuck = "import time\ndef stuck():\n    time.sleep(600)\nstuck()\n"
    with pytest.raises(pytest.fail.Exception, match="in stuck"):
        run_program([sys.executable, "-c", stuck], deadline=5)
