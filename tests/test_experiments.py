"""The comparisons of training methods: the search of baselines, and which runs it makes."""

import json
from itertools import pairwise
from pathlib import Path
from zipfile import ZipFile

import pytest
from click import UsageError
from click.testing import CliRunner

import tools.experiments
from tests.train.test_report import make_run
from tools.baselines import FEW, VALUES, VALUES_OF_FRAMES, Baseline, combined, one_by_one
from tools.comparisons import DATA, Comparison, Method, unpack_pictures
from train.recipe import SCRATCH, load

RECIPES = ("pipe-s-small", "pipe-d-small-events", "ucf101-small")


@pytest.mark.parametrize("base", RECIPES)
def test_each_baseline_of_the_search_changes_one_setting(tmp_path, base):
    singles = one_by_one(Baseline(base), 3)
    own = singles[0].recipe().stages
    assert own == load(base, scratch=True).stages
    changed = [dict(one.changes) for one in singles[1:]]
    assert len({one.label for one in singles}) == len(singles)
    keys = {next(iter(change)) for change in changed}
    assert keys >= {*VALUES, "batch_size", FEW}
    assert keys.isdisjoint(VALUES_OF_FRAMES) == (base == "pipe-s-small")
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


def test_changes_that_gained_are_combined():
    singles = one_by_one(Baseline("pipe-s-small", length=0.5), 2)
    accuracy = {"decay 0.9": 0.6, "decay 0.25": 0.55, "batch_size 32": 0.51, "ema 0.998": 0.52}
    tried = [(one, 0.5 if not one.changes else 0.4) for one in singles]
    assert combined(tried) == []
    tried = [
        (one, next((accuracy[key] for key in accuracy if f", {key}," in one.label), old))
        for one, old in tried
    ]
    two, every = combined(tried)
    assert two.changes == (("neuron.decay", 0.9), ("ema", 0.998))
    assert every.changes == (*two.changes, ("batch_size", 32))
    assert every.recipe().stages[SCRATCH].epochs == 8
    assert len(combined([pair for pair in tried if "batch_size" not in pair[0].label])) == 1


def test_pictures_are_unpacked_whole_and_once(tmp_path, monkeypatch):
    archive, folder = tmp_path / "a.zip", tmp_path / "work/pictures"
    with ZipFile(archive, "w") as zipped:
        for name in ("train/b", "train/a", "test/a", "test/b", "train/c"):
            zipped.writestr(f"root/{name}/1.JPEG", name)

    def full(*_):
        raise OSError(28, "disk full")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="full"):
            unpack_pictures(archive, folder, 0, 2)
    assert not folder.exists()
    for _ in range(2):
        unpack_pictures(archive, folder, 0, 2)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*.JPEG")}
    assert found == {f"{split}/{name}/1.JPEG" for split in ("train", "test") for name in "ab"}
    assert [path.name for path in folder.parent.iterdir()] == ["pictures"]
    with pytest.raises(UsageError, match="pictures has other classes; choose another WORK"):
        unpack_pictures(archive, folder, 1, 2)


@pytest.mark.parametrize(
    ("gains", "tuned"),
    [
        ({"decay 0.9": 0.1, "batch_size 32": 0.05}, "scratch, decay 0.9, batch_size 32"),
        ({"decay 0.9": 0.1}, "scratch, decay 0.9"),
        ({"ema 0.9, decay 0.7": 0.1}, "scratch, ema 0.9, decay 0.7"),
        ({}, "scratch"),
    ],
)
def test_tuned_baselines_get_more_seeds(tmp_path, monkeypatch, gains, tuned):
    """The search on ten classes finds the changes that gain, also those of the comparison."""

    def train(words, **_):
        given = dict(pairwise(words))
        changes = dict(
            words[n + 1].split("=", 1) for n, word in enumerate(words) if word == "--set"
        )
        folder, label = Path(given["--out"]), json.loads(changes["run.label"])
        trained.append((given["--data"], changes.get("run.held_out")))
        accuracy = 0.4 + sum(gain for change, gain in gains.items() if f", {change}" in label)
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

    def pictures(_, work, choice):
        store = work / f"{choice.classes}.zarr"
        tried = ((("ema", 0.9), ("neuron.decay", 0.7)),)
        return [Comparison("pipe-S", store, "pipe-s-small", methods, tried=tried)]

    trained: list[tuple[str, str | None]] = []
    words = ("pipe-s", "--recipe", "pipe-s-small")
    methods = (Method("scratch", ("scratch", *words[1:])), Method("pipe-S", words))
    monkeypatch.setitem(DATA, "pictures", pictures)
    monkeypatch.setattr(tools.experiments.subprocess, "run", train)
    arguments = ["pictures", str(tmp_path), str(tmp_path), "--seeds", "2", "--search"]
    arguments += ["--baseline-seeds", "3", "--size", "64", "--classes", "20"]
    done = CliRunner().invoke(tools.experiments.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "report/pipe-S/report.json").read_text())
    seeds = {entry["label"]: entry["seeds"] for entry in report["front"]}
    kept = ["scratch", f"{tuned}, 0.5x", tuned, f"{tuned}, 2x"]
    assert seeds == dict.fromkeys(kept, 3) | {"pipe-S": 2}
    searched = json.loads((tmp_path / "search/report/pipe-S/report.json").read_text())["front"]
    tries = 15 + (len(gains) > 1)
    assert len(searched) == tries
    assert trained[:tries] == [(str(tmp_path / "search/10.zarr"), "0.2")] * tries
    assert set(trained[tries:]) == {(str(tmp_path / "20.zarr"), None)}
