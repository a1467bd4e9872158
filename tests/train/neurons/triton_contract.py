"""The contract of the GPU kernels, which `test_gpu` runs in a process of its own.

With TRITON_INTERPRET=1 it runs in Triton's interpreter on the CPU, else on a GPU.
"""

import os

import pytest
import torch

from train.networks import build
from train.neurons import gpu
from train.neurons.neuron import NeuronSettings, integrate, loop

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"


@pytest.fixture(autouse=True)
def _kernels_for_the_cpu(monkeypatch):
    if INTERPRETED:
        monkeypatch.setattr("train.neurons.neuron.kernels_for", lambda *_: gpu)


def channels_last(x):
    """Return x (T, N, C, H, W) in the memory layout of a convolution's output."""
    return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])


@pytest.mark.parametrize("surrogate", ["rectangular", "triangular", "arctangent", None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 5), (8, 2, 3, 4, 5), (15, 1030), (32, 1), (4, 2, 16, 8, 8)])
def test_kernels_give_the_same_numbers_as_the_loop(surrogate, dtype, shape):
    rng = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(2, *shape, generator=rng).to(DEVICE, dtype)
    x = channels_last(x) if x.ndim == 5 else x
    runs = []
    for run in (loop, integrate):
        leaf = x.clone().requires_grad_()
        decay = torch.tensor([0.3], device=DEVICE, requires_grad=True)
        out = run(leaf, decay, 0.5, surrogate)
        assert (type(out.grad_fn).__name__ == "FusedBackward") == (run is integrate)
        out.backward(gradient)
        learned = torch.zeros_like(decay) if decay.grad is None else decay.grad
        runs.append((out, leaf.grad, learned))
    (want, want_gx, want_gdecay), (have, have_gx, have_gdecay) = runs
    if surrogate is not None:
        assert torch.equal(have, want)
    assert have.stride() == have_gx.stride() == x.stride()
    torch.testing.assert_close(have, want)  # the interpreter truncates bfloat16, GPUs round
    torch.testing.assert_close(have_gx, want_gx)
    torch.testing.assert_close(have_gdecay, want_gdecay, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1, 8, 1001, 8 * 1024 + 3])
def test_packing_and_unpacking_returns_the_spikes(dtype, size):
    spikes = torch.rand(size, generator=torch.Generator().manual_seed(0)) < 0.3
    spikes = spikes.to(DEVICE, dtype)
    packed = gpu.pack(spikes)
    assert packed.numel() == -(-size // 8)
    assert torch.equal(gpu.unpack(packed, size, dtype), spikes)


@pytest.mark.parametrize("pack_spikes", ["never", "always"])
def test_a_training_step_gives_the_same_numbers_as_the_loop(pack_spikes):
    draw = torch.Generator().manual_seed(0)
    frames = (torch.rand(2, 4, 2, 16, 16, generator=draw) < 0.2).float().to(DEVICE)
    losses, gradients = [], []
    for backend in ("loop", "auto"):
        torch.manual_seed(0)
        settings = {"channels": 2, "classes": 5, "width": 8, "stem": "small"}
        neuron = NeuronSettings(surrogate="triangular", backend=backend)
        network = build("event-resnet18", neuron=neuron, **settings)
        network = network.to(DEVICE, memory_format=torch.channels_last)
        network.pack_spikes = pack_spikes
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = network(frames).float().square().mean()
        loss.backward()
        losses.append(loss.detach())
        known = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        gradients.append(torch.cat(known))
    torch.testing.assert_close(*losses, rtol=0.02, atol=1e-3)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99
