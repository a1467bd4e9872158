"""The benches' shared code: interleaved timing, ratios and result files."""

import json
import sys

import click
import pytest

from tools.bench import report as measuring


def test_methods_take_turns_and_the_first_round_is_not_counted():
    calls = []
    methods = {name: lambda name=name: calls.append(name) or 2 for name in "ab"}
    timings = measuring.measure(methods, 3)
    assert "".join(calls) == "abba" * 2
    assert [len(timings[name].runs) for name in "ab"] == [3, 3]


def report(output, **options):
    timing = measuring.Timing
    timings = {"ours": timing((1.0, 2.0, 4.0)), "theirs": timing((8.0, 8.0, 8.0))}
    measuring.report("A title", timings, "ours", {"samples": 3}, output, **options)


def test_report_writes_json_markdown_and_a_plot(tmp_path, capsys):
    output = tmp_path / "result.json"
    report(output, floors={"ours": 0.5}, missing=["x (not installed)"])
    result = json.loads(output.read_text())
    ours, theirs = result["ms_per_sample"]["ours"], result["ms_per_sample"]["theirs"]
    assert (ours["median"], ours["spread"], ours["over_floor"]) == (2, 0.75, 4)
    assert (theirs["over_ours"], theirs["floor"]) == (4, None)
    assert result["not_measured"] == ["x (not installed)"]
    assert result["facts"] == {"samples": 3}
    assert result["machine"]["python"]
    lines = (tmp_path / "result.md").read_text().splitlines()
    assert lines[2] == "| method | ms/sample | spread | over ours | floor | over floor |"
    assert "| ours | 2.000 | 75% | 1.00 | 0.500 | 4.00 |" in lines
    assert "| theirs | 8.000 | 0% | 4.00 |  |  |" in lines
    assert "- not measured: x (not installed)" in lines
    assert (tmp_path / "result.svg").read_text().startswith("<?xml")
    assert "A title" in capsys.readouterr().out


def test_no_plot_is_made_without_matplotlib(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    report(tmp_path / "result.json", unit="ms/step")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "result.md"]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["ms_per_step"]["theirs"]["over_ours"] == 4
    assert "floor" not in capsys.readouterr().out


@pytest.mark.parametrize("threads", [1, 2])
def test_copy_bandwidth_is_a_speed(threads):
    assert measuring.copy_bandwidth(threads) > 1e8


def test_the_result_path_is_checked_before_measuring(tmp_path):
    path_type = measuring.ResultFile()
    assert path_type(str(tmp_path / "result.json")) == tmp_path / "result.json"
    for name, message in (
        ("result.md", "must end in .json"),
        ("no/result.json", "the folder does not exist"),
    ):
        with pytest.raises(click.BadParameter, match=message):
            path_type(str(tmp_path / name))
