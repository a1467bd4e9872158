"""Training killed and stopped where no file is written: within steps, evaluations, the test."""

import json
import sys
from pathlib import Path

from programs import run_program

TOOLS = Path(__file__).parents[2] / "tools"

SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from faulting.forks import Forks
from faulting.jobs import train_job

def at(name, number, signal_number):
    '''Signal this process in call ``number`` of a method of the module.'''
    def arm():
        from train.module import Classifier
        real, calls = getattr(Classifier, name), []
        def method(self, *args):
            calls.append(1)
            if len(calls) == number:
                os.kill(os.getpid(), signal_number)
            return real(self, *args)
        setattr(Classifier, name, method)
    return arm

def jumping_clock():
    real, calls = time.time, []
    def now():
        calls.append(1)
        return real() + (-1) ** len(calls) * 1e9
    time.time = now

folder = Path(sys.argv[2])
job = train_job(folder)
forks = Forks(job, folder / "forks")
forks.get_ready()
code, told = forks.call(lambda: None)
assert code == 0, told
whole = job.content(forks.out)
forks.renew()
ended = {}
for moment, arm in {
    "Ctrl-C in a step": at("training_step", 2, signal.SIGINT),
    "killed in an evaluation": at("validation_step", 3, signal.SIGKILL),
    "terminated in a step": at("training_step", 4, signal.SIGTERM),
    "killed in the test": at("test_step", 1, signal.SIGKILL),
}.items():
    code, told = forks.call(arm)
    ended[moment] = [code, told]
code, told = forks.call(jumping_clock)
assert code == 0, told
faults = [] if job.content(forks.out) == whole else ["other weights"]
forks.renew()
code, told = forks.call(jumping_clock)
assert code == 0, told
faults += [] if job.content(forks.out) == whole else ["other weights by another clock"]
print(json.dumps([ended, faults]))
"""


def test_stopped_at_any_moment(tmp_path):
    done = run_program([sys.executable, "-c", SCRIPT, TOOLS, tmp_path])
    assert done.returncode == 0, done.stderr
    ended, faults = json.loads(done.stdout.splitlines()[-1])
    assert {moment: code for moment, (code, _) in ended.items()} == {
        "Ctrl-C in a step": 130,
        "killed in an evaluation": -9,
        "terminated in a step": 130,
        "killed in the test": -9,
    }
    for code, told in ended.values():
        assert "Traceback" not in told
        assert ("stopped; call the same again to go on" in told) == (code == 130)
    assert not faults
