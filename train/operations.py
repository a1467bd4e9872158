"""The cost of a network's answer: firing rates and operations per sample, measured on data.

A *synaptic operation* is one nonzero input value passing through one synapse; a spike that does not
fire costs nothing. It is an addition onto a sum that starts from the bias, and also a
multiplication unless all the layer's inputs are 0 or 1. *Dense* counts take every input as nonzero,
padding included: output size times fan-in. A layer counts at every step in which it runs. A
membrane costs one addition and one multiplication per neuron and step after the first.

Training runs each layer three times. Forward, and for the gradient of the weights, each nonzero
input costs an operation per synapse: an addition if all inputs are 0 or 1, else a multiply-add.
For the gradient of the inputs, which the first layer does not need, every synapse costs a
multiply-add, because gradients are analogue. A membrane costs a multiply-add in each direction.

Not counted: norms, which fold into the weights before them at inference, and residual sums,
pooling, means and activations, which together are a small share.

Legend: T steps, N samples, C channels, H rows, W columns.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from eventdata.errors import InputError
from train.neurons.neuron import Neuron


@dataclass(kw_only=True)
class Layer:
    """Counts of one layer, or of one of its calls if it is called several times per sample."""

    synaptic: float = 0.0
    """Synaptic operations per sample, measured."""
    dense: float = 0.0
    """Synaptic operations per sample if all inputs were nonzero."""
    binary: bool = True
    """All inputs were 0 or 1, so there were no multiplications."""
    membrane: float = 0.0
    """Membrane updates per sample: an addition and a multiplication each."""
    rate: float | None = None
    """Neurons only: share of nonzero outputs; in lif, spikes per neuron and step."""


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Counts of a network per sample, as means over the data."""

    samples: int
    parameters: int
    synaptic: float
    additions: float
    """Measured, of synapses and membranes, as are multiplications."""
    multiplications: float
    dense_additions: float
    """As if all inputs were nonzero."""
    dense_multiplications: float
    training_multiply_adds: float
    """Multiply-adds of a training step per sample, measured, as are its additions."""
    training_additions: float
    dense_training: float
    """Multiply-adds of a training step per sample, as if all inputs were nonzero."""
    rates: dict[str, float]
    """Share of nonzero outputs of each layer of neurons."""
    layers: dict[str, Layer] = field(repr=False)
    """Counts by name; a second call of the same layer within a sample is NAME#2."""

    def as_dict(self) -> dict[str, Any]:
        """Return totals and firing rates, for JSON."""
        return {key: value for key, value in vars(self).items() if key != "layers"}

    def __str__(self) -> str:
        width = max(map(len, self.layers), default=5)
        lines = [f"{'layer':{width}} {'synaptic':>12} {'dense':>12} {'input':>8} {'rate':>7}"]
        for name, layer in self.layers.items():
            if layer.rate is None:
                seen = "binary" if layer.binary else "analogue"
                line = f"{name:{width}} {layer.synaptic:12.4g} {layer.dense:12.4g} {seen:>8}"
            else:
                line = f"{name:{width}} {layer.rate:42.4f}"
            lines.append(line)
        for what in ("additions", "multiplications"):
            measured, dense = getattr(self, what), getattr(self, f"dense_{what}")
            lines.append(f"{what + ' per sample':26} {measured:.4g}, dense {dense:.4g}")
        lines.append(f"{'parameters':26} {self.parameters:,}; {self.samples} samples measured")
        return "\n".join(lines)


def _conv(conv: nn.Conv2d, x: Tensor, out: Tensor) -> tuple[float, float]:
    """Return the synaptic and dense operations of a convolution, x (T*N, C, H, W)."""
    kernel = torch.ones(1, 1, *conv.kernel_size, dtype=torch.double, device=x.device)
    everywhere = kernel.new_ones(1, 1, *out.shape[2:])
    # (1, 1, H, W): the number of output places that read a pixel
    readers = conv2d_input(  # type: ignore[no-untyped-call]
        (1, 1, *x.shape[2:]), kernel, everywhere, conv.stride, conv.padding, conv.dilation
    )
    active = (x != 0).sum(dim=(0, 1))
    synaptic = float((active * readers[0, 0]).sum()) * conv.out_channels / conv.groups
    return synaptic, out.numel() * conv.weight[0].numel()


def _linear(linear: nn.Linear, x: Tensor, out: Tensor) -> tuple[float, float]:
    return float((x != 0).sum()) * linear.out_features, out.numel() * linear.in_features


def _lstm(lstm: nn.LSTM, x: Tensor, out: tuple[Tensor, Any]) -> tuple[float, float]:
    """Count one layer, x (T, N, C): four gates read the input and the hidden state, first zero."""
    gates, steps = 4 * lstm.hidden_size, out[0][..., 0].numel()
    hidden = float((out[0][:-1] != 0).sum()) * gates
    return (
        float((x != 0).sum()) * gates + hidden,
        steps * gates * (lstm.input_size + lstm.hidden_size),
    )


COUNTERS: dict[type[nn.Module], Callable[..., tuple[float, float]]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.LSTM: _lstm,
}
"""For each class of layers, (module, input, output) -> synaptic and dense operations."""


def _neuron(layer: Layer, neuron: Neuron, out: Tensor) -> None:
    """Add the membrane updates of a batch and its share of nonzero outputs."""
    if neuron.settings.kind != "ann":
        layer.membrane += out[1:].numel()
    layer.rate = (layer.rate or 0.0) + float((out != 0).double().mean()) * out.shape[1]


@torch.no_grad()
def measure(network: nn.Module, batches: Iterable[Tensor]) -> Operations:
    """Count the operations of a network in eval mode on batches (N, ...).

    Raises:
        InputError: there are no batches.
    """
    layers: dict[str, Layer] = {}
    calls: Counter[str] = Counter()

    def count(name: str, module: nn.Module, inputs: tuple[Tensor, ...], out: Any) -> None:
        calls[name] += 1
        key = name if calls[name] == 1 else f"{name}#{calls[name]}"
        layer = layers.setdefault(key, Layer())
        if isinstance(module, Neuron):
            _neuron(layer, module, out)
            return
        x = inputs[0]
        counter = next(c for kind, c in COUNTERS.items() if isinstance(module, kind))
        synaptic, dense = counter(module, x, out)
        layer.synaptic += synaptic
        layer.dense += dense
        layer.binary = layer.binary and bool(((x == 0) | (x == 1)).all())

    counted: tuple[type[nn.Module], ...] = (Neuron, *COUNTERS)
    modes = {module: module.training for module in network.modules()}
    hooks = [
        module.register_forward_hook(partial(count, name))
        for name, module in network.named_modules()
        if isinstance(module, counted)
    ]
    samples = 0
    try:
        network.eval()
        for batch in batches:
            calls.clear()
            network(batch)
            samples += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    if not samples:
        raise InputError("operations can't be measured: there is no batch; pass at least one")
    for layer in layers.values():
        layer.synaptic /= samples
        layer.dense /= samples
        layer.membrane /= samples
        layer.rate = None if layer.rate is None else layer.rate / samples
    every = layers.values()
    first = next((x.dense for x in every if x.rate is None), 0.0)
    backward = sum(x.dense for x in every) - first
    membranes = 2 * sum(x.membrane for x in every)
    return Operations(
        samples=samples,
        parameters=sum(p.numel() for p in network.parameters()),
        synaptic=sum(x.synaptic for x in every),
        additions=sum(x.synaptic + x.membrane for x in every),
        multiplications=sum(x.synaptic * (not x.binary) + x.membrane for x in every),
        dense_additions=sum(x.dense + x.membrane for x in every),
        dense_multiplications=sum(x.dense * (not x.binary) + x.membrane for x in every),
        training_multiply_adds=backward
        + membranes
        + 2 * sum(x.synaptic for x in every if not x.binary),
        training_additions=2 * sum(x.synaptic for x in every if x.binary),
        dense_training=3 * backward + 2 * first + membranes,
        rates={name: layer.rate for name, layer in layers.items() if layer.rate is not None},
        layers=layers,
    )
