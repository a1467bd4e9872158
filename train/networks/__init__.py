"""The networks by name: a new one is one file and one line in NETWORKS.

The rest of the package relies on three names in a network: `stem` is the part that sees the
input's channels, `fc` the classifier, and `decoder`, if there is one, all that follows the encoder.
"""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

from eventdata.errors import OptionError
from train.networks import torchvision
from train.networks.crnn import CRNN
from train.networks.layers import Network
from train.networks.resnet import EVENT, IMAGE, ResNet
from train.networks.vgg import VGG

NETWORKS: dict[str, Callable[..., Network]] = {
    "event-resnet18": partial(ResNet, design=EVENT, depths=(2, 2, 2, 2)),
    "event-resnet34": partial(ResNet, design=EVENT, depths=(3, 4, 6, 3)),
    "image-resnet18": partial(ResNet, design=IMAGE, depths=(2, 2, 2, 2)),
    "image-resnet34": partial(ResNet, design=IMAGE, depths=(3, 4, 6, 3)),
    "torchvision-resnet18": torchvision.resnet18,
    "torchvision-resnet34": torchvision.resnet34,
    "vgg": VGG,
    "crnn": CRNN,
}

OF_THE_DATA = {"design", "channels", "classes", "neuron", "steps", "size"}
"""Settings that a stage and its data decide, so that no recipe has them under [network]."""


def build(name: str, **settings: Any) -> Network:
    """Return a network by its name in NETWORKS, with the settings of its class.

    Raises:
        OptionError: the network or a setting is unknown, or a setting is missing.
    """
    if name not in NETWORKS:
        raise OptionError(f"network {name!r} does not exist; choose one of {', '.join(NETWORKS)}")
    try:
        signature(NETWORKS[name]).bind(**settings)
    except TypeError as error:
        known = [key for key in signature(NETWORKS[name]).parameters if key not in OF_THE_DATA]
        raise OptionError(f"network {name}: {error}; its settings are {', '.join(known)}") from None
    if settings.get("width", 1) < 1:
        raise OptionError(f"network {name}: width is {settings['width']}; choose at least 1")
    return NETWORKS[name](**settings)
