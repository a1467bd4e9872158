"""Folders and files of raw input, on this machine or behind a URL: listing, sizes and times."""

import contextlib
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from eventdata.errors import EventDataError, InputError, OptionError, check_open_files
from eventdata.files.archives.members import split_path
from eventdata.files.archives.paths import Archived, archive_at, is_archive
from eventdata.files.base import Files, is_url, path_or_url
from eventdata.files.local import LocalFiles
from eventdata.files.remote import Remote, Result, time_of

REQUESTS = 16  # at once; each waits for the network
LISTED = 8  # from this many files of a folder on, one listing is cheaper than their requests

Numbers = tuple[int, int]  # size (bytes) and time of change (ns)
MISSING: Numbers = (-1, 0)


def open_input(place: str | os.PathLike[str]) -> Path:
    """Return the folder or archive of raw data at a path or URL, or a folder in an archive.

    Raises InputError for a compressed tar.
    """
    text = path_or_url(place).rstrip("/") or "/"
    # Absolute, because workers on other machines have another current folder.
    place = text if is_url(text) else str(Path(text).absolute())
    archive, inner = archive_at(place), split_path(place)
    if archive is None and inner is not None and Archived(*inner).is_dir():
        archive = Archived(*inner)
    if archive is not None:
        return cast(Path, archive)
    return cast(Path, RemotePath(text)) if is_url(text) else Path(text).absolute()


def check_apart(files: Files, source: str | os.PathLike[str], *, walked: bool) -> None:
    """Raise OptionError where the input lies in the output, which --overwrite would remove.

    If all folders of the input are ``walked``, the output must not lie in the input either: the
    next call would list it.
    """
    place = path_or_url(source)
    if isinstance(files, LocalFiles) and not is_url(place):
        # By realpath, which survives links in a circle.
        input_root, root = (Path(os.path.realpath(path)) for path in (place, files.root))
        if root.is_relative_to(input_root) and root != input_root and walked:
            raise OptionError(f"{files.where}: lies in the input; choose an OUT outside {place}")
        inside = input_root.is_relative_to(root)
    else:
        inside = f"{place.rstrip('/')}/".startswith(f"{files.where}/")
    if inside:
        raise OptionError(f"{files.where}: contains the input; choose an OUT that does not")


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or folder behind a URL, in place of a `Path` where sources list.

    A service that can't be reached raises EventDataError: no sample must be skipped for it.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, key: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{key}")

    name = property(lambda self: PurePosixPath(self.url).name)
    stem = property(lambda self: PurePosixPath(self.url).stem)
    suffix = property(lambda self: PurePosixPath(self.url).suffix)

    def is_file(self) -> bool:
        return self._type() == "file"

    def is_dir(self) -> bool:
        return self._type() == "directory"

    def read_text(self, encoding: str) -> str:
        return content_of(self.url).decode(encoding)

    def _type(self) -> str:
        # Not by fsspec's isfile, which returns False for a service that is down.
        return str((_info(self.url) or {}).get("type"))


def _ask(url: str, request: Callable[[Any, str], Result]) -> Result:
    return Remote(url, EventDataError).ask("read", "", request)


def content_of(url: str) -> bytes:
    """Return the bytes of a file behind a URL; raise FileNotFoundError where it is missing."""
    return _ask(url, lambda system, path: bytes(system.cat_file(path)))


def _info(url: str) -> dict[str, Any] | None:
    return Remote(url, EventDataError).find("", lambda system, path: dict(system.info(path)))


def inside(folder: Path, *, archives: bool = False) -> list[tuple[Path, bool]]:
    """Return the paths in a folder, and whether each is a folder.

    With ``archives``, those in a folder that holds no other folders are folders too.
    """
    if isinstance(folder, Archived):
        return cast(list[tuple[Path, bool]], folder.inside())
    found: list[tuple[Path, bool]]
    if isinstance(folder, RemotePath):
        listed = entries(folder.url).items()
        found = [
            (cast(Path, folder / name), entry["type"] == "directory") for name, entry in listed
        ]
    else:
        with os.scandir(folder) as local:
            found = [(Path(entry.path), _is_folder(entry)) for entry in local]
    if archives and not any(kind and not is_hidden(path.name) for path, kind in found):
        found = [
            (cast(Path, Archived(str(path))), True)
            if is_archive(path.name) and not is_hidden(path.name)
            else (path, kind)
            for path, kind in found
        ]
    return found


def folder_in(folder: Path, name: str) -> Path:
    """Return the path of a folder, or of the archive of its name where there is no folder."""
    plain = folder / name
    if isinstance(folder, Archived) or plain.is_dir():
        return plain
    found = filter(None, (archive_at(f"{plain}{suffix}") for suffix in (".tar", ".zip")))
    return cast(Path, next(found, plain))


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden or holds what macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"


def files_below(folder: Path, unfollowed: list[str] | None = None) -> list[str]:
    """Return the relative paths of all files below a folder, with forward slashes.

    Links are followed, but a folder that several links lead to is read once. Hidden files and
    folders are skipped.

    Args:
        folder: the folder, or a link to one.
        unfollowed: a list to which the relative paths of other links are added. They lead to
            nothing, to a folder that was read already, or to one that holds ``folder``.
    """
    if isinstance(folder, Archived):
        paths = folder.files_below()
        return [path for path in paths if not any(map(is_hidden, path.split("/")))]
    if isinstance(folder, RemotePath):
        paths = _ask(
            folder.url, lambda system, path: [p[len(path) + 1 :] for p in system.find(path)]
        )
        return [path for path in paths if not any(map(is_hidden, path.split("/")))]
    found: list[str] = []
    unread: list[str] = []
    seen = set(map(str, Path(os.path.realpath(folder)).parents))
    links = [""]  # the folder itself, then links to folders
    while links:
        links.sort(reverse=True)
        place = links.pop()
        # By realpath, which survives links in a circle.
        folders = [(os.path.realpath(folder / place), f"{place}/" if place else "")]
        while folders:
            real, within = folders.pop()
            if real in seen:
                unread.append(within.rstrip("/"))
                continue
            seen.add(real)
            with os.scandir(real) as entries:
                for entry in entries:
                    path = f"{within}{entry.name}"
                    if is_hidden(entry.name):
                        continue
                    if entry.is_symlink() and _is_folder(entry):
                        links.append(path)
                    elif _is_folder(entry):
                        folders.append((f"{real}/{entry.name}", f"{path}/"))
                    else:
                        found.append(path)
                        if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110
                            unread.append(path)
    if unfollowed is not None:
        unfollowed += sorted(unread)
    return found


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def file_numbers(paths: Sequence[str]) -> list[Numbers]:
    """Return the size and time of each file; MISSING for a missing one, (0, 0) for "".

    A folder, such as a clip as frames, has the sum of its files' sizes and the latest time.
    """
    if any(map(is_url, paths)):
        return _remote_numbers(paths)
    return [_local_numbers(path) if path else (0, 0) for path in paths]


def _local_numbers(path: str) -> Numbers:
    try:
        status = os.stat(path)  # noqa: PTH116 making a Path costs more than the stat
        size, time = status.st_size, status.st_mtime_ns
        if stat.S_ISDIR(status.st_mode):
            files = [entry.stat() for entry in os.scandir(path)]
            size = sum(one.st_size for one in files)
            time = max([time, *(one.st_mtime_ns for one in files)])
    except (OSError, ValueError) as error:
        check_open_files(error, path)
        return MISSING
    # A wrong clock may have set any time: those beyond int64 (year 2262) wrap around.
    return size, (time + 2**63) % 2**64 - 2**63


def _remote_numbers(urls: Sequence[str]) -> list[Numbers]:
    """Return `numbers_of` each; folders that hold many of the files are listed instead."""
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
    listed: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(FileNotFoundError):
        listed = entries(folder)
    return {url: _entry_numbers(url, listed.get(url.rpartition("/")[2])) for url in urls}


def numbers_of(url: str) -> Numbers:
    """Return the size and time of a file or folder behind a URL, MISSING for a missing one."""
    return _entry_numbers(url, _info(url))


def _entry_numbers(url: str, entry: dict[str, Any] | None) -> Numbers:
    if entry is None:
        return MISSING
    if entry["type"] != "directory":
        return int(entry["size"]), time_of(entry)
    try:
        files = entries(url).values()
    except FileNotFoundError:
        return MISSING
    return sum(int(file["size"] or 0) for file in files), max(map(time_of, files), default=0)


def entries(url: str) -> dict[str, dict[str, Any]]:
    """Return what fsspec lists in a folder, by name; FileNotFoundError where it is empty."""
    place, found = _ask(url, lambda system, path: (path, system.ls(path, detail=True)))
    return {
        str(entry["name"]).rstrip("/").rpartition("/")[2]: entry
        for entry in found
        # An object with the name of the folder itself marks a folder.
        if str(entry["name"]).strip("/") != place.strip("/")
    }


def only_local(root: Path, what: str) -> None:
    """Raise InputError for a URL or archive, where a source needs its files on this machine."""
    only_unpacked(root, what)
    if isinstance(root, RemotePath):
        raise InputError(f"{root}: {what} must be on this machine; copy the folder here")


def only_unpacked(root: Path, what: str) -> None:
    """Raise InputError for an archive, where a source needs a folder."""
    if isinstance(root, Archived):
        raise InputError(
            f"{root}: {what} can't be read in an archive; unpack it and pass the folder"
        )
