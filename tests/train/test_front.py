"""The front of accuracy over cost."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.train.test_report import make_run
from train.front import Entry, best_baseline, entries, front, plot, speed_up, table
from train.results import read_run

POINTS = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 9), st.sampled_from(["baseline", "same samples"])),
    max_size=12,
)


def entry(label="a", *, group="same samples", held_out=0.5, test=0.5, cost=1.0):
    costs = dict.fromkeys(("seconds", "cpu_seconds", "operations"), cost)
    return Entry(
        label=label, group=group, seeds=1, held_out=held_out, test=test, spread=0.0, costs=costs
    )


@given(POINTS)
def test_no_method_of_a_group_dominates_one_on_the_front(points):
    made = [
        entry(str(n), group=group, held_out=height / 9, cost=float(cost))
        for n, (cost, height, group) in enumerate(points)
    ]
    places = np.array([(cost, -height) for cost, height, _ in points]).reshape(-1, 2)
    groups = np.array([group for *_, group in points])
    better = (places[:, None] <= places[None]).all(axis=2)
    better &= (places[:, None] < places[None]).any(axis=2) & (groups[:, None] == groups[None])
    wanted = {
        (points[n][0], points[n][1], points[n][2]) for n in np.flatnonzero(~better.any(axis=0))
    }
    chosen = [points[int(one.label)] for one in front(made, "seconds")]
    assert set(chosen) == wanted
    assert len(chosen) == len(wanted)  # of equal ones, one
    assert [cost for cost, *_ in chosen] == sorted(cost for cost, *_ in chosen)


def test_the_best_baseline_is_chosen_by_held_out_samples():
    made = [
        entry("tests best", group="baseline", held_out=0.5, test=0.9, cost=10.0),
        entry("chosen", group="baseline", held_out=0.6, test=0.4, cost=100.0),
        entry("too low", held_out=0.9, test=0.39, cost=1.0),
        entry("reaches", held_out=0.3, test=0.4, cost=25.0),
    ]
    target = best_baseline(made)
    assert target is not None
    assert target.label == "chosen"
    speeds = [speed_up(made, one, "cpu_seconds") for one in made]
    assert speeds == [None, None, None, 0.4]  # the cheaper baseline tests as well
    assert speed_up(made[1:], made[3], "cpu_seconds") == 4
    found = table(made)
    assert "baseline on the held-out samples is chosen" in found.text
    assert "accuracy of 40.0 %" in found.text
    assert [row[-3:] for row in found.rows][3] == ("0.40",) * 3
    assert best_baseline(made[2:]) is None
    assert "baseline" not in table(made[2:]).text


def test_entries_are_means_over_seeds(tmp_path):
    for seed, (test, seconds) in enumerate(((0.5, 10.0), (0.7, 30.0))):
        make_run(tmp_path, "few", [(0, 0.1), (seconds, 0.8)], seed=seed, test=test)
    make_run(tmp_path, "base", [(0, 0.1), (40, 0.6)], scratch=True, test=None, costs=(8, 2e9, 1e9))
    few, base = entries([read_run(path) for path in sorted(tmp_path.glob("*-*"), reverse=True)])
    assert (few.label, few.seeds, few.group) == ("few", 2, "same samples")
    assert few.test == pytest.approx(0.6)
    assert few.spread == pytest.approx(np.std([0.5, 0.7], ddof=1))
    assert few.costs == {"seconds": 20.0, "cpu_seconds": None, "operations": None}
    assert (base.group, base.test) == ("baseline", None)
    assert base.costs == {"seconds": 40.0, "cpu_seconds": 8.0, "operations": 3e9}
    assert speed_up([few, base], few, "seconds") is None  # the baseline was not tested


def test_a_baseline_that_has_not_learned_gives_no_speed_up(tmp_path):
    guesses = [[10, 0], [10, 0]]
    make_run(tmp_path, "base", [(0, 0.4), (100, 0.5)], scratch=True, confusion=guesses)
    make_run(tmp_path, "fast", [(0, 0.4), (10, 0.5)], test=0.55)
    made = entries([read_run(tmp_path / name) for name in ("base-0", "fast-0")])
    assert best_baseline(made) is None
    assert "baseline" not in table(made).text
    assert speed_up(made, made[1], "seconds") is None


@pytest.mark.parametrize(("keep", "accuracy"), [("best", 0.6), ("last", 0.5), (None, 0.6)])
def test_the_held_out_accuracy_is_that_of_the_tested_weights(tmp_path, keep, accuracy):
    """The weights before the first epoch are not kept, however good they are."""
    curve = [(0, 0.9), (10, 0.6), (20, 0.5)]
    make_run(tmp_path, "lif", curve, settings=None if keep is None else {"keep": keep})
    run = read_run(tmp_path / "lif-0")
    assert run.held_out_accuracy == entries([run])[0].held_out == accuracy
    assert run.best == 0.9


def test_fronts_with_gaps_are_drawn(tmp_path):
    made = [
        entry(f"{group} {n}", group=group, held_out=0.1 * n, test=test, cost=n)
        for n, (group, test) in enumerate(
            product(["baseline", "more samples"], [0.3, None, 0.6]), start=1
        )
    ]
    made.append(entry("unknown", cost=None))
    plot(made, tmp_path)
    with Image.open(tmp_path / "front.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 10
    assert (tmp_path / "front.svg").read_bytes().startswith(b"<?xml")
