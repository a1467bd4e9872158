"""The published networks' outputs, from parameters and inputs set by formula."""

import json
import math

import numpy as np
import pytest
import torch

from train.networks import build, rename_published
from train.neurons.neuron import NeuronSettings

LIF = NeuronSettings(kind="lif")
IMAGE_LIF = NeuronSettings(kind="lif", decay=0.25, learn_decay=False)
EVENT = {"channels": 2, "respond_to_sum": True}
NETWORKS = {
    "lif18": ("event-resnet18", EVENT | {"neuron": LIF}),
    "liaf34": ("event-resnet34", EVENT | {"neuron": NeuronSettings(kind="liaf")}),
    "s18": ("image-resnet18", {"channels": 3, "neuron": IMAGE_LIF, "steps": 6}),
    "ws18_eval": ("image-resnet18", {"channels": 3, "neuron": IMAGE_LIF, "steps": 1}),
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


@pytest.fixture(scope="module")
def references(shared):
    groups = json.loads((shared / "published_networks.json").read_text())
    return groups["event_networks"] | groups["image_networks"]


@pytest.mark.parametrize("name", NETWORKS)
def test_published_states_load_and_give_the_published_logits(references, name):
    reference = references[name]
    state = {
        key: by_formula(key, shape, reference["gain"])
        for key, shape in reference["shape_keys"].items()
    }
    x = input_by_formula(reference["input_shape"], binary="event" in NETWORKS[name][0])
    if x.ndim == 5:
        x = x.transpose(1, 2)  # (N, P, T, H, W) there
    architecture, settings = NETWORKS[name]
    network = build(architecture, classes=1000, **settings).eval()
    network.load_state_dict(rename_published(state))
    with torch.no_grad():
        logits = network(x)
    torch.testing.assert_close(logits, torch.tensor(reference["logits"]), atol=2e-5, rtol=0)


def test_our_own_names_stay_and_wrappers_go():
    for name in ("event-resnet18", "image-resnet18", "crnn"):
        state = build(name, channels=2, classes=3, neuron=LIF, width=2).state_dict()
        assert list(rename_published(state)) == list(state)
        wrapped = {f"module.{key}": value for key, value in state.items()}
        assert list(rename_published(wrapped)) == list(state)
