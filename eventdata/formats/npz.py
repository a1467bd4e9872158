"""Read arrays from an untrusted ``.npz``.

Plain directories and headers are parsed here, others by zipfile and NumPy, which take ten times as
long. ISA-L inflates a member in one call, bounded by its declared size. Nothing is unpickled.
"""

import io
import math
import operator
import os
import re
import struct
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from isal import isal_zlib
from numpy.lib import format as npy
from numpy.typing import NDArray

from eventdata.errors import InputError, reading
from eventdata.files.local import check_plain

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_DIRECTORY_END = struct.Struct("<4sHHHHIIH")
_DIRECTORY_ENTRY = struct.Struct("<4sxxBxHH4xIIIHHHH6xI")
_MEMBER_OF = operator.attrgetter(  # a ZipInfo, in the order of Member
    "filename", "header_offset", "flag_bits", "compress_type", "CRC", "compress_size", "file_size"
)
_PLAIN_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '\|u1', 'fortran_order': False, "
    rb"'shape': \(([1-9][0-9]{0,14}(?:, [1-9][0-9]{0,14}){0,8})\), \} *\n",
    re.DOTALL,
)
_PLAIN_NAME = re.compile(rb"[!-.0-9A-Z_a-z]+")  # ASCII, which every reader takes as it is
NPY_HEAD = 1 << 14  # more than NumPy accepts for a header
_TAIL = 1 << 18  # of a file, where its directory mostly lies
_PIECE = 1 << 18  # of compressed bytes
_REMEDY = "get or generate the file again, or skip it with --on-error skip"


class Member(NamedTuple):
    """A member of a zip as its directory describes it; bit 0 of ``flags`` means encrypted."""

    name: str
    header: int
    flags: int
    method: int
    crc: int
    packed_size: int
    size: int


def read_npz(path: Path | str, keys: Sequence[str], max_bytes: int) -> list[NDArray[np.uint8]]:
    """Return the uint8 arrays under ``keys``, read-only.

    ``max_bytes`` is the most that an array of a sound sample has. It bounds the file and each
    array, so that a damaged header cannot ask for more memory.

    Raises:
        InputError: the file is missing, damaged or has no such arrays.
    """
    with reading(path, remedy=_REMEDY):
        try:
            size, most = check_plain(path).st_size, 2 * max_bytes
            if size > most:
                raise InputError(f"the file is larger than the {most:,} bytes a sample can have")
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 a str or Path
                data = file.read(size + 1)  # a file that has grown is then not a whole zip
                if len(data) < size:  # some file systems return less at a time
                    data += file.read()
            return parse_npz(data, keys, max_bytes)
        except InputError as error:
            raise InputError(f"{path}: {error}; {_REMEDY}") from None


def parse_npz(data: bytes, keys: Sequence[str], max_bytes: int) -> list[NDArray[np.uint8]]:
    """Return the arrays of an npz given as bytes, like ``read_npz``; errors name no file."""
    members = list_members(data)
    arrays = []
    for key in keys:
        member = members.get(f"{key}.npy")
        if member is None:
            raise InputError(f"no array {key!r} in it (found: {', '.join(members) or 'nothing'})")
        if member.size > max_bytes:
            raise InputError(f"array {key!r} declares {member.size:,} bytes, over {max_bytes:,}")
        arrays.append(_parse_uint8(inflate(data, member), key))
    return arrays


def list_members(data: bytes | BinaryIO) -> dict[str, Member]:
    """Return the members of a zip file by name; an open file is not read whole."""
    if isinstance(data, bytes):
        file: BinaryIO = io.BytesIO(data)
        members = _list_plain(data)
    else:
        file = data
        start = max(file.seek(0, os.SEEK_END) - _TAIL, 0)
        file.seek(start)
        members = _list_plain(file.read(_TAIL), start)
    if members is None:
        try:
            infos = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, OSError):
            raise InputError("not a whole zip file: truncated, or of another kind") from None
        members = [Member(*_MEMBER_OF(info)) for info in infos]
    return {member.name: member for member in members}


def _list_plain(data: bytes, start: int = 0) -> list[Member] | None:
    """Return the members of a zip on one disk, without prefix, comment or 64 bits; else None.

    ``data`` are its bytes from ``start``.
    """
    end = len(data) - _DIRECTORY_END.size
    if end < 0:
        return None
    magic, *disks, count, total, size, place, comment = _DIRECTORY_END.unpack_from(data, end)
    place -= start
    if magic != b"PK\x05\x06" or any(disks) or comment or count != total or place + size != end:
        return None
    if place < 0:
        return None
    members = []
    for _ in range(count):
        if place + _DIRECTORY_ENTRY.size > end:
            return None
        entry = _DIRECTORY_ENTRY.unpack_from(data, place)
        magic, version, flags, method, crc, packed, whole, *lengths, disk, header = entry
        start = place + _DIRECTORY_ENTRY.size
        name, place = data[start : start + lengths[0]], start + sum(lengths)
        plain = magic == b"PK\x01\x02" and version <= zipfile.MAX_EXTRACT_VERSION and not disk
        if not plain or 0xFFFFFFFF in (packed, whole, header) or not _PLAIN_NAME.fullmatch(name):
            return None
        members.append(Member(name.decode(), header, flags, method, crc, packed, whole))
    return members if place == end else None


class MemberStream:
    """The content of a member, read from its start in pieces.

    Raises InputError if it is damaged; damage that only the checksum shows is found at the end.
    """

    def __init__(self, file: BinaryIO, member: Member) -> None:
        """Start at the first byte; ``file`` stays open for the time of reading."""
        self._file, self._member = file, member
        self._damaged = InputError(f"member {member.name!r} is damaged")
        file.seek(member.header)
        head = file.read(_LOCAL_HEADER.size)
        if len(head) < _LOCAL_HEADER.size or member.flags & 1:
            raise self._damaged
        magic, name_length, extra_length = _LOCAL_HEADER.unpack(head)
        if magic != b"PK\x03\x04":
            raise self._damaged
        if member.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"member {member.name!r} is compressed with an unknown method")
        self._stored = member.method == zipfile.ZIP_STORED
        if self._stored and member.packed_size != member.size:
            raise self._damaged
        self._place = member.header + _LOCAL_HEADER.size + name_length + extra_length
        self._end = self._place + member.packed_size
        self._inflater, self._packed = isal_zlib.decompressobj(-15), b""
        self._crc: int | None = 0
        self._left = member.size

    def skip(self, count: int) -> None:
        """Move on by ``count`` bytes; the checksum of a stored member is then not verified."""
        if self._stored and count > NPY_HEAD:
            self._crc = None
            self._place += count
            self._left -= count
            return
        while count > 0:
            count -= len(self.read(min(count, _PIECE)))

    def read(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        if count > self._left:
            raise self._damaged
        self._left -= count
        content = self._next_packed(count) if self._stored else self._inflate(count)
        if len(content) != count:
            raise self._damaged
        if self._crc is not None:
            self._crc = isal_zlib.crc32(content, self._crc)
            if not self._left and self._crc != self._member.crc:
                raise self._damaged
        return content

    def _next_packed(self, count: int) -> bytes:
        self._file.seek(self._place)  # other streams read from the same file
        packed = self._file.read(min(count, self._end - self._place))
        self._place += len(packed)
        return packed

    def _inflate(self, count: int) -> bytes:
        parts, missing = [], count
        last = not self._left  # one byte more reveals a member that inflates to more
        try:
            while missing + last > 0:
                self._packed = self._packed or self._next_packed(_PIECE)
                ended = not self._packed
                part = self._inflater.decompress(self._packed, missing + last)
                self._packed = self._inflater.unconsumed_tail
                parts.append(part)
                missing -= len(part)
                if ended and not part:
                    break
        except isal_zlib.error:  # type: ignore[misc]  # an exception, but not in its stub
            raise self._damaged from None
        return parts[0] if len(parts) == 1 else b"".join(parts)


def inflate(data: bytes, member: Member) -> bytes:
    """Return the content of a member, which must have the size that it declares."""
    try:
        magic, name_length, extra_length = _LOCAL_HEADER.unpack_from(data, member.header)
        start = member.header + _LOCAL_HEADER.size + name_length + extra_length
        packed = memoryview(data)[start : start + member.packed_size]
        if magic == b"PK\x03\x04" and len(packed) == member.packed_size and not member.flags & 1:
            if member.method == zipfile.ZIP_STORED:
                content = bytes(packed)
            elif member.method == zipfile.ZIP_DEFLATED:
                # One byte more than declared reveals a member that inflates to more.
                content = isal_zlib.decompressobj(-15).decompress(packed, member.size + 1)
            else:
                raise InputError(f"member {member.name!r} is compressed with an unknown method")
            if len(content) == member.size and isal_zlib.crc32(content) == member.crc:
                return content
    except (struct.error, isal_zlib.error):  # type: ignore[misc]  # the latter is not in its stub
        pass
    raise InputError(f"member {member.name!r} is damaged")


def _parse_uint8(content: bytes, key: str) -> NDArray[np.uint8]:
    plain = _PLAIN_HEADER.match(content)  # as NumPy writes it
    if plain is not None and plain.end() == 10 + int.from_bytes(content[8:10], "little"):
        shape = tuple(map(int, plain[1].split(b",")))
        if math.prod(shape) == len(content) - plain.end():
            return np.frombuffer(content, np.uint8, offset=plain.end()).reshape(shape)
    try:
        array = parse_npy(content)
    except InputError as error:
        raise InputError(f"array {key!r}: {error}") from None
    if array.dtype != np.uint8:
        raise InputError(f"array {key!r} holds {array.dtype}, not uint8")
    return array


def parse_npy(content: bytes) -> NDArray[Any]:
    """Return the array of a ``.npy``, read-only; raise ``InputError`` if damaged or of objects."""
    shape, fortran_order, dtype, start = parse_header(content, len(content))
    try:
        array = np.frombuffer(content, dtype, offset=start)
        return array.reshape(shape, order="F" if fortran_order else "C")
    except ValueError:  # too many axes, or an empty array of too large ones
        raise InputError(f"NumPy has no arrays of shape {shape}") from None


def check_npy(path: Path) -> None:
    """Raise ``InputError`` unless NumPy, which trusts its header, can safely load a ``.npy``."""
    with reading(path, remedy=_REMEDY):
        size = check_plain(path).st_size
        with path.open("rb") as file:
            head = file.read(NPY_HEAD)
    try:
        parse_header(head, size)
    except InputError as error:
        raise InputError(f"{path}: {error}; {_REMEDY}") from None


def parse_header(head: bytes, size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, Fortran order, dtype and start of the data of a ``.npy`` of ``size`` bytes."""
    stream = io.BytesIO(head)
    try:
        major, minor = npy.read_magic(stream)
        read_header = getattr(npy, f"read_array_header_{major}_{minor}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote
            shape, fortran_order, dtype = read_header(stream)
    except Exception:  # NumPy's parser raises a dozen kinds
        raise InputError("not a NumPy array, or one with a damaged header") from None
    if dtype.hasobject:
        raise InputError("holds Python objects, which are never unpickled")
    # A header may hold True for a length. Python integers: a declared shape can't overflow.
    sound = all(type(length) is int and length >= 0 for length in shape) and not dtype.shape
    fits = dtype.itemsize and math.prod(shape) * dtype.itemsize == size - stream.tell()
    if not (sound and fits):
        raise InputError(f"its data do not fit the shape {shape}")
    return shape, fortran_order, dtype, stream.tell()
