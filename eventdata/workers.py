"""Run tasks through any `concurrent.futures.Executor`, and the process pool used by default."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, resource_tracker
from typing import Any, TypeVar

from eventdata.errors import EventDataError

Task = TypeVar("Task")
Result = TypeVar("Result")


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
def worker_pool(workers: int) -> Iterator[Executor]:
    """``workers`` processes, or this process for 1. They end with this process, however it ends."""
    if workers == 1:
        yield SerialExecutor()
        return
    # Never plain fork: the parent may run threads (progress bar, zarr's event loop).
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(["eventdata.conversion"])
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        with _interrupts_held():  # a half started process could be neither used nor ended
            for _ in range(workers):
                pool.submit(int)
        yield pool
    except BaseException:
        ours = set(multiprocessing.active_children()) - before
        for process in ours:
            process.terminate()
        for process in ours:  # before the pool takes away what one that still starts would open
            process.join()
        pool.shutdown(cancel_futures=True)
        raise
    finally:
        pool.shutdown()


def run_tasks(
    executor: Executor, function: Callable[[Task], Result], tasks: Iterable[Task], backlog: int
) -> Iterator[Result]:
    """Results as they come, at most ``backlog`` tasks handed out at a time.

    The first task that fails ends it: the others are cancelled or waited for, and its error raised.
    """
    waiting = iter(tasks)
    running: set[Future[Result]] = set()
    exhausted = False
    try:
        while True:
            while not exhausted and len(running) < backlog:
                try:
                    task = next(waiting)
                except StopIteration:
                    exhausted = True
                    break
                running.add(executor.submit(function, task))
                if any(future.done() for future in running):
                    break  # a serial executor: tell its result before the next one starts
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    except BrokenProcessPool:
        raise EventDataError(
            "a worker process died: killed, out of memory, or started by a script that calls this "
            'with workers > 1 outside `if __name__ == "__main__":`; what is done is kept: call '
            "again to go on, with fewer workers if memory ran out"
        ) from None
    except Exception:
        for future in running:
            future.cancel()
        wait(running)
        raise


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


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent does, even by kill -9."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    sys.stderr.flush()
    os._exit(1)
