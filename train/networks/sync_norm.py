"""Batch norm over the samples of all devices, so that they train as one device would.

torch's own SyncBatchNorm needs GPUs. This one runs on any device, and its state dict has the same
entries as that of nn.BatchNorm2d.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SumOverDevices(torch.autograd.Function):
    """The sum of all devices' tensors; every device's loss depends on it, so gradients add up."""

    @staticmethod
    def forward(_: object, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    backward = forward  # type: ignore[assignment]


class SyncBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d with mean and variance over all devices' samples in training.

    All devices must have batches of the same shape.
    """

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W)
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        shape = (1, -1, 1, 1)
        count = dist.get_world_size() * x.numel() // x.shape[1]
        values = x.float()
        mean = _sum(values) / count
        centred = values - mean.view(shape)
        variance = _sum(centred.square()) / count
        self._follow(mean.detach(), variance.detach() * count / max(count - 1, 1))
        out = centred * (variance + self.eps).rsqrt().view(shape)
        out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics by those of a batch."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def _sum(x: Tensor) -> Tensor:
    total: Tensor = _SumOverDevices.apply(x.sum(dim=(0, 2, 3)))  # type: ignore[no-untyped-call]
    return total


def synchronise_norms(network: nn.Module) -> nn.Module:
    """Replace a network's batch norms, in place, by `SyncBatchNorm2d`; return the network."""
    for module in network.modules():
        for name, norm in module.named_children():
            if type(norm) is nn.BatchNorm2d:
                shared = SyncBatchNorm2d(norm.num_features, norm.eps, norm.momentum)
                shared.load_state_dict(norm.state_dict())
                setattr(module, name, shared)
    return network
