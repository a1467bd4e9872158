"""Make the index of an archive from its headers, once, and keep it for the next call of a job."""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from eventdata.errors import InputError, MismatchError, reading
from eventdata.files.archives.index import Index, Labels, Place
from eventdata.files.archives.ranges import file_state, open_window
from eventdata.files.archives.tars import tar_members
from eventdata.files.archives.zips import zip_members
from eventdata.files.base import WORK, Files, is_url

MAX_MEMBERS = 1 << 24  # ImageNet has 1.3 million
MAX_NAME = 4096  # bytes, as of a path on Linux
REQUESTS = 16  # at once; each waits for the network

_PLAIN = re.compile(r"(?:\w[\w.-]*/)*\w[\w.-]*", re.ASCII)
_UNSAFE = re.compile(r"\\|\0|://|::|^/|(?:^|/)\.\.(?:/|$)")


@dataclass
class Kept:
    """The indexes of a job, read from its ``.work`` and written there once it has begun."""

    files: Files
    new: dict[str, bytes] = field(default_factory=dict)

    def read(self, archive: str, about: list[Any]) -> Index | None:
        """Return the index of an archive in this state, None where it is missing or damaged."""
        data = self.files.read(_key(archive))
        index = None if data is None else Index.from_bytes(data, about)
        if index is not None and data is not None:
            self.new[_key(archive)] = data  # --overwrite removes it
        return index

    def add(self, archive: str, about: list[Any], index: Index) -> None:
        """Keep an index until it is saved."""
        self.new[_key(archive)] = index.to_bytes(about)

    def save(self) -> None:
        """Write the indexes; the next call of a stopped job reads them."""
        if self.new:
            self.files.write(self.new)
            self.new = {}


_kept: ContextVar[Kept | None] = ContextVar("kept", default=None)


@contextlib.contextmanager
def keep_indexes(files: Files) -> Iterator[Kept]:
    """Use the indexes in the ``.work`` of a job while this is open; collect new ones for it."""
    kept = Kept(files)
    token = _kept.set(kept)
    try:
        yield kept
    finally:
        _kept.reset(token)
        _read_index.cache_clear()  # a million names


def _key(archive: str) -> str:
    return f"{WORK}/index-{hashlib.sha256(os.fsencode(archive)).hexdigest()[:32]}"


def index_of(archive: str) -> Index:
    """Return the index of an archive, made anew where its size or time has changed.

    Raises:
        InputError: it can't be read, is damaged, or has members that are refused.
    """
    with reading(archive):
        return _read_index(archive, file_state(archive))


def read_indexes(archives: Sequence[str]) -> None:
    """Make the indexes of several archives at once if they are behind a URL."""
    if len(archives) > 1 and is_url(archives[0]):
        contexts = [copy_context() for _ in archives]  # with the indexes that the job keeps
        with ThreadPoolExecutor(REQUESTS) as threads:
            list(threads.map(lambda context, one: context.run(index_of, one), contexts, archives))


@lru_cache(maxsize=4096)
def _read_index(archive: str, state: tuple[int, int]) -> Index:
    kept, about = _kept.get(), [archive, *state]
    found = None if kept is None else kept.read(archive, about)
    if found is not None:
        return found
    labels = Labels()
    try:
        with open_window(archive, state[0]) as window:
            head = window.read(0, 512)
            zipped = head.startswith((b"PK\3\4", b"PK\5\6"))
            zipped |= archive.lower().endswith(".zip") and head[257:262] != b"ustar"
            members = zip_members(window) if zipped else tar_members(window, labels.add)
            index = Index.of(_checked(members), labels.of_keys)
    except InputError as error:
        raise InputError(f"{archive}: {error}") from None
    if file_state(archive) != state:
        raise changed(archive)
    if kept is not None:
        kept.add(archive, about, index)
    return index


def changed(archive: str) -> MismatchError:
    """Return the error for an archive that changes during a call."""
    return MismatchError(
        f"{archive}: changed while it was read; wait until nothing writes to the input, then run "
        "the same command again"
    )


def _checked(members: Iterator[tuple[str, Place]]) -> Iterator[tuple[str, Place]]:
    """Yield all members; raise InputError for a name that leaves the folder, or too many."""
    for count, (name, place) in enumerate(members, 1):
        if count > MAX_MEMBERS:
            raise InputError(f"more than {MAX_MEMBERS:,} members; divide the archive")
        if len(name) <= MAX_NAME and _PLAIN.fullmatch(name):
            yield name, place
            continue
        plain = "/".join(part for part in name.split("/") if part not in ("", "."))
        if not plain or _UNSAFE.search(name) or len(os.fsencode(name)) > MAX_NAME:
            raise InputError(f"member {name!r} leaves the folder; make the archive again")
        yield plain, place
