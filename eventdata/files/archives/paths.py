"""Zip files and tars as folders, whose files are read where they lie and never unpacked.

    INPUT/train.tar/n01440764/n01440764_10026.JPEG      in train.tar
    INPUT/train.tar/n01440764/n01440764_10026.JPEG      in n01440764.tar in train.tar

The path of a member is that of a file in a folder with the name of the archive; a tar in a tar is
a folder without the suffix. An archive is indexed once, from its headers; then each member is read
by its place. Nothing in an archive is trusted: names must stay inside, and places and sizes are
checked against the archive.
"""

import contextlib
import hashlib
import json
import os
import re
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from eventdata.errors import EventDataError, InputError, MismatchError, reading
from eventdata.files.base import WORK, Files, is_url
from eventdata.files.local import check_plain
from eventdata.files.remote import Remote, time_of

MAX_MEMBERS = 1 << 24  # ImageNet has 1.3 million
MAX_MEMBER = 1 << 28  # bytes of one that is read; each process holds one in memory
MAX_NAME = 4096  # bytes, as of a path on Linux
MAX_DIRECTORY = 1 << 31  # bytes of a zip's directory
BLOCK = 1 << 20  # bytes of a range that a walk over the headers requests
MAX_LABEL_FILE, MAX_LABEL = 1 << 16, 256  # bytes of a .cls or .json; characters of a label
PARQUET, TAR, STORED, DEFLATED = -2, -1, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED

_SUFFIX = re.compile(r"\.(?:tar|zip)", re.IGNORECASE)
_INSIDE = re.compile(r"\.(?:tar|zip|parquet)(?=/)", re.IGNORECASE)
_ROW = re.compile(r"([0-9]{1,9})-([0-9]{1,9})/[^/]+")
_PACKED = re.compile(r"\.(?:tar\.(?:gz|bz2|xz|zst|lzma|Z)|t[gbx]z2?)", re.IGNORECASE)
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and of extra fields
_FAULTS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, EOFError)
_REMEDY = "get the archive again"


class Place(NamedTuple):
    """The place of a member: its first byte (of a zip, that of its header), bytes there, bytes.

    kind: `TAR`; the method of a zip's member, with its checksum in the lower 32 bits; or `PARQUET`,
    where ``start`` is the row group and ``packed`` the row.
    """

    start: int
    packed: int
    size: int
    kind: int


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
        archive: str,
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
                raise InputError(f"{archive}: holds {name!r} twice; make the archive again")
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


_NO_INDEX = Index([], np.empty((0, 4), np.int64))


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

    def size(self) -> int:
        """Return the bytes of a file; raise FileNotFoundError where it is missing."""
        place = self._index.find(self.inner)
        if place is None:
            raise FileNotFoundError(2, "no such file in the archive", str(self))
        return place.size

    def read_text(self, encoding: str) -> str:
        self.size()
        place = cast(Place, self._index.find(self.inner))
        return read_member(str(self), self.archive, place)[0].decode(encoding)

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
    return is_archive(name) or is_parquet(name) or _is_packed(name)


def _is_packed(name: str) -> bool:
    suffixes = PurePosixPath(name).suffixes
    return any(_PACKED.fullmatch("".join(suffixes[-count:])) for count in (1, 2))


def archive_at(place: str) -> Archived | None:
    """Return the archive at a path or URL, None for a folder or a file with another suffix.

    Raises:
        InputError: a compressed tar.
    """
    if not has_suffix(place) or not _is_file(place):
        return None
    if _is_packed(place):
        raise InputError(
            f"{place}: a compressed tar, in which no member can be read by its place; decompress "
            "it to a .tar, or make a .zip of its files"
        )
    return Archived(place)


def split_path(path: str) -> tuple[str, str] | None:
    """Return the archive of a member's path and its path in it, None for other paths."""
    for match in _INSIDE.finditer(path):
        if _is_file(path[: match.end()]):
            return path[: match.end()], path[match.end() + 1 :]
    return None


def unwrapped(folder: Path) -> Path:
    """Return the only folder in an archive if it holds folders or has the archive's name.

    All other folders and archives are returned as they are.
    """
    if isinstance(folder, Archived) and not folder.inner:
        found = [(path, kind) for path, kind in folder.inside() if path.name[0] not in "._"]
        if len(found) == 1 and found[0][1]:
            inner = found[0][0]
            if inner.name == folder.name or any(kind for _, kind in inner.inside()):
                return cast(Path, inner)
    return folder


def archive_numbers(archive: str) -> tuple[int, int]:
    """Return the size (bytes) and time of change (ns) of an archive.

    Raises FileNotFoundError where it is missing.
    """
    if not is_url(archive):
        status = check_plain(archive)
        return status.st_size, (status.st_mtime_ns + 2**63) % 2**64 - 2**63
    entry = _remote(archive, lambda system, path: dict(system.info(path)))
    return int(entry["size"]), time_of(entry)


def locate(paths: Sequence[str]) -> Iterator[tuple[int, Place] | None]:
    """Yield the archive's time of change and the place of each member; None for other paths.

    A missing member has the place (-1, 0, -1, 0).
    """
    prefix, index, time, shard = "\0", _NO_INDEX, 0, False
    for path in paths:
        if not path.startswith(prefix):
            parts = split_path(path)
            if parts is None:
                yield None
                continue
            prefix = f"{parts[0]}/"
            shard = is_parquet(parts[0])
            index = _NO_INDEX if shard else index_of(parts[0])
            time = archive_numbers(parts[0])[1]
        name = path[len(prefix) :]
        if shard:
            row = _ROW.fullmatch(name)
            yield time, Place(int(row[1]), int(row[2]), 0, PARQUET) if row else Place(-1, 0, -1, 0)
            continue
        place = index.find(name)
        if place is None and index.below(name):
            raise InputError(
                f"{path}: a folder in an archive, but only files are read there; unpack the archive"
            )
        yield time, place or Place(-1, 0, -1, 0)


def place_of(path: str) -> Place | None:
    """Return the place of a member of a local archive, None for other paths."""
    if is_url(path) or _INSIDE.search(path) is None:
        return None
    found = next(locate([path]))
    if found is not None and found[1].start < 0:
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
    changed = MismatchError(
        f"{archive}: changed while it was read; wait until nothing writes to the input, then run "
        "the same command again"
    )
    try:
        with reading(path):
            content = (read or _content)(archive, place)
            time = archive_numbers(archive)[1]
    except FileNotFoundError:
        raise changed from None
    except EventDataError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise changed from None
        raise
    if content is None:
        raise InputError(f"{path}: damaged, or not where the archive says; {_REMEDY}")
    return content, time


def _content(archive: str, place: Place) -> bytes | None:
    """Return the content of a member, None if it is damaged."""
    if place.kind == TAR:
        content = _range(archive, place.start, place.size)
        return content if len(content) == place.size else None
    data = _range(archive, place.start, place.packed + 1024)  # most headers have 100 bytes
    if len(data) < _LOCAL_HEADER.size:
        return None
    magic, *lengths = _LOCAL_HEADER.unpack_from(data)
    start = _LOCAL_HEADER.size + sum(lengths)
    if start + place.packed > place.packed + 1024:
        data, start = _range(archive, place.start + start, place.packed), 0
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


def _range(archive: str, start: int, count: int) -> bytes:
    if is_url(archive):
        end = start + count
        if not count:
            return b""
        return bytes(
            _remote(archive, lambda system, path: system.cat_file(path, start=start, end=end))
        )
    file = os.open(archive, os.O_RDONLY)
    try:
        return os.pread(file, count, start)
    finally:
        os.close(file)


def _remote(url: str, request: Callable[[Any, str], Any]) -> Any:
    return Remote(url, EventDataError).ask("read", "", request)


def _is_file(place: str) -> bool:
    if not is_url(place):
        return os.path.isfile(place)  # noqa: PTH113 a million paths may be asked about
    return _is_object(place)


@lru_cache(maxsize=4096)
def _is_object(url: str) -> bool:
    entry = Remote(url, EventDataError).find("", lambda system, path: dict(system.info(path)))
    return (entry or {}).get("type") == "file"


# Indexes


@dataclass
class _Kept:
    """The indexes of a job, read from its ``.work`` and written there once it has begun."""

    files: Files
    new: dict[str, bytes] = field(default_factory=dict)

    def read(self, archive: str, about: list[Any]) -> Index | None:
        data = self.files.read(_key(archive))
        index = None if data is None else Index.from_bytes(data, about)
        if index is not None and data is not None:
            self.new[_key(archive)] = data  # --overwrite removes it
        return index

    def add(self, archive: str, about: list[Any], index: Index) -> None:
        self.new[_key(archive)] = index.to_bytes(about)

    def save(self) -> None:
        """Write the indexes; the next call of a stopped job reads them."""
        if self.new:
            self.files.write(self.new)
            self.new = {}


_kept: ContextVar[_Kept | None] = ContextVar("kept", default=None)


@contextlib.contextmanager
def keep_indexes(files: Files) -> Iterator[_Kept]:
    """Use the indexes in the ``.work`` of a job while this is open; collect new ones for it."""
    kept = _Kept(files)
    token = _kept.set(kept)
    try:
        yield kept
    finally:
        _kept.reset(token)
        _read_index.cache_clear()  # a million names


def _key(archive: str) -> str:
    return f"{WORK}/index-{hashlib.sha256(os.fsencode(archive)).hexdigest()[:32]}"


def index_of(archive: str) -> Index:
    """Return the index of an archive, made anew where its size or time has changed.

    Raises:
        InputError: it can't be read, is damaged, or has members that are refused.
    """
    with reading(archive):
        return _read_index(archive, archive_numbers(archive))


@lru_cache(maxsize=4096)
def _read_index(archive: str, numbers: tuple[int, int]) -> Index:
    kept, about = _kept.get(), [archive, *numbers]
    found = None if kept is None else kept.read(archive, about)
    if found is not None:
        return found
    try:
        with open_archive(archive) as file:
            magic = file.read(4)
            file.seek(0)
            zipped = magic in (b"PK\3\4", b"PK\5\6")
            found_labels = _Labels()
            if zipped:
                members = _zip_members(file, numbers[0])
            else:
                members = _tar_members(file, numbers[0], found_labels)
            index = Index.of(archive, _checked(members), found_labels.of_keys)
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(archive) else f"{archive}: {text}") from None
    except (*_FAULTS, ValueError, NotImplementedError, OverflowError) as error:
        if isinstance(error, EventDataError):
            raise
        raise InputError(f"{archive}: not a whole zip or tar ({error}); {_REMEDY}") from None
    if archive_numbers(archive) != numbers:
        raise MismatchError(
            f"{archive}: changed while it was read; wait until nothing writes to the input, then "
            "run the same command again"
        )
    if kept is not None:
        kept.add(archive, about, index)
    return index


@contextlib.contextmanager
def open_archive(archive: str) -> Iterator[IO[bytes]]:
    """Yield an archive as an open file, read by ranges behind a URL."""
    if is_url(archive):
        with _RemoteFile(archive, archive_numbers(archive)[0]) as remote:
            yield cast(IO[bytes], remote)
        return
    with open(archive, "rb") as file:  # noqa: PTH123 a str
        yield file


class _Ranges(ABC):
    """A file for the parsers of tarfile and zipfile, whose ranges are read by `_range`."""

    def __init__(self, size: int) -> None:
        self._size, self._at = size, 0

    @abstractmethod
    def _range(self, start: int, count: int) -> bytes:
        """Return bytes inside the file, fewer where it is cut short."""

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def read(self, count: int = -1) -> bytes:
        left = max(self._size - self._at, 0)
        count = left if count < 0 else min(count, left)
        data = self._range(self._at, count) if count else b""
        self._at += len(data)
        return data


class _RemoteFile(_Ranges):
    """A file behind a URL, read in blocks."""

    def __init__(self, url: str, size: int) -> None:
        super().__init__(size)
        self._url, self._start, self._held = url, 0, b""

    def __enter__(self) -> "_RemoteFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._held = b""

    closed = False

    def close(self) -> None:
        self._held = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def _range(self, start: int, count: int) -> bytes:
        inside = start - self._start
        if not 0 <= inside <= len(self._held) - count:
            self._start, inside = start, 0
            self._held = _range(self._url, start, min(max(count, BLOCK), self._size - start))
        return self._held[inside : inside + count]


def _checked(members: Iterator[tuple[str, Place]]) -> Iterator[tuple[str, Place]]:
    """Yield all members; raise InputError for a name that leaves the folder, or too many."""
    for count, (name, place) in enumerate(members, 1):
        parts = name.split("/")
        unsafe = not name or name[0] == "/" or ".." in parts or re.search(r"\\|\0|://|::", name)
        if unsafe or len(os.fsencode(name)) > MAX_NAME:
            raise InputError(f"member {name!r} leaves the folder; make the archive again")
        plain = "/".join(part for part in parts if part not in ("", "."))
        if count > MAX_MEMBERS:
            raise InputError(f"more than {MAX_MEMBERS:,} members; divide the archive")
        yield plain, place


def _zip_members(file: IO[bytes], size: int) -> Iterator[tuple[str, Place]]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            name = info.filename
            if stat.S_ISLNK(info.external_attr >> 16):
                raise InputError(f"member {name!r} is a link; an archive may only hold files")
            if info.flag_bits & 1:
                raise InputError(f"member {name!r} is encrypted; unpack the archive yourself")
            if info.compress_type not in (STORED, DEFLATED):
                raise InputError(
                    f"member {name!r} is compressed by another method than deflate; make the "
                    "archive again with deflate"
                )
            stored = info.compress_type == STORED
            outside = info.header_offset < 0 or info.header_offset + info.compress_size > size
            if outside or (stored and info.compress_size != info.file_size):
                raise InputError(f"member {name!r} is not where the archive says; {_REMEDY}")
            kind = info.compress_type << 32 | info.CRC
            yield name, Place(info.header_offset, info.compress_size, info.file_size, kind)


def _tar_members(file: IO[bytes], size: int, labels: "_Labels") -> Iterator[tuple[str, Place]]:
    """Yield the members of a plain tar, and those of the tars in it; add its labels."""
    for name, start, length in _walk(file, 0, size):
        if "." in name and _is_packed(name):
            raise InputError(
                f"member {name!r} is a compressed tar, whose files can't be read by their places; "
                "decompress it"
            )
        if name.endswith((".cls", ".json")) and length <= MAX_LABEL_FILE:
            file.seek(start)
            labels.add(name.removeprefix("./"), file.read(length))
        if not name.lower().endswith(".tar"):
            yield name, Place(start, length, length, TAR)
            continue
        for inside, first, count in _walk(file, start, start + length):
            yield f"{name[:-4]}/{inside}", Place(first, count, count, TAR)


def key_of(name: str) -> str:
    """Return the key of a member of a WebDataset shard."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition('.')[0]}"


class _Labels:
    """The labels in the members KEY.cls and KEY.json of a WebDataset shard."""

    def __init__(self) -> None:
        self._by_suffix: dict[str, dict[str, str]] = {".json": {}, ".cls": {}}

    def add(self, name: str, content: bytes) -> None:
        suffix = PurePosixPath(name).suffix
        try:
            value: Any = content.decode().strip()
            if suffix == ".json":
                facts = json.loads(value)
                keys = ("label", "cls", "class", "target")
                value = next((facts[key] for key in keys if key in facts), "")
        except (ValueError, TypeError, RecursionError):
            return
        if isinstance(value, int | str) and not isinstance(value, bool):
            label = str(value) if isinstance(value, str) or abs(value) < 10**9 else ""
            if label and len(label) <= MAX_LABEL and "\0" not in label:
                self._by_suffix[suffix][key_of(name)] = sys.intern(label)

    def of_keys(self) -> dict[str, str]:
        """Return the label of each key; that of KEY.cls if both have one."""
        return self._by_suffix[".json"] | self._by_suffix[".cls"]


def _walk(file: IO[bytes], start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Yield the name, first byte and size of each file of the tar in a range of bytes."""
    try:
        with tarfile.open(fileobj=_Part(file, start, end), mode="r:") as archive:  # type: ignore[call-overload]
            before = -1
            while (info := archive.next()) is not None:
                archive.members.clear()  # a million entries would fill the memory
                if archive.offset <= before:
                    raise InputError(f"the size of {info.name!r} is damaged; {_REMEDY}")
                before = archive.offset
                if info.isdir():
                    continue
                if info.issparse() or not info.isreg():
                    raise InputError(
                        f"member {info.name!r} is a link, device or sparse; an archive may only "
                        "hold files"
                    )
                first = start + info.offset_data
                if info.size < 0 or first + info.size > end:
                    raise InputError(f"cut short in {info.name!r}; {_REMEDY}")
                yield info.name, first, info.size
            # A tar ends with a block of zeros, but tarfile accepts the end of the file instead.
            file.seek(start + archive.offset)
            block = file.read(min(tarfile.BLOCKSIZE, max(end - start - archive.offset, 0)))
            if block != bytes(tarfile.BLOCKSIZE):
                raise InputError(f"cut short; {_REMEDY}")
    except tarfile.ReadError as error:
        file.seek(start)
        if file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
            raise InputError(
                "a compressed tar, in which no member can be read by its place; decompress it"
            ) from None
        raise InputError(f"not a whole zip or tar ({error}); {_REMEDY}") from None


class _Part(_Ranges):
    """A range of a file as a file."""

    def __init__(self, file: IO[bytes], start: int, end: int) -> None:
        super().__init__(end - start)
        self._file, self._start = file, start

    def _range(self, start: int, count: int) -> bytes:
        self._file.seek(self._start + start)
        return self._file.read(count)
