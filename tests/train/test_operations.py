"""Operations against counts of every single product, and firing rates."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from eventdata.errors import InputError
from train.networks import build
from train.neurons.neuron import Neuron, NeuronSettings
from train.operations import measure


def conv_one_by_one(x, conv):
    """Count a convolution's products, and those with a nonzero input, one by one: x (C, H, W)."""
    C, H, W = x.shape
    (rows, columns), (down, right), (top, left) = conv.kernel_size, conv.stride, conv.padding
    apart_y, apart_x = conv.dilation
    out_rows = (H + 2 * top - apart_y * (rows - 1) - 1) // down + 1
    out_columns = (W + 2 * left - apart_x * (columns - 1) - 1) // right + 1
    count = 0
    for group in range(conv.groups):
        inputs = range(group * C // conv.groups, (group + 1) * C // conv.groups)
        for y, x_ in np.ndindex(out_rows, out_columns):
            for ky, kx in np.ndindex(rows, columns):
                py, px = y * down + ky * apart_y - top, x_ * right + kx * apart_x - left
                if 0 <= py < H and 0 <= px < W:
                    count += sum(x[c, py, px] != 0 for c in inputs)
    return count * conv.out_channels // conv.groups, conv.weight.numel() * out_rows * out_columns


@given(
    groups=st.integers(1, 2),
    size=st.tuples(st.integers(5, 8), st.integers(5, 8)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_convolutions_are_counted_product_by_product(
    groups, size, kernel, stride, padding, dilation, seed
):
    conv = nn.Conv2d(
        2 * groups, 3 * groups, kernel, stride, padding, dilation=dilation, groups=groups
    )
    x = (
        torch.rand(1, 2 * groups, *size, generator=torch.Generator().manual_seed(seed)) < 0.3
    ) * 1.0
    layer = measure(nn.Sequential(conv), [x]).layers["0"]
    assert (layer.synaptic, layer.dense) == conv_one_by_one(x[0].numpy(), conv)
    assert layer.binary


def test_linear_layers_and_lstms_are_counted():
    linear = measure(nn.Sequential(nn.Linear(3, 5)), [torch.tensor([[1.0, 0, 1], [0, 0, 0]])])
    assert linear.layers["0"].synaptic == 2 * 5 / 2
    assert linear.layers["0"].dense == 3 * 5
    x = torch.ones(4, 1, 3)  # (T, N, C); the network's batch has N first
    lstm = nn.LSTM(3, 2)

    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = lstm

        def forward(self, batch):
            return self.lstm(batch.transpose(0, 1))[0][-1]

    layer = measure(Steps(), [x.transpose(0, 1)]).layers["lstm"]
    assert layer.dense == 4 * (4 * 2) * (3 + 2)
    assert layer.synaptic == 4 * (4 * 2) * 3 + 3 * (4 * 2) * 2  # the first hidden state is zero


def test_the_work_of_training_is_forward_and_two_gradients():
    """Spikes into the first layer cost additions; the second reads analogue values."""
    first, second = nn.Linear(3, 5, bias=False), nn.Linear(5, 2, bias=False)
    nn.init.constant_(first.weight, 0.7)
    found = measure(nn.Sequential(first, second), [torch.tensor([[1.0, 0, 1]])])
    assert found.training_additions == 2 * (2 * 5)  # forward, gradient of the weights
    assert found.training_multiply_adds == 2 * (5 * 2) + 5 * 2  # and of the second's inputs
    assert found.dense_training == 2 * (3 * 5) + 3 * (5 * 2)
    neurons = nn.Sequential(Neuron(NeuronSettings(kind="lif")))
    assert measure(neurons, [torch.ones(4, 4, 3)]).training_multiply_adds == 2 * 3 * 3


class Pair(nn.Module):
    """One convolution and one neuron, each called twice per sample, as in a block."""

    def __init__(self, kind):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.conv.weight)
        self.neuron = Neuron(NeuronSettings(kind=kind, decay=0.5, learn_decay=False))

    def forward(self, x):  # (N, T, 1, H, W)
        x = x.transpose(0, 1)
        for _ in range(2):
            x = self.neuron(self.conv(x.flatten(0, 1)).reshape(x.shape))
        return x.mean((0, 2, 3, 4))


def test_a_network_counted_by_hand():
    x = torch.zeros(2, 3, 1, 2, 2)  # (N, T, P, H, W): two samples, three steps, four neurons
    x[0, 0, 0, 0, 0] = 1.0
    x[1, :, 0, 1, 1] = 0.4  # membranes 0.4, 0.6, 0.4: one spike
    counts = measure(Pair("lif"), [x[:1], x[1:]])  # means over batches of one
    assert counts.samples == 2
    assert counts.layers["conv"].synaptic == (1 + 3) / 2
    assert counts.layers["conv#2"].synaptic == (1 + 1) / 2
    assert counts.layers["conv"].dense == counts.layers["conv#2"].dense == 12
    assert counts.rates == {"neuron": 1 / 12, "neuron#2": 1 / 12}
    assert counts.layers["neuron"].membrane == 2 * 4
    assert not counts.layers["conv"].binary
    assert counts.layers["conv#2"].binary
    assert counts.synaptic == 3
    assert (counts.additions, counts.multiplications) == (3 + 16, 2 + 16)
    assert (counts.dense_additions, counts.dense_multiplications) == (24 + 16, 12 + 16)
    assert counts.parameters == 1


def test_an_ann_has_no_membrane():
    counts = measure(Pair("ann"), [torch.ones(1, 3, 1, 2, 2)])
    assert counts.layers["neuron"].membrane == 0
    assert counts.rates["neuron"] == 1


def test_the_batch_size_does_not_change_the_means():
    network = build("vgg", channels=2, classes=3, width=4, neuron=NeuronSettings())
    x = (torch.rand(4, 3, 2, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    whole, parts = measure(network, [x]), measure(network, x.split(1))
    assert whole.as_dict() == pytest.approx(parts.as_dict() | {"rates": pytest.approx(parts.rates)})


def test_silent_neurons_cost_nothing():
    network = build("event-resnet18", channels=2, classes=3, width=4, neuron=NeuronSettings())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.weight)  # and the bias is zero: no current, no spikes
    counts = measure(network, [torch.ones(1, 4, 2, 64, 64)])
    stem = counts.layers["stem.conv"]
    assert 0 < stem.synaptic < stem.dense  # the dense count includes the padding
    assert counts.synaptic == stem.synaptic
    assert set(counts.rates.values()) == {0.0}


def test_measuring_leaves_the_network_unchanged():
    network = build("vgg", channels=2, classes=3, width=4, neuron=NeuronSettings()).train()
    network.cells[0].norm.eval()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    measure(network, [torch.ones(1, 2, 2, 16, 16)])
    assert network.training
    assert not network.cells[0].norm.training
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_the_event_resnet18_at_full_size():
    network = build("event-resnet18", channels=2, classes=1000, neuron=NeuronSettings())
    counts = measure(network, [torch.ones(1, 8, 2, 224, 224)])
    convolutions = {
        name: layer.dense for name, layer in counts.layers.items() if name.endswith("conv")
    }
    macs = 8 * (64 * 2 * 49 * 112**2 + 4 * 64 * 64 * 9 * 55**2)  # stem and first stage
    side, channels = 28, 128
    for _ in range(3):
        place = channels * side**2
        macs += 8 * place * (channels // 2 * 10 + 3 * channels * 9)  # 3x3 and 1x1, then three 3x3
        side, channels = side // 2, 2 * channels
    assert sum(convolutions.values()) == macs
    assert pytest.approx(macs, rel=0.02) == 12.668e9 * 9 / 8
    assert counts.layers["fc"].dense == 512_000
    assert counts.parameters == 11_693_233
    table = str(counts).splitlines()
    assert len(table) == 1 + len(counts.layers) + 3


def test_no_data_is_an_error():
    with pytest.raises(InputError, match="there is no batch"):
        measure(Pair("lif"), [])
