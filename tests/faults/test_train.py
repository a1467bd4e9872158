"""Training resumes after a stop in a step, an evaluation or the test; a second run is refused."""

import json
import sys

from tests.programs import run_program

SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
from tests.faults.forks import Forks
from tests.faults.jobs import train_job

def at(owner, name, number, signal_number):
    '''Signal this process in call ``number`` of a function.'''
    def arm():
        real, calls = getattr(owner, name), []
        def function(*args, **settings):
            calls.append(1)
            if len(calls) == number:
                os.kill(os.getpid(), signal_number)
            return real(*args, **settings)
        setattr(owner, name, function)
    return arm

def jumping_clock():
    real, calls = time.time, []
    def now():
        calls.append(1)
        return real() + (-1) ** len(calls) * 1e9
    time.time = now

folder = Path(sys.argv[1])
job = train_job(folder)
forks = Forks(job, folder / "forks")
forks.get_ready()
code, printed = forks.call(lambda: None)
assert code == 0, printed
whole = job.content(forks.out)
forks.renew()
import lightning.pytorch as pl
import train.runs.stage
from train.runs.module import Classifier
ended = {}
for moment, arm in {
    "Ctrl-C in a step": at(Classifier, "training_step", 2, signal.SIGINT),
    "terminated in a step": at(Classifier, "training_step", 4, signal.SIGTERM),
    "killed in an evaluation": at(Classifier, "validation_step", 1, signal.SIGKILL),
    "killed as the state is saved": at(pl.Trainer, "save_checkpoint", 1, signal.SIGKILL),
    "killed between stages": at(train.runs.stage, "write_json", 2, signal.SIGKILL),
    "killed in a step": at(Classifier, "training_step", 5, signal.SIGKILL),
    "killed in the test": at(Classifier, "test_step", 1, signal.SIGKILL),
}.items():
    code, printed = forks.call(arm)
    ended[moment] = [code, printed]
first = forks.start(at(Classifier, "test_step", 1, signal.SIGSTOP))
os.waitpid(first, os.WUNTRACED)
second = forks.call(lambda: None)
os.kill(first, signal.SIGKILL)
os.waitpid(first, 0)
code, printed = forks.call(jumping_clock)
assert code == 0, printed
faults = [] if job.content(forks.out) == whole else ["other weights"]
forks.renew()
code, printed = forks.call(jumping_clock)
assert code == 0, printed
faults += [] if job.content(forks.out) == whole else ["other weights by another clock"]
print(json.dumps([ended, second, faults]))
"""


def test_a_run_stopped_at_any_moment_ends_with_the_same_weights(tmp_path):
    done = run_program([sys.executable, "-c", SCRIPT, tmp_path])
    assert done.returncode == 0, done.stderr
    ended, second, faults = json.loads(done.stdout.splitlines()[-1])
    assert {moment: code for moment, (code, _) in ended.items()} == {
        "Ctrl-C in a step": 130,
        "terminated in a step": 130,
        "killed in an evaluation": -9,
        "killed as the state is saved": -9,
        "killed between stages": -9,
        "killed in a step": -9,
        "killed in the test": -9,
    }
    for code, printed in ended.values():
        assert "Traceback" not in printed
        assert ("stopped; run the same command again to resume" in printed) == (code == 130)
    assert second[0] == 1
    assert "another process is training in it; wait until it ends" in second[1]
    assert not faults
