"""Train with accelerate: accelerate launch --cpu examples/accelerate_train.py nmnist.zarr

In several processes each reads its share of the samples.
"""

import sys
from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import nn

import eventdata


def train(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    classes: int,
    accelerator: Accelerator | None = None,
) -> float:
    """Train on frames (N, T, P, H, W); return the accuracy on the batches while training."""
    accelerator = accelerator or Accelerator(cpu=True)
    network: nn.Module = nn.Sequential(
        nn.Flatten(), nn.LazyLinear(64), nn.ReLU(), nn.LazyLinear(classes)
    )
    network.to(accelerator.device)(next(iter(batches))[0][:1])  # sets the sizes of lazy layers
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    network, optimizer, batches = accelerator.prepare(network, optimizer, batches)
    right = total = torch.zeros((), device=accelerator.device)
    for frames, labels in batches:
        outputs = network(frames)
        optimizer.zero_grad()
        accelerator.backward(nn.functional.cross_entropy(outputs, labels))
        optimizer.step()
        right = right + (outputs.argmax(1) == labels).sum()
        total = total + len(labels)
    return float(accelerator.reduce(right) / accelerator.reduce(total))


if __name__ == "__main__":
    accelerator = Accelerator()
    dataset = eventdata.FrameDataset(sys.argv[1])
    loader = eventdata.FrameLoader(
        dataset, 32, shuffle=True, drop_last=True, dtype=torch.float32, device=accelerator.device
    )
    accelerator.print(f"accuracy {train(loader, len(dataset.classes), accelerator):.1%}")
