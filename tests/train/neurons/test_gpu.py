"""The GPU kernels: in Triton's interpreter where Triton is installed, and on a GPU."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from train.neurons.bits import pack, unpack
from train.neurons.kernels import triton_kernels
from train.neurons.neuron import integrate, loop

no_gpu = not torch.cuda.is_available()
CONTRACT = Path(__file__).with_name("triton_contract.py")


@pytest.mark.parametrize(
    "interpreted",
    ["1", pytest.param("0", marks=pytest.mark.skipif(no_gpu, reason="no GPU here"))],
)
def test_kernels_keep_their_contract(interpreted):
    pytest.importorskip("triton")
    # In its own process, because a kernel is interpreted or not from its import on.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CONTRACT)]
    done = subprocess.run(
        command,
        env={**os.environ, "TRITON_INTERPRET": interpreted},
        cwd=CONTRACT.parents[3],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.skipif(no_gpu, reason="no GPU here")
@pytest.mark.parametrize("surrogate", ["rectangular", None])
def test_the_gpu_gives_the_same_numbers_as_the_cpu(surrogate):
    x = torch.randn(8, 3, 1000, generator=torch.Generator().manual_seed(0))
    here, there = x.clone().requires_grad_(), x.cuda().requires_grad_()
    want, have = loop(here, 0.3, 0.5, surrogate), integrate(there, 0.3, 0.5, surrogate)
    want.sum().backward()
    have.sum().backward()
    torch.testing.assert_close(have.cpu(), want)
    torch.testing.assert_close(there.grad.cpu(), here.grad)
    spikes = (there > 0).float().flatten()
    assert torch.equal(unpack(pack(spikes), spikes.numel(), spikes.dtype), spikes)


def test_a_broken_triton_warns_once(monkeypatch):
    def broken(values):
        raise OSError("no C compiler")

    monkeypatch.setattr("train.neurons.kernels.find_spec", lambda name: True)
    monkeypatch.setattr("train.neurons.kernels.torch.ones", lambda *_, **__: None)
    monkeypatch.setattr("train.neurons.gpu", SimpleNamespace(pack=broken), raising=False)
    triton_kernels.cache_clear()
    try:
        with pytest.warns(UserWarning, match="does not run here .OSError: no C compiler"):
            assert triton_kernels() is None
        assert triton_kernels() is None  # no second warning
    finally:
        triton_kernels.cache_clear()
