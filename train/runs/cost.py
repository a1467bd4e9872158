"""The cost of training in wall seconds, CPU seconds and counted work."""

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from train.runs.folder import number_in

MOST = 1e30  # keeps sums and ratios finite


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The time and the work of training. None is unknown, as for runs of older versions."""

    seconds: float | None = None
    cpu_seconds: float | None = None
    """Seconds of all cores, of all processes and threads that train and read samples."""
    multiply_adds: float | None = None
    """Counted work, see `train.operations.Operations`."""
    additions: float | None = None

    @classmethod
    def read(cls, values: Any) -> "Cost":
        """Return the cost in a document; raise ValueError if a figure is out of range."""
        known = {} if not isinstance(values, Mapping) else values
        return cls(
            **{key: number_in(known, key, most=MOST) for key in KEYS if known.get(key) is not None}
        )

    def as_dict(self) -> dict[str, float | None]:
        """Return the figures by name."""
        return asdict(self)

    @property
    def operations(self) -> float | None:
        """Multiply-adds and additions together."""
        return plus(self.multiply_adds, self.additions)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(**{key: plus(getattr(self, key), getattr(other, key)) for key in KEYS})


KEYS = tuple(Cost.__dataclass_fields__)
FREE = Cost(**dict.fromkeys(KEYS, 0.0))


def plus(one: float | None, other: float | None) -> float | None:
    """Return the sum of two figures; None if one of them is unknown."""
    return None if one is None or other is None else one + other


def cost_of(stage: Any) -> Cost:
    """Return the cost in a stage.json; raise ValueError if a figure is out of range."""
    return Cost.read({**stage, "seconds": stage.get("train_seconds")})


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of all child processes that have ended."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system
