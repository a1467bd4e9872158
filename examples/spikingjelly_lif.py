"""Train SpikingJelly's LIF neurons on a store: python examples/spikingjelly_lif.py nmnist.zarr"""

import sys
from collections.abc import Iterable

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

import eventdata


def train(batches: Iterable[tuple[torch.Tensor, torch.Tensor]], classes: int) -> float:
    """Train on frames (T, N, P, H, W); return the accuracy on the batches while training."""
    channels, height, width = next(iter(batches))[0].shape[2:]
    network = nn.Sequential(
        layer.Conv2d(channels, 16, 3, padding=1, bias=False),
        layer.BatchNorm2d(16),
        neuron.LIFNode(surrogate_function=surrogate.ATan()),
        layer.MaxPool2d(2),
        layer.Flatten(),
        layer.Linear(16 * (height // 2) * (width // 2), classes),
        neuron.LIFNode(surrogate_function=surrogate.ATan()),
    )
    functional.set_step_mode(network, "m")
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    right = total = 0
    for frames, labels in batches:
        rates = network(frames).mean(0)
        optimizer.zero_grad()
        nn.functional.cross_entropy(rates, labels).backward()
        optimizer.step()
        functional.reset_net(network)
        right += int((rates.argmax(1) == labels).sum())
        total += len(labels)
    return right / total


if __name__ == "__main__":
    dataset = eventdata.FrameDataset(sys.argv[1])
    loader = eventdata.FrameLoader(dataset, 32, shuffle=True, dtype=torch.float32, layout="TNPHW")
    print(f"accuracy {train(loader, len(dataset.classes)):.1%}")
