"""Errors of this package: one sentence each that says what is wrong, in which file, what to do."""

from numbers import Integral
from typing import Any

MAX_LENGTH = 2000


def printable(text: str) -> str:
    """The text on one line, with what a terminal would act on, or UTF-8 has not, escaped."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


class EventDataError(ValueError):
    """Base of all errors that eventdata raises on purpose.

    Names and values from files of strangers go into their texts, so these are one printable line
    of at most MAX_LENGTH characters, whatever was found.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) > MAX_LENGTH:
            half = MAX_LENGTH // 2 - 3
            text = f"{text[:half]} ... {text[-half:]}"
        return printable(text)[:MAX_LENGTH]


class OptionError(EventDataError):
    """An option or argument that does not make sense (exit code 2 on the command line)."""


class InputError(EventDataError):
    """A raw file, manifest, image, video or recording that cannot be used as it is."""


class LeftOutError(InputError):
    """A sound sample that the data set's own rules leave out, such as an image with few events."""


class StoreError(EventDataError):
    """A store that is missing, damaged, of a newer version, or not a store at all."""


class IncompleteStoreError(StoreError):
    """A store whose conversion has not finished."""


class MismatchError(StoreError):
    """A store made with other parameters or from other input than this call asks for."""


def check_whole(least: int = 1, **values: Any) -> list[int]:
    """The arguments as plain ints, which JSON takes where it does not take NumPy's.

    OptionError for one that is no whole number (True is none), or less than ``least``.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
            raise OptionError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return [int(value) for value in values.values()]
