"""Unpack downloaded archives and trust nothing in them.

This module reads zip and tar (plain, gz, bz2, xz), also in parts such as NAME.zip.001 or
NAME.tar.part-aa. Rar needs another program. 7-Zip (`7zz` or `7z`, on Debian with the package
7zip-rar) also reads archives in volumes such as NAME.part01.rar; `bsdtar` reads single archives.

Every name must stay inside the folder. Links, devices and encrypted members are refused. The
declared sizes are checked before anything is written, and no member may write more than it
declares. A file is written under another name and renamed, so that an existing file is always
complete, and a second run resumes.
"""

import io
import itertools
import os
import re
import shutil
import stat
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from typing import IO, cast

from eventdata.errors import EventDataError, InputError
from eventdata.files.local import LocalFiles, check_plain
from eventdata.raw.listing import safe_relative

_PART = re.compile(r"(?P<name>.+?)(?P<mark>\.|[.-]part-?)(?P<number>\d{2,3}|[a-z]{2})")
_VOLUME = re.compile(r"(?P<name>.+)\.part(?P<number>\d+)\.rar", re.IGNORECASE)
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Upper bounds of a valid archive: bytes of one file and of all files."""

    file_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def group_parts(paths: Sequence[Path]) -> list[list[Path]]:
    """Return the files of each archive, parts in order; raise InputError if one is missing."""
    groups: dict[Path, list[tuple[str, Path]]] = {}
    for path in paths:
        match = _VOLUME.fullmatch(path.name) or _PART.fullmatch(path.name)
        name = path.with_name(match["name"]) if match else path
        groups.setdefault(name, []).append((match["number"] if match else "", path))
    for name, group in groups.items():
        numbers = [number for number, _ in sorted(group)]
        if numbers[0].isdecimal():
            first = 0 if int(numbers[0]) == 0 else 1
            sound = [int(number) for number in numbers] == [*range(first, first + len(numbers))]
        else:
            letters = map("".join, itertools.product("abcdefghijklmnopqrstuvwxyz", repeat=2))
            sound = len(numbers) == 1 or numbers == [*itertools.islice(letters, len(numbers))]
        if not sound:
            raise InputError(
                f"{name}: parts {', '.join(numbers)} are not all; download the missing parts"
            )
    return [[path for _, path in sorted(group)] for group in groups.values()]


def unpack(parts: Sequence[Path], folder: Path, limits: Limits) -> int:
    """Unpack one archive into a folder and return its number of files.

    An archive inside the archive is unpacked into its own folder, but not one inside that. Raises
    InputError if the archive is damaged or unsafe.
    """
    for part in parts:
        try:
            check_plain(part)
        except OSError as error:
            raise InputError(f"{part}: can't be read ({error.strerror})") from None
    folder.mkdir(parents=True, exist_ok=True)
    if parts[0].suffix.lower() == ".rar":
        return _unpack_rar(parts[0], folder, limits)
    count = total = 0
    try:
        with ExitStack() as stack:
            stream = stack.enter_context(_joined(parts))
            for member in _members(stream, nested=True):
                total = _check(member.name, member.size, total, limits)
                _write(member, _own(folder, member.name))
                count += 1
    except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        if isinstance(error, EventDataError):
            raise InputError(f"{parts[0]}: {error}") from None
        raise InputError(f"{parts[0]}: can't be unpacked ({error})") from error
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError) as error:
        raise InputError(f"{parts[0]}: damaged ({error}); download it again") from error
    return count


class _Joined(io.RawIOBase):
    """Several files, read as one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [path.open("rb") for path in paths]
        sizes = [os.fstat(file.fileno()).st_size for file in self._files]
        self._ends = list(itertools.accumulate(sizes))
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._ends[-1]}[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        for file, start, end in zip(self._files, [0, *self._ends], self._ends, strict=False):
            if self._place < end:
                file.seek(self._place - start)
                data = file.read(min(len(buffer), end - self._place))
                buffer[: len(data)] = data
                self._place += len(data)
                return len(data)
        return 0

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def _joined(paths: Sequence[Path]) -> IO[bytes]:
    if len(paths) == 1:
        return paths[0].open("rb")
    return cast(IO[bytes], io.BufferedReader(_Joined(paths), _CHUNK))


def _members(stream: IO[bytes], *, nested: bool) -> Iterator[Member]:
    """Yield the files of a zip or tar in order; read each before the next."""
    magic = stream.read(4)  # zipfile's own test takes a tar of npz files for a zip
    stream.seek(0)
    if magic == b"PK\x03\x04":
        yield from _zip_members(stream)
        return
    with tarfile.open(fileobj=stream, mode="r:*") as archive:
        for name, info in _tar_files(archive):
            inner = cast(IO[bytes], archive.extractfile(info))
            if nested and name.endswith(".tar"):
                prefix = name.removesuffix(".tar")
                with tarfile.open(fileobj=inner, mode="r:") as other:
                    for inside, entry in _tar_files(other):
                        opened = cast(IO[bytes], other.extractfile(entry))
                        yield Member(f"{prefix}/{inside}", entry.size, lambda f=opened: f)  # type: ignore[misc]
            else:
                yield Member(name, info.size, lambda f=inner: f)  # type: ignore[misc]


def _zip_members(stream: IO[bytes]) -> Iterator[Member]:
    with zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            if info.filename.endswith("/"):
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                raise InputError(
                    f"member {info.filename!r} is a link; an archive may only hold files"
                )
            if info.flag_bits & 1:
                raise InputError(f"member {info.filename!r} is encrypted")
            yield Member(info.filename, info.file_size, lambda i=info: archive.open(i))  # type: ignore[misc]


def _tar_files(archive: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # a million entries would fill the memory
        if info.isdir():
            continue
        if not info.isreg():
            raise InputError(
                f"member {info.name!r} is a link or device; an archive may only hold files"
            )
        yield info.name.removeprefix("./"), info
    # A tar ends with a block of zeros, but tarfile accepts the end of the file instead.
    stream = cast(IO[bytes], archive.fileobj)
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise InputError("the archive is cut short; download it again")


def _check(name: str, size: int, total: int, limits: Limits) -> int:
    """Return the new total; raise InputError if the member must not be unpacked."""
    if not safe_relative(name):
        raise InputError(f"member {name!r} leaves the folder")
    if size > limits.file_bytes:
        raise InputError(f"member {name!r} declares {size:,} bytes, more than a valid file has")
    if total + size > limits.total_bytes:
        raise InputError(f"the archive declares more than {limits.total_bytes:,} bytes in all")
    return total + size


def _own(folder: Path, name: str) -> Path:
    """Return a member's target; raise an error if a link in the folder leads outside."""
    target = folder / name
    LocalFiles(folder).own(str(target.parent.relative_to(folder)))
    return target


def _write(member: Member, target: Path) -> None:
    if target.is_file() and target.stat().st_size == member.size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.part")
    partial.unlink(missing_ok=True)  # a killed run may leave it; or it is a link
    left = member.size
    try:
        with member.open() as source, partial.open("xb") as file:
            while left >= 0 and (data := source.read(min(_CHUNK, left + 1))):
                file.write(data)
                left -= len(data)
        if left:
            raise InputError(f"member {member.name!r} does not have the size that it declares")
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(target)


def rar_program(*, volumes: bool) -> str | None:
    """Return an installed program that reads rar, with volumes if asked."""
    for name in ("7zz", "7z", "bsdtar"):
        path = shutil.which(name)
        if path is None or (volumes and name == "bsdtar"):
            continue
        # Some systems ship 7-Zip without rar support; it then finds a zip inside.
        if name == "bsdtar" or "Rar5" in "".join(_output([path, "i"], Path(path))):
            return path
    return None


def _unpack_rar(archive: Path, folder: Path, limits: Limits) -> int:
    """Unpack with 7-Zip or bsdtar, after checking the listing."""
    is_volume = _VOLUME.fullmatch(archive.name) is not None
    program = rar_program(volumes=is_volume)
    if program is None:
        others = "" if is_volume else " or bsdtar (package libarchive-tools)"
        raise InputError(
            f"{archive}: rar needs 7-Zip that reads it (7zz or 7z; packages 7zip and 7zip-rar)"
            f"{others}; install that, or unpack it yourself and pass the folder"
        )
    with archive.open("rb") as file:
        magic = file.read(7)
    if not magic.startswith(b"Rar!\x1a\x07"):
        raise InputError(f"{archive}: not a rar archive; download it again")
    seven = "7z" in Path(program).name
    kind = "-trar5" if magic[6:] == b"\x01" else "-trar"
    listing = ["l", kind, "-slt", "-ba"] if seven else ["-tvf"]
    count = total = 0
    newest: tuple[int, Path] | None = None
    lines = _output([program, *listing, str(archive)], archive)
    for name, size in _seven_zip_files(lines) if seven else _bsdtar_files(lines):
        try:
            total = _check(name, size, total, limits)
            target = _own(folder, name)
        except EventDataError as error:
            raise InputError(f"{archive}: {error}") from None
        count += 1
        if target.is_file():
            status = target.stat()
            if status.st_size != size:
                target.unlink()
            elif newest is None or status.st_ctime_ns > newest[0]:
                newest = status.st_ctime_ns, target
    if newest is not None:
        newest[1].unlink()  # an interrupted run may have left it with its full size
    extract = ["x", kind, "-y", "-aos", "-bd", f"-o{folder}"] if seven else ["-xkf"]
    place = [] if seven else ["-C", str(folder)]
    for _ in _output([program, *extract, str(archive), *place], archive):
        pass
    return count


def _output(command: Sequence[str], archive: Path) -> Iterator[str]:
    """Return the lines that a program prints; raise InputError if it fails."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,  # a request for a password meets an end of file
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="surrogateescape",
    ) as process:
        last = ""
        for line in process.stdout or ():
            last = line.strip() or last
            yield line.rstrip("\n")
    if process.returncode:
        raise InputError(
            f"{archive}: {Path(command[0]).name} fails on it ({last}); download it again"
        )


def _seven_zip_files(lines: Iterator[str]) -> Iterator[tuple[str, int]]:
    """Yield name and size of each file in the output of `7z l -slt`."""
    entry: dict[str, str] = {}
    for line in itertools.chain(lines, ["Path = "]):
        key, _, value = line.partition(" = ")
        if key == "Path" and "Path" in entry:
            linked = any(entry.get(kind) for kind in ("Symbolic Link", "Hard Link", "Copy Link"))
            if linked or " l" in entry.get("Attributes", ""):
                raise InputError(
                    f"member {entry['Path']!r} is a link; an archive may only hold files"
                )
            if entry.get("Folder") != "+":
                yield entry["Path"], int(entry.get("Size") or 0)
            entry = {}
        entry[key] = value


def _bsdtar_files(lines: Iterator[str]) -> Iterator[tuple[str, int]]:
    """Yield name and size of each file in the output of `bsdtar -tv`."""
    for line in lines:
        fields = line.split(maxsplit=8)
        if line.startswith("d"):
            continue
        if not line.startswith("-") or len(fields) != 9:
            raise InputError(f"{line!r} is not a file; an archive may only hold files")
        yield fields[8], int(fields[4])
