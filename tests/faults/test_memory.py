"""If memory runs out or a worker ends while it reads, the error names the sample."""

import json
import sys
from pathlib import Path

import pytest

from tests.programs import run_program

SCRIPT = """
import json, os, resource, signal, sys
from dataclasses import dataclass
from pathlib import Path
import numpy as np
import eventdata
from tests.drawn import Drawn
from eventdata.errors import EventDataError
from tests.makers import tree_digest

def by_the_limit():
    here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (here + 2**26, resource.RLIM_INFINITY))
    np.ones(2**28, np.uint8)

ENDS = {
    "limit": by_the_limit,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "exit": lambda: os._exit(3),
    "none": lambda: None,
}

@dataclass(frozen=True)
class Hungry(Drawn):
    end: str = "none"

    def read(self, sample, out):
        if sample.name == "train/s030":
            ENDS[self.end]()
        return super().read(sample, out)

def convert(end, out):
    eventdata.convert(Hungry(end=end), "", out, workers=2, shard_size=4)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    convert("none", folder / "whole.zarr")
    errors = {}
    for end in sys.argv[2:]:
        try:
            convert(end, folder / "out.zarr")
        except EventDataError as error:
            errors[end] = str(error)
    convert("none", folder / "out.zarr")
    assert tree_digest(folder / "out.zarr") == tree_digest(folder / "whole.zarr")
    print(json.dumps(errors))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_the_error_names_the_sample_of_a_dead_worker(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ends = {
        "limit": "train/s030: memory ran out while it was read",
        "killed": "ended early while it read train/s030 (killed, as the system does when memory",
        "crash": "ended early while it read train/s030 (killed by SIGSEGV)",
        "exit": "ended early while it read train/s030 (exit code 3)",
    }
    done = run_program([sys.executable, script, tmp_path, *ends])
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout)
    for end, words in ends.items():
        assert words in errors[end]
        assert "finished work is kept: run the same command again to resume" in errors[end]
