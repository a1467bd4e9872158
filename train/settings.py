"""Dataclasses from tables of TOML, checked: unknown keys, types and ranges are told by name."""

import dataclasses
import difflib
import json
import math
import re
import sys
import tomllib
import types
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from eventdata.errors import OptionError

T = TypeVar("T")
Table = dict[str, Any]
MOST_DEEP = 50  # tables and lists in each other: what works on them calls itself
BARE_KEY = re.compile("[A-Za-z0-9_-]+")


def parse_toml(text: str) -> Table:
    """A TOML document's table; ValueError for all that is none, or is deeper than MOST_DEEP."""
    with suppress(RecursionError):
        table = tomllib.loads(text)
        level: list[Any] = [table]
        for _ in range(MOST_DEEP):
            level = [inner for outer in level for inner in _inside(outer)]
            if not level:
                return table
    raise ValueError("nested too deep")


def _inside(value: Any) -> Iterable[Any]:
    """What a table or a list holds."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def unknown_key(where: str, key: str, known: Iterable[str]) -> OptionError:
    """The error of a key that does not exist, with the closest one that does."""
    known = sorted(known)
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
    return OptionError(f"{where} has no key {key!r}; {hint}")


def from_table(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """A frozen settings dataclass of a table's values; what is not given keeps its default.

    Raises:
        OptionError: a key that the class has not, a value of another type, or what the class
            itself says of its values; each with its place in the recipe.
    """
    if not isinstance(table, Mapping):
        raise OptionError(f"{where} is {table!r}, not a table of settings")
    hints = get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in table:
        if key not in names:
            raise unknown_key(where, key, names)
    values = {key: _convert(value, hints[key], f"{where}.{key}") for key, value in table.items()}
    try:
        return cls(**values)
    except TypeError:
        missing = [
            field.name
            for field in dataclasses.fields(cls)  # type: ignore[arg-type]
            if field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
            and field.name not in table
        ]
        raise OptionError(f"{where} lacks {', '.join(missing)}") from None
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from None


def _convert(value: Any, hint: Any, where: str) -> Any:
    """A TOML value as the type that a field is annotated with."""
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_table(hint, value, where)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        for choice in arguments:
            try:
                return _convert(value, choice, where)
            except OptionError:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
        raise OptionError(f"{where} is {value!r}: choose {', '.join(map(str, arguments))}")
    elif origin is tuple and isinstance(value, (list, tuple)):
        if arguments[-1] is Ellipsis:
            return tuple(_convert(item, arguments[0], where) for item in value)
        if len(value) == len(arguments):
            pairs = zip(value, arguments, strict=True)
            return tuple(_convert(item, kind, where) for item, kind in pairs)
    elif origin is dict and isinstance(value, dict):
        return dict(value)
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if abs(value) <= sys.float_info.max:  # not of whole numbers beyond it, nor of nan
            return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise OptionError(f"{where} is {value!r}, not {_describe(hint)}")


def _describe(hint: Any) -> str:
    """A type in a user's words."""
    if get_origin(hint) in (Union, types.UnionType):
        named = (_describe(choice) for choice in get_args(hint) if choice is not type(None))
        return " or ".join(named)
    if get_origin(hint) is tuple:
        return f"a list of {_describe(get_args(hint)[0])}"
    if dataclasses.is_dataclass(hint) or get_origin(hint) is dict:
        return "a table"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(
        hint, str(hint)
    )


def check_ranges(settings: Any, **ranges: tuple[float, float]) -> None:
    """OptionError for the first field that lies outside its range (both ends allowed)."""
    for name, (least, most) in ranges.items():
        value = getattr(settings, name)
        if value is not None and not least <= value <= most:
            bounds = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
            raise OptionError(f"{name} is {value}: choose {bounds}")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Table:
    """Two tables as one: what `over` has wins, tables within tables are merged. All of them new."""
    merged: Table = {}
    for key in {**base, **over}:
        value, below = over.get(key, base.get(key)), base.get(key)
        if isinstance(value, Mapping):
            value = merge(below if isinstance(below, Mapping) else {}, value)
        merged[key] = value
    return merged


def table_of(settings: Any) -> Table:
    """The settings of a dataclass as a table, without those that are None."""
    table: Table = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            table[field.name] = table_of(value)
        elif value is not None:
            table[field.name] = list(value) if isinstance(value, tuple) else value
    return table


def to_toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """A table as TOML that `parse_toml` reads back: plain values first, then the tables in it.

    Raises:
        OptionError: a value that is no text, number, truth, list or table (a date, a time), or
            text that is not Unicode, such as a path of other bytes than UTF-8's.
    """
    lines = []
    inner = []
    for key, value in table.items():
        name = f"{prefix}{_toml_key(key)}"
        if isinstance(value, Mapping):
            inner.append(f"\n[{name}]\n{to_toml(value, f'{name}.')}")
        else:
            lines.append(f"{_toml_key(key)} = {_toml_value(value, name)}\n")
    return "".join(lines + inner)


def _toml_key(key: str) -> str:
    return key if BARE_KEY.fullmatch(key) else _toml_text(key, "the name of a setting")


def _toml_value(value: Any, where: str) -> str:
    if isinstance(value, str):
        return _toml_text(value, where)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int):  # true and false too
        return json.dumps(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml_value(item, where) for item in value)}]"
    if isinstance(value, Mapping):
        items = (f"{_toml_key(key)} = {_toml_value(item, where)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    raise OptionError(f"{where} is {value}: give text, a number, true, false, a list or a table")


def _toml_text(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise OptionError(f"{where} is {text!r}, which is not Unicode; rename it") from None
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
