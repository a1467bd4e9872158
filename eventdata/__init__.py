"""Event-camera datasets for spiking neural networks.

Raw events -> one verified Zarr store -> batches for torch. The command is ``eventdata --help``;
the names here are loaded when first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventdata.conversion import Conversion, convert
    from eventdata.dataset import FrameDataset, collate
    from eventdata.errors import EventDataError
    from eventdata.loader import FrameLoader
    from eventdata.store.read import Store, open_store
    from eventdata.verification import Verification, verify

__version__ = "0.2.0"
__all__ = [
    "Conversion",
    "EventDataError",
    "FrameDataset",
    "FrameLoader",
    "Store",
    "Verification",
    "collate",
    "convert",
    "open_store",
    "verify",
]

_HOMES = {
    "Conversion": "eventdata.conversion",
    "EventDataError": "eventdata.errors",
    "FrameDataset": "eventdata.dataset",
    "FrameLoader": "eventdata.loader",
    "Store": "eventdata.store.read",
    "Verification": "eventdata.verification",
    "collate": "eventdata.dataset",
    "convert": "eventdata.conversion",
    "open_store": "eventdata.store.read",
    "verify": "eventdata.verification",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'eventdata' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
