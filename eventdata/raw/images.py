"""Still images for pretraining: photographs, or grey images reconstructed from event frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eventdata.errors import InputError, OptionError, StoreError
from eventdata.files.archives.paths import Archived
from eventdata.files.inputs import only_local
from eventdata.formats.image import read_picture
from eventdata.kernels.odg import OdgSettings, edge_integral
from eventdata.raw.image_lists import ImageFolders
from eventdata.raw.source import Sample, Samples, Source, SourceSettings
from eventdata.settings import from_options, setting
from eventdata.store.layout import Parameters, SampleFormat, shard_count, shard_key
from eventdata.store.read import SampleReader, Split, Store, open_store


@dataclass(frozen=True, kw_only=True)
class Images(ImageFolders):
    """Labelled images (C, H, W).

    The shorter side is scaled to ``short_side`` with antialiasing (bilinear), then the centre of
    ``crop`` rows and columns is cut out. With ``grey``, C is 1.
    """

    short_side: int = setting(
        256, "Shorter side of the scaled image.", unit="pixels", least=1, most=4096
    )
    crop: int = setting(
        224, "Rows and columns of the centre crop.", unit="pixels", least=1, most=4096
    )
    grey: bool = setting(False, "Store only brightness, one channel instead of three.")
    grey_from_events: bool = setting(
        False,
        "Reconstruct grey images from the events of INPUT, a store made from imagenet or "
        "es-imagenet.",
        stored=False,
    )
    dataset = "images"
    example = "ILSVRC2012/ images.zarr --short-side 256 --crop 224"

    @classmethod
    def build(cls, name: str, root: Path, options: Mapping[str, Any]) -> Source:
        """Return this source, or `GreyFromEvents` if the options ask for it."""
        if options.get("grey_from_events") and isinstance(root, Archived):
            root = Path(str(root))  # a zipped store
        source = super().build(name, root, options)
        if not (isinstance(source, cls) and source.grey_from_events):
            return source
        only_local(root, "the store for --grey-from-events")
        unused = sorted(set(options) - {"grey_from_events", "split"})
        if unused:
            raise OptionError(f"--grey-from-events does not use {unused[0]!r}; remove it")
        return GreyFromEvents(root, source.only)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop > self.short_side:
            raise OptionError(
                f"crop is {self.crop} and short_side {self.short_side}: choose a crop of at most "
                "the short side"
            )

    @property
    def sample_format(self) -> SampleFormat:
        return SampleFormat("image", None, 1 if self.grey else 3, self.crop, self.crop)

    def read(self, sample: Sample, out: NDArray[Any]) -> int:
        image = read_picture(sample.path, grey=self.grey)
        pixels = scale_and_crop(image, self.short_side, self.crop)
        out[0] = pixels if pixels.ndim == 3 else pixels[..., None]
        return 0


def scale_and_crop(pixels: NDArray[np.uint8], short_side: int, crop: int) -> NDArray[np.uint8]:
    """Return the centre (crop, crop) of an image (H, W) or (H, W, 3) scaled to short_side.

    Only what is cut out is computed, so that a long strip costs no more than a square.
    """
    height, width = pixels.shape[:2]
    side = min(height, width) * crop / short_side
    top, left = (height - side) / 2, (width - side) / 2
    box = (left, top, left + side, top + side)
    scaled = Image.fromarray(pixels).resize((crop, crop), Image.Resampling.BILINEAR, box=box)
    return np.asarray(scaled)


@dataclass(frozen=True)
class GreyFromEvents(SourceSettings):
    """The published edge-integral reconstruction of each sample of a store of ODG frames.

    ``root`` is the store, made from es-imagenet or imagenet; splits, names and labels stay, but
    not the samples that were skipped there.
    """

    dataset = "images"

    @cached_property
    def _store(self) -> Store:
        store = open_store(self.root)
        source = store.header.parameters.get("source")
        if source not in ("es-imagenet", "imagenet"):
            raise InputError(
                f"{self.root}: a store made from {source!r}; grey images can be reconstructed only "
                "from the events of ODG; pass a store made from es-imagenet or imagenet"
            )
        return store

    @cached_property
    def _odg(self) -> OdgSettings:
        trace = self._store.header.parameters.get("trace")
        try:
            return from_options(OdgSettings, {"trace": trace})
        except OptionError as error:  # the store's parameters are wrong, not this call's options
            raise StoreError(f"{self.root}: {error}") from None

    @property
    def _frames(self) -> SampleFormat:
        if not self._store.splits:
            raise InputError(f"{self.root}: the store has no splits")
        return next(iter(self._store.splits.values())).sample

    @cached_property
    def _readers(self) -> list[SampleReader]:
        return [split.reader() for split in self._store.splits.values()]

    @property
    def classes(self) -> Sequence[str]:
        return self._store.header.classes

    @property
    def sample_format(self) -> SampleFormat:
        return SampleFormat("image", None, 1, self._frames.height, self._frames.width)

    @property
    def parameters(self) -> Parameters:
        header = self._store.header
        return {
            "source": "images",
            "grey_from_events": True,
            "events": header.dataset,
            "events_sha256": header.parameters_sha256,
        }

    def splits(self) -> dict[str, Samples]:
        splits = self._store.splits
        self.check_split(splits)
        return {
            name: self._list(number, split)
            for number, (name, split) in enumerate(splits.items())
            if self.only in (None, name)
        }

    def _list(self, number: int, split: Split) -> Samples:
        """List a split; a sample's file is its shard, so that a changed store is noticed."""
        indices = np.flatnonzero(split.valid)
        shards = [
            str(self.root / shard_key(split.name, split.sample, shard))
            for shard in range(shard_count(split.count, split.shard_size))
        ]
        skipped = split.count - len(indices)
        return Samples(
            names=list(split.sample_names[indices]),
            labels=split.labels[indices],
            paths=[shards[shard] for shard in (indices // split.shard_size).tolist()],
            details=np.stack([np.full(len(indices), number), indices], axis=1).astype(np.int64),
            notes=[f"{skipped:,} invalid samples of {split.name} skipped"] if skipped else [],
        )

    def read(self, sample: Sample, out: NDArray[Any]) -> int:
        number, index = sample.details
        packed = np.empty(self._frames.packed_shape, np.uint8)
        try:
            self._readers[number].read(index, packed)
        except StoreError as error:
            raise InputError(str(error)) from None
        out[0, ..., 0] = edge_integral(packed, self._odg)
        return 0
