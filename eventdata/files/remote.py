"""Files behind URLs that fsspec opens (``s3://...``, ``memory://...``).

Requests that fail by a passing fault are repeated; other errors are raised as one sentence.
"""

import contextlib
import errno
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from eventdata.errors import RESUME, EventDataError, StoreError

Result = TypeVar("Result")

# Seconds between repeated requests. The libraries below (botocore) have repeated theirs by then.
WAITS = (0.5, 1.0, 2.0, 4.0)
PATIENCE = 30.0  # seconds after which no request is repeated

_KEEP_FAILING = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.EINVAL, errno.ENOSYS, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.ENOTDIR),
    *(errno.EISDIR, errno.EEXIST),
}
# By name, because the libraries that define them need not be installed.
_PASSING = {
    *("HTTPClientError", "ConnectionError", "IncompleteRead", "ResponseParserError"),  # botocore
    *("ClientConnectionError", "ClientPayloadError"),  # aiohttp
}
_jitter = random.Random()  # its own, so that a program's seeded draws do not depend on faults


class Remote:
    """A place behind a URL. It can be pickled and forked: each process opens its own connections.

    Its errors are of class ``kind``, also where nothing can open such a URL.
    """

    def __init__(self, url: str, kind: type[EventDataError]) -> None:
        self.url = url.rstrip("/")
        self.kind = kind
        self._is_s3 = self.url.startswith(("s3://", "s3a://"))
        self._opened: dict[int, tuple[Any, str]] = {}  # by process; never closed, see _open
        self._open()

    def __reduce__(self) -> tuple[Any, ...]:
        return Remote, (self.url, self.kind)

    def _open(self) -> tuple[Any, str]:
        """Return this process's file system and the path in it.

        A fork inherits those of its parent, which it must neither use nor close.
        """
        process = os.getpid()
        if process not in self._opened:
            from fsspec.core import url_to_fs  # here, because the import is slow

            try:
                # Files that another process writes must be visible at once.
                options: dict[str, Any] = {"use_listings_cache": False}
                if self._is_s3:  # one request for a file: its state at one moment
                    options["max_concurrency"] = 1
                self._opened[process] = url_to_fs(self.url, **options)
            except Exception as error:
                raise self._error("reached", self.url, error) from error
        return self._opened[process]

    def path(self, key: str = "") -> str:
        """Return the path of a key, as fsspec's methods take and return it."""
        root = str(self._open()[1])
        return f"{root}/{key}" if key else root

    def ask(self, action: str, key: str, request: Callable[[Any, str], Result]) -> Result:
        """Return ``request(file system, path of the key)``, repeated after passing faults.

        ``action`` is a participle for the message; the key "" is the place itself.

        Raises:
            FileNotFoundError: the key is missing.
            kind: any other error, a missing bucket included.
        """
        where = f"{self.url}/{key}" if key else self.url
        deadline = time.monotonic() + PATIENCE
        waits = iter(WAITS)
        while True:
            try:
                return request(self._open()[0], self.path(key))
            except (EventDataError, MemoryError):
                raise
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise self._error(action, where, error) from error
                raise
            except Exception as error:
                wait = next(waits, None)
                if wait is None or not _passes(error) or time.monotonic() > deadline:
                    raise self._error(action, where, error) from error
            time.sleep(wait * _jitter.uniform(0.5, 1))  # spread the requests of many workers

    def find(self, key: str, request: Callable[[Any, str], Result]) -> Result | None:
        """Return what `ask` reads, None where the key is missing."""
        with contextlib.suppress(FileNotFoundError):
            return self.ask("read", key, request)
        return None

    def _error(self, action: str, where: str, error: Exception) -> EventDataError:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        if isinstance(error, ImportError) and self._is_s3:
            return self.kind(f"{where}: s3fs is missing; run: pip install 'eventdata[s3]'")
        if _code(error) == "NoSuchBucket":
            remedy = "create the bucket or correct the URL"
        elif any("Credential" in name for name in _names(error)):
            remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        elif isinstance(error, PermissionError):
            remedy = "check the credentials and their permissions"
        elif _passes(error):
            remedy = f"check the address and the network; {RESUME}"
        else:
            remedy = "check the address"
        return self.kind(f"{where}: can't be {action} ({reason or type(error).__name__}); {remedy}")


def _passes(error: Exception) -> bool:
    """Return whether the fault may pass: throttling, a lost connection, a timeout."""
    if isinstance(error, OSError):
        return error.errno not in _KEEP_FAILING and not isinstance(error, PermissionError)
    return bool(_names(error) & _PASSING)


def _names(error: Exception) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _code(error: Exception) -> str:
    """Return the service's own error code, "" where it gave none."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def time_of(entry: dict[str, Any]) -> int:
    """Return an entry's time of change (ns), 0 if unknown; some services have whole seconds."""
    for key in ("LastModified", "mtime", "last_modified", "updated", "created"):
        value = entry.get(key)
        if value is not None:
            seconds = value.timestamp() if hasattr(value, "timestamp") else float(value)
            return int(seconds) * 10**9
    return 0


class RemoteFiles(Remote):
    """The files behind a URL."""

    def __init__(self, url: str) -> None:
        super().__init__(url, StoreError)
        self.where = self.url

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFiles, (self.url,)

    def read(self, key: str, most: int | None = None) -> bytes | None:
        return self.find(key, lambda system, path: bytes(system.cat_file(path)))

    def read_parts(self, parts: Sequence[tuple[str, int, int | None]]) -> list[bytes]:
        """Return the bytes of several parts (key, start, stop), requested at once.

        A negative start, with stop None, counts from the end. Raises StoreError where a key is
        missing, or a part lies outside its file.
        """
        found: dict[int, bytes] = {}

        def read_missing(system: Any, _: str) -> None:
            missing = [number for number in range(len(parts)) if number not in found]
            keys, starts, stops = map(list, zip(*(parts[n] for n in missing), strict=True))
            answers = system.cat_ranges([*map(self.path, keys)], starts, stops, on_error="return")
            failed = [answer for answer in answers if isinstance(answer, BaseException)]
            for number, answer in zip(missing, answers, strict=True):
                if not isinstance(answer, BaseException):
                    found[number] = answer
            if failed:
                raise failed[0]  # `ask` repeats the request for those still missing

        keys = {key for key, _, _ in parts}
        try:
            if parts:
                self.ask("read", keys.pop() if len(keys) == 1 else "", read_missing)
        except FileNotFoundError:
            lost = next(key for number, (key, _, _) in enumerate(parts) if number not in found)
            raise StoreError(
                f"{self.where}/{lost}: can't be read (it is gone); run `eventdata verify`"
            ) from None
        return [found[number] for number in range(len(parts))]

    def write(self, documents: Mapping[str, bytes | bytearray]) -> None:
        for key, data in documents.items():
            self._write_one(key, bytes(data))

    def _write_one(self, key: str, data: bytes) -> None:
        self.ask("written", key, lambda system, path: system.pipe_file(path, data))

    def size(self, key: str) -> int | None:
        return self.find(key, lambda system, path: int(system.size(path)))

    def names(self) -> list[str]:
        paths = self.find("", lambda system, path: [*system.ls(path, detail=False)])
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in paths or ())

    def list(self, prefix: str) -> list[str]:
        start = len(self.path()) + 1
        paths = self.ask("read", prefix, lambda system, path: [*system.find(path)])
        return sorted(path[start:] for path in paths)

    def total_bytes(self) -> int:
        found = self.ask("read", "", lambda system, path: system.find(path, detail=True))
        return sum(int(entry["size"]) for entry in found.values())

    def remove(self, prefix: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.ask("removed", prefix, lambda system, path: system.rm(path, recursive=True))

    def prepare(self) -> None:
        """Do nothing: objects need no folder."""

    def sync(self) -> None:
        """Do nothing: an object is durable once it is written."""
