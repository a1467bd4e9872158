"""Tonic's transforms of events, given as text: ``Downsample(spatial_factor=0.5)``.

Only deterministic transforms are allowed, because the same input must always give the same store.
Random ones belong to training; frames are made by `kernels.framing`.
"""

import ast
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError, OptionError
from eventdata.events import LARGEST_SIDE, Events, SensorSize, check_events, make_events

TRANSFORMS = (
    *("CenterCrop", "CropTime", "Decimation", "Denoise", "Downsample", "DropPixel"),
    *("EventDownsampling", "RefractoryPeriod", "TimeAlignment", "TimeSkew"),
)
DRAWN = ("delta", "coefficient", "offset")  # arguments that Tonic draws at random from a range
TRIED_SIZE = (128, 128)  # of the sensor on which settings are tried out


@dataclass(frozen=True)
class EventTransform:
    """One of Tonic's transforms and its arguments, all by name."""

    name: str
    arguments: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> "EventTransform":
        """Read ``Name(key=value, ...)``; values are literals, nothing is evaluated."""
        try:
            call = ast.parse(text.strip(), mode="eval").body
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)) or call.args:
                raise ValueError
            name = call.func.id
            arguments = {str(key.arg): ast.literal_eval(key.value) for key in call.keywords}
            if len(arguments) != len(call.keywords):  # one given twice
                raise ValueError
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise OptionError(
                f"--transform {text!r}: write it as Name(key=value), such as "
                "Downsample(spatial_factor=0.5), with numbers, strings, tuples or lists as values"
            ) from None
        if name not in TRANSFORMS:
            raise OptionError(
                f"--transform {text!r}: {name} is not supported; choose from "
                f"{', '.join(TRANSFORMS)}. Random ones belong to training, and frames have options"
            )
        kind, known = _tonic_class(name)
        try:
            inspect.signature(kind).bind(**{**known, **arguments})
        except TypeError as error:
            raise OptionError(f"--transform {text!r}: {error}") from None
        for key in DRAWN:
            if isinstance(arguments.get(key), tuple | list):
                raise OptionError(
                    f"--transform {text!r}: a range of {key} makes it random; pass a number"
                )
        return cls(name, arguments)

    def try_out(self) -> None:
        """Raise OptionError if Tonic can't transform a few valid events."""
        number = np.arange(64)
        events = make_events(number % 8, number % 8, number * 1000, number % 2, TRIED_SIZE)
        try:
            self.apply(events, TRIED_SIZE)
        except InputError as error:
            raise OptionError(f"--transform {error}") from None

    def __str__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        return f"{self.name}({arguments})"

    @property
    def changes_time(self) -> bool:
        """Whether times have another unit or another start afterwards."""
        scaled = self.name == "Downsample" and self.arguments.get("time_factor", 1) != 1
        return scaled or self.name in ("EventDownsampling", "TimeAlignment", "TimeSkew")

    def sensor_after(self, size: SensorSize) -> SensorSize:
        """Return the sensor size (W, H) afterwards; raise OptionError if there can be none."""
        try:
            width, height = self._sides_after(size)
        except (TypeError, ValueError, IndexError, OverflowError) as error:
            raise OptionError(f"--transform {self}: {error}") from None
        if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
            raise OptionError(f"--transform {self}: makes {width} x {height} pixels of {size}")
        return width, height

    def _sides_after(self, size: SensorSize) -> SensorSize:
        target = self.arguments.get("target_size")
        if self.name == "CenterCrop":
            target = self.arguments["size"]
            target = (target, target) if isinstance(target, int) else target
        if target is not None:
            return int(target[0]), int(target[1])
        if self.name != "Downsample":
            return size
        factor = self.arguments.get("spatial_factor", 1)
        factors = factor if isinstance(factor, tuple) else (factor, factor)
        if len(factors) != 2 or min(factors) <= 0:
            raise ValueError("spatial_factor is a number above 0, or two for the sides")
        # Tonic rounds towards zero: this is where the last pixel of each side comes to lie.
        return int((size[0] - 1) * factors[0]) + 1, int((size[1] - 1) * factors[1]) + 1

    def apply(self, events: Events, size: SensorSize) -> Events:
        """Return checked events (N,) of a sensor (W, H), transformed; N may be 0."""
        if not len(events):
            return events  # Tonic fails on none, or makes up a shape
        kind, known = _tonic_class(self.name, (*size, 2))
        try:
            # A new one each time: CropTime and others keep state from the sample before.
            transform = kind(**{**known, **self.arguments})
            with np.errstate(invalid="raise"):  # a time that fits no integer
                made: NDArray[Any] = np.asarray(transform(events))
        except Exception as error:  # assertions, indices and more
            raise InputError(f"{self} fails ({type(error).__name__}: {error})") from None
        if not len(made):
            return events[:0]
        return check_events(made, self.sensor_after(size), name=f"after {self}")


def _tonic_class(name: str, size: Any = None) -> tuple[Any, dict[str, Any]]:
    """Return a class of Tonic, with the sensor size as its argument if it takes one."""
    import tonic.transforms

    kind = getattr(tonic.transforms, name)
    takes_size = "sensor_size" in inspect.signature(kind).parameters
    return kind, {"sensor_size": size} if takes_size else {}
