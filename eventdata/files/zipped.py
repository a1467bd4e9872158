"""The files of a store in one zip archive, read where they lie, never unpacked or written.

Zarr's ZipStore writes such archives, as does ``zip -0 -r``. Members must be stored without
compression, so that any range of them can be read: the chunks of a store are compressed already.
Nothing in an archive is trusted: names are only keys, and sizes are checked against the archive.
"""

import os
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from eventdata.errors import StoreError, reading
from eventdata.files.local import check_plain

SUFFIX = ".zip"
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and of extra fields


@dataclass(frozen=True)
class ZipFiles:
    """The files of one archive, or of its only folder if everything in it lies in one."""

    root: Path

    @property
    def where(self) -> str:
        return str(self.root)

    @cached_property
    def _members(self) -> dict[str, zipfile.ZipInfo]:
        with reading(self.root, StoreError):
            check_plain(self.root)
            try:
                with zipfile.ZipFile(self.root) as archive:
                    found = {one.filename: one for one in archive.infolist() if not one.is_dir()}
            except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
                raise StoreError(f"{self.root}: not a whole zip file ({error})") from None
        tops = {name.partition("/")[0] for name in found}
        if len(tops) == 1 and all("/" in name for name in found):
            skip = len(tops.pop()) + 1
            found = {name[skip:]: one for name, one in found.items()}
        return found

    def locate(self, key: str) -> tuple[Path, int, int]:
        """Return the archive, and where in it the bytes of a file begin and how many they are.

        Raises:
            FileNotFoundError: there is no such file.
            StoreError: its bytes are compressed or encrypted, or not in the archive.
        """
        member = self._members.get(key)
        if member is None:
            raise FileNotFoundError(2, "no such file in the archive", f"{self.root}/{key}")
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise StoreError(
                f"{self.root}: {key} is compressed or encrypted; make the archive without "
                "compression, such as by `zip -0 -r`, or unpack it"
            )
        with reading(self.root, StoreError), self.root.open("rb") as file:
            file.seek(member.header_offset)
            header = file.read(_LOCAL_HEADER.size)
            size = os.fstat(file.fileno()).st_size
        sound = len(header) == _LOCAL_HEADER.size and header.startswith(b"PK\3\4")
        start = member.header_offset + len(header) + sum(_LOCAL_HEADER.unpack(header)[1:]) * sound
        if not sound or start + member.file_size > size or member.compress_size != member.file_size:
            raise StoreError(f"{self.root}: {key} is not where the archive says; get it again")
        return self.root, start, member.file_size

    def read(self, key: str, most: int | None = None) -> bytes | None:
        try:
            path, start, size = self.locate(key)
        except FileNotFoundError:
            return None
        if most is not None and size > most:
            raise StoreError(
                f"{self.root}: {key} is damaged ({size:,} bytes, at most {most:,} are valid)"
            )
        with reading(self.root, StoreError), path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    def size(self, key: str) -> int | None:
        member = self._members.get(key)
        return None if member is None else member.file_size

    def names(self) -> list[str]:
        return sorted({key.partition("/")[0] for key in self._members})

    def list(self, prefix: str) -> list[str]:
        folder = f"{prefix}/" if prefix else ""
        return sorted(key for key in self._members if key.startswith(folder))

    def total_bytes(self) -> int:
        return sum(member.file_size for member in self._members.values())

    def write(self, documents: Mapping[str, bytes | bytearray]) -> NoReturn:
        self._refuse()

    def remove(self, prefix: str) -> NoReturn:
        self._refuse()

    def prepare(self) -> NoReturn:
        self._refuse()

    def sync(self) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise StoreError(f"{self.root}: a zipped store is only read; choose a folder to write to")
