"""The parts of a store and the batches of an epoch."""

import numpy as np
import pytest
import torch

from eventdata import FrameDataset
from eventdata.errors import InputError, OptionError
from eventdata.raw.hold_out import hold_out
from tests.drawn import CLASSES, make_store
from train.data import Epoch, keys_of, open_data
from train.splits import sample_keys


def test_keys_drop_folders_suffixes_and_clips():
    names = [
        "train/a/n01_12.JPEG",
        "a/n01_12.npz",
        "v_Archery_g07_c03.npz",
        "v_Archery_g07_c01.avi",
    ]
    keys = sample_keys(names, ["a", "a", "Archery", "Archery"])
    assert keys == ["a/n01_12", "a/n01_12", "Archery/v_Archery_g07", "Archery/v_Archery_g07"]


def test_each_class_holds_out_its_share():
    keys = [f"c{label}/s{number}" for label in range(4) for number in range(50)]
    classes = [key[:2] for key in keys]
    chosen = hold_out(keys, classes, 0.1, seed=0)
    assert [sum(key.startswith(f"c{label}/") for key in chosen) for label in range(4)] == [5] * 4
    assert {"c0/s10", "c1/s14"} < chosen  # fixed, so that runs can be repeated
    assert chosen == hold_out(keys[::-1], classes[::-1], 0.1, seed=0)
    assert chosen != hold_out(keys, classes, 0.1, seed=1)


def test_class_names_may_have_slashes():
    keys = ["x/cat/0", *(f"x/dog/{number}" for number in range(9))]
    for seed in range(9):
        chosen = hold_out(keys, [key[:5] for key in keys], 0.5, seed)
        assert "x/cat/0" not in chosen
        assert len(chosen) == 4


def test_groups_stay_together_and_no_class_is_held_out_whole():
    names = [f"v_Bowling_g{g:02}_c{c:02}.npz" for g in range(1, 9) for c in range(1, 6)]
    keys = sample_keys(names, ["Bowling"] * len(names))
    chosen = hold_out(keys, ["Bowling"] * len(names), 0.2, seed=0)
    assert len(chosen) == 2  # of eight groups; ten clips would be a quarter
    assert hold_out(["a/x", "a/x"], ["a", "a"], 0.5, seed=0) == frozenset()
    assert len(hold_out(["a/x", "a/y"], ["a", "a"], 0.01, seed=0)) == 1


def test_held_out_samples_are_not_trained_on(events):
    data = open_data(events, share=0.2, seed=0)
    train, select = set(data.train.names), set(data.select.names)
    assert not train & select
    assert len(train) + len(select) == 60
    assert np.bincount(data.select.labels).tolist() == [4] * CLASSES
    assert data.test.names == FrameDataset(events, "test").names
    assert set(keys_of(data.select)) == data.held
    for index in (0, 5):
        whole = FrameDataset(events, "train")
        place = whole.names.index(data.train.names[index])
        assert torch.equal(data.train[index][0], whole[place][0])
        assert data.train[index][1] == whole[place][1]


def test_pictures_of_held_out_samples_are_not_pretrained_on(events, images):
    later = open_data(events, share=0.2, seed=0)
    held = later.held
    pictures = open_data(images, share=0.2, seed=1, later=later)
    assert not set(keys_of(pictures.train)) & (held | pictures.held)
    assert len(pictures.train) < 48  # another seed holds out others; both are skipped


def test_pictures_of_a_test_set_are_not_pretrained_on(tmp_path):
    """Check a store of pictures whose split train contains the test samples."""
    events = make_store(tmp_path / "events", counts=(("train", 12), ("val", 6), ("test", 6)))
    later = open_data(events, share=0.2, seed=0)
    tests = later.others["val"] | later.others["test"]
    assert len(tests) == 6  # drawn samples have the same names in every split
    together = make_store(tmp_path / "a", kind="image", channels=3, counts=(("train", 30),))
    kept = keys_of(open_data(together, share=0.2, seed=0, later=later).train)
    assert not set(kept) & tests
    published = open_data(events, share=0.2, seed=0, published=True)
    assert published.others["test"] == later.others["test"]
    apart = make_store(
        tmp_path / "b", kind="image", channels=3, counts=(("train", 30), ("val", 6), ("test", 6))
    )
    kept = keys_of(open_data(apart, share=0.2, seed=0, later=later).train)
    assert set(kept) & tests  # other pictures with the same names


def test_names_that_differ_only_in_folders(tmp_path):
    """Check names such as DVSGesture's, user01_led/3.npy."""
    store = make_store(tmp_path / "s", names="user{:02}/0.npy", counts=(("train", 30), ("test", 6)))
    data = open_data(store, share=0.2, seed=0)
    assert len(data.select) == 6
    assert not set(data.select.names) & set(data.train.names)


def test_the_published_protocol_selects_on_the_test_set(events):
    data = open_data(events, share=0.2, seed=0, published=True)
    assert len(data.train) == 60
    assert data.select.names == data.test.names
    assert data.held == frozenset()


def test_the_split_val_selects(tmp_path):
    store = make_store(tmp_path / "s", counts=(("train", 12), ("val", 6), ("test", 6)))
    data = open_data(store, share=0.2, seed=0)
    assert [len(part) for part in (data.train, data.select, data.test)] == [12, 6, 6]
    assert data.select.split == "val"


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"counts": (("val", 6), ("test", 6))}, OptionError, "has no split train, only test, val"),
        ({"n_classes": 1}, InputError, "has 1 classes"),
        ({"first_label": 2}, InputError, "labels from 2 to 4 but 3 classes"),
        ({"first_label": -1}, InputError, "labels from -1 to 1"),
        ({"counts": (("train", 3), ("test", 3))}, InputError, "too few samples"),
    ],
)
def test_stores_that_cannot_be_trained_on(tmp_path, settings, error, says):
    store = make_store(tmp_path / "s", **settings)
    with pytest.raises(error, match=says):
        open_data(store, share=0.1, seed=0)


def batches(part, **settings):
    return [labels for _, labels in Epoch(part=part, **settings)]


def test_epochs_are_shuffled_by_seed_and_epoch(events):
    part = FrameDataset(events, "train")
    orders = [torch.cat(batches(part, batch_size=8, shuffle_by=by)) for by in [(0, 0), (0, 1)]]
    again = torch.cat(batches(part, batch_size=8, shuffle_by=(0, 1)))
    assert len(orders[0]) == 56
    assert not torch.equal(*orders)
    assert torch.equal(orders[1], again)


def test_an_epoch_has_whole_optimiser_steps(events):
    part = FrameDataset(events, "train")
    epoch = Epoch(part=part, batch_size=8, shuffle_by=(0, 0), multiple=3)
    assert len(epoch) == len(list(epoch)) == 6


def test_devices_share_every_sample(events):
    part = FrameDataset(events, "test")
    shares = [batches(part, batch_size=5, rank=rank, devices=3) for rank in range(3)]
    seen = torch.cat([label for share in shares for label in share])
    assert sorted(seen.tolist()) == sorted(part.labels.tolist())
    in_step = [
        len(batches(part, batch_size=5, rank=rank, devices=3, shuffle_by=(0, 0)))
        for rank in range(3)
    ]
    assert in_step == [1, 1, 1]


@pytest.mark.parametrize("kind", ["binary", "count", "wide", "image"])
@pytest.mark.parametrize(("factor", "steps"), [(1, None), (1, 3), (3, None), (3, 3)])
def test_epochs_cut_steps_and_downscale(tmp_path, kind, factor, steps):
    store = make_store(tmp_path / "s", kind=kind, counts=(("train", 8),))
    part = FrameDataset(store, "train")
    (batch, _) = next(iter(Epoch(part=part, batch_size=8, downscale=factor, steps=steps)))
    whole = np.stack([part[index][0].numpy() for index in range(8)])
    assert whole.max() > {"binary": 0, "count": 0, "wide": 255, "image": 0}[kind]
    if kind != "image":
        whole = whole[:, :steps]
    rows = whole.shape[-1] // factor
    tiles = whole[..., : rows * factor, : rows * factor]
    tiles = tiles.reshape(*whole.shape[:-2], rows, factor, rows, factor)
    wanted = np.rint(tiles.mean(axis=(-3, -1))) if kind == "image" else tiles.max(axis=(-3, -1))
    assert batch.dtype == (torch.float32 if kind == "wide" else torch.uint8)
    assert (batch.numpy() == wanted).all()
