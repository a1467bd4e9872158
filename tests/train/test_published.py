"""The published networks' outputs, from parameters and inputs set by formula."""

import argparse
import collections
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from eventdata.errors import InputError, OptionError
from train import load_model
from train.networks import build
from train.networks.published_names import form_of, rename
from train.neurons.neuron import NeuronSettings
from train.weights import load_state, read_weights

LIF = NeuronSettings(kind="lif")
NETWORKS = {  # the recipe of each, and changes to it
    "lif18": ("published-lif18", []),
    "liaf34": ("published-liaf34", []),
    "s18": ("published-s18", []),
    "ws18_eval": ("published-s18", ["lif.steps=1"]),
}


def by_formula(key, shape, gain):
    """The value that the reference gives the tensor of this name."""
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    s = np.sin(0.7 * np.arange(math.prod(shape)) + sum(key.encode()) % 97)
    if len(shape) >= 2:
        s *= math.sqrt(gain / math.prod(shape[1:]))
    elif key.endswith("running_var"):
        s = 1 + 0.5 * abs(s)
    elif key.endswith("decay"):
        s = 0.5 + 0.1 * s
    elif key.endswith("weight"):
        s = 1 + 0.1 * s
    else:
        s = 0.1 * s
    return torch.from_numpy(s.astype(np.float32)).reshape(shape)


def input_by_formula(shape, binary):
    j = np.arange(math.prod(shape), dtype=np.float64)
    w = np.sin(0.37 * j + 1e-4 * j * np.sin(0.01 * j))
    return torch.from_numpy((w > 0.8 if binary else w).astype(np.float32)).reshape(shape)


def old(content, path):
    """Save in the format of torch before 1.6."""
    torch.save(content, path, _use_new_zipfile_serialization=False)


def module(state):
    return collections.OrderedDict((f"module.{key}", value) for key, value in state.items())


def t7(state):
    records = {"best_acc": 52.25, "acc_record": [1.0, 2.0], "loss_train_record": []}
    return {"state": state, "epoch": 3, "loss_test_record": [], "optimizer": {}} | records


def averaged(state):
    """The average of torchvision's reference scripts, which save it next to the weights."""
    return {"n_averaged": torch.tensor(7), **module(state)}


OPTIONS = argparse.Namespace(model="resnet18", lr=0.1, resume=None, tags=["a"], device="cuda")
ZEROS = {"fc.weight": torch.zeros(2)}
FORMS = {
    "bare, .pkl": ("a.pkl", torch.save, lambda state: state),
    "bare, before torch 1.6": ("a.pkl", old, lambda state: collections.OrderedDict(state)),
    "t7": ("a.t7", torch.save, t7),
    "t7, before torch 1.6": ("a.t7", old, t7),
    "pth": (
        "a.pth",
        torch.save,
        lambda state: {"epoch": 1, "model_state_dict": module(state), "optimizer_state_dict": {}},
    ),
    "safetensors": ("a.safetensors", save_file, lambda state: state),
    "torchvision's scripts": (
        "a.pth",
        torch.save,
        lambda state: {"model": state, "optimizer": {}, "args": OPTIONS},
    ),
    "torchvision's scripts, averaged": (
        "a.pth",
        torch.save,
        lambda state: {"model": ZEROS, "model_ema": averaged(state), "args": OPTIONS},
    ),
    "timm's scripts": (
        "a.pth.tar",
        torch.save,
        lambda state: {"epoch": 2, "arch": "resnet18", "state_dict": state, "args": OPTIONS},
    ),
    "timm's scripts, averaged": (
        "a.pth.tar",
        torch.save,
        lambda state: {"state_dict": ZEROS, "state_dict_ema": state, "metric": 70.0},
    ),
}


@pytest.fixture(scope="module")
def references(shared):
    groups = json.loads((shared / "published_networks.json").read_text())
    return groups["event_networks"] | groups["image_networks"]


def state_of(reference):
    return {
        key: by_formula(key, shape, reference["gain"])
        for key, shape in reference["shape_keys"].items()
    }


def check_logits(network, reference):
    x = input_by_formula(reference["input_shape"], binary=len(reference["input_shape"]) == 5)
    if x.ndim == 5:
        x = x.transpose(1, 2)  # (N, P, T, H, W) there
    with torch.no_grad():
        logits = network(x)
    torch.testing.assert_close(logits, torch.tensor(reference["logits"]), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_published_files_give_the_published_logits(references, tmp_path, name):
    recipe, changes = NETWORKS[name]
    torch.save(state_of(references[name]), tmp_path / "a.pkl")
    network, info = load_model(tmp_path / "a.pkl", recipe=recipe, changes=changes)
    assert not network.training
    assert (len(info.classes), info.framing, info.recipe.name) == (1000, None, recipe)
    check_logits(network, references[name])


@pytest.mark.parametrize("form", FORMS)
def test_files_of_every_form_hold_the_same_weights(references, tmp_path, form):
    """Read the smallest reference in each form; the logits follow from equal weights."""
    state = state_of(references["s18"])
    name, save, content = FORMS[form]
    save(content(state), tmp_path / name)
    found = load_state(tmp_path / name)
    want = rename(state, form_of(state))
    assert found.keys() == want.keys()
    assert all(torch.equal(found[key], value) for key, value in want.items())
    network, _ = load_model(tmp_path / name, recipe="published-s18")
    assert all(torch.equal(value, want[key]) for key, value in network.state_dict().items())


def test_published_liaf18_carries_the_activated_membrane(references, tmp_path):
    """Compare with a neuron by neuron restatement of the activation in place."""
    torch.save(state_of(references["lif18"]), tmp_path / "liaf18.pkl")
    network, info = load_model(tmp_path / "liaf18.pkl", recipe="published-liaf18")
    neuron = network.stem.neuron
    assert (neuron.settings.kind, neuron.settings.carry_activated) == ("liaf", True)
    assert info.recipe.network["respond_to_sum"]
    x = torch.randn(3, 5)
    d = torch.sigmoid(neuron.decay)
    u, fired, outputs = torch.zeros(5), torch.zeros(5), []
    for t in range(3):
        u = d * u * (1 - fired) + x[t]
        fired = (u > 0.5).float()
        torch.nn.functional.leaky_relu_(u, 0.2)
        outputs.append(u.clone())
    torch.testing.assert_close(neuron(x), torch.stack(outputs))


@pytest.mark.parametrize(
    ("recipe", "changes", "says"),
    [
        (None, [], "without the settings.*Pass recipe=.*published-liaf18 or published-lif18"),
        ("pipe-d-images", [], "without network.respond_to_sum=true.*recipe published-liaf18 or"),
        ("published-lif34", [], "without network.name=event-resnet18"),
        ("published-liaf18", ["liaf.neuron.carry_activated=false"], "carry_activated=true"),
        ("published-lif18", ["lif.neuron.threshold=1"], "without neuron.threshold=0.5"),
        ("published-lif18", ["lif.neuron.kind=ann"], "without neuron.kind=liaf or lif"),
        ("published-s18", [], "without network.name=event-resnet18, network.respond_to_sum=true"),
        (
            "published-lif18",
            ["network.width=32"],
            r"stem.conv.bias is \(64,\) there",
        ),
    ],
)
def test_other_settings_are_refused(references, tmp_path, recipe, changes, says):
    torch.save(state_of(references["lif18"]), tmp_path / "lif18.pkl")
    with pytest.raises((InputError, OptionError), match=f"(?s)lif18.pkl.*{says}"):
        load_model(tmp_path / "lif18.pkl", recipe=recipe, changes=changes)


def test_other_neurons_can_train_on_from_the_weights(references, tmp_path):
    """Check only what the network's structure needs, and the membrane of LIAF-18."""
    torch.save(state_of(references["lif18"]), tmp_path / "18.pkl")
    torch.save(state_of(references["liaf34"]), tmp_path / "34.pkl")
    shallow, deep = read_weights(tmp_path / "18.pkl"), read_weights(tmp_path / "34.pkl")
    network = {"name": "event-resnet18", "respond_to_sum": True}
    shallow.check(network, NeuronSettings(kind="lif", threshold=1.2, decay=0.9))
    shallow.check(network, NeuronSettings(kind="liaf", carry_activated=True))
    deep.check(network | {"name": "event-resnet34"}, NeuronSettings(kind="liaf"))
    with pytest.raises(OptionError, match="without neuron.carry_activated=true"):
        shallow.check(network, NeuronSettings(kind="liaf"))
    with pytest.raises(OptionError, match="without network.respond_to_sum=true; use .*-liaf18 or"):
        shallow.check({"name": "event-resnet18"}, LIF)
    neuron = NeuronSettings(kind="liaf", carry_activated=True)
    with pytest.raises(OptionError, match="without neuron.carry_activated=false"):
        deep.check(network | {"name": "event-resnet34"}, neuron, exact=True)


def test_errors_list_what_the_file_holds(tmp_path):
    deep = {f"layer1.{n}.conv3.weight": torch.zeros(2, 2) for n in range(3)}
    cases = {
        "conv1.kernel.weight": ("published-lif18", r"holds a published event network that does"),
        "features.0.weight": ("published-lif18", r"among its features.0.weight \(2, 2\)"),
        "layer1.0.conv1.weight": ("torchvision-resnet18", r"only those of 18 and 34 layers"),
    }
    for key, (recipe, says) in cases.items():
        more = deep if key.startswith("layer") else {}
        torch.save({key: torch.zeros(2, 2), **more}, tmp_path / "a.pth")
        with pytest.raises(InputError, match=says):
            load_model(tmp_path / "a.pth", recipe=recipe)
    torch.save({"epoch": 3, "best": 0.5}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="no state dict. It has 'epoch', 'best'"):
        load_state(tmp_path / "a.pth")
    torch.save({"module.fc.bias": torch.ones(1), "fc.bias": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="several state dicts"):
        load_state(tmp_path / "a.pth")


def crnn_names(state, events):
    """Rename our ES-UCF101 network's state dict as published, in two parts."""
    if events:
        table = {"stem": "network.cnn0", "hidden": "network.fc4.kernel", "neuron": "network.fc4"}
        table |= {f"cells.{n}": f"network.cnn{n + 1}" for n in range(3)}
        table |= {"embedding": "network.fc5.kernel"}
    else:
        table = {"stem": "conv1", "hidden": "fc1", "embedding": "fc2"}
        table |= {f"cells.{n}": f"conv{n + 2}" for n in range(3)}
    parts = {"encoder": {}, "decoder": {}}
    for key, value in state.items():
        part, _, name = key.partition(".")
        if name.endswith("decay") and not events:
            continue
        if part == "encoder":
            here = next(one for one in table if name.startswith(f"{one}."))
            name = table[here] + name.removeprefix(here)
            if events:
                name = name.replace(".conv.", ".kernel.").replace(".norm.", ".NormLayer.")
                name = name.replace(".neuron.decay", ".decay")
            name = name.replace(".conv.", ".0.").replace(".norm.", ".1.")
        parts[part][f"module.{name.replace('lstm', 'LSTM')}"] = value
    if events:
        parts["encoder"]["module.network.fc5.decay"] = torch.ones(1)
    return {"cnn_encoder_state_dict": parts["encoder"], "rnn_decoder_state_dict": parts["decoder"]}


@pytest.mark.parametrize("kind", ["lif", "liaf", "ann"])
def test_published_networks_of_clips(tmp_path, kind):
    """Restate the encoder's end: the published reshape of events, none of pictures."""
    torch.manual_seed(0)
    events = kind != "ann"
    neuron = NeuronSettings(kind=kind, activation="relu")
    settings = {"channels": 2 if events else 3, "classes": 4, "neuron": neuron}
    network = build("crnn", size=(40, 40), mix_axes=events, **settings).eval()
    content = {"epoch": 4, "optimizer_state_dict": {}, "test_acc_list": [0.5]}
    torch.save(content | crnn_names(network.state_dict(), events), tmp_path / "a.pth.tar")
    recipe = "published-crnn" if events else "published-crnn-ann"
    changes = ["lif.neuron.kind=liaf"] if kind == "liaf" else []
    names = ["a", "b", "c", "d"]
    loaded, info = load_model(
        tmp_path / "a.pth.tar", recipe=recipe, changes=changes, classes=names, size=(40, 40)
    )
    assert info.classes == names
    x = (torch.rand(2, 6, settings["channels"], 40, 40) < 0.2).float()
    with torch.no_grad():
        encoder = network.encoder
        maps = encoder.cells(encoder.stem(x.transpose(0, 1)))  # (T, N, C, H, W)
        if events:  # as published: (N, C, T, H, W) viewed as (N, T, -1)
            flat = maps.permute(1, 2, 0, 3, 4).contiguous().view(2, 6, -1).transpose(0, 1)
        else:
            flat = maps.flatten(2)
        embedded = encoder.embedding(encoder.neuron(encoder.hidden(flat)))
        torch.testing.assert_close(loaded(x), network.decoder(embedded))
    other = "published-crnn-ann" if events else "published-crnn"
    with pytest.raises(OptionError, match=f"use the recipe {recipe}"):
        load_model(tmp_path / "a.pth.tar", recipe=other)


def test_our_own_names_stay_and_wrappers_go(tmp_path):
    for name in ("event-resnet18", "image-resnet18", "torchvision-resnet18", "crnn"):
        state = build(name, channels=2, classes=3, neuron=LIF, width=2).state_dict()
        assert form_of(state) is None
        assert list(rename(state, None)) == list(state)
        torch.save(
            {f"module._orig_mod.{key}": value for key, value in state.items()}, tmp_path / "a"
        )
        found = read_weights(tmp_path / "a")
        assert found.form is None
        assert list(found.state) == list(state)
