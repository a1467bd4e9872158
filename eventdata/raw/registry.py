"""Names of the sources, as the command line and `eventdata.convert` take them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eventdata.errors import OptionError
from eventdata.raw.source import Source


@dataclass(frozen=True)
class SourceEntry:
    """One kind of source: what it is, the options it knows, how to make it."""

    summary: str
    options: frozenset[str]
    build: Callable[[Path, Mapping[str, Any]], Source]


def _es_imagenet(root: Path, options: Mapping[str, Any]) -> Source:
    from eventdata.raw.es_imagenet import EsImageNet

    return EsImageNet(root, only=options.get("split"))


def _es_ucf101(root: Path, options: Mapping[str, Any]) -> Source:
    from eventdata.raw.es_ucf101 import EsUcf101

    lists = options.get("splits")
    return EsUcf101(
        root=root,
        lists=Path(lists) if lists is not None else None,
        fold=options.get("fold"),
        only=options.get("split"),
    )


SOURCES: Mapping[str, SourceEntry] = {
    "es-imagenet": SourceEntry(
        "ES-ImageNet's raw npz files with their manifests", frozenset({"split"}), _es_imagenet
    ),
    "es-ucf101": SourceEntry(
        "ES-UCF101's raw npz files", frozenset({"split", "splits", "fold"}), _es_ucf101
    ),
}


def build_source(name: str, root: Path, options: Mapping[str, Any]) -> Source:
    """The source of a name on an input folder; OptionError for an option it does not know.

    Options whose value is None count as not given.
    """
    entry = SOURCES.get(name)
    if entry is None:
        raise OptionError(f"unknown source {name!r}; the sources are {', '.join(SOURCES)}")
    given = {key: value for key, value in options.items() if value is not None}
    unknown = sorted(set(given) - entry.options)
    if unknown:
        raise OptionError(
            f"the source {name} does not know the option {unknown[0]!r}; it knows "
            f"{', '.join(sorted(entry.options))}"
        )
    return entry.build(root, given)
