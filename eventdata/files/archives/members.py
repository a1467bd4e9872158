"""Find members of archives by their paths, and read each by its place.

A member's path is that of its archive followed by its path in there. Workers get places, so that
they need no index.
"""

import contextlib
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from isal import isal_zlib

from eventdata.errors import EventDataError, InputError, reading
from eventdata.files.archives.index import NOWHERE, PARQUET, REMEDY, TAR, Index, Place
from eventdata.files.archives.indexes import changed, index_of
from eventdata.files.archives.ranges import file_state, is_file, read_range
from eventdata.files.archives.zips import DEFLATED
from eventdata.files.base import is_url

MAX_MEMBER = 1 << 28  # bytes of one that is read; each process holds one in memory

_INSIDE = re.compile(r"\.(?:tar|zip|parquet)(?=/)", re.IGNORECASE)
_ROW = re.compile(r"([0-9]{1,9})-([0-9]{1,9})/[^/]+")
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and of extra fields
_MOST_HEADER = 1 << 10  # bytes of nearly all local headers
_NO_INDEX = Index([], np.empty((0, 4), np.int64))


def split_path(path: str) -> tuple[str, str] | None:
    """Return the archive of a member's path and its path in it, None for other paths."""
    for match in _INSIDE.finditer(path):
        if is_file(path[: match.end()]):
            return path[: match.end()], path[match.end() + 1 :]
    return None


def locate(paths: Sequence[str]) -> Iterator[tuple[int, Place] | None]:
    """Yield the archive's time of change and the place of each member; None for other paths.

    A missing member has the place `NOWHERE`.
    """
    prefix, index, time, shard = "\0", _NO_INDEX, 0, False
    for path in paths:
        if not path.startswith(prefix):
            parts = split_path(path)
            if parts is None:
                yield None
                continue
            prefix = f"{parts[0]}/"
            shard = parts[0].lower().endswith(".parquet")
            index = _NO_INDEX if shard else index_of(parts[0])
            time = file_state(parts[0])[1]
        name = path[len(prefix) :]
        if shard:
            row = _ROW.fullmatch(name)
            yield time, Place(int(row[1]), int(row[2]), 0, PARQUET) if row else NOWHERE
            continue
        place = index.find(name)
        if place is None and index.below(name):
            raise InputError(
                f"{path}: a folder in an archive, but only files are read there; unpack the archive"
            )
        yield time, place or NOWHERE


def place_of(path: str) -> Place | None:
    """Return the place of a member of a local archive, None for other paths."""
    if is_url(path) or _INSIDE.search(path) is None:
        return None
    found = next(locate([path]))
    if found is not None and found[1] == NOWHERE:
        raise InputError(f"{path}: the file is missing; check the path")
    return None if found is None else found[1]


def read_member(
    path: str,
    archive: str,
    place: Place,
    read: Callable[[str, Place], bytes | None] | None = None,
) -> tuple[bytes, int]:
    """Return the bytes of a member and the archive's time of change (ns), looked up after reading.

    ``read`` returns the bytes of a member, None for a damaged one; by default of a tar or zip.

    Raises:
        InputError: the member is damaged or too large.
        MismatchError: the archive is gone or has changed.
    """
    if max(place.size, place.packed) > MAX_MEMBER:
        raise InputError(f"{path}: {place.size:,} bytes; a raw file has at most {MAX_MEMBER:,}")
    with _there(path, archive):
        content = read(archive, place) if read else content_at(partial(read_range, archive), place)
        time = file_state(archive)[1]
    return sound(path, content), time


def read_members(
    archive: str,
    places: Sequence[Place],
    read: Callable[[str, Sequence[Place]], list[bytes | None]] | None = None,
) -> tuple[list[bytes | None], int]:
    """Return what `read_member` does for neighbours in an archive, by one request.

    Args:
        archive: the archive.
        places: its members, in the order of the archive.
        read: returns the bytes of members; by default of a tar or zip, from one range that is
            held in memory.

    Returns:
        The bytes of each, None for a damaged one, and the archive's time of change.
    """
    with _there(archive, archive):
        return (read or _neighbours)(archive, places), file_state(archive)[1]


def _neighbours(archive: str, places: Sequence[Place]) -> list[bytes | None]:
    start = places[0].start
    count = max(place.start + place.packed for place in places) + _MOST_HEADER - start
    data = read_range(archive, start, count)

    def read(at: int, wanted: int) -> bytes:
        inside = data[at - start :][:wanted]
        cut = len(inside) < wanted and len(data) == count  # by the range, not by the archive's end
        return read_range(archive, at, wanted) if cut else inside

    return [content_at(read, place) for place in places]


def sound(path: str, content: bytes | None) -> bytes:
    """Return the bytes of a member; raise InputError for a damaged one."""
    if content is None:
        raise InputError(f"{path}: damaged, or not where the archive says; {REMEDY}")
    return content


@contextlib.contextmanager
def _there(path: str, archive: str) -> Iterator[None]:
    """Raise InputError for an OSError from reading a member, MismatchError without the archive."""
    try:
        with reading(path):
            yield
    except FileNotFoundError:
        raise changed(archive) from None
    except EventDataError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise changed(archive) from None
        raise


def content_at(read: Callable[[int, int], bytes], place: Place) -> bytes | None:
    """Return the content of a member of a tar or zip, None if it is damaged.

    ``read`` returns bytes of the archive, given the first one and their number.
    """
    if place.kind == TAR:
        content = read(place.start, place.size)
        return content if len(content) == place.size else None
    data = read(place.start, place.packed + _MOST_HEADER)
    if len(data) < _LOCAL_HEADER.size:
        return None
    magic, *lengths = _LOCAL_HEADER.unpack_from(data)
    start = _LOCAL_HEADER.size + sum(lengths)
    if start > _MOST_HEADER:
        data, start = read(place.start + start, place.packed), 0
    packed = data[start : start + place.packed]
    if magic != b"PK\3\4" or len(packed) != place.packed:
        return None
    if place.kind >> 32 == DEFLATED:
        try:
            # One byte more than declared reveals a member that inflates to more.
            packed = isal_zlib.decompressobj(-15).decompress(packed, place.size + 1)
        except isal_zlib.error:  # type: ignore[misc]  # an exception, but not in its stub
            return None
    sound = len(packed) == place.size and isal_zlib.crc32(packed) == place.kind & 0xFFFFFFFF
    return packed if sound else None
