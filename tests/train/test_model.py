"""Loading trained networks: what the files of a run state, and what is refused."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from eventdata.errors import EventDataError, InputError, OptionError
from tests.drawn import TINY_RECIPE
from train import load_model
from train.data import Epoch, open_data
from train.recipe import load
from train.runs.folder import weight_facts, write_weights
from train.runs.module import prepare
from train.runs.run import run

RECIPE = (
    TINY_RECIPE
    + """
[defaults]
batch_size = 16
[stages.pretrain]
data = "images"
neuron = { kind = "ann", activation = "sharpened_relu", learn_decay = false }
epochs = 3
[stages.liaf]
weights = "pretrain"
neuron = { kind = "liaf", decay = 0.8, learn_decay = false, carry_activated = true }
epochs = 1
[stages.lif]
weights = "liaf"
neuron = { kind = "lif", threshold = 0.7, decay = 0.6, learn_decay = false }
steps = 3
collapse = 3
downscale = 2
epochs = 2
"""
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, events, images):
    """A finished run: its folder and its result."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "tiny.toml").write_text(RECIPE)
    recipe = load(str(folder / "tiny.toml"))
    return folder / "run", run(recipe, folder / "run", data=events, images=images)


def test_a_run_loads_as_it_was_tested(whole, events):
    folder, result = whole
    network, info = load_model(folder)
    assert not network.training
    assert (info.classes, info.stage) == (["c0", "c1", "c2"], "lif")
    assert info.framing.dataset == "drawn"
    assert info.framing.sample.dense_shape == (4, 2, 16, 16)
    assert info.framing.parameters["source"] == "drawn"
    trained = load(str(folder / "config.toml")).stages["lif"]
    assert info.settings.neuron == trained.neuron
    assert (info.settings.steps, info.settings.downscale) == (3, 2)
    part = open_data(events, share=0.2, seed=0).test
    confusion = torch.zeros(3, 3, dtype=torch.int64)
    with torch.no_grad():
        for frames, labels in Epoch(part=part, batch_size=8, steps=3, downscale=2):
            found = network(prepare(frames, info.settings)).argmax(1)
            confusion.index_put_((labels, found), torch.tensor(1), accumulate=True)
    assert confusion.tolist() == result["test"]["confusion"]


def test_a_file_states_everything_by_itself(whole, tmp_path):
    """Move the weights of each stage elsewhere; nothing else of the run is read."""
    folder, _ = whole
    for name in ("pretrain", "liaf", "lif"):
        best = folder / name / "best.safetensors"
        alone = tmp_path / f"{name}.safetensors"
        shutil.copy(best, alone)
        network, info = load_model(alone)
        assert info.file == alone
        assert str(folder) not in json.dumps(weight_facts(alone))
        neuron = load(str(folder / "config.toml")).stages[name].neuron
        assert network.stem.neuron.settings == neuron
        assert all(torch.equal(network.state_dict()[k], v) for k, v in load_file(best).items())
    last = load_model(folder / "pretrain/last.safetensors")[0].stem.neuron.activation
    assert (last.lo, last.hi) == pytest.approx((1 / 3, 2 / 3))  # of the third epoch of three
    _, info = load_model(folder, stage="liaf")
    assert info.settings.neuron.kind == "liaf"
    with pytest.raises(OptionError, match="no stage 'x': choose pretrain, liaf, lif"):
        load_model(folder, stage="x")


SAMPLE = {"representation": "binary", "steps": 4, "channels": 2, "height": 16, "width": 16}
FRAMING = {"dataset": "drawn", "sample": SAMPLE, "parameters": {}}


def without_settings(file, path):
    """Write weights as an older version did."""
    facts = weight_facts(file)
    old = {key: facts[key] for key in ("network", "kind", "classes", "seconds", "epoch", "top1")}
    write_weights(path, load_file(file), old)


def test_old_files_need_their_recipe(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    best = folder / "lif/best.safetensors"
    network, info = load_model(folder)
    without_settings(best, best)
    with pytest.raises(OptionError, match=r"An older version.*recipe='.*config.toml'"):
        load_model(folder)
    with pytest.raises(OptionError, match="which decide the outputs. Pass recipe="):
        load_model(best)
    again, same = load_model(folder, recipe=str(folder / "config.toml"))
    assert same.framing is None
    assert (same.classes, same.settings.neuron) == (info.classes, info.settings.neuron)
    x = (torch.rand(2, 3, 2, 8, 8) < 0.3).float()
    with torch.no_grad():
        assert torch.equal(again(x), network(x))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["lif.neuron.kind=liaf"], "kind=lif, but the recipe .* has kind=liaf"),
        (["lif.neuron.threshold=0.5"], "threshold=0.7, but the recipe .* has threshold=0.5"),
        (["network.width=8"], "width=4, but the recipe .* has width=8"),
        (["lif.steps=2", "lif.collapse=2"], "steps=3, collapse=3, but .* has steps=2, collapse=2"),
        (["lif.downscale=1"], "downscale=2, but the recipe .* has downscale=1"),
    ],
)
def test_a_recipe_that_contradicts_the_file_is_refused(whole, changes, says):
    folder, _ = whole
    with pytest.raises(OptionError, match=says):
        load_model(folder, recipe=str(folder / "config.toml"), changes=changes)
    network, info = load_model(folder, recipe=str(folder / "config.toml"))
    assert info.framing == load_model(folder)[1].framing
    assert network.sample_shape == (3, 2, 8, 8)
    with pytest.raises(OptionError, match="changes need a recipe"):
        load_model(folder, changes=changes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"settings": {"neuron": {"kind": "x"}}}, "kind"),
        ({"settings": []}, "not a table"),
        ({"framing": {}}, "damaged .*sample"),
        ({"framing": None}, "header is damaged"),
        ({"framing": FRAMING | {"sample": SAMPLE | {"height": "x"}}}, "not a whole number"),
        ({"framing": FRAMING | {"sample": SAMPLE | {"steps": 0}}}, "not a whole number"),
        ({"framing": FRAMING | {"sample": SAMPLE | {"channels": 3}}}, r"\(4, 2, .* \(4, 3, "),
        ({"classes": ["a", 3, "c"]}, "not text"),
        ({"classes": ["a"]}, r"fc.weight is \(3, 8\) there and \(1, 8\) here"),
        ({"network": {}}, "name"),
        ({"network": {"name": "vgg", "width": 10**9}}, "can't be built|does not fit|at least"),
        (
            {"network": {"name": "event-resnet18", "depths": [10**9] * 4}},
            "more layers than",
        ),
        ({"network": {"name": "event-resnet18", "depths": "x"}}, "header is damaged"),
    ],
)
def test_damaged_headers_are_errors(whole, tmp_path, change, says):
    best = whole[0] / "lif/best.safetensors"
    write_weights(tmp_path / "a.safetensors", load_file(best), weight_facts(best) | change)
    with pytest.raises(EventDataError, match=says):
        load_model(tmp_path / "a.safetensors")


def test_runs_without_weights_are_errors(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    (folder / "lif/best.safetensors").unlink()
    with pytest.raises(InputError, match="no weights of stage lif yet; run its command"):
        load_model(folder)
    with pytest.raises(InputError, match="config.toml"):
        load_model(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_diverged_training_are_refused(whole, tmp_path, value):
    state = load_file(whole[0] / "lif/last.safetensors")
    state["fc.weight"][0, 0] = value
    save_file(state, tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match=r"are NaN or infinite: fc\.weight; pass weights from"):
        load_model(tmp_path / "bad.safetensors", whole[0] / "config.toml")


def test_classes_and_the_random_state(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    best, config = folder / "lif/best.safetensors", str(folder / "config.toml")
    write_weights(best, load_file(best), {"seconds": 0})
    before = torch.random.get_rng_state()
    assert load_model(best, recipe=config)[1].classes == ["0", "1", "2"]
    assert load_model(best, recipe=config, classes=["x", "y", "z"])[1].classes == ["x", "y", "z"]
    with pytest.raises(OptionError, match="has 3 classes, not the 2 named"):
        load_model(best, recipe=config, classes=["x", "y"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_package_loads_torch_only_when_asked():
    code = "import sys, train; assert 'load_model' in dir(train); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
