"""A Dask cluster as an executor: tasks run on its workers, whichever machines those are on.

Dask repeats a task whose worker has ended, and may run a task twice. A task writes the same bytes
each time, and its files appear whole, so a repetition does no harm. Each worker is checked before
its first task: it needs the same libraries, and must see the files that this process sees.
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
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

from eventdata.errors import RESUME, EventDataError, OptionError

SCHEMES = ("tcp", "tls", "ws", "wss", "ucx")
CONNECT_SECONDS = 15.0
PATIENCE_SECONDS = 60.0  # without any worker
BACKLOG = 4  # tasks submitted for each thread of the workers
# Libraries that decide the bytes of a store
LIBRARIES = ("eventdata", "numpy", "numba", "zstandard", "pillow", "av", "tonic", "aedat")

Probe = Callable[[], str | None]
"""Runs on a worker: returns what the worker does not see, None if it sees everything."""


@contextlib.contextmanager
def open_cluster(address: str, probe: Probe) -> Iterator[tuple[Executor, int, Callable[[], None]]]:
    """Yield an executor on the workers of a Dask scheduler, its backlog and its check.

    Raises:
        OptionError: Dask is not installed, the address is invalid, or a worker has other versions.
        EventDataError: the scheduler cannot be reached or is lost, it has no workers, or they do
            not see the files or repeatedly end during one task.
    """
    with contextlib.ExitStack() as stack:
        log = logging.getLogger("distributed")
        stack.callback(log.setLevel, log.level)
        log.setLevel(logging.CRITICAL + 1)  # its tracebacks repeat what is reported here
        client = stack.enter_context(_connect(address))
        watch = Watch(client, address)
        while not (threads := _threads(client)):
            watch()
            time.sleep(0.1)
        fitness = Fitness(uuid.uuid4().hex, _versions(LIBRARIES), probe)
        _check_workers(client, fitness)
        try:
            yield DaskExecutor(client, fitness), BACKLOG * threads, watch
        except Exception as error:
            with contextlib.suppress(Exception):  # of a lost scheduler: this error came first
                _end_tasks(client, fitness.run, watch)
            if isinstance(error, EventDataError):
                raise
            raise _in_one_sentence(client, address, error) from error


@dataclass(frozen=True)
class Fitness:
    """Requirements for a worker that takes part in a run; travels with each task."""

    run: str
    versions: dict[str, str | None]
    probe: Probe

    def check(self, dask_worker: Any) -> None:
        """Raise in a worker that does not meet them; it is checked once a run."""
        if self.run in _fit_for:
            return
        worker = f"the worker {dask_worker.address}"
        there = _versions(tuple(self.versions))
        for name, wanted in self.versions.items():
            if wanted is not None and there[name] != wanted:
                has = f"has {name} {there[name]}" if there[name] else f"lacks {name}"
                raise OptionError(
                    f"{worker} {has}, but this process has {wanted}, so the bytes could differ; "
                    "install the same version there"
                )
        try:
            missing = self.probe()
        except Exception as error:
            missing = _reason(error)
        if missing:
            raise EventDataError(
                f"{worker} does not see what this process sees: {missing}; "
                "put input and output into a folder that all workers share under the same path, or "
                "at a URL (s3://...)"
            )
        _fit_for.add(self.run)


_fit_for: set[str] = set()
# In a worker: running tasks of each run, and the runs that have ended.
_running: Counter[str] = Counter()
_ended: set[str] = set()
_counting = threading.Lock()


def _run_if_fit(
    fitness: Fitness, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    from distributed import get_worker

    with _counting:
        if fitness.run in _ended:
            raise CancelledError
        _running[fitness.run] += 1
    try:
        fitness.check(get_worker())
        return fn(*args, **kwargs)
    finally:
        with _counting:
            _running[fitness.run] -= 1


def _end(run: str) -> int:
    """Start no more tasks of a run in this worker; return how many are running."""
    with _counting:
        _ended.add(run)
        return _running[run]


def _end_tasks(client: Any, run: str, watch: Callable[[], None]) -> None:
    """Wait for the running tasks of a run, however long they take.

    Dask cancels tasks that have not started. Those that have would write unseen into a store that
    another command may have taken over. Workers that have not answered for a while are ignored.
    """
    heard = time.monotonic()
    while time.monotonic() - heard < PATIENCE_SECONDS:
        with contextlib.suppress(TimeoutError):
            answers = client.sync(
                client._run, _end, run, on_error="return", callback_timeout=CONNECT_SECONDS
            ).values()
            if not any(count for count in answers if isinstance(count, int)):
                return
            heard = time.monotonic()
            time.sleep(0.05)
        watch()


class DaskExecutor(Executor):
    """Runs calls on the workers of a Dask client that meet the requirements."""

    def __init__(self, client: Any, fitness: Fitness) -> None:
        # Dask would take a pure task with the same arguments for one that it has done.
        self.executor, self.fitness = client.get_executor(pure=False), fitness

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return the future of a call; Dask repeats it if its worker ends."""
        future: Future[Any] = self.executor.submit(_run_if_fit, self.fitness, fn, args, kwargs)
        return future


@dataclass
class Watch:
    """A check while tasks run: raises if they will never end."""

    client: Any
    address: str
    missing_since: float | None = None

    def __call__(self) -> None:
        """Raise EventDataError if the scheduler is lost or has had no worker for a while."""
        if self.client.status != "running":
            raise _lost(self.address)
        now = time.monotonic()
        if _threads(self.client):
            self.missing_since = None
        elif self.missing_since is None:
            self.missing_since = now
        elif now - self.missing_since > PATIENCE_SECONDS:
            raise EventDataError(
                f"the scheduler at {self.address} has had no workers for "
                f"{PATIENCE_SECONDS:.0f} s; start some with `dask worker {self.address}`; {RESUME}"
            )


@contextlib.contextmanager
def _connect(address: str) -> Iterator[Any]:
    """Yield a client of the scheduler, whose tasks are cancelled at the end."""
    try:
        from distributed import Client
    except ImportError:
        raise OptionError(
            "--scheduler needs Dask, which is not installed; run: pip install 'eventdata[dask]'"
        ) from None
    sound = False
    with contextlib.suppress(ValueError):
        parts = urlsplit(address)
        sound = parts.scheme in SCHEMES and bool(parts.hostname) and bool(parts.port)
    if not sound:
        raise OptionError(f"--scheduler needs an address like tcp://host:8786, not {address!r}")
    try:
        with ThreadPoolExecutor(1) as thread:  # this thread may run an event loop
            kind = thread.submit(asyncio.run, _identify(address)).result()
        if kind != "Scheduler":  # a client would wait forever
            raise OptionError(
                f"{address} is the address of a {kind}; pass that of a Dask scheduler"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about versions, which are checked below
            client: Any = Client(  # type: ignore[no-untyped-call]
                address, timeout=CONNECT_SECONDS, set_as_default=False
            )
    except OptionError:
        raise
    except Exception as error:
        raise EventDataError(
            f"{address}: no Dask scheduler can be reached there ({_reason(error)}); start one with "
            "`dask scheduler`, or correct the address. It needs the versions of dask and "
            "distributed that this process has"
        ) from None
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):  # of a scheduler that is gone
            client.close(timeout=CONNECT_SECONDS)


async def _identify(address: str) -> str:
    """Return which kind of Dask server answers at an address."""
    from distributed import rpc
    from distributed.security import Security

    security: Any = Security()  # type: ignore[no-untyped-call]
    arguments = security.get_connection_args("client")
    connection: Any = rpc(address, timeout=CONNECT_SECONDS, connection_args=arguments)  # type: ignore[no-untyped-call]
    async with connection as server:
        return str((await asyncio.wait_for(server.identity(), CONNECT_SECONDS))["type"])


def _threads(client: Any) -> int:
    """Return the threads of all workers, 0 if the scheduler does not answer now."""
    try:
        return sum(client.ncores(callback_timeout=CONNECT_SECONDS).values())
    except Exception:
        return 0


def _check_workers(client: Any, fitness: Fitness) -> None:
    python = platform.python_version_tuple()[:2]
    for worker, version in _run_on_workers(client, platform.python_version).items():
        if tuple(version.split(".")[:2]) != python:
            raise OptionError(
                f"the worker {worker} runs Python {version}, this process {'.'.join(python)}; "
                "start the worker with the same version"
            )
    _run_on_workers(client, fitness.check)


def _run_on_workers(client: Any, function: Callable[..., Any]) -> dict[str, Any]:
    """Return what a function returns on each worker."""
    answers: dict[str, Any] = client.run(function, on_error="return")
    for worker, answer in answers.items():
        if isinstance(answer, EventDataError):
            raise answer
        if isinstance(answer, BaseException):
            raise OptionError(
                f"the worker {worker} can't be checked ({_reason(answer)}); install the same "
                "version of eventdata there"
            )
    return answers


def _versions(names: tuple[str, ...]) -> dict[str, str | None]:
    """Return the versions of installed libraries, None for missing ones."""
    found: dict[str, str | None] = dict.fromkeys(names)
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _in_one_sentence(client: Any, address: str, error: Exception) -> Exception:
    """Return the error that ended a run, in one sentence if the cluster has caused it."""
    from distributed.scheduler import KilledWorker

    if client.status != "running":
        return _lost(address)
    if isinstance(error, KilledWorker):
        return EventDataError(
            f"workers of {address} ended one after the other during the same task "
            f"({_reason(error)}), probably out of memory; {RESUME}, with fewer threads or more "
            "memory for each worker"
        )
    if isinstance(error, CancelledError):
        return EventDataError(f"the tasks were cancelled at {address}; {RESUME}")
    return error


def _lost(address: str) -> EventDataError:
    return EventDataError(
        f"{address}: the connection to the scheduler is lost; {RESUME}, once the scheduler runs"
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return f"no answer in {CONNECT_SECONDS:.0f} s"
    return " ".join(str(error).split()) or type(error).__name__
