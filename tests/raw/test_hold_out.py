"""A share of each class becomes a split, and samples of one recording stay on one side."""

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import eventdata
from eventdata.cli import main
from eventdata.conversion import convert
from eventdata.errors import MismatchError, OptionError
from eventdata.jobs.job import Task
from eventdata.raw.hold_out import HoldOut, group_keys, hold_out, natural_order
from eventdata.raw.source import Samples
from tests.makers import tree_digest, write_npz

OPTIONS = {"frames": 2, "sensor_size": "16x12", "time_unit": "us"}
SHARES = st.floats(0.01, 0.99)


@st.composite
def recordings(draw):
    """Return the recording and the class of each sample; some recordings have several classes."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=40))
    classes = draw(st.lists(st.sampled_from("abc"), min_size=len(sizes), max_size=len(sizes)))
    mixed = draw(st.booleans())
    keys, labels = [], []
    for number, (size, label) in enumerate(zip(sizes, classes, strict=True)):
        keys += [f"r{number}"] * size
        labels += [draw(st.sampled_from("abc")) if mixed else label for _ in range(size)]
    order = draw(st.permutations(range(len(keys))))
    return [keys[i] for i in order], [labels[i] for i in order]


@given(recordings(), SHARES, st.integers(0, 5) | st.sampled_from(["first", "last"]))
def test_each_class_gives_its_share_and_keeps_a_recording(found, share, seed):
    keys, labels = found
    chosen = hold_out(keys, labels, share, seed)
    held = np.isin(keys, sorted(chosen))
    owners = {key: {b for a, b in zip(keys, labels, strict=True) if a == key} for key in keys}
    is_mixed = any(len(one) > 1 for one in owners.values())
    for label in set(labels):
        mine = np.array(labels) == label
        total, taken = int(mine.sum()), int((held & mine).sum())
        sizes = Counter(np.array(keys)[mine].tolist())
        ordered = isinstance(seed, str)
        wanted = total - math.ceil(total * (1 - share)) if ordered else round(share * total)
        wanted = max(1, wanted)
        assert set(sizes) - chosen
        if not is_mixed:
            assert bool(taken) == (len(sizes) > 1)
            assert taken < wanted + max(sizes.values())
            assert taken >= wanted or len(set(sizes) - chosen) == 1
    again = np.random.default_rng(0).permutation(len(keys))
    if not is_mixed:
        shuffled = [keys[i] for i in again], [labels[i] for i in again]
        assert hold_out(*shuffled, share, seed) == chosen


@given(st.integers(2, 400), st.sampled_from([0.1, 0.2, 0.25, 0.5, 0.05]))
def test_the_last_samples_are_those_that_spikingjelly_tests_on(count, share):
    """SpikingJelly trains on the first ceil(n * ratio) samples of each class, sorted as text."""
    names = [f"cifar10_{label}_{i}" for label in ("a", "b") for i in range(count)]
    labels = [name[8] for name in names]
    expected = {"last": set(), "last-by-text": set()}
    for label in ("a", "b"):
        mine = [name for name in names if name[8] == label]
        ends = {"last": mine, "last-by-text": sorted(mine)}
        for seed, ordered in ends.items():
            start = min(math.ceil(count * (1 - share)), count - 1)  # at least one is held out
            expected[seed] |= set(ordered[start:])
    for seed, held in expected.items():
        assert hold_out(names, labels, share, seed) == held
    first = hold_out(names, labels, share, "first")
    assert {int(name.rpartition("_")[2]) for name in first} == set(range(len(first) // 2))


@given(st.lists(st.integers(0, 10**30), unique=True), st.text("ab-_0.", max_size=3))
def test_numbers_in_names_count_as_numbers(numbers, text):
    names = [f"{text}/x{number}.npz" for number in numbers]
    assert sorted(names, key=natural_order) == [f"{text}/x{n}.npz" for n in sorted(numbers)]


def test_pieces_and_groups_have_one_key():
    names = ["a/1.npz#0", "a/1.npz#11", "b/1.npz", "v_Bowl_g02_c01.avi", "x/v_Bowl_g02_c03/1.jpg"]
    assert group_keys(names) == ["a/1.npz", "a/1.npz", "b/1.npz", "v_Bowl_g02", "v_Bowl_g02"]


def write_recordings(root: Path, *, count=12, length=400) -> Path:
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        for number in range(count):
            t = np.arange(0, length, 4)
            x, y, p = (rng.integers(0, most, len(t)) for most in (16, 12, 2))
            write_npz(root / label / f"{number}.npz", x=x, y=y, t=t, p=p)
    return root


def names_of(out: Path) -> dict[str, list[str]]:
    splits = eventdata.open_store(out).splits
    return {name: split.sample_names.tolist() for name, split in splits.items()}


def test_a_store_is_divided_by_class(tmp_path):
    raw = write_recordings(tmp_path / "raw")
    whole, out = tmp_path / "whole.zarr", tmp_path / "out.zarr"
    convert("recordings", raw, whole, **OPTIONS)
    result = convert("recordings", raw, out, hold_out=0.25, **OPTIONS)
    assert (result.samples, result.notes) == ({"train": 18, "test": 6}, [])
    names = names_of(out)
    assert sorted(names["train"] + names["test"]) == sorted(names_of(whole)["all"])
    test = eventdata.FrameDataset(out, "test")
    assert Counter(test.labels.tolist()) == {0: 3, 1: 3}
    assert test.classes == ["cat", "dog"]
    parameters = test.attrs["parameters"]
    assert [parameters[f"hold_out{key}"] for key in ("", "_split", "_seed")] == [0.25, "test", 0]
    everything = eventdata.FrameDataset(whole, "all")
    place = {name: i for i, name in enumerate(everything.names)}
    for split in ("train", "test"):
        part = eventdata.FrameDataset(out, split)
        for (frames, label), name in zip(part, part.names, strict=True):
            expected, other = everything[place[name]]
            assert label == other
            np.testing.assert_array_equal(frames, expected)
    assert eventdata.verify(out, against=raw, samples=None).compared == 24
    assert eventdata.verify(out, against=raw, samples=None).ok
    with pytest.raises(MismatchError, match=r"hold_out_seed is 0 in the store, 'last' in this"):
        convert("recordings", raw, out, hold_out=0.25, hold_out_seed="last", **OPTIONS)
    with pytest.raises(MismatchError, match="hold_out"):
        convert("recordings", raw, out, **OPTIONS)


def test_workers_and_interruptions_do_not_change_it(tmp_path, monkeypatch):
    raw = write_recordings(tmp_path / "raw")
    options = {**OPTIONS, "hold_out": 0.3, "hold_out_split": "val", "shard_size": 4}
    one, two = tmp_path / "one.zarr", tmp_path / "two.zarr"
    convert("recordings", raw, one, **options)
    real, calls = Task.run, []

    def stop_at_the_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(Task, "run", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        convert("recordings", raw, two, **options)
    monkeypatch.undo()
    assert convert("recordings", raw, two, workers=2, **options).done_before == 8
    assert tree_digest(one) == tree_digest(two)


def test_pieces_of_a_recording_stay_together(tmp_path):
    raw, out = write_recordings(tmp_path / "raw", count=5), tmp_path / "out.zarr"
    convert("recordings", raw, out, every=100, hold_out=0.3, hold_out_seed="last", **OPTIONS)
    names = names_of(out)
    assert names["test"] == [
        f"{a}/{b}.npz#{i}" for a in ("cat", "dog") for b in (3, 4) for i in range(3)
    ]
    assert not set(group_keys(names["train"])) & set(group_keys(names["test"]))


def test_a_validation_set_is_held_out_of_the_training_set(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out.zarr"
    write_recordings(raw / "train")
    write_recordings(raw / "test", count=2, length=80)
    with pytest.raises(OptionError, match="has a split test already; omit --hold-out, or choose"):
        convert("recordings", raw, out, hold_out=0.5, **OPTIONS)
    result = convert("recordings", raw, out, hold_out=0.5, hold_out_split="val", **OPTIONS)
    assert list(result.samples.items()) == [("train", 12), ("val", 12), ("test", 4)]
    result = eventdata.verify(out, against=raw, samples=None)
    assert (result.problems, result.compared) == ([], 28)
    with pytest.raises(OptionError, match="the source has test"):
        convert("recordings", raw, out, hold_out=0.5, split="test", hold_out_split="val", **OPTIONS)


def test_images_are_divided_too(tmp_path):
    for label in ("a", "b"):
        (tmp_path / "raw" / label).mkdir(parents=True)
        for number in range(4):
            pixels = np.full((40, 40, 3), 50 * number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "raw" / label / f"{number}.png")
    out = tmp_path / "out.zarr"
    result = convert("images", tmp_path / "raw", out, hold_out=0.25, short_side=32, crop=32)
    assert result.samples == {"train": 6, "test": 2}
    assert any("it is one split, train" in note for note in result.notes)


def test_classes_with_one_recording_are_reported(tmp_path):
    raw = write_recordings(tmp_path / "raw", count=3)
    for number in (1, 2):
        (raw / "cat" / f"{number}.npz").unlink()
    result = convert("recordings", raw, tmp_path / "out.zarr", hold_out=0.3, **OPTIONS)
    assert result.samples == {"train": 3, "test": 1}
    assert result.notes == ["nothing is held out for test of classes with only one recording: cat"]
    for number in (1, 2):
        (raw / "dog" / f"{number}.npz").unlink()
    with pytest.raises(OptionError, match="no class with two recordings"):
        convert("recordings", raw, tmp_path / "no.zarr", hold_out=0.3, **OPTIONS)


def test_uneven_recordings_are_reported():
    names = [*(f"a/1.npz#{i}" for i in range(50)), "a/2.npz#0", "a/3.npz#0"]
    samples = Samples(names, np.zeros(52, np.int32), [""] * 52, np.empty((52, 0), np.int64))
    parts = HoldOut(share=0.1, seed="first").divide({"all": samples}, ["a"])
    assert parts["train"].notes == [
        "more than twice --hold-out is held out, because recordings stay whole: a 50 of 52"
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hold_out": 0}, "hold_out is 0.0: choose more than 0 and less than 1"),
        ({"hold_out": 1}, "choose more than 0"),
        ({"hold_out": "x"}, "hold_out is 'x', not a number"),
        ({"hold_out": 0.1, "hold_out_seed": "lst"}, "not a whole number or first, last, first-by"),
        ({"hold_out": 0.1, "hold_out_seed": -1}, "choose at least 0"),
        ({"hold_out": 0.1, "hold_out_split": "train"}, "choose a name such as test or val"),
        ({"hold_out": 0.1, "hold_out_split": "../x"}, "choose a name such as test or val"),
        ({"hold_out_seed": 3}, "only valid with hold_out; pass --hold-out SHARE"),
    ],
)
def test_invalid_settings_are_refused(tmp_path, options, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        convert("recordings", tmp_path, tmp_path / "out.zarr", **OPTIONS, **options)


def test_the_command_takes_it(tmp_path):
    raw, out = write_recordings(tmp_path / "raw"), tmp_path / "out.zarr"
    words = (
        f"convert recordings {raw} {out} --frames 2 --sensor-size 16x12 --time-unit us --workers 1"
    )
    words += " --hold-out 0.25 --hold-out-split val --hold-out-seed first"
    result = CliRunner().invoke(main, words.split())
    assert result.exit_code == 0, result.output
    assert names_of(out)["val"] == [f"{a}/{b}.npz" for a in ("cat", "dog") for b in range(3)]


def test_cifar10_dvs_is_divided_as_in_the_literature(shared, tmp_path):
    pytest.importorskip("aedat")
    for label in ("bird", "cat"):
        folder = tmp_path / "CIFAR10DVS" / label
        folder.mkdir(parents=True)
        for number in range(11):
            path = folder / f"cifar10_{label}_{number}.aedat4"
            path.symlink_to(shared / "recordings" / "sample.aedat4")
    out = tmp_path / "out.zarr"
    given = {"frames": 2, "sensor_size": "346x260", "overwrite": True, "hold_out": 0.2}
    for seed, numbers in {"last": (9, 10), "last-by-text": (8, 9), "first": (0, 1)}.items():
        result = convert("tonic:CIFAR10DVS", tmp_path, out, hold_out_seed=seed, **given)
        assert result.samples == {"train": 18, "test": 4}
        stems = {Path(name).stem for name in names_of(out)["test"]}
        assert stems == {f"cifar10_{label}_{n}" for label in ("bird", "cat") for n in numbers}
    assert eventdata.verify(out, against=tmp_path, samples=None).ok
