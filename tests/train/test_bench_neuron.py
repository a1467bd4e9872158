"""The benches of neurons and of a training step run and write their results."""

import json
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from torch._C._autograd import DeviceType

from tools.bench import neuron, step
from train.neurons.neuron import integrate


def run(bench, output, *options):
    """Run a bench in this process and return its result."""
    words = ["--runs=1", f"--output={output}", *options]
    done = CliRunner().invoke(bench.main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(output.read_text())


def test_neurons_are_compared_with_relu(tmp_path):
    shape = ["--shape", "4", "2", "8", "16", "16"]
    result = run(neuron, tmp_path / "result.json", *shape)
    timings = result["ms_per_pass"]
    assert {"relu", "lif", "liaf membrane", "lif, torch loop"} <= set(timings)
    assert ("SpikingJelly LIFNode" in timings) != bool(result["not_measured"])
    assert all(one["floor"] == timings["lif"]["floor"] > 0 for one in timings.values())
    ratio = timings["lif"]["median"] / timings["relu"]["median"]
    assert result["facts"]["lif over relu"] == pytest.approx(ratio, abs=0.01)
    # The backward pass needs one kept tensor; the loop keeps at least a membrane and a mask.
    for direction in ("forward", "backward"):
        assert set(result["facts"][f"{direction}, of the copy's bandwidth"]) == set(timings)
    kept = result["facts"]["kept between the passes, over the input"]
    assert kept["lif"] == kept["liaf membrane"] == kept["relu"] == 1
    assert kept["lif, torch loop"] > 1


SMALL = ["--width=4", "--side=32", "--batch=2", "--steps=4", "--threads=1"]


def test_a_step_is_compared_with_the_same_network_with_relu(tmp_path):
    result = run(step, tmp_path / "result.json", *SMALL, "--method=lif")
    timings, facts = result["ms_per_step"], result["facts"]
    relu = timings["ann, ReLU"]["median"]
    assert list(timings) == ["ann, ReLU", "lif"]
    for name, timing in timings.items():
        assert facts["time over ReLU"][name] == pytest.approx(timing["median"] / relu, abs=1e-3)
        assert facts["peak of memory, MB"][name] > 0
    assert 0 < facts["share of the time in neurons"]["lif"] < 1
    kept = facts["kept for the pass backward, MB"]
    assert 0 < kept["lif"] < 1.1 * kept["ann, ReLU"]


def test_blocks_that_are_run_again_keep_less():
    size = {"width": 4, "side": 32, "batch": 2, "steps": 4, "device": "cpu", "dtype": "float32"}
    again, usual = (step.Trainer(name, **size) for name in ("lif, blocks run again", "lif"))
    assert 0 < again.kept() < usual.kept()


def test_growth_is_measured_over_steps_and_samples(tmp_path):
    result = run(step, tmp_path / "result.json", "--growth", *SMALL)
    assert set(result["ms_per_frame"]) == {
        f"{name}, T = {steps}, N = {batch}"
        for name in ("lif", "ann, ReLU")
        for steps, batch in ((2, 2), (4, 2), (8, 2), (4, 4))
    }


def test_on_gpus_spikingjellys_kernels_have_our_surrogate():
    pytest.importorskip("spikingjelly")
    x, gradient = torch.randn(2, 8, 3, 50, generator=torch.Generator().manual_seed(0))
    runs = []
    for method in (
        neuron.spikingjelly_kernels(),
        lambda x: integrate(x, 0.25, surrogate="arctangent"),
    ):
        leaf = x.clone().requires_grad_()
        out = method(leaf)
        out.backward(gradient)
        runs.append((out, leaf.grad))
    torch.testing.assert_close(*runs)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (("not built", 2.0, 9.0), "triton, its fastest; cuda does not run (not built)"),
        (("not built", "broken", 9.0), "torch, its loop, none of its kernels; cuda does not"),
        (("not built", "broken", "none"), "cuda does not run (not built); triton does not"),
    ],
)
def test_spikingjellys_fastest_implementation_is_chosen_and_reported(monkeypatch, found, says):
    for_each = dict(zip(neuron.PEERS, found, strict=True))
    monkeypatch.setattr(neuron, "peer_milliseconds", lambda name, *_: for_each[name])
    monkeypatch.setattr(neuron.os, "environ", {})
    assert neuron.choose_peer("cuda", "bfloat16").startswith(says)
    chosen = neuron.os.environ.get(neuron.PEERS_SETTING)
    assert chosen == (says.partition(",")[0] if "," in says else None)


def test_an_implementation_is_tried_in_its_own_process():
    pytest.importorskip("spikingjelly")
    assert "Error" in neuron.peer_milliseconds("torch", "cpu", "no such dtype")


def test_a_gpus_time_is_counted_once():
    def event(key, device, own, total, annotation=False):
        return SimpleNamespace(
            key=key,
            device_type=device,
            self_device_time_total=own,
            device_time_total=total,
            is_user_annotation=annotation,
        )

    events = [
        event("Fused", DeviceType.CPU, 0, 30),  # the kernels below it
        event("_forward", DeviceType.CUDA, 30, 30),
        event("conv", DeviceType.CUDA, 70, 70),
        event("Optimizer.step", DeviceType.CUDA, 100, 100, annotation=True),
    ]
    assert step.share_of(events, ("Fused",), cuda=True) == 0.3
