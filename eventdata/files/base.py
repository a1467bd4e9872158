"""The protocols of a place for files, and the paths and URLs by which users name one."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from eventdata.errors import OptionError

WORK = ".work"  # temporary files, records and the lock of a job that has not finished
_THIS_MACHINE = {"file", "local"}  # fsspec's names
_WITH_HOST = {"s3", "s3a", "gs", "gcs", "az", "abfs", "http", "https"}


def is_url(place: str) -> bool:
    """Return whether a place is a URL rather than a path."""
    return "://" in place


def path_or_url(place: str | os.PathLike[str]) -> str:
    """Return a path for a place on this machine (``file://`` included), or a URL.

    Raises:
        OptionError: the URL names no place.
    """
    text = os.fspath(place)
    if "\0" in text:
        raise OptionError(f"{text}: contains a null character; remove it from the path")
    scheme, mark, rest = text.partition("://")
    if not mark:
        return text
    if scheme.lower() in _THIS_MACHINE:
        path = rest.lstrip("/") if os.name == "nt" else rest
        if not Path(path).is_absolute():
            raise OptionError(f"{text}: a file URL needs an absolute path; pass one, or a path")
        return path
    if not (scheme and rest.strip("/")) or (scheme.lower() in _WITH_HOST and rest[0] == "/"):
        raise OptionError(f"{text}: not a complete URL; write it as s3://bucket/folder")
    return text


class Files(Protocol):
    """Files in one place. Keys are paths in it, with forward slashes."""

    @property
    def where(self) -> str:
        """The place, for messages."""

    def read(self, key: str, most: int | None = None) -> bytes | None:
        """Return the bytes of a file, None where it is missing.

        A local file of more than ``most`` bytes is a StoreError: a sparse file of any length takes
        no space, unlike an object behind a URL.
        """

    def write(self, documents: Mapping[str, bytes | bytearray]) -> None:
        """Write files in their order, each whole or not at all, and durably.

        Waiting for the disk once for several files is faster than once for each. A power cut before
        this returns may lose any of them, whatever their order.
        """

    def size(self, key: str) -> int | None:
        """Return the bytes of a file, None where it is missing."""

    def names(self) -> list[str]:
        """Return the sorted names at the top; empty where the place is missing."""

    def list(self, prefix: str) -> list[str]:
        """Return the sorted keys of all files below a folder."""

    def total_bytes(self) -> int:
        """Return the bytes of all files."""

    def remove(self, prefix: str) -> None:
        """Remove a file, or a folder with all files below it; do nothing where it is missing."""

    def prepare(self) -> None:
        """Create the folder and its ``.work``, where the place has folders."""

    def sync(self) -> None:
        """Make durable what a killed command has written or removed here, too."""
