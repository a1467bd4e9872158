"""Neurons and their gradients against a step-by-step NumPy reference."""

import multiprocessing
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eventdata.errors import OptionError
from train.neurons import cpu as kernels
from train.neurons.lanes import BYTES, LANES
from train.neurons.memory import counted
from train.neurons.neuron import Neuron, NeuronSettings, integrate, loop, step_by_step
from train.neurons.surrogate import ARCTANGENT, OUTPUTS, RECTANGULAR

f32 = np.float32
SLOPES = {
    "rectangular": lambda d: (abs(d) < f32(0.5)).astype(f32),
    "triangular": lambda d: np.maximum(f32(1) - abs(d), f32(0)),
    "arctangent": lambda d: f32(1) / (f32(1) + (f32(np.pi) * d) ** 2),
    None: np.ones_like,
}


@pytest.fixture(scope="module", autouse=True)
def _threads_for_small_tensors():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "BYTES_PER_THREAD", 1)
        yield


def reference(x, decay, threshold, surrogate, gradient):
    """Return membrane, spikes, and the gradients of the input and the decay, by definition."""
    decay, threshold = f32(decay), f32(threshold)
    u, s = np.zeros_like(x), np.zeros_like(x)
    for t in range(len(x)):
        u[t] = x[t] if t == 0 else decay * u[t - 1] * (1 - s[t - 1]) + x[t]
        s[t] = u[t] > threshold
    gu, gdecay = np.zeros_like(x), 0.0
    for t in reversed(range(len(x))):
        gu[t] = gradient[t] * SLOPES[surrogate](u[t] - threshold)
        if t < len(x) - 1:
            gu[t] += decay * gu[t + 1] * (1 - s[t])
            gdecay += float((gu[t + 1] * u[t] * (1 - s[t])).astype(np.float64).sum())
    return u, s, gu, gdecay


def computed(x, decay, threshold, surrogate, gradient, backend):
    """Return the output and both gradients of `integrate`."""
    x = torch.from_numpy(x).requires_grad_()
    decay = torch.tensor([decay], requires_grad=True)
    out = integrate(x, decay, threshold, surrogate, backend)
    out.backward(torch.from_numpy(gradient))
    return out.detach().numpy(), x.grad.numpy(), 0.0 if decay.grad is None else decay.grad.item()


SHAPES = st.one_of(
    st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(0, 40)),
    st.tuples(st.integers(1, 5), st.integers(1, 3), *[st.integers(1, 5)] * 3),
    st.tuples(st.integers(1, 3), st.just(2), st.integers(4 * kernels.BLOCK - 2, 4 * kernels.BLOCK)),
)


@pytest.mark.parametrize("backend", ["auto", "loop"])
@given(
    shape=SHAPES,
    seed=st.integers(0, 2**32 - 1),
    grid=st.booleans(),
    decay=st.floats(0.0625, 0.9375, width=32),
    threshold=st.sampled_from([0.5, 1.0]),
    surrogate=st.sampled_from(list(SLOPES)),
)
@settings(max_examples=60, deadline=None)
def test_integrate_matches_the_reference(backend, shape, seed, grid, decay, threshold, surrogate):
    rng = np.random.default_rng(seed)
    x, gradient = rng.normal(size=(2, *shape)).astype(f32)
    if grid:  # membranes exactly at the threshold and at the edges of the surrogates
        x, decay = np.round(x * 2) / 2, 0.5
    u, s, gx, gdecay = reference(x, decay, threshold, surrogate, gradient)
    out, gx_here, gdecay_here = computed(x, decay, threshold, surrogate, gradient, backend)
    np.testing.assert_array_equal(out, u if surrogate is None else s)
    np.testing.assert_allclose(gx_here, gx, rtol=1e-6, atol=1e-6)
    if shape[0] > 1:
        assert gdecay_here == pytest.approx(gdecay, rel=1e-4, abs=1e-4 * max(1, x.size**0.5))


def test_the_membrane_passes_gradcheck():
    x = torch.tensor([[0.2, 0.9, -0.3], [0.3, 0.1, 0.7], [0.1, 0.2, 0.3], [0.9, -1, 0.8]])
    x, decay = x.double().requires_grad_(), torch.tensor([0.4], dtype=torch.double).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, d: integrate(x, d, surrogate=None), (x, decay))


def test_a_membrane_computed_by_hand():
    x = torch.tensor([0.4, 0.4, 0.3, 0.3, 0.6, 0.1]).reshape(6, 1)
    u = [0.4, 0.6, 0.3, 0.45, 0.825, 0.1]  # decay 0.5; reset after 0.6 and 0.825
    torch.testing.assert_close(integrate(x, 0.5, surrogate=None).flatten(), torch.tensor(u))
    assert integrate(x, 0.5).flatten().tolist() == [0, 1, 0, 0, 1, 0]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(threads):
    rng = np.random.default_rng(0)
    T, M = 4, 41 * kernels.BLOCK + 2 * LANES
    x, gradient = rng.normal(size=(2, T, M)).astype(f32)

    def run(threads):
        out, gx, terms = np.empty_like(x), np.empty_like(x), np.zeros(kernels.blocks(M))
        constants = f32(0.3), f32(0.5), ARCTANGENT
        kernels.over_blocks(kernels.forward, M, threads, x, *constants, out)
        arguments = gradient, x, *constants, False, gx, terms
        kernels.over_blocks(kernels.backward, M, threads, *arguments)
        return out, gx, terms

    for one, many in zip(run(1), run(threads), strict=True):
        np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize("surrogate", OUTPUTS.values())
def test_an_array_between_the_lines_of_the_cache_gets_the_same_numbers(surrogate):
    rng = np.random.default_rng(0)
    T, M = 5, 6 * LANES
    x, gradient = rng.normal(size=(2, T, M)).astype(f32)
    results = []
    for shift in (0, 1):
        memory = torch.empty(2, T * M + LANES).numpy()
        out, gx = memory[:, shift : shift + T * M].reshape(2, T, M)
        assert (out.ctypes.data % BYTES == 0) == (shift == 0)
        kernels.forward(x, f32(0.3), f32(0.5), surrogate, out, 0, 1)
        kernels.backward(gradient, x, f32(0.3), f32(0.5), surrogate, False, gx, None, 0, 1)
        results.append((out, gx))
    np.testing.assert_array_equal(*results)


def kernel_in_child(results):
    x = np.ones((2, 64 * kernels.BLOCK), f32)
    out = np.zeros_like(x)
    args = x, f32(0.5), f32(0.5), RECTANGULAR, out
    kernels.over_blocks(kernels.forward, x.shape[1], 4, *args)
    results.put(float(out.mean()))


def test_kernels_work_in_a_child_forked_after_use():
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    kernel_in_child(results)
    child = context.Process(target=kernel_in_child, args=(results,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is the point
        child.start()
    child.join(60)
    assert child.exitcode == 0
    assert [results.get(), results.get()] == [1.0, 1.0]


def test_memory_layouts_give_the_same_numbers():
    rng = torch.Generator().manual_seed(0)
    dense = torch.randn(3, 2, 4, 5, 6, generator=rng)
    gradient = torch.randn(3, 2, 4, 5, 6, generator=rng)
    channels_last = dense.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    layouts = {
        "contiguous": dense,
        "channels last": channels_last.unflatten(0, (3, 2)),
        "time inside": dense.permute(1, 2, 3, 4, 0).contiguous().permute(4, 0, 1, 2, 3),
        "expanded": dense[:1].expand(3, 2, 4, 5, 6),
    }
    for name, x in layouts.items():
        want, have = x.clone().requires_grad_(), x.detach().requires_grad_()
        loop(want, 0.5).backward(gradient)
        out = integrate(have, 0.5)
        out.backward(gradient)
        assert torch.equal(out, loop(x, 0.5)), name
        torch.testing.assert_close(have.grad, want.grad, msg=name)
        if name == "channels last":
            assert out.stride() == x.stride()


def test_an_expanded_current_keeps_its_memory_order():
    image = torch.randn(2, 4, 5, 6).contiguous(memory_format=torch.channels_last)
    current = step_by_step(image.expand(3, 2, 4, 5, 6))
    assert torch.equal(current, image.expand(3, 2, 4, 5, 6))
    assert current[1].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["auto", "loop"])
@pytest.mark.parametrize("surrogate", ["rectangular", "arctangent", None])
def test_half_precision_is_computed_in_float32(dtype, backend, surrogate):
    rng = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(2, 5, 3, 7, generator=rng).to(dtype)
    single = x.float().requires_grad_()
    want = loop(single, 0.25, surrogate=surrogate).to(dtype)
    want.backward(gradient)
    have = integrate(x.requires_grad_(), 0.25, surrogate=surrogate, backend=backend)
    have.backward(gradient)
    assert have.dtype == x.grad.dtype == dtype
    assert torch.equal(have, want)
    assert torch.equal(x.grad, single.grad.to(dtype))


def test_autocast_leaves_neurons_in_float32():
    neuron = Neuron(NeuronSettings(kind="lif"))
    x = torch.randn(4, 2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(neuron(x), loop(x, 0.5))


@pytest.mark.parametrize("carry", [None, torch.tanh])
def test_a_recomputed_loop_saves_only_its_input(carry):
    x = torch.randn(6, 2, 50, generator=torch.Generator().manual_seed(0))
    kept, grads = {}, {}
    for recompute in (False, True):
        leaf = x.clone().requires_grad_()
        decay = torch.tensor([0.4], requires_grad=True)
        current = leaf * 1
        with counted() as counts:
            out = integrate(current, decay, backend="loop", carry=carry, recompute=recompute)
            kept[recompute] = sum(counts.values())
        out.square().sum().backward()
        grads[recompute] = leaf.grad, decay.grad
    assert kept[True] == x.nbytes + decay.nbytes
    assert kept[False] > kept[True]
    assert all(map(torch.equal, grads[True], grads[False]))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's
def test_the_loop_compiles_to_one_graph():
    compiled = torch.compile(loop, backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    out = compiled(a, 0.5)
    out.sum().backward()
    loop(b, 0.5).sum().backward()
    assert torch.equal(out, loop(x, 0.5))
    assert torch.equal(a.grad, b.grad)


KINDS = ("ann", "liaf", "lif")


class TestNeuron:
    """The contract of all three kinds."""

    x = torch.randn(4, 2, 3, 5, 5, generator=torch.Generator().manual_seed(1))

    @pytest.mark.parametrize("kind", KINDS)
    def test_output_is_the_response_to_the_membrane(self, kind):
        neuron = Neuron(NeuronSettings(kind=kind, activation="relu", decay=0.3))
        u = self.x if kind == "ann" else integrate(self.x, 0.3, surrogate=None)
        want = (u > 0.5).float() if kind == "lif" else u.relu()
        torch.testing.assert_close(neuron(self.x), want)
        assert torch.equal(neuron.respond(u), want)

    @pytest.mark.parametrize("learned", [True, False])
    def test_state_is_the_same_for_all_kinds(self, learned):
        states = [
            Neuron(NeuronSettings(kind=kind, learn_decay=learned)).state_dict() for kind in KINDS
        ]
        assert [list(state) for state in states] == [["decay"] if learned else []] * 3

    @pytest.mark.parametrize("activation", ["relu", "leaky_relu", "selu", "sharpened_relu"])
    def test_ann_is_liaf_of_one_step(self, activation):
        ann, liaf = (
            Neuron(NeuronSettings(kind=kind, activation=activation)) for kind in ("ann", "liaf")
        )
        assert torch.equal(ann(self.x[:1]), liaf(self.x[:1]))

    @pytest.mark.parametrize("kind", ["liaf", "lif"])
    def test_a_learned_decay_starts_at_its_setting_and_learns(self, kind):
        neuron = Neuron(NeuronSettings(kind=kind, decay=0.2))
        assert torch.sigmoid(neuron.decay).item() == pytest.approx(0.2)
        neuron(self.x).sum().backward()
        assert neuron.decay.grad.abs().item() > 0

    def test_an_anns_decay_requires_no_gradient(self):
        assert not Neuron(NeuronSettings(kind="ann")).decay.requires_grad

    def test_any_function_is_an_activation(self):
        neuron = Neuron(NeuronSettings(kind="liaf", activation=torch.tanh))
        assert torch.equal(neuron(self.x[:1]), self.x[:1].tanh())

    def test_the_published_liaf18_carries_its_activated_membrane(self):
        settings = NeuronSettings(kind="liaf", decay=0.5, learn_decay=False)
        x = torch.tensor([[-1.0], [0.0], [0.8], [0.1]])
        kept = [-1.0, -0.5, 0.55, 0.1]
        carried = [
            -0.2,
            -0.02,
            0.79,
            0.1,
        ]  # leaky (0.2): -1 -> -0.2, -0.1 -> -0.02, reset after 0.79
        out = Neuron(settings)(x).flatten()
        torch.testing.assert_close(out, torch.nn.functional.leaky_relu(torch.tensor(kept), 0.2))
        out = Neuron(replace(settings, carry_activated=True))(x).flatten()
        torch.testing.assert_close(out, torch.tensor(carried))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kind": "snn"}, "kind is 'snn': choose ann, liaf, lif"),
        ({"surrogate": "square"}, "surrogate is 'square': choose rectangular"),
        ({"activation": "swish"}, "activation is 'swish': choose identity, relu"),
        ({"backend": "cuda"}, "backend is 'cuda': choose auto"),
        ({"decay": 1.0}, "decay is 1.0: choose more than 0 and less than 1"),
    ],
)
def test_invalid_settings_are_named(wrong, says):
    with pytest.raises(OptionError, match=says):
        NeuronSettings(**wrong)


def test_input_without_steps_is_an_error():
    with pytest.raises(OptionError, match="with at least one step"):
        integrate(torch.zeros(0, 3), 0.5)


@pytest.mark.parametrize("decay", [torch.tensor([0.5]), torch.tensor([0.2, 0.5, 0.9])])
def test_one_decay_for_all_neurons_or_one_for_each(decay):
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(integrate(x, decay), loop(x, decay))


@pytest.mark.parametrize("kind", ["ann", "liaf", "lif"])
def test_neurons_run_under_inference_mode(kind):
    neuron = Neuron(NeuronSettings(kind=kind))
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(neuron(x), neuron(x.clone()))
