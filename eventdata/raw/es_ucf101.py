"""ES-UCF101 as published: one npz a clip with dense differences, and UCF101's official splits.

A file ``v_CLASS_gGG_cCC.npz`` holds ``arr_0``, uint8 (P=2, T=30, H=256, W=342), channel 0 =
positive. The three official splits (Soomro et al., 2012) keep the clips of a group, cut from one
video, on one side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.files import WORK
from eventdata.formats.npz import read_npz
from eventdata.kernels.packing import OK, pack_dense
from eventdata.raw.source import Sample, Samples, SettingsOnly
from eventdata.raw.ucf101_lists import class_names, find_clips, list_clips
from eventdata.store.layout import Parameters, SampleFormat


@dataclass(frozen=True, kw_only=True)
class EsUcf101(SettingsOnly):
    """Raw ES-UCF101 clips in ``root`` itself or in class folders there.

    With ``lists`` (the folder ucfTrainTestlist) and ``fold`` 1 to 3 the splits are train and
    test; without, one split ``all``. ``steps``, ``height``, ``width``: the raw arrays' shape.
    """

    root: Path
    lists: Path | None = None
    fold: int | None = None
    only: str | None = None
    steps: int = 30
    height: int = 256
    width: int = 342
    dataset = "es-ucf101"

    @cached_property
    def _clips(self) -> dict[str, list[Path]]:
        if (self.root / WORK).is_dir():
            raise InputError(f"{self.root}: not finished; call the same `eventdata generate` again")
        return find_clips(self.root, (".npz",))

    @cached_property
    def classes(self) -> Sequence[str]:
        """The official class list where it is given, otherwise the classes that are there."""
        return class_names(self._clips, self.lists)

    @property
    def sample_format(self) -> SampleFormat:
        """Binary frames (T, 2, H, W)."""
        return SampleFormat(
            representation="binary",
            steps=self.steps,
            channels=2,
            height=self.height,
            width=self.width,
        )

    @property
    def parameters(self) -> Parameters:
        """The fold; the shape is in the store's arrays."""
        return {"source": "es-ucf101", "fold": self.fold}

    def splits(self) -> dict[str, Samples]:
        """Train and test of the fold, or all."""
        return list_clips(self._clips, self.classes, self.lists, self.fold, self.only)

    def read(self, sample: Sample, out: NDArray[Any]) -> int:
        """Fill out (K, H, W, 2) from one npz; see `Source.read`."""
        shape = (2, self.steps, self.height, self.width)
        limit = 2 * self.steps * self.height * self.width + 4096
        (frames,) = read_npz(sample.path, ("arr_0",), limit)
        if frames.shape != shape:
            raise InputError(
                f"{sample.path}: array 'arr_0' has shape {frames.shape}, not {shape} (polarity, "
                "step, row, column); generate the file again"
            )
        ones, fault = pack_dense(frames, out)
        if fault != OK:
            raise InputError(
                f"{sample.path}: array 'arr_0' has values other than 0 and 1; generate it again"
            )
        if ones == 0:
            raise InputError(f"{sample.path}: no events in it; generate the file again")
        return ones
