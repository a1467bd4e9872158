"""Train snnTorch's Leaky neurons on a store: python examples/snntorch_lif.py nmnist.zarr"""

import sys
from collections.abc import Iterable

import snntorch
import torch
from torch import nn

import eventdata


def train(batches: Iterable[tuple[torch.Tensor, torch.Tensor]], classes: int) -> float:
    """Train on frames (T, N, P, H, W); return the accuracy on the batches while training."""
    inputs = next(iter(batches))[0][0, 0].numel()
    hidden, output = nn.Linear(inputs, 64), nn.Linear(64, classes)
    first, last = snntorch.Leaky(beta=0.9), snntorch.Leaky(beta=0.9)
    optimizer = torch.optim.Adam([*hidden.parameters(), *output.parameters()], 1e-3)
    right = total = 0
    for frames, labels in batches:
        membrane, membrane_out = first.init_leaky(), last.init_leaky()
        summed: torch.Tensor | float = 0.0
        for frame in frames.flatten(2):
            spikes, membrane = first(hidden(frame), membrane)
            _, membrane_out = last(output(spikes), membrane_out)
            summed = summed + membrane_out
        assert isinstance(summed, torch.Tensor)
        optimizer.zero_grad()
        nn.functional.cross_entropy(summed, labels).backward()
        optimizer.step()
        right += int((summed.argmax(1) == labels).sum())
        total += len(labels)
    return right / total


if __name__ == "__main__":
    dataset = eventdata.FrameDataset(sys.argv[1])
    loader = eventdata.FrameLoader(dataset, 32, shuffle=True, dtype=torch.float32, layout="TNPHW")
    print(f"accuracy {train(loader, len(dataset.classes)):.1%}")
