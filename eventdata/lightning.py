"""`EventDataModule`: the splits of a store as a LightningDataModule (extra ``train``)."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eventdata.dataset import FrameDataset
from eventdata.errors import OptionError
from eventdata.loader import FrameLoader
from eventdata.raw.hold_out import group_keys, hold_out
from eventdata.store.read import open_store

try:
    from lightning.pytorch import LightningDataModule
except ImportError:
    raise OptionError(
        "eventdata.lightning needs the package lightning; run: pip install 'eventdata[train]'"
    ) from None


class EventDataModule(LightningDataModule):
    """Loaders of a store's splits train, val and test, each batch on the trainer's device.

    Ranks share the samples, and a checkpoint within an epoch resumes there with the batches that
    were not read, since Lightning saves the state of a `FrameLoader`.

    Args:
        store: path, zip file or URL.
        batch_size: samples in a batch of one rank.
        held_out: share of each class of the training split that is drawn for the split test where
            the store has none, and then for val, with the samples of one recording together.
        held_out_seed: seed of that draw.
        seed: seed of the order of training.
        dtype, layout, threads, prefetch: as of `FrameLoader`.
        transform, eval_transform: functions that get each batch of training and of evaluation.

    Raises:
        StoreError, OptionError: as `FrameDataset` and `FrameLoader`.
    """

    def __init__(
        self,
        store: str | os.PathLike[str],
        batch_size: int = 64,
        *,
        held_out: float = 0.1,
        held_out_seed: int = 0,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        layout: Any = "NTPHW",
        transform: Callable[[torch.Tensor], Any] | None = None,
        eval_transform: Callable[[torch.Tensor], Any] | None = None,
        threads: int = 2,
        prefetch: int = 2,
    ) -> None:
        super().__init__()
        if not 0 < held_out < 1:
            raise OptionError(f"held_out must be more than 0 and less than 1, not {held_out!r}")
        splits = open_store(store).splits
        self.train_data = FrameDataset(store)
        self.classes = self.train_data.classes
        parts: dict[str, FrameDataset] = {}
        for name in ("test", "val"):
            if name in splits and name != self.train_data.split:
                parts[name] = FrameDataset(store, name)
            else:
                chosen = _drawn(self.train_data, held_out, held_out_seed)
                parts[name] = self.train_data.subset(chosen)
                self.train_data = self.train_data.subset(~chosen)
        self.val_data, self.test_data = parts["val"], parts["test"]
        self.seed, self.batch_size = seed, batch_size
        self._transforms = transform, eval_transform
        self._options: dict[str, Any] = {
            "dtype": dtype,
            "layout": layout,
            "threads": threads,
            "prefetch": prefetch,
        }

    def _loader(self, data: FrameDataset, *, training: bool = False) -> FrameLoader:
        device = self.trainer.strategy.root_device if self.trainer is not None else "cpu"
        world_size = self.trainer.world_size if self.trainer is not None else 1
        return FrameLoader(
            data,
            self.batch_size,
            shuffle=training,
            seed=self.seed,
            drop_last=training and world_size > 1,  # ranks step together
            device=device,
            transform=self._transforms[not training],
            **self._options,
        )

    def train_dataloader(self) -> FrameLoader:
        """Return the loader of the training samples."""
        return self._loader(self.train_data, training=True)

    def val_dataloader(self) -> FrameLoader:
        """Return the loader of the split val, or of the samples drawn for it."""
        return self._loader(self.val_data)

    def test_dataloader(self) -> FrameLoader:
        """Return the loader of the split test, or of the samples drawn for it."""
        return self._loader(self.test_data)

    def predict_dataloader(self) -> FrameLoader:
        """Return the loader of `test_dataloader`."""
        return self.test_dataloader()


def _drawn(data: FrameDataset, share: float, seed: int) -> NDArray[np.bool_]:
    """Return which samples are held out (N,); OptionError where no class has two recordings."""
    keys = group_keys(data.names)
    chosen = hold_out(keys, [data.classes[label] for label in data.labels], share, seed)
    if not chosen:
        raise OptionError(
            f"{data!r}: no class has two recordings, so nothing can be held out; convert more of "
            "each class, or a store with the splits train, val and test"
        )
    return np.array([key in chosen for key in keys], np.bool_)
