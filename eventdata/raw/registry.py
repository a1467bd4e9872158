"""Names of the sources, as the command line and `eventdata.convert` take them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from eventdata.errors import OptionError
from eventdata.files.inputs import only_local
from eventdata.raw.source import Source


@dataclass(frozen=True)
class SourceEntry:
    """One kind of source: what it is, the options it knows, how to make it."""

    summary: str
    options: frozenset[str]
    build: Callable[[Path, Mapping[str, Any]], Source]
    walks: bool = True
    """Whether it looks into all folders of the input, and not just into those that it knows."""


def _es_imagenet(root: Path, options: Mapping[str, Any]) -> Source:
    from eventdata.raw.es_imagenet import EsImageNet

    return EsImageNet(root, only=options.get("split"))


def _es_ucf101(root: Path, options: Mapping[str, Any]) -> Source:
    from eventdata.raw.es_ucf101 import EsUcf101

    return EsUcf101(root=root, fold=options.get("fold"), **_chosen(options, _CLIPS))


def _imagenet(root: Path, options: Mapping[str, Any]) -> Source:
    from eventdata.kernels.odg import OdgSettings
    from eventdata.raw.imagenet import ImageNet, parse_trace

    chosen = _chosen(options, _ODG)
    if "trace" in options:
        chosen["trace"] = parse_trace(options["trace"])
    return ImageNet(root=root, odg=OdgSettings(**chosen), **_chosen(options, _IMAGES))


def _ucf101(root: Path, options: Mapping[str, Any]) -> Source:
    from eventdata.kernels.video import VideoSettings
    from eventdata.raw.ucf101 import Ucf101, parse_size

    chosen = _chosen(options, _VIDEO)
    if "steps" in options:
        chosen["frames"] = options["steps"] + 1
    if "size" in options:
        chosen["size"] = parse_size(options["size"])
    video = VideoSettings(**chosen)
    if "seed" in options and video.mode == 1:
        raise OptionError("--seed is of mode 2's draws; leave it out, or choose --mode 2")
    return Ucf101(root=root, video=video, fold=options.get("fold"), **_chosen(options, _CLIPS))


def _images(root: Path, options: Mapping[str, Any]) -> Source:
    from eventdata.raw.images import GreyFromEvents, Images

    if not options.get("grey_from_events"):
        return Images(root=root, **_chosen(options, {**_IMAGES, **_PIXELS}))
    only_local(root, "the store for --grey-from-events")
    useless = sorted(set(options) - {"grey_from_events", "split"})
    if useless:
        raise OptionError(f"--grey-from-events has no use for {useless[0]!r}; leave it out")
    return GreyFromEvents(root=root, only=options.get("split"))


def _tonic(root: Path, options: Mapping[str, Any]) -> Source:
    from eventdata.raw.framed import FrameSettings
    from eventdata.raw.tonic import TonicSource

    only_local(root, "data that Tonic opens")
    frames = FrameSettings.from_options(options)
    name = options["name"].removeprefix(_TONIC)
    return TonicSource(root=root, name=name, frames=frames, only=options.get("split"))


def _recordings(root: Path, options: Mapping[str, Any]) -> Source:
    from eventdata.raw.framed import FrameSettings
    from eventdata.raw.recordings import Recordings

    only_local(root, "recordings, which are listed by what is in them,")
    frames = FrameSettings.from_options(options)
    return Recordings(
        root=root, frames=frames, every=options.get("every"), only=options.get("split")
    )


# Options -> the settings of a source that they give.
_Names = Mapping[str, str]
_IMAGES: _Names = {"split": "only", "list": "list_file", "classes": "classes_file"}
_CLIPS: _Names = {"split": "only", "splits": "lists"}
_ODG: _Names = {
    "odg": "mode",
    "long_side": "long_side",
    "crop": "crop",
    "threshold": "threshold",
    "min_events": "min_events",
    "resampling": "resampling",
}
_VIDEO: _Names = {
    "mode": "mode",
    "event_ratio": "event_ratio",
    "seed": "seed",
    "interpolation": "interpolation",
}
_PIXELS: _Names = {"short_side": "short_side", "crop": "crop", "grey": "grey"}

_FRAMES = frozenset(
    {
        "split",
        "frames",
        "n_event_bins",
        "window",
        "events_per_frame",
        "overlap",
        "include_incomplete",
        "steps",
        "representation",
        "count_dtype",
        "merge_polarities",
        "transform",
        "sensor_size",
    }
)
_TONIC = "tonic:"  # what follows is the name of Tonic's class


def _chosen(options: Mapping[str, Any], names: _Names) -> dict[str, Any]:
    """Settings by their own names; what was not chosen keeps the source's default."""
    return {setting: options[key] for key, setting in names.items() if key in options}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [_text(one) for one in value]


def _whole(value: Any) -> int:
    number = int(value)
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not isinstance(value, str) and not (is_number and number == value):
        raise ValueError
    return number


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _number_or_whole(value: Any) -> float:
    try:
        return _whole(value)  # any length: a float holds 53 bits
    except ValueError:
        return _number(value)


_Kind = tuple[str, Callable[[Any], Any]]
_TEXT: _Kind = ("a text", _text)
_WHOLE: _Kind = ("a whole number", _whole)
_NUMBER: _Kind = ("a number", _number)
_PATH: _Kind = ("a path", Path)

# What values of options are, and how they are read: from Python they may be anything. Beside these
# there are flags, and sensor_size, which has two forms.
_KINDS: Mapping[str, _Kind] = {
    "split": _TEXT,
    "splits": _PATH,
    "fold": _WHOLE,
    "list": _PATH,
    "classes": _PATH,
    "odg": _TEXT,
    "long_side": _WHOLE,
    "crop": _WHOLE,
    "threshold": _NUMBER,
    "min_events": _WHOLE,
    "resampling": _TEXT,
    "trace": _TEXT,
    "mode": _WHOLE,
    "event_ratio": _NUMBER,
    "steps": _WHOLE,
    "seed": _WHOLE,
    "interpolation": _TEXT,
    "size": _TEXT,
    "short_side": _WHOLE,
    "frames": _WHOLE,
    "n_event_bins": _WHOLE,
    "window": _WHOLE,
    "events_per_frame": _WHOLE,
    "overlap": ("a number", _number_or_whole),
    "representation": _TEXT,
    "count_dtype": _TEXT,
    "every": _WHOLE,
    "transform": ("a text or several", _texts),
}


SOURCES: Mapping[str, SourceEntry] = {
    "es-imagenet": SourceEntry(
        "ES-ImageNet's raw npz files with their manifests",
        frozenset({"split"}),
        _es_imagenet,
        walks=False,
    ),
    "es-ucf101": SourceEntry("ES-UCF101's raw npz files", frozenset({*_CLIPS, "fold"}), _es_ucf101),
    "imagenet": SourceEntry(
        "images, made into events by ODG", frozenset({*_IMAGES, *_ODG, "trace"}), _imagenet
    ),
    "ucf101": SourceEntry(
        "UCF101's clips (videos, or folders of frames), made into events by differences",
        frozenset({*_CLIPS, "fold", *_VIDEO, "steps", "size"}),
        _ucf101,
    ),
    "images": SourceEntry(
        "images as they are, or --grey-from-events of a store",
        frozenset({*_IMAGES, *_PIXELS, "grey_from_events"}),
        _images,
    ),
    f"{_TONIC}NAME": SourceEntry(
        "a data set of Tonic, such as tonic:NMNIST, in Tonic's own folders",
        _FRAMES,
        _tonic,
        walks=False,
    ),
    "recordings": SourceEntry(
        "class folders of aedat, aedat4, raw, dat, bin, es, npz and npy files",
        _FRAMES | {"every"},
        _recordings,
    ),
}


def source_entry(name: str) -> SourceEntry:
    """What is known of a source; OptionError for a name that is none."""
    entry = SOURCES.get(f"{_TONIC}NAME" if name.startswith(_TONIC) else name)
    if entry is None:
        raise OptionError(f"unknown source {name!r}; the sources are {', '.join(SOURCES)}")
    return entry


def read_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are given, those whose value is not None, as the source ``name`` takes them.

    OptionError for one that it does not know, or a value of another kind.
    """
    entry = source_entry(name)
    given = {key: value for key, value in options.items() if value is not None}
    unknown = sorted(set(given) - entry.options)
    if unknown:
        raise OptionError(
            f"the source {name} does not know the option {unknown[0]!r}; it knows "
            f"{', '.join(sorted(entry.options))}"
        )
    for key in sorted(given.keys() & _KINDS.keys()):
        kind, read = _KINDS[key]
        try:
            given[key] = read(given[key])
        except (TypeError, ValueError, OverflowError):
            raise OptionError(f"{key} is {given[key]!r:.80}: give {kind}") from None
    return given


def build_source(name: str, root: Path, options: Mapping[str, Any]) -> Source:
    """The source of a name on an input folder (`files.inputs.open_input`).

    OptionError as `read_options`, InputError for a URL where it can't take one.
    """
    given = read_options(name, options)
    if name.startswith(_TONIC):
        given["name"] = name
    return source_entry(name).build(root, given)
