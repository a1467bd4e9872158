"""The ES-UCF101 network: a strided convolutional encoder for each step, an LSTM over the steps.

::

    encoder: stem 5x5 (8) - 3x3 (16) - 3x3 (32) - 3x3 (64), stride 2, each conv - norm - neuron
             - hidden linear (1024) - neuron - embedding linear (512)
    decoder: LSTM (256) - last step - fc

Legend: T steps, N samples, P polarities, C channels, H rows, W columns.
"""

from typing import Any

from torch import Tensor, nn

from eventdata.errors import OptionError
from train.networks.layers import Branch, Chain, ConvCell, Layer, Network, cell_layer, enter
from train.neurons.neuron import Neuron, NeuronSettings


class Encoder(nn.Module):
    """Frames (N, T, P, H, W) or images (N, C, H, W) -> embeddings (T, N, embedding)."""

    def __init__(
        self,
        *,
        channels: int,
        size: tuple[int, int],
        neuron: NeuronSettings,
        width: int,
        hidden: int,
        embedding: int,
        steps: int,
        mix_axes: bool,
    ) -> None:
        super().__init__()
        self.size, self.steps, self.mix_axes = tuple(size), steps, mix_axes
        cells: list[ConvCell] = []
        inputs, rows, columns = channels, *size
        for layer, kernel in enumerate((5, 3, 3, 3)):
            outputs = width << layer
            cells.append(ConvCell(nn.Conv2d(inputs, outputs, kernel, stride=2), neuron))
            inputs, rows, columns = outputs, (rows - kernel) // 2 + 1, (columns - kernel) // 2 + 1
        if min(rows, columns) < 1:
            raise OptionError(f"frames of {size[0]}x{size[1]} are too small; pass at least 33x33")
        self.stem = cells[0]
        self.cells = Chain(*cells[1:])
        self.hidden = nn.Linear(inputs * rows * columns, hidden)
        # Without a norm, weights and bias start so that half of the neurons fire, as published.
        nn.init.kaiming_normal_(self.hidden.weight)
        nn.init.constant_(self.hidden.bias, neuron.threshold)
        self.neuron = Neuron(neuron)
        self.embedding = nn.Linear(hidden, embedding)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != self.size:
            here = "x".join(str(length) for length in x.shape[-2:])
            raise OptionError(f"frames of {here} do not fit a network built for size {self.size}")
        maps = self.cells(enter(self.stem, x, self.steps))  # (T, N, C, H, W)
        if self.mix_axes:  # T parts of (C, T, H, W), each with several steps of a few channels
            steps, samples = maps.shape[:2]
            flat = maps.permute(1, 2, 0, 3, 4).reshape(samples, steps, -1).transpose(0, 1)
        else:
            flat = maps.flatten(2)
        out: Tensor = self.embedding(self.neuron(self.hidden(flat)))  # (T, N, embedding)
        return out


class Decoder(nn.Module):
    """Embeddings (T, N, embedding) -> (N, classes)."""

    def __init__(self, *, embedding: int, memory: int, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(embedding, memory)
        self.fc = nn.Linear(memory, classes)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.lstm(x)
        out: Tensor = self.fc(steps[-1])
        return out


class CRNN(Network):
    """Frames (N, T, P, H, W) or images (N, C, H, W) -> (N, classes)."""

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        neuron: NeuronSettings,
        size: tuple[int, int] = (256, 342),
        width: int = 8,
        hidden: int = 1024,
        embedding: int = 512,
        memory: int = 256,
        steps: int = 1,
        mix_axes: bool = False,
    ) -> None:
        """
        Args:
            channels, classes, neuron, steps: see `Network`.
            size: H and W of the input, which decide the shape of the hidden layer.
            width: channels of the stem; each convolution has twice those of the one before.
            hidden, embedding: outputs of the encoder's two linear layers.
            memory: units of the LSTM.
            mix_axes: mix channels and steps before the hidden layer, as the published encoder of
                events does by mistake. Its checkpoints need it.
        """
        super().__init__()
        self.steps = steps
        shape: dict[str, Any] = {"width": width, "hidden": hidden, "embedding": embedding}
        shape["mix_axes"] = mix_axes
        self.encoder = Encoder(channels=channels, size=size, neuron=neuron, steps=steps, **shape)
        self.decoder = Decoder(embedding=embedding, memory=memory, classes=classes)

    def classify(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.encoder(x))
        return out

    def layers(self) -> list[Layer]:
        encoder = self.encoder
        if encoder.mix_axes:
            raise OptionError(
                "a network with mix_axes can't be calibrated, because its hidden layer mixes "
                "steps; set calibrate=none"
            )
        cells = (encoder.stem, *encoder.cells)
        layers = [cell_layer(cell, n - 1 if n else None) for n, cell in enumerate(cells)]
        last = len(layers)
        layers.append(Layer((Branch(last - 1, encoder.hidden),), encoder.neuron))
        return [*layers, Layer((Branch(last, encoder.embedding),), None)]
