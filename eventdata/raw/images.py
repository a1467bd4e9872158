"""Still images for pretraining: photographs, or grey images put together from event frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eventdata.errors import InputError, OptionError, StoreError
from eventdata.formats.image import read_picture
from eventdata.kernels.odg import OdgSettings, edge_integral
from eventdata.raw.image_lists import ImageList, list_images
from eventdata.raw.imagenet import parse_trace
from eventdata.raw.source import Sample, Samples, SettingsOnly
from eventdata.store.layout import Parameters, SampleFormat, shard_count, shard_key
from eventdata.store.read import SampleReader, Split, Store, open_store


@dataclass(frozen=True, kw_only=True)
class Images(SettingsOnly):
    """Labelled images under ``root``, listed as `ImageNet` lists them: (C, H, W).

    The shorter side is scaled to ``short_side`` with antialiasing (bilinear), then the centre of
    ``crop`` rows and columns is cut out. ``grey``: brightness alone, C = 1.
    """

    root: Path
    short_side: int = 256
    crop: int = 224
    grey: bool = False
    list_file: Path | None = None
    classes_file: Path | None = None
    only: str | None = None
    dataset = "images"

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.short_side <= 4096:
            raise OptionError(
                f"crop is {self.crop} and short side {self.short_side}: choose a crop of 1 up to "
                "the short side, and that at most 4096"
            )

    @cached_property
    def _listing(self) -> ImageList:
        return list_images(self.root, self.list_file, self.classes_file, self.only)

    @property
    def classes(self) -> Sequence[str]:
        """Names of the class folders, or of the file of classes."""
        return self._listing.classes

    @property
    def sample_format(self) -> SampleFormat:
        """Images (3, H, W), (1, H, W) where grey."""
        return SampleFormat(
            representation="image",
            steps=None,
            channels=1 if self.grey else 3,
            height=self.crop,
            width=self.crop,
        )

    @property
    def parameters(self) -> Parameters:
        """Scale, crop and colour, by the names of their options."""
        return {
            "source": "images",
            "short_side": self.short_side,
            "crop": self.crop,
            "grey": True if self.grey else None,
        }

    def splits(self) -> dict[str, Samples]:
        """Those of train, val and test that are there."""
        return dict(self._listing.splits)

    def read(self, sample: Sample, out: NDArray[Any]) -> int:
        """Fill out (1, H, W, C) from one image file; it holds no events."""
        pixels = scale_and_crop(
            read_picture(sample.path, grey=self.grey), self.short_side, self.crop
        )
        out[0] = pixels if pixels.ndim == 3 else pixels[..., None]
        return 0


def scale_and_crop(pixels: NDArray[np.uint8], short_side: int, crop: int) -> NDArray[np.uint8]:
    """The centre (crop, crop) of an image (H, W) or (H, W, 3) whose shorter side is short_side.

    Only what is cut out is computed, so that a long strip costs no more than a square.
    """
    height, width = pixels.shape[:2]
    side = min(height, width) * crop / short_side
    top, left = (height - side) / 2, (width - side) / 2
    box = (left, top, left + side, top + side)
    scaled = Image.fromarray(pixels).resize((crop, crop), Image.Resampling.BILINEAR, box=box)
    return np.asarray(scaled)


@dataclass(frozen=True, kw_only=True)
class GreyFromEvents(SettingsOnly):
    """The published edge-integral reconstruction of each sample of a store of ODG frames.

    ``root`` is the store, made from es-imagenet or imagenet; splits, names and labels stay.
    """

    root: Path
    only: str | None = None
    dataset = "images"

    @cached_property
    def _store(self) -> Store:
        store = open_store(self.root)
        source = store.header.parameters.get("source")
        if source not in ("es-imagenet", "imagenet"):
            raise InputError(
                f"{self.root}: a store made from {source!r}; grey images are put together from "
                "the events of ODG alone (es-imagenet or imagenet)"
            )
        return store

    @cached_property
    def _odg(self) -> OdgSettings:
        trace = self._store.header.parameters.get("trace")
        try:
            return OdgSettings() if trace is None else OdgSettings(trace=parse_trace(str(trace)))
        except OptionError as error:  # of who made the store, not of this call
            raise StoreError(f"{self.root}: {error}") from None

    @property
    def _frames(self) -> SampleFormat:
        if not self._store.splits:
            raise InputError(f"{self.root}: a store without splits")
        return next(iter(self._store.splits.values())).sample

    @cached_property
    def _readers(self) -> list[SampleReader]:
        return [split.reader() for split in self._store.splits.values()]

    @property
    def classes(self) -> Sequence[str]:
        """The store's."""
        return self._store.header.classes

    @property
    def sample_format(self) -> SampleFormat:
        """Images (1, H, W) of the frames' size."""
        frames = self._frames
        return SampleFormat(
            representation="image",
            steps=None,
            channels=1,
            height=frames.height,
            width=frames.width,
        )

    @property
    def parameters(self) -> Parameters:
        """The parameters that the frames were made with decide what is put together from them."""
        header = self._store.header
        return {
            "source": "images",
            "grey_from_events": True,
            "events": header.dataset,
            "events_sha256": header.parameters_sha256,
        }

    def splits(self) -> dict[str, Samples]:
        """The store's splits; samples that were left out there are left out here."""
        store = self._store
        wanted = [store.split(self.only)] if self.only else list(store.splits.values())
        numbers = {name: number for number, name in enumerate(store.splits)}
        return {split.name: self._list(numbers[split.name], split) for split in wanted}

    def _list(self, number: int, split: Split) -> Samples:
        """A sample's file is its shard, so that a store that was made again is noticed."""
        indices = np.flatnonzero(split.valid)
        shards = [
            str(self.root / shard_key(split.name, split.sample, shard))
            for shard in range(shard_count(split.count, split.shard_size))
        ]
        left_out = split.count - len(indices)
        return Samples(
            names=list(split.sample_names[indices]),
            labels=split.labels[indices],
            paths=[shards[shard] for shard in (indices // split.shard_size).tolist()],
            details=np.stack([np.full(len(indices), number), indices], axis=1).astype(np.int64),
            notes=[f"{left_out:,} skipped samples of {split.name} left out"] if left_out else [],
        )

    def read(self, sample: Sample, out: NDArray[Any]) -> int:
        """Fill out (1, H, W, 1) from the frames of one sample; it holds no events."""
        number, index = sample.details
        packed = np.empty(self._frames.packed_shape, np.uint8)
        try:
            self._readers[number].read(index, packed)
        except StoreError as error:
            raise InputError(str(error)) from None
        out[0, ..., 0] = edge_integral(packed, self._odg)
        return 0
