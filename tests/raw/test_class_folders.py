"""Folders around class folders are splits or are refused, and notes report what is not read."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventdata
from eventdata.conversion import convert
from eventdata.errors import InputError
from eventdata.files.inputs import files_below
from eventdata.raw.class_folders import find_class_folders, is_document
from eventdata.raw.imagenet import ImageNet
from eventdata.raw.recordings import Recordings
from eventdata.raw.split_folders import arrange, split_mark
from tests.makers import write_npz

CLASSES = ["cat", "trainer", "contest", "Teststrip", "a b", "validity", "0", "retest", "évalué"]
LIKE_SPLITS = ["train_station", "test_tube", "dev kit", "bulletTrain"]
PATTERNS = ["{}", "{}_set", "{}set", "n-cars_{}", "{}_n-cars", "My {} data", "ibmGesture{}"]
WORDS = {
    "train": ["train", "training"],
    "val": ["val", "valid", "validation", "dev"],
    "test": ["test", "testing"],
}
cases = st.sampled_from([str.lower, str.upper, str.capitalize])
files = st.lists(st.sampled_from(["1.bin", "2.bin", "day/1.bin", "x/y/3.bin"]), min_size=1)


@st.composite
def split_names(draw):
    """Return one folder name for each of one to three splits, all of one pattern."""
    pattern = draw(st.sampled_from(PATTERNS))
    splits = draw(st.lists(st.sampled_from(sorted(WORDS)), min_size=1, max_size=3, unique=True))
    case = str.capitalize if pattern.startswith("ibm") else draw(cases)
    return {split: pattern.format(case(draw(st.sampled_from(WORDS[split])))) for split in splits}


def shuffled(draw, tree):
    return {name: draw(st.permutations(tree[name])) for name in draw(st.permutations(list(tree)))}


def found_in(tree):
    """Return the paths in the input of each split and class, as `arrange` finds them."""
    return {
        split: {
            name: sorted(f"{part.folder}/{path}".lstrip("/") for path in paths)
            for name, paths in part.classes.items()
            if paths
        }
        for split, part in arrange(tree, "INPUT").parts.items()
    }


@given(st.data())
def test_split_folders_are_splits(data):
    """Also with empty folders next to them, and with one of them only."""
    names = data.draw(split_names())
    classes = data.draw(st.lists(st.sampled_from(CLASSES), min_size=1, unique=True))
    expected, tree = {}, {}
    for split, folder in names.items():
        inner = {name: sorted(set(data.draw(files))) for name in classes}
        tree[folder] = [f"{name}/{path}" for name, paths in inner.items() for path in paths]
        expected[split] = {
            name: sorted(f"{folder}/{name}/{path}" for path in paths)
            for name, paths in inner.items()
        }
    for empty in data.draw(st.lists(st.sampled_from(["extra", "figures", "testing_labels"]))):
        tree.setdefault(empty, [])
    assert found_in(shuffled(data.draw, tree)) == expected


@given(st.data())
def test_split_folders_in_class_folders_are_splits(data):
    names = data.draw(split_names())
    classes = data.draw(st.lists(st.sampled_from(CLASSES), min_size=2, unique=True))
    expected = {split: {} for split in names}
    tree = {name: [] for name in classes}
    for name in classes:
        for split, folder in names.items():
            paths = sorted(set(data.draw(files)))
            tree[name] += [f"{folder}/{path}" for path in paths]
            expected[split][name] = sorted(f"{name}/{folder}/{path}" for path in paths)
    is_clear = len(names) > 1 or not split_mark(next(iter(names.values()))).rest
    if is_clear:
        assert found_in(shuffled(data.draw, tree)) == expected
    else:
        assert list(found_in(tree)) == [""]


@given(st.data())
def test_other_folders_are_classes(data):
    """Also those whose names have a split's word in them."""
    names = data.draw(st.lists(st.sampled_from(CLASSES), min_size=1, unique=True))
    names += data.draw(st.lists(st.sampled_from(LIKE_SPLITS), unique=True))
    tree = {name: sorted(set(data.draw(files))) for name in names}
    if any(all("/" in path for path in paths) for paths in tree.values()):
        tree = {name: ["1.bin", *paths] for name, paths in tree.items()}
    expected = {name: sorted(f"{name}/{path}" for path in paths) for name, paths in tree.items()}
    assert found_in(shuffled(data.draw, tree)) == {"": expected}


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"train": ["a/1"], "eval": ["a/1"]}, {"train": "train", "test": "eval"}),
        (
            {"train": ["a/1"], "test": ["a/1"], "evaluation": ["a/1"]},
            {"train": "train", "val": "evaluation", "test": "test"},
        ),
        ({"train": ["a/1"], "dev": ["a/1"]}, {"train": "train", "val": "dev"}),
        ({"train2017": ["a/1"], "val2017": ["b/1"]}, {"train": "train2017", "val": "val2017"}),
        ({"train": ["a/1"], "n_test": ["a/1"]}, {"train": "train", "test": "n_test"}),
        ({"train": ["a/1"], "test": ["a/1"], "extra": ["1"]}, {"train": "train", "test": "test"}),
        ({"train": ["a/1"], "training": [], "x": []}, {"train": "train"}),
        ({"train_station": ["1"], "test_tube": ["1"]}, {"": ""}),
        ({"bullet_train": ["1"]}, {"": ""}),
        ({"train": ["1"], "car": ["1"]}, {"": ""}),
        ({"train_station": ["d/1"], "car": ["d/1"]}, {"": ""}),
    ],
)
def test_the_meaning_of_names(tree, expected):
    layout = arrange(tree, "INPUT")
    assert {split: part.folder for split, part in layout.parts.items()} == expected
    guessed = {*expected.values()} - {"train", "val", "test"}
    assert all(name in " ".join(layout.notes) for name in guessed)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"train": ["a/1"], "training": ["a/1"]}, "training: a second folder for the split train"),
        ({"a": ["train/1", "Train/1"], "b": ["train/1"]}, "a second folder for the split train"),
        ({"train": ["a/1"], "cat": ["1"]}, "unclear whether .* splits or classes: train; for spl"),
        ({"n_train": ["a/1"], "cat": ["1"]}, "unclear whether .* n_train"),
        ({"train": ["1"], "test": ["1"], "cat": ["1"]}, "unclear"),
        ({"n_train": ["1"], "n_test": ["1"]}, "unclear"),
        ({"n_train": ["1"], "n_test": ["1"], "cat": ["1"]}, "unclear"),
        ({"train_a": ["x/1"], "test_b": ["y/1"]}, "unclear"),
        ({"a": ["train/1", "test/1"], "b": ["1"]}, "INPUT/a/test: looks like a split in a class"),
        ({"a": ["train/1", "2"], "b": ["train/1"]}, "INPUT/a/train: looks like a split"),
        ({"N": ["train/a/1", "test/a/1"]}, "holds only a folder with the splits; pass INPUT/N"),
        ({"N": ["M/n_train/a/1", "M/n_test/a/1"]}, "holds only .* pass INPUT/N/M"),
        (
            {name: ["a/1"] for name in ("train", "val", "test", "eval")},
            "eval: a third set next to",
        ),
    ],
)
def test_doubtful_folders_are_refused(tree, message):
    for order in (list(tree), list(tree)[::-1]):
        with pytest.raises(InputError, match=message):
            arrange({name: tree[name] for name in order}, "INPUT")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def is_bin(name):
    return name.endswith(".bin")


def notes_of(root: Path) -> list[str]:
    return find_class_folders(root, "recordings", is_bin).notes


def test_what_is_not_read_is_reported(tmp_path):
    touch(tmp_path, "a/1.bin", "a/2.mat", "b/1.bin", "b/x/2.MAT", "b/README.txt", "b/.hidden.mat")
    touch(tmp_path, "c/3.mat", "c/4", "LICENSE", "__MACOSX/a/._1.bin", ".git/1.bin", "top.tar.gz")
    touch(tmp_path, "docs/example.bin")
    (tmp_path / "d").mkdir()
    assert notes_of(tmp_path) == [
        "skipped the folder docs, which is no split and no class; recordings in it: 1",
        "skipped folders without recordings, which get no label: c, d",
        "skipped 5 files, not recordings: 3 .mat (a/2.mat), 1 without a suffix (c/4), "
        "1 .gz (top.tar.gz)",
    ]


def test_empty_and_foreign_folders_do_not_change_splits(tmp_path):
    touch(tmp_path, "train/a/1.bin", "test/a/1.bin", "train/b/1.bin", "__MACOSX/train/._1.bin")
    touch(tmp_path, "docs/1.bin", ".cache/x/1.bin", "README.md")
    for folder in ("val", "train/c", "logs"):
        (tmp_path / folder).mkdir()
    found = find_class_folders(tmp_path, "recordings", is_bin)
    assert {split: list(part.classes) for split, part in found.layout.parts.items()} == {
        "train": ["a", "b"],
        "test": ["a"],
    }
    assert found.notes == [
        "skipped the folder docs, which is no split and no class; recordings in it: 1",
        "classes only in train: b",
        "skipped folders without recordings, which get no label: logs, val, train/c",
    ]


def test_classes_that_differ_in_case_between_splits_are_refused(tmp_path):
    touch(tmp_path, "train/Cat/1.bin", "test/cat/1.bin")
    with pytest.raises(InputError, match="the class Cat of train is cat in another split"):
        notes_of(tmp_path)
    touch(tmp_path, "train/cat/1.bin", "test/Cat/1.bin")  # two classes, as of letters
    assert notes_of(tmp_path) == []


def test_a_folder_around_class_folders_is_reported(tmp_path):
    touch(tmp_path, "all/cat/1.bin", "all/dog/1.bin")
    assert notes_of(tmp_path) == [
        f"all recordings are of one class, all; if it holds class folders, pass {tmp_path}/all"
    ]


def test_folders_between_split_and_class_folders_are_reported(tmp_path):
    touch(tmp_path, "train/gen1/cat/1.bin", "train/gen1/dog/1.bin", "test/gen1/cat/1.bin")
    assert notes_of(tmp_path) == [
        "all recordings are of one class, gen1; if it holds class folders, move these up"
    ]
    touch(tmp_path, "train/gen2/cat/1.bin", "train/gen2/dog/1.bin", "test/gen2/cat/1.bin")
    assert notes_of(tmp_path) == []


def test_folders_that_all_hold_the_same_folders_are_reported(tmp_path):
    touch(tmp_path, "half1/cat/1.bin", "half1/dog/1.bin", "half2/cat/1.bin", "half2/dog/2.bin")
    assert notes_of(tmp_path) == [
        "all classes hold the folders cat, dog; if these are the classes, name the folders around "
        "them as splits: half1, half2"
    ]
    touch(tmp_path, "half2/3.bin", "owl/1.bin")
    assert notes_of(tmp_path) == []


def test_links_are_followed_at_any_depth(tmp_path):
    """Each folder is read once, and links that would end nowhere or never are named."""
    real = touch(tmp_path / "real", "x/1.bin", "x/deep/2.bin", "3.bin")
    root = touch(tmp_path / "input", "a/1.bin", "b/in/2.bin")
    (root / "a" / "far").symlink_to(real)
    (root / "a" / "file.bin").symlink_to(real / "3.bin")
    (root / "a" / "again").symlink_to(root / "a" / "far")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to("self")
    (root / "a" / "gone").symlink_to("nowhere")
    (real / "x" / "deep" / "circle").symlink_to("../..")
    (root / "c").symlink_to(real / "x")
    (root / "around").symlink_to(tmp_path)
    found = find_class_folders(root, "recordings", is_bin)
    assert {name: sorted(paths) for name, paths in found.layout.parts[""].classes.items()} == {
        "a": ["a/1.bin", "a/again/3.bin", "a/again/x/1.bin", "a/again/x/deep/2.bin", "a/file.bin"],
        "b": ["b/in/2.bin"],
        "c": ["c/1.bin", "c/deep/2.bin"],
    }
    assert found.notes[0] == (
        "links that lead to nothing, or to a folder that is read anyhow: around, "
        "a/again/x/deep/circle, a/far, a/gone, a/self and 2 more"
    )


@settings(max_examples=20)
@given(st.data())
def test_files_below_are_those_of_a_plain_walk(tmp_path_factory, data):
    """Without hidden folders and links to folders, `os.walk` finds the same files."""
    root = tmp_path_factory.mktemp("walk")
    parts = st.sampled_from(["a", "b", ".c", "d"])
    paths = data.draw(st.lists(st.lists(parts, min_size=1, max_size=4), max_size=8))
    for path in paths:
        root.joinpath(*path).mkdir(parents=True, exist_ok=True)
        touch(root, "/".join([*path, "1.bin"]))
    expected = {
        str(Path(place, name).relative_to(root))
        for place, _, names in os.walk(root)
        for name in names
    }
    expected = {path for path in expected if "/.c" not in f"/{path}"}
    unfollowed: list[str] = []
    assert sorted(files_below(root, unfollowed)) == sorted(expected)
    assert unfollowed == []
    shutil.rmtree(root)


def test_images_have_the_same_layouts(tmp_path):
    touch(tmp_path, "Training/a/1.jpg", "Training/b/2.png", "Test_Set/a/3.jpg", "docs/4.jpg")
    touch(tmp_path, "Training/a/5.heic")
    source = ImageNet(root=tmp_path)
    splits = source.splits()
    assert {name: samples.names for name, samples in splits.items()} == {
        "train": ["a/1.jpg", "b/2.png"],
        "test": ["a/3.jpg"],
    }
    notes = splits["train"].notes
    assert "split folders: Test_Set is test, Training is train" in notes
    assert "skipped 1 file, not images: 1 .heic (Training/a/5.heic)" in notes
    assert ImageNet(root=tmp_path, only="test").splits().keys() == {"test"}


def test_a_list_names_images_in_renamed_split_folders(tmp_path):
    touch(tmp_path, "training/a/1.jpg", "testing/2.jpg")
    (tmp_path / "labels.txt").write_text("testing/2.jpg a\n")
    source = ImageNet(root=tmp_path, list_file=tmp_path / "labels.txt")
    splits = source.splits()
    assert splits["test"].names == ["2.jpg"]
    assert splits["test"].paths == [str(tmp_path / "testing" / "2.jpg")]
    assert not any("not images" in note for note in splits["train"].notes)


def test_texts_next_to_recordings_are_not_recordings(tmp_path):
    rng = np.random.default_rng(0)
    t = np.arange(100)
    x, y, p = (rng.integers(0, most, 100) for most in (16, 12, 2))
    for name in ("train/a", "test/a"):
        write_npz(tmp_path / "raw" / name / "1.npz", x=x, y=y, t=t, p=p)
    touch(tmp_path / "raw", "train/a/README.txt", "train/a/labels.csv", "train/list.txt", "x.csv")
    touch(tmp_path / "raw", "train/a/1_timestamps.npy", "test/a/1_bbox.npy", "test/a/boxes.npy")
    options = {"frames": 2, "sensor_size": "16x12", "time_unit": "us"}
    source = Recordings.build("recordings", tmp_path / "raw", options)
    assert {name: samples.names for name, samples in source.splits().items()} == {
        "train": ["a/1.npz"],
        "test": ["a/1.npz"],
    }
    result = convert(source, None, tmp_path / "out.zarr")
    assert [note for note in result.notes if re.search(r"list\.txt|x\.csv", note)]
    assert eventdata.open_store(tmp_path / "out.zarr").header.classes == ["a"]


@pytest.mark.parametrize(
    ("name", "document"),
    [
        *((name, True) for name in ("README", "readme_first.txt", "LICENSE-MIT", "Copying.txt")),
        *((name, True) for name in ("LICENSE_CC-BY.txt", "LICENSES.txt", "CHANGELOG_v2.txt")),
        *((name, False) for name in ("license_plate_01.csv", "copying_01.csv", "citation_1.csv")),
    ],
)
def test_documents_are_known_by_their_whole_name(name, document):
    assert is_document(name) == document
