"""Worker processes: an executor whose calls end, however its processes do.

A worker has a pipe to this process and a thread here that waits for it, and shares no lock, queue
or file with the others: when it dies, even in the middle of an answer, its thread sees the pipe end
and says so, and nobody else waits. (In `concurrent.futures.ProcessPoolExecutor` workers share
queues and locks: one that is killed at a bad moment leaves the others, or the caller, waiting for
good.)
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from multiprocessing import connection, resource_tracker, util
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pickle import loads
from queue import SimpleQueue
from typing import Any

from eventdata.deaths import Note, keep_note, new_note, told_death, working_on
from eventdata.errors import EventDataError

LONGEST_SOCKET_PATH = 104  # bytes, of the systems where it is shortest


class Worker:
    """A process that runs one call after the other; used by one thread at a time."""

    def __init__(self, context: BaseContext) -> None:
        self._note = new_note(context)
        self._pipe, theirs = connection.Pipe()
        self.process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=_serve, args=(theirs, self._note, util.get_temp_dir())
        )
        self.process.start()
        theirs.close()  # or the pipe would not end with the process

    def call(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        """The result of a call in the process, or its error; EventDataError where it dies."""
        request = ForkingPickler.dumps((function, arguments, named))
        try:
            self._pipe.send_bytes(request)
            ready = connection.wait([self._pipe, self.process.sentinel])
            if self._pipe not in ready:
                raise EOFError
            answer = self._pipe.recv_bytes()
        except (EOFError, OSError):
            self.process.join()
            raise told_death(self.process.exitcode, self._note) from None
        succeeded, result = loads(answer)
        if not succeeded:
            raise result
        return result


class ProcessExecutor(Executor):
    """Runs calls in processes of this machine. They end with this one, however it ends."""

    def __init__(self, processes: int) -> None:
        """Begin to start them."""
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        self._threads = ThreadPoolExecutor(processes, "eventdata-worker")
        # In a thread: Ctrl-C comes to the main one, and finds no process half started.
        self._started = self._threads.submit(_start_workers, processes, self._idle)

    @property
    def workers(self) -> list[Worker]:
        """All of them, once they are started."""
        return self._started.result()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future of the call, which travels by pickle."""
        return self._threads.submit(self._call, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """End all processes at once, the calls that they are at with an error.

        They are not asked, for one may be stopped, or busy for long.
        """
        workers = [] if self._started.exception() else self.workers
        for worker in workers:
            worker.process.kill()
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        for worker in workers:
            worker.process.join()

    def _call(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        self._started.result()  # raises where none could be started
        worker = self._idle.get()  # there is one for each thread
        try:
            return worker.call(function, arguments, named)
        finally:
            self._idle.put(worker)


def _start_workers(count: int, idle: "SimpleQueue[Worker]") -> list[Worker]:
    method = _start_method()
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["eventdata.conversion"])
    workers: list[Worker] = []
    try:
        with _interrupts_held():
            for _ in range(count):
                workers.append(Worker(context))
    except BaseException:
        for worker in workers:
            worker.process.kill()
        raise
    for worker in workers:
        idle.put(worker)
    return workers


def _start_method() -> str:
    """Never plain fork: the parent may run threads (progress bar, zarr's event loop)."""
    # A fork server listens on a socket among the temporary files, whose path has to be short.
    socket = os.path.join(util.get_temp_dir(), "listener-12345678")  # noqa: PTH118
    short = len(os.fsencode(socket)) < LONGEST_SOCKET_PATH
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if short and "forkserver" in methods else "spawn"


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes started within by this thread never see Ctrl-C, from their first moment on."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # first, because starting it lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, note: Note, temporary: str) -> None:
    """In a worker: answer calls until this process is killed, or its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_note(note)
    parent = multiprocessing.parent_process()
    if parent is not None:
        watch = threading.Thread(target=_end_with, args=(parent.sentinel, temporary), daemon=True)
        watch.start()
    with contextlib.suppress(EOFError, OSError):  # of a parent that is gone
        while True:
            request = pipe.recv_bytes()
            working_on("")
            pipe.send_bytes(_answer(request))


def _answer(request: bytes) -> bytes | memoryview:
    try:
        function, arguments, named = loads(request)
        return ForkingPickler.dumps((True, function(*arguments, **named)))
    except BaseException as error:
        return _pickled(error)


def _pickled(error: BaseException) -> bytes | memoryview:
    """An error that can be raised again in another process, where it says whence it came."""
    if not isinstance(error, EventDataError):
        error.add_note(f"In a worker process: {traceback.format_exc()}")
    try:
        pickled = ForkingPickler.dumps((False, error))
        loads(pickled)
    except Exception:  # as of errors that take other arguments than they keep
        text = f"{type(error).__name__}: {error}"
        return ForkingPickler.dumps((False, RuntimeError(text)))
    return pickled


def _end_with(sentinel: int, temporary: str) -> None:
    connection.wait([sentinel])
    shutil.rmtree(temporary, ignore_errors=True)  # multiprocessing's: the parent could not
    os._exit(1)
