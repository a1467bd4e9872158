"""The sources by the names that the command line and `eventdata.convert` take."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventdata.errors import OptionError
from eventdata.settings import Option, closest, options_of

if TYPE_CHECKING:
    from eventdata.raw.source import Source, SourceSettings


@dataclass(frozen=True)
class SourceEntry:
    """The class of a source, as "module:class", and what it converts, in one line.

    fixed: options of the class that this source lacks; words: the arguments of the example on the
    help page, by default the class's.
    """

    place: str
    summary: str
    fixed: tuple[str, ...] = ()
    words: str = ""

    @cached_property
    def kind(self) -> "type[SourceSettings]":
        """The class, whose module is loaded now."""
        module, name = self.place.split(":")
        return getattr(import_module(module), name)  # type: ignore[no-any-return]

    @property
    def options(self) -> dict[str, Option]:
        """The options, by name."""
        kind: Any = self.kind
        return {one.name: one for one in options_of(kind) if one.name not in self.fixed}

    @property
    def files(self) -> set[str]:
        """The options that are files or folders; a store must not choose any."""
        return {name for name, option in self.options.items() if Path in option.kinds}

    @property
    def example(self) -> str:
        """Words of an example, after the source's name."""
        return self.words or self.kind.example


_RAW = "eventdata.raw"
_TONIC = "tonic:NAME"
SOURCES = {
    "es-imagenet": SourceEntry(f"{_RAW}.es_imagenet:EsImageNet", "ES-ImageNet's raw npz files."),
    "es-ucf101": SourceEntry(f"{_RAW}.es_ucf101:EsUcf101", "ES-UCF101's raw npz files."),
    "imagenet": SourceEntry(f"{_RAW}.imagenet:ImageNet", "Event frames from images, by ODG."),
    "ucf101": SourceEntry(f"{_RAW}.ucf101:Ucf101", "Event frames from videos or frame folders."),
    "images": SourceEntry(f"{_RAW}.images:Images", "Still images, or grey ones from events."),
    "dvs-gesture": SourceEntry(
        f"{_RAW}.dvs_gesture:DvsGesture",
        "DVS128 Gesture's recordings and label files.",
        ("sensor_size", "time_unit"),
    ),
    _TONIC: SourceEntry(f"{_RAW}.tonic:TonicSource", "A dataset of Tonic, such as tonic:NMNIST."),
    "recordings": SourceEntry(f"{_RAW}.recordings:Recordings", "Event files in class folders."),
}
# Raw files that `generate` makes, with the source that lists what they are made from. It lacks
# what the raw layout fixes, and clips have no split.
GENERATED = {
    "es-imagenet": SourceEntry(
        f"{_RAW}.imagenet:ImageNet",
        "ES-ImageNet's raw files, from images.",
        ("long_side", "crop", "trace"),
        "ILSVRC2012/ raw/",
    ),
    "es-ucf101": SourceEntry(
        f"{_RAW}.ucf101:Ucf101",
        "ES-UCF101's raw files, from clips.",
        ("steps", "size", "split", "splits", "fold"),
        "UCF-101/ event_dvs/",
    ),
}
Sources = Mapping[str, SourceEntry]


def source_entry(name: str, sources: Sources = SOURCES) -> SourceEntry:
    """Return the entry of a source; raise OptionError for an unknown name."""
    entry = sources.get(_TONIC if name.startswith("tonic:") else name)
    if entry is None:
        raise _unknown(f"unknown source {name!r}", closest(name, sources), sources)
    return entry


def unknown_option(name: str, option: str, sources: Sources) -> OptionError:
    """Return the error for an option that a source does not have, with the sources that do."""
    owners = [other for other, entry in sources.items() if option in entry.options]
    own = source_entry(name, sources).options
    hint = f"it belongs to {' and '.join(owners)}." if owners else closest(option, own)
    return _unknown(f"{name} has no option {option!r}", hint, own)


def _unknown(fault: str, hint: str, known: Iterable[str]) -> OptionError:
    choose = f"{hint} Choose" if hint else "choose"
    return OptionError(f"{fault}; {choose} from {', '.join(known)}")


def given_options(
    name: str, options: Mapping[str, Any], sources: Sources = SOURCES
) -> dict[str, Any]:
    """Return the given options, those that are not None, checked one by one.

    Raises:
        OptionError: an option that the source does not have, or a value that it does not take.
    """
    known = source_entry(name, sources).options
    given = {key: value for key, value in options.items() if value is not None}
    for key, value in given.items():
        if key not in known:
            raise unknown_option(name, key, sources)
        known[key].read(value)
    return given


def build_source(
    name: str, root: Path, options: Mapping[str, Any], sources: Sources = SOURCES
) -> "Source":
    """Return the source of a name on an input folder or archive (`files.inputs.open_input`).

    Raises:
        OptionError: as `given_options`, or options that do not go together.
        InputError: a URL, where the source can't take one.
    """
    from eventdata.files.inputs import open_input  # not for the help page

    given = given_options(name, options, sources)
    place = open_input(root) if isinstance(root, Path) else root
    return source_entry(name, sources).kind.build(name, place, given)
