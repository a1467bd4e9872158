"""Transfer of weights between networks: from any kind of neuron to any, from images to events.

The kinds have the same parameters, so most entries are copied. Two parts may not fit: the stem,
where C colour channels become P polarities, and the classifier, where the classes differ.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from eventdata.errors import InputError, OptionError
from train.weights import contents, problem_of

Stem = Literal["mean", "fresh"]
Part = Literal["encoder", "decoder", "both"]
Fate = Literal["taken", "adapted", "fresh", "unused"]


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
    if problem := problem_of(there):
        raise InputError(f"{key} of the checkpoint {problem}; pass a checkpoint of plain numbers")
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
    """Raise InputError if another kind of network merely shares some keys and shapes."""
    here, there = _layers(own, part), _layers(source, part)
    for lacks, has, missing, layers in (
        ("the checkpoint", "the network", here - there, here),
        ("the network", "the checkpoint", there - here, there),
    ):
        if len(missing) > len(layers) / 4:
            raise InputError(
                f"the checkpoint is of another network: {lacks} lacks {len(missing)} of "
                f"{len(layers)} layers that {has} has, for example {min(missing)}. The checkpoint "
                f"has {contents(source)}; the network has {contents(own)}. Build both with the "
                "same settings"
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
        source: state dict of the same architecture with any kind of neuron
            (`train.weights.load_state`).
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
            f"nothing in the checkpoint fits the network: it has {contents(source)}; the network "
            f"has {contents(own)}. Pass a checkpoint of the same architecture"
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
            raise OptionError(f"can't freeze {prefix!r}: no parameter starts with it; correct it")
        chosen |= matches
    frozen = [name for name in parameters if name in chosen and parameters[name].requires_grad]
    for name in frozen:
        parameters[name].requires_grad_(False)
    return frozen


def thaw(network: nn.Module, names: Iterable[str]) -> None:
    """Include the named parameters in training again."""
    for name in names:
        network.get_parameter(name).requires_grad_(True)
