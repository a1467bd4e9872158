"""Memory saved for the backward pass: spikes as bits, and parts that are run again."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from train.neurons.bits import pack, unpack
from train.neurons.cpu import BLOCK
from train.neurons.memory import counted, mark_spikes, max_pool, packed_spikes, recomputed

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.fixture(scope="module", params=[1, 3])
def threads(request):
    """Run the kernels on one thread, then on three."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.neurons.cpu.BYTES_PER_THREAD", 1)
        yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@given(
    size=st.one_of(
        st.integers(0, 100), *(st.integers(8 * n * BLOCK - 9, 8 * n * BLOCK + 9) for n in (1, 17))
    ),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_packing_and_unpacking_returns_the_spikes(size, dtype, seed):
    spikes = (torch.rand(size, generator=torch.Generator().manual_seed(seed)) < 0.3).to(dtype)
    packed = pack(spikes)
    assert packed.nbytes == (size if dtype == torch.float64 else -(-size // 8))
    back = unpack(packed, size, dtype)
    assert back.dtype == dtype
    assert torch.equal(back, spikes)


def some_spikes(*shape):
    """Return a random spike tensor that requires a gradient."""
    rng = torch.Generator().manual_seed(0)
    return (torch.rand(shape, generator=rng) < 0.3).float().requires_grad_() * 1


def kept(layers, x):
    """Return the bytes that layers save for x, without parameters, and the gradient of x."""
    own = {tensor.data_ptr() for layer in layers for tensor in layer.state_dict().values()}
    with counted() as counts, packed_spikes():
        outs = [layer(x) for layer in layers]
        size = sum(size for address, size in counts.items() if address not in own)
    return size, torch.autograd.grad(sum(out.square().sum() for out in outs), x)[0]


def test_spikes_that_several_layers_read_are_saved_once_as_bits():
    x = some_spikes(4, 8, 16, 16)
    layers = [nn.Conv2d(8, 3, 3), nn.Conv2d(8, 5, 1), nn.Flatten()]
    outs = sum(layer(x).nbytes for layer in layers[:2]) + x.nbytes  # which square saves
    plain, want = kept(layers, x)
    bits, have = kept(layers, mark_spikes(x))
    assert plain - bits == x.nbytes - x.numel() // 8
    assert bits <= outs + x.numel() // 8
    assert torch.equal(have, want)


@pytest.mark.parametrize(
    "view", [lambda x: x[1:], lambda x: x.transpose(0, 2), lambda x: x[..., 2]]
)
def test_views_of_spikes_are_restored(view):
    x, weight = some_spikes(3, 4, 5), torch.randn(1)
    mark_spikes(x)
    weight.requires_grad_()
    with packed_spikes():
        out = view(x) * weight
    (gradient,) = torch.autograd.grad(out.sum(), weight)
    assert gradient.item() == view(x).sum().item()


def test_spikes_that_were_overwritten_are_not_packed():
    x, weight = some_spikes(3, 4, 5), torch.randn(1, requires_grad=True)
    mark_spikes(x)
    with torch.no_grad():
        x.mul_(0.5)
    with packed_spikes():
        out = x * weight
    (gradient,) = torch.autograd.grad(out.sum(), weight)
    assert gradient.item() == x.sum().item()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d((3, 2), 1, (1, 0), 2)]
)
def test_max_pooling_saves_only_places_and_gives_the_same_numbers(pool, layout):
    x = some_spikes(4, 6, 9, 11).detach().contiguous(memory_format=layout)
    results = []
    for run in (pool, lambda x: max_pool(pool, x)):
        leaf = x.clone().requires_grad_()
        spikes = mark_spikes(leaf * 1)
        with counted() as counts, packed_spikes():
            out = run(spikes)
            size = sum(counts.values())
        (gradient,) = torch.autograd.grad(out, leaf, out.detach().cumsum(0) + 1)
        results.append((out, gradient, size))
    (want, want_gradient, torchs), (have, have_gradient, ours) = results
    assert torch.equal(have, want)
    assert torch.equal(have_gradient, want_gradient)
    assert have.stride() == want.stride()
    assert have_gradient.stride() == want_gradient.stride()
    assert ours == 8 * have.numel() < torchs
    with torch.no_grad():
        assert torch.equal(max_pool(pool, x), want)


def part():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Tanh())


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("marked", [True, False])
def test_a_recomputed_part_has_the_same_gradients_and_statistics(marked, momentum):
    x = some_spikes(4, 8, 16, 16)
    results = {}
    for again in (True, False):
        module = part()
        module[1].momentum = momentum
        given = mark_spikes(x.clone()) if marked else x.clone()
        with counted() as counts, packed_spikes():
            out = recomputed(module, given) if again else module(given)
            size = sum(counts.values())
        gradients = torch.autograd.grad(out.square().sum(), [x, *module.parameters()])
        results[again] = [*gradients, *module.state_dict().values()]
        if again:
            assert size == (x.numel() // 8 if marked else x.nbytes)
    for have, want in zip(results[True], results[False], strict=True):
        assert torch.equal(have, want)


def test_statistics_are_restored_when_recomputation_fails():
    class Fails(nn.BatchNorm2d):
        def forward(self, x):
            if self.num_batches_tracked:
                raise RuntimeError("on purpose")
            return super().forward(x)

    module = Fails(8)
    buffers = dict(module.named_buffers())
    out = recomputed(module, some_spikes(2, 8, 4, 4))
    with pytest.raises(RuntimeError, match="on purpose"):
        out.sum().backward()
    assert all(buffers[name] is buffer for name, buffer in module.named_buffers())


def test_a_saved_tensor_modified_in_place_is_an_error_as_in_torch():
    x = torch.ones(4, requires_grad=True)
    with packed_spikes():
        y = x * 2
        out = (y * y).sum()
    with torch.no_grad():
        y += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def test_spikes_can_be_marked_under_inference_mode():
    with torch.inference_mode():
        assert mark_spikes(torch.ones(3)).sum() == 3
