"""Lists and manifests: text files whose lines name the samples."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from eventdata.errors import InputError, reading
from eventdata.files.archives.paths import Archived
from eventdata.files.inputs import RemotePath, numbers_of
from eventdata.files.local import check_plain
from eventdata.jobs.worker import out_of_memory

MAX_LIST_BYTES = 1 << 30  # the longest in use have some tens of MB
SHOWN = 5  # names in a note
_PLAIN_PATH = re.compile(r"(?:\w[\w.-]*/)*\w[\w.-]*", re.ASCII)


def safe_relative(name: str) -> bool:
    """Return whether a listed path stays inside its folder and can't be taken for a URL."""
    if _PLAIN_PATH.fullmatch(name):  # fast: a list may have a million of them
        return True
    path = Path(name)
    # :: leads from one file system of fsspec to another.
    plain = bool(name) and not re.search(r"\\|\0|://|::", name)
    return plain and not path.is_absolute() and ".." not in path.parts


def stored_name(name: str) -> str:
    """Return a file's name as text that can be stored, with bytes outside UTF-8 escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def few(names: Sequence[str]) -> str:
    """Return the first names as storable text, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(map(stored_name, names[:SHOWN])) + more


def read_lines(path: Path) -> list[str]:
    """Return the lines of a manifest or list, without line ends and blank lines at its end."""
    try:
        with reading(path, remedy="pass the folder with it"):
            if isinstance(path, Archived):
                size = path.place().size
            elif isinstance(path, RemotePath):
                size = numbers_of(str(path))[0]
            else:
                size = check_plain(path).st_size
            if size > MAX_LIST_BYTES:
                raise InputError(
                    f"{path}: {size:,} bytes are more than the {MAX_LIST_BYTES:,} of a list; get "
                    "it again"
                )
            text = path.read_text(encoding="utf-8-sig")
        return [line.rstrip() for line in text.rstrip().split("\n")] if text.strip() else []
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file; get it again") from None
    except MemoryError:
        raise out_of_memory(str(path)) from None
