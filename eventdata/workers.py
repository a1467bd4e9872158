"""Run tasks through any `concurrent.futures.Executor`, and the process pool used by default."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker, util
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from eventdata.deaths import Notes
from eventdata.errors import EventDataError, OptionError

Task = TypeVar("Task")
Result = TypeVar("Result")

FOREIGN_BACKLOG = 256  # tasks handed at a time to an executor whose size is not known
LONGEST_SOCKET_PATH = 104  # bytes, of the systems where it is shortest
CHECK_SECONDS = 2.0  # without a result, after which a pool is looked after


def _nothing() -> None: ...


@dataclass(frozen=True)
class Pool:
    """Where tasks run. check: raises where those that are waited for will never end."""

    executor: Executor
    backlog: int
    """Tasks handed out at a time."""
    check: Callable[[], None] = _nothing
    cancels: bool = True
    """Whether tasks that have not begun are cancelled when another has failed."""


@contextlib.contextmanager
def open_pool(
    workers: int,
    *,
    executor: Executor | None = None,
    scheduler: str | None = None,
    probe: Callable[[], str | None],
) -> Iterator[Pool]:
    """``workers`` processes of this machine, or an executor, or the cluster of a Dask scheduler.

    probe: see `eventdata.cluster`, where it travels by pickle.
    """
    if executor is not None and scheduler is not None:
        raise OptionError("executor and scheduler both say where to work; give one of them")
    if scheduler is not None:
        from eventdata.cluster import cluster_pool

        with cluster_pool(scheduler, probe) as pool:
            yield pool
    elif executor is not None:
        yield Pool(executor, FOREIGN_BACKLOG)
    else:
        with worker_pool(workers) as pool:
            yield pool


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
    method = _start_method()
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["eventdata.conversion"])
    notes = Notes(context, workers)
    executor = ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_start_worker,
        initargs=(notes, util.get_temp_dir()),
    )
    # Those of this pool, told apart without `active_children`: that reads exit codes, which the
    # pool's thread reads too, and a second reader finds none.
    ours: Mapping[int, BaseProcess] = executor._processes
    try:
        with _interrupts_held():  # a half started process could be neither used nor ended
            for _ in range(workers):
                executor.submit(int)
        # One task at work and one ready for each worker. They are not cancelled: the pool's thread
        # would die of a cancelled one should a worker die, and leave the others to be waited for.
        yield Pool(executor, 2 * workers, lambda: _check_alive(ours.values()), cancels=False)
    except BaseException as error:
        if BrokenProcessPool in (type(error), type(error.__cause__)):
            executor.shutdown()  # ends the other workers; before it has, exit codes are not known
            raise _died(notes.of_the_dead(ours.values())) from None
        raise
    finally:
        _end(executor, ours.values())


def _check_alive(workers: Iterable[BaseProcess]) -> None:
    """BrokenProcessPool where one has died. Asked of what the system tells, not of exit codes."""
    if connection.wait([process.sentinel for process in workers], timeout=0):
        raise BrokenProcessPool


def _end(executor: ProcessPoolExecutor, workers: Iterable[BaseProcess]) -> None:
    """End all workers at once, also those that have nothing to do.

    Asked by the pool to end, they would wait for each other's lock, for good where the one that has
    it was killed a moment ago.
    """
    processes = list(workers)
    for process in processes:
        process.kill()
    for process in processes:  # before the pool removes what one that starts would open
        process.join()
    executor.shutdown(cancel_futures=True)


def _start_method() -> str:
    """Never plain fork: the parent may run threads (progress bar, zarr's event loop)."""
    # A fork server listens on a socket among the temporary files, whose path has to be short.
    socket = os.path.join(util.get_temp_dir(), "listener-12345678")  # noqa: PTH118
    short = len(os.fsencode(socket)) < LONGEST_SOCKET_PATH
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if short and "forkserver" in methods else "spawn"


def run_tasks(
    pool: Pool, function: Callable[[Task], Result], tasks: Iterable[Task]
) -> Iterator[Result]:
    """Results as they come.

    The first task that fails ends it: the others are cancelled or waited for, and its error raised.
    Tasks whose workers die meanwhile are waited for no longer.
    """
    waiting = iter(tasks)
    running: set[Future[Result]] = set()
    exhausted = False
    try:
        while True:
            while not exhausted and len(running) < pool.backlog:
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
            finished, running = wait(running, CHECK_SECONDS, return_when=FIRST_COMPLETED)
            if not finished:
                pool.check()
            for future in finished:
                yield future.result()
    except BrokenProcessPool as error:
        raise _died([]) from error
    except Exception as error:
        with contextlib.suppress(EventDataError, BrokenProcessPool):
            _wait_for_all(pool, running)
        if isinstance(error, MemoryError):
            raise memory_ran_out() from None
        raise


def _wait_for_all(pool: Pool, running: set[Future[Any]]) -> None:
    if pool.cancels:
        running = {future for future in running if not future.cancel()}
    while running:
        _, running = wait(running, CHECK_SECONDS)
        if running:
            pool.check()


def memory_ran_out() -> EventDataError:
    """For who can't tell over which sample."""
    return EventDataError(
        "memory ran out; what is done is kept: call again to go on, with fewer workers or smaller "
        "shards"
    )


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits for the end; processes started within never see it, from their first moment."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # first, because starting it lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _died(known: list[str]) -> EventDataError:
    how = "; another ".join(known) or (
        "(killed, out of memory, or started by a script that calls this with workers > 1 outside "
        '`if __name__ == "__main__":`)'
    )
    return EventDataError(
        f"a worker process died {how}; what is done is kept: call again to go on, with fewer "
        "workers if memory ran out"
    )


def _start_worker(notes: Notes, temporary: str) -> None:
    """Leave Ctrl-C to the parent, and end when the parent does, even by kill -9."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    notes.take()
    parent = multiprocessing.parent_process()
    if parent is not None:
        watch = threading.Thread(target=_end_with, args=(parent.sentinel, temporary), daemon=True)
        watch.start()


def _end_with(sentinel: int, temporary: str) -> None:
    connection.wait([sentinel])
    shutil.rmtree(temporary, ignore_errors=True)  # multiprocessing's: the parent could not
    os._exit(1)
