"""UCF101's clips straight to event frames, without the raw files of ES-UCF101 between."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from eventdata.errors import InputError, OptionError
from eventdata.formats.video import read_clip
from eventdata.kernels.packing import U8
from eventdata.kernels.video import VideoSettings, clip_events, clip_frames
from eventdata.raw.source import Sample, Samples, SettingsOnly
from eventdata.raw.ucf101_lists import class_names, find_clips, list_clips
from eventdata.store.layout import Parameters, SampleFormat

FOLDERS = ""  # `find_clips`: a clip as a folder of frames
KINDS = (".avi", ".mp4", ".mkv", ".mov", ".webm", FOLDERS)


@dataclass(frozen=True, kw_only=True)
class Ucf101(SettingsOnly):
    """Clips ``v_CLASS_gGG_cCC`` in ``root`` itself or in class folders there.

    A clip is a video file (which needs PyAV) or a folder of frames. With ``lists`` (the folder
    ucfTrainTestlist) and ``fold`` 1 to 3 the splits are train and test; without, one split
    ``all``.
    """

    root: Path
    video: VideoSettings = field(default_factory=VideoSettings)
    lists: Path | None = None
    fold: int | None = None
    only: str | None = None
    dataset = "ucf101"

    @cached_property
    def _clips(self) -> dict[str, list[Path]]:
        return find_clips(self.root, KINDS)

    @cached_property
    def classes(self) -> Sequence[str]:
        """The official class list where it is given, otherwise the classes that are there."""
        return class_names(self._clips, self.lists)

    @property
    def sample_format(self) -> SampleFormat:
        """Binary frames (T, 2, H, W), (30, 2, 256, 342) by default."""
        height, width = self.video.size
        return SampleFormat(
            representation="binary",
            steps=self.video.steps,
            channels=2,
            height=height,
            width=width,
        )

    @property
    def parameters(self) -> Parameters:
        """The fold and the settings of the differences, by the names of their options."""
        video = self.video
        return {
            "source": "ucf101",
            "fold": self.fold,
            "mode": video.mode,
            "event_ratio": video.event_ratio,
            "steps": video.steps,
            "size": f"{video.size[0]}x{video.size[1]}",
            "seed": video.seed if video.mode == 2 else None,  # mode 1 draws nothing
            "interpolation": video.interpolation,
        }

    def splits(self) -> dict[str, Samples]:
        """Train and test of the fold, or all."""
        return list_clips(self._clips, self.classes, self.lists, self.fold, self.only)

    def read(self, sample: Sample, out: NDArray[Any]) -> int:
        """Fill out (K, H, W, 2) from one clip; see `Source.read`."""
        grey = read_clip(sample.path, self.video)
        ones = clip_frames(grey, self.video, out, clip_name(sample.path))
        if ones == 0:
            raise InputError(f"{sample.path}: nothing moves in it, so it has no events")
        return ones

    def events(self, path: str) -> U8:
        """``arr_0`` of a raw file of one clip, (2, T, H, W)."""
        events = clip_events(read_clip(path, self.video), self.video, clip_name(path))
        if not events.any():
            raise InputError(f"{path}: nothing moves in it, so it has no events")
        return events


def clip_name(path: str) -> str:
    """A clip's name, by which mode 2 draws: the same for a video and its folder of frames."""
    return Path(path).stem


def parse_size(text: str) -> tuple[int, int]:
    """Rows and columns of a text like ``256x342``; OptionError where it is none."""
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)
    if match is None:
        raise OptionError(f"size is {text!r:.80}: write rows x columns like 256x342")
    return int(match[1]), int(match[2])
