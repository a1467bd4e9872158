"""Fit transferred weights to their new input before they are trained on it."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Take the running statistics of every batch norm anew from batches; how many there were.

    After a transfer they are those of another input (photographs) and of other neurons; until they
    have followed, the network's evaluation is worthless. Weights stay as they are. Without a batch
    the statistics stay too.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    mode = network.training
    count = 0
    try:
        network.train()
        for batch in batches:
            if count == 0:
                for norm in norms:
                    norm.reset_running_stats()
                    norm.momentum = None  # the mean over all batches
            network(batch)
            count += 1
    finally:
        network.train(mode)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return count
