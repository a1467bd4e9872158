"""Calls of a job in forks of one process, in which things can be arranged to go wrong."""

import contextlib
import faulthandler
import io
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.jobs import Content, Job, leftovers

CALL_LIMIT = 200  # seconds: a call that takes longer hangs


@dataclass(frozen=True)
class Forks:
    """Where a job's calls run, each in a fork of this process.

    This process has imported what they need, so that a call takes little longer than its work.
    """

    job: Job
    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def operations(self) -> Path:
        """A byte for each operation that a fault could strike."""
        return self.folder / "operations"

    def get_ready(self) -> None:
        """Import and compile here what a call needs, which takes longer than the call."""
        self.renew()
        if self.job.name == "train":  # not run here: torch would start threads, which no fork has
            os.environ["OMP_NUM_THREADS"] = "1"
            import train.runs.run  # noqa: F401
        else:
            from eventdata.cli import main

            with contextlib.redirect_stdout(io.StringIO()):
                main(self.job.arguments(self.folder / "first"), standalone_mode=False)

    def renew(self) -> None:
        """Make it empty."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.temporary.mkdir(parents=True)

    def start(self, arm: Callable[[], None]) -> int:
        """Begin a call after ``arm``; returns its process."""
        said = self.folder / "said.txt"
        said.touch()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            self._in_the_fork(arm, said)
        return pid

    def call(self, arm: Callable[[], None]) -> tuple[int, str]:
        """Exit code (minus a signal) of a call after ``arm``, and what it said."""
        _, status = os.waitpid(self.start(arm), 0)
        told = (self.folder / "said.txt").read_text(errors="replace")
        return os.waitstatus_to_exitcode(status), told

    def _in_the_fork(self, arm: Callable[[], None], said: Path) -> None:
        from eventdata.cli import main

        code: Any = 70
        try:
            with said.open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            faulthandler.dump_traceback_later(CALL_LIMIT, exit=True)
            os.environ["TMPDIR"] = str(self.temporary)
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self.folder / "torch")  # kept on purpose
            tempfile.tempdir = None
            arm()
            main(self.job.arguments(self.out), prog_name="eventdata")
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def faults_of_the_next_call(self, whole: Content) -> list[str]:
        """What does not hold of a call that nothing disturbs."""
        code, told = self.call(lambda: None)
        if code:
            return [f"the next call fails: {told[-2000:]}"]
        faults = []
        if self.job.content(self.out) != whole:
            faults.append("other content than of an unbroken call")
        if left := leftovers(self.out, self.temporary):
            faults.append(f"left over: {', '.join(left)}")
        return faults
