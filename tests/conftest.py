"""Fixtures shared by all tests: the folder of real data."""

import os
import signal
from pathlib import Path

import pytest

# Several processes run the tests at once. Waiting threads of torch spin, so they would take the
# cores from each other. Programs that tests start inherit this with the environment.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Programs started by tests import `tests` and `tools` as the tests do.
ROOT = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))

# A shell script's background jobs ignore Ctrl-C, and every program started here would too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real data: ``EVENTDATA_SHARED``, or ``../shared/data`` by default."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EVENTDATA_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set EVENTDATA_SHARED)")
    return folder
