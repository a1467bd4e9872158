"""Read the directory of a zip, also of more than 4 GB or 65,535 members (zip64).

    | members ... | directory | end of zip64 | where that is | end |

The directory lies before the end of the file, so an archive that is cut short has none.
"""

import stat
import struct
import zipfile
from collections.abc import Iterator

from eventdata.errors import InputError
from eventdata.files.archives.index import REMEDY, Place
from eventdata.files.archives.ranges import Window

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
MAX_DIRECTORY = 1 << 32  # bytes; 2^24 members have some 2 GB

_END = struct.Struct("<4s4xHHLLH")  # entries (on this disk, in all), bytes, start, comment
_LOCATOR = struct.Struct("<4s4xQ4x")  # start of the end of zip64
_END_64 = struct.Struct("<4s20xQQQQ")
# flags, method, checksum, packed and whole bytes, lengths, kind of file, start
_ENTRY = struct.Struct("<4s4xHH4xLLLHHHHxxLL")
_WHOLE, _WHOLE_64 = 0xFFFF, 0xFFFFFFFF  # in place of numbers that zip64 has
_ENCRYPTED, _UTF_8 = 1, 0x800


def zip_members(window: Window) -> Iterator[tuple[str, Place]]:
    """Yield the names and places of the files in a zip."""
    at, end, entries, shift = _directory(window)
    count = 0
    while at < end:
        head = window.read(at, _ENTRY.size)
        if len(head) < _ENTRY.size or not head.startswith(b"PK\1\2"):
            raise _damaged("an entry of its directory is damaged")
        _, flags, method, checksum, packed, size, *lengths, _, outer, start = _ENTRY.unpack(head)
        rest = window.read(at + _ENTRY.size, sum(lengths))
        if len(rest) < sum(lengths):
            raise _damaged("its directory is cut short")
        at += _ENTRY.size + len(rest)
        count += 1
        try:
            name = rest[: lengths[0]].decode("utf-8")  # zip of Linux and macOS does not flag it
        except UnicodeDecodeError:
            if flags & _UTF_8:
                raise _damaged("a name is not UTF-8") from None
            name = rest[: lengths[0]].decode("cp437")
        if _WHOLE_64 in (packed, size, start):
            extra = rest[lengths[0] : lengths[0] + lengths[1]]
            size, packed, start = _large(extra, (size, packed, start), name)
        if name.endswith("/"):
            continue
        if stat.S_ISLNK(outer >> 16):
            raise InputError(f"member {name!r} is a link; an archive may only hold files")
        if flags & _ENCRYPTED:
            raise InputError(f"member {name!r} is encrypted; unpack the archive yourself")
        if method not in (STORED, DEFLATED):
            raise InputError(
                f"member {name!r} is compressed by another method than deflate; make the archive "
                "again with deflate"
            )
        start += shift
        if start + packed > window.size or (method == STORED and packed != size):
            raise InputError(f"member {name!r} is not where the archive says; {REMEDY}")
        yield name, Place(start, packed, size, method << 32 | checksum)
    if at != end or count & _WHOLE != entries & _WHOLE:
        raise _damaged(f"{count:,} entries in its directory, not {entries:,}")


def _directory(window: Window) -> tuple[int, int, int, int]:
    """Return first byte and end of the directory, its entries, and bytes before the archive."""
    tail = max(window.size - _END.size - _WHOLE, 0)
    data = window.read(tail, window.size - tail)
    found = data.rfind(b"PK\5\6")
    if found < 0 or len(data) - found < _END.size:
        raise _damaged("its end is missing")
    end = tail + found
    _, here, entries, size, start, comment = _END.unpack_from(data, found)
    if len(data) - found < _END.size + comment:
        raise _damaged("its comment is cut short")
    locator = window.read(end - _LOCATOR.size, _LOCATOR.size) if end >= _LOCATOR.size else b""
    if locator.startswith(b"PK\6\7"):
        # The end of zip64 is where the locator says, or before it if bytes precede the archive.
        for place in (_LOCATOR.unpack(locator)[1], end - _LOCATOR.size - _END_64.size):
            head = window.read(place, _END_64.size) if 0 <= place < window.size else b""
            if len(head) == _END_64.size and head.startswith(b"PK\6\6"):
                _, here, entries, size, start = _END_64.unpack(head)
                end = place
                break
        else:
            raise _damaged("its end is missing")
    if here != entries:
        raise InputError("a part of a zip in several files; join them into one archive")
    shift = end - size - start
    if shift < 0 or size > MAX_DIRECTORY:
        raise _damaged("its directory lies outside it")
    return end - size, end, entries, shift


def _large(extra: bytes, numbers: tuple[int, ...], name: str) -> list[int]:
    """Return numbers of an entry, those that are too large for it from its zip64 field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        at += 4
        if kind == 1:
            wanted = sum(number == _WHOLE_64 for number in numbers)
            field = extra[at : at + length]
            if len(field) >= 8 * wanted:
                found = iter(struct.unpack_from(f"<{wanted}Q", field))
                return [next(found) if one == _WHOLE_64 else one for one in numbers]
        at += length
    raise InputError(f"the size or place of member {name!r} is missing; {REMEDY}")


def _damaged(fault: str) -> InputError:
    return InputError(f"not a whole zip ({fault}); {REMEDY}")
