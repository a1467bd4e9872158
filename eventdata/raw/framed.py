"""Make frames from the events of a sample, for tonic:NAME and recordings."""

from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from eventdata.errors import OptionError
from eventdata.events import LARGEST_SIDE, Events, Outside, SensorSize
from eventdata.kernels.framing import DEFAULT_TAU, Framing, frame_events
from eventdata.raw.source import note
from eventdata.raw.transforms import EventTransform
from eventdata.settings import Settings, parameters_of, parse_sides, setting
from eventdata.store.layout import Parameters, SampleFormat
from eventdata.units import TimeUnit


def parse_transforms(texts: str | list[str]) -> tuple[EventTransform, ...]:
    return tuple(map(EventTransform.parse, [texts] if isinstance(texts, str) else texts))


@dataclass(frozen=True, kw_only=True)
class FrameSettings(Settings):
    """Transforms of the events, then how they become frames of one shape."""

    framing: Framing = setting(factory=Framing)
    transforms: tuple[EventTransform, ...] = setting(
        (),
        "Tonic transform, such as 'Denoise(filter_time=10000)'; can be repeated.",
        option="transform",
        repeated=True,
        form="text or a list of text",
        parse=parse_transforms,
        dump=lambda transforms: list(map(str, transforms)) or None,
    )
    sensor_size: SensorSize | None = setting(
        None,
        "Size of the sensor in pixels, for data that do not state it.",
        unit="WIDTHxHEIGHT",
        least=1,
        most=LARGEST_SIDE,
        form="WIDTHxHEIGHT such as 128x128",
        parse=parse_sides,
        dump=lambda size: f"{size[0]}x{size[1]}",
    )
    time_unit: TimeUnit | None = setting(
        None,
        "Unit of the times in data that do not state it; by default the one that the times "
        "themselves suggest.",
    )
    outside: Outside = setting(
        "fail", "Whether an event off the sensor is an error (fail) or is skipped (drop)."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for transform in self.transforms:
            transform.try_out()

    @property
    def dtype(self) -> str:
        """The type of the frames."""
        return self.framing.count_dtype or self.framing.kind.dtypes[0]

    @property
    def parameters(self) -> Parameters:
        """The options that give these settings, without those that are None."""
        values = parameters_of(self)
        if self.framing.representation == "count":
            values["count_dtype"] = self.dtype
        if self.framing.representation == "timesurface":
            values["tau"] = self.framing.tau or DEFAULT_TAU
        if self.outside == "fail":
            del values["outside"]  # as in stores from before this option
        return {key: value for key, value in values.items() if value is not None}

    def of_length(self, ticks: int) -> "FrameSettings":
        """Return the settings for samples of a length: with --window, T is then known."""
        if self.framing.window is None:
            return self
        return replace(self, framing=replace(self.framing, steps=self.framing.steps_in(ticks)))

    def sample_format(self, size: SensorSize, polarities: int = 2) -> SampleFormat:
        """Return shape and type of each sample from a sensor (W, H) with ``polarities``."""
        steps = self.framing.fixed_steps
        if steps is None:
            raise OptionError(
                "with --window and --events-per-frame samples differ in their number of frames; "
                "pass --steps T to store T of each (shorter samples are padded with empty frames, "
                "longer ones cut)"
            )
        for transform in self.transforms:
            size = transform.sensor_after(size)
        kind, channels = self.framing.representation, min(polarities, self.framing.polarities)
        return SampleFormat(kind, steps, channels, size[1], size[0], self.dtype)

    def fill(
        self, events: Events, size: SensorSize, out: NDArray[Any], span: tuple[int, int] | None
    ) -> int:
        """Fill out (K, H, W, P) with the frames of checked events; return the events in them.

        ``span`` is the first tick and the end of a piece of known length. The message of an
        InputError lacks the name of the file.
        """
        for transform in self.transforms:
            events = transform.apply(events, size)
            size = transform.sensor_after(size)
        total, plan = frame_events(events, self.framing, out, span)
        if plan.frames_cut:
            note(f"longer than {self.framing.steps} frames; the rest was cut")
        return total
