"""What a network's answer costs: firing rates and operations a sample, measured on data.

A *synaptic operation* is one input value that is not zero going through one synapse: a spike that
does not fire costs nothing. It is an addition onto a sum that starts from the bias, and a
multiplication too unless all the layer's inputs are 0 or 1. *Dense* counts are the same with every
input not zero, padding included: output size times fan-in. Each is counted at every step in which
the layer runs. A membrane costs an addition and a multiplication a neuron and step after the first.

Not counted: norms (at inference they fold into the weights before them), residual sums, pooling,
means and activations, all together a small share. Legend: T steps, N samples.
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
    """Counts of one layer, or of one call of it where it is called several times a sample."""

    synaptic: float = 0.0
    """Synaptic operations a sample, measured."""
    dense: float = 0.0
    """Synaptic operations a sample if no input were zero."""
    binary: bool = True
    """All inputs seen were 0 or 1: no multiplications."""
    membrane: float = 0.0
    """Membrane updates a sample: an addition and a multiplication each."""
    rate: float | None = None
    """Neurons only: the share of outputs that are not zero; in lif, spikes a neuron and step."""


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Counts of a network a sample (means over the data)."""

    samples: int
    parameters: int
    layers: dict[str, Layer] = field(repr=False)
    """By name; a second call of the same layer within a sample is NAME#2."""

    @property
    def synaptic(self) -> float:
        """Synaptic operations, measured."""
        return sum(layer.synaptic for layer in self.layers.values())

    @property
    def additions(self) -> float:
        """Measured: those of the synapses and of the membranes."""
        return sum(layer.synaptic + layer.membrane for layer in self.layers.values())

    @property
    def multiplications(self) -> float:
        """Measured."""
        return sum(
            layer.membrane + (0 if layer.binary else layer.synaptic)
            for layer in self.layers.values()
        )

    @property
    def dense_additions(self) -> float:
        """As if no input were zero."""
        return sum(layer.dense + layer.membrane for layer in self.layers.values())

    @property
    def dense_multiplications(self) -> float:
        """As if no input were zero."""
        return sum(
            layer.membrane + (0 if layer.binary else layer.dense) for layer in self.layers.values()
        )

    @property
    def rates(self) -> dict[str, float]:
        """Of each layer of neurons: the share of outputs that are not zero."""
        return {name: layer.rate for name, layer in self.layers.items() if layer.rate is not None}

    def as_dict(self) -> dict[str, Any]:
        """Totals and firing rates, for JSON."""
        return {
            "samples": self.samples,
            "parameters": self.parameters,
            "synaptic": self.synaptic,
            "additions": self.additions,
            "multiplications": self.multiplications,
            "dense_additions": self.dense_additions,
            "dense_multiplications": self.dense_multiplications,
            "rates": self.rates,
        }

    def __str__(self) -> str:
        width = max(map(len, self.layers), default=5)
        lines = [f"{'layer':{width}} {'synaptic':>12} {'dense':>12} {'input':>8} {'rate':>7}"]
        for name, layer in self.layers.items():
            if layer.rate is None:
                seen = "binary" if layer.binary else "analogue"
                line = f"{name:{width}} {layer.synaptic:12.4g} {layer.dense:12.4g} {seen:>8}"
            else:
                line = f"{name:{width}} {'':12} {'':12} {'':8} {layer.rate:7.4f}"
            lines.append(line)
        lines += [
            f"additions a sample        {self.additions:.4g}, dense {self.dense_additions:.4g}",
            f"multiplications a sample  {self.multiplications:.4g}, "
            f"dense {self.dense_multiplications:.4g}",
            f"parameters                {self.parameters:,}; {self.samples} samples measured",
        ]
        return "\n".join(lines)


def _conv(conv: nn.Conv2d, x: Tensor, out: Tensor) -> tuple[float, float]:
    """Synaptic and dense operations of a convolution, x (rows, C, H, W)."""
    kernel = torch.ones(1, 1, *conv.kernel_size, dtype=torch.double, device=x.device)
    everywhere = kernel.new_ones(1, 1, *out.shape[2:])
    # (1, 1, H, W): how many places of the output read a pixel
    readers = conv2d_input(  # type: ignore[no-untyped-call]
        (1, 1, *x.shape[2:]), kernel, everywhere, conv.stride, conv.padding, conv.dilation
    )
    active = (x != 0).sum(dim=(0, 1))
    synaptic = float((active * readers[0, 0]).sum()) * conv.out_channels / conv.groups
    return synaptic, out.numel() * conv.weight[0].numel()


def _linear(linear: nn.Linear, x: Tensor, out: Tensor) -> tuple[float, float]:
    return float((x != 0).sum()) * linear.out_features, out.numel() * linear.in_features


def _lstm(lstm: nn.LSTM, x: Tensor, out: tuple[Tensor, Any]) -> tuple[float, float]:
    """Of one layer, x (T, N, C): four gates see the input and the hidden state, at first zero."""
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
"""By class of layer: (module, input, output) -> synaptic and dense operations of a batch."""


def _neuron(layer: Layer, neuron: Neuron, out: Tensor) -> None:
    """Add a batch's membrane updates, and its outputs that are not zero."""
    if neuron.settings.kind != "ann":
        layer.membrane += out[1:].numel()
    layer.rate = (layer.rate or 0.0) + float((out != 0).double().mean()) * out.shape[1]


@torch.no_grad()
def measure(network: nn.Module, batches: Iterable[Tensor]) -> Operations:
    """Run batches (N, ...) through a network in eval mode and count.

    Raises:
        InputError: there was no batch.
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
        raise InputError("operations cannot be measured without data: no batch was given")
    for layer in layers.values():
        layer.synaptic /= samples
        layer.dense /= samples
        layer.membrane /= samples
        layer.rate = None if layer.rate is None else layer.rate / samples
    return Operations(
        samples=samples, parameters=sum(p.numel() for p in network.parameters()), layers=layers
    )
