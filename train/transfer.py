"""Weights from one network into another: any kind of neuron to any, images to events.

The kinds have the same parameters, so most are taken as they are. Two parts may not fit: the stem,
where C colour channels become P polarities, and the classifier, where the classes are others.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from eventdata.errors import InputError, OptionError
from eventdata.files.local import check_plain
from train.networks.published_names import rename_published
from train.runs.checkpoint import check_torch_file

Stem = Literal["mean", "fresh"]
Part = Literal["encoder", "decoder", "both"]

DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
"""What a checkpoint's numbers may be: what torch makes floats of."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of every entry of a network's state dict. Printable."""

    taken: tuple[str, ...]
    """Entries that have the source's values."""
    adapted: dict[str, str]
    """Entries computed from the source's, and how."""
    fresh: dict[str, str]
    """Entries that kept the values they had, and why."""
    unused: tuple[str, ...]
    """Entries of the source that have no place in the network."""

    def __str__(self) -> str:
        return self._lines(dict.fromkeys(self.taken, "taken"))

    def summary(self) -> str:
        """The same without the entries that were taken as they are."""
        return self._lines({})

    def _lines(self, fate: dict[str, str]) -> str:
        fate |= {key: f"adapted  {how}" for key, how in self.adapted.items()}
        fate |= {key: f"fresh    {why}" for key, why in self.fresh.items()}
        fate |= dict.fromkeys(self.unused, "unused")
        width = max(map(len, fate), default=0)
        lines = [f"{key:{width}}  {what}" for key, what in fate.items()]
        counts = f"{len(self.taken)} taken, {len(self.adapted)} adapted, {len(self.fresh)} fresh"
        return "\n".join([*lines, f"{counts}, {len(self.unused)} unused"])


def load_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint: safetensors by its suffix, else a torch file.

    A torch file is loaded with weights_only=True; it is the state dict or keeps it under
    "state_dict", as Lightning does. Keys of the published networks and of wrappers (``module.``,
    ``network.``) come back as ours.

    Raises:
        InputError: no such file, or not a checkpoint of tensors alone.
    """
    path = Path(path)
    loaded: Any
    try:
        size = check_plain(path).st_size
        if path.suffix == ".safetensors":
            loaded = load_file(path)
        else:
            check_torch_file(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what made the file
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds
        # Of torch's own only the first sentence: the next tell how to load it all the same.
        reason = str(error).split("\n")[0].partition(". ")[0] or type(error).__name__
        raise InputError(f"{path} cannot be read as a checkpoint of tensors: {reason}") from error
    if isinstance(loaded, dict):
        loaded = loaded.get("state_dict", loaded)
    tensors = isinstance(loaded, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in loaded.items()
    )
    if not tensors or not loaded:
        raise InputError(f"{path} holds no state dict: save the network's state_dict() instead")
    for key, value in loaded.items():
        problem = _problem(value)
        if not problem and value.numel() * value.element_size() > size:
            # A tensor of a few bytes may have any shape: its strides can be zero.
            problem = f"is {tuple(value.shape)}, more numbers than are in the file"
        if problem:
            raise InputError(
                f"{path} holds no state dict of plain numbers: {key!r} {problem}; save the "
                "network's state_dict() instead"
            )
    return rename_published({key.removeprefix("network."): value for key, value in loaded.items()})


def _problem(tensor: Tensor) -> str:
    """Why it is not made of real numbers that torch makes floats of; or ""."""
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_quantized:
        return "is not dense"
    if tensor.is_meta:
        return "has no values (it is of the device meta)"
    if tensor.dtype not in DTYPES:
        return f"is of {tensor.dtype}"
    return ""


def _fate(
    key: str, here: Tensor, there: Tensor | None, stem: Stem, part: Part, same_classes: bool
) -> tuple[Literal["taken", "adapted", "fresh"], str]:
    """What is to become of one entry, and how or why. The rules of `transfer`, in their order."""
    names = key.split(".")
    if not _is_of(key, part):
        return "fresh", f"not of the {part}"
    if "stem" in names and stem == "fresh":
        return "fresh", "stem"
    if "fc" in names and not same_classes:
        return "fresh", "classes of other names in the source"
    if there is None:
        return "fresh", "not in the source"
    if problem := _problem(there):
        raise InputError(f"{key} of the checkpoint {problem}; give one of plain numbers")
    if there.shape == here.shape:
        return "taken", ""
    if there.ndim == here.ndim:
        but_channels = [shape[:1] + shape[2:] for shape in (there.shape, here.shape)]
        if "stem" in names and there.ndim == 4 and there.shape[1] and len(set(but_channels)) == 1:
            return "adapted", f"mean of {there.shape[1]} channels for each of {here.shape[1]}"
        if "fc" in names and there.shape[1:] == here.shape[1:]:
            return "fresh", f"{len(there)} classes in the source, {len(here)} here"
    raise InputError(
        f"the checkpoint is of another network: {key} is {tuple(there.shape)} there and "
        f"{tuple(here.shape)} here; build both with the same settings"
    )


def _check_layers(own: Mapping[str, Tensor], source: Mapping[str, Tensor], part: Part) -> None:
    """InputError where a network of another kind happens to share some keys and shapes."""
    here, there = _layers(own, part), _layers(source, part)
    for lacks, has, missing, layers in (
        ("the checkpoint", "the network", here - there, here),
        ("the network", "the checkpoint", there - here, there),
    ):
        if len(missing) > len(layers) / 4:
            raise InputError(
                f"the checkpoint is of another network: {lacks} lacks {len(missing)} of "
                f"{len(layers)} layers that {has} has, {min(missing)} for one; build both with the "
                "same settings"
            )


def _layers(state: Mapping[str, Tensor], part: Part) -> set[str]:
    """The kernels and matrices of a part, without stem and classifier, which may differ."""
    return {
        key
        for key, values in state.items()
        if values.ndim > 1 and not {"stem", "fc"} & set(key.split(".")) and _is_of(key, part)
    }


def _is_of(key: str, part: Part) -> bool:
    return part in ("both", "decoder" if key.split(".")[0] in ("decoder", "fc") else "encoder")


def transfer(
    network: nn.Module,
    source: Mapping[str, Tensor],
    *,
    stem: Stem = "mean",
    part: Part = "both",
    same_classes: bool = True,
) -> Report:
    """Set a network's state from a source's, in place, and report what became of each entry.

    Args:
        network: of any kind of neuron.
        source: state dict of the same architecture, of any kind of neuron (`load_state`).
        stem: mean: where the source's kernel has another number of channels, each of ours is the
            mean over them; fresh: nothing of the stem is taken.
        part: encoder: all but the decoder and the classifier; decoder: those alone; both.
        same_classes: whether the classifiers are of the same classes in the same order; else
            nothing of the source's is taken.

    Raises:
        InputError: nothing matches, or an entry other than the stem's kernel and the classifier has
            another shape, or one is not of plain numbers, or more than a quarter of the layers
            between these are in one of the two networks alone. The network is then as it was.
        OptionError: no such `stem` or `part`.
    """
    for name, value, allowed in (("stem", stem, get_args(Stem)), ("part", part, get_args(Part))):
        if value not in allowed:
            raise OptionError(f"{name} {value!r} is not one of {', '.join(allowed)}")
    own = network.state_dict()
    fates = {
        key: _fate(key, here, source.get(key), stem, part, same_classes)
        for key, here in own.items()
    }
    if all(fate == "fresh" for fate, _ in fates.values()):
        raise InputError(
            f"nothing of the checkpoint fits the network: it has {next(iter(source), 'nothing')}, "
            f"the network has {next(iter(own))}; give a checkpoint of the same architecture"
        )
    _check_layers(own, source, part)
    for key, (fate, _) in fates.items():
        if fate == "taken":
            own[key].copy_(source[key])
        elif fate == "adapted":
            there = source[key]
            kernel = there if there.dtype == torch.float64 else there.float()  # others have no mean
            own[key].copy_(kernel.mean(dim=1, keepdim=True).expand_as(own[key]))
    return Report(
        taken=tuple(key for key, (fate, _) in fates.items() if fate == "taken"),
        adapted={key: how for key, (fate, how) in fates.items() if fate == "adapted"},
        fresh={key: why for key, (fate, why) in fates.items() if fate == "fresh"},
        unused=tuple(key for key in source if key not in own),
    )


def freeze(network: nn.Module, prefixes: Iterable[str]) -> list[str]:
    """Take parameters out of training by the prefix of their names; `thaw` what this returns.

    Only the gradients stop: batch norm goes on following its input. Under DDP a stage that thaws
    later needs find_unused_parameters.

    Raises:
        OptionError: a prefix that no parameter's name has.
    """
    chosen: dict[str, nn.Parameter] = {}
    for prefix in prefixes:
        inside = prefix.rstrip(".") + "."
        matches = {
            name: parameter
            for name, parameter in network.named_parameters()
            if f"{name}.".startswith(inside)
        }
        if not matches:
            raise OptionError(f"cannot freeze {prefix!r}: no parameter's name starts so")
        chosen |= matches
    frozen = [name for name, parameter in chosen.items() if parameter.requires_grad]
    for name in frozen:
        chosen[name].requires_grad_(False)
    return frozen


def thaw(network: nn.Module, names: Iterable[str]) -> None:
    """Train the named parameters again."""
    for name in names:
        network.get_parameter(name).requires_grad_(True)
