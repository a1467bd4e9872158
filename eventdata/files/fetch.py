"""Local copies of input files behind URLs, fetched before they are needed."""

import contextlib
import errno
import glob
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path, PurePosixPath

from eventdata.errors import RESUME, EventDataError, InputError, MismatchError
from eventdata.files.archives.index import NOWHERE, PARQUET, Place
from eventdata.files.archives.members import (
    place_of,
    read_member,
    read_members,
    sound,
    split_path,
)
from eventdata.files.base import is_url
from eventdata.files.inputs import MISSING, REQUESTS, content_of, entries, numbers_of
from eventdata.files.parquet import read_row, read_rows
from eventdata.files.remote import time_of

AHEAD = 48  # files fetched before they are needed
TOGETHER, GAP = 1 << 20, 1 << 14  # bytes of members in one request, and between two of them
UNPACKED = 1 << 23  # bytes of their content, which a thread holds in memory
ROWS = 32  # of a Parquet shard that are fetched together
MAX_FETCHED = 1 << 28  # bytes of one; each thread holds one in memory


Wanted = Mapping[str, tuple[int, Place | None]]  # size and place of each file
Copies = dict[str, "Path | EventDataError"]


class _Fetcher:
    """Fetches files in their order, some of them ahead, and neighbours in an archive together."""

    def __init__(self, wanted: Wanted, folder: Path, threads: ThreadPoolExecutor) -> None:
        self._folder, self._threads = folder, threads
        self._todo = _groups(wanted)
        self._coming: dict[str, Future[Copies]] = {}

    def take(self, url: str) -> Path:
        """Return the local copy of one of the files; each can be taken once."""
        while url not in self._coming or len(self._coming) <= AHEAD:
            group = next(self._todo, None)
            if group is None:
                break
            copies = self._threads.submit(_download_group, group, self._folder)
            self._coming |= dict.fromkeys(group, copies)
        copy = self._coming.pop(url).result()[url]
        if isinstance(copy, EventDataError):
            raise copy
        return copy


def _groups(wanted: Wanted) -> Iterator[Wanted]:
    """Yield files that are fetched together: neighbours in an archive, or a single file."""
    group: dict[str, tuple[int, Place | None]] = {}
    first = last = NOWHERE
    home, total = "", 0
    for path, (size, place) in wanted.items():
        total += size
        near = place and path.startswith(home) and _near(first, last, place)
        if group and not (near and total <= UNPACKED):
            yield group
            group, total = {}, size
        if not group:
            archive, _ = (place and split_path(path)) or ("", "")
            home, first = f"{archive}/", place or NOWHERE
        group[path], last = (size, place), place or NOWHERE
    if group:
        yield group


def _near(first: Place, last: Place, place: Place) -> bool:
    """Return whether a member is read with those from ``first`` to ``last``."""
    if last == NOWHERE:
        return False
    if place.kind == PARQUET:
        return place.start == first.start and place.packed < first.packed + ROWS
    end = last.start + last.packed
    return end <= place.start <= end + GAP and place.start + place.packed <= first.start + TOGETHER


_fetcher: ContextVar[_Fetcher | None] = ContextVar("fetcher", default=None)


@contextlib.contextmanager
def fetch_ahead(
    paths: Sequence[str], sizes: Iterable[int], places: Sequence[Place | None] | None = None
) -> Iterator[None]:
    """Fetch files ahead for `local_copy`, in this order, while this is open; not local ones.

    ``places`` are those of members of archives.
    """
    wanted = {
        path: (int(size), place)
        for path, size, place in zip(paths, sizes, places or [None] * len(paths), strict=True)
        if is_url(path)
    }
    if not wanted:
        with _reused_memory():
            yield
        return
    with _scratch() as folder, ThreadPoolExecutor(REQUESTS, "eventdata-fetch") as threads:
        token = _fetcher.set(_Fetcher(wanted, folder, threads))
        try:
            yield
        finally:
            _fetcher.reset(token)
            threads.shutdown(cancel_futures=True)


_free: ContextVar[list[int] | None] = ContextVar("free", default=None)


@contextlib.contextmanager
def _reused_memory() -> Iterator[None]:
    """Use the same files in memory again while this is open: new pages cost more than a copy."""
    free: list[int] = []
    token = _free.set(free)
    try:
        yield
    finally:
        _free.reset(token)
        for file in free:
            os.close(file)


@contextlib.contextmanager
def local_copy(path: str, place: Place | None = None) -> Iterator[str]:
    """Yield the path of a local file with the same size and time, deleted at the exit.

    Errors raised within name the URL, or the member of an archive. Its ``place`` is given, or
    looked up in an index. Raise MismatchError where the file is gone.
    """
    if place is None:
        place = place_of(path)
    if not is_url(path):
        if place is None:
            yield path
            return
        with _in_memory(path, place) as copy, _named(path, copy):
            yield copy
        return
    fetcher = _fetcher.get()
    if fetcher is None:
        size = place.size if place else numbers_of(path)[0]
        with fetch_ahead([path], [size], [place]), local_copy(path, place) as copy:
            yield copy
        return
    copied = fetcher.take(path)
    try:
        with _named(path, str(copied)):
            yield str(copied)
    finally:
        shutil.rmtree(copied.parent)


@contextlib.contextmanager
def _named(path: str, copy: str) -> Iterator[None]:
    """Name the file in errors that name its copy."""
    try:
        yield
    except EventDataError as error:
        raise type(error)(str(error).replace(copy, path)) from error.__cause__


def _content_at(path: str, place: Place) -> tuple[bytes, int]:
    archive, _ = split_path(path) or ("", "")
    return read_member(path, archive, place, read_row if place.kind == PARQUET else None)


@contextlib.contextmanager
def _in_memory(path: str, place: Place) -> Iterator[str]:
    """Yield the path of a file in memory with the bytes of a member of a local archive."""
    content, time = _content_at(path, place)
    free = _free.get()
    file = free.pop() if free else os.memfd_create("eventdata-member")
    try:
        written = 0
        while written < len(content):
            written += os.pwrite(file, memoryview(content)[written:], written)
        os.ftruncate(file, written)
        os.utime(file, ns=(time, time))
        yield f"/proc/self/fd/{file}"
    finally:
        if free is None:
            os.close(file)
        else:
            free.append(file)


def _download_group(group: Wanted, folder: Path) -> Copies:
    """Copy files to new folders in ``folder``; return each copy, or why there is none."""
    if len(group) == 1:
        ((url, (size, place)),) = group.items()
        return {url: _download(url, size, place, folder)}
    archive, _ = split_path(next(iter(group))) or ("", "")
    places = [place for _, place in group.values() if place]
    rows = read_rows if places[0].kind == PARQUET else None
    contents, time = read_members(archive, places, rows)
    copies: Copies = {}
    for url, content in zip(group, contents, strict=True):
        try:
            copies[url] = _write_copy(url, sound(url, content), time, folder)
        except EventDataError as error:
            copies[url] = error
    return copies


def _write_copy(url: str, content: bytes, time: int, folder: Path) -> Path:
    with _writing_scratch(url):
        target = Path(tempfile.mkdtemp(dir=folder), PurePosixPath(url).name)
        target.write_bytes(content)
        os.utime(target, ns=(time, time))
    return target


def _download(url: str, size: int, place: Place | None, folder: Path) -> Path:
    """Copy a file, or a folder of files, to a new folder in ``folder``; return the copy.

    The time is requested after the content, so that a change in between is noticed.
    """
    if size > MAX_FETCHED:
        raise InputError(f"{url}: {size:,} bytes; a raw file has at most {MAX_FETCHED:,}")
    if place is not None:
        return _write_copy(url, *_content_at(url, place), folder)
    with _writing_scratch(url):
        target = Path(tempfile.mkdtemp(dir=folder), PurePosixPath(url).name)
        try:
            target.write_bytes(content_of(url))
        except FileNotFoundError:
            target.mkdir()
            with contextlib.suppress(FileNotFoundError):  # its numbers are MISSING below
                for name, entry in entries(url).items():
                    (target / name).write_bytes(content_of(f"{url}/{name}"))
                    os.utime(target / name, ns=(time_of(entry), time_of(entry)))
        numbers = numbers_of(url)
        if numbers == MISSING:
            raise MismatchError(
                f"{url}: vanished while it was read; wait until nothing writes to the input, then "
                "run the same command again"
            )
        os.utime(target, ns=(numbers[1], numbers[1]))
    return target


@contextlib.contextmanager
def _writing_scratch(what: str) -> Iterator[None]:
    """Raise an OSError of writing a temporary file as one sentence.

    Only a name is an InputError: a full disk is not a fault of the sample.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{what}: its name is too long for this machine; rename it") from error
        raise EventDataError(
            f"{what}: can't write a temporary file in {tempfile.gettempdir()} "
            f"({error.strerror or error}); free some space there or set TMPDIR; {RESUME}"
        ) from error


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Yield a folder for temporary files; remove those of killed processes of this machine."""
    # Machines may share the folder. No host's name has a "=", which separates gpu from gpu-17.
    prefix = f"eventdata-{socket.gethostname()}="
    if os.name == "posix":
        for folder in Path(tempfile.gettempdir()).glob(f"{glob.escape(prefix)}[0-9]*-*"):
            with contextlib.suppress(OSError, ValueError):  # another user's process or folder
                try:
                    os.kill(int(folder.name.removeprefix(prefix).partition("-")[0]), 0)
                except (ProcessLookupError, OverflowError):  # or a number that no process has
                    shutil.rmtree(folder, ignore_errors=True)
    with _writing_scratch("input behind a URL"):
        made = tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-")
    with made as name:
        yield Path(name)
