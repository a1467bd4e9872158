"""No call waits for worker processes that end or stop at bad moments, and no error is lost."""

import math
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

import eventdata
from eventdata.jobs.pool import ctrl_c_noted
from tests.faults.kills import MARK, outliving
from tests.makers import make_es_imagenet, tree_digest
from tests.programs import run_program


def run_text(folder, text, *words):
    """Run a program from a file, because workers import its definitions."""
    program = folder / "program.py"
    program.write_text(text)
    return run_program([sys.executable, program, *words], deadline=60)


PROGRAM = """
import os, resource, signal, sys, time
from pathlib import Path
from eventdata.jobs import worker
from eventdata.jobs.pool import Pool, run_tasks

class OddError(Exception):
    '''Pickles, and can't be unpickled.'''
    def __init__(self, file, why):
        super().__init__(f"{file}: {why}")

def fail_oddly(task):
    raise OddError("a.bin", "a damaged header")

def fail(task):
    raise ZeroDivisionError("of nothing")

def leave(task):
    sys.exit(0)

def die_of_an_odd_signal(task):
    os.kill(os.getpid(), 40)

def die_in_the_middle_of_an_answer(task):
    def send_some(connection, message):
        os.write(connection.fileno(), (len(message).to_bytes(4, "big") + message)[:20_000])
        os.kill(os.getpid(), signal.SIGKILL)
    worker.Connection.send_bytes = send_some
    return bytes(2_000_000)

BEGUN, FAILED = (Path(__file__).with_name(name) for name in ("begun", "failed"))

def wait_for(path):
    while not path.exists():
        time.sleep(0.01)

def die_once_another_has_failed(task):
    if task == 0:
        wait_for(BEGUN)
        raise ValueError("first")
    BEGUN.touch()
    wait_for(FAILED)
    os._exit(3)

def stopped_when_the_caller_leaves(task):
    pass

def no_files_left(task):
    pass

if __name__ == "__main__":
    work = globals()[sys.argv[1]]
    if work is no_files_left:
        resource.setrlimit(resource.RLIMIT_NOFILE, (6, 6))
    try:
        with Pool(2).open(print) as pool:
            if work is stopped_when_the_caller_leaves:
                for worker in pool.executor.workers:
                    os.kill(worker.process.pid, signal.SIGSTOP)
                raise KeyboardInterrupt
            try:
                list(run_tasks(pool, work, range(20)))
            except ValueError:  # the other worker ends while this is raised
                FAILED.touch()
                while all(worker.process.poll() is None for worker in pool.executor.workers):
                    time.sleep(0.01)
                raise
    except BaseException as error:
        print(f"{type(error).__name__}: {error}")
        print(*getattr(error, "__notes__", ()))
"""


@pytest.mark.parametrize(
    ("work", "message", "note"),
    [
        ("fail", "ZeroDivisionError: of nothing", "in fail"),
        ("fail_oddly", "RuntimeError: OddError: a.bin: a damaged header", ""),
        ("leave", "RuntimeError: SystemExit: 0", "in leave"),
        pytest.param(
            "die_of_an_odd_signal",
            "EventDataError: a worker process ended early (killed by signal 40)",
            "",
            marks=pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="no such signals"),
        ),
        (
            "die_in_the_middle_of_an_answer",
            "EventDataError: a worker process ended early (killed",
            "",
        ),
        ("die_once_another_has_failed", "ValueError: first", "In a worker process"),
        ("stopped_when_the_caller_leaves", "KeyboardInterrupt: ", ""),
        ("no_files_left", "EventDataError: worker processes can't be started (", ""),
    ],
)
def test_the_call_ends_with_the_reason(tmp_path, work, message, note):
    done = run_text(tmp_path, PROGRAM, work)
    assert (done.returncode, done.stderr) == (0, "")
    first, _, rest = done.stdout.partition("\n")
    assert first.startswith(message)
    assert note in rest


ONE_AFTER_THE_OTHER = """
import gc, json, os, signal, subprocess, sys, time
from concurrent.futures import wait
from pathlib import Path
from eventdata.jobs.pool import Pool, run_tasks

def fail(task):
    raise KeyError("nothing")

def environment(task):
    return os.environ.get("SET_LATER"), os.environ.get("UNSET_LATER")

def note_and_wait(folder):
    (Path(folder) / f"pid-{os.getpid()}").touch()
    time.sleep(100)

def child(folder):
    with Pool(2).open(print) as pool:
        list(run_tasks(pool, note_and_wait, [folder] * 2))

def pids(folder, count):
    while len(found := list(Path(folder).glob("pid-*"))) < count:
        time.sleep(0.01)
    for path in found:
        path.unlink()
    return [int(path.name[4:]) for path in found]

def wait_for_end(pids):
    while any(Path(f"/proc/{pid}/exe").exists() for pid in pids):
        time.sleep(0.01)

def deaf_child():
    pid = os.fork()
    if not pid:
        try:
            signal.raise_signal(signal.SIGINT)
            os._exit(1)
        except KeyboardInterrupt:
            os._exit(0)
    return os.waitpid(pid, 0)[1] != 0

def in_one_pool(work, tasks):
    with Pool(2).open(print) as pool:
        return list(run_tasks(pool, work, tasks))

if __name__ == "__main__":
    folder, result = sys.argv[1], {}
    if sys.argv[2:]:
        child(folder)
    os.environ["UNSET_LATER"] = "before"
    in_one_pool(environment, range(2))
    del os.environ["UNSET_LATER"]
    os.environ["SET_LATER"] = "yes"
    result["environment"] = in_one_pool(environment, range(2))
    # Nothing stays open after calls that fail, whenever garbage is collected.
    gc.disable()
    opened = []
    for _ in range(4):
        try:
            in_one_pool(fail, range(8))
        except KeyError as error:
            assert error.args == ("nothing",)
        opened.append(len(os.listdir("/proc/self/fd")))
    result["opened"] = max(opened) - opened[0]
    gc.enable()
    # Workers end with the process that started them, which is killed.
    process = subprocess.Popen([sys.executable, __file__, folder, "child"])
    workers = pids(folder, 2)
    process.kill()
    process.wait()
    wait_for_end(workers)
    # One worker is killed: its call raises an error, the other worker ends with the pool.
    with Pool(2).open(print) as pool:
        futures = [pool.executor.submit(note_and_wait, folder) for _ in range(2)]
        workers = pids(folder, 2)
        os.kill(pool.executor.workers[0].process.pid, signal.SIGKILL)
        result["error"] = str(wait(futures, return_when="FIRST_COMPLETED").done.pop().exception())
        result["deaf"] = deaf_child()
    wait_for_end(workers)
    result["afterwards"] = in_one_pool(environment, range(1))
    print(json.dumps(result))
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into Linux's /proc")
def test_later_calls_are_not_affected_by_earlier_ones(tmp_path):
    done = run_text(tmp_path, ONE_AFTER_THE_OTHER, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        '{"environment": [["yes", null], ["yes", null]], "opened": 0, '
        '"error": "a worker process ended early (killed, as the system does when memory runs out); '
        "finished work is kept: run the same command again to resume, with fewer workers if memory "
        'ran out", '
        '"deaf": false, '
        '"afterwards": [["yes", null]]}\n'
    )


def test_ctrl_c_is_raised_only_where_the_caller_asks(monkeypatch):
    reached = []

    def asked():
        with ctrl_c_noted() as raise_if_pressed:
            raise_if_pressed()
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            reached.append("asked")
            raise_if_pressed()
            reached.append("not here")

    def never_asked():
        with ctrl_c_noted():
            signal.raise_signal(signal.SIGINT)
            reached.append("never asked")

    def failed():
        with ctrl_c_noted():
            signal.raise_signal(signal.SIGINT)
            raise ZeroDivisionError

    def a_call_within_a_call():
        with ctrl_c_noted(), ctrl_c_noted() as raise_if_pressed:
            signal.raise_signal(signal.SIGINT)
            reached.append("within")
            raise_if_pressed()
            reached.append("not here")

    def insisted():
        with ctrl_c_noted():
            signal.raise_signal(signal.SIGINT)
            reached.append("insisted")
            time.sleep(0.1)
            signal.raise_signal(signal.SIGINT)
            reached.append("not here")

    for press in (asked, never_asked, failed, a_call_within_a_call, insisted):
        # Only the last one insists, even on a slow machine.
        seconds = 0.05 if press is insisted else math.inf
        monkeypatch.setattr("eventdata.jobs.pool.INSIST_SECONDS", seconds)
        with pytest.raises(KeyboardInterrupt):
            press()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert reached == ["asked", "never asked", "within", "insisted"]


UNGUARDED = """
import sys
from dataclasses import dataclass
import eventdata
from tests.drawn import Drawn

@dataclass(frozen=True)
class Own(Drawn):
    pass

source = Own() if sys.argv[1] == "own" else Drawn()
while True:
    try:
        eventdata.convert(source, "", sys.argv[2], workers=2)
        break
    except eventdata.EventDataError as error:
        if __name__ == "__main__":
            sys.exit(str(error))
"""


def test_a_script_without_a_main_guard_starts_workers(tmp_path):
    done = run_text(tmp_path, UNGUARDED, "imported", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert eventdata.verify(tmp_path / "out").ok


def test_a_script_that_defines_its_source_needs_a_main_guard(tmp_path):
    """This also holds for a script that retries after every error, in its workers too."""
    done = run_text(tmp_path, UNGUARDED, "own", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("worker processes import the script that defines this source")


def test_a_worker_that_cannot_start_is_an_error(tmp_path):
    text = (
        "import sys\n"
        "from eventdata.jobs.pool import Pool, run_tasks\n"
        "sys.path[:] = []\n"
        "with Pool(2).open(print) as pool:\n"
        "    list(run_tasks(pool, print, range(2)))\n"
    )
    done = run_text(tmp_path, text)
    assert "a worker process ended early as it started (exit code 1; its output" in done.stderr


def test_a_daemonic_process_can_start_workers(tmp_path):
    raw, out = make_es_imagenet(tmp_path / "raw"), tmp_path / "out"
    text = (
        "import multiprocessing, eventdata, sys\n"
        "multiprocessing.current_process()._config['daemon'] = True\n"
        "print(eventdata.convert('es-imagenet', *sys.argv[1:], workers=2).state)\n"
    )
    assert run_text(tmp_path, text, raw, out).stdout == "complete\n"
    eventdata.convert("es-imagenet", raw, tmp_path / "whole")
    assert tree_digest(out) == tree_digest(tmp_path / "whole")


OWN = """
import sys
from dataclasses import dataclass
import eventdata
from tests.drawn import Drawn

@dataclass(frozen=True)
class Own(Drawn):
    pass

def main():
    print("begun")
    eventdata.convert(Own(), "", sys.argv[1], workers=2)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("words", [["own.py"], ["-m", "own"], ["-m", "package"]])
def test_a_source_defined_in_a_script_is_converted(tmp_path, monkeypatch, words):
    """The script may be a file, a module or a package; its work is done once."""
    (tmp_path / "package").mkdir()
    for name in ("own.py", "package/__main__.py"):
        (tmp_path / name).write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    done = run_program([sys.executable, *words, tmp_path / "out"], deadline=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "begun\n", "")
    assert eventdata.verify(tmp_path / "out").ok


GATED = """
from pathlib import Path
from eventdata.cli import main
from eventdata.raw.registry import SOURCES, SourceEntry
from eventdata.raw.source import SourceSettings
from tests.gated import Gated
class Build(SourceSettings):
    walks = False
    @classmethod
    def build(cls, name, root, options):
        return Gated(gate=str(root))
if __name__ == "__main__":
    SOURCES["gated"] = SourceEntry("__main__:Build", "")
    main()
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into Linux's /proc")
def test_a_second_ctrl_c_while_workers_start_leaves_no_process(tmp_path):
    """The gate keeps the conversion running until the second signal, even in a slow process."""
    script, gate = tmp_path / "gated_cli.py", tmp_path / "gate"
    script.write_text(GATED)
    gate.mkdir()
    for number, wait in enumerate((0.0, 0.05, 0.1)):
        out, mark = tmp_path / f"{number}.zarr", uuid.uuid4().hex
        words = [sys.executable, str(script), "convert", "gated", str(gate), str(out)]
        words += ["--workers", "2", "--shard-size", "4"]
        with subprocess.Popen(
            words, stderr=subprocess.DEVNULL, env=os.environ | {MARK: mark}
        ) as call:
            while not (out / ".work/plan").exists():
                assert call.poll() is None
                time.sleep(0.01)
            time.sleep(0.1)  # the workers are starting
            call.send_signal(signal.SIGINT)
            time.sleep(wait)
            call.send_signal(signal.SIGINT)
            try:
                code = call.wait(60)
            finally:
                call.kill()
        assert code in (130, 1, -signal.SIGINT)  # the others end while Python is already exiting
        assert not outliving(mark)
    (gate / "open").touch()
    subprocess.run(words, check=True)
