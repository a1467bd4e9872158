"""Names of weights in published checkpoints, and this package's names for them."""

import re
from collections.abc import Mapping

from torch import Tensor

PUBLISHED = (
    # the wrapper of distributed training
    (r"^module\.", ""),
    # event networks
    (r"^conv1\.kernel\.", "stem.conv."),
    (r"^conv1\.NormLayer\.", "stem.norm."),
    (r"^conv1\.decay$", "stem.neuron.decay"),
    (r"^layer(\d)\.", lambda m: f"stages.{int(m[1]) - 1}."),
    (r"^(stages\.\d+\.\d+)\.decay$", r"\1.neuron.decay"),
    (r"\.cv1\.", ".first.conv."),
    (r"\.bn1\.", ".first.norm."),
    (r"\.cv2\.", ".second.conv."),
    (r"\.bn2\.", ".second.norm."),
    (r"\.shortcut_norm\.", ".shortcut.norm."),
    (r"\.shortcut\.(weight|bias)$", r".shortcut.conv.\1"),
    # image networks
    (r"^conv1\.0\.", "stem.conv."),
    (r"^conv1\.1\.bn\.", "stem.norm."),
    (r"^conv(\d)_x\.", lambda m: f"stages.{int(m[1]) - 2}."),
    (r"\.residual_function\.0\.", ".first.conv."),
    (r"\.residual_function\.1\.bn\.", ".first.norm."),
    (r"\.residual_function\.3\.", ".second.conv."),
    (r"\.residual_function\.4\.bn\.", ".second.norm."),
    (r"\.shortcut\.0\.", ".shortcut.conv."),
    (r"\.shortcut\.1\.bn\.", ".shortcut.norm."),
)


def rename_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a published state dict under this package's names; names already ours stay."""
    renamed = {}
    for key, value in state.items():
        for pattern, name in PUBLISHED:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    return renamed
