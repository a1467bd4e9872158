"""A Dask cluster makes the same bytes and reports problems in one sentence."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import fsspec
import pytest
from click.testing import CliRunner

import eventdata
from eventdata.cli import main
from eventdata.errors import EventDataError, InputError, OptionError, StoreError
from eventdata.files import open_files
from eventdata.generation import generate
from eventdata.jobs import dask as cluster
from eventdata.jobs.job import Claim
from tests.drawn import Drawn
from tests.gated import PATIENCE, Deadly, Faulty, Gated, Laggard, wait_for
from tests.makers import make_es_imagenet, make_images, tree_digest
from tests.s3 import serve

START = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""
CONVERT = """
import sys
import eventdata
from tests.gated import Gated
if __name__ == "__main__":
    gate, out, scheduler = sys.argv[1:]
    try:
        eventdata.convert(Gated(gate=gate), "", out, shard_size=4, scheduler=scheduler)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@contextlib.contextmanager
def cluster_of(count):
    """A cluster of worker processes."""
    from distributed import LocalCluster

    # Starting workers sets OMP_NUM_THREADS and similar here, which later tests would pass on.
    with (
        mock.patch.dict(os.environ),
        LocalCluster(
            n_workers=count, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as started,
    ):
        yield started


@pytest.fixture(scope="module")
def workers():
    """Two workers, for tests that do not end them."""
    with cluster_of(2) as started:
        yield started


@pytest.fixture
def mortal():
    """Two workers for a test to kill; Dask does not restart each of them."""
    with cluster_of(2) as started:
        yield started


@pytest.fixture
def outside(tmp_path):
    """A cluster in its own process, for a test to kill: the process and the address."""
    script = tmp_path / "start.py"
    script.write_text(START)
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield process, process.stdout.readline().strip()
        process.stdin.close()


@pytest.fixture
def gate(tmp_path):
    folder = tmp_path / "gate"
    folder.mkdir()
    yield folder
    (folder / "open").touch()  # nothing waits longer than the test


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Digest of what the gated source makes on this machine."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "open").touch()
    eventdata.convert(Gated(gate=str(folder)), "", folder / "store.zarr", shard_size=4)
    return tree_digest(folder / "store.zarr")


class Background(threading.Thread):
    """Runs a call in a thread; ``end`` gives its result, or raises its error."""

    def __init__(self, call):
        super().__init__(daemon=True)
        self.call, self.result, self.error = call, None, None
        self.start()

    def run(self):
        try:
            self.result = self.call()
        except BaseException as error:
            self.error = error

    def end(self):
        self.join(PATIENCE)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


class DiesOnceWhenSent:
    """A result that ends the first worker to send it, and arrives as 7 from the second."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        if not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return int, (7,)


def time_out():
    raise TimeoutError("of the network")


def unseen_by_nobody():
    """The probe of a task without files."""


class TestSameResult:
    def test_bytes_by_the_command(self, workers, tmp_path):
        raw = make_es_imagenet(tmp_path / "raw")
        eventdata.convert("es-imagenet", raw, tmp_path / "local.zarr", shard_size=4)
        out = tmp_path / "out.zarr"
        where = ["--scheduler", workers.scheduler_address]
        words = ["convert", "es-imagenet", str(raw), str(out), "--shard-size", "4", *where]
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output
        assert tree_digest(out) == tree_digest(tmp_path / "local.zarr")
        done = CliRunner().invoke(main, ["verify", str(out), "--against", str(raw), *where])
        assert done.exit_code == 0, done.output
        assert "16 compared" in done.output
        shard = out / "train/frames/c/1/0/0/0/0"
        shard.write_bytes(shard.read_bytes()[:-1])
        done = CliRunner().invoke(main, ["verify", str(out), *where])
        assert done.exit_code == 1
        assert "shard 1" in done.output

    def test_generated_files(self, workers, tmp_path):
        images = make_images(tmp_path / "images")
        generate("es-imagenet", images, tmp_path / "local", min_events=1)
        address = workers.scheduler_address
        generate("es-imagenet", images, tmp_path / "out", min_events=1, scheduler=address)
        assert tree_digest(tmp_path / "out") == tree_digest(tmp_path / "local")

    def test_unreadable_samples(self, workers, tmp_path):
        address = workers.scheduler_address
        with pytest.raises(InputError, match="^s3: torn$"):
            eventdata.convert(Faulty(), "", tmp_path / "a", shard_size=4, scheduler=address)
        for name, where in (("a", {"scheduler": address}), ("b", {})):
            out = tmp_path / name
            result = eventdata.convert(
                Faulty(), "", out, shard_size=4, on_error="skip", overwrite=True, **where
            )
            assert result.skipped == 2
        assert tree_digest(tmp_path / "a") == tree_digest(tmp_path / "b")

    def test_a_task_that_times_out_by_itself(self, workers):
        with (
            cluster.open_cluster(workers.scheduler_address, unseen_by_nobody) as opened,
            pytest.raises(TimeoutError, match="of the network"),
        ):
            opened[0].submit(time_out).result(PATIENCE)

    def test_running_tasks_have_ended_when_the_call_fails(self, workers, tmp_path, gate):
        """A task that runs on would write into a store that the next call may have replaced."""
        address, source = workers.scheduler_address, Laggard(gate=str(gate))
        with pytest.raises(InputError, match="^s0: torn$"):
            eventdata.convert(source, "", tmp_path / "a", shard_size=4, scheduler=address)
        assert (gate / "ended").exists()


class TestEarlyExit:
    def test_a_worker_killed_in_the_middle(self, mortal, tmp_path, gate, whole):
        out, source = tmp_path / "out.zarr", Gated(gate=str(gate))
        run = Background(
            lambda: eventdata.convert(
                source, "", out, shard_size=4, scheduler=mortal.scheduler_address
            )
        )
        os.kill(int(wait_for(gate / "pid")), signal.SIGKILL)
        (gate / "open").touch()
        assert run.end().state == "complete"
        assert tree_digest(out) == whole

    def test_a_worker_killed_in_the_middle_of_a_store_on_s3(self, tmp_path, gate, whole):
        with (
            pytest.MonkeyPatch.context() as patch,
            serve(patch),  # first: workers inherit its address
            cluster_of(2) as mortal,
        ):
            bucket = fsspec.filesystem("s3")
            bucket.mkdir("many")
            run = Background(
                lambda: eventdata.convert(
                    Gated(gate=str(gate)),
                    "",
                    "s3://many/store",
                    shard_size=4,
                    scheduler=mortal.scheduler_address,
                )
            )
            os.kill(int(wait_for(gate / "pid")), signal.SIGKILL)
            (gate / "open").touch()
            assert run.end().state == "complete"
            bucket.get("many/store", str(tmp_path / "copy"), recursive=True)
        assert tree_digest(tmp_path / "copy") == whole

    def test_a_task_that_kills_every_worker(self, mortal, tmp_path, monkeypatch):
        monkeypatch.setattr(mortal.scheduler, "allowed_failures", 0)
        with pytest.raises(EventDataError, match="ended one after the other during the same task"):
            eventdata.convert(
                Deadly(), "", tmp_path / "out.zarr", scheduler=mortal.scheduler_address
            )

    def test_a_result_whose_worker_ends_before_it_is_fetched_is_made_again(self, mortal, tmp_path):
        marker = tmp_path / "marker"
        with cluster.open_cluster(mortal.scheduler_address, unseen_by_nobody) as opened:
            assert opened[0].submit(DiesOnceWhenSent, marker).result(PATIENCE) == 7
        assert marker.exists()

    def test_the_scheduler_lost(self, outside, tmp_path, gate, whole):
        process, address = outside
        out, source = tmp_path / "out.zarr", Gated(gate=str(gate))
        run = Background(
            lambda: eventdata.convert(source, "", out, shard_size=4, scheduler=address)
        )
        wait_for(gate / "pid")
        process.kill()
        with pytest.raises(EventDataError, match=f"{address}: the connection to the scheduler is"):
            run.end()
        with pytest.raises(StoreError, match="has not finished"):
            eventdata.open_store(out)
        (gate / "open").touch()
        assert eventdata.convert(source, "", out, shard_size=4).done_before >= 8
        assert tree_digest(out) == whole

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
    def test_the_caller_stopped(self, outside, tmp_path, gate, whole, how):
        """Its tasks are cancelled; one that runs on does no harm to a later store."""
        from distributed import Client

        _, address = outside
        out = tmp_path / "out.zarr"
        with subprocess.Popen(
            [sys.executable, "-c", CONVERT, str(gate), str(out), address],
            stderr=subprocess.DEVNULL,
        ) as process:
            wait_for(gate / "pid")
            process.send_signal(how)
            assert process.wait(PATIENCE) == (130 if how == signal.SIGINT else -how)
        with Client(address, set_as_default=False) as client:
            deadline = time.monotonic() + PATIENCE
            while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            # Another store takes the place while the worker is still in the middle of a shard.
            other = Drawn(counts=(("train", 24), ("test", 8)), kind="count")
            eventdata.convert(other, "", out, shard_size=4, overwrite=True)
            expected = tree_digest(out)
            (gate / "open").touch()
            while any(client.processing().values()) or any(
                client.run(lambda dask_worker: dask_worker.state.executing_count).values()
            ):
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert tree_digest(out) == expected
        assert eventdata.verify(out).ok
        eventdata.convert(Gated(gate=str(gate)), "", out, shard_size=4, overwrite=True)
        assert tree_digest(out) == whole


class TestErrors:
    @pytest.fixture
    def impatient(self, monkeypatch):
        monkeypatch.setattr(cluster, "CONNECT_SECONDS", 2.0)

    @pytest.fixture
    def attempt(self, tmp_path):
        """Convert with a scheduler; return the text of the error."""

        def attempt(address, kind=EventDataError):
            with pytest.raises(kind) as error:
                eventdata.convert(Drawn(), "", tmp_path / "out.zarr", scheduler=address)
            assert type(error.value) is kind
            assert "\n" not in str(error.value)
            return str(error.value)

        return attempt

    @pytest.mark.parametrize("address", ["here", "host:8786", "http://host:8786", "tcp://host:x"])
    def test_invalid_address(self, attempt, address):
        text = attempt(address, OptionError)
        assert text == f"--scheduler needs an address like tcp://host:8786, not {address!r}"

    @pytest.mark.usefixtures("impatient")
    def test_no_server_at_the_address(self, attempt):
        with socket.socket() as bound:  # it does not listen, and no other program can get its port
            bound.bind(("127.0.0.1", 0))
            port = bound.getsockname()[1]
            text = attempt(f"tcp://127.0.0.1:{port}")
        assert text.startswith(f"tcp://127.0.0.1:{port}: no Dask scheduler can be reached there (")

    @pytest.mark.usefixtures("impatient")
    def test_a_server_that_does_not_answer(self, attempt):
        with socket.create_server(("127.0.0.1", 0)) as server:
            assert "no answer in 2 s" in attempt(f"tcp://127.0.0.1:{server.getsockname()[1]}")

    def test_a_server_of_another_kind(self, attempt, workers):
        address = workers.workers[0].worker_address
        assert attempt(address, OptionError) == (
            f"{address} is the address of a Worker; pass that of a Dask scheduler"
        )

    def test_no_workers(self, attempt, monkeypatch):
        monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 0.5)
        with cluster_of(0) as empty:
            assert "has had no workers for" in attempt(empty.scheduler_address)

    @pytest.mark.parametrize(
        ("here", "error"),
        [
            ({"zstandard": "0.0.1"}, "this process has 0.0.1, so the bytes could differ"),
            ({"no-such-library": "1"}, "lacks no-such-library, but this process has 1"),
        ],
    )
    def test_other_versions(self, attempt, workers, monkeypatch, here, error):
        monkeypatch.setattr(cluster, "LIBRARIES", tuple(here))
        monkeypatch.setattr(cluster, "_versions", lambda names: here)
        text = attempt(workers.scheduler_address, OptionError)
        assert text.startswith("the worker tcp://127.0.0.1:")
        assert error in text

    def test_other_versions_of_a_worker_that_joins_later(self, attempt, workers, monkeypatch):
        """It joins after the first workers have been checked."""
        monkeypatch.setattr(cluster, "_check_workers", lambda *_: None)
        monkeypatch.setattr(cluster, "_versions", lambda names: {"zstandard": "0.0.1"})
        text = attempt(workers.scheduler_address, OptionError)
        assert text.startswith("the worker tcp://127.0.0.1:")
        assert "this process has 0.0.1, so the bytes could differ" in text

    def test_another_python(self, attempt, workers, monkeypatch):
        monkeypatch.setattr(cluster.platform, "python_version_tuple", lambda: ("3", "99", "0"))
        assert "this process 3.99; start the worker with the same version" in attempt(
            workers.scheduler_address, OptionError
        )

    def test_a_worker_without_eventdata(self, attempt):
        from distributed import Client

        with cluster_of(1) as started:
            with Client(started, set_as_default=False) as client:
                client.run(lambda: sys.modules.update({"eventdata.jobs.dask": None}))
            text = attempt(started.scheduler_address, OptionError)
        assert "can't be checked (" in text
        assert text.endswith("install the same version of eventdata there")

    def test_dask_is_not_installed(self, attempt, monkeypatch):
        monkeypatch.setitem(sys.modules, "distributed", None)
        assert attempt("tcp://host:8786", OptionError).endswith("pip install 'eventdata[dask]'")

    def test_folders_that_are_not_shared(self, workers, tmp_path, monkeypatch):
        """/proc/self/cwd is another folder in each process, as /data may be on each machine."""
        raw = make_es_imagenet(tmp_path / "raw")
        monkeypatch.chdir(tmp_path)
        address = workers.scheduler_address
        mine = "/proc/self/cwd"
        if not Path(mine).is_dir():
            pytest.skip("needs /proc")
        with pytest.raises(EventDataError) as error:
            eventdata.convert("es-imagenet", raw, f"{mine}/out.zarr", scheduler=address)
        assert f"does not see what this process sees: {mine}/out.zarr is missing" in str(
            error.value
        )
        with pytest.raises(EventDataError) as error:
            eventdata.convert("es-imagenet", f"{mine}/raw", tmp_path / "out", scheduler=address)
        assert f"process sees: {mine}/raw/train/" in str(error.value)
        assert "share under the same path, or at a URL" in str(error.value)

    def test_unseen_files(self, tmp_path):
        files = open_files(tmp_path)
        files.prepare()
        files.write({"key": b"content"})
        claim = Claim(files, "key", b"content")
        assert claim.unseen() is None
        other = replace(claim, content=b"other")
        assert other.unseen() == f"{tmp_path} is missing or another folder"
        path = str(tmp_path / "key")
        for key, what in ((path, "another file"), ("/none", "missing")):
            assert replace(claim, inputs={key: (7, 0)}).unseen() == f"{key} is {what}"

    def test_executor_and_scheduler_exclude_each_other(self, tmp_path):
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor() as threads, pytest.raises(OptionError, match="pass only one"):
            eventdata.convert(
                Drawn(), "", tmp_path / "out", executor=threads, scheduler="tcp://host:8786"
            )


class TestPatience:
    """Answers of Dask at bad moments, given by mocks."""

    def test_patience_begins_when_the_workers_are_gone(self, monkeypatch):
        """Not at the last check, because nothing checks the cluster while results come."""
        client = mock.Mock(status="running")
        monkeypatch.setattr(cluster, "_threads", lambda client: client.threads)
        clock = mock.Mock()  # of that module only
        clock.monotonic.side_effect = [0, 1000, 1060, 1061]
        monkeypatch.setattr(cluster, "time", clock)
        watch = cluster.Watch(client, "tcp://here:1")
        client.threads = 4
        watch()
        client.threads = 0
        watch()
        watch()
        with pytest.raises(EventDataError, match="has had no workers for 60 s"):
            watch()

    def test_tasks_are_waited_for_but_silent_workers_are_not(self, monkeypatch):
        answers = [{"a": 1, "b": OSError()}, TimeoutError, {"a": 1}, {"a": 0, "b": 0}]

        class Client:
            _run = None

            def sync(self, *_, **__):
                answer = answers.pop(0) if answers else TimeoutError
                if answer is TimeoutError:
                    raise TimeoutError
                return answer

        cluster._end_tasks(Client(), "run", lambda: None)
        assert not answers
        monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 0.1)
        cluster._end_tasks(Client(), "run", lambda: None)
