"""Worker processes: an executor whose calls always end, even if a process dies.

A worker is a program of its own (`eventdata.jobs.worker`) with a socket to this process and a
thread here that waits for its answers. Workers share no lock, queue or file: when one ends, even in
the middle of an answer, its thread sees the socket close and raises an error, and nothing else
waits. In `concurrent.futures.ProcessPoolExecutor` workers share queues and locks, so one that is
killed at a bad moment can leave the others or the caller waiting forever.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from multiprocessing import Pipe
from queue import SimpleQueue
from typing import Any

from eventdata.errors import EventDataError
from eventdata.jobs.worker import BOOT, NOTE_BYTES, SCRIPT, early_exit, open_sockets

NAME = "eventdata-worker"
END_SECONDS = 5.0  # that a process may take to end after its socket has closed


class Worker:
    """A process that runs one call after the other; used by one thread at a time."""

    def __init__(self) -> None:
        main = sys.modules["__main__"]
        sys.modules.setdefault(SCRIPT, main)  # answers may hold what the script defines
        module = getattr(getattr(main, "__spec__", None), "name", "")
        path = os.path.abspath(getattr(main, "__file__", None) or "")  # noqa: PTH100
        with contextlib.ExitStack() as stack:
            self._socket, theirs = map(stack.enter_context, Pipe())
            open_sockets.update((self._socket, theirs))
            self._note = stack.enter_context(tempfile.TemporaryFile(buffering=0))
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    *(f"-W{option}" for option in sys.warnoptions),
                    *("-c", BOOT, module, path),
                    *sys.path,
                ],
                stdin=theirs.fileno(),
                stdout=self._note,
            )
            theirs.close()  # or the socket would not close with the process
            self._opened = stack.pop_all()

    def call(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        """Return the result of a call in the process, or raise its error, also if it ends early."""
        request = pickle.dumps((function, arguments, named))
        try:
            self._socket.send_bytes(request)
            answer = self._socket.recv_bytes()
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):  # if the fault is on this side
                self.process.wait(END_SECONDS)
            self.process.kill()
            note = os.pread(self._note.fileno(), NOTE_BYTES, 0)
            raise early_exit(self.process.wait(), note) from None
        except BaseException:
            self.process.kill()  # half an answer may lie in the socket
            raise
        succeeded, result = pickle.loads(answer)
        if not succeeded:
            raise result
        return result

    def close(self) -> None:
        """Close what a killed worker holds open here, once no thread waits for it.

        Not left to the garbage collector, because an error's traceback may keep a worker for long.
        """
        self.process.wait()
        self._opened.close()


class ProcessExecutor(Executor):
    """Runs calls in processes of this machine. They end with this one, however it ends."""

    def __init__(self, processes: int) -> None:
        self.workers: list[Worker] = []
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        self._threads = ThreadPoolExecutor(processes, NAME)
        try:
            # The processes never see Ctrl-C, from their first moment on.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                while len(self.workers) < processes:
                    self.workers.append(Worker())
                    self._idle.put(self.workers[-1])
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except BaseException as error:
            self.shutdown()
            if isinstance(error, OSError):
                raise _cannot_start(str(error)) from None
            raise

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return a future of the call, which travels by pickle."""
        try:
            return self._threads.submit(self._call, fn, args, kwargs)
        except RuntimeError as error:  # no more threads
            raise _cannot_start(str(error)) from None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """End all processes at once; their running calls raise an error."""
        for worker in self.workers:
            worker.process.kill()  # not asked: it may be stopped, or busy for long
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        while wait and self.workers:
            self.workers.pop().close()

    def _call(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        worker = self._idle.get()  # there is one for each thread
        try:
            return worker.call(function, arguments, named)
        finally:
            self._idle.put(worker)


def _cannot_start(reason: str) -> EventDataError:
    return EventDataError(
        f"worker processes can't be started ({reason}); run with fewer, or with workers=1"
    )
