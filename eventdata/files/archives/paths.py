"""Archives, and the folders and files in them, as paths for sources that list folders.

    INPUT/train.tar/n01440764/n01440764_10026.JPEG      in train.tar
    INPUT/train.tar/n01440764/n01440764_10026.JPEG      in n01440764.tar in train.tar

The path of a member is that of a file in a folder with the name of the archive; a tar in a tar is
a folder without the suffix.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

from eventdata.errors import InputError
from eventdata.files.archives.index import Index, Place, is_packed
from eventdata.files.archives.indexes import index_of
from eventdata.files.archives.members import read_member
from eventdata.files.archives.ranges import is_file

_SUFFIX = re.compile(r"\.(?:tar|zip)", re.IGNORECASE)


@dataclass(frozen=True, order=True)
class Archived:
    """A folder or file in an archive, in place of a `Path` where sources list."""

    archive: str
    inner: str = ""

    def __str__(self) -> str:
        return f"{self.archive}/{self.inner}" if self.inner else self.archive

    def __truediv__(self, key: str) -> "Archived":
        return Archived(self.archive, f"{self.inner}/{key}" if self.inner else key)

    @property
    def name(self) -> str:
        """The last part of the path, of an archive without its suffix."""
        path = PurePosixPath(str(self))
        return path.name if self.inner else path.stem

    suffix = property(lambda self: PurePosixPath(self.name).suffix)
    stem = property(lambda self: PurePosixPath(self.name).stem)

    def is_file(self) -> bool:
        return self._index.find(self.inner) is not None

    def is_dir(self) -> bool:
        return not self.inner or bool(self._index.below(self.inner))

    def place(self) -> Place:
        """Return the place of a file; raise FileNotFoundError where it is missing."""
        place = self._index.find(self.inner)
        if place is None:
            raise FileNotFoundError(2, "no such file in the archive", str(self))
        return place

    def read_text(self, encoding: str) -> str:
        return read_member(str(self), self.archive, self.place())[0].decode(encoding)

    def inside(self) -> list[tuple["Archived", bool]]:
        """Return the paths in a folder, and whether each is a folder."""
        found = dict.fromkeys(
            (first, bool(slash))
            for first, slash, _ in (path.partition("/") for path in self.files_below())
        )
        return [(self / name, folder) for name, folder in found]

    def files_below(self) -> list[str]:
        """Return the paths in a folder of all files below it."""
        return self._index.below(self.inner)

    @property
    def _index(self) -> Index:
        return index_of(self.archive)


def is_archive(name: str) -> bool:
    """Return whether a file has the suffix of a zip or tar."""
    return _SUFFIX.fullmatch(PurePosixPath(name).suffix) is not None


def is_parquet(name: str) -> bool:
    """Return whether a file has the suffix of a Parquet shard."""
    return name.lower().endswith(".parquet")


def has_suffix(name: str) -> bool:
    """Return whether a file has the suffix of an archive, also of one that is not read."""
    return is_archive(name) or is_parquet(name) or is_packed(name)


def archive_at(place: str) -> Archived | None:
    """Return the archive at a path or URL, None for a folder or a file with another suffix.

    Raises:
        InputError: a compressed tar.
    """
    if not has_suffix(place) or not is_file(place):
        return None
    if is_packed(place):
        raise InputError(
            f"{place}: a compressed tar, in which no member can be read by its place; decompress "
            "it to a .tar, or make a .zip of its files"
        )
    return Archived(place)


def unwrapped(folder: Path, called: str = "") -> Path:
    """Return the only folder in an archive if it holds folders or has the archive's name.

    That is the name of the file, or what the archive is ``called`` in the input.

    All other folders and archives are returned as they are.
    """
    if isinstance(folder, Archived) and not folder.inner:
        found = [(path, kind) for path, kind in folder.inside() if path.name[0] not in "._"]
        if len(found) == 1 and found[0][1]:
            inner = found[0][0]
            if inner.name in (folder.name, called) or any(kind for _, kind in inner.inside()):
                return cast(Path, inner)
    return folder
