"""An exponential moving average of weights, for evaluation and for the kept weights."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from train.runs.module import share_statistics
from train.runs.resume import of_kind


class MovingAverage(Callback):
    """A moving average of a module's `network`, updated after every step and evaluated.

    The average starts as the weights and follows them faster in the beginning, because the decay
    is at most (1 + step) / (10 + step). Integers (the counts of batch norms) are copied. An
    evaluation on several devices also averages their batch-norm statistics.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.step = 0
        self.average: dict[str, Tensor] = {}
        self.aside: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        here = _state(module)
        known = of_kind(self.average, here, "average") if self.average else here
        self.average = {key: known[key].to(value.device, copy=True) for key, value in here.items()}

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:  # gradients still accumulate
            return
        self.step = trainer.global_step
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        for key, value in _state(module).items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - decay)
            else:
                self.average[key].copy_(value)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        if self.average:
            share_statistics(module)
            self.aside = _copy(module)
            _load(module, self.average)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.aside:
            self.average = _copy(module)
            _load(module, self.aside)
            self.aside = {}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step, self.average = state_dict["step"], state_dict["average"]


def _state(module: LightningModule) -> dict[str, Tensor]:
    network: nn.Module = module.network  # type: ignore[assignment]
    return network.state_dict()


def _copy(module: LightningModule) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in _state(module).items()}


@torch.no_grad()
def _load(module: LightningModule, values: dict[str, Tensor]) -> None:
    for key, value in _state(module).items():
        value.copy_(values[key])
