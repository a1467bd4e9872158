"""Run tasks through any `concurrent.futures.Executor`: processes by default, or a cluster."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    wait,
)
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from eventdata.errors import EventDataError, OptionError, check_whole
from eventdata.jobs.processes import ProcessExecutor, check_may_start, leave_if_imported

Task = TypeVar("Task")
Result = TypeVar("Result")

FOREIGN_BACKLOG = 256  # tasks handed at a time to an executor whose size is not known
TELL_SECONDS = 0.2  # after which Ctrl-C is told
CHECK_SECONDS = 2.0  # without a result, after which a pool is looked after
INSIST_SECONDS = 4.0  # after which Ctrl-C, pressed again, waits no longer


def _nothing() -> None: ...


@dataclass(frozen=True)
class Pool:
    """Where tasks run."""

    executor: Executor
    backlog: int
    """Tasks handed out at a time."""
    check: Callable[[], None] = _nothing
    """Called while no results come: raises where those that are waited for never will."""
    tell: Callable[[], None] = _nothing
    """Called again and again: raises where Ctrl-C has been noted (`ctrl_c_noted`)."""
    ends_tasks: bool = False
    """Whether tasks that run end with it, so that none has to be waited for."""


def check_workers(workers: int) -> None:
    """OptionError for a number that is none. To be called before anything else."""
    check_whole(workers=workers)
    if workers > 1:
        leave_if_imported()


def check_pool(
    workers: int, executor: Executor | None = None, scheduler: str | None = None
) -> None:
    """OptionError where `open_pool` would refuse them. To be called before anything is removed."""
    if executor is not None and scheduler is not None:
        raise OptionError("executor and scheduler both say where to work; give one of them")
    if workers > 1 and executor is None and scheduler is None:
        check_may_start()


@contextlib.contextmanager
def open_pool(
    workers: int,
    *,
    executor: Executor | None = None,
    scheduler: str | None = None,
    probe: Callable[[], str | None],
) -> Iterator[Pool]:
    """``workers`` processes of this machine, or an executor, or the cluster of a Dask scheduler.

    probe: see `eventdata.jobs.dask`, where it travels by pickle.
    """
    check_pool(workers, executor, scheduler)
    if scheduler is not None:
        from eventdata.jobs.dask import cluster_pool

        with cluster_pool(scheduler, probe) as pool, ctrl_c_noted() as tell:
            yield replace(pool, tell=tell)
    elif executor is not None:
        with ctrl_c_noted() as tell:
            yield Pool(executor, FOREIGN_BACKLOG, tell=tell)
    else:
        with worker_pool(workers) as pool:
            yield pool


class _CtrlC:
    """A handler of Ctrl-C that notes it for `tell`."""

    def __init__(self, handler: Callable[..., Any]) -> None:
        self.handler = handler
        self.process = os.getpid()
        self.noted: tuple[Any, ...] | None = None
        self.since = 0.0

    def __call__(self, *details: Any) -> None:
        if os.getpid() != self.process:  # a fork, where nobody asks
            self.handler(*details)
        elif self.noted is None:
            self.noted, self.since = details, time.monotonic()
        elif time.monotonic() - self.since > INSIST_SECONDS:  # what runs does not ask
            self.tell()

    def tell(self) -> None:
        """Do what it would have done."""
        if self.noted is not None:
            details, self.noted = self.noted, None
            self.handler(*details)


@contextlib.contextmanager
def ctrl_c_noted() -> Iterator[Callable[[], None]]:
    """Within, Ctrl-C raises nothing, but in calls of what this yields, and at the end.

    For who waits for threads: Python's locks may stay held, for good, where it raises in the middle
    of their code.
    """
    handler = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()  # no other one ever sees it
    if isinstance(handler, _CtrlC) and handler.process == os.getpid() and in_main:
        yield handler.tell
    elif callable(handler) and in_main:
        noting = _CtrlC(handler)
        signal.signal(signal.SIGINT, noting)
        try:
            yield noting.tell
        finally:
            signal.signal(signal.SIGINT, handler)
            noting.tell()
    else:
        yield _nothing


class SerialExecutor(Executor):
    """Runs each task in this process when it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future that is already done."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[Pool]:
    """``workers`` processes, or this process for 1. They end with this process, however it ends."""
    if workers == 1:
        yield Pool(SerialExecutor(), 1)
        return
    with ctrl_c_noted() as tell:
        executor = ProcessExecutor(workers)
        try:
            # For each worker a task at work and one ready. After a failure none is waited for:
            # where memory ran out a worker may never come back (`Thread.start` waits for good).
            yield Pool(executor, 2 * workers, tell=tell, ends_tasks=True)
        finally:
            executor.shutdown()


def run_tasks(
    pool: Pool, function: Callable[[Task], Result], tasks: Iterable[Task]
) -> Generator[Result, None, None]:
    """Results as they come.

    The first task that fails ends it: the others are cancelled, waited for (but not after Ctrl-C),
    or end with the pool, and its error is raised. So it is where it is closed: who may leave its
    results before the last closes it.
    """
    waiting = iter(tasks)
    running: set[Future[Result]] = set()
    exhausted = False
    patience = _Patience(pool)
    try:
        while True:
            while not exhausted and len(running) < pool.backlog:
                pool.tell()
                try:
                    task = next(waiting)
                except StopIteration:
                    exhausted = True
                    break
                running.add(pool.executor.submit(function, task))
                if any(future.done() for future in running):
                    break  # a serial executor: tell its result before the next one starts
            if not running:
                return
            finished, running = patience.wait(running, FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    except BaseException as error:
        with contextlib.suppress(Exception):  # of those that are lost too: this error came first
            running = {future for future in running if not future.cancel()}
            if not isinstance(error, KeyboardInterrupt) and not pool.ends_tasks:
                _wait_for_all(pool, running)
        if isinstance(error, MemoryError):
            raise memory_ran_out() from None
        if isinstance(error, BrokenExecutor):
            raise EventDataError(
                "a worker of the executor died; what is done is kept: call again to go on"
            ) from error
        raise


def _wait_for_all(pool: Pool, running: set[Future[Any]]) -> None:
    patience = _Patience(pool)
    while running:
        _, running = patience.wait(running, ALL_COMPLETED)


@dataclass
class _Patience:
    """Waits a little, and looks after the pool in between."""

    pool: Pool
    since: float = field(default_factory=time.monotonic)

    def wait(
        self, running: set[Future[Result]], until: str
    ) -> tuple[set[Future[Result]], set[Future[Result]]]:
        """Futures that have ended, and the others."""
        finished, others = wait(running, TELL_SECONDS, return_when=until)
        self.pool.tell()
        if finished:
            self.since = time.monotonic()
        elif time.monotonic() - self.since > CHECK_SECONDS:
            self.pool.check()
            self.since = time.monotonic()
        return finished, others


def memory_ran_out() -> EventDataError:
    """For who can't tell over which sample."""
    return EventDataError(
        "memory ran out; what is done is kept: call again to go on, with fewer workers or smaller "
        "shards"
    )
