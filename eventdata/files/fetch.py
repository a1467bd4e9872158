"""Raw input behind a URL (``s3://bucket/raw``): listed there, its files fetched as they are read.

RemotePath              what sources ask of a `pathlib.Path` while they list
numbers_of, numbers_of_all      size and time of change of one file, of very many
fetch_ahead             while this is open, files are on their way before they are asked for
local_copy              a file as a file on this machine, as all readers need it
"""

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
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, cast

from eventdata.errors import EventDataError, InputError, MismatchError
from eventdata.files.base import is_url, path_or_url
from eventdata.files.local import walking
from eventdata.files.remote import Remote

REQUESTS = 16  # at once; each waits for the network
AHEAD = 48  # files fetched before they are asked for
MAX_FETCHED = 1 << 28  # bytes of one; each thread holds one in memory
LISTED = 8  # so many files of a folder are looked up by listing it

Numbers = tuple[int, int]
MISSING: Numbers = (-1, 0)


def open_input(place: str | os.PathLike[str]) -> Path:
    """The folder of raw data at a path or URL, as sources list it."""
    text = path_or_url(place)
    # Absolute, because workers on other machines have another current folder.
    return cast(Path, RemotePath(text.rstrip("/"))) if is_url(text) else Path(text).absolute()


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or folder behind a URL. It stands for a `Path` where sources list, not where they
    read.

    A service that can't be reached raises EventDataError, never InputError: that a file could not
    be asked for is no fault of the file, for which a sample might be left out.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, key: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{key}")

    @property
    def name(self) -> str:
        """See `PurePath.name`."""
        return PurePosixPath(self.url).name

    @property
    def stem(self) -> str:
        """See `PurePath.stem`."""
        return PurePosixPath(self.url).stem

    @property
    def suffix(self) -> str:
        """See `PurePath.suffix`."""
        return PurePosixPath(self.url).suffix

    def is_file(self) -> bool:
        """See `Path.is_file`."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Whether anything lies below it."""
        return self._kind() == "directory"

    def read_text(self, encoding: str) -> str:
        """See `Path.read_text`; FileNotFoundError where there is none."""
        return _content(self.url).decode(encoding)

    def inside(self) -> list[tuple["RemotePath", bool]]:
        """What lies in this folder, and which of it are folders."""
        return [(self / name, _is_folder(entry)) for name, entry in _entries(self.url).items()]

    def files_below(self) -> list[str]:
        """Paths in this folder of all files in it and in folders there."""
        remote = Remote(self.url, EventDataError)
        start = len(remote.path()) + 1
        found = remote.ask("read", "", lambda system, path: [*system.find(path)])
        return [path[start:] for path in found]

    def _kind(self) -> str:
        # Asked for here, because fsspec's isfile takes a service that is down for no file.
        remote = Remote(self.url, EventDataError)
        try:
            return str(remote.ask("read", "", lambda system, path: system.info(path)["type"]))
        except FileNotFoundError:
            return ""


def inside(folder: Path) -> list[tuple[Path, bool]]:
    """What lies in a folder, and which of it are folders."""
    if isinstance(folder, RemotePath):
        return cast(list[tuple[Path, bool]], folder.inside())
    with os.scandir(folder) as entries:
        return [(Path(entry.path), entry.is_dir()) for entry in entries]


def files_below(folder: Path) -> list[str]:
    """Paths in a folder of all files in it and in folders there, with forward slashes."""
    if isinstance(folder, RemotePath):
        return folder.files_below()
    found = []
    with walking(folder, InputError):
        for place, _, names in os.walk(folder, onerror=_raise):  # or it would leave them out
            within = Path(place).relative_to(folder).as_posix()
            found += names if within == "." else [f"{within}/{name}" for name in names]
    return found


def _raise(error: OSError) -> NoReturn:
    raise error


def numbers_of(url: str) -> Numbers:
    """Size (bytes) and time of change (ns, whole seconds) of a file; (-1, 0) where it isn't there.

    Of a folder: the sum of its files' sizes, and the latest of their times.
    """
    try:
        info = Remote(url, EventDataError).ask("read", "", lambda system, path: system.info(path))
        if info["type"] != "directory":
            return int(info["size"]), _time(info)
        return _folder_numbers(url)
    except FileNotFoundError:
        return MISSING


def numbers_of_all(urls: Sequence[str]) -> list[Numbers]:
    """`numbers_of` each, (0, 0) for ""; by listing folders in which many of them lie."""
    folders: dict[str, list[str]] = {}
    for url in dict.fromkeys(urls):
        folders.setdefault(url.rpartition("/")[0], []).append(url)
    folders.pop("", None)
    with ThreadPoolExecutor(REQUESTS) as threads:
        groups = threads.map(_numbers_in, folders, folders.values())
        found = {url: numbers for group in groups for url, numbers in group.items()}
    return [found[url] if url else (0, 0) for url in urls]


def _numbers_in(folder: str, urls: list[str]) -> dict[str, Numbers]:
    if len(urls) < LISTED:
        return {url: numbers_of(url) for url in urls}
    try:
        entries = _entries(folder)
    except FileNotFoundError:
        entries = {}
    numbers = {}
    for url in urls:
        entry = entries.get(url.rpartition("/")[2])
        if entry is None:
            numbers[url] = MISSING
        elif _is_folder(entry):
            numbers[url] = _folder_numbers(url)
        else:
            numbers[url] = (int(entry["size"]), _time(entry))
    return numbers


def _folder_numbers(url: str) -> Numbers:
    entries = _entries(url).values()
    return sum(int(entry["size"] or 0) for entry in entries), max(map(_time, entries), default=0)


def _entries(url: str) -> dict[str, dict[str, Any]]:
    """What lies in a folder, by name. FileNotFoundError where there is nothing."""
    remote = Remote(url, EventDataError)
    found = remote.ask("read", "", lambda system, path: system.ls(path, detail=True))
    names = [str(entry["name"]).rstrip("/") for entry in found]
    # An object called as the folder itself marks that there is one.
    return {
        name.rpartition("/")[2]: entry
        for name, entry in zip(names, found, strict=True)
        if name.strip("/") != remote.path().strip("/")
    }


def _is_folder(entry: dict[str, Any]) -> bool:
    return bool(entry["type"] == "directory")


def _time(entry: dict[str, Any]) -> int:
    """Time of change in whole seconds, which is all that some answers have; 0 where unknown."""
    for key in ("LastModified", "mtime", "last_modified", "updated", "created"):
        value = entry.get(key)
        if value is not None:
            seconds = value.timestamp() if hasattr(value, "timestamp") else float(value)
            return int(seconds) * 10**9
    return 0


class _Fetcher:
    """Fetches files in an order, some of them before they are asked for."""

    def __init__(self, sizes: Mapping[str, int], folder: Path, threads: ThreadPoolExecutor) -> None:
        self._sizes, self._folder, self._threads = sizes, folder, threads
        self._places = {url: place for place, url in enumerate(sizes)}
        self._todo = iter(sizes)
        self._coming: dict[str, Future[Path]] = {}

    def take(self, url: str) -> Path:
        """The local copy of one of the files; each is taken once."""
        while url not in self._coming or len(self._coming) <= AHEAD:
            one = next(self._todo, None)
            if one is None:
                break
            home = self._folder / str(self._places[one])
            self._coming[one] = self._threads.submit(_download, one, self._sizes[one], home)
        return self._coming.pop(url).result()


_fetcher: ContextVar[_Fetcher | None] = ContextVar("fetcher", default=None)


@contextlib.contextmanager
def fetch_ahead(paths: Sequence[str], sizes: Iterable[int]) -> Iterator[None]:
    """While this is open, `local_copy` finds these files fetched or on their way.

    sizes: their bytes. They are best asked for in this order. Nothing happens for files on this
    machine.
    """
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
    """A path of the same name, size and time of change on this machine, for as long as it is open.

    Errors raised within name the URL. MismatchError where the file is gone.
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


def _download(url: str, size: int, home: Path) -> Path:
    """A file, or a folder of files, below ``home``; its numbers are those it has afterwards.

    Read first and asked for its time then, so that a change in between is noticed.
    """
    if size > MAX_FETCHED:
        raise InputError(f"{url}: {size:,} bytes are more than the {MAX_FETCHED:,} of a raw file")
    target = home / PurePosixPath(url).name
    with _told_of_scratch(url):
        home.mkdir()
        try:
            target.write_bytes(_content(url))
        except FileNotFoundError:
            target.mkdir()
            with contextlib.suppress(FileNotFoundError):  # told by its numbers
                for name, entry in _entries(url).items():
                    (target / name).write_bytes(_content(f"{url}/{name}"))
                    os.utime(target / name, ns=(_time(entry), _time(entry)))
        numbers = numbers_of(url)
        if numbers == MISSING:
            raise MismatchError(f"{url}: vanished while this ran; call again once the input rests")
        os.utime(target, ns=(numbers[1], numbers[1]))
    return target


@contextlib.contextmanager
def _told_of_scratch(what: str) -> Iterator[None]:
    """Turn errors of writing temporary files into one sentence.

    No InputError but for a name: that the disk is full is no fault of a sample.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{what}: a name too long for a file of this machine") from error
        raise EventDataError(
            f"{what}: no temporary file can be written in {tempfile.gettempdir()} "
            f"({error.strerror or error}); free some space there or set TMPDIR, and call again: "
            "what is done is kept"
        ) from error


def _content(url: str) -> bytes:
    remote = Remote(url, EventDataError)
    return remote.ask("read", "", lambda system, path: bytes(system.cat_file(path)))


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for temporary files. Those of processes of this machine that were killed go."""
    # Machines may share the place: "=", which no host's name has, tells gpu from gpu-17.
    prefix = f"eventdata-{socket.gethostname()}="
    if os.name == "posix":
        for folder in Path(tempfile.gettempdir()).glob(f"{glob.escape(prefix)}*"):
            owner = folder.name.removeprefix(prefix).partition("-")[0]
            if owner.isdecimal() and not _is_alive(int(owner)):
                shutil.rmtree(folder, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        with _told_of_scratch("input behind a URL"):
            made = tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-")
            name = stack.enter_context(made)
        yield Path(name)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # or a number that no process has
        return False
    except OSError:
        return True  # another user's
    return True


def only_local(root: Path, what: str) -> None:
    """InputError where a source that needs its files on this machine is given a URL."""
    if isinstance(root, RemotePath):
        raise InputError(
            f"{root}: {what} can be read from a folder of this machine only; copy it to one first"
        )
