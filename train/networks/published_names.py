"""The names that other programs give to a network's weights, and what their outputs depend on.

A form is recognised by the keys of a state dict. The neurons' settings are not in the keys, so a
form also lists the settings without which the same weights give other outputs.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Names = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]

DEPTHS = {(2, 2, 2, 2): "18", (3, 4, 6, 3): "34"}
"""Depths of ResNets by the blocks of their stages."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """One program's names for the weights of a network."""

    title: str
    mark: str
    """A pattern that matches the beginning of a key in every such state dict, and in no other."""
    network: str
    """The network's name in `train.networks`; without the depth for ResNets."""
    recipes: tuple[str, ...] = ()
    """Recipes with the settings that the weights need; without the depth for ResNets."""
    names: Names = ()
    """Patterns in keys, and what replaces them."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the network that it needs to compute the same."""
    neurons: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Kinds of neuron, each with the settings that it needs to compute the same."""
    unused: str = r"(?!)"
    """A pattern of entries that the other program saves but does not use."""


EVENT_RESNET = Form(
    title="a published event network",
    mark=r"conv1\.kernel\.|layer\d\.\d+\.cv1\.",
    network="event-resnet",
    recipes=("published-liaf", "published-lif"),
    names=(
        (r"^conv1\.kernel\.", "stem.conv."),
        (r"^conv1\.NormLayer\.", "stem.norm."),
        (r"^conv1\.decay$", "stem.neuron.decay"),
        (r"^layer(\d)\.", lambda m: f"stages.{int(m[1]) - 1}."),
        (r"^(stages\.\d+\.\d+)\.decay$", r"\1.neuron.decay"),
        (r"\.cv1\.", ".first.conv."),
        (r"\.bn1\.", ".first.norm."),
        (r"\.cv2\.", ".second.conv."),
        (r"\.bn2\.", ".second.norm."),
        (r"\.shortcut_norm\.", ".shortcut.norm."),
        (r"\.shortcut\.(weight|bias)$", r".shortcut.conv.\1"),
    ),
    settings={"respond_to_sum": True},
    neurons={
        "liaf": {"activation": "leaky_relu", "threshold": 0.5, "learn_decay": True},
        "lif": {"threshold": 0.5, "learn_decay": True},
    },
)
IMAGE_RESNET = Form(
    title="a published image network",
    mark=r"conv[2-5]_x\.",
    network="image-resnet",
    recipes=("published-s",),
    names=(
        (r"^conv1\.0\.", "stem.conv."),
        (r"^conv1\.1\.bn\.", "stem.norm."),
        (r"^conv(\d)_x\.", lambda m: f"stages.{int(m[1]) - 2}."),
        (r"\.residual_function\.0\.", ".first.conv."),
        (r"\.residual_function\.1\.bn\.", ".first.norm."),
        (r"\.residual_function\.3\.", ".second.conv."),
        (r"\.residual_function\.4\.bn\.", ".second.norm."),
        (r"\.shortcut\.0\.", ".shortcut.conv."),
        (r"\.shortcut\.1\.bn\.", ".shortcut.norm."),
    ),
    neurons={"lif": {"decay": 0.25, "threshold": 0.5, "learn_decay": False}},
)
TORCHVISION_RESNET = Form(
    title="a ResNet of torchvision or timm",
    mark=r"layer\d\.\d+\.conv1\.",
    network="torchvision-resnet",
    recipes=("torchvision-resnet",),
    names=(
        (r"^conv1\.", "stem.conv."),
        (r"^bn1\.", "stem.norm."),
        (r"^layer(\d)\.", lambda m: f"stages.{int(m[1]) - 1}."),
        (r"\.conv1\.", ".first.conv."),
        (r"\.bn1\.", ".first.norm."),
        (r"\.conv2\.", ".second.conv."),
        (r"\.bn2\.", ".second.norm."),
        (r"\.downsample\.0\.", ".shortcut.conv."),
        (r"\.downsample\.1\.", ".shortcut.norm."),
    ),
    neurons={"ann": {"activation": "relu"}},
)
_DECODER: Names = ((r"^decoder\.LSTM\.", "decoder.lstm."),)
CRNN_OF_EVENTS = Form(
    title="a published ES-UCF101 network of events",
    mark=r"encoder\.cnn0\.kernel\.",
    network="crnn",
    recipes=("published-crnn",),
    names=(
        *_DECODER,
        (r"\.cnn0\.", ".stem."),
        (r"\.cnn(\d)\.", lambda m: f".cells.{int(m[1]) - 1}."),
        (r"\.fc4\.kernel\.", ".hidden."),
        (r"\.fc4\.decay$", ".neuron.decay"),
        (r"\.fc5\.kernel\.", ".embedding."),
        (r"\.kernel\.", ".conv."),
        (r"\.NormLayer\.", ".norm."),
        (r"\.(stem|cells\.\d)\.decay$", r".\1.neuron.decay"),
    ),
    settings={"mix_axes": True},
    neurons={
        "liaf": {"activation": "relu", "threshold": 0.5, "learn_decay": True},
        "lif": {"threshold": 0.5, "learn_decay": True},
    },
    unused=r"encoder\.fc5\.decay$",
)
CRNN_OF_PICTURES = Form(
    title="a published ES-UCF101 network of pictures",
    mark=r"encoder\.conv1\.0\.",
    network="crnn",
    recipes=("published-crnn-ann",),
    names=(
        *_DECODER,
        (r"\.conv1\.0\.", ".stem.conv."),
        (r"\.conv1\.1\.", ".stem.norm."),
        (r"\.conv(\d)\.0\.", lambda m: f".cells.{int(m[1]) - 2}.conv."),
        (r"\.conv(\d)\.1\.", lambda m: f".cells.{int(m[1]) - 2}.norm."),
        (r"\.fc1\.", ".hidden."),
        (r"\.fc2\.", ".embedding."),
    ),
    settings={"mix_axes": False},
    neurons={"ann": {"activation": "relu"}},
)
FORMS = (EVENT_RESNET, IMAGE_RESNET, TORCHVISION_RESNET, CRNN_OF_EVENTS, CRNN_OF_PICTURES)


def form_of(keys: Iterable[str]) -> Form | None:
    """Return the form of a state dict by its keys; None for this package's and unknown names."""
    known = list(keys)
    marks = ((form, re.compile(form.mark)) for form in FORMS)
    return next((form for form, mark in marks if any(map(mark.match, known))), None)


def rename(state: Mapping[str, Tensor], form: Form | None) -> dict[str, Tensor]:
    """Return a state dict of a form under this package's names."""
    renamed = {}
    for key, value in state.items():
        if form is not None:
            if re.match(form.unused, key):
                continue
            for pattern, name in form.names:
                key = re.sub(pattern, name, key)
        renamed[key] = value
    return renamed


def depth_of(state: Mapping[str, Tensor]) -> str:
    """Return the depth of a ResNet's state dict under this package's names.

    "" if it is not a ResNet of basic blocks, or its depth is neither 18 nor 34.
    """
    blocks = {m.groups() for m in (re.match(r"stages\.(\d)\.(\d+)\.", key) for key in state) if m}
    stages = tuple(sum(stage == str(number) for stage, _ in blocks) for number in range(4))
    return "" if any(".conv3." in key for key in state) else DEPTHS.get(stages, "")
