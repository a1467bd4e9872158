"""Convert UCF101's clips to event frames, without writing raw files of ES-UCF101."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from eventdata.errors import InputError, OptionError
from eventdata.files.inputs import only_unpacked
from eventdata.formats.video import read_clip
from eventdata.kernels.packing import U8
from eventdata.kernels.video import VideoSettings, clip_events, clip_frames
from eventdata.raw.source import Sample, Source
from eventdata.raw.ucf101_lists import FOLDERS, ClipFolders
from eventdata.settings import setting
from eventdata.store.layout import Parameters, SampleFormat


@dataclass(frozen=True, kw_only=True)
class Ucf101(ClipFolders):
    """Clips as videos, which need PyAV, or as folders of frames; mode 2 draws by their stems."""

    video: VideoSettings = setting(factory=VideoSettings, section="Events from clips")
    dataset = "ucf101"
    example = "UCF-101/ ucf.zarr --splits ucfTrainTestlist/ --fold 1"
    suffixes = (".avi", ".mp4", ".mkv", ".mov", ".webm", FOLDERS)

    @classmethod
    def build(cls, name: str, root: Path, options: Mapping[str, Any]) -> Source:
        """Return the source; raise OptionError for options that nothing would use."""
        only_unpacked(root, "clips")
        source = super().build(name, root, options)
        for option in ("seed", "draws"):
            if options.get(option) is not None and source.parameters["mode"] == 1:
                raise OptionError(f"--{option} is for --mode 2; remove it, or pass --mode 2")
        return source

    @property
    def sample_format(self) -> SampleFormat:
        return SampleFormat("binary", self.video.steps, 2, *self.video.size)

    @property
    def parameters(self) -> Parameters:
        parameters = {**super().parameters}
        if self.video.mode == 1:
            parameters["seed"] = None
        if self.video.mode == 1 or self.video.draws == "numpy":
            del parameters["draws"]  # older stores and files do not have it
        return parameters

    def read(self, sample: Sample, out: NDArray[Any]) -> int:
        grey = read_clip(sample.path, self.video)
        ones = clip_frames(grey, self.video, out, Path(sample.path).stem)
        if ones == 0:
            raise InputError(f"{sample.path}: nothing moves in it, so it has no events")
        return ones

    def events(self, path: str) -> U8:
        """Return ``arr_0`` of a raw file of one clip, (2, T, H, W)."""
        events = clip_events(read_clip(path, self.video), self.video, Path(path).stem)
        if not events.any():
            raise InputError(f"{path}: nothing moves in it, so it has no events")
        return events
