"""Run programs with a deadline; a program that hangs reports where."""

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

    After ``deadline`` seconds it is stopped, and the test fails with the tracebacks of all
    threads.
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
            out, stderr = process.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGABRT)  # makes faulthandler print tracebacks
            _, stderr = process.communicate()
            pytest.fail(f"hangs after {deadline} s: {stderr}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, out, stderr)
