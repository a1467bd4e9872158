"""ResNet-18/34 with neurons, for images (pipe-S) and for events (pipe-D).

::

    stem: conv - norm - neuron [- pool]
    block:    .-- first: conv - norm -- neuron -- second: conv - norm --.
           x -+                                                         + -- (respond) -- neuron
              '-------------------- shortcut -------------------------'
    mean over space - mean over time - fc

A block's two neurons are one module, so they share one decay. Residual networks: He et al. 2016.
Legend: T steps, N samples, P polarities, C channels, H rows, W columns.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import Tensor, nn

from eventdata.errors import OptionError
from train.networks.layers import (
    Branch,
    Chain,
    ConvCell,
    ConvNorm,
    Layer,
    MeanClassifier,
    Network,
    cell_layer,
    enter,
)
from train.neurons.neuron import Neuron, NeuronSettings

StemName = Literal["imagenet", "medium", "small"]
STEMS: dict[StemName, tuple[int, int]] = {"imagenet": (7, 2), "medium": (3, 2), "small": (3, 1)}
"""Kernel and stride of the stem."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """The differences between the published networks for images and events, and torchvision's."""

    bias: bool
    """Whether convolutions have a bias."""
    norm_identity: bool
    """Whether a shortcut without convolution has a norm."""
    norm_scale: float
    """Initial scale of every batch norm."""
    pool: int | None
    """Padding of the max-pool that ends the imagenet stem; None: the first stage has stride 2."""


IMAGE = Design(bias=False, norm_identity=False, norm_scale=0.5, pool=None)
EVENT = Design(bias=True, norm_identity=True, norm_scale=1.0, pool=0)


class Block(nn.Module):
    """The basic block: (T, N, C, H, W) -> (T, N, channels, H / stride, W / stride)."""

    def __init__(
        self,
        inputs: int,
        channels: int,
        stride: int,
        *,
        design: Design,
        neuron: NeuronSettings,
        respond_to_sum: bool,
    ) -> None:
        super().__init__()

        def conv(inputs: int, kernel: int, stride: int) -> ConvNorm:
            layer = nn.Conv2d(inputs, channels, kernel, stride, kernel // 2, bias=design.bias)
            return ConvNorm(layer, channels, norm_scale=design.norm_scale)

        self.first = conv(inputs, 3, stride)
        self.second = conv(channels, 3, 1)
        self.shortcut: nn.Module
        if stride != 1 or inputs != channels:
            self.shortcut = conv(inputs, 1, stride)
        elif design.norm_identity:
            self.shortcut = ConvNorm(nn.Identity(), channels, norm_scale=design.norm_scale)
        else:
            self.shortcut = nn.Identity()
        self.neuron = Neuron(neuron)
        self.respond_to_sum = respond_to_sum

    def forward(self, x: Tensor) -> Tensor:  # (T, N, C, H, W)
        total = self.second(self.neuron(self.first(x))) + self.shortcut(x)
        out: Tensor = self.neuron(self.neuron.respond(total) if self.respond_to_sum else total)
        return out


class ResNet(Network):
    """Frames (N, T, P, H, W) or images (N, C, H, W) -> (N, classes)."""

    def __init__(
        self,
        *,
        design: Design,
        depths: tuple[int, ...],
        channels: int,
        classes: int,
        neuron: NeuronSettings,
        width: int = 64,
        stem: StemName = "imagenet",
        norm_scale: float | None = None,
        steps: int = 1,
        respond_to_sum: bool = False,
    ) -> None:
        """
        Args:
            design: IMAGE, EVENT or `train.networks.torchvision.TORCHVISION`.
            depths: blocks per stage; a stage has twice the channels of the one before.
            channels, classes, neuron, steps: see `Network`.
            width: channels of the stem and the first stage.
            stem: imagenet: 7x7, stride 2, and the first stage at a quarter of the size; medium, for
                64 pixels: 3x3, stride 2; small, for 32 pixels: 3x3, stride 1.
            norm_scale: initial scale of every batch norm; None: the design's. For neurons with a
                threshold of 0.5 and for a sharpened ReLU, 0.5 separates inputs better than 1.
            respond_to_sum: apply the neuron's activation, or in lif the spike, to the residual sum
                before the neuron, as the published event networks do. Their checkpoints need it. It
                harms training in lif: the neuron then sees only 0 and 1, both at the edge of the
                rectangular surrogate, and no gradient passes.
        """
        super().__init__()
        if norm_scale is not None:
            design = replace(design, norm_scale=norm_scale)
        self.steps = steps
        if stem not in STEMS:
            raise OptionError(f"stem {stem!r} does not exist; choose one of {', '.join(STEMS)}")
        kernel, stride = STEMS[stem]
        large = stem == "imagenet"
        self.stem = ConvCell(
            nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=design.bias),
            neuron,
            pool=None if design.pool is None or not large else nn.MaxPool2d(3, 2, design.pool),
            norm_scale=design.norm_scale,
        )
        block = partial(Block, design=design, neuron=neuron, respond_to_sum=respond_to_sum)
        stages: list[nn.Module] = []
        inputs = width
        for stage, depth in enumerate(depths):
            outputs = width << stage
            halve = stage > 0 or (large and design.pool is None)
            blocks = [block(inputs, outputs, 2 if halve else 1)]
            blocks += [block(outputs, outputs, 1) for _ in range(depth - 1)]
            stages.append(Chain(*blocks))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.fc = MeanClassifier(inputs, classes)

    def classify(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.stages(enter(self.stem, x, self.steps)))
        return out

    def layers(self) -> list[Layer]:
        layers = [cell_layer(self.stem, None)]
        for block in self.modules():
            if not isinstance(block, Block):
                continue
            if block.respond_to_sum:
                raise OptionError(
                    "a network with respond_to_sum can't be calibrated, because its neurons see "
                    "spikes instead of the residual sum; set calibrate=none"
                )
            x = len(layers) - 1
            layers.append(Layer((Branch(x, block.first),), block.neuron))
            layers.append(
                Layer((Branch(x + 1, block.second), Branch(x, block.shortcut)), block.neuron)
            )
        return [*layers, Layer((Branch(len(layers) - 1, self.fc),), None)]
