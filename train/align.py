"""Align the steps of ODG's event frames: move each back by the placement of its image.

ODG moves a still image along a path of placements, so an edge of it makes events at other pixels in
each step. Aligned, they meet at the same pixels. It is the motion compensation of the published
reconstruction of grey images (`eventdata.kernels.odg.edge_integral`), without its sum.

Legend: N samples, T steps, P polarities, H rows, W columns; K bytes of eight steps.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from eventdata.errors import OptionError
from eventdata.kernels.odg import OdgSettings
from eventdata.settings import from_options
from eventdata.store.layout import SampleFormat

Shifts = tuple[tuple[int, int], ...]
"""Rows and columns by which each step is moved (T, 2)."""


def shifts_of(parameters: Mapping[str, Any], sample: SampleFormat, where: object) -> Shifts:
    """Return how far each step of a store's frames has to move.

    Args:
        parameters, sample: those of the store.
        where: the store, for messages.

    Raises:
        OptionError: its frames are not ODG's, or its header is damaged.
    """
    trace = parameters.get("trace")
    if trace is None:
        raise OptionError(
            f"{where}: align needs frames that ODG made of still images (es-imagenet, imagenet), "
            f"whose motion is known, and these are of {parameters.get('source')}; omit align"
        )
    try:
        odg = from_options(OdgSettings, {"trace": trace})
    except OptionError as error:
        raise OptionError(f"{where}: {error}; convert it again") from None
    if not sample.is_packed or sample.steps != odg.steps:
        raise OptionError(f"{where}: its frames do not have the {odg.steps} steps of its path")
    return odg.shifts


def align(packed: Tensor, shifts: Shifts) -> Tensor:
    """Return packed frames, uint8 (N, K, H, W, P), with each step moved.

    Events that leave the frame are lost, and no others come in. Steps without a shift are empty.
    """
    aligned = torch.zeros_like(packed)
    for step, by in enumerate(shifts):
        byte, bit = step // 8, 128 >> step % 8
        source, target = packed[:, byte] & bit, aligned[:, byte]  # (N, H, W, P)
        for axis, distance in enumerate(by, start=1):
            length = max(0, source.shape[axis] - abs(distance))
            source = source.narrow(axis, min(max(0, -distance), source.shape[axis]), length)
            target = target.narrow(axis, min(max(0, distance), target.shape[axis]), length)
        target |= source
    return aligned
