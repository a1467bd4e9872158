"""Clips of ES-UCF101 are read, with or without UCF101's official lists."""

import numpy as np
import pytest

from eventdata.errors import InputError, OptionError
from eventdata.raw.es_ucf101 import EsUcf101
from tests.makers import make_es_ucf101, write_npz


@pytest.fixture
def lists(tmp_path):
    """Write lists of a UCF101 of two classes, with CRLF line ends as published."""
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "classInd.txt").write_bytes(b"1 Archery\r\n2 PushUps\r\n")
    train = ["Archery/v_Archery_g02_c01.avi 1", "PushUps/v_PushUps_g02_c01.avi 2"]
    train += ["Archery/v_Archery_g03_c01.avi 1", "PushUps/v_PushUps_g03_c01.avi 2"]
    test = ["Archery/v_Archery_g01_c01.avi", "PushUps/v_PushUps_g01_c01.avi"]
    for fold in (1, 2, 3):
        (folder / f"trainlist{fold:02d}.txt").write_bytes("\r\n".join(train).encode())
        (folder / f"testlist{fold:02d}.txt").write_bytes("\r\n".join(test).encode() + b"\r\n")
    return folder


@pytest.mark.parametrize("folders", [False, True])
def test_clips_may_lie_in_class_folders(tmp_path, folders):
    source = EsUcf101(root=make_es_ucf101(tmp_path / "raw", folders=folders))
    samples = source.splits()["all"]
    assert source.classes == ["Archery", "PushUps"]
    assert samples.names[0] == "v_Archery_g01_c01.npz"
    assert [source.classes[label] for label in samples.labels] == ["Archery"] * 3 + ["PushUps"] * 3
    for index in range(len(samples)):
        row = samples.row(index)
        out = np.empty(source.sample_format.packed_shape, np.uint8)
        ones = source.read(row, out)
        with np.load(row.path) as raw:
            expected = raw["arr_0"].swapaxes(0, 1)
        frames = np.unpackbits(np.moveaxis(out, -1, 1), axis=0, count=30)
        np.testing.assert_array_equal(frames, expected)
        assert ones == expected.sum()


def test_clips_in_folders_called_as_splits_are_reported(tmp_path):
    for folder, clip in (("train", "v_Archery_g01_c01"), ("test", "v_Archery_g02_c01")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{clip}.npz").touch()
    (samples,) = EsUcf101(root=tmp_path).splits().values()
    assert samples.notes == [
        "clips in the folders test, train are in the split all; pass --splits and --fold for "
        "UCF101's splits"
    ]


def test_official_lists_give_the_splits(tmp_path, lists):
    root = make_es_ucf101(tmp_path / "raw")
    splits = EsUcf101(root=root, lists=lists, fold=1).splits()
    assert {name: len(samples) for name, samples in splits.items()} == {"train": 4, "test": 2}
    assert splits["train"].names[1] == "v_PushUps_g02_c01.npz"
    assert splits["train"].labels.tolist() == [0, 1, 0, 1]
    assert not splits["train"].problems | splits["test"].problems
    assert list(EsUcf101(root=root, lists=lists, fold=2, only="test").splits()) == ["test"]


def test_missing_clips_are_noted(tmp_path, lists):
    root = make_es_ucf101(tmp_path / "raw", clips=5)
    write_npz(root / "v_PushUps_g09_c01.npz", arr_0=np.ones((2, 30, 256, 342), np.uint8))
    splits = EsUcf101(root=root, lists=lists, fold=1).splits()
    assert len(splits["train"]) == 3
    notes = " ".join(splits["train"].notes)
    assert "trainlist01.txt: skipped 1 clips that are not in the input" in notes
    assert "skipped 1 clips that no list of fold 1 names" in notes


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("Archery/v_Archery_g01_c01.avi 1 extra", "3 fields, not 1 or 2"),
        ("Archery/v_Archery_g01_c01.avi 2", "label 2 is not that of Archery"),
        ("Golf/v_Golf_g01_c01.avi 3", "no class of classInd.txt"),
        ("../../v_Archery_g01_c01.avi 1", "leaves the folder"),
        ("Archery/v_Archery_g02_c01.avi 1", "listed twice"),
    ],
)
def test_a_bad_line_of_a_list_is_a_problem_of_its_sample(tmp_path, lists, line, says):
    path = lists / "trainlist01.txt"
    path.write_text(path.read_text() + "\n" + line)
    samples = EsUcf101(root=make_es_ucf101(tmp_path / "raw"), lists=lists, fold=1).splits()["train"]
    assert list(samples.problems) == [4]
    assert says in samples.problems[4]
    assert "trainlist01.txt:5" in samples.problems[4]


def test_a_clip_in_two_lists_is_a_problem(tmp_path, lists):
    path = lists / "testlist01.txt"
    path.write_text(path.read_text() + "Archery/v_Archery_g02_c01.avi\n")
    splits = EsUcf101(root=make_es_ucf101(tmp_path / "raw"), lists=lists, fold=1).splits()
    assert "also in trainlist01.txt" in splits["test"].problems[2]


def test_a_clip_in_two_places_is_a_problem(tmp_path):
    root = make_es_ucf101(tmp_path / "raw", folders=True)
    write_npz(root / "v_Archery_g01_c01.npz", arr_0=np.zeros((2, 30, 256, 342), np.uint8))
    samples = EsUcf101(root=root).splits()["all"]
    (problem,) = samples.problems.values()
    assert "the same clip is also at" in problem


def test_a_file_with_another_name_is_a_problem(tmp_path):
    root = make_es_ucf101(tmp_path / "raw")
    write_npz(root / "mean.npz", arr_0=np.zeros(3, np.uint8))
    (problem,) = EsUcf101(root=root).splits()["all"].problems.values()
    assert "not named v_CLASS_gGG_cCC" in problem


def test_options_that_contradict_each_other_are_refused(tmp_path, lists):
    root = make_es_ucf101(tmp_path / "raw")
    for settings in (
        {"fold": 1},
        {"lists": lists},
        {"only": "train"},
        {"lists": lists, "fold": 4},
        {"lists": lists, "fold": 1, "only": "all"},
    ):
        with pytest.raises(OptionError):
            EsUcf101(root=root, **settings).splits()


def test_missing_and_damaged_lists_are_refused(tmp_path, lists):
    root = make_es_ucf101(tmp_path / "raw")
    with pytest.raises(InputError, match=r"classInd.txt: can't be read"):
        EsUcf101(root=root, lists=tmp_path, fold=1).splits()
    (lists / "classInd.txt").write_text("1 Archery\n3 PushUps\n")
    with pytest.raises(InputError, match=r"classInd.txt:2: expected '2 CLASS'"):
        EsUcf101(root=root, lists=lists, fold=1).splits()
    with pytest.raises(InputError, match="no clips"):
        EsUcf101(root=lists).splits()


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((2, 30, 256, 342), np.uint8), "no events"),
        (np.full((2, 30, 256, 342), 2, np.uint8), "values other than 0 and 1"),
        (
            np.ones((30, 2, 256, 342), np.uint8),
            r"shape \(30, 2, 256, 342\), not \(2, 30, 256, 342\)",
        ),
        (np.ones((2, 30, 256, 340), np.uint8), "not \\(2, 30, 256, 342\\)"),
        (np.ones((2, 31, 256, 342), np.uint8), "declares"),
        (np.ones((2, 30, 256, 342), np.bool_), "bool, not uint8"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, array, says):
    source = EsUcf101(root=make_es_ucf101(tmp_path / "raw", clips=1))
    row = source.splits()["all"].row(0)
    write_npz(tmp_path / "raw" / row.name, arr_0=array)
    with pytest.raises(InputError, match=says):
        source.read(row, np.empty(source.sample_format.packed_shape, np.uint8))
