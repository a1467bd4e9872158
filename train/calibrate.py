"""Calibrate transferred weights to their new input before they are trained on it."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Compute the running statistics of every batch norm anew, as means over batches.

    After a transfer they are those of another input and of other neurons, and evaluation is
    meaningless until they have adapted. Weights stay as they are.

    Returns:
        The number of batches; without any, the statistics stay too.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    mode = network.training
    count = 0
    try:
        network.train()
        for count, batch in enumerate(batches, start=1):
            if count == 1:
                for norm in norms:
                    norm.reset_running_stats()
                    norm.momentum = None  # a plain mean over all batches
            network(batch)
    finally:
        network.train(mode)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return count
