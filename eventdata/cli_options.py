"""The options of sources on the command line, and a help page that shows them in sections."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])

LABELS = "Which samples (imagenet, images, ucf101, es-ucf101)"
FRAMES = "Frames from events (tonic:NAME, recordings)"
ODG = "Events from images (imagenet)"
VIDEO = "Events from clips (ucf101)"
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

_IMAGE_LABELS = (
    _option(LABELS, "--split", "Only this split (train, val, ...)."),
    _option(LABELS, "--list", "Labels of images: lines 'path label'.", type=_FILE),
    _option(LABELS, "--classes", "Indices of classes: lines 'name index'.", type=_FILE),
)
_CLIP_LABELS = (
    _option(LABELS, "--splits", "Folder of UCF101's official lists.", type=_FOLDER),
    _option(LABELS, "--fold", "Which of UCF101's three splits.", type=click.IntRange(1, 3)),
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
_VIDEO_FRAMES = (
    _option(
        VIDEO,
        "--steps",
        "T: of a clip [30]; of windows, padded or cut.",
        type=int,
    ),
    _option(VIDEO, "--size", "Rows x columns [256x342]."),
)
_FRAMES = (
    _option(FRAMES, "--frames", "T frames of equal time.", type=int),
    _option(FRAMES, "--window", "Frames of so many microseconds.", type=int),
    _option(FRAMES, "--events-per-frame", "Frames of so many events.", type=int),
    _option(FRAMES, "--overlap", "What frames share.", type=float),
    _option(
        FRAMES, "--include-incomplete", "Keep a last part of a window.", is_flag=True, default=None
    ),
    _option(
        FRAMES,
        "--representation",
        "Whether or how often [binary].",
        type=_choice("binary", "count"),
    ),
    _option(FRAMES, "--count-dtype", "Type of counts [uint8].", type=_choice("uint8", "uint16")),
    _option(
        FRAMES, "--merge-polarities", "One channel instead of two.", is_flag=True, default=None
    ),
    _option(FRAMES, "--every", "Microseconds of a sample.", type=int),
    _option(FRAMES, "--sensor-size", "Columns x rows, where files do not say."),
    _option(
        FRAMES,
        "--transform",
        "Such as 'Denoise(filter_time=10000)'.",
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
    *_IMAGE_LABELS,
    *_CLIP_LABELS,
    *_ODG,
    *_ODG_FRAMES,
    *_VIDEO,
    *_VIDEO_FRAMES,
    *_PIXELS,
    *_FRAMES,
)
generate_options = _all(*_IMAGE_LABELS, *_ODG, *_VIDEO)
verify_options = _all(*_IMAGE_LABELS[1:], *_CLIP_LABELS)
