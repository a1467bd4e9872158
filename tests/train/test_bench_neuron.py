"""The neuron benchmark runs and says what it measured."""

import json
import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner

TOOL = Path(__file__).parents[2] / "tools" / "bench_neuron.py"


@pytest.fixture(scope="module")
def command():
    return runpy.run_path(str(TOOL))["main"]


def run(command, *options):
    shape = ["--shape", "4", "2", "8", "16", "16", "--rounds", "2"]
    result = CliRunner().invoke(command, [*shape, *options], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_json_has_every_way_beside_relu(command):
    result = json.loads(run(command, "--json"))
    ways = result["ways"]
    assert {"relu", "lif", "liaf membrane", "lif, torch loop"} <= set(ways)
    assert ways["relu"]["over_relu"] == 1
    for row in ways.values():
        assert row["over_floor"] == pytest.approx(row["ms"] / result["floor_ms"])
    # One tensor is kept for the pass backward, by the loop at least a membrane and a mask.
    assert ways["lif"]["kept"] == ways["liaf membrane"]["kept"] == 1
    assert ways["lif, torch loop"]["kept"] > 1


def test_the_table_has_a_row_a_way(command):
    lines = run(command).splitlines()
    assert lines[0].startswith("(T, N, C, H, W) = (4, 2, 8, 16, 16) float32")
    assert [line.split()[0] for line in lines[3:5]] == ["relu", "lif"]
