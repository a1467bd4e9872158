"""Export: every format gives the network's logits, and refuses by name what it can't express."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict
from graphlib import TopologicalSorter

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from torch.nn import functional

from eventdata.cli import main
from eventdata.errors import InputError, OptionError
from eventdata.settings import table_of
from eventdata.store.layout import SampleFormat
from tests.train.test_torchvision import trained
from train import export as module
from train import load_model
from train.export import export
from train.neurons.neuron import NeuronSettings
from train.recipe import Recipe
from train.runs.folder import weight_facts, write_weights
from train.runs.plan import build_network
from train.settings import Stage

CLASSES = ["a", "b", "c"]
TINY = {"name": "vgg", "width": 4, "plan": [[1], [2]]}
RESNET = {"name": "event-resnet18", "width": 2, "depths": [1, 1]}
PLAIN = {"name": "image-resnet18", "width": 2, "depths": [1, 2], "stem": "small"}
LIF = {"kind": "lif", "threshold": 0.4}
SHAPE = (3, 2, 17, 16)  # (T, P, H, W)


def saved(folder, network, neuron, shape=SHAPE, **settings):
    """Write weights with all their facts, as a run does; return the file."""
    images = len(shape) == 3
    stage = Stage(neuron=NeuronSettings(**neuron), data="images" if images else "data", **settings)
    recipe = Recipe(name="tiny", pipeline="pipe-d", network=network, stages={"last": stage})
    torch.manual_seed(0)
    model = trained(build_network(recipe, stage, shape=shape, classes=len(CLASSES)))
    sample = SampleFormat(
        representation="image" if images else "binary",
        steps=None if images else shape[0],
        channels=shape[-3],
        height=shape[-2],
        width=shape[-1],
    )
    facts = {
        "network": network,
        "classes": CLASSES,
        "recipe": "tiny",
        "pipeline": "pipe-d",
        "stage": "last",
        "settings": table_of(stage),
        "framing": {"dataset": "drawn", "sample": asdict(sample), "parameters": {"every": 3}},
    }
    path = folder / "weights.safetensors"
    write_weights(path, model.state_dict(), facts)
    return path


def batch(shape, samples=5):
    rng = torch.Generator().manual_seed(1)
    x = torch.rand(samples, *shape, generator=rng)
    return x if len(shape) == 3 else (x < 0.4).float()


def logits(path, x, **settings):
    """Return the logits of the network in a file of weights."""
    network, _ = load_model(path, **settings)
    with torch.no_grad():
        found = network(x)
    assert len(found.unique(dim=0)) > 1  # else the comparison would show little
    return found


CASES = [
    (TINY, LIF, SHAPE),
    (RESNET | {"depths": [1]}, {"kind": "liaf", "carry_activated": True}, SHAPE),
    (PLAIN | {"depths": [1]}, LIF, (3, 8, 8)),
    ({"name": "crnn", "width": 2, "hidden": 8, "embedding": 4, "memory": 4}, LIF, (2, 2, 40, 36)),
]
NAMES = ["vgg", "liaf", "images", "crnn"]


@pytest.mark.parametrize(("network", "neuron", "shape"), CASES, ids=NAMES)
def test_onnx(tmp_path, network, neuron, shape):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    path = saved(tmp_path, network, neuron, shape, **({"steps": 2} if len(shape) == 3 else {}))
    assert export(path, tmp_path / "net.onnx") == shape
    session = runtime.InferenceSession(tmp_path / "net.onnx")
    for samples in (1, 5):
        x = batch(shape, samples=5)[:samples]
        (found,) = session.run(["logits"], {"input": x.numpy()})
        torch.testing.assert_close(
            torch.from_numpy(found), logits(path, batch(shape))[:samples], atol=1e-4, rtol=0
        )
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == CLASSES
    assert json.loads(facts["framing"])["parameters"] == {"every": 3}


FRESH = """
import json, sys, torch
facts = {"facts.json": ""}
network = torch.export.load(sys.argv[1], extra_files=facts).module()
x, want = torch.load(sys.argv[2])
for samples in (1, len(x)):
    torch.testing.assert_close(network(x[:samples]), want[:samples], atol=1e-4, rtol=0)
assert not {"train", "eventdata"} & set(sys.modules)
print(json.loads(facts["facts.json"])["classes"])
"""


def test_pt2_runs_in_a_process_without_this_package(tmp_path):
    path = saved(tmp_path, TINY, LIF, collapse=3)
    assert export(path, tmp_path / "net.pt2") == SHAPE
    x = batch(SHAPE)
    torch.save((x, logits(path, x)), tmp_path / "pair.pt")
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", FRESH, "net.pt2", "pair.pt"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.stdout.strip() == str(CLASSES), done.stderr


@pytest.mark.parametrize(("network", "neuron", "shape"), CASES[1:], ids=NAMES[1:])
def test_pt2(tmp_path, network, neuron, shape):
    path = saved(tmp_path, network, neuron, shape)
    export(path, tmp_path / "net.pt2")
    x = batch(shape)
    found = torch.export.load(tmp_path / "net.pt2").module()(x)
    torch.testing.assert_close(found, logits(path, x), atol=1e-4, rtol=0)


def run_graph(graph, frames, dt):
    """Run a NIR graph on frames (T, N, C, H, W) by NIR's equations; return the mean output."""
    nir = pytest.importorskip("nir")
    sources = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
    order = list(TopologicalSorter(sources).static_order())
    membranes, outputs = {}, []
    for frame in frames:
        values = {}
        for name in order:
            node = graph.nodes[name]
            x = sum((values[source] for source in sources[name]), torch.zeros(()))
            if isinstance(node, nir.Input):
                x = frame
            elif isinstance(node, nir.Conv2d):
                weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
                assert node.groups == 1
                x = functional.conv2d(x, weight, bias, tuple(node.stride), tuple(node.padding))
            elif isinstance(node, nir.LIF):
                tau, r, leak, threshold, reset = (
                    torch.from_numpy(part)
                    for part in (node.tau, node.r, node.v_leak, node.v_threshold, node.v_reset)
                )
                v = membranes.get(name, torch.zeros(()))
                v = v + dt / tau * (leak - v + r * x)
                x = (v > threshold).float()
                membranes[name] = torch.where(v > threshold, reset, v)
            elif isinstance(node, nir.Threshold):
                x = (x > torch.from_numpy(node.threshold)).float()
            elif isinstance(node, nir.SumPool2d | nir.AvgPool2d):
                kernel, stride, pad = (
                    tuple(part.tolist()) for part in (node.kernel_size, node.stride, node.padding)
                )
                x = functional.avg_pool2d(x, kernel, stride, pad)
                x = x * np.prod(kernel) if isinstance(node, nir.SumPool2d) else x
            else:
                assert isinstance(node, nir.Output)
            values[name] = x
        outputs.append(values["output"])
    return torch.stack(outputs).mean(0).flatten(1)


NIR_CASES = {
    "max-pools": (TINY, LIF, SHAPE, {}),
    "published events": (
        RESNET | {"respond_to_sum": True},
        LIF | {"decay": 0.3, "learn_decay": False},
        (2, 2, 32, 30),
        {},
    ),
    "torchvision": ({"name": "torchvision-resnet18", "width": 2, "depths": [1, 2]}, LIF, SHAPE, {}),
    "images": (PLAIN, LIF, (3, 8, 8), {"steps": 3}),
}


@pytest.mark.parametrize("case", NIR_CASES)
def test_nir(tmp_path, case):
    nir = pytest.importorskip("nir")
    network, neuron, shape, settings = NIR_CASES[case]
    path = saved(tmp_path, network, neuron, shape, **settings)
    export(path, tmp_path / "net.nir")
    graph = nir.read(tmp_path / "net.nir")
    steps, dt = (json.loads(graph.metadata[key]) for key in ("steps", "dt"))
    assert json.loads(graph.metadata["classes"]) == CLASSES
    x = batch(shape)
    frames = x.transpose(0, 1) if x.ndim == 5 else x.expand(steps, *x.shape)
    assert len(frames) == steps
    torch.testing.assert_close(run_graph(graph, frames, dt), logits(path, x), atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "program", ["snntorch.import_nir", "spikingjelly.activation_based.nir_exchange"]
)
def test_importers_of_nir(tmp_path, program):
    """Neither importer knows thresholds, so the network has no max-pool."""
    nir = pytest.importorskip("nir")
    if importlib.util.find_spec(program.partition(".")[0]) is None:
        pytest.skip(f"{program.partition('.')[0]} is not installed")
    path = saved(tmp_path, PLAIN, LIF, (3, 8, 8), steps=3)
    export(path, tmp_path / "net.nir")
    imported = importlib.import_module(program).import_from_nir(nir.read(tmp_path / "net.nir"))
    x, state, outputs = batch((3, 8, 8)), None, []
    with torch.no_grad():
        for _ in range(3):
            out, state = imported(x, state)
            outputs.append(out)
    found = torch.stack(outputs).mean(0).flatten(1)
    torch.testing.assert_close(found, logits(path, x), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("network", "neuron", "shape", "says"),
    [
        (TINY, {"kind": "liaf"}, SHAPE, "stem.neuron: NIR can't express neurons of the kind liaf"),
        (TINY, {"kind": "ann"}, SHAPE, "neurons of the kind ann"),
        (CASES[3][0], LIF, CASES[3][2], "network: NIR can't express a CRNN and LSTM"),
    ],
)
def test_nir_refuses_by_name(tmp_path, network, neuron, shape, says):
    pytest.importorskip("nir")
    path = saved(tmp_path, network, neuron, shape)
    with pytest.raises(OptionError, match=says):
        export(path, tmp_path / "net.nir")
    assert not (tmp_path / "net.nir").exists()


def test_safetensors_states_everything(tmp_path):
    path = saved(tmp_path, TINY, LIF)
    export(path, tmp_path / "out/net.safetensors")
    assert weight_facts(tmp_path / "out/net.safetensors") == weight_facts(path)
    x = batch(SHAPE)
    assert torch.equal(logits(tmp_path / "out/net.safetensors", x), logits(path, x))


def test_weights_of_other_programs_get_a_header(tmp_path):
    """Only the framing is unknown: the shape is passed, and a loaded network takes any."""
    path = saved(tmp_path, PLAIN, {"kind": "ann"}, (3, 9, 9))
    with safe_open(path, "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    torch.save(state, tmp_path / "bare.pt")
    recipe = tmp_path / "own.toml"
    recipe.write_text(
        'pipeline = "pipe-s"\n[network]\nname = "image-resnet18"\nwidth = 2\n'
        'depths = [1, 2]\nstem = "small"\n[stages.ann]\n'
        'data = "images"\nneuron = { kind = "ann", activation = "relu" }\nepochs = 1\n'
    )
    bare, out = tmp_path / "bare.pt", tmp_path / "whole.safetensors"
    with pytest.raises(OptionError, match="does not state the shape .* pass --shape"):
        export(bare, tmp_path / "net.pt2", recipe=str(recipe))
    assert export(bare, tmp_path / "net.pt2", recipe=str(recipe), shape=(3, 12, 10)) == (3, 12, 10)
    for name in ("net.pt2", "net.nir", "net.safetensors"):
        with pytest.raises(OptionError, match=r"can't take samples of shape \(2, 12, 10\)"):
            export(bare, tmp_path / name, recipe=str(recipe), shape=(2, 12, 10))
    export(bare, out, recipe=str(recipe))
    x = batch((3, 12, 10))
    want = logits(bare, x, recipe=str(recipe))
    assert torch.equal(logits(out, x), want)
    assert load_model(out)[1].framing is None
    found = torch.export.load(tmp_path / "net.pt2").module()(x)
    torch.testing.assert_close(found, want, atol=1e-4, rtol=0)


def test_command(tmp_path, monkeypatch):
    path = saved(tmp_path, TINY, LIF)
    run = CliRunner().invoke
    done = run(main, ["export", str(path), "-o", str(tmp_path / "net.pt2")])
    assert done.exit_code == 0, done.output
    assert "net.pt2: samples of shape (3, 2, 17, 16)" in done.output
    for words, says in (
        (["-o", "net.tflite"], "unknown suffix; choose .onnx, .pt2, .nir, .safetensors"),
        (["-o", "net.pt2", "--shape", "3,2,8,8"], "omit the shape"),
        (["-o", "net.pt2", "--shape", "2,x"], "T,P,H,W"),
    ):
        done = run(main, ["export", str(path), *words])
        assert done.exit_code == 2
        assert says in " ".join(done.output.split())
    monkeypatch.setitem(module.PACKAGES, ".nir", ("no_such_package",))
    with pytest.raises(OptionError, match=r"no_such_package is not .*'eventdata\[nir\]'"):
        export(path, tmp_path / "net.nir")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="can't be written"):
        export(path, tmp_path / "file/net.safetensors")
