"""Files in folders and behind URLs, read and written whole."""

import os
from pathlib import Path

from eventdata.files.base import WORK, Files, is_url, path_or_url
from eventdata.files.local import LocalFiles
from eventdata.files.remote import RemoteFiles

__all__ = ["WORK", "Files", "is_url", "open_files", "path_or_url"]


def open_files(place: str | os.PathLike[str]) -> Files:
    """Return the files at a path or URL, such as those of a store."""
    text = path_or_url(place)
    # Absolute, because the program may change its folder while the store is open.
    return RemoteFiles(text) if is_url(text) else LocalFiles(Path(text).absolute())
