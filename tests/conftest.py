"""Fixtures shared by all tests: where the real data lies."""

import os
import signal
from pathlib import Path

import pytest

# Several processes run the tests at once. Threads of torch, which wait for work in a loop, would
# take the cores from each other. Programs that tests start get this with the environment.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Programs that tests start import `tests` and `tools` as the tests do.
ROOT = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))

# What a shell's script starts in the background ignores Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data: ``EVENTDATA_SHARED``, or ``../shared/data`` beside the checkout."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EVENTDATA_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set EVENTDATA_SHARED)")
    return folder
