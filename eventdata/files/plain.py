"""Opening files of strangers: plain ones alone, because to open a pipe waits for a writer."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from eventdata.errors import EventDataError


def check_plain(path: Path | str) -> os.stat_result:
    """The status of a file, links followed; OSError for a pipe, a device or nothing at all.

    Folders pass: to open one is an OSError by itself.
    """
    status = os.stat(path)  # noqa: PTH116 str or Path
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise OSError(errno.EINVAL, "a pipe or device, not a plain file", str(path))
    return status


def read_plain(path: Path, most: int | None = None) -> bytes:
    """All bytes of a plain file; OSError as `check_plain`, or where they are more than most."""
    status = check_plain(path)
    if most is not None and status.st_size > most:
        reason = f"{status.st_size:,} bytes, it has at most {most:,}"
        raise OSError(errno.EFBIG, reason, str(path))
    return path.read_bytes()


@contextlib.contextmanager
def told_if_too_deep(folder: Path, kind: type[EventDataError]) -> Iterator[None]:
    """An error of that kind where folders lie in each other beyond what Python walks through."""
    try:
        yield
    except RecursionError:
        raise kind(f"{folder}: folders in it are nested too deeply; move or remove those") from None
