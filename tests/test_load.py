"""The load tests in short form: seconds instead of minutes."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests import soak, soak_training
from tests.usage import growth
from tools.bench import full_size

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="memory and files are read from Linux's /proc"
)


def run(program, output, *words):
    """Run a program in this process, which has imported what it needs; return its result."""
    done = CliRunner().invoke(program.main, ["--output", str(output), *words])
    assert done.exit_code == 0, done.output
    return json.loads(output.read_text())


def test_readers_and_verify_share_a_store_of_more_shards_than_may_be_open(tmp_path):
    words = ("--readers", "2", "--minutes", "0.05", "--open-files", "64")
    result = run(soak, tmp_path / "soak.json", *words)
    assert not result["failures"]
    names = [one["name"] for one in result["processes"]]
    assert names == ["DataLoader 1", "FrameLoader 0", "verify"]
    assert all(one["samples"] >= 512 and not one["wrong"] for one in result["processes"])
    reader = result["processes"][1]
    assert reader["last_files"] <= 64
    assert 0 < result["bytes_per_reader"] < 1 << 30


def test_training_keeps_memory_files_and_threads_flat(tmp_path):
    result = run(soak_training, tmp_path / "training.json", "--minutes", "0.03")
    assert not result["failures"]
    assert len(result["epochs"]) >= soak_training.LEAST_EPOCHS
    assert result["growth"]["files"] == result["growth"]["threads"] == 0
    assert result["trained_samples"] == 48 * len(result["epochs"])


def test_growth_is_a_slope_that_no_peak_decides():
    flat = np.full(200, 7.0)
    assert growth(flat) == 0
    flat[[60, 120, -1]] = 1e9
    assert growth(flat) == 0
    warm_up = np.concatenate([np.arange(40), np.full(160, 40)])
    assert growth(warm_up) == 0
    noise = np.random.default_rng(0).normal(0, 100, 200)
    assert growth(np.arange(200) * 5 + noise) == pytest.approx(159 * 5, rel=0.2)
    rows = {name: np.full(200, 1) for name in soak_training.ALLOWED} | {"files": np.arange(200)}
    (fault,) = soak_training.judge(rows)
    assert fault == "files grew by 159.0, more than 0.5"


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (["--input", "folder"], ["plan", "resume"]),
        (["--input", "tar", "--whole"], ["convert", "resume", "read", "verify"]),
    ],
)
def test_a_conversion_of_full_size_stays_within_its_limits(tmp_path, words, steps):
    chosen = [word for step in steps for word in ("--only", step)]
    result = run(full_size, tmp_path / "sizes.json", "--samples", "2000", *words, *chosen)
    assert list(result["steps"]) == steps
    assert all(step["seconds"] > 0 and step["peak_bytes"] > 0 for step in result["steps"].values())
