"""The samples of each class are counted, and a table shows them."""

import json

import numpy as np
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from eventdata.cli import main
from eventdata.counts import SHOWN, class_counts, class_table, look_alikes
from tests.makers import make_images


@given(st.lists(st.integers(-1, 5), max_size=40))
def test_counts_are_those_of_each_label(labels):
    found = class_counts(np.array(labels, np.int32), list("abcdef"))
    assert found.pop("(unknown)", 0) == labels.count(-1)
    assert found == {name: labels.count(label) for label, name in enumerate("abcdef")}


def test_names_that_look_alike_are_noted():
    assert look_alikes(["cat", "dog", "cat2"]) == []
    (note,) = look_alikes(["cafe\u0301", "Cat", "caf\u00e9", "cat ", "dog"])
    assert note.startswith("classes that look alike: 'cafe\u0301', 'caf\u00e9'; 'Cat', 'cat '.")


def test_many_classes_are_summed_up():
    counts = {
        "train": {f"class{i}": i + 1 for i in range(1000)},
        "val": {f"class{i}": 5 for i in range(999)},
    }
    lines = class_table(counts)
    assert len(lines) == SHOWN // 2 + 2
    assert [line.split() for line in lines[:2]] == [["class", "train", "val"], ["class0", "1", "5"]]
    assert lines[-1] == (
        "... and 990 more classes; samples per class: train 1 to 1,000, val 0 to 5"
    )


def test_a_dry_run_and_info_show_them(tmp_path):
    raw, out = make_images(tmp_path / "raw"), tmp_path / "out.zarr"
    words = ["convert", "images", str(raw), str(out), "--workers", "1"]
    words += ["--short-side", "32", "--crop", "32"]
    expected = {
        "train": {"n01440764": 2, "n02119789": 2},
        "val": {"n01440764": 1, "n02119789": 1},
    }
    dry = CliRunner().invoke(main, [*words, "--dry-run"])
    assert "class      train  val\nn01440764      2    1\nn02119789      2    1\n" in dry.output
    dry = CliRunner().invoke(main, [*words, "--dry-run", "--json"])
    assert json.loads(dry.output)["classes"] == expected
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    shown = CliRunner().invoke(main, ["info", str(out)]).output
    assert "class      train  val\nn01440764      2    1\n" in shown
    facts = json.loads(CliRunner().invoke(main, ["info", str(out), "--json"]).output)
    assert {name: one["class_counts"] for name, one in facts["splits"].items()} == expected
