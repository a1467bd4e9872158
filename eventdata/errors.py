"""The errors that eventdata raises on purpose, each one sentence: what failed, why, what to do.

ValueError
  EventDataError            the environment: a lost connection, a full disk, a dead worker
    OptionError             an invalid option or argument (exit code 2)
    InputError              a raw file, manifest or recording that cannot be used
      LeftOutError          a sound sample that the dataset's own rules exclude
    StoreError              a store that is missing, damaged, newer or not a store
      IncompleteStoreError  a store whose conversion has not finished
      MismatchError         a store made with other parameters or from other input
"""

import contextlib
import errno
from collections.abc import Iterator
from numbers import Integral
from typing import Any

MAX_LENGTH = 2000
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
MORE_FILES = "raise the limit on open files (`ulimit -n`), or open fewer at once"
RESUME = "finished work is kept: run the same command again to resume"


def printable(text: str) -> str:
    """Return the text on one line; characters that a terminal or UTF-8 cannot take are escaped."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


class EventDataError(ValueError):
    """The base of all errors that eventdata raises on purpose.

    Its text may quote names and values from untrusted files. It is one printable line of at most
    MAX_LENGTH characters, whatever those hold.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) > MAX_LENGTH:
            half = MAX_LENGTH // 2 - 3
            text = f"{text[:half]} ... {text[-half:]}"
        return printable(text)[:MAX_LENGTH]


class OptionError(EventDataError):
    """An invalid option or argument (exit code 2 on the command line)."""


class InputError(EventDataError):
    """A raw file, manifest, image, video or recording that cannot be used."""


class LeftOutError(InputError):
    """A sound sample that the dataset's own rules exclude, such as an image with few events."""


class StoreError(EventDataError):
    """A store that is missing, damaged, of a newer version, or not a store at all."""


class IncompleteStoreError(StoreError):
    """A store whose conversion has not finished."""


class MismatchError(StoreError):
    """A store made with other parameters or from other input than this call has."""


def check_open_files(error: BaseException, path: object) -> None:
    """Raise EventDataError if an error says that too many files are open.

    It is not the fault of the file, so no sample is skipped because of it.
    """
    if getattr(error, "errno", None) in TOO_MANY_FILES:
        raise EventDataError(
            f"{path}: can't be read (too many open files); {MORE_FILES}"
        ) from error


@contextlib.contextmanager
def reading(
    path: object,
    kind: type[EventDataError] = InputError,
    remedy: str = "check that it exists and that you have permission to read it",
) -> Iterator[None]:
    """Raise ``kind`` for an OSError from reading ``path``; ``remedy`` says what to do."""
    try:
        yield
    except OSError as error:
        check_open_files(error, path)
        reason = error.strerror or error
        raise kind(f"{error.filename or path}: can't be read ({reason}); {remedy}") from error


@contextlib.contextmanager
def writing(
    path: object, kind: type[EventDataError] = StoreError, then: str = RESUME
) -> Iterator[None]:
    """Raise ``kind`` for an OSError from writing ``path``.

    ``then`` says what to do once the disk is in order, as an imperative.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = f"free some space; {then}"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "choose a folder that you have permission to write to"
        elif error.errno in TOO_MANY_FILES:
            remedy = f"{MORE_FILES}; {then}"
        else:
            remedy = f"check the disk and the path; {then}"
        reason = error.strerror or error
        raise kind(f"{path}: can't be written ({reason}); {remedy}") from error


def check_whole(least: int = 1, **values: Any) -> list[int]:
    """Return the arguments as plain ints, which JSON accepts and NumPy's integers are not.

    Raises OptionError for True, and for anything but whole numbers of at least ``least``.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
            raise OptionError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return [int(value) for value in values.values()]
