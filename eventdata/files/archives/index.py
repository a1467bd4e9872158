"""The index of an archive: where each member lies, and the labels of a WebDataset shard."""

import json
import re
import sys
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError

PARQUET, TAR = -2, -1  # kinds of places
REMEDY = "get the archive again"
MAX_LABEL = 256  # characters

_PACKED = re.compile(r"\.(?:tar\.(?:gz|bz2|xz|zst|lzma|Z)|t[gbx]z2?)$", re.IGNORECASE)
_LABEL_KEYS = ("label", "cls", "class", "target")


class Place(NamedTuple):
    """The place of a member: its first byte (of a zip, that of its header), bytes there, bytes.

    kind: `TAR`; the method of a zip's member, with its checksum in the lower 32 bits; or `PARQUET`,
    where ``start`` is the row group and ``packed`` the row.
    """

    start: int
    packed: int
    size: int
    kind: int


NOWHERE = Place(-1, 0, -1, 0)


def is_packed(name: str) -> bool:
    """Return whether a file has the suffix of a compressed tar."""
    return _PACKED.search(name) is not None


def key_of(name: str) -> str:
    """Return the key of a member of a WebDataset shard."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition('.')[0]}"


@dataclass(frozen=True)
class Index:
    """The members of an archive: sorted names (M,), and a row of `Place` for each (M, 4).

    labels: of a WebDataset shard, that of each member's key or ""; empty for other archives.
    """

    names: list[str]
    places: NDArray[np.int64]
    labels: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        members: Iterator[tuple[str, Place]],
        labels: Callable[[], Mapping[str, str]],
    ) -> "Index":
        """Return the index, given labels by key; raise InputError if two members have one name."""
        listed: list[str] = []
        numbers = array("q")  # a million tuples would take half a gigabyte
        for name, place in members:
            listed.append(name)
            numbers.extend(place)
        order = sorted(range(len(listed)), key=listed.__getitem__)
        names = [listed[i] for i in order]
        for name, after in pairwise(names):
            if name == after:
                raise InputError(f"holds {name!r} twice; make the archive again")
        places = np.array(numbers, np.int64).reshape(-1, 4)[order]
        by_key = labels()
        return cls(
            names, places, [by_key.get(key_of(name), "") for name in names] if by_key else []
        )

    def find(self, name: str) -> Place | None:
        """Return the place of a member, None where there is none."""
        at = bisect_left(self.names, name)
        if at == len(self.names) or self.names[at] != name:
            return None
        return Place(*self.places[at].tolist())

    def below(self, folder: str) -> list[str]:
        """Return the paths in a folder of all files below it."""
        if not folder:
            return list(self.names)
        first, end = (bisect_left(self.names, f"{folder}{mark}") for mark in "/0")  # "0" follows
        return [name[len(folder) + 1 :] for name in self.names[first:end]]

    def to_bytes(self, about: list[Any]) -> bytes:
        """Return the index for `from_bytes`; ``about`` says which archive it is of."""
        names = "\0".join(self.names).encode("utf-8", "surrogateescape")
        head = json.dumps([*about, self.labels, len(names)]).encode()
        places = np.ascontiguousarray(self.places, "<i8").tobytes()
        return zlib.compress(head + b"\n" + names + places, 1)

    @classmethod
    def from_bytes(cls, data: bytes, about: list[Any]) -> "Index | None":
        """Return the index, None where it is damaged or of another archive."""
        try:
            head, _, rest = zlib.decompress(data).partition(b"\n")
            *found, labels, length = json.loads(head)
            labels = [sys.intern(str(label)) for label in labels]
            names = rest[:length].decode("utf-8", "surrogateescape").split("\0") * bool(length)
            places = np.frombuffer(rest[length:], "<i8").reshape(-1, 4).astype(np.int64)
        except (zlib.error, ValueError, TypeError):
            return None
        fits = found == about and len(names) == len(places) and len(labels) in (0, len(names))
        return cls(names, places, labels) if fits else None


class Labels:
    """The labels in the members KEY.cls and KEY.json of a WebDataset shard."""

    def __init__(self) -> None:
        self._of_json: dict[str, str] = {}
        self._of_cls: dict[str, str] = {}

    def add(self, name: str, content: bytes) -> None:
        """Add the label in a .cls or .json member, if it has one."""
        by_key = self._of_cls
        try:
            value: Any = content.decode().strip()
            if name.endswith(".json"):
                by_key, facts = self._of_json, json.loads(value)
                value = next((facts[key] for key in _LABEL_KEYS if key in facts), "")
        except (ValueError, TypeError, RecursionError):
            return
        if isinstance(value, int | str) and not isinstance(value, bool):
            label = str(value) if isinstance(value, str) or abs(value) < 10**9 else ""
            if label and len(label) <= MAX_LABEL and "\0" not in label:
                by_key[key_of(name)] = sys.intern(label)

    def of_keys(self) -> dict[str, str]:
        """Return the label of each key; that of KEY.cls if both have one."""
        return self._of_json | self._of_cls
