"""Fixtures shared by all tests: where the real data lies."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data: ``EVENTDATA_SHARED``, or ``../shared/data`` beside the checkout."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EVENTDATA_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set EVENTDATA_SHARED)")
    return folder
