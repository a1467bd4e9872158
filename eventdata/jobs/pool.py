"""Run tasks through any `concurrent.futures.Executor`: processes by default, or a Dask cluster."""

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
from dataclasses import dataclass, field
from typing import Any, TypeVar

from eventdata.errors import RESUME, EventDataError, OptionError, check_whole
from eventdata.jobs.processes import ProcessExecutor
from eventdata.jobs.worker import leave_if_imported

Task = TypeVar("Task")
Result = TypeVar("Result")

FOREIGN_BACKLOG = 256  # tasks handed at a time to an executor whose size is not known
INTERRUPT_SECONDS = 0.2  # after which Ctrl-C takes effect
CHECK_SECONDS = 2.0  # without a result, after which a pool is checked
INSIST_SECONDS = 4.0  # after which Ctrl-C, pressed again, interrupts at once


def _nothing() -> None: ...


@dataclass(frozen=True)
class OpenPool:
    """A place where tasks run. See `run_tasks`."""

    executor: Executor
    backlog: int
    """Tasks submitted at a time."""
    check: Callable[[], None] = _nothing
    """Called while no results come: raises where they never will."""
    interrupt: Callable[[], None] = _nothing
    """Called repeatedly: raises where Ctrl-C was pressed (`ctrl_c_noted`)."""
    ends_tasks: bool = False
    """Whether running tasks end with the pool, so that nobody waits for them."""


@dataclass(frozen=True)
class Pool:
    """A choice of where tasks run, checked by `choose`."""

    workers: int
    executor: Executor | None
    scheduler: str | None

    @classmethod
    def choose(
        cls,
        workers: int,
        executor: Executor | None = None,
        scheduler: str | None = None,
        places: Iterable[str | os.PathLike[str] | None] = (),
    ) -> "Pool":
        """Check and return a choice. Call it before anything else.

        Args:
            workers: processes on this machine; 1 runs the tasks in this process.
            executor: an executor to use instead.
            scheduler: the address of a Dask scheduler to use instead.
            places: the paths and URLs that the tasks read and write.

        Raises:
            OptionError: the arguments make no sense together.
        """
        check_whole(workers=workers)
        if workers > 1:
            leave_if_imported()
        if executor is not None and scheduler is not None:
            raise OptionError("executor and scheduler exclude each other; pass one of them")
        for place in places:
            if (workers > 1 or scheduler) and place and os.fspath(place).startswith("memory://"):
                raise OptionError(
                    f"{place}: is in the memory of this process, which workers cannot see; pass "
                    "workers=1 and no scheduler"
                )
        return cls(workers, executor, scheduler)

    @contextlib.contextmanager
    def open(self, unseen: Callable[[], str | None]) -> Iterator[OpenPool]:
        """Open the pool.

        Args:
            unseen: reports what a Dask worker cannot see of the files; travels by pickle.
        """
        if self.scheduler is not None:
            from eventdata.jobs.dask import open_cluster  # Dask need not be installed

            with open_cluster(self.scheduler, unseen) as cluster, ctrl_c_noted() as interrupt:
                yield OpenPool(*cluster, interrupt)
        elif self.executor is not None:
            with ctrl_c_noted() as interrupt:
                yield OpenPool(self.executor, FOREIGN_BACKLOG, interrupt=interrupt)
        else:
            with worker_pool(self.workers) as pool:
                yield pool


class _CtrlC:
    """A handler of Ctrl-C that notes it until `interrupt` is called."""

    def __init__(self, handler: Callable[..., Any]) -> None:
        self.handler = handler
        self.process = os.getpid()
        self.noted: tuple[Any, ...] | None = None
        self.since = 0.0

    def __call__(self, *details: Any) -> None:
        if os.getpid() != self.process:  # a fork, which does not call `interrupt`
            self.handler(*details)
        elif self.noted is None:
            self.noted, self.since = details, time.monotonic()
        elif time.monotonic() - self.since > INSIST_SECONDS:  # whatever runs does not return
            self.interrupt()

    def interrupt(self) -> None:
        """Call the handler that was replaced, if Ctrl-C was pressed."""
        if self.noted is not None:
            details, self.noted = self.noted, None
            self.handler(*details)


@contextlib.contextmanager
def ctrl_c_noted() -> Iterator[Callable[[], None]]:
    """Defer Ctrl-C until the exit, or until the function that this yields is called.

    An interrupt inside the code of a lock could leave it held forever.
    """
    handler = signal.getsignal(signal.SIGINT)
    in_main = (
        threading.current_thread() is threading.main_thread()
    )  # no other thread handles signals
    if isinstance(handler, _CtrlC) and handler.process == os.getpid() and in_main:
        yield handler.interrupt
    elif callable(handler) and in_main:
        noting = _CtrlC(handler)
        signal.signal(signal.SIGINT, noting)
        try:
            yield noting.interrupt
        finally:
            signal.signal(signal.SIGINT, handler)
            noting.interrupt()
    else:
        yield _nothing


class SerialExecutor(Executor):
    """Runs each task in this process when it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run the call; return its future, which is done."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[OpenPool]:
    """Open a pool of processes that end with this one however it ends, or of this one for 1."""
    if workers == 1:
        yield OpenPool(SerialExecutor(), 1)
        return
    with ctrl_c_noted() as interrupt:
        executor = ProcessExecutor(workers)
        try:
            # Each worker has one task running and one ready. After a failure none is waited for:
            # a worker without memory may hang in `Thread.start`.
            yield OpenPool(executor, 2 * workers, interrupt=interrupt, ends_tasks=True)
        finally:
            executor.shutdown()


def run_tasks(
    pool: OpenPool, function: Callable[[Task], Result], tasks: Iterable[Task]
) -> Generator[Result, None, None]:
    """Yield the results of ``function(task)`` as they come. Close it if not exhausted.

    When a task fails or the generator is closed, the other tasks are cancelled; running ones end
    with the pool or are waited for, except after Ctrl-C. Then the error is raised.
    """
    waiting = iter(tasks)
    running: set[Future[Result]] = set()
    exhausted = False
    patience = _Patience(pool)
    try:
        while True:
            while not exhausted and len(running) < pool.backlog:
                pool.interrupt()
                try:
                    task = next(waiting)
                except StopIteration:
                    exhausted = True
                    break
                running.add(pool.executor.submit(function, task))
                if any(future.done() for future in running):
                    break  # a serial executor: yield its result before the next task starts
            if not running:
                return
            finished, running = patience.wait(running, FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    except BaseException as error:
        with contextlib.suppress(Exception):  # a lost pool raises too, but this error came first
            running = {future for future in running if not future.cancel()}
            if not isinstance(error, KeyboardInterrupt) and not pool.ends_tasks:
                _wait_for_all(pool, running)
        if isinstance(error, MemoryError):
            raise memory_ran_out() from None
        if isinstance(error, BrokenExecutor):
            raise EventDataError(f"a worker of the executor ended early; {RESUME}") from error
        raise


def _wait_for_all(pool: OpenPool, running: set[Future[Any]]) -> None:
    patience = _Patience(pool)
    while running:
        _, running = patience.wait(running, ALL_COMPLETED)


@dataclass
class _Patience:
    """Waits a little, and checks the pool in between."""

    pool: OpenPool
    since: float = field(default_factory=time.monotonic)

    def wait(
        self, running: set[Future[Result]], until: str
    ) -> tuple[set[Future[Result]], set[Future[Result]]]:
        """Return the futures that have ended, and the others."""
        finished, others = wait(running, INTERRUPT_SECONDS, return_when=until)
        self.pool.interrupt()
        if finished:
            self.since = time.monotonic()
        elif time.monotonic() - self.since > CHECK_SECONDS:
            self.pool.check()
            self.since = time.monotonic()
        return finished, others


def memory_ran_out() -> EventDataError:
    """Return the error for memory that ran out, where the sample is not known."""
    return EventDataError(f"memory ran out; {RESUME}, with fewer workers or smaller shards")
