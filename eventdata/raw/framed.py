"""Make frames from the events of a sample, for tonic:NAME and recordings."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from eventdata.errors import OptionError
from eventdata.events import LARGEST_SIDE, Events, Outside, SensorSize, join
from eventdata.kernels.framing import (
    DEFAULT_TAU,
    Framing,
    frame_chunks,
    plan_frames,
    span_of,
)
from eventdata.raw.source import note
from eventdata.raw.transforms import EventTransform
from eventdata.settings import Settings, parameters_of, parse_sides, setting
from eventdata.store.layout import Parameters, SampleFormat
from eventdata.units import TimeUnit


def parse_transforms(texts: str | list[str]) -> tuple[EventTransform, ...]:
    return tuple(map(EventTransform.parse, [texts] if isinstance(texts, str) else texts))


@dataclass(frozen=True)
class Stream:
    """The events of a sample, chunk by chunk in the order of time.

    chunks: yields checked events, at least one array; span: first tick and end; count: number of
    events, None for a piece of known length, whose events are not counted.
    """

    chunks: Callable[[], Iterable[Events]]
    span: tuple[int, int]
    count: int | None

    @classmethod
    def of(cls, events: Events, span: tuple[int, int] | None = None) -> "Stream":
        """Return ordered events as one chunk."""
        return cls(lambda: [events], span or span_of(events["t"]), len(events))


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

    def fill(self, sample: Stream, size: SensorSize, out: NDArray[Any]) -> int:
        """Fill out (K, H, W, P) with the frames of a sample; return the events in them.

        Transforms need all events of the sample in memory. The message of an InputError may lack
        the name of the file.
        """
        if self.transforms:
            events = join([*sample.chunks()])
            for transform in self.transforms:
                events = transform.apply(events, size)
                size = transform.sensor_after(size)
            span = sample.span if sample.count is None else None
            sample = Stream.of(events, span)
        count = sample.count
        if count is None:
            by_events = self.framing.n_event_bins or self.framing.events_per_frame
            count = sum(map(len, sample.chunks())) if by_events else 0
        plan = plan_frames(self.framing, sample.span, count)
        total = frame_chunks(sample.chunks(), plan, self.framing, out)
        if plan.frames_cut:
            note(f"longer than {self.framing.steps} frames; the rest was cut")
        return total
