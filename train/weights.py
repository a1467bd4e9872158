"""Weights files of this package and of other programs: read, recognised by their keys, checked.

Nothing in a file is executed. `train.networks.published_names` lists the forms.
"""

import re
import warnings
from argparse import Namespace
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import load_file
from torch import Tensor

from eventdata.errors import InputError, OptionError, reading
from eventdata.files.local import check_plain
from train.checkpoint import check_torch_file
from train.networks.published_names import DEPTHS, Form, depth_of, form_of, rename
from train.neurons.neuron import Kind, NeuronSettings
from train.settings import TIMM

DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
"""Dtypes that a checkpoint may have: those that torch converts to floats."""

STATES = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "state")
"""Keys under which training scripts save a state dict. Averaged weights come first, as in timm."""
PARTS = {"cnn_encoder_state_dict": "encoder.", "rnn_decoder_state_dict": "decoder."}
"""Keys of the two state dicts of a published ES-UCF101 network, and the prefix of each."""
WRAPPERS = re.compile(r"(?:module|network|_orig_mod)\.")
"""Prefixes of keys: of distributed training, of Lightning modules, of torch.compile."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights in a file, under this package's names."""

    path: Path
    form: Form | None
    """The form of the file's names; None: this package's, or unknown."""
    state: dict[str, Tensor]

    def check(
        self, network: Mapping[str, Any], neuron: NeuronSettings, *, exact: bool = False
    ) -> None:
        """Check that a network with these settings computes what the other program's does.

        Args:
            network: the table [network] of a recipe.
            neuron: the settings of the neurons.
            exact: check the neurons, too. To train on, other neurons can take the weights.

        Raises:
            OptionError: a setting differs; the message names it, and a recipe that sets it.
        """
        form = self.form
        if form is None:
            return
        depth = depth_of(self.state)
        if form.network.endswith("resnet") and not depth:
            raise InputError(
                f"{self.path} holds {form.title} that does not exist here, only those of "
                f"{' and '.join(DEPTHS.values())} layers. It has {contents(self.state)}"
            )
        needed = {"name": form.network + depth, **form.settings}
        wrong = {
            f"network.{key}": value
            for key, value in needed.items()
            if network.get(key, False) != value
        }
        carries = self._carries_activated
        if neuron.kind == "liaf" and neuron.carry_activated != carries and (carries or exact):
            wrong["neuron.carry_activated"] = carries
        if exact and neuron.kind not in form.neurons:
            wrong["neuron.kind"] = " or ".join(form.neurons)
        elif exact:
            settings = form.neurons[neuron.kind].items()
            wrong |= {f"neuron.{k}": v for k, v in settings if getattr(neuron, k) != v}
        if wrong:
            raise OptionError(
                f"{self.path} holds {form.title}, which computes something else without "
                f"{', '.join(f'{key}={_toml(value)}' for key, value in wrong.items())}; use the "
                f"recipe {self.recipes}, or set these keys"
            )

    def neuron(self, own: NeuronSettings) -> NeuronSettings:
        """Return the settings of the neurons that the weights were trained with, as far as known.

        Where a form is of several kinds, it is the one that is furthest from spikes. Weights
        without a form have ann neurons, and what nothing states is that of `own`.
        """
        forms = self.form.neurons if self.form else {"ann": {}}
        kind = next(kind for kind in get_args(Kind) if kind in forms)
        carries = kind == "liaf" and self._carries_activated
        return replace(own, **{"kind": kind, "carry_activated": carries, **forms[kind]})

    @property
    def _carries_activated(self) -> bool:
        """Whether the form is that of LIAF-18, which activates in place, and of LIF-18."""
        return (
            self.form is not None and self.form.network + depth_of(self.state) == "event-resnet18"
        )

    @property
    def recipes(self) -> str:
        """The recipes with the settings that the weights need, in words; "" for own weights."""
        depth = depth_of(self.state)
        return " or ".join(name + depth for name in self.form.recipes) if self.form else ""


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def contents(state: Mapping[str, Tensor]) -> str:
    """Return what a state dict holds, in words: the number of tensors and the first of them."""
    shown = ", ".join(f"{key[:100]} {tuple(value.shape)}" for key, value in [*state.items()][:4])
    count = f"{len(state)} tensors: " if len(state) > 4 else ""
    return f"{count}{shown or 'nothing'}{', ...' if count else ''}"


def problem_of(tensor: Tensor) -> str:
    """Return why a tensor's values can't be converted to floats, or ""."""
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_quantized:
        return "is not dense"
    if tensor.is_meta:
        return "has no values, because it is on the device meta"
    if tensor.dtype not in DTYPES:
        return f"is of {tensor.dtype}"
    return ""


def find_weights(name: str | Path) -> Path:
    """Return the path of a file of weights; for `timm:NAME` download it, or find it in the cache.

    Raises:
        InputError: the model can't be downloaded.
        OptionError: huggingface_hub, which timm installs, is missing.
    """
    if not str(name).startswith(TIMM):
        return Path(name)
    model = str(name).removeprefix(TIMM)
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise OptionError(
            f"{name}: huggingface_hub, which downloads weights of timm, can't be loaded ({error}). "
            "Run: pip install timm"
        ) from None
    try:
        return Path(hf_hub_download(f"timm/{model}", "model.safetensors"))
    except Exception as error:  # of the network, of the site, of the name
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"{name} can't be downloaded: {reason:.200}; check the name and the network, or "
            "download the file elsewhere and pass its path"
        ) from error


def load_state(path: str | Path) -> dict[str, Tensor]:
    """Read the state dict of a file under this package's names; see `read_weights`."""
    return read_weights(path).state


def read_weights(path: str | Path) -> Weights:
    """Read a file of weights: safetensors by its suffix, else a torch file of any age.

    A torch file is loaded with weights_only=True. It is a state dict or has one under a key in
    STATES, or two under the keys in PARTS. Prefixes of wrappers are removed from the keys.

    Raises:
        InputError: the file is missing or is not a checkpoint of tensors.
    """
    path = Path(path)
    loaded: Any
    with reading(path):
        size = check_plain(path).st_size
    try:
        if path.suffix == ".safetensors":
            loaded = load_file(path)
        else:
            check_torch_file(path)
            # Since torch 2.5. Scripts save their options, which are read and not used.
            allowed = getattr(torch.serialization, "safe_globals", lambda _: nullcontext())
            with warnings.catch_warnings(), allowed([Namespace]):
                warnings.simplefilter("ignore")  # they concern the program that wrote it
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds of errors
        # Only the first sentence of torch's message: the next explain how to load it anyway.
        reason = str(error).split("\n")[0].partition(". ")[0] or type(error).__name__
        raise InputError(f"{path} can't be read as a checkpoint of tensors: {reason}") from error
    state = _find_state(loaded, path)
    for key, value in state.items():
        problem = problem_of(value)
        if not problem and value.numel() * value.element_size() > size:
            # A tensor of a few bytes can have any shape, because its strides can be zero.
            problem = f"is {tuple(value.shape)}, which is more numbers than the file has"
        if problem:
            raise InputError(
                f"{path} has no state dict of plain numbers: {key!r} {problem}; save the network's "
                "state_dict() instead"
            )
    form = form_of(state)
    return Weights(path=path, form=form, state=rename(state, form))


def _find_state(loaded: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict in the content of a file, without the prefixes of wrappers."""
    found = loaded
    if isinstance(loaded, dict):
        dicts = {key: value for key, value in loaded.items() if isinstance(value, dict)}
        found = next((dicts[key] for key in STATES if key in dicts), loaded)
        if PARTS.keys() <= dicts.keys():
            found = {
                prefix + _unwrapped(key): value
                for part, prefix in PARTS.items()
                for key, value in dicts[part].items()
            }
    tensors = isinstance(found, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()
    )
    if not tensors or not found:
        held = f" It has {', '.join(map(repr, [*loaded][:5]))}." if isinstance(loaded, dict) else ""
        raise InputError(
            f"{path} has no state dict.{held:.300} Save the network's state_dict() instead"
        )
    state = {_unwrapped(key): value for key, value in found.items() if key != "n_averaged"}
    if len(state) < len(found.keys() - {"n_averaged"}):
        raise InputError(f"{path} has several state dicts in one; save one of them")
    return state


def _unwrapped(key: Any) -> str:
    while match := WRAPPERS.match(str(key)):
        key = str(key)[match.end() :]
    return str(key)
