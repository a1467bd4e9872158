"""Stores that no one has prepared for training: one split, few samples, uneven classes."""

import re
from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional

import eventdata
from eventdata.errors import InputError, MismatchError, OptionError
from tests.drawn import TINY_RECIPE, Drawn, make_store
from train.augment import Augmentation
from train.data import Epoch, balance, open_data
from train.recipe import load
from train.runs.folder import read_rows
from train.runs.module import Classifier, balanced_accuracy
from train.runs.run import run
from train.settings import Stage

RECIPE = TINY_RECIPE + "[stages.lif]\nbatch_size = 8\nlearning_rate = 0.05\n"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    return str(path)


@pytest.fixture(scope="module")
def one_split(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "all.zarr", counts=(("all", 60),))


class Uneven(Drawn):
    """Nine samples in ten are of class c0, and c2 has none."""

    def splits(self):
        listing = super().splits()
        for samples in listing.values():
            samples.labels = (np.arange(len(samples)) % 10 == 0).astype(np.int32)
        return listing


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "uneven.zarr"
    eventdata.convert(Uneven(), "", path)
    return str(path)


@pytest.mark.parametrize("split", ["all", "train", "test"])
def test_one_split_is_divided_by_class(tmp_path, split):
    store = make_store(tmp_path / "s", counts=((split, 60),))
    data = open_data(store, share=0.25, test_share=0.2, seed=0)
    assert data.counts == {"train": 36, "select": 12, "test": 12}
    for part, count in ((data.train, 12), (data.select, 4), (data.test, 4)):
        assert np.bincount(part.labels).tolist() == [count] * 3
    names = [*data.train.names, *data.select.names, *data.test.names]
    assert len(set(names)) == 60
    assert data.drawn == ("test", "select")
    assert data.notes == ("has no split test, so 20% of each class are drawn for it",)
    again = open_data(store, share=0.25, test_share=0.2, seed=0)
    other = open_data(store, share=0.25, test_share=0.2, seed=1)
    assert again.test.names == data.test.names != other.test.names


def test_a_store_with_a_test_split_is_not_divided_for_the_test(events):
    data = open_data(events, share=0.2, test_share=0.2, seed=0)
    assert data.counts == {"train": 48, "select": 12, "test": 24}
    assert data.drawn == ("select",)
    assert data.notes == ()


@pytest.mark.parametrize("names", ["v_Jump_g{:02}_c01", "day/rec{:02}.aedat4#1", "a{:02}/b.dat#2"])
def test_samples_of_one_recording_stay_together(tmp_path, names):
    """Every recording, or group, has four samples that are three apart, so of one class."""

    class Cut(Drawn):
        def splits(self):
            listing = super().splits()
            for samples in listing.values():
                samples.names = [
                    re.sub(
                        r"\d$", str(number // 3 % 4), names.format(number // 12 * 3 + number % 3)
                    )
                    for number in range(len(samples))
                ]
            return listing

    eventdata.convert(Cut(counts=(("all", 72),)), "", tmp_path / "s")
    data = open_data(str(tmp_path / "s"), share=0.2, test_share=0.2, seed=0)
    recordings = [
        {re.sub(r"\d$", "", name) for name in part.names}
        for part in (data.train, data.select, data.test)
    ]
    assert all(recordings)
    assert sum(map(len, recordings)) == len(set().union(*recordings)) == 18
    assert len(data.notes) == 1


def test_pieces_of_too_few_recordings_are_divided_with_a_note(tmp_path):
    store = make_store(tmp_path / "s", counts=(("all", 60),), names="film.dat#{}")
    data = open_data(store, share=0.2, test_share=0.2, seed=0)
    assert min(data.counts.values()) > 0
    assert "pieces of one recording are in several parts" in data.notes[1]


def test_missing_classes_are_noted(uneven):
    data = open_data(uneven, share=0.2, test_share=0.2, seed=0)
    assert data.notes == ("has no samples of c2",)


def test_classes_missing_in_a_part_are_noted(tmp_path):
    store = make_store(tmp_path / "s", counts=(("train", 60), ("test", 2)))
    data = open_data(store, share=0.2, test_share=0.2, seed=0)
    assert data.notes == ("has no samples to test on of c2",)


def test_too_few_samples_raise_an_error_with_the_number_needed(tmp_path):
    store = make_store(tmp_path / "s", counts=(("all", 6),))
    with pytest.raises(InputError, match="too few samples .* convert at least 3 of a class"):
        open_data(store, share=0.2, test_share=0.2, seed=0)


def test_a_drawn_test_set_is_not_pretrained_on(tmp_path, one_split):
    later = open_data(one_split, share=0.2, test_share=0.2, seed=0)
    pictures = make_store(tmp_path / "i", kind="image", channels=3, counts=(("all", 60),))
    data = open_data(pictures, share=0.2, seed=0, later=later)
    assert data.test is None
    assert not {*data.train.names} & {*later.test.names, *later.select.names}


def test_one_split_is_trained_on_and_tested(tmp_path, recipe, one_split):
    said: list[str] = []
    result = run(load(recipe), tmp_path / "run", data=one_split, say=said.append)
    assert result["parts"] == {"train": 39, "select": 9, "test": 12}
    assert result["test"]["samples"] == 12
    assert result["drawn"] == ["test", "select"]
    assert result["held_out"] == [0.2, 0, 0.2]
    assert said[0] == f"note: {one_split} {result['notes'][0]}"
    assert said[1] == "lif: augmentation: none"
    parts = "39 samples to train on, 9 to select models by (drawn), 12 to test on (drawn)"
    assert said[2] == f"lif: {parts}"
    config = load(str(tmp_path / "run/config.toml"))
    assert (config.run.test_share, config.run.split_seed) == (0.2, 0)


def test_the_error_of_a_large_batch_names_one_that_fits(tmp_path, recipe, one_split):
    with pytest.raises(OptionError, match=r"pass --set all\.batch_size=8, or for") as error:
        run(load(recipe, changes=["lif.batch_size=64"]), tmp_path / "run", data=one_split)
    change = re.search(r"--set (\S+),", str(error.value))[1]
    run(load(recipe, changes=[change]), tmp_path / "run", data=one_split)


def test_balanced_epochs_have_equally_many_of_each_class(uneven):
    part = open_data(uneven, share=0.2, seed=0).train
    assert np.bincount(part.labels).tolist()[0] > 5 * np.bincount(part.labels).tolist()[1]
    even = balance(part, 0, 0)
    assert sorted(np.bincount(even.labels).tolist()) == [len(part) // 2, len(part) - len(part) // 2]
    rare = Counter(name for name, label in zip(even.names, even.labels, strict=True) if label == 1)
    assert max(rare.values()) - min(rare.values()) <= 1
    assert balance(part, 0, 0).names == even.names != balance(part, 0, 1).names
    epoch = Epoch(part=part, batch_size=8, shuffle_by=(0, 0), balanced=True)
    labels = torch.cat([labels for _, labels in epoch])
    assert len(labels) == len(part) // 8 * 8
    assert abs(labels.float().mean() - 0.5) < 0.2
    plain = Epoch(part=part, batch_size=8, balanced=True)  # evaluation
    assert torch.equal(torch.cat([labels for _, labels in plain]), torch.tensor(part.labels))


def test_class_weights_count_in_the_loss(monkeypatch, tmp_path, recipe, uneven):
    made = []
    real = Classifier.__init__
    monkeypatch.setattr(
        Classifier, "__init__", lambda self, *a, **k: (made.append(self), real(self, *a, **k))[1]
    )
    changes = ["lif.class_weights=balanced", "lif.sampling=balanced"]
    result = run(load(recipe, changes=changes), tmp_path / "run", data=uneven)
    labels = open_data(uneven, share=0.2, seed=0).train.labels
    weights, counts = made[0].class_weights, np.bincount(labels, minlength=3)
    assert weights[2] == 0
    assert (weights[:2] * torch.tensor(counts[:2])).tolist() == pytest.approx(
        [counts.sum() / 2] * 2
    )
    logits, labels = torch.randn(4, 3), torch.tensor([0, 0, 1, 0])
    monkeypatch.setattr(made[0], "forward", lambda _: logits)
    made[0].log_every = 9
    monkeypatch.setattr(Classifier, "current_epoch", 0)
    monkeypatch.setattr(Classifier, "global_rank", 0)
    loss = made[0].training_step((torch.zeros(4, 4, 2, 16, 16), labels), 1)
    assert loss == pytest.approx(functional.cross_entropy(logits, labels, weights).item())
    assert 0 <= result["test"]["balanced"] <= 1


def test_balanced_accuracy_counts_classes_equally(tmp_path, monkeypatch, recipe, uneven):
    samples, hits = torch.tensor([9.0, 1.0, 0.0]), torch.tensor([9.0, 0.0, 0.0])
    assert balanced_accuracy(samples, hits) == 0.5
    monkeypatch.setattr(
        Classifier,
        "forward",
        lambda _, x: torch.tensor([1.0, 0, 0], requires_grad=True).repeat(len(x), 1),
    )
    said: list[str] = []
    result = run(load(recipe), tmp_path / "run", data=uneven, say=said.append)
    assert result["test"]["top1"] == 21 / 24
    assert result["test"]["balanced"] == 0.5
    assert "note: lif takes all held-out samples for the same class" in said
    assert "note: the network takes all test samples for the same class" in said
    assert read_rows(tmp_path / "run/lif/epochs.csv")[0]["balanced"] == 0.5


def test_top_5_needs_six_classes(tmp_path, recipe):
    store = make_store(tmp_path / "s", n_classes=6)
    result = run(load(recipe), tmp_path / "run", data=store)
    assert result["test"]["top1"] <= result["test"]["top5"] <= 1


def test_a_finished_run_continues_with_more_epochs(tmp_path, recipe, events):
    """A constant rate, so the weights are those of one longer run."""
    said: list[str] = []
    long = load(recipe, changes=["lif.epochs=3"])
    run(load(recipe), tmp_path / "run", data=events)
    result = run(long, tmp_path / "run", data=events, say=said.append)
    assert "lif: resumes with 3 epochs" in said
    assert [row["epoch"] for row in read_rows(tmp_path / "run/lif/epochs.csv")] == [0, 1, 2, 3]
    whole = run(long, tmp_path / "whole", data=events)
    assert result["test"] == whole["test"]
    assert run(long, tmp_path / "run", data=events, say=said.append) == result
    assert said[-1].endswith("has finished already")
    with pytest.raises(MismatchError, match=r"lif\.epochs is 3 there and 2 here"):
        run(load(recipe, changes=["lif.epochs=2"]), tmp_path / "run", data=events)


def test_a_relu_that_has_sharpened_does_not_continue(tmp_path, recipe, events):
    changes = ["lif.neuron.kind=ann", "lif.neuron.activation=sharpened_relu"]
    run(load(recipe, changes=changes), tmp_path / "run", data=events)
    with pytest.raises(MismatchError, match=r"lif\.epochs is 1 there and 2 here"):
        run(load(recipe, changes=[*changes, "lif.epochs=2"]), tmp_path / "run", data=events)


@pytest.mark.parametrize("name", ["pipe-d-events", "pipe-d-small-events"])
def test_recipes_for_any_events_do_not_flip(name):
    for scratch in (False, True):
        stages = load(name, scratch=scratch).stages.values()
        assert all(stage.augment.flip == 0 and stage.augment.crop for stage in stages)


def test_augmentations_are_listed():
    assert Augmentation().summary() == "none"
    augment = Augmentation(crop=0.1, flip=0.5, time_shift=3, strength=0.5)
    assert augment.summary() == "crop 0.05, flip 0.5, time_shift 2"
    assert Stage(augment=Augmentation(crop=0.1, strength=0)).augment.summary() == "none"
