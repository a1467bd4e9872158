"""What a worker process worked on when it died: told by memory that it shares with its parent."""

import contextlib
import ctypes
import signal
from multiprocessing.context import BaseContext
from typing import Any, TypeAlias

from eventdata.errors import EventDataError, OptionError

NOTE_BYTES = 1024

Note: TypeAlias = Any  # ctypes' array of NOTE_BYTES characters

NOT_KNOWN = 255  # multiprocessing's exit code, where the fork server died
NOTHING_YET = " "  # of a worker that has begun and reads no sample
UNGUARDED = 86  # ours, of a worker that would start workers itself: see `leave_if_imported`
NO_GUARD = (
    "workers import the script that calls this, and it calls outside "
    '`if __name__ == "__main__":`; put the call there, or call with workers=1'
)

_note: Note | None = None  # in a worker: its own


def new_note(context: BaseContext) -> Note:
    """For one worker; made by the parent."""
    return context.RawArray(ctypes.c_char, NOTE_BYTES)


def keep_note(note: Note) -> None:
    """In a worker process: from now on `working_on` writes there."""
    global _note
    _note = note


def working_on(what: str) -> None:
    """In a worker process: note what would be to blame should it die now."""
    if _note is not None:
        _note.raw = what.encode(errors="backslashreplace")[:NOTE_BYTES].ljust(NOTE_BYTES, b"\0")


def told_death(code: int | None, note: Note) -> EventDataError:
    """What befell a worker that ended by itself, and over what, as far as that is known."""
    noted = note.raw.rstrip(b"\0").decode(errors="backslashreplace")
    what = "" if noted == NOTHING_YET else noted
    if code == UNGUARDED:
        return OptionError(NO_GUARD)
    if code in (None, NOT_KNOWN):
        how = "(killed, or out of memory)"
    elif code == 1 and not noted:
        how = "(as it began: workers import the script that calls this; why is told above)"
    else:
        how = f"{f'while it read {what} ' if what else ''}({_ending(code)})"
    return EventDataError(
        f"a worker process died {how}; what is done is kept: call again to go on, with fewer "
        "workers if memory ran out"
    )


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
        with contextlib.suppress(ValueError):  # of real-time signals
            return f"killed by {signal.Signals(-code).name}"
        return f"killed by signal {-code}"
    return f"exit code {code}"
