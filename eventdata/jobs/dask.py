"""A Dask cluster as an executor: tasks run on its workers, whichever machines those are on.

Dask runs a task again whose worker died, and may run one twice; a task writes the same bytes each
time, by files that appear whole, so that no run of it can do harm. What is checked of each
worker before the first task, of one that joins later before its own: that it has the same
libraries, and sees what this process sees.
"""

import asyncio
import contextlib
import logging
import platform
import threading
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from eventdata.errors import EventDataError, OptionError

SCHEMES = ("tcp", "tls", "ws", "wss", "ucx")
CONNECT_SECONDS = 15.0
PATIENCE_SECONDS = 60.0  # without any worker
BACKLOG = 4  # tasks handed out a thread of the workers
# What decides the bytes of a store. A worker that lacks one can't differ in it, but would fail.
LIBRARIES = ("eventdata", "numpy", "numba", "zstandard", "pillow", "av", "tonic", "aedat")

Probe = Callable[[], str | None]
"""Run on each worker first: what it doesn't see, None where all is well."""


@contextlib.contextmanager
def open_cluster(address: str, probe: Probe) -> Iterator[tuple[Executor, int, Callable[[], None]]]:
    """Yield an executor on the workers of a Dask scheduler, its backlog and its check.

    Raises OptionError (Dask isn't installed, no such address, workers of other versions) and
    EventDataError (the scheduler can't be reached or is lost, no workers, they do not see the
    files, or they die of a task).
    """
    with _silent_log(), _connect(address) as client:
        threads = _wait_for_workers(client, address)
        _check_versions(client)
        _check_sight(client, probe)
        executor = DaskExecutor(client, Fitness(uuid.uuid4().hex, _versions(LIBRARIES), probe))
        try:
            yield executor, BACKLOG * threads, Watch(client, address)
        except Exception as error:
            with contextlib.suppress(Exception):  # of a lost scheduler: this error came first
                _end_tasks(client, executor.fitness.run, Watch(client, address))
            if isinstance(error, EventDataError):
                raise
            raise _told(client, address, error) from error


@dataclass(frozen=True)
class Fitness:
    """What a worker must be to take part in a run; travels with each task."""

    run: str
    versions: dict[str, str | None]
    probe: Probe

    def check(self) -> None:
        """In a worker: raise where it differs. A process is looked at once a run."""
        if self.run in _fit_for:
            return
        from distributed import get_worker

        address = str(get_worker().address)
        _check_same(address, self.versions, _versions(tuple(self.versions)))
        _check_seen(address, self.probe())
        _fit_for.add(self.run)


_fit_for: set[str] = set()
# Of this worker: tasks at work, by run; and the runs that have ended.
_at_work: Counter[str] = Counter()
_ended: set[str] = set()
_counting = threading.Lock()


def _run_if_fit(
    fitness: Fitness, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    with _counting:
        if fitness.run in _ended:
            raise CancelledError
        _at_work[fitness.run] += 1
    try:
        fitness.check()
        return fn(*args, **kwargs)
    finally:
        with _counting:
            _at_work[fitness.run] -= 1


def _end(run: str) -> int:
    """In a worker: begin no task of a run any more; how many of its tasks are at work."""
    with _counting:
        _ended.add(run)
        return _at_work[run]


def _end_tasks(client: Any, run: str, watch: Callable[[], None]) -> None:
    """Wait for the tasks of a run that are at work, however long they take.

    Dask cancels what has not begun. What has would go on unseen, and write into a place that is no
    longer its caller's. Not waited for are workers that have given no answer for a while.
    """
    silent_since = None
    while True:
        try:
            answers = client.sync(
                client._run, _end, run, on_error="return", callback_timeout=CONNECT_SECONDS
            ).values()
        except TimeoutError:
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > PATIENCE_SECONDS:
                return
        else:
            silent_since = None
            if not any(count for count in answers if isinstance(count, int)):
                return
            time.sleep(0.05)
        watch()


class DaskExecutor(Executor):
    """Runs calls on those workers of a Dask client that are fit for it."""

    def __init__(self, client: Any, fitness: Fitness) -> None:
        self.client, self.fitness = client, fitness

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future that follows Dask's."""
        # pure: or a task with the same arguments would be taken for one already done.
        task = self.client.submit(_run_if_fit, self.fitness, fn, args, kwargs, pure=False)
        future = _TaskFuture(task)
        future.set_running_or_notify_cancel()
        task.add_done_callback(future.settle)
        return future


class _TaskFuture(Future[Any]):
    """Follows a future of Dask's: it ends when that ends, by being cancelled too."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task = task

    def cancel(self) -> bool:
        self.task.cancel()
        return False

    def settle(self, task: Any) -> None:
        """Called by Dask when the task has ended."""
        if task.status == "cancelled":  # there may be nobody left to ask for more
            self.set_exception(CancelledError())
            return
        try:
            self.set_result(task.result(timeout=CONNECT_SECONDS))
        except BaseException as error:
            if isinstance(error, TimeoutError) and task.status != "error":
                # Who had the result has died, and the task is run again.
                task.add_done_callback(self.settle)
            else:
                self.set_exception(error)


class Watch:
    """Called while tasks are waited for: raises where they will never end."""

    def __init__(self, client: Any, address: str) -> None:
        self.client, self.address = client, address
        self._missing_since: float | None = None  # not of the last look: looks are rare

    def __call__(self) -> None:
        """EventDataError where the scheduler is lost, or has had no worker for a while."""
        if self.client.status != "running":
            raise _lost(self.address)
        now = time.monotonic()
        if _threads(self.client):
            self._missing_since = None
        elif self._missing_since is None:
            self._missing_since = now
        elif now - self._missing_since > PATIENCE_SECONDS:
            raise EventDataError(
                f"the scheduler at {self.address} has had no workers for "
                f"{PATIENCE_SECONDS:.0f} s; start some (dask worker {self.address}) and call "
                "again: what is done is kept"
            )


@contextlib.contextmanager
def _connect(address: str) -> Iterator[Any]:
    """A client of the scheduler; its tasks are cancelled at the end, however that comes."""
    try:
        from distributed import Client
    except ImportError:
        raise OptionError(
            "--scheduler needs Dask, which is not installed: pip install 'eventdata[dask]'"
        ) from None
    _check_address(address)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of versions: those that matter are checked below
        try:
            client: Any = Client(  # type: ignore[no-untyped-call]
                address, timeout=CONNECT_SECONDS, set_as_default=False
            )
        except Exception as error:
            raise _unreachable(address, error) from None
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):  # of a scheduler that is gone
            client.close(timeout=CONNECT_SECONDS)


def _check_address(address: str) -> None:
    """See that a scheduler answers, which a client would wait for without end."""
    try:
        parts = urlsplit(address)
        sound = parts.scheme in SCHEMES and bool(parts.hostname) and bool(parts.port)
    except ValueError:
        sound = False
    if not sound:
        raise OptionError(f"--scheduler is an address like tcp://host:8786, not {address!r}")
    try:
        with ThreadPoolExecutor(1) as thread:  # this one may run an event loop of its own
            kind = thread.submit(asyncio.run, _identify(address)).result()
    except Exception as error:
        raise _unreachable(address, error) from None
    if kind != "Scheduler":
        raise OptionError(f"{address}: is the address of a {kind}, not of a Dask scheduler")


async def _identify(address: str) -> str:
    """What kind of server of Dask's answers at an address."""
    from distributed.comm.core import connect
    from distributed.security import Security

    security: Any = Security()  # type: ignore[no-untyped-call]

    async def ask() -> str:
        arguments = security.get_connection_args("client")
        comm: Any = await connect(  # type: ignore[no-untyped-call]
            address, timeout=CONNECT_SECONDS, **arguments
        )
        try:
            await comm.write({"op": "identity", "reply": True})
            return str((await comm.read())["type"])
        finally:
            comm.abort()

    return await asyncio.wait_for(ask(), CONNECT_SECONDS)


def _unreachable(address: str, error: Exception) -> EventDataError:
    return EventDataError(
        f"{address}: no Dask scheduler can be reached there ({_reason(error)}); start one by `dask "
        "scheduler`, or correct the address; dask and distributed must be of the same version "
        "there and here"
    )


def _wait_for_workers(client: Any, address: str) -> int:
    """Threads of all workers, as soon as there is one."""
    watch = Watch(client, address)
    while not (threads := _threads(client)):
        watch()
        time.sleep(0.1)
    return threads


def _threads(client: Any) -> int:
    """Threads of all workers; of a scheduler that gives no answer now, 0."""
    try:
        return sum(client.sync(client.scheduler.ncores, callback_timeout=CONNECT_SECONDS).values())
    except Exception:
        return 0


def _check_versions(client: Any) -> None:
    here = _versions(LIBRARIES)
    python = platform.python_version_tuple()[:2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        systems = client.get_versions()["workers"]
    for worker, found in systems.items():
        version = str(found["host"]["python"]) if found else "no"
        if tuple(version.split(".")[:2]) != python:
            raise OptionError(
                f"the worker {worker} runs Python {version}, this process {'.'.join(python)}; "
                "start it with the same"
            )
    for worker, there in client.run(_report_versions(), LIBRARIES, on_error="return").items():
        if not isinstance(there, dict):
            raise OptionError(f"the worker {worker} can't tell its versions ({_reason(there)})")
        _check_same(worker, here, there)


def _check_same(
    worker: str, here: Mapping[str, str | None], there: Mapping[str, str | None]
) -> None:
    for name, wanted in here.items():
        if wanted is not None and there[name] != wanted:
            has = f"has {name} {there[name]}" if there[name] else f"lacks {name}"
            raise OptionError(
                f"the worker {worker} {has}, this process has {wanted}: the bytes could differ; "
                "install the same there"
            )


def _check_sight(client: Any, probe: Probe) -> None:
    for worker, missing in client.run(probe, on_error="return").items():
        _check_seen(worker, _reason(missing) if isinstance(missing, BaseException) else missing)


def _check_seen(worker: str, missing: str | None) -> None:
    if missing:
        raise EventDataError(
            f"the worker {worker} does not see what this process sees: {missing}; put input and "
            "output where every worker finds them under the same path (a shared folder) or URL "
            "(s3://...)"
        )


def _report_versions() -> Callable[[tuple[str, ...]], dict[str, str | None]]:
    """`_versions` as a function that travels by value: the worker may have no eventdata."""

    def report(names: tuple[str, ...]) -> dict[str, str | None]:
        from importlib import metadata

        found: dict[str, str | None] = {}
        for name in names:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = None
        return found

    return report


def _versions(names: tuple[str, ...]) -> dict[str, str | None]:
    return _report_versions()(names)


def _told(client: Any, address: str, error: Exception) -> Exception:
    """What ended a run, in one sentence where it is the cluster's doing."""
    from distributed.scheduler import KilledWorker

    if client.status != "running":
        return _lost(address)
    if isinstance(error, KilledWorker):
        return EventDataError(
            f"workers of {address} died over the same task, again and again ({_reason(error)}): "
            "out of memory, most likely; what is done is kept: call again with fewer threads or "
            "more memory a worker"
        )
    if isinstance(error, CancelledError):
        return EventDataError(
            f"the tasks were cancelled at {address}; what is done is kept: call again to go on"
        )
    return error


def _lost(address: str) -> EventDataError:
    return EventDataError(
        f"{address}: the connection to the scheduler is lost; what is done is kept: call again "
        "once it runs to go on"
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return f"no answer in {CONNECT_SECONDS:.0f} s"
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _silent_log() -> Iterator[None]:
    """Dask logs with tracebacks what is told here in one sentence."""
    log = logging.getLogger("distributed")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)
