"""Read ranges of a file, on this machine or behind a URL, and its size and time of change."""

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import IO, Any, cast

from eventdata.errors import EventDataError
from eventdata.files.base import is_url
from eventdata.files.local import check_plain
from eventdata.files.remote import Remote, time_of

PAGE = 1 << 12  # bytes of a local file that are read at once for a header
LEAST, MOST = 1 << 16, 1 << 22  # bytes of a request for headers behind a URL


def file_state(path: str) -> tuple[int, int]:
    """Return the size (bytes) and time of change (ns) of a file.

    Raises FileNotFoundError where it is missing.
    """
    if not is_url(path):
        status = check_plain(path)
        return status.st_size, (status.st_mtime_ns + 2**63) % 2**64 - 2**63
    entry = _ask(path, lambda system, at: dict(system.info(at)))
    return int(entry["size"]), time_of(entry)


def is_file(path: str) -> bool:
    """Return whether a path or URL is that of a file."""
    if not is_url(path):
        return os.path.isfile(path)  # noqa: PTH113 a million paths may be asked about
    return _is_object(path)


@lru_cache(maxsize=4096)
def _is_object(url: str) -> bool:
    entry = Remote(url, EventDataError).find("", lambda system, at: dict(system.info(at)))
    return (entry or {}).get("type") == "file"


def _ask(url: str, request: Callable[[Any, str], Any]) -> Any:
    return Remote(url, EventDataError).ask("read", "", request)


def read_range(path: str, start: int, count: int) -> bytes:
    """Return bytes of a file, fewer at its end."""
    if is_url(path):
        if not count:
            return b""
        end = start + count
        return bytes(_ask(path, lambda system, at: system.cat_file(at, start=start, end=end)))
    file = os.open(path, os.O_RDONLY)
    try:
        return os.pread(file, count, start)
    finally:
        os.close(file)


class Window:
    """A part of a file in memory that moves to the ranges that are read.

    Behind a URL it grows while they follow one another, and shrinks when some of the file is
    skipped.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int, least: int, most: int) -> None:
        self.size = size
        self._read, self._least, self._most = read, least, most
        self._start, self._data, self._ahead = 0, b"", least

    def read(self, start: int, count: int) -> bytes:
        """Return bytes of the file, fewer at its end."""
        inside = start - self._start
        if not 0 <= inside <= len(self._data) - count:
            count = max(min(count, self.size - start), 0)
            follows = 0 <= inside < len(self._data) + self._ahead
            self._ahead = (
                min(2 * self._ahead, self._most) if follows else max(self._ahead // 2, self._least)
            )
            wanted = min(max(count, self._ahead), max(self.size - start, 0))
            self._start, self._data = start, self._read(start, wanted) if wanted else b""
            inside = 0
        return self._data[inside : inside + count]


@contextlib.contextmanager
def open_window(path: str, size: int) -> Iterator[Window]:
    """Yield a window on a file of ``size`` bytes."""
    if is_url(path):
        yield Window(lambda start, count: read_range(path, start, count), size, LEAST, MOST)
        return
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 a str
        number = file.fileno()
        yield Window(lambda start, count: os.pread(number, count, start), size, PAGE, PAGE)


@contextlib.contextmanager
def open_file(path: str) -> Iterator[IO[bytes]]:
    """Yield a file as an open one for libraries, read by ranges behind a URL."""
    if not is_url(path):
        with open(path, "rb") as file:  # noqa: PTH123 a str
            yield file
        return
    with open_window(path, file_state(path)[0]) as window:
        yield cast(IO[bytes], _Seekable(window))


class _Seekable:
    """A window with the methods of a file that pyarrow needs."""

    closed = False

    def __init__(self, window: Window) -> None:
        self._window, self._at = window, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None: ...

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._window.size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def read(self, count: int = -1) -> bytes:
        left = max(self._window.size - self._at, 0)
        data = self._window.read(self._at, left if count < 0 else min(count, left))
        self._at += len(data)
        return data
