"""ES-UCF101 as published: one npz a clip with dense differences, and UCF101's official splits.

A file ``v_CLASS_gGG_cCC.npz`` holds ``arr_0``, uint8 (P=2, T=30, H=256, W=342), channel 0 =
positive. The three official splits (Soomro et al., 2012) keep the clips of a group, cut from one
video, on one side.
"""

import math
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.files import WORK
from eventdata.formats.npz import read_npz
from eventdata.kernels.packing import OK, pack_dense
from eventdata.raw.source import Sample, Samples
from eventdata.raw.ucf101_lists import ClipFolders
from eventdata.store.layout import SampleFormat


@dataclass(frozen=True, kw_only=True)
class EsUcf101(ClipFolders):
    """Raw ES-UCF101 clips."""

    steps: int = 30  # the shape of the raw arrays
    height: int = 256
    width: int = 342
    dataset = "es-ucf101"
    example = "event_dvs/ ucf.zarr --splits ucfTrainTestlist/ --fold 1"
    suffixes = (".npz",)
    archives = True

    @property
    def sample_format(self) -> SampleFormat:
        return SampleFormat("binary", self.steps, 2, self.height, self.width)

    def splits(self) -> dict[str, Samples]:
        if (self.root / WORK).is_dir():
            raise InputError(
                f"{self.root}: `eventdata generate` has not finished; run the same command again"
            )
        return super().splits()

    def read(self, sample: Sample, out: NDArray[Any]) -> int:
        shape = (2, self.steps, self.height, self.width)
        (frames,) = read_npz(sample.path, ("arr_0",), math.prod(shape) + 4096)
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
