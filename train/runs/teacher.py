"""A trained network that teaches another one by its answers (Hinton et al. 2015, distillation)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from train.augment import mixup
from train.networks.layers import Network
from train.runs.module import prepare
from train.settings import Stage


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A network in evaluation mode that answers the batches of another one's stage."""

    network: Network
    view: Stage
    """The settings by which it sees a batch: its own, with the pupil's augmentation."""
    binary: bool
    """See `train.augment.augment`."""

    @classmethod
    def of(cls, network: Network, own: Stage, pupil: Stage, *, binary: bool) -> "Teacher":
        """Return a network as the teacher of a stage."""
        view = replace(own, augment=pupil.augment)
        return cls(network=network.eval().requires_grad_(False), view=view, binary=binary)

    @torch.no_grad()
    def __call__(self, frames: Tensor, seed: int) -> Tensor:
        """Return the logits (N, classes) of a batch of `train.data.Epoch`, augmented by a seed."""
        x = prepare(frames, self.view, seed, binary=self.binary)
        if alpha := self.view.augment.scaled().mixup:
            x, _ = mixup(x, x.new_zeros(len(x), 1), alpha, seed)
        logits: Tensor = self.network.to(x.device)(x)
        return logits
