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
from multiprocessing import connection, forkserver
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
        with _interrupts_ignored():  # by the server too, even while it loads
            forkserver.ensure_running()
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
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
def _interrupts_ignored() -> Iterator[None]:
    """Processes started within ignore Ctrl-C from their first moment on."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signals
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
