"""The representations of events as frames: a file and a line of the table each."""

from eventdata.kernels.representations.base import Accumulator, Axis, Index, Representation
from eventdata.kernels.representations.binary import BINARY
from eventdata.kernels.representations.count import COUNT
from eventdata.kernels.representations.timesurface import TIMESURFACE
from eventdata.kernels.representations.voxel import VOXEL

REPRESENTATIONS: dict[str, Representation] = {
    "binary": BINARY,
    "count": COUNT,
    "voxel": VOXEL,
    "timesurface": TIMESURFACE,
}

__all__ = ["REPRESENTATIONS", "Accumulator", "Axis", "Index", "Representation"]
