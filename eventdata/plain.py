"""Opening files of strangers: plain ones alone, because to open a pipe waits for a writer."""

import errno
import os
import stat
from pathlib import Path


def check_plain(path: Path | str) -> os.stat_result:
    """The status of a file, links followed; OSError for a pipe, a device or nothing at all.

    Folders pass: to open one is an OSError by itself.
    """
    status = os.stat(path)  # noqa: PTH116 str or Path
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise OSError(errno.EINVAL, "a pipe or device, not a plain file", str(path))
    return status


def read_plain(path: Path) -> bytes:
    """All bytes of a plain file; OSError as `check_plain`."""
    check_plain(path)
    return path.read_bytes()
