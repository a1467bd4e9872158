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
from eventdata.files.archives.index import PARQUET, Place
from eventdata.files.archives.members import place_of, read_member, split_path
from eventdata.files.base import is_url
from eventdata.files.inputs import MISSING, REQUESTS, content_of, entries, numbers_of
from eventdata.files.parquet import read_row
from eventdata.files.remote import time_of

AHEAD = 48  # files fetched before they are needed
MAX_FETCHED = 1 << 28  # bytes of one; each thread holds one in memory


class _Fetcher:
    """Fetches files in their order, some of them ahead."""

    def __init__(
        self,
        wanted: Mapping[str, tuple[int, Place | None]],
        folder: Path,
        threads: ThreadPoolExecutor,
    ) -> None:
        self._wanted, self._folder, self._threads = wanted, folder, threads
        self._todo = iter(wanted)
        self._coming: dict[str, Future[Path]] = {}

    def take(self, url: str) -> Path:
        """Return the local copy of one of the files; each can be taken once."""
        while url not in self._coming or len(self._coming) <= AHEAD:
            one = next(self._todo, None)
            if one is None:
                break
            what = *self._wanted[one], self._folder
            self._coming[one] = self._threads.submit(_download, one, *what)
        return self._coming.pop(url).result()


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
        yield
        return
    with _scratch() as folder, ThreadPoolExecutor(REQUESTS, "eventdata-fetch") as threads:
        token = _fetcher.set(_Fetcher(wanted, folder, threads))
        try:
            yield
        finally:
            _fetcher.reset(token)
            threads.shutdown(cancel_futures=True)


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
    file = os.memfd_create("eventdata-member")
    try:
        with open(file, "wb", closefd=False) as target:
            target.write(content)
        os.utime(file, ns=(time, time))
        yield f"/proc/self/fd/{file}"
    finally:
        os.close(file)


def _download(url: str, size: int, place: Place | None, folder: Path) -> Path:
    """Copy a file, or a folder of files, to a new folder in ``folder``; return the copy.

    The time is requested after the content, so that a change in between is noticed.
    """
    if size > MAX_FETCHED:
        raise InputError(f"{url}: {size:,} bytes; a raw file has at most {MAX_FETCHED:,}")
    with _writing_scratch(url):
        target = Path(tempfile.mkdtemp(dir=folder), PurePosixPath(url).name)
        if place is not None:
            content, time = _content_at(url, place)
            target.write_bytes(content)
            os.utime(target, ns=(time, time))
            return target
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
