"""Where a store's files lie: a folder, or anything fsspec reaches (``s3://...``, ``memory://...``).

Keys are paths inside the store with forward slashes. A write appears whole or not at all: in a
folder by a temporary file in ``.work``, synced and renamed; an object store does it by itself.
"""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from eventdata.errors import EventDataError, StoreError
from eventdata.files.plain import read_plain, told_if_too_deep
from eventdata.files.remote import Remote, is_url, path_or_url
from eventdata.store.layout import WORK


class Output(Protocol):
    """Bytes under keys, for who makes a part of a store."""

    @property
    def where(self) -> str:
        """The store's place, for messages."""

    def read(self, key: str) -> bytes | None:
        """The bytes under a key, None where there is none."""

    def write(self, documents: Mapping[str, bytes | bytearray]) -> None:
        """Put bytes under keys, in their order, each whole or not at all, and durably.

        Several at once, because waiting for the disk once costs less than once a file.
        """


class Files(Output, Protocol):
    """Bytes under keys."""

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
    text = path_or_url(place)
    # Absolute, because the program may change its folder while the store is open.
    return RemoteFiles(text) if is_url(text) else LocalFiles(Path(text).absolute())


class _Behind:
    def __init__(self, files: Files, thread: Executor) -> None:
        self.where = files.where
        self._files, self._thread = files, thread
        self._last: Future[None] | None = None

    def read(self, key: str) -> bytes | None:
        self.settle()  # who looks before writing means what he then writes upon
        return self._files.read(key)

    def write(self, documents: Mapping[str, bytes | bytearray]) -> None:
        self.settle()
        self._last = self._thread.submit(self._files.write, documents)

    def settle(self) -> None:
        if self._last is not None:
            self._last.result()


@contextlib.contextmanager
def write_behind(files: Files) -> Iterator[Output]:
    """Where a thread writes what was given last while the next is made; all is written at the end.

    What is given is not to be changed afterwards. An error of writing is raised by the write after
    it, or at the end.
    """
    with ThreadPoolExecutor(1, "eventdata-write") as thread:
        output = _Behind(files, thread)
        yield output
        output.settle()


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


@contextlib.contextmanager
def held(lock: Path, busy: EventDataError) -> Iterator[None]:
    """Hold a lock file; raises ``busy`` where another process does.

    The system lets go of it whatever way the process ends.
    """
    lock_file = FileLock(lock)
    try:
        lock_file.acquire(timeout=0)
    except Timeout:
        raise busy from None
    try:
        yield
    finally:
        lock_file.release()


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
            return read_plain(self.root / key)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise StoreError(
                f"{self.root / key}: can't be read ({error.strerror}); see to its permissions"
            ) from error

    def write(self, documents: Mapping[str, bytes | bytearray]) -> None:
        """See `Files.write`."""
        # .work is not made here: a worker that outlives its conversion must find no place to write.
        temporary = {key: self.own(f"{WORK}/{uuid.uuid4().hex}.tmp") for key in documents}
        targets = {key: self.own(key) for key in documents}
        with told_plainly(self.where):
            try:
                with ThreadPoolExecutor(min(16, len(documents) or 1)) as threads:
                    list(threads.map(_write_durably, temporary.values(), documents.values()))
                for key, path in temporary.items():
                    if not key.startswith(f"{WORK}/"):
                        targets[key].parent.mkdir(parents=True, exist_ok=True)
                    path.replace(targets[key])
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
        with told_if_too_deep(below, StoreError):
            found = [Path(folder, name) for folder, _, names in os.walk(below) for name in names]
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def total_bytes(self) -> int:
        """See `Files.total_bytes`."""
        return sum(self.size(key) or 0 for key in self.list(""))

    def remove(self, prefix: str) -> None:
        """See `Files.remove`."""
        target = self.own(prefix)
        with told_plainly(str(target)), told_if_too_deep(target, StoreError):
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    def prepare(self) -> None:
        """See `Files.prepare`."""
        with told_plainly(self.where):
            self.own(WORK).mkdir(parents=True, exist_ok=True)

    def own(self, key: str) -> Path:
        """Where a key lies, for writing.

        StoreError where a link would lead out of the store. (Reading follows links: there are
        tools that keep large files elsewhere.)
        """
        path = self.root / key
        for part in (path, *path.parents):
            if part == self.root:
                break
            if part.is_symlink():
                raise StoreError(f"{part}: is a link, through which nothing is written; remove it")
        return path


class RemoteFiles:
    """A store that fsspec reaches by a URL."""

    def __init__(self, url: str) -> None:
        self._remote = Remote(url, StoreError)
        self.where = self._remote.url

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFiles, (self.where,)

    def read(self, key: str) -> bytes | None:
        """See `Files.read`."""
        try:
            return self._remote.ask("read", key, lambda system, path: bytes(system.cat_file(path)))
        except FileNotFoundError:
            return None

    def read_parts(self, parts: Sequence[tuple[str, int, int | None]]) -> list[bytes]:
        """The bytes of several (key, start, stop), all asked for at once.

        A negative start counts from the end, where stop is None. StoreError where a key is missing
        or its part lies outside of it.
        """
        found: dict[int, bytes] = {}
        keys = [key for key, _, _ in parts]

        def read_missing(system: Any, _: str) -> None:
            missing = [number for number in range(len(parts)) if number not in found]
            answers = system.cat_ranges(
                [self._remote.path(keys[number]) for number in missing],
                [parts[number][1] for number in missing],
                [parts[number][2] for number in missing],
                on_error="return",
            )
            found.update(
                (number, answer)
                for number, answer in zip(missing, answers, strict=True)
                if not isinstance(answer, BaseException)
            )
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer  # asked for again, what came is kept

        common = keys[0] if len(set(keys)) == 1 else ""
        try:
            self._remote.ask("read", common, read_missing)
        except FileNotFoundError:
            lost = next(key for number, key in enumerate(keys) if number not in found)
            raise StoreError(
                f"{self.where}/{lost}: can't be read (it is gone); see `eventdata verify`"
            ) from None
        return [found[number] for number in range(len(parts))]

    def write(self, documents: Mapping[str, bytes | bytearray]) -> None:
        """See `Files.write`."""
        for key, data in documents.items():
            self._write_one(key, bytes(data))

    def _write_one(self, key: str, data: bytes) -> None:
        self._remote.ask("written", key, lambda system, path: system.pipe_file(path, data))

    def size(self, key: str) -> int | None:
        """See `Files.size`."""
        try:
            return self._remote.ask("read", key, lambda system, path: int(system.size(path)))
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """See `Files.names`."""
        try:
            paths = self._remote.ask(
                "read", "", lambda system, path: list(system.ls(path, detail=False))
            )
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in paths)

    def list(self, prefix: str) -> list[str]:
        """See `Files.list`."""
        start = len(self._remote.path()) + 1
        paths = self._remote.ask("read", prefix, lambda system, path: [*system.find(path)])
        return sorted(path[start:] for path in paths)

    def total_bytes(self) -> int:
        """See `Files.total_bytes`."""
        found = self._remote.ask("read", "", lambda system, path: system.find(path, detail=True))
        return sum(int(entry["size"]) for entry in found.values())

    def remove(self, prefix: str) -> None:
        """See `Files.remove`."""
        with contextlib.suppress(FileNotFoundError):
            self._remote.ask(
                "removed", prefix, lambda system, path: system.rm(path, recursive=True)
            )

    def prepare(self) -> None:
        """See `Files.prepare`; objects need no folder."""
