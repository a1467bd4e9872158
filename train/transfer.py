"""Transfer of weights between networks: from any kind of neuron to any, from images to events.

The kinds have the same parameters, so most entries are copied. Two parts may not fit: the stem,
where C colour channels become P polarities, and the classifier, where the classes differ.
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
from train.checkpoint import check_torch_file
from train.networks.published_names import rename_published

Stem = Literal["mean", "fresh"]
Part = Literal["encoder", "decoder", "both"]
Fate = Literal["taken", "adapted", "fresh", "unused"]

DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
"""Dtypes that a checkpoint may have: those that torch converts to floats."""


@dataclass(frozen=True)
class Report:
    """The outcome of a transfer, printable."""

    fates: Mapping[str, tuple[Fate, str]]
    """For each entry of both state dicts its fate, and how it was adapted or why it is fresh.

    taken: copied from the source; adapted: computed from the source; fresh: not changed; unused:
    an entry of the source that is not in the network.
    """

    def of(self, fate: Fate) -> dict[str, str]:
        """Return the entries with a fate, and the reasons."""
        return {key: why for key, (this, why) in self.fates.items() if this == fate}

    def __str__(self) -> str:
        return self._lines("taken", "adapted", "fresh", "unused")

    def summary(self) -> str:
        """Return the report without the entries that were copied."""
        return self._lines("adapted", "fresh", "unused")

    def _lines(self, *shown: Fate) -> str:
        rows = [(key, fate, why) for fate in shown for key, why in self.of(fate).items()]
        width = max((len(key) for key, _, _ in rows), default=0)
        lines = [f"{key:{width}}  {fate:9}{why}".rstrip() for key, fate, why in rows]
        counts = (f"{len(self.of(fate))} {fate}" for fate in get_args(Fate))
        return "\n".join([*lines, ", ".join(counts)])


def load_state(path: str | Path) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint: safetensors by its suffix, else a torch file.

    A torch file is loaded with weights_only=True. It is a state dict or has one under "state_dict",
    as Lightning's files do. Keys of the published networks and of wrappers (``module.``,
    ``network.``) are renamed to this package's.

    Raises:
        InputError: the file is missing or is not a checkpoint of tensors.
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
                warnings.simplefilter("ignore")  # they concern the program that wrote it
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds of errors
        # Only the first sentence of torch's message: the next explain how to load it anyway.
        reason = str(error).split("\n")[0].partition(". ")[0] or type(error).__name__
        raise InputError(f"{path} can't be read as a checkpoint of tensors: {reason}") from error
    if isinstance(loaded, dict):
        loaded = loaded.get("state_dict", loaded)
    tensors = isinstance(loaded, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in loaded.items()
    )
    if not tensors or not loaded:
        raise InputError(f"{path} has no state dict. Save the network's state_dict() instead")
    for key, value in loaded.items():
        problem = _problem(value)
        if not problem and value.numel() * value.element_size() > size:
            # A tensor of a few bytes can have any shape, because its strides can be zero.
            problem = f"is {tuple(value.shape)}, which is more numbers than the file has"
        if problem:
            raise InputError(
                f"{path} has no state dict of plain numbers: {key!r} {problem}. Save the network's "
                "state_dict() instead"
            )
    return rename_published({key.removeprefix("network."): value for key, value in loaded.items()})


def _problem(tensor: Tensor) -> str:
    """Return why a tensor's values can't be converted to floats, or ""."""
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_quantized:
        return "is not dense"
    if tensor.is_meta:
        return "has no values, because it is on the device meta"
    if tensor.dtype not in DTYPES:
        return f"is of {tensor.dtype}"
    return ""


def _fate(
    key: str, here: Tensor, there: Tensor | None, stem: Stem, part: Part, same_classes: bool
) -> tuple[Fate, str]:
    """Return the fate of one entry, by the rules of `transfer` in their order, and the reason."""
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
        raise InputError(f"{key} of the checkpoint {problem}. Pass a checkpoint of plain numbers")
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
        f"{tuple(here.shape)} here. Build both with the same settings"
    )


def _check_layers(own: Mapping[str, Tensor], source: Mapping[str, Tensor], part: Part) -> None:
    """Raise InputError if another kind of network merely shares some keys and shapes."""
    here, there = _layers(own, part), _layers(source, part)
    for lacks, has, missing, layers in (
        ("the checkpoint", "the network", here - there, here),
        ("the network", "the checkpoint", there - here, there),
    ):
        if len(missing) > len(layers) / 4:
            raise InputError(
                f"the checkpoint is of another network: {lacks} lacks {len(missing)} of "
                f"{len(layers)} layers that {has} has, for example {min(missing)}. Build both with "
                "the same settings"
            )


def _layers(state: Mapping[str, Tensor], part: Part) -> set[str]:
    """Return the weights of a part's layers, except stem and classifier, which may differ."""
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
    """Copy a source's weights into a network, in place, and report the fate of each entry.

    Args:
        network: a network with any kind of neuron.
        source: state dict of the same architecture with any kind of neuron (`load_state`).
        stem: mean: if the source's kernel has another number of channels, each channel here becomes
            their mean; fresh: the stem is not changed.
        part: encoder: everything except the decoder and the classifier; decoder: only those; both.
        same_classes: whether both classifiers have the same classes in the same order; if not, the
            classifier is not changed.

    Raises:
        InputError: nothing matches; an entry other than the stem's kernel and the classifier has
            another shape; an entry is not of plain numbers; or more than a quarter of the other
            layers are in only one of the two networks. The network is then unchanged.
        OptionError: `stem` or `part` is unknown.
    """
    for name, value, allowed in (("stem", stem, get_args(Stem)), ("part", part, get_args(Part))):
        if value not in allowed:
            raise OptionError(f"{name} is {value!r}: choose {', '.join(allowed)}")
    own = network.state_dict()
    fates = {
        key: _fate(key, here, source.get(key), stem, part, same_classes)
        for key, here in own.items()
    }
    if all(fate == "fresh" for fate, _ in fates.values()):
        raise InputError(
            f"nothing in the checkpoint fits the network: it has {next(iter(source), 'nothing')}, "
            f"the network has {next(iter(own))}. Pass a checkpoint of the same architecture"
        )
    _check_layers(own, source, part)
    for key, (fate, _) in fates.items():
        if fate == "taken":
            own[key].copy_(source[key])
        elif fate == "adapted":
            there = source[key]
            kernel = there if there.dtype == torch.float64 else there.float()  # others lack mean()
            own[key].copy_(kernel.mean(dim=1, keepdim=True).expand_as(own[key]))
    unused: dict[str, tuple[Fate, str]] = {key: ("unused", "") for key in source if key not in own}
    return Report(fates | unused)


def freeze(network: nn.Module, prefixes: Iterable[str]) -> list[str]:
    """Exclude the parameters with a prefix from training; return the names, for `thaw`.

    Only the gradients stop: batch norms still follow their input. Under DDP a stage that thaws
    later needs find_unused_parameters.

    Raises:
        OptionError: no parameter has the prefix.
    """
    parameters = dict(network.named_parameters())
    chosen: set[str] = set()
    for prefix in prefixes:
        matches = {name for name in parameters if f"{name}.".startswith(prefix.rstrip(".") + ".")}
        if not matches:
            raise OptionError(f"cannot freeze {prefix!r}: no parameter's name starts with it")
        chosen |= matches
    frozen = [name for name in parameters if name in chosen and parameters[name].requires_grad]
    for name in frozen:
        parameters[name].requires_grad_(False)
    return frozen


def thaw(network: nn.Module, names: Iterable[str]) -> None:
    """Include the named parameters in training again."""
    for name in names:
        network.get_parameter(name).requires_grad_(True)
