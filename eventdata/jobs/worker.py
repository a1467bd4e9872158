"""The program of a worker process, and the note of what it reads, for when it ends early.

A worker runs the calls that its parent sends through a socket, which is its standard input. Its
standard output is a file that holds the note; the parent reads it after the worker has ended.
"""

import _thread
import contextlib
import io
import os
import pickle
import runpy
import signal
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any
from weakref import WeakSet

from eventdata.errors import RESUME, EventDataError, OptionError

BOOT = """import sys
sys.path[:] = sys.argv[3:]
from eventdata.jobs.worker import serve
serve(*sys.argv[1:3])"""  # imports nothing from the folder that it runs in

NOTE_BYTES = 1024
NOTHING_YET = " "  # the note of a worker that has started and reads no sample
UNGUARDED = 86  # exit code of a worker that would start workers itself
NO_GUARD = (
    "worker processes import the script that defines this source, and it starts a conversion "
    'outside `if __name__ == "__main__":`; move the call inside it, or pass workers=1'
)
SCRIPT = "__mp_main__"  # what multiprocessing calls the parent's script in a child

open_sockets: WeakSet[Connection] = WeakSet()  # closed in forks, or they would hide an exit
_note: int | None = None  # in a worker: the descriptor of its note
_imports_script = False  # in a worker: whether it runs the parent's script


def working_on(what: str) -> None:
    """Note in a worker process what it reads now, for the error if it ends early."""
    if _note is not None:
        data = what.encode(errors="backslashreplace")[:NOTE_BYTES].ljust(NOTE_BYTES, b"\0")
        with contextlib.suppress(OSError):  # as of a full disk: the note matters less than the work
            os.pwrite(_note, data, 0)


@contextlib.contextmanager
def background() -> Iterator[Callable[..., None]]:
    """Yield a function that runs a call in a thread, once the call before it has ended.

    In a worker it runs the call itself: each has a core, and may lack memory for a thread.
    """
    if _note is not None:
        yield lambda function, *arguments: function(*arguments)
        return
    with ThreadPoolExecutor(1, "eventdata-background") as thread:
        calls: list[Future[Any]] = [thread.submit(int)]

        def submit(function: Callable[..., None], *arguments: Any) -> None:
            calls.pop().result()
            calls.append(thread.submit(function, *arguments))

        yield submit
        calls.pop().result()


def leave_if_imported() -> None:
    """End a worker that imports its parent's script and would repeat what its parent does.

    The parent then raises OptionError with the reason.
    """
    if _imports_script:
        os._exit(UNGUARDED)


def early_exit(code: int, note: bytes) -> EventDataError:
    """Return the error for a worker that ended early, with the sample that it was reading.

    The code is 0 where another part of the program took it; the note is empty before the start.
    """
    if code == UNGUARDED:
        return OptionError(NO_GUARD)
    how = f"exit code {code}"
    if code == 0:
        how = "killed, or out of memory"
    elif code == -signal.SIGKILL:
        how = "killed, as the system does when memory runs out"
    elif code < 0:
        how = f"killed by signal {-code}"
        with contextlib.suppress(ValueError):  # of real-time signals
            how = f"killed by {signal.Signals(-code).name}"
    noted = note.rstrip(b"\0").decode(errors="backslashreplace")
    when = f"while it read {noted} " if noted.strip() else ""
    if code and not noted:
        when, how = "as it started ", f"{how}; its output has the reason"
    return EventDataError(
        f"a worker process ended early {when}({how}); {RESUME}, with fewer workers if memory ran "
        "out"
    )


def out_of_memory(what: str) -> EventDataError:
    """Return the error for a sample that was being read when memory ran out."""
    return EventDataError(f"{what}: memory ran out while it was read; {RESUME}, with fewer workers")


def serve(module: str, path: str) -> None:
    """Run the calls that the parent sends, until it ends or kills this process.

    The parent's script is ``module``, if it was started by ``python -m``, or the file ``path``.
    """
    global _note
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)  # standard error, where that is closed
    connection = Connection(os.dup(0))
    open_sockets.add(connection)
    _note = os.dup(1)
    os.dup2(null, 0)
    os.dup2(2, 1)  # what libraries print
    working_on(NOTHING_YET)
    requests: SimpleQueue[bytes] = SimpleQueue()
    # Not threading.Thread, whose start waits forever where memory runs out.
    _thread.start_new_thread(_receive_requests, (connection, requests))
    while True:
        request = requests.get()
        working_on(NOTHING_YET)
        answer = _answer(request, module, path)
        with contextlib.suppress(OSError):
            connection.send_bytes(answer)


def _receive_requests(connection: Connection, requests: "SimpleQueue[bytes]") -> None:
    """End this process with its parent, also in the middle of a call."""
    try:
        while True:
            requests.put(connection.recv_bytes())
    finally:
        os._exit(1)


def _answer(request: bytes, module: str, path: str) -> bytes:
    try:
        function, arguments, named = _Unpickler(request, module, path).load()
        return pickle.dumps((True, function(*arguments, **named)))
    except Exception as error:
        return _pickled_error(error)
    except BaseException as error:  # sys.exit() and the like, which would end the caller
        return _pickled_error(RuntimeError(f"{type(error).__name__}: {error}"))


class _Unpickler(pickle.Unpickler):
    """Imports the parent's script where a call refers to it."""

    def __init__(self, data: bytes, *script: str) -> None:
        super().__init__(io.BytesIO(data))
        self._script = script

    def find_class(self, module: str, name: str) -> Any:
        if module == "__main__" and sys.modules["__main__"].__name__ != SCRIPT:
            _import_script(*self._script)
        return super().find_class(module, name)


def _import_script(module: str, path: str) -> None:
    global _imports_script
    run: Callable[..., dict[str, Any]] = runpy.run_module if module else runpy.run_path
    if module or path:
        _imports_script = True
        content = run(module or path, run_name=SCRIPT)
        _imports_script = False
        script = types.ModuleType(SCRIPT)
        script.__dict__.update(content)
        sys.modules["__main__"] = sys.modules[SCRIPT] = script


def _pickled_error(error: Exception) -> bytes:
    """Return an error that can be raised again in the parent, with its traceback as a note."""
    if not isinstance(error, EventDataError):
        error.add_note(f"In a worker process: {traceback.format_exc()}")
    try:
        pickled = pickle.dumps((False, error))
        pickle.loads(pickled)
    except Exception:  # as of errors that take other arguments than they keep
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
    return pickled


def _close_sockets() -> None:
    for connection in list(open_sockets):
        connection.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_sockets)
