"""A place that fsspec reaches by a URL (``s3://...``, ``memory://...``): asked again where a fault
passes, told in one sentence where it does not.
"""

import errno
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from eventdata.errors import EventDataError, OptionError

Result = TypeVar("Result")

# Seconds to wait before the same is asked again; libraries below (botocore) have tried by then.
WAITS = (0.5, 1.0, 2.0, 4.0)
PATIENCE = 30.0
"""Seconds after which nothing is asked again, however often it was tried."""

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
_OF_THIS_MACHINE = {"file", "local"}  # fsspec's names
_WITH_HOST = {"s3", "s3a", "gs", "gcs", "az", "abfs", "http", "https"}
_jitter = random.Random()  # its own: a program's seeded draws must not depend on faults


def is_url(place: str) -> bool:
    """Whether a place is a URL and no path."""
    return "://" in place


def path_or_url(place: str | os.PathLike[str]) -> str:
    """A place that a user has given: a path for all on this machine (``file://`` too), or a URL.

    OptionError for a URL that leads nowhere.
    """
    text = os.fspath(place)
    if "\0" in text:
        raise OptionError(f"{text}: no path can have such a character")
    scheme, mark, rest = text.partition("://")
    if not mark:
        return text
    if scheme.lower() in _OF_THIS_MACHINE:
        path = rest.lstrip("/") if os.name == "nt" else rest
        if not Path(path).is_absolute():
            raise OptionError(f"{text}: a file URL says its whole path; give that, or a path alone")
        return path
    if not (scheme and rest.strip("/")) or (scheme.lower() in _WITH_HOST and rest[0] == "/"):
        raise OptionError(f"{text}: no whole URL; write it as s3://bucket/folder")
    return text


def check_reach(
    workers: int, scheduler: str | None, *places: str | os.PathLike[str] | None
) -> None:
    """OptionError where other processes are to work on a place that this one has in memory."""
    for place in places:
        if (workers > 1 or scheduler) and place and os.fspath(place).startswith("memory://"):
            raise OptionError(
                f"{place}: is in the memory of this process, which others do not see; give "
                "workers=1 and no scheduler"
            )


class Remote:
    """A place behind a URL. It pickles and forks: each process has connections of its own."""

    def __init__(self, url: str, kind: type[EventDataError]) -> None:
        """``kind``: of the errors raised. Raises one where there is no way to such a URL."""
        self.url = url.rstrip("/")
        self.kind = kind
        self._is_s3 = self.url.startswith(("s3://", "s3a://"))
        self._opened: dict[int, tuple[Any, str]] = {}  # by process; never closed, see _open
        self._open()

    def __reduce__(self) -> tuple[Any, ...]:
        return Remote, (self.url, self.kind)

    def _open(self) -> tuple[Any, str]:
        """The file system and the path in it, of this process.

        A fork inherits its parent's, which it must neither use nor close.
        """
        process = os.getpid()
        if process not in self._opened:
            from fsspec.core import url_to_fs  # here, because it takes a while to import

            try:
                # What another process writes must be seen at once.
                options: dict[str, Any] = {"use_listings_cache": False}
                if self._is_s3:  # a whole file by one request, as it is at one moment
                    options["max_concurrency"] = 1
                self._opened[process] = url_to_fs(self.url, **options)
            except Exception as error:
                raise self._told("reached", self.url, error) from error
        return self._opened[process]

    def path(self, key: str = "") -> str:
        """Where a key lies, as fsspec's methods take and return it."""
        root = str(self._open()[1])
        return f"{root}/{key}" if key else root

    def ask(self, action: str, key: str, request: Callable[[Any, str], Result]) -> Result:
        """``request(file system, path of the key)``, again where it fails by a passing fault.

        ``action`` for the message ("read", "written"). FileNotFoundError where there is no such
        key; an error of ``kind`` for all else, a missing bucket included.
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
                    raise self._told(action, where, error) from error
                raise
            except Exception as error:
                wait = next(waits, None)
                if wait is None or not _passes(error) or time.monotonic() > deadline:
                    raise self._told(action, where, error) from error
            time.sleep(wait * _jitter.uniform(0.5, 1))  # many workers, not all at one moment

    def _told(self, action: str, where: str, error: Exception) -> EventDataError:
        said = error.strerror if isinstance(error, OSError) else None
        reason = " ".join(str(said or error).split()) or type(error).__name__
        names = _names(error)
        if isinstance(error, ImportError) and self._is_s3:
            return self.kind(f"{where}: s3fs is not installed: pip install 'eventdata[s3]'")
        if _code(error) == "NoSuchBucket":
            remedy = "make the bucket, or correct the URL"
        elif any("Credential" in name for name in names):
            remedy = (
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, wherever this "
                "runs"
            )
        elif isinstance(error, PermissionError):
            remedy = "see to the credentials and to what they allow"
        elif _passes(error):
            remedy = "see to address and network and call again: what is done is kept"
        else:
            remedy = "see to the address"
        return self.kind(f"{where}: can't be {action} ({reason}); {remedy}")


def _passes(error: Exception) -> bool:
    """Whether the same may succeed a moment later: throttling, a lost connection, a timeout."""
    if isinstance(error, OSError):
        return error.errno not in _KEEP_FAILING and not isinstance(error, PermissionError)
    return bool(_names(error) & _PASSING)


def _names(error: Exception) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _code(error: Exception) -> str:
    """The service's own word for what is wrong, "" where there is none."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
