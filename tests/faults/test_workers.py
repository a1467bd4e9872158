"""Worker processes that die or stop at bad moments: nobody waits for them, no error is lost."""

import sys

import pytest
from programs import run_program

PROGRAM = """
import os, signal, sys, time
from multiprocessing import connection
from eventdata.workers import run_tasks, worker_pool

class OddError(Exception):
    '''Pickles, and can't be unpickled.'''
    def __init__(self, file, why):
        super().__init__(f"{file}: {why}")

def fail_oddly(task):
    raise OddError("a.bin", "a damaged header")

def fail(task):
    raise ZeroDivisionError("of nothing")

def die_in_the_middle_of_an_answer(task):
    real = connection.Connection._send
    def write_some(self, data, write=os.write):
        real(self, data[:20_000])
        os.kill(os.getpid(), signal.SIGKILL)
    connection.Connection._send = write_some
    return bytes(2_000_000)

def die_once_another_has_failed(task):
    if task == 0:
        time.sleep(0.5)
        raise ValueError("first")
    time.sleep(1.5)
    os._exit(3)

def stopped_when_the_caller_leaves(task):
    pass

if __name__ == "__main__":
    work = globals()[sys.argv[1]]
    try:
        with worker_pool(2) as pool:
            if work is stopped_when_the_caller_leaves:
                for worker in pool.executor.workers:
                    os.kill(worker.process.pid, signal.SIGSTOP)
                raise KeyboardInterrupt
            list(run_tasks(pool, work, range(20)))
    except BaseException as error:
        print(f"{type(error).__name__}: {error}")
        print(*getattr(error, "__notes__", ()))
"""


@pytest.mark.parametrize(
    ("work", "told", "note"),
    [
        ("fail", "ZeroDivisionError: of nothing", "in fail"),
        ("fail_oddly", "RuntimeError: OddError: a.bin: a damaged header", ""),
        ("die_in_the_middle_of_an_answer", "EventDataError: a worker process died (killed", ""),
        ("die_once_another_has_failed", "ValueError: first", "In a worker process"),
        ("stopped_when_the_caller_leaves", "KeyboardInterrupt: ", ""),
    ],
)
def test_the_call_ends_and_tells_why(tmp_path, work, told, note):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = run_program([sys.executable, program, work], deadline=60)
    assert (done.returncode, done.stderr) == (0, "")
    first, _, rest = done.stdout.partition("\n")
    assert first.startswith(told)
    assert note in rest
