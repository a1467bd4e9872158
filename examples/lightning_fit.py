"""Train and test with Lightning: python examples/lightning_fit.py nmnist.zarr"""

import sys
from typing import Any

import lightning
import torch
from torch import nn

from eventdata.lightning import EventDataModule


class Network(lightning.LightningModule):
    """A small network that takes frames (N, T, P, H, W)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.LazyLinear(64), nn.ReLU(), nn.LazyLinear(classes)
        )

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Return the loss of a batch."""
        frames, labels = batch
        return nn.functional.cross_entropy(self.layers(frames), labels)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the accuracy on a batch."""
        frames, labels = batch
        right = (self.layers(frames).argmax(1) == labels).float().mean()
        self.log("accuracy", right, batch_size=len(labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.Adam(self.parameters(), 1e-3)


def train(data: lightning.LightningDataModule | Any, classes: int, epochs: int = 2) -> float:
    """Train for some epochs; return the accuracy on the split test."""
    network = Network(classes)
    network.layers(next(iter(data.train_dataloader()))[0][:1])  # sets the sizes of lazy layers
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False
    )
    trainer.fit(network, datamodule=data)
    return float(trainer.test(network, datamodule=data)[0]["accuracy"])


if __name__ == "__main__":
    data = EventDataModule(sys.argv[1], batch_size=32)
    print(f"accuracy {train(data, len(data.classes)):.1%}")
