"""Read the headers of a tar: those of POSIX (ustar and pax), GNU tar and older ones.

A header is a block of 512 bytes; the content of its file follows, filled up to whole blocks. The
files in tars in a tar are listed too. Links, devices and sparse files are refused.
"""

import re
import struct
from collections.abc import Callable, Iterator

from eventdata.errors import InputError
from eventdata.files.archives.index import REMEDY, TAR, Place, is_packed
from eventdata.files.archives.ranges import Window

BLOCK = 512
MAX_EXTENDED = 1 << 20  # bytes of an extended header; they have some hundred
MAX_LABEL_FILE = 1 << 16  # bytes of a .cls or .json
AFTER_END = 1 << 16  # bytes after the end of a tar in which another may begin

# name, size, sum of the bytes, type, magic, prefix of the name
_HEADER = struct.Struct("<100s24x12s12x8sc100x8s80x155s12x")
_OCTAL = re.compile(rb" *([0-7]{0,21})(?:[ \0].*)?", re.DOTALL)
_RECORD = re.compile(rb"([0-9]{1,7}) ([^=]+)=")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_FILES, _FOLDER = (b"0", b"\0", b"7"), b"5"
_PAX, _PAX_OF_ALL, _LONG_NAME, _LONG_LINK = (b"x", b"X"), b"g", b"L", b"K"
_EXTENDED = (*_PAX, _PAX_OF_ALL, _LONG_NAME, _LONG_LINK)


def tar_members(window: Window, label: Callable[[str, bytes], None]) -> Iterator[tuple[str, Place]]:
    """Yield the names and places of the files in a tar, and of those in tars in it.

    ``label`` is called with the name and content of each small .cls and .json file.
    """
    for name, start, size in _files(window, 0, window.size):
        if is_packed(name):
            raise InputError(
                f"member {name!r} is a compressed tar, whose files can't be read by their places; "
                "decompress it"
            )
        if name.endswith((".cls", ".json")) and size <= MAX_LABEL_FILE:
            label(name, window.read(start, size))
        if not name.lower().endswith(".tar"):
            yield name, Place(start, size, size, TAR)
            continue
        for inside, first, count in _files(window, start, start + size):
            yield f"{name[:-4]}/{inside}", Place(first, count, count, TAR)


def _files(window: Window, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Yield the name, first byte and size of each file of the tar in a range of bytes."""
    at = start
    pax: dict[bytes, bytes] = {}
    while True:
        block = window.read(at, min(BLOCK, end - at))
        if at == start and block.startswith(_COMPRESSED):
            raise InputError(
                "a compressed tar, in which no member can be read by its place; decompress it"
            )
        if len(block) < BLOCK:
            raise InputError(f"not a whole zip or tar (cut short); {REMEDY}")
        if block == bytes(BLOCK):
            _check_end(window, at, end)
            return
        name, field, total, kind, magic, prefix = _HEADER.unpack(block)
        if not _is_sum(block, total):
            raise InputError(f"not a whole zip or tar (no header at byte {at:,}); {REMEDY}")
        size, first = _number(field), at + BLOCK
        if kind in _EXTENDED:
            content = _extended(window, first, size, end)
            if kind == _LONG_NAME or kind in _PAX:
                named = {b"path": content.split(b"\0", 1)[0]}
                found = named if kind == _LONG_NAME else _records(content[:size])
                if b"path" in found.keys() & pax.keys():
                    raise InputError(f"two names for one file; {REMEDY}")
                pax |= found
            elif kind == _PAX_OF_ALL and _records(content[:size]).keys() & {b"path", b"size"}:
                raise InputError(f"gives all files one name or size; {REMEDY}")
            at = first + _blocks(size)
            continue
        path = _text(name)
        if magic.startswith(b"ustar\0") and prefix[0]:
            path = f"{_text(prefix)}/{path}"
        if pax:
            path = pax[b"path"].decode("utf-8", "surrogateescape") if b"path" in pax else path
            size = _decimal(pax[b"size"]) if b"size" in pax else size
        is_folder = kind == _FOLDER or (kind == b"\0" and path.endswith("/"))
        if not is_folder:
            sparse = any(key.startswith(b"GNU.sparse") for key in pax)
            if kind not in _FILES or sparse:
                raise InputError(
                    f"member {path!r} is a link, device or sparse; an archive may only hold files"
                )
            if size < 0:
                raise InputError(f"the size of {path!r} is damaged; {REMEDY}")
            if first + size > end:
                raise InputError(f"cut short in {path!r}; {REMEDY}")
            yield path, first, size
        at = first if is_folder else first + _blocks(size)
        pax = {}


def _check_end(window: Window, at: int, end: int) -> None:
    """Raise InputError if another tar follows the end of a tar, which tar does not read either."""
    data = window.read(at, min(AFTER_END, end - at))
    rest = len(data) - len(data.lstrip(b"\0"))
    block = data[rest // BLOCK * BLOCK :][:BLOCK]
    if len(block) == BLOCK and _is_sum(block, block[148:156]):
        raise InputError("another tar follows its end; make one archive of the files of both")


def _is_sum(block: bytes, field: bytes) -> bool:
    """Return whether a header has the sum of its bytes, of signed ones in some old tars."""
    rest = block[:148] + block[156:]
    unsigned, found = 256 + sum(rest), _number(field)
    return found == unsigned or found == unsigned - 256 * sum(byte > 127 for byte in rest)


def _number(field: bytes) -> int:
    """Return a number in octal digits, or the bits of GNU tar for large ones; -1 for others."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    match = _OCTAL.fullmatch(field)
    return int(match[1] or b"0", 8) if match else -1


def _decimal(field: bytes) -> int:
    return int(field) if re.fullmatch(rb"[0-9]{1,18}", field) else -1


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _extended(window: Window, start: int, size: int, end: int) -> bytes:
    """Return the content of an extended header, in whole blocks."""
    if not 0 <= size <= MAX_EXTENDED:
        raise InputError(f"an extended header of {size:,} bytes; {REMEDY}")
    if start + _blocks(size) > end:
        raise InputError(f"cut short; {REMEDY}")
    return window.read(start, _blocks(size))


def _records(content: bytes) -> dict[bytes, bytes]:
    """Return the records ``length key=value`` of an extended header of POSIX."""
    found, at = {}, 0
    while at < len(content) and content[at]:
        match = _RECORD.match(content, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(content) or content[end - 1] != 10:
            raise InputError(f"an extended header is damaged; {REMEDY}")
        found[match[2]] = content[match.end() : end - 1]
        at = end
    return found
