"""Files in folders and behind URLs, read and written whole."""

import os
from pathlib import Path

from eventdata.files.base import WORK, Files, is_url, path_or_url
from eventdata.files.local import LocalFiles
from eventdata.files.remote import RemoteFiles
from eventdata.files.zipped import SUFFIX, ZipFiles

__all__ = ["WORK", "Files", "is_url", "open_files", "path_or_url"]


def open_files(place: str | os.PathLike[str]) -> Files:
    """Return the files at a path, in a ``.zip`` or at a URL, such as those of a store.

    ``~`` is the user's folder.
    """
    text = path_or_url(place)
    if is_url(text):
        return RemoteFiles(text)
    # Absolute, because the program may change its folder while the store is open.
    path = Path(text).expanduser().absolute()
    zipped = path.suffix.lower() == SUFFIX and not path.is_dir()
    return ZipFiles(path) if zipped else LocalFiles(path)
