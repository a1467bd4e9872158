"""Read arrays from a published ``.npz`` without trusting it.

The zip's directory is read by zipfile and arrays' headers by NumPy; the members themselves are
inflated by ISA-L in one call each, bounded by their declared size. Nothing is ever unpickled.
"""

import io
import math
import os
import re
import struct
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from isal import isal_zlib
from numpy.lib import format as npy
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.plain import check_plain

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_PLAIN_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '\|u1', 'fortran_order': False, "
    rb"'shape': \(([0-9]{1,15}(?:, [0-9]{1,15})*)\), \} *\n",
    re.DOTALL,
)
_NPY_HEAD = 1 << 14  # more than NumPy takes for a header
_REMEDY = "get or generate the file again, or leave it out with --on-error skip"


def read_npz(path: Path, keys: Sequence[str], max_bytes: int) -> list[NDArray[np.uint8]]:
    """The uint8 arrays under ``keys``, read-only.

    ``max_bytes`` bounds the file and each array, so that a damaged header can't ask for more
    memory than a sound sample needs. InputError names the file and what is wrong with it.
    """
    try:
        check_plain(path)
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            # readall takes a buffer of the file's size, so the size is checked first.
            data = file.readall() if status.st_size <= 2 * max_bytes else None
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); {_REMEDY}") from None
    try:
        if data is None:
            raise InputError(
                f"the file is larger than the {2 * max_bytes:,} bytes a sample can have"
            )
        return parse_npz(data, keys, max_bytes)
    except InputError as error:
        raise InputError(f"{path}: {error}; {_REMEDY}") from None


def parse_npz(data: bytes, keys: Sequence[str], max_bytes: int) -> list[NDArray[np.uint8]]:
    """`read_npz` on the bytes of the file; errors say what is wrong, not where."""
    members = list_members(data)
    arrays = []
    for key in keys:
        info = members.get(f"{key}.npy")
        if info is None:
            raise InputError(f"no array {key!r} in it (it has: {', '.join(members) or 'nothing'})")
        if info.file_size > max_bytes:
            raise InputError(
                f"array {key!r} declares {info.file_size:,} bytes, a sample has at most "
                f"{max_bytes:,}"
            )
        arrays.append(_parse_npy(inflate(data, info), key))
    return arrays


def list_members(data: bytes) -> dict[str, zipfile.ZipInfo]:
    """What a zip file holds, by name."""
    try:
        return {info.filename: info for info in zipfile.ZipFile(io.BytesIO(data)).infolist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, OSError):
        raise InputError("not a whole zip file (truncated, or something else)") from None


def inflate(data: bytes, info: zipfile.ZipInfo) -> bytes:
    """One member of a zip file, of the size that it declares."""
    damaged = InputError(f"member {info.filename!r} is damaged")
    try:
        magic, name_length, extra_length = _LOCAL_HEADER.unpack_from(data, info.header_offset)
    except struct.error:
        raise damaged from None
    start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    packed = data[start : start + info.compress_size]
    if magic != b"PK\x03\x04" or len(packed) != info.compress_size or info.flag_bits & 1:
        raise damaged
    if info.compress_type == zipfile.ZIP_STORED:
        content = packed
    elif info.compress_type == zipfile.ZIP_DEFLATED:
        try:
            # One byte more than declared shows a member that inflates to more than it says.
            content = isal_zlib.decompressobj(-15).decompress(packed, info.file_size + 1)
        except isal_zlib.error:  # type: ignore[misc]  # its stub forgets that it is an exception
            raise damaged from None
    else:
        raise InputError(f"member {info.filename!r} is compressed by an unknown method")
    if len(content) != info.file_size or isal_zlib.crc32(content) != info.CRC:
        raise damaged
    return content


def _parse_npy(content: bytes, key: str) -> NDArray[np.uint8]:
    shape, order, start = _parse_plain_header(content, key)
    # A header may hold True for a length. Python integers: a declared shape can't overflow.
    sound = all(type(length) is int and length >= 0 for length in shape)
    if not sound or math.prod(shape) != len(content) - start:
        raise InputError(f"array {key!r} declares shape {shape}, its data do not fit that")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape, order=order)


def _parse_plain_header(content: bytes, key: str) -> tuple[tuple[int, ...], Literal["C", "F"], int]:
    """Shape, order and start of the data of a ``.npy`` of uint8."""
    plain = _PLAIN_HEADER.match(content)  # as NumPy writes it: a tenth of the time
    if plain is not None and plain.end() == 10 + int.from_bytes(content[8:10], "little"):
        return tuple(int(length) for length in plain[1].split(b",")), "C", plain.end()
    try:
        shape, fortran_order, dtype, start = parse_npy_header(content)
    except InputError as error:
        raise InputError(f"array {key!r}: {error}") from None
    if dtype != np.uint8:
        raise InputError(f"array {key!r} holds {dtype}, not uint8")
    return shape, "F" if fortran_order else "C", start


def check_npy(path: Path) -> None:
    """Whether a ``.npy`` file can be given to NumPy, which trusts its header; else InputError."""
    try:
        size = check_plain(path).st_size
        with path.open("rb") as file:
            header = parse_npy_header(file.read(_NPY_HEAD))
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); {_REMEDY}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}; {_REMEDY}") from None
    if math.prod(header.shape) * header.dtype.itemsize != size - header.start:
        raise InputError(f"{path}: declares shape {header.shape}, its data do not fit; {_REMEDY}")


class NpyHeader(NamedTuple):
    """What the header of a ``.npy`` says, not checked against its data, and where these begin."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]
    start: int


def parse_npy_header(content: bytes) -> NpyHeader:
    """The header of a ``.npy``; InputError where it is damaged, or of Python objects."""
    stream = io.BytesIO(content)
    try:
        read_header = {
            (1, 0): npy.read_array_header_1_0,
            (2, 0): npy.read_array_header_2_0,
        }[npy.read_magic(stream)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers as Python 2 wrote them
            header = NpyHeader(*read_header(stream), stream.tell())
    except Exception:  # its parser raises a dozen kinds
        raise InputError("not a NumPy array, or one with a damaged header") from None
    if header.dtype.hasobject:
        raise InputError("holds Python objects, which are never unpickled")
    return header
