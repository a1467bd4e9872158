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
from eventdata.files.base import is_url
from eventdata.files.inputs import MISSING, REQUESTS, content_of, entries, numbers_of, time_of

AHEAD = 48  # files fetched before they are needed
MAX_FETCHED = 1 << 28  # bytes of one; each thread holds one in memory


class _Fetcher:
    """Fetches files in their order, some of them ahead."""

    def __init__(self, sizes: Mapping[str, int], folder: Path, threads: ThreadPoolExecutor) -> None:
        self._sizes, self._folder, self._threads = sizes, folder, threads
        self._todo = iter(sizes)
        self._coming: dict[str, Future[Path]] = {}

    def take(self, url: str) -> Path:
        """Return the local copy of one of the files; each can be taken once."""
        while url not in self._coming or len(self._coming) <= AHEAD:
            one = next(self._todo, None)
            if one is None:
                break
            self._coming[one] = self._threads.submit(_download, one, self._sizes[one], self._folder)
        return self._coming.pop(url).result()


_fetcher: ContextVar[_Fetcher | None] = ContextVar("fetcher", default=None)


@contextlib.contextmanager
def fetch_ahead(paths: Sequence[str], sizes: Iterable[int]) -> Iterator[None]:
    """Fetch files ahead for `local_copy`, in this order, while this is open; not local ones."""
    wanted = {path: int(size) for path, size in zip(paths, sizes, strict=True) if is_url(path)}
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
def local_copy(path: str) -> Iterator[str]:
    """Yield the path of a local file with the same name, size and time, deleted at the exit.

    Errors raised within name the URL. Raise MismatchError where the file is gone.
    """
    if not is_url(path):
        yield path
        return
    fetcher = _fetcher.get()
    if fetcher is None:
        with fetch_ahead([path], [numbers_of(path)[0]]), local_copy(path) as copy:
            yield copy
        return
    copied = fetcher.take(path)
    try:
        yield str(copied)
    except EventDataError as error:
        raise type(error)(str(error).replace(str(copied), path)) from error.__cause__
    finally:
        shutil.rmtree(copied.parent)


def _download(url: str, size: int, folder: Path) -> Path:
    """Copy a file, or a folder of files, to a new folder in ``folder``; return the copy.

    The time is requested after the content, so that a change in between is noticed.
    """
    if size > MAX_FETCHED:
        raise InputError(f"{url}: {size:,} bytes; a raw file has at most {MAX_FETCHED:,}")
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
