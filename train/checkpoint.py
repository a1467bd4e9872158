"""What is checked of a torch file before torch reads it, which bounds neither size nor time."""

import pickletools
import zipfile
from pathlib import Path
from typing import IO

from eventdata.errors import InputError
from eventdata.plain import check_plain

MAX_TEXT = 4096
"""Characters of a name in the file. torch seeks in its messages, names among them, by patterns that
take time with the square of the length: 100 seconds of 70,000 characters."""
_LEGACY_PICKLES = 5  # a file of before torch 1.6 begins with so many, then come the numbers


def check_torch_file(path: Path) -> None:
    """InputError unless a file is stored without compression, its names of a sensible length.

    What is compressed could become of any size; torch's own files are not. Nothing is unpickled.
    OSError where it is no plain file that can be read; ValueError or a kind of zipfile's where it
    is none of torch.
    """
    check_plain(path)
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # as torch tells the two kinds
            file.seek(0)
            for _ in range(_LEGACY_PICKLES):
                _check_texts(file)
            return
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED:
                    raise InputError("it is compressed, which torch's files are not")
                if info.filename.endswith(".pkl"):
                    with archive.open(info) as inside:
                        _check_texts(inside)


def _check_texts(pickled: IO[bytes]) -> None:
    for _, value, _ in pickletools.genops(pickled):
        if isinstance(value, str | bytes) and len(value) > MAX_TEXT:
            raise InputError(f"it has a name of {len(value):,} characters")
