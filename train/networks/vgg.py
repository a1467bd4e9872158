"""A VGG-style network with neurons: 3x3 convolutions and max-pools, no shortcuts.

The channels are those of the VGG commonly trained on CIFAR10-DVS (Deng et al. 2022, TET). Its
average pools are max-pools here, so that spikes stay spikes.
"""

from torch import Tensor, nn

from train.networks.layers import (
    Branch,
    Chain,
    ConvCell,
    Layer,
    MeanClassifier,
    Network,
    cell_layer,
    enter,
)
from train.neurons.neuron import NeuronSettings

PLAN = ((1, 2), (4, 4), (8, 8), (8, 8))
"""Channels of each convolution as multiples of the width; a max-pool separates the groups."""


class VGG(Network):
    """Frames (N, T, P, H, W) or images (N, C, H, W) -> (N, classes)."""

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        neuron: NeuronSettings,
        width: int = 64,
        plan: tuple[tuple[int, ...], ...] = PLAN,
        steps: int = 1,
    ) -> None:
        """
        Args:
            channels, classes, neuron, steps: see `Network`.
            width: channels of the first convolution.
            plan: groups of convolutions, as PLAN.
        """
        super().__init__()
        self.steps = steps
        cells: list[ConvCell] = []
        inputs = channels
        for group, factors in enumerate(plan):
            for place, factor in enumerate(factors, start=1):
                ends = place == len(factors) and group < len(plan) - 1
                conv = nn.Conv2d(inputs, width * factor, 3, padding=1, bias=False)
                cells.append(ConvCell(conv, neuron, pool=nn.MaxPool2d(2) if ends else None))
                inputs = width * factor
        self.stem = cells[0]
        self.cells = Chain(*cells[1:])
        self.fc = MeanClassifier(inputs, classes)

    def classify(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.cells(enter(self.stem, x, self.steps)))
        return out

    def layers(self) -> list[Layer]:
        cells = (self.stem, *self.cells)
        layers = [cell_layer(cell, n - 1 if n else None) for n, cell in enumerate(cells)]
        return [*layers, Layer((Branch(len(layers) - 1, self.fc),), None)]
