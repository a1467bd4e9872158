"""TOML for recipes: read with bounds, merged, and written."""

import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import tomli_w

from eventdata.errors import OptionError
from eventdata.settings import Table

MAX_BYTES = 1 << 20  # of a recipe's file
MAX_DEPTH = 50  # tables and lists inside each other, because later functions recurse


def parse_toml(text: str) -> Table:
    """Return the table of a TOML document.

    Raises:
        ValueError: the text is not TOML, or is nested deeper than MAX_DEPTH.
    """
    with suppress(RecursionError):
        table = tomllib.loads(text)
        level: list[Any] = [table]
        for _ in range(MAX_DEPTH):
            level = [inner for outer in level for inner in _inside(outer)]
            if not level:
                return table
    raise ValueError("nested too deeply")


def _inside(value: Any) -> Iterable[Any]:
    """Return the values inside a table or a list."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Table:
    """Return a new table with the values of both; `over` wins, inner tables are merged."""
    merged: Table = {}
    for key in {**base, **over}:
        value, below = over.get(key, base.get(key)), base.get(key)
        if isinstance(value, Mapping):
            value = merge(below if isinstance(below, Mapping) else {}, value)
        merged[key] = value
    return merged


def to_toml(table: Table) -> str:
    """Return a table as TOML that `parse_toml` reads back.

    Raises:
        OptionError: a value is not text, a number, a truth value, a list or a table (but a date,
            say), or text is not Unicode, such as a path that is not UTF-8.
    """
    _check(table, "")
    return tomli_w.dumps(table)


def _check(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check(key, "the name of a setting")
            _check(inner, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            _check(inner, where)
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise OptionError(f"{where} is {value!r}, which is not Unicode; rename it") from None
    elif not isinstance(value, int | float):
        raise OptionError(
            f"{where} is {value}; give text, a number, true, false, a list or a table"
        )
