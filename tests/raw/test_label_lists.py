"""Lists of labels of ImageNet's validation set, in each form that people have."""

import shutil

import numpy as np
import pytest

import eventdata
from eventdata.conversion import convert
from eventdata.errors import InputError
from tests.makers import contents, make_images, tar

WNIDS = ("n01440764", "n02119789")  # numbers 2 and 1 of the devkit below
KAGGLE = "ImageId,PredictionString\n"


@pytest.fixture
def download(tmp_path):
    """Return ImageNet as it is downloaded, with three images in val and two in test."""
    raw, out = make_images(tmp_path / "raw", val=5), tmp_path / "download"
    out.mkdir()
    classes = {
        f"{path.name}.tar": tar(out / "inner", contents(path)).read_bytes()
        for path in (raw / "train").iterdir()
    }
    (out / "inner").unlink()
    tar(out / "ILSVRC2012_img_train.tar", classes)
    images = [*contents(raw / "val").values()]
    val = {f"ILSVRC2012_val_{n:08d}.JPEG": image for n, image in enumerate(images[:3], 1)}
    tar(out / "ILSVRC2012_img_val.tar", val)
    test = {f"test/ILSVRC2012_test_{n:08d}.JPEG": image for n, image in enumerate(images[3:], 1)}
    tar(out / "ILSVRC2012_img_test_v10102019.tar", test)
    (out / "ILSVRC2012_devkit_t12.tar.gz").touch()
    return out


def labels(download, path, out):
    """Convert and return the classes of the images of val, in their order."""
    result = convert("images", download, out, list=path, crop=20, limit=3)
    assert result.samples == {"train": 3, "val": 3}
    ds = eventdata.FrameDataset(out, "val")
    order = np.argsort(np.array(ds.names))
    return [ds.classes[ds.labels[i]] for i in order]


@pytest.mark.parametrize(
    "text",
    [
        "".join(
            f"ILSVRC2012_val_0000000{n}.JPEG {label}\n" for n, label in ((3, 0), (1, 1), (2, 0))
        ),
        "".join(f"val/ILSVRC2012_val_0000000{n}.JPEG {WNIDS[n == 1]}\n" for n in (1, 2, 3)),
        f"{KAGGLE}ILSVRC2012_val_00000002,{WNIDS[0]} 1 2 3 4 {WNIDS[0]} 5 6 7 8 \n"
        f"ILSVRC2012_val_00000001,{WNIDS[1]} 1 2 3 4 \n"
        f"ILSVRC2012_val_00000003,{WNIDS[0]} 1 2 3 4 \n",
        f"{WNIDS[1]}\n{WNIDS[0]}\n{WNIDS[0]}\n",
        "1\n2\n2\n",
    ],
    ids=["caffe", "names", "kaggle", "synsets", "devkit"],
)
def test_lists_of_labels(download, tmp_path, text):
    if text[0] == "1":
        savemat = pytest.importorskip("scipy.io").savemat
        kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O")]
        synsets = np.array([(1, WNIDS[1], "kit fox"), (2, WNIDS[0], "tench")], kinds)
        savemat(tmp_path / "meta.mat", {"synsets": synsets[:, None]})
    (tmp_path / "list.txt").write_text(text)
    found = labels(download, tmp_path / "list.txt", tmp_path / "out")
    assert found == [WNIDS[1], WNIDS[0], WNIDS[0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n2\n2\n", "only its meta.mat explains; put meta.mat next to it"),
        (
            "".join(f"ILSVRC2012_val_0000000{n}.JPEG {n - n // 3}\n" for n in (1, 2, 3)),
            "from 1 to 2",
        ),
        (
            f"{KAGGLE}ILSVRC2012_val_00000001,{WNIDS[0]} 1 2 3 4 {WNIDS[1]} 5 6 7 8\n",
            "2 classes, not one",
        ),
        ("a.JPEG 0\n", "belongs to no split"),
        ("", "the list is empty"),
    ],
)
def test_lists_that_are_not_clear_are_refused(download, tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        labels(download, tmp_path / "list.txt", tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "labels"), [("012", [0, 1, 2]), ("123", [0, 1, 2]), ("113", [0, 0, 2]), ("121", None)]
)
def test_numbers_are_names_of_classes_or_indices_but_not_both(tmp_path, words, labels):
    """The classes are called 1, 2 and 3; a list with 0 has indices, one with 3 has names."""
    raw = make_images(tmp_path / "raw", val=3)
    for number, folder in enumerate(sorted((raw / "train").iterdir()), 1):
        folder.rename(raw / "train" / str(number))
    shutil.copytree(raw / "train/2", raw / "train/3")
    images = [*contents(raw / "val").values()]
    shutil.rmtree(raw / "val")
    (raw / "val").mkdir()
    for number, image in enumerate(images):
        (raw / f"val/{number}.JPEG").write_bytes(image)
    lines = [f"val/{number}.JPEG {word}\n" for number, word in enumerate(words)]
    (tmp_path / "list.txt").write_text("".join(lines))
    options = {"list": tmp_path / "list.txt", "crop": 20}
    if labels is None:
        with pytest.raises(InputError, match="can be these names or indices from 0"):
            convert("images", raw, tmp_path / "out", **options)
        return
    convert("images", raw, tmp_path / "out", **options)
    ds = eventdata.FrameDataset(tmp_path / "out", "val")
    assert [ds.classes[label] for label in ds.labels] == [str(label + 1) for label in labels]


def test_numbers_that_are_names_and_indices_of_all_classes_are_names(tmp_path):
    """The name 10 comes before 2, so that their indices are others."""
    raw = tmp_path / "raw"
    for number in range(12):
        make_images(tmp_path / "one", train=1)
        folder = next(iter((tmp_path / "one/train").iterdir()))
        shutil.copytree(folder, raw / "train" / str(number))
    shutil.copytree(folder, raw / "val")
    (image,) = (raw / "val").iterdir()
    (tmp_path / "list.txt").write_text(f"val/{image.name} 10\n")
    convert("images", raw, tmp_path / "out", list=tmp_path / "list.txt", crop=20)
    ds = eventdata.FrameDataset(tmp_path / "out", "val")
    assert ds.classes[ds.labels[0]] == "10"


def test_labels_without_names_need_names_that_count(tmp_path):
    make_images(tmp_path / "raw")
    (tmp_path / "list.txt").write_text(f"{WNIDS[0]}\n")
    with pytest.raises(InputError, match="labels without names of images, which only those called"):
        convert("images", tmp_path / "raw", tmp_path / "out", list=tmp_path / "list.txt", crop=20)


def test_a_folder_in_an_archive_is_an_input(tmp_path):
    raw = make_images(tmp_path / "raw")
    path = tar(tmp_path / "a.tar", {f"x/y/{name}": data for name, data in contents(raw).items()})
    result = convert("images", path / "x" / "y", tmp_path / "out", crop=20)
    assert result.samples == {"train": 4, "val": 2}
    with pytest.raises(InputError, match="no such folder"):
        convert("images", path / "z", tmp_path / "out", crop=20)
