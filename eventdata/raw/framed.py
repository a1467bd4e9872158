"""From the events of a sample to its frames: what the sources of recordings have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from eventdata.errors import OptionError
from eventdata.events import LARGEST_SIDE, Events, SensorSize
from eventdata.kernels.framing import Framing, frame_events
from eventdata.raw.source import tell
from eventdata.raw.transforms import EventTransform, sensor_after
from eventdata.store.layout import Parameters, SampleFormat

WAYS = ("frames", "n_event_bins", "window", "events_per_frame")


@dataclass(frozen=True, kw_only=True)
class FrameSettings:
    """Transforms of the events, then how they become frames of one shape."""

    framing: Framing
    count_dtype: str | None = None
    """``uint8`` or ``uint16`` for counts; None for binary frames."""

    transforms: tuple[EventTransform, ...] = ()

    sensor_size: SensorSize | None = None
    """(W, H) of all samples, for data that do not say it."""

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "FrameSettings":
        """Settings from options by their names (`raw.registry`); OptionError where they clash."""
        ways = [key for key in WAYS if options.get(key) is not None]
        if len(ways) != 1:
            given = " and ".join(_flag(way) for way in ways) or "none"
            raise OptionError(
                "choose one of --frames T, --n-event-bins T, --window MICROSECONDS and "
                f"--events-per-frame N: {given} given"
            )
        representation: Any = options.get("representation") or "binary"
        count_dtype = options.get("count_dtype")
        if count_dtype is not None and representation != "count":
            raise OptionError("--count-dtype goes with --representation count")
        if representation == "count":
            count_dtype = count_dtype or "uint8"
            if count_dtype not in ("uint8", "uint16"):
                raise OptionError(f"--count-dtype is uint8 or uint16, not {count_dtype!r}")
        framing = Framing(
            **{key: options[key] for key in ways},
            overlap=options.get("overlap") or 0,
            include_incomplete=bool(options.get("include_incomplete")),
            steps=options.get("steps"),
            representation=representation,
            merge_polarities=bool(options.get("merge_polarities")),
        )
        transforms = tuple(EventTransform.parse(text) for text in options.get("transform") or ())
        for transform in transforms:
            transform.try_out()
        size = options.get("sensor_size")
        return cls(
            framing=framing,
            count_dtype=count_dtype,
            transforms=transforms,
            sensor_size=None if size is None else parse_size(size),
        )

    @property
    def parameters(self) -> Parameters:
        """The options that give these settings."""
        framing = self.framing
        values = {
            "frames": framing.frames,
            "n_event_bins": framing.n_event_bins,
            "window": framing.window,
            "events_per_frame": framing.events_per_frame,
            "overlap": framing.overlap,
            "include_incomplete": framing.include_incomplete or None,
            "steps": framing.steps,
            "representation": framing.representation,
            "count_dtype": self.count_dtype,
            "merge_polarities": framing.merge_polarities or None,
            "transform": [str(transform) for transform in self.transforms] or None,
            "sensor_size": "{}x{}".format(*self.sensor_size) if self.sensor_size else None,
        }
        return {key: value for key, value in values.items() if value is not None}

    def of_length(self, ticks: int) -> "FrameSettings":
        """The same for samples of so many ticks: by --window, T is then known."""
        if self.framing.window is None:
            return self
        return replace(self, framing=replace(self.framing, steps=self.framing.steps_in(ticks)))

    def sample_format(self, sensor_size: SensorSize, polarities: int = 2) -> SampleFormat:
        """Shape and type of each sample; ``polarities`` that the sensor has."""
        steps = self.framing.fixed_steps
        if steps is None:
            raise OptionError(
                "by --window and --events-per-frame each sample has its own number of frames: say "
                "with --steps T how many to store (shorter samples are padded with empty frames, "
                "longer ones cut)"
            )
        width, height = sensor_after(self.transforms, sensor_size)
        return SampleFormat(
            representation=self.framing.representation,
            steps=steps,
            channels=min(polarities, self.framing.polarities),
            height=height,
            width=width,
            dtype=self.count_dtype or "uint8",
        )

    def fill(
        self,
        events: Events,
        sensor_size: SensorSize,
        out: NDArray[Any],
        span: tuple[int, int] | None = None,
    ) -> int:
        """Fill out (K, H, W, P) with the frames of checked events; how many these hold.

        span: first tick and end where the sample is a piece of known length. InputError, without
        the name of the file, for events that don't fit.
        """
        for transform in self.transforms:
            events = transform.apply(events, sensor_size)
            sensor_size = transform.sensor_after(sensor_size)
        total, edges = frame_events(events, self.framing, out, span)
        if edges.frames_cut:
            tell(f"longer than {self.framing.steps} frames, the rest was cut")
        return total


def parse_size(size: str | tuple[int, int]) -> SensorSize:
    """(W, H) from "WxH" or a pair; OptionError where it is neither."""
    sides = size.lower().split("x") if isinstance(size, str) else size
    try:
        width, height = (int(side) for side in sides)
    except (TypeError, ValueError, OverflowError):
        raise OptionError(f"--sensor-size is WIDTHxHEIGHT, such as 128x128, not {size!r}") from None
    if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
        raise OptionError(f"--sensor-size {width}x{height}: each side is 1 to {LARGEST_SIDE}")
    return width, height


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")
