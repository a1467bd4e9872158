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
    """The class of a source, as "module:class", and what it converts, in one line."""

    place: str
    summary: str

    @cached_property
    def kind(self) -> "type[SourceSettings]":
        """The class, whose module is loaded now."""
        module, name = self.place.split(":")
        return getattr(import_module(module), name)  # type: ignore[no-any-return]

    @property
    def options(self) -> Mapping[str, Option]:
        """The options, by name."""
        kind: Any = self.kind
        return {option.name: option for option in options_of(kind)}

    @property
    def files(self) -> set[str]:
        """The options that are files or folders; a store must not choose any."""
        return {name for name, option in self.options.items() if Path in option.kinds}


_RAW = "eventdata.raw"
_TONIC = "tonic:NAME"
SOURCES = {
    "es-imagenet": SourceEntry(f"{_RAW}.es_imagenet:EsImageNet", "ES-ImageNet's raw npz files."),
    "es-ucf101": SourceEntry(f"{_RAW}.es_ucf101:EsUcf101", "ES-UCF101's raw npz files."),
    "imagenet": SourceEntry(f"{_RAW}.imagenet:ImageNet", "Images to event frames by ODG."),
    "ucf101": SourceEntry(f"{_RAW}.ucf101:Ucf101", "Videos or frame folders to event frames."),
    "images": SourceEntry(f"{_RAW}.images:Images", "Still images, or --grey-from-events."),
    _TONIC: SourceEntry(f"{_RAW}.tonic:TonicSource", "A Tonic data set, such as tonic:NMNIST."),
    "recordings": SourceEntry(f"{_RAW}.recordings:Recordings", "Event files in class folders."),
}


GENERATED = {
    "es-imagenet": SourceEntry(SOURCES["imagenet"].place, "ES-ImageNet's raw files, from images."),
    "es-ucf101": SourceEntry(SOURCES["ucf101"].place, "ES-UCF101's raw files, from clips."),
}
"""Raw files that `generate` makes, with the source that lists what they are made from."""
_FIXED = {
    "es-imagenet": {"long_side", "crop", "trace"},
    "es-ucf101": {"steps", "size", "split", "splits", "fold"},
}
"""Options that `generate` does not have: the raw layout fixes them, and clips have no split."""


def entry_name(name: str) -> str:
    """Return the name of a source in `SOURCES`."""
    return _TONIC if name.startswith("tonic:") else name


def source_entry(name: str) -> SourceEntry:
    """Return the entry of a source; raise OptionError for an unknown name."""
    if entry_name(name) not in SOURCES:
        raise unknown_source(name, SOURCES)
    return SOURCES[entry_name(name)]


def generate_options(kind: str) -> dict[str, Option]:
    """Return the options for generating raw files of a kind, by name."""
    if kind not in GENERATED:
        raise unknown_source(kind, GENERATED)
    options = GENERATED[kind].options
    return {name: options[name] for name in options if name not in _FIXED[kind]}


def unknown_source(name: str, known: Iterable[str]) -> OptionError:
    """Return the error for an unknown name, with the closest one."""
    return _unknown(f"unknown source {name!r}", closest(name, known), known)


def unknown_option(
    name: str, option: str, known: Mapping[str, Iterable[str]] | None = None
) -> OptionError:
    """Return the error for an option that a source does not have, with the sources that do.

    known: the options of each source; by default those of `convert`.
    """
    known = {key: entry.options for key, entry in SOURCES.items()} if known is None else known
    owners = [other for other, options in known.items() if option in options]
    own = known[entry_name(name)]
    hint = f"it belongs to {' and '.join(owners)}." if owners else closest(option, own)
    return _unknown(f"{name} has no option {option!r}", hint, own)


def _unknown(fault: str, hint: str, known: Iterable[str]) -> OptionError:
    choose = f"{hint} Choose" if hint else "choose"
    return OptionError(f"{fault}; {choose} from {', '.join(known)}")


def given_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given options, those that are not None, checked one by one.

    Raises:
        OptionError: an option that the source does not have, or a value that it does not take.
    """
    known = source_entry(name).options
    given = {key: value for key, value in options.items() if value is not None}
    for key, value in given.items():
        if key not in known:
            raise unknown_option(name, key)
        known[key].read(value)
    return given


def build_source(name: str, root: Path, options: Mapping[str, Any]) -> "Source":
    """Return the source of a name on an input folder (`files.inputs.open_input`).

    Raises:
        OptionError: as `given_options`, or options that do not go together.
        InputError: a URL, where the source can't take one.
    """
    return source_entry(name).kind.build(name, root, given_options(name, options))
