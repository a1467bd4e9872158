"""Read AEDAT files of any version (docs.inivation.com, file formats)."""

import re
from pathlib import Path

from eventdata.errors import InputError
from eventdata.formats import aedat2, aedat3, aedat4
from eventdata.formats.decoding import DecodeOptions, Recording


def read(path: Path, options: DecodeOptions) -> Recording:
    """Read a file of the version that its first line states, one of ``_VERSIONS``."""
    with path.open("rb") as file:
        first = re.match(rb"#!AER-DAT([0-9.]+)\r?\n", file.read(64))
    if first is None:
        raise InputError("not an AEDAT file: it does not begin with #!AER-DAT")
    version = first[1].decode()
    if version not in _VERSIONS:
        raise InputError(
            f"AEDAT {version} is not supported, only {', '.join(_VERSIONS)}; convert it to 4.0"
        )
    return _VERSIONS[version](path, options)


_VERSIONS = {"2.0": aedat2.read, "3.1": aedat3.read, "4.0": aedat4.read}
