"""Read AEDAT files of any version that has a decoder; the first line states the version."""

import re
from pathlib import Path

from eventdata.errors import InputError
from eventdata.formats import aedat2, aedat4
from eventdata.formats.decoding import Recording

VERSIONS = {"2.0": aedat2.read, "4.0": aedat4.read}


def read(path: Path) -> Recording:
    """Read an AEDAT file of one of ``VERSIONS``."""
    with path.open("rb") as file:
        first = re.match(rb"#!AER-DAT([0-9.]+)\r?\n", file.read(64))
    if first is None:
        raise InputError("not an AEDAT file: it does not begin with #!AER-DAT")
    version = first[1].decode()
    if version not in VERSIONS:
        raise InputError(
            f"AEDAT {version} is not supported, only {' and '.join(VERSIONS)}; convert it to 4.0"
        )
    return VERSIONS[version](path)
