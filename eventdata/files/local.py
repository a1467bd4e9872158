"""Files in folders of this machine: atomic durable writes, locks, limits on untrusted files."""

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from filelock import FileLock, Timeout

from eventdata.errors import EventDataError, StoreError, reading, writing
from eventdata.files.base import WORK

MAX_ARRAY_DOCUMENT = 1 << 20  # a zarr.json of an array or a split
MAX_HEADER = 1 << 28  # the store's zarr.json, which has the names of all classes
MAX_SKIPPED = 1 << 30  # all samples of ES-ImageNet with one reason each


def write_whole(documents: Mapping[Path, bytes | bytearray], temporary: Path | None = None) -> None:
    """Write files in their order, each whole or not at all, and durably; make their folders.

    Each is written to a temporary file and synced, then all are renamed in their order, then their
    folders are synced. A power cut before this returns may lose any of them, whatever their order,
    so a file that marks others as complete needs a call of its own.

    Args:
        documents: the bytes of each file.
        temporary: an existing folder on the same disk for the temporary files; by default each
            lies where `part_of` says.
    """
    changed: set[Path] = set()
    if temporary is None:
        parts = {path: part_of(path) for path in documents}
        for part in parts.values():
            changed |= _make_folder(part.parent)
            part.unlink(missing_ok=True)  # left by a kill, or a link that somebody else made
    else:
        parts = {path: temporary / f"{uuid.uuid4().hex}.tmp" for path in documents}
    try:
        with ThreadPoolExecutor(min(16, len(documents) or 1)) as threads:
            list(threads.map(_write_durably, parts.values(), documents.values()))
            for path, part in parts.items():
                changed |= {path.parent, *_make_folder(path.parent)}
                part.replace(path)
            list(threads.map(_sync_folder, changed))
    except BaseException:
        for part in parts.values():
            part.unlink(missing_ok=True)
        raise


def part_of(path: Path) -> Path:
    """Return where `write_whole` writes a file before renaming it."""
    return path.with_name(f"{path.name}.part")


def _write_durably(path: Path, data: bytes | bytearray) -> None:
    with path.open("xb", buffering=0) as file:
        written = 0
        while written < len(data):
            written += file.write(memoryview(data)[written:]) or 0
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> set[Path]:
    """Make a folder and those above it; return the folders that have a new one in them."""
    missing = [*takewhile(lambda one: not one.exists(), (folder, *folder.parents))]
    folder.mkdir(parents=True, exist_ok=True)
    return {one.parent for one in missing}


def _sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable, where the system can sync folders."""
    if os.name == "nt":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems can't
            raise
    finally:
        os.close(number)


@contextlib.contextmanager
def held(lock: Path, busy: EventDataError) -> Iterator[None]:
    """Hold a lock file, which the system releases however the process ends.

    Raises ``busy`` where another process holds it.
    """
    with writing(lock, type(busy)):
        try:
            acquired = FileLock(lock).acquire(timeout=0)
        except Timeout:
            raise busy from None
    with acquired:
        yield


def check_plain(path: Path | str) -> os.stat_result:
    """Return the status of a file, links followed.

    Raises OSError for a missing file, and for a pipe or device, whose opening could wait forever.
    Folders pass: opening one is an OSError already.
    """
    status = os.stat(path)  # noqa: PTH116 str or Path
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise OSError(errno.EINVAL, "a pipe or device, not a plain file", str(path))
    return status


def read_plain(path: Path, most: int | None = None) -> bytes:
    """Return the bytes of a plain file; raise OSError if it has more than ``most``."""
    status = check_plain(path)
    if status.st_size == 0 and stat.S_ISREG(status.st_mode):
        return b""  # it may be a link into /proc, whose reading waits or never ends
    if most is not None and status.st_size > most:
        reason = f"{status.st_size:,} bytes, at most {most:,} are valid"
        raise OSError(errno.EFBIG, reason, str(path))
    return path.read_bytes()


@contextlib.contextmanager
def walking(folder: Path, kind: type[EventDataError]) -> Iterator[None]:
    """Raise ``kind`` where folders are nested more deeply than Python can walk."""
    try:
        yield
    except RecursionError:
        raise kind(f"{folder}: folders in it are nested too deeply; move or remove them") from None


@dataclass(frozen=True)
class LocalFiles:
    """The files of one folder."""

    root: Path

    @property
    def where(self) -> str:
        return str(self.root)

    def read(self, key: str, most: int | None = None) -> bytes | None:
        if most is not None and (self.size(key) or 0) > most:
            raise StoreError(
                f"{self.root / key}: damaged ({self.size(key):,} bytes, at most {most:,} are "
                "valid); convert again with --overwrite"
            )
        with reading(self.root / key, StoreError):
            try:
                return read_plain(self.root / key)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def write(self, documents: Mapping[str, bytes | bytearray]) -> None:
        # .work is not created here: a task that outlives its job must find no place to write.
        with writing(self.where):
            targets = {self.own(key): data for key, data in documents.items()}
            write_whole(targets, self.own(WORK))

    def locate(self, key: str) -> tuple[Path, int, int | None]:
        """Return the path of a file, and which of its bytes: from 0 to the end."""
        return self.root / key, 0, None

    def size(self, key: str) -> int | None:
        try:
            return (self.root / key).stat().st_size
        except OSError:
            return None

    def names(self) -> list[str]:
        with reading(self.root, StoreError, "choose a readable folder"):
            try:
                return sorted(path.name for path in self.root.iterdir())
            except FileNotFoundError:
                return []
            except NotADirectoryError:
                raise StoreError(
                    f"{self.root}: is a file or lies below one; choose a folder"
                ) from None

    def list(self, prefix: str) -> list[str]:
        below = self.root / prefix
        with walking(below, StoreError):
            found = [Path(folder, name) for folder, _, names in os.walk(below) for name in names]
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def total_bytes(self) -> int:
        return sum(self.size(key) or 0 for key in self.list(""))

    def remove(self, prefix: str) -> None:
        target = self.own(prefix)
        with writing(target), walking(target, StoreError):
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    def prepare(self) -> None:
        with writing(self.where):
            for folder in {self.root, *_make_folder(self.own(WORK))}:
                _sync_folder(folder)

    def sync(self) -> None:
        with writing(self.where), walking(self.root, StoreError), ThreadPoolExecutor(16) as threads:
            list(threads.map(_sync_folder, [Path(folder) for folder, *_ in os.walk(self.root)]))

    def own(self, key: str) -> Path:
        """Return the path of a key for writing; StoreError for a link that may lead out of here.

        Only reading follows links, because some tools keep large files elsewhere.
        """
        path = self.root / key
        for part in (path, *path.parents):
            if part == self.root:
                break
            if part.is_symlink():
                raise StoreError(f"{part}: is a link; remove it: nothing is written through links")
        return path
