"""The parts of networks. Tensors between them are (T, N, C, H, W).

Convolution and norm see steps and samples folded, (T*N, C, H, W), so the norm's statistics are over
(T, N, H, W). Neurons see the steps.

Legend: T steps, N samples, P polarities, C channels, H rows, W columns.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from eventdata.errors import OptionError
from train.neurons.memory import mark_spikes, max_pool, packed_spikes, recomputed
from train.neurons.neuron import Neuron, NeuronSettings

Recompute = Literal["nothing", "time", "blocks"]
Packing = Literal["auto", "always", "never"]


def fold(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a module to every step, as if it were a sample: (T, N, ...) -> (T, N, ...)."""
    out = module(x.flatten(0, 1))
    return out.reshape(*x.shape[:2], *out.shape[1:])


class ConvNorm(nn.Module):
    """A convolution (or nn.Identity), then batch norm over (T, N, H, W)."""

    def __init__(self, conv: nn.Module, channels: int, *, norm_scale: float = 1.0) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(channels)
        nn.init.constant_(self.norm.weight, norm_scale)

    def forward(self, x: Tensor) -> Tensor:  # (T, N, C, H, W)
        return fold(self.norm, fold(self.conv, x))


class ConvCell(ConvNorm):
    """Convolution, norm, neuron and, if given, a pooling of the neurons' output."""

    def __init__(
        self,
        conv: nn.Conv2d,
        neuron: NeuronSettings,
        *,
        pool: nn.Module | None = None,
        norm_scale: float = 1.0,
    ) -> None:
        super().__init__(conv, conv.out_channels, norm_scale=norm_scale)
        self.neuron = Neuron(neuron)
        self.pool = pool

    def forward(self, x: Tensor, repeat: int = 1) -> Tensor:  # (T, N, C, H, W)
        """Run the cell; with `repeat`, a single step (T = 1) is the current of that many steps."""
        current = super().forward(x)
        if repeat > 1:
            current = current.expand(repeat, *current.shape[1:])
        out: Tensor = self.neuron(current)
        if self.pool is None:
            return out
        if not isinstance(self.pool, nn.MaxPool2d):
            return fold(self.pool, out)
        out = fold(partial(max_pool, self.pool), out)
        return mark_spikes(out) if self.neuron.settings.kind == "lif" else out


class Chain(nn.Sequential):
    """Parts one after the other; the backward pass can run each of them again."""

    recompute = False
    """Save only each part's input and run it again (`train.neurons.memory.recomputed`)."""

    def forward(self, x: Tensor) -> Tensor:
        for part in self:
            x = recomputed(part, x) if self.recompute and torch.is_grad_enabled() else part(x)
        return x


def recompute(network: nn.Module, what: Recompute) -> None:
    """Make a network save less for the backward pass and run more again there; same numbers.

    time: of a neuron's steps only their input is saved, as the fused kernels do anyway. blocks: of
    the parts of a `Chain` only their input is saved, spikes as bits.
    """
    for module in network.modules():
        if isinstance(module, Chain):
            module.recompute = what == "blocks"
        elif isinstance(module, Neuron):
            module.recompute = what == "time"


def channels_last(network: nn.Module) -> nn.Module:
    """Put a network's weights into the fastest memory layout that is sound.

    With channels last, oneDNN's backward pass of a strided 1x1 convolution with fewer than eight
    input channels writes outside its memory (torch 2.13 on a CPU: wrong gradients, or a crash).
    """
    if any(
        isinstance(conv, nn.Conv2d)
        and conv.kernel_size == (1, 1)
        and conv.stride != (1, 1)
        and conv.in_channels < 8
        for conv in network.modules()
    ):
        return network
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True)
class Branch:
    """An affine map that reads the output of a layer, and is its reader's current or part of it."""

    source: int | None
    """Index of the layer that it reads; None: the network's input."""
    module: nn.Module
    """A `ConvNorm`, an nn.Linear, which reads flattened maps, or an nn.Identity."""


@dataclass(frozen=True)
class Layer:
    """Neurons and the branches whose sum is their current: branches - neuron [- pool]."""

    branches: tuple[Branch, ...]
    neuron: Neuron | None
    """None: the part that reads the last neurons, such as the classifier."""
    pool: nn.Module | None = None


def cell_layer(cell: ConvCell, source: int | None) -> Layer:
    """Return the layer of a cell that reads the layer `source`."""
    return Layer((Branch(source, cell),), cell.neuron, cell.pool)


class Network(nn.Module):
    """Frames (N, T, P, H, W) or images (N, C, H, W) -> (N, classes), by `classify`.

    Every network takes these settings, and others of its own:
        channels: channels of the input: P for events, C for images.
        classes: number of classes.
        neuron: settings of all neurons.
        steps: T for images; frames bring their own.
    """

    steps: int

    pack_spikes: Packing = "auto"
    """Save spikes for the backward pass as bits; auto: on the CPU. On a GPU packing is extra memory
    traffic, and memory is rarely short."""

    sample_shape: tuple[int, ...] | None = None
    """The shape of a sample (T, P, H, W) or (C, H, W), if batches of another are refused."""

    def forward(self, x: Tensor) -> Tensor:
        if self.sample_shape is not None and tuple(x.shape[1:]) != self.sample_shape:
            raise OptionError(
                f"a batch of shape {tuple(x.shape)} does not fit: the network was trained on "
                f"samples of shape {self.sample_shape}; pass these with the batch as first axis; "
                "to try other shapes, set the network's sample_shape to None"
            )
        if not x.is_floating_point():
            raise OptionError(f"a batch is of {x.dtype}; pass floats, such as batch.float()")
        packs = x.is_cpu if self.pack_spikes == "auto" else self.pack_spikes == "always"
        with packed_spikes() if packs else nullcontext():
            return self.classify(x)

    def classify(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def layers(self) -> list[Layer]:
        """Return the layers in the order in which they run, for `train.calibrate`.

        The last one has no neuron. A network whose neurons see anything else than these branches
        can't be calibrated.

        Raises:
            OptionError: the network can't be calibrated.
        """
        raise OptionError(
            f"{type(self).__name__} can't be calibrated, because it does not list its layers. "
            "Define its method layers, or set calibrate=none"
        )


def enter(stem: ConvCell, x: Tensor, steps: int) -> Tensor:
    """Run the stem: frames (N, T, P, H, W) or images (N, C, H, W) -> (T, N, C, H, W).

    An image is convolved once and is the input current of each of `steps` steps. An ann takes one
    step, because all its steps would be the same.

    Raises:
        OptionError: the batch has not four or five axes, or not the stem's number of channels.
    """
    if x.ndim not in (4, 5) or x.shape[-3] != stem.conv.in_channels:
        raise OptionError(
            f"a batch of shape {tuple(x.shape)} is neither frames (N, T, {stem.conv.in_channels}, "
            f"H, W) nor images (N, {stem.conv.in_channels}, H, W)"
        )
    if x.ndim == 5:
        out: Tensor = stem(x.transpose(0, 1))
    else:
        out = stem(x.unsqueeze(0), 1 if stem.neuron.settings.kind == "ann" else steps)
    return out


class MeanClassifier(nn.Linear):
    """Mean over space, mean over time, linear layer: (T, N, C, H, W) -> (N, classes)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mean(dim=(3, 4)).mean(dim=0))
