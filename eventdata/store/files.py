"""Where a store's files lie: a folder, or anything fsspec reaches (``s3://...``, ``memory://...``).

Keys are paths inside the store with forward slashes. A write appears whole or not at all: in a
folder by a temporary file in ``.work``, synced and renamed; an object store does it by itself.
"""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fsspec.core import url_to_fs

from eventdata.errors import StoreError
from eventdata.store.layout import WORK


class Files(Protocol):
    """Bytes under keys."""

    @property
    def where(self) -> str:
        """The store's place, for messages."""

    def read(self, key: str) -> bytes | None:
        """The bytes under a key, None where there is none."""

    def write(self, documents: Mapping[str, bytes | bytearray]) -> None:
        """Put bytes under keys, in their order, each whole or not at all, and durably.

        Several at once, because waiting for the disk once costs less than once a file.
        """

    def size(self, key: str) -> int | None:
        """Bytes under a key, None where there is none."""

    def names(self) -> list[str]:
        """What lies at the top of the store, sorted; empty where there is no store."""

    def list(self, prefix: str) -> list[str]:
        """All keys below a folder, sorted."""

    def total_bytes(self) -> int:
        """Bytes of all files."""

    def remove(self, prefix: str) -> None:
        """Remove a key or all below it; nothing happens where there is none."""

    def prepare(self) -> None:
        """Make ready for writing: the folder and its ``.work``."""


def open_files(place: str | os.PathLike[str]) -> Files:
    """The files of a store at a path or URL."""
    text = os.fspath(place)
    # Absolute, because the program may change its folder while the store is open.
    return RemoteFiles(text) if "://" in text else LocalFiles(Path(text).absolute())


@contextlib.contextmanager
def told_plainly(where: str) -> Iterator[None]:
    """Turn an OSError of writing into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space and call again: what is done is kept"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "choose a folder that you may write to"
        else:
            remedy = "see to that and call again: what is done is kept"
        reason = error.strerror or str(error)
        raise StoreError(f"{where}: can't be written ({reason}); {remedy}") from error


def _write_durably(path: Path, data: bytes | bytearray) -> None:
    with path.open("xb", buffering=0) as file:
        written = 0
        while written < len(data):
            written += file.write(memoryview(data)[written:]) or 0
        os.fsync(file.fileno())


@dataclass(frozen=True)
class LocalFiles:
    """A store in a folder."""

    root: Path

    @property
    def where(self) -> str:
        """The folder."""
        return str(self.root)

    def read(self, key: str) -> bytes | None:
        """See `Files.read`."""
        try:
            return (self.root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise StoreError(
                f"{self.root / key}: can't be read ({error.strerror}); see to its permissions"
            ) from error

    def write(self, documents: Mapping[str, bytes | bytearray]) -> None:
        """See `Files.write`."""
        # .work is not made here: a worker that outlives its conversion must find no place to write.
        temporary = {key: self.root / WORK / f"{uuid.uuid4().hex}.tmp" for key in documents}
        with told_plainly(self.where):
            try:
                with ThreadPoolExecutor(min(16, len(documents) or 1)) as threads:
                    list(threads.map(_write_durably, temporary.values(), documents.values()))
                for key, path in temporary.items():
                    target = self.root / key
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.replace(target)
            except BaseException:
                for path in temporary.values():
                    path.unlink(missing_ok=True)
                raise

    def size(self, key: str) -> int | None:
        """See `Files.size`."""
        try:
            return (self.root / key).stat().st_size
        except OSError:
            return None

    def names(self) -> list[str]:
        """See `Files.names`."""
        try:
            return sorted(path.name for path in self.root.iterdir())
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            raise StoreError(
                f"{self.root}: is a file or lies below one, so no store; choose another place"
            ) from None
        except OSError as error:
            raise StoreError(
                f"{self.root}: can't be read ({error.strerror}); choose a folder that you may use"
            ) from None

    def list(self, prefix: str) -> list[str]:
        """See `Files.list`."""
        below = self.root / prefix
        found = (Path(folder, name) for folder, _, names in os.walk(below) for name in names)
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def total_bytes(self) -> int:
        """See `Files.total_bytes`."""
        return sum(self.size(key) or 0 for key in self.list(""))

    def remove(self, prefix: str) -> None:
        """See `Files.remove`."""
        target = self.root / prefix
        with told_plainly(str(target)):
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    def prepare(self) -> None:
        """See `Files.prepare`."""
        with told_plainly(self.where):
            (self.root / WORK).mkdir(parents=True, exist_ok=True)


class RemoteFiles:
    """A store that fsspec reaches by a URL."""

    def __init__(self, url: str) -> None:
        self.where = url.rstrip("/")
        with self._told("reached"):
            self._system, self._root = url_to_fs(self.where)

    def __reduce__(self) -> tuple[Any, ...]:  # a connection does not travel to another process
        return RemoteFiles, (self.where,)

    @contextlib.contextmanager
    def _told(self, action: str, key: str = "") -> Iterator[None]:
        """Turn what fsspec and its many libraries raise into one sentence."""
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:
            place = f"{self.where}/{key}" if key else self.where
            reason = " ".join(str(error).split()) or type(error).__name__
            raise StoreError(
                f"{place}: can't be {action} ({reason}); see to address, credentials and network"
            ) from error

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else str(self._root)

    def read(self, key: str) -> bytes | None:
        """See `Files.read`."""
        try:
            with self._told("read", key):
                return bytes(self._system.cat_file(self._path(key)))
        except FileNotFoundError:
            return None

    def write(self, documents: Mapping[str, bytes | bytearray]) -> None:
        """See `Files.write`."""
        for key, data in documents.items():
            with self._told("written", key):
                self._system.pipe_file(self._path(key), bytes(data))

    def size(self, key: str) -> int | None:
        """See `Files.size`."""
        try:
            with self._told("read", key):
                return int(self._system.size(self._path(key)))
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """See `Files.names`."""
        try:
            with self._told("read"):
                self._system.invalidate_cache()
                paths = self._system.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in paths)

    def list(self, prefix: str) -> list[str]:
        """See `Files.list`."""
        start = len(str(self._root)) + 1
        with self._told("read", prefix):
            self._system.invalidate_cache()
            return sorted(path[start:] for path in self._system.find(self._path(prefix)))

    def total_bytes(self) -> int:
        """See `Files.total_bytes`."""
        with self._told("read"):
            self._system.invalidate_cache()
            return int(self._system.du(self._root))

    def remove(self, prefix: str) -> None:
        """See `Files.remove`."""
        with self._told("removed", prefix), contextlib.suppress(FileNotFoundError):
            self._system.invalidate_cache()
            self._system.rm(self._path(prefix), recursive=True)

    def prepare(self) -> None:
        """See `Files.prepare`; objects need no folder."""
