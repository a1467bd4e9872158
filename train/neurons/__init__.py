"""Spiking neurons over time: the module, its kernels for each device, surrogate gradients."""

from train.neurons.neuron import Kind, Neuron, NeuronSettings, integrate
from train.neurons.surrogate import SharpenedReLU, sharpen, spike

__all__ = [
    "Kind", "Neuron", "NeuronSettings", "SharpenedReLU", "integrate", "sharpen", "spike",
]  # fmt: skip
