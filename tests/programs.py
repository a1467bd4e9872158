"""Programs with a deadline, at which they tell where they hang."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

import pytest


def run_program(
    words: Sequence[object], *, deadline: float = 200
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end.

    After ``deadline`` seconds it is ended, and the test fails with the tracebacks of all threads.
    """
    with subprocess.Popen(
        [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONFAULTHANDLER": "1"},
        start_new_session=True,
    ) as process:
        try:
            out, told = process.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGABRT)  # faulthandler's cue
            _, told = process.communicate()
            pytest.fail(f"hangs after {deadline} s: {told}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, out, told)
