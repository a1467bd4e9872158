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
from dataclasses import dataclass
from itertools import islice
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

    executor: Executor | None
    """None runs each task in this process."""
    backlog: int = 1
    """Tasks submitted at a time."""
    check: Callable[[], None] = _nothing
    """Called while no results come: raises where they never will."""
    interrupt: Callable[[], None] = _nothing
    """Called repeatedly: raises where Ctrl-C was pressed (`ctrl_c_noted`)."""


@dataclass(frozen=True)
class Pool:
    """A choice of where tasks run, checked when it is made. Make it before anything else.

    workers: processes on this machine; 1 runs the tasks in this process. executor, scheduler: an
    executor, or the address of a Dask scheduler, to use instead. places: the paths and URLs that
    the tasks read and write.
    """

    workers: int
    executor: Executor | None = None
    scheduler: str | None = None
    places: Iterable[str | os.PathLike[str] | None] = ()

    def __post_init__(self) -> None:
        check_whole(workers=self.workers)
        if self.workers > 1:
            leave_if_imported()
        if self.executor is not None and self.scheduler is not None:
            raise OptionError("executor and scheduler exclude each other; pass only one")
        elsewhere = self.workers > 1 or self.scheduler
        for place in self.places:
            if elsewhere and place and os.fspath(place).startswith("memory://"):
                raise OptionError(
                    f"{place}: is in the memory of this process, which workers cannot see; pass "
                    "workers=1 and no scheduler"
                )

    @contextlib.contextmanager
    def open(self, unseen: Callable[[], str | None]) -> Iterator[OpenPool]:
        """Open the pool; ``unseen`` returns what a Dask worker cannot see of the files.

        Processes of this machine end with this one, however it ends.
        """
        if self.scheduler is not None:
            from eventdata.jobs.dask import open_cluster  # Dask need not be installed

            with open_cluster(self.scheduler, unseen) as cluster, ctrl_c_noted() as interrupt:
                yield OpenPool(*cluster, interrupt)
        elif self.executor is not None:
            with ctrl_c_noted() as interrupt:
                yield OpenPool(self.executor, FOREIGN_BACKLOG, interrupt=interrupt)
        elif self.workers == 1:
            yield OpenPool(None)
        else:
            with ctrl_c_noted() as interrupt:
                executor = ProcessExecutor(self.workers)
                try:
                    # Each worker has one task running and one ready. After a failure none is
                    # waited for: a worker without memory may hang in `Thread.start`.
                    yield OpenPool(executor, 2 * self.workers, interrupt=interrupt)
                finally:
                    executor.shutdown()


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
    in_main = threading.current_thread() is threading.main_thread()  # which handles signals
    if not (in_main and callable(handler)):
        yield _nothing
    elif isinstance(handler, _CtrlC) and handler.process == os.getpid():
        yield handler.interrupt
    else:
        noting = _CtrlC(handler)
        signal.signal(signal.SIGINT, noting)
        try:
            yield noting.interrupt
        finally:
            signal.signal(signal.SIGINT, handler)
            noting.interrupt()


def run_tasks(
    pool: OpenPool, function: Callable[[Task], Result], tasks: Iterable[Task]
) -> Generator[Result, None, None]:
    """Yield the results of ``function(task)`` as they come. Close it if not exhausted.

    When a task fails or the generator is closed, the other tasks are cancelled; running ones end
    with the pool or are waited for, except after Ctrl-C. Then the error is raised.
    """
    waiting = iter(tasks)
    running: set[Future[Result]] = set()
    try:
        if pool.executor is None:
            yield from map(function, waiting)
            return
        while True:
            for task in islice(waiting, pool.backlog - len(running)):
                pool.interrupt()
                running.add(pool.executor.submit(function, task))
            if not running:
                return
            finished, running = _wait(pool, running, FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    except BaseException as error:
        ends_tasks = isinstance(pool.executor, ProcessExecutor)
        with contextlib.suppress(Exception):  # a lost pool raises too, but this error came first
            running = {future for future in running if not future.cancel()}
            while running and not isinstance(error, KeyboardInterrupt) and not ends_tasks:
                _, running = _wait(pool, running, ALL_COMPLETED)
        if isinstance(error, MemoryError):
            raise EventDataError(
                f"memory ran out; {RESUME}, with fewer workers or smaller shards"
            ) from None
        if isinstance(error, BrokenExecutor):
            raise EventDataError(f"a worker of the executor ended early; {RESUME}") from error
        raise


def _wait(
    pool: OpenPool, running: set[Future[Result]], until: str
) -> tuple[set[Future[Result]], set[Future[Result]]]:
    """Return the futures that have ended, at least one, and the others; check the pool."""
    checked = time.monotonic()
    while True:
        finished, others = wait(running, INTERRUPT_SECONDS, return_when=until)
        pool.interrupt()
        if finished:
            return finished, others
        if time.monotonic() - checked > CHECK_SECONDS:
            pool.check()
            checked = time.monotonic()
