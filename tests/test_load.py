"""Load in short form: the programs of the long runs, for seconds instead of minutes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="memory and files are read from Linux's /proc"
)


def run(name, output, *words):
    command = [sys.executable, "-m", name, "--output", str(output), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(output.read_text())


def test_readers_on_a_store_that_is_verified(tmp_path):
    told = run("tests.soak", tmp_path / "soak.json", "--readers", "2", "--minutes", "0.05")
    assert not told["failures"]
    names = [one["name"] for one in told["processes"]]
    assert names == ["DataLoader 1", "FrameLoader 0", "verify"]
    assert all(one["samples"] >= 512 and not one["wrong"] for one in told["processes"])


def test_es_imagenet_by_its_numbers(tmp_path):
    told = run("tools.bench.full_size", tmp_path / "simulation.json", "--samples", "3000")
    assert list(told["steps"]) == ["plan", "resume", "check again", "open"]
    assert all(step["seconds"] > 0 and step["peak_bytes"] > 0 for step in told["steps"].values())
