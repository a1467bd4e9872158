"""Worker processes: an executor whose calls end, however its processes do.

A worker has a pipe to this process and a thread here that waits for it, and shares no lock, queue
or file with the others: when it dies, even in the middle of an answer, its thread sees the pipe end
and says so, and nobody else waits. (In `concurrent.futures.ProcessPoolExecutor` workers share
queues and locks: one that is killed at a bad moment leaves the others, or the caller, waiting for
good.)
"""

import _thread
import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
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
from weakref import WeakSet

from eventdata.errors import EventDataError, OptionError
from eventdata.jobs.worker import (
    NO_GUARD,
    NOT_KNOWN,
    NOTHING_YET,
    UNGUARDED,
    Note,
    keep_note,
    new_note,
    told_death,
    working_on,
)

NAME = "eventdata-worker"
END_SECONDS = 5.0  # that a process may take to end by itself
LONGEST_SOCKET_PATH = 104  # bytes, of the systems where it is shortest

_PROCESS = os.getpid()
_PIPES: WeakSet[Connection] = WeakSet()  # ends that are open here


def leave_if_imported() -> None:
    """End a worker that still imports its parent's script, and would do all that the parent does.

    Its parent then says why.
    """
    process = multiprocessing.current_process()
    if process.name == NAME and _is_importing(process):
        os._exit(UNGUARDED)


def check_may_start() -> None:
    """OptionError where this process can't have worker processes."""
    process = multiprocessing.current_process()
    if _is_importing(process):
        raise OptionError(NO_GUARD)
    if process.daemon:
        raise OptionError("a daemonic process can't have worker processes; call with workers=1")


def _is_importing(process: BaseProcess) -> bool:
    return getattr(process, "_inheriting", False)  # what multiprocessing itself goes by


def _cannot_start(reason: str) -> EventDataError:
    return EventDataError(
        f"worker processes can't be started ({reason}); call with fewer, or with workers=1"
    )


class Worker:
    """A process that runs one call after the other; used by one thread at a time.

    It ends when ``leash`` says so or breaks: multiprocessing knows nothing of its processes any
    more once their fork server has died.
    """

    def __init__(self, context: BaseContext, environment: dict[str, str]) -> None:
        self._note = new_note(context)
        self._lock = threading.Lock()  # of what follows
        self._closed = False
        # Sent, not given: what a process is given has to fit into a pipe until it has started.
        self._environment: bytes | None = _pickled(environment)
        self._pipe, theirs = connection.Pipe()
        end, self._leash = connection.Pipe(duplex=False)
        _PIPES.update((self._pipe, theirs, end, self._leash))
        self.process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=_serve, args=(theirs, end, self._note, _temporary_folder()), name=NAME
        )
        try:
            self.process.start()
        except BaseException:
            _close(self._pipe, self._leash)
            raise
        finally:
            _close(theirs, end)  # or they would not break with the process

    def call(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        """The result of a call in the process, or its error; EventDataError where it dies."""
        request = _pickled((function, arguments, named))
        try:
            if connection.wait([self.process.sentinel], 0):
                raise EOFError
            if self._environment is not None:
                self._pipe.send_bytes(self._environment)
                self._environment = None
            self._pipe.send_bytes(request)
            ready = connection.wait([self._pipe, self.process.sentinel])
            if self._pipe not in ready:
                raise EOFError
            answer = self._pipe.recv_bytes()
        except (EOFError, OSError):
            self.process.join(END_SECONDS)
            if self.process.exitcode is None:  # the fault is on this side
                self.kill()
                self.process.join()
            raise told_death(self.process.exitcode, self._note) from None
        except BaseException:
            self.kill()  # half an answer may lie in the pipe
            raise
        succeeded, result = loads(answer)
        if not succeeded:
            raise result
        return result

    def kill(self) -> None:
        """End the process. It is not asked, for it may be stopped, or busy for long."""
        with self._lock:
            if self._closed:
                return
            if not connection.wait([self.process.sentinel], 0):
                self.process.kill()
            elif self.process.exitcode == NOT_KNOWN:
                with contextlib.suppress(OSError):
                    self._leash.send_bytes(b"")

    def close(self) -> None:
        """Once it is killed, and no thread waits for it: give back what is open.

        At once, because an error's traceback may keep this worker for long.
        """
        self.process.join()
        with self._lock:
            self._closed = True
            with contextlib.suppress(ValueError):  # that it runs: others took its exit code
                self.process.close()
            _close(self._pipe, self._leash)
            self._note = None


class ProcessExecutor(Executor):
    """Runs calls in processes of this machine. They end with this one, however it ends."""

    def __init__(self, processes: int) -> None:
        """Begin to start them."""
        self._all: list[Worker] = []
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        self._over = threading.Event()
        self._threads = ThreadPoolExecutor(processes, NAME)
        # In a thread, because it takes a while, in which a caller may want to stop.
        self._started = self._submit(
            _start_workers, processes, dict(os.environ), self._all, self._idle, self._over
        )

    @property
    def workers(self) -> list[Worker]:
        """All of them, once they are started."""
        self._started.result()
        return self._all

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future of the call, which travels by pickle."""
        return self._submit(self._call, fn, args, kwargs)

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        try:
            return self._threads.submit(function, *arguments)
        except RuntimeError as error:  # no more threads
            raise _cannot_start(str(error)) from None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """End all processes at once, the calls that they are at with an error."""
        _kill(self._all, self._over)
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        while wait and self._all:
            self._all.pop().close()

    def _call(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        self._started.result()  # raises where none could be started
        worker = self._idle.get()  # there is one for each thread
        try:
            return worker.call(function, arguments, named)
        finally:
            self._idle.put(worker)


def _kill(workers: list[Worker], over: threading.Event) -> None:
    over.set()
    for worker in list(workers):
        worker.kill()


def _start_workers(
    count: int,
    environment: dict[str, str],
    workers: list[Worker],
    idle: "SimpleQueue[Worker]",
    over: threading.Event,
) -> None:
    """Start them into ``workers``, and into ``idle`` once all are there; unless it is over."""
    failure = ""
    for method in _start_methods():
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(["eventdata.conversion"])
        try:
            with _interrupts_held():
                while len(workers) < count and not over.is_set():
                    workers.append(Worker(context, environment))
            break
        except (OSError, EOFError, ImportError) as error:  # as of a fork server that died
            failure = f"{type(error).__name__}: {error}"
        while workers:
            worker = workers.pop()
            worker.kill()
            worker.close()
    else:
        raise _cannot_start(failure)
    if over.is_set():
        _kill(workers, over)
        raise EventDataError("ended while worker processes were started")
    for worker in workers:
        idle.put(worker)


def _start_methods() -> list[str]:
    """In this order. Never plain fork: the parent may run threads (progress bar, zarr's loop)."""
    # A fork server listens on a socket among the temporary files, whose path has to be short.
    socket = os.path.join(util.get_temp_dir(), "listener-12345678")  # noqa: PTH118
    short = len(os.fsencode(socket)) < LONGEST_SOCKET_PATH
    methods = multiprocessing.get_all_start_methods()
    return ["forkserver", "spawn"] if short and "forkserver" in methods else ["spawn"]


def _temporary_folder() -> str:
    """multiprocessing's, which a killed process leaves; "" where it is that of a parent."""
    if multiprocessing.parent_process() is not None or os.getpid() != _PROCESS:
        return ""
    folder: str = util.get_temp_dir()
    return folder


def _close(*pipes: Connection) -> None:
    for pipe in pipes:
        _PIPES.discard(pipe)  # first: a fork between the two may have another file of its number
        pipe.close()


def _close_pipes() -> None:
    """In a fork of this process, made by whomever: or pipes would not break with their workers."""
    for pipe in list(_PIPES):
        with contextlib.suppress(OSError):
            pipe.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_pipes)


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


def _serve(pipe: Connection, leash: Connection, note: Note, temporary: str) -> None:
    """In a worker: answer calls until this process is killed, or its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _PIPES.update((pipe, leash))
    keep_note(note)
    # Not threading.Thread, whose start waits for good where memory runs out.
    _thread.start_new_thread(_end_with, (leash, temporary))
    messages = _received(pipe)
    environment = next(messages, None)
    if environment is not None:
        os.environ.clear()  # a fork server has that of when it was started
        os.environ.update(loads(environment))
    for request in messages:
        working_on(NOTHING_YET)
        answer = _answer(request)
        with contextlib.suppress(OSError):
            pipe.send_bytes(answer)
    time.sleep(END_SECONDS)  # the other thread ends this process, once it has tidied up


def _received(pipe: Connection) -> Iterator[bytes]:
    """Messages, until there is nobody to send any."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            yield pipe.recv_bytes()


def _answer(request: bytes) -> bytes:
    try:
        function, arguments, named = loads(request)
        return _pickled((True, function(*arguments, **named)))
    except Exception as error:
        return _pickled_error(error)
    except BaseException as error:  # sys.exit() and the like, which would end the caller
        return _pickled_error(RuntimeError(f"{type(error).__name__}: {error}"))


def _pickled_error(error: Exception) -> bytes:
    """An error that can be raised again in another process, where it says whence it came."""
    if not isinstance(error, EventDataError):
        error.add_note(f"In a worker process: {traceback.format_exc()}")
    try:
        pickled = _pickled((False, error))
        loads(pickled)
    except Exception:  # as of errors that take other arguments than they keep
        return _pickled((False, RuntimeError(f"{type(error).__name__}: {error}")))
    return pickled


def _pickled(value: Any) -> bytes:
    """Not as a view: where an error's traceback keeps one, some versions of Python crash."""
    return bytes(ForkingPickler.dumps(value))


def _end_with(leash: Connection, temporary: str) -> None:
    try:
        leash.recv_bytes()
    except (EOFError, OSError):  # of a parent that was killed: it could not
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
    os._exit(1)
