"""Evaluation of trained networks on stores."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import eventdata
from eventdata.cli import main
from eventdata.errors import InputError, MismatchError, OptionError
from tests.drawn import TINY_RECIPE, Drawn, make_store
from train import load_model
from train.data import check_labels, open_data
from train.evaluate import evaluate
from train.export import export
from train.predict import predict
from train.recipe import load
from train.runs.module import prepare
from train.runs.run import run

RECIPE = """
[defaults]
batch_size = 16
epochs = 6
learning_rate = 0.1
[stages.sum]
neuron = { kind = "ann" }
collapse = 2
[stages.lif]
weights = "sum"
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY_RECIPE + RECIPE)
    return str(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, recipe, events):
    """A run on a store with splits: its folder and its result."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, run(load(recipe), folder, data=events)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, recipe):
    """A run on a store with one split: its folder, its result and the store."""
    base = tmp_path_factory.mktemp("drawn")
    store = make_store(base / "all.zarr", counts=(("all", 60),))
    return base / "run", run(load(recipe), base / "run", data=store), store


def same(found, test):
    assert found["samples"] == test["samples"]
    assert found["confusion"] == test["confusion"]
    for key in ("top1", "balanced"):
        assert found[key] == pytest.approx(test[key]), key
    assert found["loss"] == pytest.approx(test["loss"], rel=1e-4)


def test_the_test_part_of_a_run_is_evaluated_as_in_the_run(trained, events):
    folder, result = trained
    found = evaluate(folder, events)
    same(found, result["test"])
    assert found["split"] == "test"
    assert found["notes"] == []
    assert "top5" not in found
    assert found["rates"]
    assert all(0 <= rate <= 1 for rate in found["rates"].values())
    same(evaluate(folder), result["test"])  # the store of the run
    same(evaluate(folder / "lif/best.safetensors", events), result["test"])


def test_the_drawn_test_part_of_a_run_is_evaluated(drawn):
    folder, result, store = drawn
    for where in (folder, folder / "lif/best.safetensors"):
        found = evaluate(where, store)
        same(found, result["test"])
        assert found["notes"] == ["the test samples are those that the run has drawn"]
    whole = evaluate(folder, store, split="all")
    assert whole["samples"] == 60
    assert whole["notes"] == ["the run was trained on samples of the split all"]


def test_accuracies_are_those_of_a_plain_loop(trained, events):
    network, info = load_model(trained[0] / "sum/last.safetensors")
    part = open_data(events, share=0.2, seed=0).test
    frames, labels = zip(*[part[index] for index in range(len(part))], strict=True)
    with torch.no_grad():
        taken = network(prepare(torch.stack(frames), info.settings)).argmax(dim=1)
    confusion = torch.zeros(3, 3, dtype=torch.int64)
    for truth, guess in zip(labels, taken.tolist(), strict=True):
        confusion[truth, guess] += 1
    found = evaluate(trained[0] / "sum/last.safetensors", events)
    assert found["confusion"] == confusion.tolist()
    assert found["top1"] == confusion.diagonal().sum().item() / 24


def test_classes_are_matched_by_name(tmp_path, trained, events):
    class Other(Drawn):
        """The same samples with the classes in another order."""

        @property
        def classes(self):
            return ["c2", "c0", "c1"]

        def splits(self):
            listing = super().splits()
            for samples in listing.values():
                samples.labels = (samples.labels + 1) % 3
            return listing

        def read(self, sample, out):
            return super().read(sample._replace(label=(sample.label - 1) % 3), out)

    eventdata.convert(Other(), "", tmp_path / "s")
    same(evaluate(trained[0], str(tmp_path / "s")), trained[1]["test"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"n_classes": 4}, "does not know 1 of the 4 classes, such as 'c3'"),
        ({"side": 24}, r"\(4, 2, 24, 24\), but the network was trained on .*\(4, 2, 16, 16\)"),
        ({"channels": 1}, r"\(4, 1, 16, 16\), but the network was"),
        ({"kind": "count"}, "samples are count .* trained on binary"),
        ({"kind": "image"}, r"samples are image \(C, H, W\)"),
    ],
)
def test_stores_of_another_kind_raise_errors(tmp_path, trained, settings, says):
    store = make_store(tmp_path / "s", **settings)
    with pytest.raises(MismatchError, match=says):
        evaluate(trained[0], store)


def test_another_framing_of_the_same_shape_is_noted(tmp_path, trained, events):
    """Evaluation notes it, and so does each row of the predictions."""

    class Other(Drawn):
        @property
        def parameters(self):
            return {**super().parameters, "window": 5000}

    eventdata.convert(Other(), "", tmp_path / "s")
    text = "the samples were framed otherwise than for the training: window 5000, not None"
    assert text in evaluate(trained[0], str(tmp_path / "s"))["notes"]
    assert {one.note for one in predict(trained[0], str(tmp_path / "s"))} == {text}
    assert not any(one.note for one in predict(trained[0], events))


def test_a_test_of_moved_weights_on_their_training_samples_is_noted(tmp_path, drawn):
    folder, _, store = drawn
    export(folder, tmp_path / "moved.safetensors")
    result = evaluate(tmp_path / "moved.safetensors", store)
    assert (
        "the weights were trained on samples of this store, perhaps on these ones"
        in (result["notes"])
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "image"}, r"image \(C, H, W\) = \(2, 16, 16\), but the recipe's event frames"),
        ({"side": 16}, ""),
    ],
)
def test_weights_that_state_nothing_are_checked_by_their_recipe(
    tmp_path, trained, recipe, settings, says
):
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(trained[0] / "lif/last.safetensors"), bare)
    store = make_store(tmp_path / "s", **settings)
    if says:
        with pytest.raises(MismatchError, match=says):
            evaluate(bare, store, recipe=recipe)
        return
    notes = evaluate(bare, store, recipe=recipe)["notes"]
    assert any("do not state how their samples were made" in text for text in notes)


def test_labels_that_are_no_classes_are_refused(tmp_path, trained, events):
    part = eventdata.FrameDataset(events, "test")
    for labels in ([-1, 1], [1, 3]):
        part.labels = np.array(labels)
        with pytest.raises(InputError, match=r"has labels from -?1 to [13] but 3 classes"):
            check_labels(part, str(events), "test")


def test_a_split_has_to_be_named_if_it_is_not_clear(tmp_path, trained, events):
    assert evaluate(trained[0], events, split="train")["samples"] == 60
    with pytest.raises(OptionError, match="has the splits test, train; pass one of them"):
        evaluate(trained[0], events, split="val")
    several = make_store(tmp_path / "s", counts=(("a", 6), ("b", 6)))
    with pytest.raises(OptionError, match="has the splits a, b"):
        evaluate(trained[0], several)
    weights = shutil.copy(trained[0] / "lif/best.safetensors", tmp_path)
    with pytest.raises(OptionError, match="is not of a run with a store; pass the store"):
        evaluate(weights)
    assert evaluate(weights, events)["samples"] == 24
    with pytest.raises(InputError, match=r"nothing: can't be read \(No such file.*check that it"):
        evaluate(tmp_path / "nothing", events)


def test_one_class_for_all_is_noted(tmp_path, monkeypatch, trained, events):
    always = torch.tensor([0.0, 1.0, 0.0])
    monkeypatch.setattr("train.evaluate.answers", lambda _, __, x: always.repeat(len(x), 1))
    found = evaluate(trained[0], events)
    assert found["notes"] == ["the network takes all samples for the same class"]
    assert found["balanced"] == pytest.approx(1 / 3)


def test_batches_of_another_shape_raise_errors(trained):
    network, _ = load_model(trained[0])
    assert network(torch.zeros(5, 4, 2, 16, 16)).shape == (5, 3)
    for shape in ((4, 5, 2, 16, 16), (5, 2, 4, 16, 16), (5, 4, 2, 16, 17), (5, 3, 2, 16, 16)):
        with pytest.raises(OptionError, match=r"trained on samples of shape \(4, 2, 16, 16\)"):
            network(torch.zeros(shape))
    with pytest.raises(OptionError, match="a batch is of torch.uint8; pass floats"):
        network(torch.zeros(5, 4, 2, 16, 16, dtype=torch.uint8))
    sums, _ = load_model(trained[0] / "sum/best.safetensors")
    assert sums(torch.zeros(5, 2, 2, 16, 16)).shape == (5, 3)
    network.sample_shape = None
    assert network(torch.zeros(5, 3, 2, 16, 16)).shape == (5, 3)


def test_the_command_prints_lines_or_json(tmp_path, trained, events):
    folder, result = trained
    words = ["evaluate", str(folder), "--data", events]
    lines = CliRunner().invoke(main, words, catch_exceptions=False).output.splitlines()
    assert lines[0].startswith(f"{events} test: top-1 {result['test']['top1']:.1%}, balanced")
    head = lines.index("confusion (rows: true class, columns: predicted class):")
    assert [line.split() for line in lines[head + 1 : head + 5]] == [
        ["c0", "c1", "c2"],
        *([f"c{n}", *map(str, row)] for n, row in enumerate(result["test"]["confusion"])),
    ]
    assert any("neuron" in line for line in lines[head + 5 :])
    printed = CliRunner().invoke(main, [*words, "--json"], catch_exceptions=False).output
    same(json.loads(printed), result["test"])
    wrong = CliRunner().invoke(main, [*words, "--split", "val"])
    assert wrong.exit_code == 2


def test_top_5_and_confusions_of_many_classes(tmp_path, recipe):
    store = make_store(tmp_path / "s", n_classes=14)
    folder = tmp_path / "run"
    result = run(load(recipe, changes=["all.epochs=1"]), folder, data=store)
    found = evaluate(folder, store)
    assert found["top5"] == result["test"]["top5"]
    printed = CliRunner().invoke(main, ["evaluate", str(folder)], catch_exceptions=False).output
    assert ", top-5 " in printed
    assert "most frequent confusions" in printed
