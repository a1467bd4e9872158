"""Check the saved state of a stage before training resumes from it.

Lightning and torch load any checkpoint. One with values of another kind would fail hours later, in
the middle of an epoch.
"""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from train.runs.folder import number_in

_KEPT = {"SGD": ("momentum_buffer",), "AdamW": ("step", "exp_avg", "exp_avg_sq")}
"""The state that an optimiser keeps for each parameter."""


def check_state(checkpoint: dict[str, Any], module: LightningModule) -> None:
    """Check the checkpoint that a module's trainer is about to load, and change it in place.

    Values that this version does not save are removed. Settings of the optimiser become those of
    the module, except for the learning rate.

    Raises:
        ValueError: a value is of another kind than the one that the trainer itself would save.
        KeyError, TypeError, AttributeError: values are missing, or have another structure.
    """
    trainer = module.trainer
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if callback.state_dict() and not checkpoint["callbacks"].get(callback.state_key):
            raise ValueError(f"it has no state of {callback.state_key}")
    loops = checkpoint["loops"]
    loops["fit_loop"] = of_kind(loops["fit_loop"], trainer.fit_loop.state_dict(), "loops")
    fresh: Any = module.configure_optimizers()
    (found,) = checkpoint["optimizer_states"]
    checkpoint["optimizer_states"] = [_of_optimizer(found, fresh["optimizer"])]
    schedule = [fresh["lr_scheduler"]["scheduler"].state_dict()]
    checkpoint["lr_schedulers"] = of_kind(checkpoint["lr_schedulers"], schedule, "lr_schedulers")


def _of_optimizer(found: dict[str, Any], fresh: Optimizer) -> dict[str, Any]:
    """Return the state of an optimiser, checked against a fresh one of the same parameters."""
    groups = [
        group | {"lr": number_in(there, "lr")}
        for group, there in zip(
            fresh.state_dict()["param_groups"], found["param_groups"], strict=True
        )
    ]
    parameters = [parameter for group in fresh.param_groups for parameter in group["params"]]
    state = {}
    for index, there in found["state"].items():
        sound = {
            key: torch.zeros(()) if key == "step" else parameters[index].detach()
            for key in _KEPT[type(fresh).__name__]
        }
        if there:  # a frozen parameter has none
            state[index] = of_kind({key: there[key] for key in sound}, sound, f"state.{index}")
            number_in({"step": float(there.get("step", 0))}, "step")
    return {"state": state, "param_groups": groups}


def of_kind(found: Any, sound: Any, name: str) -> Any:
    """Return a value that was found, if it is of the same kind as a sound one.

    Numbers are at least 0; tensors have the same shape and type. Entries of a dict that the sound
    one lacks are removed, because loading them could set any attribute. Missing entries, as in the
    state of an older version, are left to the reader.

    Raises:
        ValueError: the value is of another kind.
    """
    match sound:
        case dict():
            if isinstance(found, dict):
                known = [key for key in sound if key in found]
                return {key: of_kind(found[key], sound[key], f"{name}.{key}") for key in known}
        case list() | tuple():
            if isinstance(found, list | tuple) and len(found) == len(sound):
                pairs = zip(found, sound, strict=True)
                return [of_kind(one, other, name) for one, other in pairs]
        case Tensor():
            if isinstance(found, Tensor):
                if (found.shape, found.dtype) == (sound.shape, sound.dtype):
                    return found
                found = f"{tuple(found.shape)} of {found.dtype}"
        case bool():
            if isinstance(found, bool):
                return found
        case int():
            if type(found) is int and 0 <= found < 1 << 63:
                return found
        case float():
            return number_in({name: found}, name)
        case None:
            return None
    raise ValueError(f"{name} is {str(found)[:100]!r}, not a value that this stage saves")
