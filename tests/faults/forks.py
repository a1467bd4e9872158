"""Run a job's calls in forks of one process, where faults can be injected."""

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

CALL_LIMIT = 200  # seconds after which a call counts as hanging


@dataclass(frozen=True)
class Forks:
    """The place of a job's calls, each in a fork of this process.

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
        """The file with one byte for each operation that a fault could strike."""
        return self.folder / "operations"

    def get_ready(self) -> None:
        """Import and compile what a call needs, because that takes longer than a call."""
        self.renew()
        if self.job.name == "train":  # not run: torch would start threads, which forks lack
            os.environ["OMP_NUM_THREADS"] = "1"
            import train.runs.run  # noqa: F401
        else:
            from eventdata.cli import main

            with contextlib.redirect_stdout(io.StringIO()):
                main(self.job.arguments(self.folder / "first"), standalone_mode=False)

    def renew(self) -> None:
        """Empty the place."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.temporary.mkdir(parents=True)

    def start(self, arm: Callable[[], None]) -> int:
        """Start a call after ``arm`` and return its process id."""
        said = self.folder / "said.txt"
        said.touch()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            self._in_the_fork(arm, said)
        return pid

    def call(self, arm: Callable[[], None]) -> tuple[int, str]:
        """Return the exit code of a call after ``arm`` (minus a signal), and its output."""
        _, status = os.waitpid(self.start(arm), 0)
        output = (self.folder / "said.txt").read_text(errors="replace")
        return os.waitstatus_to_exitcode(status), output

    def _in_the_fork(self, arm: Callable[[], None], said: Path) -> None:
        from eventdata.cli import main

        code: Any = 70
        try:
            with said.open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            faulthandler.dump_traceback_later(CALL_LIMIT, exit=True)
            os.environ["TMPDIR"] = str(self.temporary)
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self.folder / "torch")  # kept between calls
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
        """Return what is wrong after a call without faults."""
        code, output = self.call(lambda: None)
        if code:
            return [f"the next call fails: {output[-2000:]}"]
        faults = []
        if self.job.content(self.out) != whole:
            faults.append("content differs from that of an uninterrupted call")
        if left := leftovers(self.out, self.temporary):
            faults.append(f"left over: {', '.join(left)}")
        return faults
