"""Train Norse's LIF cells on a store: python examples/norse_lif.py nmnist.zarr"""

import sys
from collections.abc import Iterable

import norse.torch as norse
import torch
from torch import nn

import eventdata


def train(batches: Iterable[tuple[torch.Tensor, torch.Tensor]], classes: int) -> float:
    """Train on frames (T, N, P, H, W); return the accuracy on the batches while training."""
    inputs = next(iter(batches))[0][0, 0].numel()
    network = norse.SequentialState(
        nn.Flatten(2), nn.Linear(inputs, 64), norse.LIF(), nn.Linear(64, classes), norse.LI()
    )
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    right = total = 0
    for frames, labels in batches:
        voltages, _ = network(frames)
        outputs = voltages.mean(0)
        optimizer.zero_grad()
        nn.functional.cross_entropy(outputs, labels).backward()
        optimizer.step()
        right += int((outputs.argmax(1) == labels).sum())
        total += len(labels)
    return right / total


if __name__ == "__main__":
    dataset = eventdata.FrameDataset(sys.argv[1])
    loader = eventdata.FrameLoader(dataset, 32, shuffle=True, dtype=torch.float32, layout="TNPHW")
    print(f"accuracy {train(loader, len(dataset.classes)):.1%}")
