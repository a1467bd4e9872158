"""The time-accuracy report on runs with made-up figures."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from eventdata.cli import main
from eventdata.errors import InputError, OptionError
from train.report import read_run, report, summarise, table
from train.runs.folder import RunFolder, write, write_json, write_rows


def make_run(
    root,
    label,
    curve,
    *,
    seed=0,
    before=0.0,
    scratch=False,
    test=0.5,
    store="a",
    synaptic=2e6,
    name="",
    protocol="correct",
    machine="here",
):
    """Write a finished run; curve: seconds and accuracy of its last stage."""
    folder = RunFolder(root / (name or f"{label}-{seed}"))
    name = "scratch" if scratch else "lif"
    write(folder.config, "")
    rows = [
        {"epoch": epoch, "train_seconds": seconds, "top1": top1}
        for epoch, (seconds, top1) in enumerate(curve)
    ]
    write_rows(folder.stage(name).epochs, rows)
    write_json(folder.stage(name).root / "operations.json", {"synaptic": synaptic})
    seconds = rows[-1]["train_seconds"]
    result = {
        "label": label,
        "store": store,
        "protocol": protocol,
        "machine": {"system": machine},
        "seed": seed,
        "stages": [{"name": name, "train_seconds": seconds}],
        "train_seconds": before + seconds,
        "test": None if test is None else {"top1": test},
    }
    write_json(folder.result, result)
    return folder.root


@pytest.fixture
def runs(tmp_path):
    """Two seeds from scratch and two of a pipeline; baselines: 0.5 at 100 s and 0.6 at 200 s."""
    return [
        make_run(tmp_path, "scratch", [(0, 0.1), (100, 0.5), (200, 0.4)], scratch=True, test=0.48),
        make_run(
            tmp_path, "scratch", [(0, 0.1), (100, 0.3), (200, 0.6)], seed=1, scratch=True, test=0.52
        ),
        make_run(tmp_path, "fast", [(0, 0.2), (10, 0.5), (20, 0.7)], before=30, test=0.6),
        make_run(tmp_path, "fast", [(0, 0.6), (10, 0.5), (20, 0.7)], before=40, seed=1, test=0.7),
    ]


def test_the_clock_of_a_run_includes_pretraining(runs):
    run = read_run(runs[2])
    assert run.curve == ((30, 0.2), (40, 0.5), (50, 0.7))
    assert (run.seconds_before, run.seconds, run.best, run.test) == (30, 50, 0.7, 0.6)
    assert run.seconds_to(0.5) == 40
    assert run.seconds_to(0.71) is None


def test_each_seed_is_measured_by_its_own_baseline(runs):
    scratch, fast = summarise([read_run(run) for run in runs])
    assert scratch["seconds_to_target"]["mean"] == 150
    assert scratch["speed_up"] == 1
    assert fast["seconds_to_target"] == {"mean": 40, "spread": 0}  # 40 s to 0.5, 40 s to 0.6
    assert fast["speed_up"] == 150 / 40
    assert fast["test"]["mean"] == pytest.approx(0.65)
    assert fast["test"]["spread"] == pytest.approx(0.0707, abs=1e-4)
    assert fast["seconds_before"]["mean"] == 35
    assert fast["synaptic"] == {"mean": 2e6, "spread": 0}


def test_a_seed_without_a_baseline_is_measured_by_the_mean_of_all(tmp_path, runs):
    other = make_run(tmp_path, "fast", [(0, 0.5), (10, 0.54), (20, 0.56)], seed=7)
    rows = summarise([read_run(run) for run in (*runs[:2], other)])
    assert rows[1]["seconds_to_target"]["mean"] == 20


def test_a_target_that_is_not_reached_is_reported(tmp_path, runs):
    slow = [
        make_run(tmp_path, "slow", [(0, 0.1), (10, 0.55)], seed=seed, test=None) for seed in (0, 1)
    ]
    rows = summarise([read_run(run) for run in (*runs, *slow)])
    assert rows[2]["reached"] == 1
    assert rows[2]["speed_up"] is None
    assert "| 10 (1 of 2 reach it) | - |" in table(rows)


def test_without_a_baseline_there_is_no_target(runs):
    (row,) = summarise([read_run(run) for run in runs[2:]])
    assert row["speed_up"] is row["seconds_to_target"] is None


def test_the_speed_up_is_over_the_baselines_of_the_same_seeds(runs):
    scratch, fast = summarise([read_run(run) for run in runs[:3]])
    assert scratch["seeds"] == 2
    assert fast["speed_up"] == 100 / 40  # the baseline of seed 0 took 100 s, that of seed 1 200 s


def test_the_better_of_two_baselines_is_the_target(tmp_path, runs):
    best = make_run(tmp_path, "scratch deep", [(0, 0.1), (400, 0.65)], scratch=True)
    rows = {row["way"]: row for row in summarise([read_run(run) for run in (best, *runs)])}
    assert rows["scratch"]["reached"] == 1  # seed 1, which has no other baseline
    assert rows["fast"]["seconds_to_target"]["mean"] == (50 + 40) / 2


def test_runs_with_the_same_label_and_seed_get_rows_of_their_own(tmp_path, runs):
    again = make_run(tmp_path, "fast", [(0, 0.1), (10, 0.9)], name="again")
    rows = report([*runs, runs[3], again], tmp_path / "out")
    assert [(row["way"], row["seeds"]) for row in rows] == [
        ("scratch", 2),
        (f"fast ({runs[2]})", 1),
        ("fast", 1),
        (f"fast ({again})", 1),
    ]


def test_a_run_given_by_two_paths_counts_once(tmp_path, monkeypatch, runs):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(runs[2])
    rows = report(["fast-0", runs[0], "./fast-0/", runs[2], "link"], tmp_path / "out")
    assert [(row["way"], row["seeds"]) for row in rows] == [("fast", 1), ("scratch", 1)]
    details = json.loads((tmp_path / "out/report.json").read_text())
    assert [run["folder"] for run in details["runs"]] == ["fast-0", str(runs[0])]


def test_a_report_needs_runs_and_a_folder(tmp_path, runs):
    with pytest.raises(OptionError, match="pass the folder of at least one run"):
        report([], tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="can't be written .* run the same command again$"):
        report(runs, tmp_path / "file")


def test_untrusted_labels_add_no_lines_and_no_columns(tmp_path, runs):
    evil = make_run(tmp_path, "a\ud800|b\n| best |\x1b[2J", [(0, 0.1), (9, 0.9)], name="evil")
    report([runs[0], evil], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "| a\\ud800\\|b\\n\\| best \\|\\x1b[2J | 1 |" in text
    assert all(line.isprintable() for line in text.split("\n"))
    result = json.loads((evil / "result.json").read_text()) | {"label": 7}
    (evil / "result.json").write_text(json.dumps(result))
    with pytest.raises(InputError, match="is damaged"):
        read_run(evil)


def test_different_machines_are_noted(tmp_path, runs):
    report(runs, tmp_path / "out")
    assert "different machines" not in (tmp_path / "out/report.md").read_text()
    other = make_run(tmp_path, "other", [(0, 0.1), (10, 0.9)], machine="there")
    report([*runs, other], tmp_path / "out")
    assert "different machines" in (tmp_path / "out/report.md").read_text()


def test_the_report_writes_four_files(tmp_path, runs):
    report(runs, tmp_path / "report")
    lines = (tmp_path / "report/report.md").read_text().splitlines()
    assert lines[2].split("|")[1:5] == [" scratch ", " 2 ", " 50.0 ± 2.8 ", " 55.0 ± 7.1 "]
    assert "| 40 ± 0 | 3.75 |" in lines[3]
    details = json.loads((tmp_path / "report/report.json").read_text())
    assert [row["way"] for row in details["ways"]] == ["scratch", "fast"]
    assert len(details["runs"]) == 4
    with Image.open(tmp_path / "report/report.png") as picture:
        assert picture.size[0] > 500
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 10
    first = (tmp_path / "report/report.svg").read_bytes()
    report(runs, tmp_path / "report")
    assert (tmp_path / "report/report.svg").read_bytes() == first


def test_runs_that_cannot_be_compared(tmp_path, runs):
    for path in (tmp_path, "x" * 300):
        with pytest.raises(InputError, match="is not the folder of a run"):
            read_run(path)
    with pytest.raises(InputError, match="is not the folder of a run"):
        report([tmp_path], tmp_path / "out")
    other = make_run(tmp_path, "other", [(0, 0.1)], store="b")
    with pytest.raises(InputError, match="trained on another store"):
        report([*runs, other], tmp_path / "out")
    published = make_run(tmp_path, "p", [(0, 0.1)], protocol="published")
    with pytest.raises(InputError, match="trained by another protocol"):
        report([*runs, published], tmp_path / "out")
    RunFolder(other).result.write_text("{}")
    with pytest.raises(InputError, match="is damaged"):
        report([other], tmp_path / "out")
    RunFolder(other).result.unlink()
    with pytest.raises(InputError, match="has not finished; run the same"):
        report([other], tmp_path / "out")


@pytest.mark.parametrize(
    "values",
    [
        {"test": 1.7e308},
        {"test": -0.1},
        {"curve": [(0, 0.1), (10, 1.5)]},
        {"curve": [(0, -0.1)]},
        {"curve": [(-1, 0.1), (10, 0.5)]},
        {"curve": [(0, 0.1), (1.7e308, 0.5)]},
        {"before": -5},
        {"before": 1.7e308},
        {"synaptic": -1},
        {"synaptic": "x"},
    ],
)
def test_impossible_figures_are_damage(tmp_path, values):
    sound = {"label": "a", "curve": [(0, 0.1), (10, 0.5)]}
    runs = [make_run(tmp_path, **sound), make_run(tmp_path, **sound | values, seed=1)]
    with pytest.raises(InputError, match=r"a-1/result.json: is damaged \(.* (from|longer)"):
        report(runs, tmp_path / "out")


def test_nothing_is_written_through_links(tmp_path, runs):
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.write_text("precious")
    out.mkdir()
    for suffix in ("md", "json", "svg", "png"):
        for name in (f"report.{suffix}", f"report.{suffix}.part"):
            (out / name).symlink_to(outside)
    report(runs, out)
    assert outside.read_text() == "precious"
    assert len(list(out.iterdir())) == 4
    assert not any(path.is_symlink() for path in out.iterdir())


def test_the_command_prints_the_table(tmp_path, monkeypatch, runs):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["report", *map(str, runs)])
    suffixes = sorted(path.suffix for path in Path("report").iterdir())
    assert suffixes == [".json", ".md", ".png", ".svg"]
    assert done.exit_code == 0, done.output
    assert "| fast | 2 |" in done.output
    done = CliRunner().invoke(main, ["report", str(tmp_path / "no"), "-o", str(tmp_path / "x")])
    assert done.exit_code == 1
    assert "is not the folder of a run" in done.output
