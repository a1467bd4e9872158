"""The networks, by name.

Names that the rest of the package relies on: `stem` is the part that sees the input's channels,
`fc` the one that makes the classes, `decoder` (where there is one) what comes after the encoder.
"""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

from eventdata.errors import OptionError
from train.networks.crnn import CRNN
from train.networks.layers import Network
from train.networks.published_names import rename_published
from train.networks.resnet import EVENT, IMAGE, ResNet
from train.networks.vgg import VGG

__all__ = ["NETWORKS", "build", "rename_published"]

NETWORKS: dict[str, Callable[..., Network]] = {
    "event-resnet18": partial(ResNet, design=EVENT, depths=(2, 2, 2, 2)),
    "event-resnet34": partial(ResNet, design=EVENT, depths=(3, 4, 6, 3)),
    "image-resnet18": partial(ResNet, design=IMAGE, depths=(2, 2, 2, 2)),
    "image-resnet34": partial(ResNet, design=IMAGE, depths=(3, 4, 6, 3)),
    "vgg": VGG,
    "crnn": CRNN,
}


OF_THE_DATA = {"design", "channels", "classes", "neuron", "steps", "size"}
"""Settings that follow from a stage and its data: no recipe has them under [network]."""


def build(name: str, **settings: Any) -> Network:
    """A network by its name in NETWORKS, with the settings of its class.

    Raises:
        OptionError: no such network, no such setting, or one that is missing.
    """
    if name not in NETWORKS:
        raise OptionError(f"network {name!r} is not one of {', '.join(NETWORKS)}")
    try:
        signature(NETWORKS[name]).bind(**settings)
    except TypeError as error:
        known = [key for key in signature(NETWORKS[name]).parameters if key not in OF_THE_DATA]
        raise OptionError(
            f"network {name}: {error}; its settings are {', '.join(known)}"
        ) from error
    if settings.get("width", 1) < 1:
        raise OptionError(f"network {name}: width is {settings['width']}, must be at least 1")
    return NETWORKS[name](**settings)
