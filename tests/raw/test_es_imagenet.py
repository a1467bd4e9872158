"""Manifests and files of ES-ImageNet are read, and each fault has its own error."""

import numpy as np
import pytest

from eventdata.errors import InputError, OptionError
from eventdata.raw.es_imagenet import EsImageNet
from tests.makers import events_between, make_es_imagenet, published_es_imagenet_frames, write_npz


def read(source, split="train", index=0):
    samples = source.splits()[split]
    out = np.full(source.sample_format.packed_shape, 255, np.uint8)
    ones = source.read(samples.row(index), out)
    frames = np.unpackbits(np.moveaxis(out, -1, 1), axis=0)
    return frames, ones


def test_frames_are_those_of_the_published_loader(tmp_path):
    source = EsImageNet(make_es_imagenet(tmp_path))
    for split, samples in source.splits().items():
        for index in range(len(samples)):
            row = samples.row(index)
            frames, ones = read(source, split, index)
            expected = published_es_imagenet_frames(tmp_path / split / row.name, *row.details)
            np.testing.assert_array_equal(frames, expected)
            assert ones == expected.sum()


def test_one_split_may_be_missing(tmp_path):
    make_es_imagenet(tmp_path, train=0)
    assert list(EsImageNet(tmp_path).splits()) == ["val"]
    with pytest.raises(InputError, match="no trainlabel.txt"):
        EsImageNet(tmp_path, only="train").splits()
    with pytest.raises(OptionError, match="no split 'test'; choose from train, val"):
        EsImageNet(tmp_path, only="test").splits()


def test_line_ends_do_not_matter(tmp_path):
    make_es_imagenet(tmp_path, val=0)
    manifest = tmp_path / "trainlabel.txt"
    plain = EsImageNet(tmp_path).splits()["train"]
    text = manifest.read_text()
    for variant in (text.replace("\n", "\r\n"), text.rstrip("\n"), text + "\n\n", "\ufeff" + text):
        manifest.write_bytes(variant.encode())
        samples = EsImageNet(tmp_path).splits()["train"]
        assert samples.names == plain.names
        assert samples.labels.tolist() == plain.labels.tolist()
        assert not samples.problems


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("class1/a.npz 1 254", "3 fields, not 4"),
        ("", "0 fields, not 4"),
        ("class1/a.npz 1 254 254 7", "5 fields, not 4"),
        ("class1/a.npz cat 254 254", "whole numbers"),
        ("class1/a.npz 1_0 254 254", "whole numbers"),
        ("class1/a.npz 9999999999999999999 254 254", "unknown label"),
        ("class1/a.npz 1000 254 254", "unknown label 1000"),
        ("class1/a.npz -1 254 254", "unknown label -1"),
        ("class1/a.npz -0 254 254", "unknown label -0"),
        ("class1/a.npz 00000000001000 254 254", "unknown label 00000000001000"),
        ("class1/a.npz 1 00000000000255 254", "image size 00000000000255x254"),
        ("class1/a.npz 1 254 -1", "image size 254x-1"),
        ("class1/a.npz 1 255 254", "image size 255x254"),
        ("class1/a.npz 1 0 254", "image size 0x254"),
        ("../outside.npz 1 254 254", "leaves the folder"),
        ("class1/../../outside.npz 1 254 254", "leaves the folder"),
        ("/etc/passwd 1 254 254", "leaves the folder"),
        ("FIRST 1 254 254", "listed twice"),
        ("./FIRST 1 254 254", "listed twice"),
        ("class1/none.npz 1 254 254", "is missing"),
    ],
)
def test_a_bad_manifest_line_is_a_problem_of_its_sample(tmp_path, line, says):
    make_es_imagenet(tmp_path, val=0)
    manifest = tmp_path / "trainlabel.txt"
    lines = manifest.read_text().splitlines()
    lines.insert(3, line.replace("FIRST", lines[0].split()[0]))
    manifest.write_text("\n".join(lines))
    samples = EsImageNet(tmp_path).splits()["train"]
    samples.inspect_files()
    assert list(samples.problems) == [3]
    assert says in samples.problems[3]
    assert "is missing" in says or "trainlabel.txt:4" in samples.problems[3]
    assert len(samples) == 13


@pytest.mark.parametrize("digits", [1, 9, 10, 5000])
def test_numbers_may_begin_with_zeros(tmp_path, digits):
    make_es_imagenet(tmp_path, val=0)
    manifest = tmp_path / "trainlabel.txt"
    name = manifest.read_text().split()[0]
    numbers = [str(value).zfill(digits) for value in (5, 190, 254)]
    manifest.write_text(" ".join([name, *numbers]))
    samples = EsImageNet(tmp_path).splits()["train"]
    assert not samples.problems
    assert samples.row(0)[1:] == (5, str(tmp_path / "train" / name), (190, 254))


def test_files_that_are_not_manifests_are_refused(tmp_path):
    make_es_imagenet(tmp_path, val=0)
    for content, says in ((b"", "empty"), (b"\n\n", "empty"), (b"\xff\xfe\x00\x01", "not a text")):
        (tmp_path / "trainlabel.txt").write_bytes(content)
        with pytest.raises(InputError, match=says):
            EsImageNet(tmp_path).splits()
    with pytest.raises(InputError, match="no trainlabel.txt or vallabel.txt"):
        EsImageNet(tmp_path / "train").splits()


good = events_between(np.random.default_rng(0), 50, 191, 254)


def with_event(*event):
    return np.concatenate([good, np.array([event], np.uint8)])


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"pos": good, "neg": with_event(20, 20, 0)}, "a step outside 1 to 8"),
        ({"pos": with_event(20, 20, 9), "neg": good}, "event 50 of 'pos'.*step 9"),
        ({"pos": with_event(240, 20, 1), "neg": good}, "coordinates off the canvas"),
        ({"pos": good.T.copy(), "neg": good}, r"shape \(3, 50\), not \(n, 3\)"),
        ({"pos": good.reshape(-1), "neg": good}, r"shape \(150,\)"),
        ({"pos": good}, "no array 'neg'"),
        ({"pos": good.astype(float), "neg": good}, "float64, not uint8"),
        ({"pos": good[:0], "neg": good[:0]}, "no events"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, arrays, says):
    make_es_imagenet(tmp_path, val=0)
    source = EsImageNet(tmp_path)
    row = source.splits()["train"].row(0)
    write_npz(tmp_path / "train" / row.name, **arrays)
    with pytest.raises(InputError, match=says) as caught:
        read(source)
    assert row.path in str(caught.value)


def test_one_polarity_may_be_empty(tmp_path):
    make_es_imagenet(tmp_path, val=0)
    source = EsImageNet(tmp_path)
    row = source.splits()["train"].row(0)
    write_npz(tmp_path / "train" / row.name, pos=good[:0], neg=good)
    frames, ones = read(source)
    assert ones == frames[:, 1].sum() > 0
    assert frames[:, 0].sum() == 0
