"""The comparisons of training methods: the search of baselines, and which runs it makes."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

import tools.experiments
from tests.train.test_report import make_run
from tools.baselines import FEW, LENGTHS, VALUES, Baseline, combined, one_by_one
from tools.comparisons import DATA, Comparison, Method
from train.recipe import SCRATCH, load

RECIPES = ("pipe-s-small", "pipe-d-small-events", "ucf101-small")


@pytest.mark.parametrize("base", RECIPES)
def test_each_baseline_of_the_search_changes_one_setting(tmp_path, base):
    singles = one_by_one(Baseline(base), 3)
    own = singles[0].recipe().stages
    assert own == load(base, scratch=True).stages
    changed = [dict(one.changes) for one in singles[1:]]
    assert len({one.label for one in singles}) == len(singles)
    assert {next(iter(change)) for change in changed} >= {*VALUES, "batch_size", FEW}
    for baseline in singles[1:]:
        ((key, value),) = baseline.changes
        path = tmp_path / "one.toml"
        path.write_text(baseline.recipe().document())
        stages = load(str(path)).stages
        if key == FEW:
            assert list(stages) == ["few", SCRATCH]
            assert 3 in (stages["few"].steps, stages["few"].collapse)
            assert sum(stage.epochs for stage in stages.values()) == own[SCRATCH].epochs
        else:
            found = stages[SCRATCH]
            for word in key.split("."):
                found = getattr(found, word)
            assert found == value
            assert list(stages) == [SCRATCH]


def test_the_best_changes_are_combined():
    singles = one_by_one(Baseline("pipe-s-small"), 2)
    accuracy = {"scratch": 0.5, "scratch, decay 0.9": 0.6, "scratch, decay 0.25": 0.55}
    accuracy["scratch, batch_size 32"] = 0.51
    tried = combined([(one, accuracy.get(one.label, 0.4)) for one in singles])
    best = (("batch_size", 32), ("neuron.decay", 0.9))
    assert [(one.changes, one.length) for one in tried] == [
        (changes, length) for changes in ((), best) for length in LENGTHS
    ]
    assert tried[-1].recipe().stages[SCRATCH].epochs == 32
    assert len(combined([(one, 0.5) for one in singles])) == len(LENGTHS)  # no change is better


def test_the_chosen_baselines_get_more_seeds(tmp_path, monkeypatch):
    """With decay 0.9 better than all, and the double length better yet."""

    def train(words, **_):
        given = dict(pairwise(words))
        changes = dict(
            words[n + 1].split("=", 1) for n, word in enumerate(words) if word == "--set"
        )
        folder, label = Path(given["--out"]), json.loads(changes["run.label"])
        trained.append(folder.name)
        accuracy = 0.4 + 0.1 * ("decay 0.9" in label) + 0.1 * ("2x" in label)
        cost = 200 if "2x" in label else 100
        make_run(
            folder.parent,
            label,
            [(0, 0.1), (cost, accuracy)],
            seed=int(changes["run.seed"]),
            scratch="scratch" in label,
            costs=(cost, 1e9, 1e9),
            name=folder.name,
        )

    trained: list[str] = []
    words = ("pipe-s", "--recipe", "pipe-s-small")
    methods = (Method("scratch", ("scratch", *words[1:])), Method("pipe-S", words))
    comparison = Comparison("pipe-S", tmp_path / "x.zarr", "pipe-s-small", methods)
    monkeypatch.setitem(DATA, "pictures", lambda *_: [comparison])
    monkeypatch.setattr(tools.experiments.subprocess, "run", train)
    arguments = ["pictures", str(tmp_path), str(tmp_path), "--seeds", "2", "--search"]
    arguments += ["--baseline-seeds", "3", "--size", "64"]
    done = CliRunner().invoke(tools.experiments.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "report/pipe-S/report.json").read_text())
    seeds = {entry["label"]: entry["seeds"] for entry in report["front"]}
    kept = ["scratch", "scratch, decay 0.9", "scratch, decay 0.9, 2x"]
    assert seeds == dict.fromkeys(kept, 3) | {"pipe-S": 2}
    searched = json.loads((tmp_path / "search/pipe-S/report.json").read_text())["front"]
    assert len(searched) == 13 + 2 * len(LENGTHS) - 2
