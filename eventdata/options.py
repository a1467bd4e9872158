"""The options of sources on the command line, and a help page that shows them in sections."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])

LABELS = "Which samples"
AGAINST = "With --against, as for convert"
FRAMES = "Frames from events (tonic:NAME, recordings; --steps is for ucf101 too)"
ODG = "Events from images (imagenet; generate es-imagenet)"
VIDEO = "Events from clips (ucf101; generate es-ucf101)"
PIXELS = "Images (images; --crop is for imagenet too)"


class SectionOption(click.Option):
    """An option that the help page shows under a heading of its own."""

    def __init__(self, *args: Any, section: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section = section


class SectionCommand(click.Command):
    """A command whose help page shows sections, each option in one line where it fits."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options without a section first."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for name, records in sections.items():
            with formatter.section(name):
                formatter.write_dl(records)


def _option(section: str, name: str, text: str, **attributes: Any) -> Callable[[Any], Any]:
    return click.option(name, cls=SectionOption, section=section, help=text, **attributes)


def _choice(*values: str) -> Any:
    return click.Choice(values)


_FILE = click.Path(exists=True, dir_okay=False)
_FOLDER = click.Path(exists=True, file_okay=False)

_SPLIT = _option(LABELS, "--split", "Only this split (train, val, ...).")


def _image_labels(section: str) -> tuple[Callable[[Any], Any], ...]:
    return (
        _option(section, "--list", "Of images: labels, in lines 'path label'.", type=_FILE),
        _option(section, "--classes", "Of images: numbers, in lines 'class number'.", type=_FILE),
    )


def _clip_labels(section: str) -> tuple[Callable[[Any], Any], ...]:
    return (
        _option(section, "--splits", "Of UCF101: the folder of its official lists.", type=_FOLDER),
        _option(
            section, "--fold", "Of UCF101: which of its three splits.", type=click.IntRange(1, 3)
        ),
    )


_ODG = (
    _option(
        ODG,
        "--odg",
        "Window mended (default), or as published.",
        type=_choice("centred", "published"),
    ),
    _option(ODG, "--threshold", "Least change of brightness [0.18].", type=float),
    _option(ODG, "--min-events", "Images with fewer are left out [1000].", type=int),
    _option(
        ODG, "--resampling", "How images are scaled [nearest].", type=_choice("nearest", "area")
    ),
)
_ODG_FRAMES = (
    _option(ODG, "--long-side", "Longer side after scaling [254].", type=int),
    _option(ODG, "--trace", "Placements 'row,col row,col ...' [ES-ImageNet's]."),
)
_VIDEO = (
    _option(VIDEO, "--mode", "Two thresholds a clip (default), or drawn.", type=_choice("1", "2")),
    _option(VIDEO, "--event-ratio", "Part of cells with events [0.15].", type=float),
    _option(VIDEO, "--seed", "Of mode 2's draws [0].", type=int),
    _option(
        VIDEO,
        "--interpolation",
        "How frames are scaled: bilinear (default), bicubic, area, nearest, lanczos.",
    ),
)
_VIDEO_FRAMES = (_option(VIDEO, "--size", "Rows x columns [256x342]."),)
_FRAMES = (
    _option(FRAMES, "--frames", "T frames of equal time.", type=int),
    _option(FRAMES, "--n-event-bins", "T frames of equally many events.", type=int),
    _option(FRAMES, "--window", "Frames of so many microseconds, with --steps.", type=int),
    _option(FRAMES, "--events-per-frame", "Frames of so many events, with --steps.", type=int),
    _option(
        FRAMES,
        "--steps",
        "T by --window and --events-per-frame: shorter samples are padded with empty frames, "
        "longer ones cut. Of a clip [30].",
        type=int,
    ),
    _option(
        FRAMES,
        "--overlap",
        "What a frame shares with the next: microseconds, events, or of bins a part of one.",
        type=float,
    ),
    _option(
        FRAMES,
        "--include-incomplete",
        "Keep the rest that does not fill a window.",
        is_flag=True,
        default=None,
    ),
    _option(
        FRAMES,
        "--representation",
        "Whether there was an event, or how many [binary].",
        type=_choice("binary", "count"),
    ),
    _option(FRAMES, "--count-dtype", "Type of counts [uint8].", type=_choice("uint8", "uint16")),
    _option(
        FRAMES, "--merge-polarities", "One channel instead of two.", is_flag=True, default=None
    ),
    _option(FRAMES, "--every", "Cut recordings into samples of so many microseconds.", type=int),
    _option(FRAMES, "--sensor-size", "Columns x rows, where files do not say."),
    _option(
        FRAMES,
        "--transform",
        "One of Tonic's, such as 'Denoise(filter_time=10000)'; can be given several times.",
        multiple=True,
        callback=lambda _, __, values: list(values) or None,
    ),
)
_PIXELS = (
    _option(PIXELS, "--short-side", "Shorter side after scaling [256].", type=int),
    _option(PIXELS, "--crop", "Rows and columns in the middle [224].", type=int),
    _option(PIXELS, "--grey", "Brightness alone.", is_flag=True, default=None),
    _option(
        PIXELS,
        "--grey-from-events",
        "INPUT is a store; put its images together.",
        is_flag=True,
        default=None,
    ),
)


def _all(*options: Callable[[Any], Any]) -> Callable[[Function], Function]:
    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


convert_options = _all(
    _SPLIT,
    *_image_labels(LABELS),
    *_clip_labels(LABELS),
    *_ODG,
    *_ODG_FRAMES,
    *_VIDEO,
    *_VIDEO_FRAMES,
    *_PIXELS,
    *_FRAMES,
)
generate_options = _all(_SPLIT, *_image_labels(LABELS), *_ODG, *_VIDEO)
verify_options = _all(*_image_labels(AGAINST), *_clip_labels(AGAINST))
