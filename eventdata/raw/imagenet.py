"""Still images straight to event frames by ODG, without the raw files of ES-ImageNet between."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from eventdata.errors import InputError, OptionError
from eventdata.formats.image import read_picture
from eventdata.kernels.odg import OdgSettings, image_events, image_frames, scaled_size
from eventdata.kernels.packing import U8
from eventdata.raw.image_lists import ImageList, list_images
from eventdata.raw.source import Sample, Samples, SettingsOnly
from eventdata.store.layout import Parameters, SampleFormat


@dataclass(frozen=True, kw_only=True)
class ImageNet(SettingsOnly):
    """Labelled images under ``root``: see `image_lists` for how they may lie and be listed.

    ``list_file``: lines ``path label``; ``classes_file``: lines ``name index``; ``only``: one
    split alone.
    """

    root: Path
    odg: OdgSettings = field(default_factory=OdgSettings)
    list_file: Path | None = None
    classes_file: Path | None = None
    only: str | None = None
    dataset = "imagenet"

    @cached_property
    def _listing(self) -> ImageList:
        return list_images(self.root, self.list_file, self.classes_file, self.only)

    @property
    def classes(self) -> Sequence[str]:
        """Names of the class folders, or of the file of classes."""
        return self._listing.classes

    @property
    def sample_format(self) -> SampleFormat:
        """Binary frames (T, 2, H, W), (8, 2, 224, 224) by default."""
        side = self.odg.crop
        return SampleFormat(
            representation="binary", steps=self.odg.steps, channels=2, height=side, width=side
        )

    @property
    def parameters(self) -> Parameters:
        """The settings of the ODG, by the names of their options."""
        odg = self.odg
        return {
            "source": "imagenet",
            "odg": odg.mode,
            "long_side": odg.long_side,
            "crop": odg.crop,
            "threshold": odg.threshold,
            "min_events": odg.min_events,
            "resampling": odg.resampling,
            "trace": format_trace(odg.trace),
        }

    def splits(self) -> dict[str, Samples]:
        """Those of train, val and test that are there."""
        return dict(self._listing.splits)

    def read(self, sample: Sample, out: NDArray[Any]) -> int:
        """Fill out (K, H, W, 2) from one image file; see `Source.read`."""
        image = read_picture(sample.path)
        try:
            return image_frames(image, self.odg, out)
        except InputError as error:
            raise type(error)(f"{sample.path}: {error}") from None

    def events(self, path: str) -> tuple[U8, U8, tuple[int, int]]:
        """``pos`` and ``neg`` of a raw file of one image, and its size in the manifest."""
        image = read_picture(path)
        try:
            pos, neg = image_events(image, self.odg)
        except InputError as error:
            raise type(error)(f"{path}: {error}") from None
        return pos, neg, scaled_size(image.shape[0], image.shape[1], self.odg)


def parse_trace(text: str) -> tuple[tuple[int, int], ...]:
    """Placements of a text like ``1,0 0,2 2,1``; OptionError where it is none."""
    if not re.fullmatch(r"\s*\d{1,9},\d{1,9}(\s+\d{1,9},\d{1,9})*\s*", text):
        raise OptionError(f"trace is {text!r:.80}: write placements row,column like '1,0 0,2 2,1'")
    places = (place.split(",") for place in text.split())
    return tuple((int(row), int(column)) for row, column in places)


def format_trace(trace: Sequence[tuple[int, int]]) -> str:
    """The text that `parse_trace` reads."""
    return " ".join(f"{row},{column}" for row, column in trace)
