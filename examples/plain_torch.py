"""Train a plain torch network on a store: python examples/plain_torch.py nmnist.zarr"""

import sys
from collections.abc import Iterable

import torch
from torch import nn

import eventdata


def train(batches: Iterable[tuple[torch.Tensor, torch.Tensor]], classes: int) -> float:
    """Train on frames (N, T, P, H, W); return the accuracy on the batches while training."""
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(64), nn.ReLU(), nn.LazyLinear(classes))
    network(next(iter(batches))[0][:1])  # sets the sizes of lazy layers
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    right = total = 0
    for frames, labels in batches:
        outputs = network(frames)
        optimizer.zero_grad()
        nn.functional.cross_entropy(outputs, labels).backward()
        optimizer.step()
        right += int((outputs.argmax(1) == labels).sum())
        total += len(labels)
    return right / total


if __name__ == "__main__":
    dataset = eventdata.FrameDataset(sys.argv[1])
    loader = eventdata.FrameLoader(dataset, 32, shuffle=True, dtype=torch.float32)
    print(f"accuracy {train(loader, len(dataset.classes)):.1%}")
