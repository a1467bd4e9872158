"""The time-accuracy report on runs with made-up figures."""

import json
import math
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eventdata.cli import main
from eventdata.errors import InputError, OptionError
from train.report import report, summarise
from train.results import Score, least_hits, read_run
from train.runs.folder import RunFolder, write, write_json, write_rows, write_weights
from train.tables import markdown, methods


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
    confusion=None,
    costs=None,
    classes=None,
    before_costs=None,
    settings=None,
    calibration=None,
):
    """Write a finished run.

    Args:
        curve: seconds and accuracy of its last stage.
        confusion: that of its test.
        costs: CPU seconds, multiply-adds and additions of its last stage; None: of an old version.
        before_costs: those of a stage `ann` before it.
        settings: those of its last stage.
        calibration: multiply-adds of its calibration.
    """
    folder = RunFolder(root / (name or f"{label}-{seed}"))
    name = "scratch" if scratch else "lif"
    write(folder.config, "")
    rows = [
        {"epoch": epoch, "train_seconds": seconds, "top1": top1}
        for epoch, (seconds, top1) in enumerate(curve)
    ]
    if costs is not None:
        for row in rows:
            row["step"] = 10 * row["epoch"]
            share = row["epoch"] / rows[-1]["epoch"] if len(rows) > 1 else 1.0
            row["cpu_seconds"] = costs[0] * share
    write_rows(folder.stage(name).epochs, rows)
    measured = {"synaptic": synaptic, "rates": {"stem.neuron": 0.25, "<b>": 0.5}}
    write_json(folder.stage(name).root / "operations.json", measured)
    facts = {"classes": classes, "settings": settings}
    facts = {key: value for key, value in facts.items() if value is not None}
    if facts:
        write_weights(folder.stage(name).weights("last"), {"x": torch.zeros(1)}, facts)
    seconds = rows[-1]["train_seconds"]
    keys = ("cpu_seconds", "multiply_adds", "additions")
    stages = [
        {"name": name, "train_seconds": seconds, **dict(zip(keys, costs or (), strict=False))}
    ]
    if calibration is not None:
        stages[0]["calibration_multiply_adds"] = calibration
    if before_costs is not None:
        ann = dict(zip(keys, before_costs, strict=True))
        stages.insert(0, {"name": "ann", "train_seconds": before, **ann})
    total = {key: sum(stage.get(key, 0) for stage in stages) for key in keys}
    result = {
        "label": label,
        "store": store,
        "protocol": protocol,
        "machine": {"system": machine},
        "seed": seed,
        "stages": stages,
        "train_seconds": before + seconds,
        "cost": None if costs is None else total,
        "test": None if test is None else {"top1": test},
    }
    if confusion is not None:
        samples = sum(map(sum, confusion))
        hits = sum(row[place] for place, row in enumerate(confusion))
        result["test"] = {"top1": hits / samples, "samples": samples, "confusion": confusion}
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
    assert (run.before.seconds, run.cost.seconds, run.best) == (30, 50, 0.7)
    assert run.test is not None
    assert (run.test.top1, run.test.learned) == (0.6, None)  # no samples are recorded
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
    assert "| 10 (1 of 2 reach it) | - |" in markdown(methods(rows))


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


def test_many_long_labels_leave_room_for_the_curves(tmp_path):
    curve = [(0, 0.1), (10, 0.9)]
    label = ", ".join(["scratch", *["label_smoothing 0.1"] * 8])
    runs = [make_run(tmp_path, f"{label} {n}", curve, name=f"run{n}") for n in range(9)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns if no room is left
        report(runs, tmp_path / "report")
    with Image.open(tmp_path / "report/report.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    dark = pixels < 100
    assert dark.sum(0).max() > 500  # the frame of the axes is high
    assert dark.sum(1).max() > 700  # and wide


def test_different_machines_are_noted(tmp_path, runs):
    report(runs, tmp_path / "out")
    assert "different machines" not in (tmp_path / "out/report.md").read_text()
    other = make_run(tmp_path, "other", [(0, 0.1), (10, 0.9)], machine="there")
    report([*runs, other], tmp_path / "out")
    assert "different machines" in (tmp_path / "out/report.md").read_text()


def test_the_report_writes_its_files(tmp_path, runs):
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
    pictures = [tmp_path / f"report/{name}.svg" for name in ("report", "front")]
    first = [path.read_bytes() for path in pictures]
    report(runs, tmp_path / "report")
    assert [path.read_bytes() for path in pictures] == first
    assert "## Front of accuracy over cost" in (tmp_path / "report/report.md").read_text()
    assert [entry["label"] for entry in details["front"]] == ["scratch", "fast"]


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
    names = [f"report.{suffix}" for suffix in ("html", "md", "json", "svg", "png")]
    for name in (*names, "front.svg", "front.png"):
        for link in (name, f"{name}.part"):
            (out / link).symlink_to(outside)
    report(runs, out)
    assert outside.read_text() == "precious"
    assert len(list(out.iterdir())) == 7
    assert not any(path.is_symlink() for path in out.iterdir())


def test_the_command_prints_the_table(tmp_path, monkeypatch, runs):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["report", *map(str, runs)])
    suffixes = sorted(path.suffix for path in Path("report").iterdir())
    assert suffixes == [".html", ".json", ".md", ".png", ".png", ".svg", ".svg"]
    assert done.exit_code == 0, done.output
    assert "| fast | 2 |" in done.output
    done = CliRunner().invoke(main, ["report", str(tmp_path / "no"), "-o", str(tmp_path / "x")])
    assert done.exit_code == 1
    assert "is not the folder of a run" in done.output


def test_html_alone_is_written_to_a_file(tmp_path, runs):
    words = ["report", *map(str, runs), "-o", str(tmp_path / "new" / "x.html")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "| fast | 2 |" in done.output
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.html"]
    page = (tmp_path / "new" / "x.html").read_text("utf-8")
    assert page.startswith("<!doctype html>")


@given(st.integers(1, 60), st.floats(0.01, 0.99))
def test_the_least_hits_that_show_learning(samples, chance):
    """Against a plain sum over all outcomes."""

    def tail(least):
        return sum(
            math.comb(samples, hits) * chance**hits * (1 - chance) ** (samples - hits)
            for hits in range(least, samples + 1)
        )

    least = least_hits(samples, chance)
    assert tail(least) < 0.01 + 1e-9
    assert tail(least - 1) >= 0.01 - 1e-9


def test_chance_is_the_share_of_the_most_frequent_class():
    uneven = [[90, 0], [10, 0]]  # everything is taken for the first class
    score = Score(top1=0.9, samples=100, confusion=uneven)
    assert (score.chance, score.learned) == (0.9, False)
    assert Score(top1=0.97, samples=100, confusion=uneven).learned
    assert Score(top1=0.6, samples=100, confusion=[[30, 20], [20, 30]]).learned is False
    assert Score(top1=0.63, samples=100, confusion=[[30, 20], [17, 33]]).learned
    assert Score(top1=1.0, samples=3, confusion=[[2, 0], [0, 1]]).learned is False  # too few
    assert Score(top1=0.1, samples=10, confusion=[[10]]).learned is False
    assert Score(top1=0.5).learned is None


NOTHING, MUCH = [[30, 20], [28, 22]], [[45, 5], [4, 46]]


def test_a_baseline_that_learns_nothing_gives_no_speed_up(tmp_path):
    """It has a best epoch by luck, which a method reaches at once."""
    curve = [(0, 0.5), (100, 0.52)]
    fast = make_run(tmp_path, "fast", [(0, 0.5), (10, 0.9)], confusion=MUCH)
    good = make_run(tmp_path, "scratch", curve, scratch=True, confusion=MUCH)
    bad = make_run(tmp_path, "poor", curve, scratch=True, confusion=NOTHING)
    scratch, row = report([good, fast], tmp_path / "out")
    assert (scratch["speed_up"], row["speed_up"]) == (1, 10)
    scratch, row = report([bad, fast], tmp_path / "out")
    for one in (scratch, row):
        assert one["speed_up"] is one["seconds_to_target"] is one["speed_up_cpu"] is None
    sentence = (
        "There is no target and no speed-up, because the baseline poor with seed 0 has not learned "
        "anything: its test accuracy is 52.0 % on 100 samples, and always guessing the most "
        "frequent class reaches 50.0 %. By a binomial test at 1%, 63.0 % or more would show that "
        "it has."
    )
    assert sentence in (tmp_path / "out/report.md").read_text("utf-8")
    assert sentence in (tmp_path / "out/report.html").read_text("utf-8")
    assert json.loads((tmp_path / "out/report.json").read_text())["runs"][0]["learned"] is False
    # A better baseline of the same seed is the target.
    best = make_run(tmp_path, "scratch deep", [(0, 0.5), (50, 0.8)], scratch=True, confusion=MUCH)
    rows = {row["way"]: row for row in report([bad, best, fast], tmp_path / "out")}
    assert rows["fast"]["speed_up"] == 5
    # One seed that learns nothing leaves no fair mean.
    other = make_run(tmp_path, "poor", curve, seed=1, scratch=True, confusion=NOTHING)
    again = make_run(tmp_path, "fast", [(0, 0.5), (10, 0.9)], seed=1, confusion=MUCH)
    rows = report([good, other, fast, again], tmp_path / "out")
    assert all(row["speed_up"] is None for row in rows)


def test_costs_are_compared_in_cpu_seconds_and_operations(tmp_path):
    slow = make_run(
        tmp_path, "scratch", [(0, 0.1), (50, 0.4), (100, 0.6)], scratch=True, costs=(200, 6e9, 2e9)
    )
    fast = make_run(
        tmp_path,
        "fast",
        [(0, 0.2), (10, 0.6), (20, 0.7)],
        before=10,
        before_costs=(5, 1e9, 0),
        costs=(90, 1e9, 2e9),
    )
    scratch, row = report([slow, fast], tmp_path / "out")
    assert (scratch["speed_up"], scratch["speed_up_cpu"], scratch["speed_up_operations"]) == (
        1,
    ) * 3
    assert row["speed_up"] == 100 / 20
    assert row["speed_up_cpu"] == 200 / (5 + 45)
    assert row["speed_up_operations"] == 8e9 / (1e9 + 1.5e9)
    assert row["stages"]["ann"]["cpu_seconds"]["mean"] == 5
    assert row["cost"]["multiply_adds"]["mean"] == 2e9
    assert row["cost_to_target"]["additions"]["mean"] == 1e9
    text = (tmp_path / "out/report.md").read_text("utf-8")
    assert "| fast | ann | 10 | 5 | 1 | 0 | 1 |" in text
    assert "| fast | lif | 20 | 90 | 1 | 2 | 3 |" in text
    assert "| fast | all stages | 30 | 95 | 2 | 2 | 4 |" in text
    assert "| fast | to the baseline's best | 20 | 50 | 1.5 | 1 | 2.5 |" in text
    assert "| fast | speed-up | 5.00 | 4.00 |  |  | 3.20 |" in text
    assert (tmp_path / "out/report.html").read_text("utf-8").count("<svg") == 3


def test_the_work_of_a_calibration_comes_before_the_first_step(tmp_path):
    slow = make_run(tmp_path, "slow", [(0, 0.1), (9, 0.5)], scratch=True, costs=(9, 8e9, 4e9))
    options = {"calibration": 2e9, "costs": (3, 2e9, 0)}
    untrained = make_run(tmp_path, "untrained", [(3, 0.5)], before=3, **options)
    trained = make_run(
        tmp_path, "trained", [(3, 0.5), (6, 0.6)], calibration=2e9, costs=(6, 6e9, 2e9)
    )
    assert [cost.operations for cost in read_run(trained).costs] == [2e9, 8e9]
    assert [cost.operations for cost in read_run(untrained).costs] == [2e9]
    _, *rows = report([slow, untrained, trained], tmp_path / "out")
    assert [row["speed_up_operations"] for row in rows] == [6, 6]
    result = json.loads((trained / "result.json").read_text())
    result["stages"][0]["calibration_multiply_adds"] = 7e9
    (trained / "result.json").write_text(json.dumps(result))
    with pytest.raises(InputError, match="calibration_multiply_adds is '7000000000"):
        read_run(trained)


def test_of_several_baselines_the_cheapest_that_reaches_the_target_counts(tmp_path):
    made = [
        make_run(tmp_path, "short", [(0, 0.1), (50, 0.6)], scratch=True),
        make_run(tmp_path, "long", [(0, 0.1), (200, 0.6)], scratch=True),
        make_run(tmp_path, "fast", [(0, 0.1), (10, 0.6)]),
    ]
    for order in ([0, 1, 2], [1, 0, 2]):
        assert summarise([read_run(made[n]) for n in order])[2]["speed_up"] == 5


def test_the_cheapest_baseline_is_that_of_each_measure(tmp_path):
    made = [
        make_run(tmp_path, "busy", [(0, 0.1), (200, 0.6)], scratch=True, costs=(20, 2e9, 2e9)),
        make_run(tmp_path, "more", [(0, 0.1), (50, 0.6)], scratch=True, costs=(40, 4e9, 4e9)),
        make_run(tmp_path, "fast", [(0, 0.1), (10, 0.6)], costs=(5, 1e9, 1e9)),
    ]
    row = summarise([read_run(one) for one in made])[2]
    assert (row["speed_up"], row["speed_up_cpu"], row["speed_up_operations"]) == (5, 4, 2)


def test_training_that_is_not_counted_is_noted(tmp_path, runs):
    result = json.loads((runs[2] / "result.json").read_text()) | {"uncounted": ["a<b>.pth"]}
    (runs[2] / "result.json").write_text(json.dumps(result))
    report(runs, tmp_path / "out")
    note = "The cost of fast does not count the training of a<b>.pth."
    assert (tmp_path / "out/report.md").read_text().count(note) == 1
    assert note.replace("<b>", "&lt;b&gt;") in (tmp_path / "out/report.html").read_text()


def test_costs_of_older_runs_are_gaps(tmp_path, runs):
    new = make_run(tmp_path, "new", [(0, 0.1), (9, 0.9)], costs=(1, 2, 3))
    rows = report([*runs, new], tmp_path / "out")
    assert rows[0]["speed_up"] == 1
    assert rows[0]["speed_up_cpu"] is rows[0]["cost"]["additions"] is None
    assert rows[2]["speed_up"]
    assert rows[2]["speed_up_operations"] is None
    text = (tmp_path / "out/report.md").read_text("utf-8")
    assert "| scratch | scratch | 200 | - | - | - | - |" in text
    assert "did not record are missing" in text
    assert "can't be checked whether the baseline scratch with seed 1 has learned" in text


class Page(HTMLParser):
    """Collect the tags and the text of a page, and what it would load."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open, self.loads = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [
            key for key, _ in attrs if key in ("src", "href", "action") or key[:2] == "on"
        ]
        if tag not in ("meta", "line", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.parametrize("many", [False, True])
def test_the_page_is_self_contained_and_escapes_names(tmp_path, many):
    evil = ["</td><script>alert(1)</script>", "\x1b[2J\n'\"&", "<img src=x onerror=alert(1)>"]
    evil += [f"c{number}" for number in range(57 * many)]
    count = len(evil)
    confusion = [[5 if here == there else 1 for here in range(count)] for there in range(count)]
    baseline = make_run(
        tmp_path,
        "<style>*{display:none}</style>",
        [(0, 0.1), (9, 0.5)],
        scratch=True,
        confusion=confusion,
        classes=evil,
    )
    other = make_run(tmp_path, "plain", [(0, 0.1), (9, 0.5)], confusion=confusion, classes=evil)
    report([baseline, other], tmp_path / "out")
    text = (tmp_path / "out/report.html").read_text("utf-8")
    page = Page(text)
    assert not page.open
    assert not page.loads
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert page.tags.count("style") == 1
    shown = "".join(page.text)
    assert evil[0] in shown
    assert "<style>*{display:none}</style>, seed 0" in shown
    assert "stem.neuron" in shown
    assert "\x1b" not in text
    assert "url(" not in text
    assert "default-src 'none'" in text
    assert ("Most frequent confusions" in shown) == many
