"""Event-camera datasets for spiking neural networks: raw events, one verified store, batches.

The command is ``eventdata --help``. The names here are imported when first used, so that importing
the package is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventdata.conversion import Conversion, convert
    from eventdata.dataset import FrameDataset, collate, concat
    from eventdata.errors import EventDataError
    from eventdata.loader import FrameLoader
    from eventdata.store.read import Store, open_store
    from eventdata.verification import Verification, verify

__version__ = "0.2.0"
__all__ = ["Conversion", "EventDataError", "FrameDataset", "FrameLoader", "Store", "Verification"]
__all__ += ["collate", "concat", "convert", "open_store", "verify"]

_HOMES = {
    "conversion": ("Conversion", "convert"),
    "dataset": ("FrameDataset", "collate", "concat"),
    "errors": ("EventDataError",),
    "loader": ("FrameLoader",),
    "store.read": ("Store", "open_store"),
    "verification": ("Verification", "verify"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"eventdata.{module}"), name)
    raise AttributeError(f"module 'eventdata' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
