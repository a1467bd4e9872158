"""Convert still images to event frames by ODG, without writing raw files of ES-ImageNet."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.formats.image import read_picture
from eventdata.kernels.odg import OdgSettings, image_events, image_frames, scaled_size
from eventdata.kernels.packing import U8
from eventdata.raw.image_lists import ImageFolders
from eventdata.raw.source import Sample
from eventdata.settings import setting
from eventdata.store.layout import SampleFormat


@dataclass(frozen=True, kw_only=True)
class ImageNet(ImageFolders):
    """Images from which ODG makes events."""

    odg: OdgSettings = setting(factory=OdgSettings, section="Events from images")
    dataset = "imagenet"
    example = "ILSVRC2012/ es.zarr --odg published --workers 8"

    @property
    def sample_format(self) -> SampleFormat:
        return SampleFormat("binary", self.odg.steps, 2, self.odg.crop, self.odg.crop)

    def read(self, sample: Sample, out: NDArray[Any]) -> int:
        image = read_picture(sample.path)
        try:
            return image_frames(image, self.odg, out)
        except InputError as error:
            raise type(error)(f"{sample.path}: {error}") from None

    def events(self, path: str) -> tuple[U8, U8, tuple[int, int]]:
        """Return ``pos`` and ``neg`` of a raw file, and the image's size in the manifest."""
        image = read_picture(path)
        try:
            pos, neg = image_events(image, self.odg)
        except InputError as error:
            raise type(error)(f"{path}: {error}") from None
        return pos, neg, scaled_size(image.shape[0], image.shape[1], self.odg)
