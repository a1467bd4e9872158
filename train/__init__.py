"""Training on event stores: one network, three kinds of neuron, and transfer between them.

The names here are loaded when first used, so that importing the package does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.model import ModelInfo, load_model

__all__ = ["ModelInfo", "load_model"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'train' has no attribute {name!r}")
    return getattr(import_module("train.model"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
