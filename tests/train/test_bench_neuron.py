"""The benchmarks of neurons and of a training step run and say what they measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


def run(program, output, *options):
    command = [sys.executable, TOOLS / program, "--runs=1", f"--output={output}", *options]
    subprocess.run(command, check=True, timeout=280)
    return json.loads(output.read_text())


def test_neurons_beside_relu(tmp_path):
    shape = ["--shape", "4", "2", "8", "16", "16"]
    result = run("bench_neuron.py", tmp_path / "result.json", *shape)
    ways = result["ms_per_pass"]
    assert {"relu", "lif", "liaf membrane", "lif, torch loop"} <= set(ways)
    assert ("SpikingJelly LIFNode" in ways) != bool(result["not_measured"])
    assert all(way["floor"] == ways["lif"]["floor"] > 0 for way in ways.values())
    ratio = ways["lif"]["median"] / ways["relu"]["median"]
    assert result["facts"]["lif over relu"] == pytest.approx(ratio, abs=0.01)
    # One tensor is kept for the pass backward, by the loop at least a membrane and a mask.
    kept = result["facts"]["kept between the passes, over the input"]
    assert kept["lif"] == kept["liaf membrane"] == kept["relu"] == 1
    assert kept["lif, torch loop"] > 1


SMALL = ["--width=4", "--side=32", "--batch=2", "--steps=4", "--threads=1"]


def test_a_step_beside_the_same_network_with_relu(tmp_path):
    way = "--way=lif, blocks run again"
    result = run("bench_step.py", tmp_path / "result.json", *SMALL, way)
    ways, facts = result["ms_per_step"], result["facts"]
    relu = ways["ann, ReLU"]["median"]
    assert list(ways) == ["ann, ReLU", "lif", "lif, blocks run again"]
    for name, way in ways.items():
        assert facts["time over ReLU"][name] == pytest.approx(way["median"] / relu, abs=1e-3)
        assert facts["peak of memory, MB"][name] > 0
    assert 0 < facts["share of the time in neurons"]["lif"] < 1
    kept = facts["kept for the pass backward, MB"]
    assert kept["lif, blocks run again"] < kept["lif"] < 1.1 * kept["ann, ReLU"]


def test_growth_over_steps_and_samples(tmp_path):
    result = run("bench_step.py", tmp_path / "result.json", "--growth", *SMALL)
    assert set(result["ms_per_frame"]) == {
        f"{name}, T = {steps}, N = {batch}"
        for name in ("lif", "ann, ReLU")
        for steps, batch in ((2, 2), (4, 2), (8, 2), (4, 4))
    }
