"""Images are found in every layout and listed by every list, and become events."""

import numpy as np
import pytest
from PIL import Image

from eventdata.errors import InputError, LeftOutError, OptionError
from eventdata.formats.image import read_picture
from eventdata.kernels.odg import PUBLISHED_TRACE, OdgSettings, image_frames
from eventdata.raw.imagenet import ImageNet
from eventdata.settings import from_options, parameters_of
from tests.makers import make_images, picture

SMALL = OdgSettings(long_side=62, crop=48, min_events=20)


def list_images(root, list_file=None, classes_file=None, only=None):
    return ImageNet(root=root, list_file=list_file, classes_file=classes_file, only=only)


def listed(*given, **options):
    """Return the classes, and (name, label) of each split."""
    found = list_images(*given, **options)
    rows = {
        split: list(zip(samples.names, samples.labels.tolist(), strict=True))
        for split, samples in found.splits().items()
    }
    return list(found.classes), rows


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_class_folders_are_one_split(tmp_path):
    touch(tmp_path, "b/2.JPEG", "b/10.png", "a/deep/1.jpg", "a/notes.txt", ".git/x/1.jpg")
    classes, rows = listed(tmp_path)
    assert classes == ["a", "b"]
    assert rows == {"train": [("a/deep/1.jpg", 0), ("b/10.png", 1), ("b/2.JPEG", 1)]}
    samples = list_images(tmp_path).splits()["train"]
    assert samples.paths[0] == str(tmp_path / "a/deep/1.jpg")
    assert "it is one split, train" in samples.notes[0]


def test_split_folders_share_their_classes(tmp_path):
    """This also holds if only one of them is wanted."""
    touch(tmp_path, "train/a/1.jpg", "train/c/1.jpg", "val/b/1.jpg", "other/d/1.jpg")
    assert listed(tmp_path) == (
        ["a", "b", "c"],
        {"train": [("a/1.jpg", 0), ("c/1.jpg", 2)], "val": [("b/1.jpg", 1)]},
    )
    assert listed(tmp_path, only="val") == (["a", "b", "c"], {"val": [("b/1.jpg", 1)]})


def test_numbered_class_folders_are_sorted_as_names(tmp_path):
    touch(tmp_path, "10/1.jpg", "2/1.jpg", "007/1.jpg")
    assert listed(tmp_path)[0] == ["007", "10", "2"]


def test_the_official_layout_with_a_list_for_val_is_read(tmp_path):
    touch(tmp_path, "train/n1/1.JPEG", "train/n2/1.JPEG", "val/v_1.JPEG", "val/v_2.JPEG")
    for text in (
        "v_2.JPEG 1\nv_1.JPEG 0\n",
        "v_2.JPEG n2\r\nv_1.JPEG n1",
        "val/v_2.JPEG 1\nval/v_1.JPEG\t0\n",
    ):
        (tmp_path / "list.txt").write_text(text)
        classes, rows = listed(tmp_path, tmp_path / "list.txt")
        assert classes == ["n1", "n2"]
        assert rows["train"] == [("n1/1.JPEG", 0), ("n2/1.JPEG", 1)]
        assert rows["val"] == [("v_2.JPEG", 1), ("v_1.JPEG", 0)]
    paths = list_images(tmp_path, tmp_path / "list.txt", None, "val").splits()["val"].paths
    assert paths[0] == str(tmp_path / "val" / "v_2.JPEG")


def test_a_list_without_class_folders_is_enough(tmp_path):
    touch(tmp_path, "x/1.jpg", "my cat.jpg")
    (tmp_path / "list.txt").write_text("my cat.jpg 3\nx/1.jpg 0\n")
    classes, rows = listed(tmp_path, tmp_path / "list.txt")
    assert classes == ["0", "1", "2", "3"]
    assert rows == {"train": [("my cat.jpg", 3), ("x/1.jpg", 0)]}


def test_a_file_of_classes_gives_the_labels(tmp_path):
    touch(tmp_path, "n2/1.jpg", "n1/1.jpg", "n9/1.jpg")
    (tmp_path / "classes.txt").write_text("n2 0\nn0 1 a bird\nn1 2\n")
    classes, rows = listed(tmp_path, None, tmp_path / "classes.txt")
    assert classes == ["n2", "n0", "n1"]
    assert rows["train"] == [("n1/1.jpg", 2), ("n2/1.jpg", 0), ("n9/1.jpg", -1)]
    problems = (
        list_images(tmp_path, None, tmp_path / "classes.txt", None).splits()["train"].problems
    )
    assert list(problems) == [2]
    assert "its class 'n9' is not one of the 3 classes" in problems[2]


@pytest.mark.parametrize("text", ["n1 1\n", "n1 0\nn1 1\n", "n1 0\nn2 0\n", "n1\n", "n1 zero\n"])
def test_a_bad_file_of_classes_is_refused(tmp_path, text):
    touch(tmp_path, "n1/1.jpg")
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(InputError, match="classes.txt.*(0, 1, 2|each once)"):
        listed(tmp_path, None, tmp_path / "classes.txt")


def test_bad_lines_of_a_list_are_problems_of_their_samples(tmp_path):
    touch(tmp_path, "1.jpg")
    lines = ["1.jpg 0", "1.jpg 0", "../1.jpg 0", "/1.jpg 0", "lonely", "", "2.jpg 0"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    samples = list_images(tmp_path, tmp_path / "list.txt").splits()["train"]
    samples.inspect_files()
    assert len(samples) == 7
    expected = ["", "twice", "leaves", "leaves", "path label", "path label", "is missing"]
    says = samples.problems
    assert sorted(says) == [1, 2, 3, 4, 5, 6]
    for index in says:
        assert expected[index] in says[index]
        assert f"list.txt:{index + 1}" in says[index] or index == 6


def test_a_folder_above_the_splits_is_refused(tmp_path):
    """With other folders next to it, it is refused, too; a list decides."""
    touch(tmp_path, "ILSVRC/train/a/1.jpg", "ILSVRC/train/b/2.jpg", "ILSVRC/val/a/3.jpg")
    with pytest.raises(
        InputError, match=f"holds only a folder with the splits; pass {tmp_path}/ILSVRC"
    ):
        listed(tmp_path)
    (tmp_path / "list.txt").write_text("ILSVRC/val/a/3.jpg 0\n")
    listed(tmp_path, tmp_path / "list.txt")
    touch(tmp_path, "other/4.jpg")
    with pytest.raises(InputError, match="ILSVRC/train: looks like a split in a class folder"):
        listed(tmp_path)


def test_useless_lists_and_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        listed(tmp_path / "none")
    with pytest.raises(InputError, match="no images in class folders"):
        listed(tmp_path)
    touch(tmp_path, "train/a.jpg", "val/b.jpg")
    with pytest.raises(InputError, match="no images in class folders"):
        listed(tmp_path, only="val")
    with pytest.raises(OptionError, match="no split 'test'; choose from train, val"):
        listed(tmp_path, only="test")
    touch(tmp_path, "train/c.jpg", "val/c.jpg")
    (tmp_path / "list.txt").write_text("c.jpg 0\n")
    with pytest.raises(
        InputError, match="list.txt:1: .* belongs to no split; begin .* train/ or val/"
    ):
        listed(tmp_path, tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("")
    with pytest.raises(InputError, match="the list is empty"):
        listed(tmp_path, tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("train/a.jpg 0\n")
    samples = list_images(tmp_path, tmp_path / "list.txt").splits()
    assert list(samples) == ["train"]
    assert f"{tmp_path}/val: skipped, because no class folder" in samples["train"].notes[0]


def test_a_huge_label_takes_no_memory(tmp_path):
    touch(tmp_path, "a.jpg")
    (tmp_path / "list.txt").write_text("a.jpg 99999999999999999999\n")
    samples = list_images(tmp_path, tmp_path / "list.txt")
    assert list(samples.classes) == []
    assert "is not one of the 0 classes" in samples.splits()["train"].problems[0]


def test_reads_what_the_kernel_makes(tmp_path):
    source = ImageNet(root=make_images(tmp_path), odg=SMALL)
    assert source.sample_format.packed_shape == SMALL.frames_shape
    for samples in source.splits().values():
        for index in range(len(samples)):
            out, expected = np.full((2, *SMALL.frames_shape), 9, np.uint8)
            ones = source.read(samples.row(index), out)
            assert ones == image_frames(read_picture(samples.paths[index]), SMALL, expected) > 20
            np.testing.assert_array_equal(out, expected)


def test_errors_name_the_file(tmp_path):
    source = ImageNet(root=make_images(tmp_path, train=2, val=0), odg=OdgSettings())
    samples = source.splits()["train"]
    out = np.empty(source.sample_format.packed_shape, np.uint8)
    Image.new("RGB", (100, 80)).save(samples.paths[0], "JPEG")
    with pytest.raises(LeftOutError, match=f"{samples.paths[0]}: .* fewer than the 1000"):
        source.read(samples.row(0), out)
    with pytest.raises(LeftOutError, match=f"{samples.paths[0]}: .* fewer than the 1000"):
        source.events(samples.paths[0])
    Image.fromarray(picture(np.random.default_rng(0), 2, 1000)).save(samples.paths[1], "JPEG")
    with pytest.raises(InputError, match=f"{samples.paths[1]}: .* too narrow"):
        source.read(samples.row(1), out)


def test_a_trace_is_read_from_text():
    trace = parameters_of(OdgSettings())["trace"]
    assert from_options(OdgSettings, {"trace": trace}).trace == PUBLISHED_TRACE
    assert from_options(OdgSettings, {"trace": " 0,0  1,12 "}).trace == ((0, 0), (1, 12))
    for text in ("", "1", "1,2,3", "a,b", "1,2;3,4", "-1,0 0,0", f"{'9' * 5000},0"):
        with pytest.raises(OptionError, match="not placements row,column such as '1,0"):
            from_options(OdgSettings, {"trace": text})
