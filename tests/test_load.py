"""The load tests in short form: seconds instead of minutes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests import soak
from tools.bench import full_size

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="memory and files are read from Linux's /proc"
)


def run(program, output, *words):
    """Run a program in this process, which has imported what it needs; return its result."""
    done = CliRunner().invoke(program.main, ["--output", str(output), *words])
    assert done.exit_code == 0, done.output
    return json.loads(output.read_text())


def test_readers_and_verify_share_a_store(tmp_path):
    result = run(soak, tmp_path / "soak.json", "--readers", "2", "--minutes", "0.05")
    assert not result["failures"]
    names = [one["name"] for one in result["processes"]]
    assert names == ["DataLoader 1", "FrameLoader 0", "verify"]
    assert all(one["samples"] >= 512 and not one["wrong"] for one in result["processes"])


def test_a_conversion_of_full_size_stays_within_its_limits(tmp_path):
    result = run(full_size, tmp_path / "simulation.json", "--samples", "3000")
    assert list(result["steps"]) == ["plan", "resume", "check again", "open"]
    assert all(step["seconds"] > 0 and step["peak_bytes"] > 0 for step in result["steps"].values())
