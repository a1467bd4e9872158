"""Sources whose reading can be held at one sample, for tests that interrupt it there."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.raw.source import Sample
from tests.drawn import Drawn

PATIENCE = 120  # seconds after which a test has failed


@dataclass(frozen=True)
class Gated(Drawn):
    """A source that reads sample ``held`` of train only once ``gate`` contains the file ``open``.

    The first process that reaches the sample writes its id to the file ``pid``.
    """

    counts: tuple[tuple[str, int], ...] = (("train", 24), ("test", 8))
    gate: str = ""
    held: int = 9

    def read(self, sample: Sample, out: NDArray[np.uint8]) -> int:
        if sample.name == f"train/s{self.held:03}":
            gate = Path(self.gate)
            if not (gate / "pid").exists():
                part = gate / f"pid.{os.getpid()}"
                part.write_text(str(os.getpid()))
                part.rename(gate / "pid")
            wait_for(gate / "open")
        return super().read(sample, out)


@dataclass(frozen=True)
class Deadly(Drawn):
    """A source that kills the process that reads it."""

    def read(self, sample: Sample, out: NDArray[np.uint8]) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@dataclass(frozen=True)
class Faulty(Drawn):
    """A source with a sample that can't be read."""

    def read(self, sample: Sample, out: NDArray[np.uint8]) -> int:
        if sample.details == (3,):
            raise InputError("s3: torn")
        return super().read(sample, out)


@dataclass(frozen=True)
class Laggard(Drawn):
    """A source with an unreadable sample, which is tried while another sample is being read.

    Reading the other sample takes longer and leaves the files ``begun`` and ``ended`` in
    ``gate``.
    """

    gate: str = ""
    torn: bool = True

    def read(self, sample: Sample, out: NDArray[np.uint8]) -> int:
        gate = Path(self.gate)
        if sample.details == (0,):
            wait_for(gate / "begun")
            if self.torn:
                raise InputError("s0: torn")
        if sample.details == (4,):
            (gate / "begun").touch()
            time.sleep(2)
            (gate / "ended").touch()
        return super().read(sample, out)


def wait_for(path: Path) -> str:
    """Wait until a file exists and return its content."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.02)
    return path.read_text()
