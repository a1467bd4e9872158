"""What is checked of a stage's state before it is gone on with.

Lightning and torch take over whatever a checkpoint has: what is of another kind would fail hours
later, in the middle of an epoch.
"""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from train.runs.folder import number_in

_KEPT = {"SGD": ("momentum_buffer",), "AdamW": ("step", "exp_avg", "exp_avg_sq")}
"""What an optimiser keeps of a parameter."""


def check_state(checkpoint: dict[str, Any], module: LightningModule) -> None:
    """Check the checkpoint that a module's trainer is about to restore.

    What a state of this version does not have is taken out of it, and of the optimiser's settings
    all but the learning rate are those of the module.

    Raises:
        ValueError: something in it is of another kind than what the trainer keeps itself. KeyError,
            TypeError and AttributeError: it lacks things, or is of another form.
    """
    trainer = module.trainer
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if callback.state_dict() and not checkpoint["callbacks"].get(callback.state_key):
            raise ValueError(f"nothing of {callback.state_key} is in it")
    loops = checkpoint["loops"]
    loops["fit_loop"] = of_kind(loops["fit_loop"], trainer.fit_loop.state_dict(), "loops")
    fresh: Any = module.configure_optimizers()
    (found,) = checkpoint["optimizer_states"]
    checkpoint["optimizer_states"] = [_of_optimizer(found, fresh["optimizer"])]
    schedule = [fresh["lr_scheduler"]["scheduler"].state_dict()]
    checkpoint["lr_schedulers"] = of_kind(checkpoint["lr_schedulers"], schedule, "lr_schedulers")


def _of_optimizer(found: dict[str, Any], fresh: Optimizer) -> dict[str, Any]:
    """The state of an optimiser, for one of the same parameters."""
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
        if there:  # else it was frozen
            state[index] = of_kind({key: there[key] for key in sound}, sound, f"state.{index}")
            number_in({"step": float(there.get("step", 0))}, "step")
    return {"state": state, "param_groups": groups}


def of_kind(found: Any, sound: Any, name: str) -> Any:
    """What was found, if it is of the kind of what is known to be sound; else ValueError.

    Numbers are at least 0; tensors have the same shape and type. Of a dict's entries those that the
    sound one lacks are left out: by them any attribute could be set. (What the one found lacks,
    as that of an older version may, its reader has to bear.)
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
    raise ValueError(f"{name} is {str(found)[:100]!r}, which no state of this stage has")
