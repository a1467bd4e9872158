"""What `test_neuron_triton` runs in Triton's interpreter, on the CPU: no test by its name alone."""

import pytest
import torch

from train import neuron_triton, neurons
from train.neurons import integrate, loop


@pytest.fixture(autouse=True)
def _kernels_for_the_cpu(monkeypatch):
    monkeypatch.setattr(neurons, "_kernels", lambda x: neuron_triton)


@pytest.mark.parametrize("surrogate", ["rectangular", "triangular", "arctangent", None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 5), (8, 2, 3, 4, 5), (15, 1030)])
def test_the_kernels_have_the_numbers_of_the_loop(surrogate, dtype, shape):
    rng = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(2, *shape, generator=rng).to(dtype)
    runs = []
    for run in (loop, integrate):
        leaf = x.clone().requires_grad_()
        decay = torch.tensor([0.3], requires_grad=True)
        out = run(leaf, decay, 0.5, surrogate)
        out.backward(gradient)
        learned = torch.zeros(1) if decay.grad is None else decay.grad
        runs.append((out, leaf.grad, learned))
    (want, want_gx, want_gdecay), (have, have_gx, have_gdecay) = runs
    if surrogate is not None:
        assert torch.equal(have, want)
    torch.testing.assert_close(have, want)  # the interpreter cuts bfloat16 off, GPUs round
    torch.testing.assert_close(have_gx, want_gx)
    torch.testing.assert_close(have_gdecay, want_gdecay, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1, 8, 1001, 8 * 1024 + 3])
def test_bits_come_back_as_the_spikes_they_were(dtype, size):
    spikes = (torch.rand(size, generator=torch.Generator().manual_seed(0)) < 0.3).to(dtype)
    packed = neuron_triton.pack(spikes)
    assert packed.numel() == -(-size // 8)
    assert torch.equal(neuron_triton.unpack(packed, size, dtype), spikes)
