"""What a worker process worked on when it died: told by memory that it shares with its parent."""

import ctypes
import os
import signal
from collections.abc import Iterable
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from eventdata.errors import EventDataError

NOTE_BYTES = 1024

_ENDED_BY_THE_POOL = (None, 0, -signal.SIGTERM)  # exit codes: a pool that broke ends the others
_NOT_KNOWN = 255  # multiprocessing's, where the fork server died too
_note: tuple[Any, int] | None = None  # in a worker: the notes of all, and where its own begins


class Notes:
    """One note a worker; made by the parent, handed to each worker as it starts."""

    def __init__(self, context: BaseContext, workers: int) -> None:
        self.text: Any = context.RawArray(ctypes.c_char, workers * NOTE_BYTES)
        self.taken: Any = context.Value("i", 0)

    def take(self) -> None:
        """In a worker: from now on `working_on` writes to a note of its own."""
        global _note
        with self.taken:
            _note = self.text, self.taken.value * NOTE_BYTES
            self.taken.value += 1

    def of_the_dead(self, processes: Iterable[BaseProcess]) -> list[str]:
        """What befell each worker that ended by itself, and over what, as far as that is known."""
        over = {}
        for start in range(0, len(self.text), NOTE_BYTES):
            note = self.text[start : start + NOTE_BYTES].rstrip(b"\0")
            pid, _, what = note.decode(errors="backslashreplace").partition(" ")
            over[pid] = what
        dead = {process: process.exitcode for process in processes}
        return [
            f"while it read {over[str(process.pid)]} ({_ending(code)})"
            for process, code in dead.items()
            if code not in (*_ENDED_BY_THE_POOL, _NOT_KNOWN) and over.get(str(process.pid))
        ]


def working_on(what: str) -> None:
    """In a worker process: note what would be to blame should it die now."""
    if _note is not None:
        text, start = _note
        note = f"{os.getpid()} {what}".encode(errors="backslashreplace")[:NOTE_BYTES]
        text[start : start + NOTE_BYTES] = note.ljust(NOTE_BYTES, b"\0")


def out_of_memory(what: str) -> EventDataError:
    """For a worker that lives to tell."""
    return EventDataError(
        f"{what}: memory ran out while it was read; what is done is kept: call again to go on, "
        "with fewer workers"
    )


def _ending(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "killed, as the system does when memory runs out"
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
