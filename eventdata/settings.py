"""Settings: frozen dataclasses whose fields carry their help text, unit and bounds.

    @dataclass(frozen=True, kw_only=True)
    class OdgSettings(Settings):
        min_events: int = setting(1000, "Minimum events per image.", unit="events", least=0)

Such a class is the only place that describes its settings. Checks, options of a command, readers of
Python calls, command lines and TOML, a store's parameters and reference pages are made from it.
"""

import dataclasses
import difflib
import operator
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass
from functools import cache
from numbers import Integral
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from eventdata.errors import OptionError

T = TypeVar("T")
Table = dict[str, Any]
_NAMES = {int: "a whole number", float: "a number", Path: "a path", str: "text"}
_NAMES[bool] = "true or false"
_BOUNDS = {
    "least": ("at least", operator.ge),
    "above": ("more than", operator.gt),
    "most": ("at most", operator.le),
    "below": ("less than", operator.lt),
}


@dataclass(frozen=True, kw_only=True)
class Option:
    """A field of a settings class, as `setting` describes it.

    least, most: bounds that are allowed; above, below: bounds that are not. They hold for a number
    and for each number of a tuple.
    option: the name as an option, where it is not the field's; "" for a field that is no option.
    section: the heading of a nested class's options in a help page.
    stored: whether the value goes into a store's parameters.
    among: the texts that are allowed, such as the names of a table.
    needs: another option without which this one has no meaning.
    repeated: whether a command line may give the option several times.
    parse, dump: between an option's text and a value that no annotation says how to read. ``parse``
    fails for what is not ``form``.
    path: the field's name, with those of the fields around it; `fields_of` adds it, the type
    ``hint`` and the default.
    """

    help: str = ""
    unit: str = ""
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    option: str | None = None
    section: str = ""
    stored: bool = True
    among: Collection[str] = ()
    needs: str = ""
    repeated: bool = False
    form: str = ""
    parse: Callable[[Any], Any] | None = None
    dump: Callable[[Any], Any] | None = None
    described: bool = True
    path: tuple[str, ...] = ()
    hint: Any = None
    default: Any = None

    @property
    def key(self) -> str:
        """The name in a table of TOML, with those of the tables around it."""
        return ".".join(self.path)

    @property
    def name(self) -> str:
        """The name as an argument of a Python call, or in a store's parameters."""
        return self.option or self.path[-1]

    @property
    def flag(self) -> str:
        """The name on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types that a value may have, None not among them."""
        return _kinds(self.hint)

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a Literal, or those that are allowed; empty for any other type."""
        return get_args(self.kinds[0]) if get_origin(self.kinds[0]) is Literal else (*self.among,)

    @property
    def shown(self) -> str:
        """The default as a help page shows it; "" without one."""
        default = None if self.default in (MISSING, ()) else self.write(self.default)
        return "" if default is None else str(default)

    @property
    def bounds(self) -> str:
        """The bounds in words; "" without any."""
        limits = [(words, str(bound)) for words, _, bound in self._limits]
        if [words for words, _ in limits] == ["at least", "at most"]:
            return f"{limits[0][1]} to {limits[1][1]}"
        return " and ".join(map(" ".join, limits))

    @property
    def _limits(self) -> list[tuple[str, Callable[[Any, Any], Any], float]]:
        known = ((*_BOUNDS[name], getattr(self, name)) for name in _BOUNDS)
        return [limit for limit in known if limit[2] is not None]

    def _allows(self, value: Any) -> bool:
        if isinstance(value, tuple):
            return all(map(self._allows, value))
        is_number = isinstance(value, (int, float))
        return not is_number or all(holds(value, bound) for _, holds, bound in self._limits)

    def read(self, value: Any, where: str = "", *, strict: bool = False) -> Any:
        """Return a value as the field's type, within its bounds.

        Args:
            value: a value, or unless ``strict`` also its text, as on a command line.
            where: its place, for the message.

        Raises:
            OptionError: a value of another type, or out of bounds.
        """
        where = where or self.name
        if self.parse is None or strict:
            value = _read(value, self.hint, where, strict)
        else:
            try:
                value = self.parse(value)
            except OptionError:
                raise
            except (AttributeError, TypeError, ValueError, OverflowError):
                form = self.form or _describe(self.hint)
                raise OptionError(f"{where} is {value!r:.80}, not {form}") from None
        if self.among and value not in self.among:
            raise OptionError(f"{where} is {value!r:.80}: choose {', '.join(self.among)}")
        if not self._allows(value):
            raise OptionError(f"{where} is {value!s:.80}: choose {self.bounds}")
        return value

    def write(self, value: Any) -> Any:
        """Return a value as JSON has it; null for an unset flag."""
        if value is None or value is False:
            return None
        if self.dump is not None:
            return self.dump(value)
        return list(value) if isinstance(value, tuple) else value


def setting(
    default: Any = MISSING,
    help: str = "",  # noqa: A002
    *,
    factory: Any = MISSING,
    **facts: Any,
) -> Any:
    """Return a dataclass field with a description; see `Option` for the facts."""
    metadata = {"setting": Option(help=help, **facts)}
    return dataclasses.field(default=default, default_factory=factory, metadata=metadata)


def parse_sides(size: str | tuple[int, int]) -> tuple[int, int]:
    """Return the sides of a text like ``128x128`` or of a pair; raise ValueError or TypeError."""
    first, second = size.lower().split("x") if isinstance(size, str) else size
    return int(first), int(second)


class Settings:
    """Base class of settings, which checks the types and values of described fields.

    A class with further checks calls this one's ``__post_init__`` first.
    """

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for option in fields_of(kind):
            if option.described:
                option.read(getattr(self, option.key), option.key, strict=True)


@cache
def fields_of(cls: Any) -> tuple[Option, ...]:
    """Return the fields of a dataclass, with their types and descriptions."""
    hints = get_type_hints(cls)
    return tuple(
        dataclasses.replace(
            field.metadata.get("setting", Option(option="", described=False)),
            path=(field.name,),
            hint=hints[field.name],
            default=field.default if field.default_factory is MISSING else field.default_factory,
        )
        for field in dataclasses.fields(cls)
    )


@cache
def options_of(cls: Any) -> tuple[Option, ...]:
    """Return the options of a settings class and of those nested in it, in their order."""
    found: list[Option] = []
    for field in fields_of(cls):
        if _is_class(field.hint) and field.option != "":
            for inner in options_of(field.hint):
                path, section = field.path + inner.path, inner.section or field.section
                found.append(dataclasses.replace(inner, path=path, section=section))
        elif field.option != "":
            found.append(field)
    return tuple(found)


def from_options(cls: type[T], values: Mapping[str, Any], **fixed: Any) -> T:
    """Return settings made from options by their names, and from ``fixed`` fields.

    Raises:
        OptionError: a value of another type, or values that do not go together.
    """
    kind: Any = cls
    for field in fields_of(kind):
        if field.option == "" or field.key in fixed:
            continue
        if _is_class(field.hint):
            fixed[field.key] = from_options(field.hint, values)
        elif values.get(field.name) is not None:
            fixed[field.key] = field.read(values[field.name])
    return cls(**fixed)


def from_table(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Return settings made from a table of TOML; what it does not have keeps its default.

    Raises:
        OptionError: a key that the class does not have, a value of another type or out of bounds,
            or values that do not go together; with its place, such as ``stages.lif.epochs``.
    """
    if not isinstance(table, Mapping):
        raise OptionError(f"{where} is {table!r}, not a table of settings")
    kind: Any = cls
    fields = {field.key: field for field in fields_of(kind)}
    for key in table:
        if key not in fields:
            raise unknown_key(where, key, fields)
    missing = [key for key in fields if fields[key].default is MISSING and key not in table]
    if missing:
        raise OptionError(f"{where} lacks {', '.join(missing)}; add what is missing")
    values = {
        key: fields[key].read(value, f"{where}.{key}", strict=True) for key, value in table.items()
    }
    try:
        return cls(**values)
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from None


def unknown_key(where: str, key: str, known: Iterable[str]) -> OptionError:
    """Return the error for a key that does not exist, with the closest one that does."""
    known = sorted(known)
    hint = closest(key, known) or f"choose {', '.join(known)}"
    return OptionError(f"{where} has no key {key!r}; {hint}")


def closest(name: str, known: Iterable[str]) -> str:
    """Return a question for the known name that is closest to a wrong one; "" without one."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def table_of(settings: Any) -> Table:
    """Return settings as a table that `from_table` reads, without unset values."""
    return dataclasses.asdict(settings, dict_factory=_set_values)


def _set_values(pairs: list[tuple[str, Any]]) -> Table:
    listed = ((key, list(value) if isinstance(value, tuple) else value) for key, value in pairs)
    return {key: value for key, value in listed if value is not None}


def parameters_of(settings: Any) -> Table:
    """Return the stored settings by the names of their options, as JSON values."""
    return {
        option.name: option.write(operator.attrgetter(option.key)(settings))
        for option in options_of(settings.__class__)
        if option.stored
    }


def reference(options: Iterable[Option], spell: Callable[[Option], str]) -> str:
    """Return a Markdown table of options: name, value, default and help."""
    rows = ["| | value | default | |", "|---|---|---|---|"]
    for option in options:
        value = ", ".join(f"`{one}`" for one in option.choices) or option.unit
        if option.kinds != (bool,):
            value = value or option.form or _describe(option.hint)
        value = ", ".join(filter(None, (value, option.bounds)))
        shown = f"`{option.shown}`" if option.shown else ""
        rows.append(f"| `{spell(option)}` | {value} | {shown} | {option.help} |")
    return "\n".join(rows) + "\n"


def _read(value: Any, hint: Any, where: str, strict: bool) -> Any:
    """Return a value as the type that a field is annotated with."""
    kinds, origin, arguments = _kinds(hint), get_origin(hint), get_args(hint)
    if _is_class(hint):
        return value if isinstance(value, hint) else from_table(hint, value, where)
    if value is None and NoneType in arguments:
        return None
    if kinds != (hint,):
        if len(kinds) == 1:
            return _read(value, kinds[0], where, strict)
        for kind in kinds:
            with suppress(OptionError):
                return _read(value, kind, where, strict)
    elif origin is Literal:
        for choice in arguments:
            same = type(value) is type(choice) and value == choice
            if same or (not strict and str(value) == str(choice)):
                return choice
        raise OptionError(f"{where} is {value!r:.80}: choose {', '.join(map(str, arguments))}")
    elif origin is tuple and isinstance(value, (list, tuple)):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            pairs = zip(value, kinds, strict=True)
            return tuple(_read(item, kind, where, strict) for item, kind in pairs)
    elif (origin is dict and isinstance(value, dict)) or (origin is Callable and callable(value)):
        return value
    elif isinstance(hint, type):
        with suppress(TypeError, ValueError, OverflowError):
            return _read_plain(value, hint, strict)
    raise OptionError(f"{where} is {value!r:.80}, not {_describe(hint)}")


def _read_plain(value: Any, hint: type, strict: bool) -> Any:
    """Return a value as a type without parts; raise TypeError, ValueError or OverflowError."""
    is_text = isinstance(value, str)
    if hint is Path and isinstance(value, (str, os.PathLike)):
        return Path(value)
    if hint is bool and not strict and str(value) in ("0", "1", "False", "True"):
        return str(value) in ("1", "True")  # NumPy's too
    if hint in (int, float) and not isinstance(value, bool) and not (strict and is_text):
        number: Any = int(value) if hint is int else float(value)
        is_whole = isinstance(value, Integral) or (not strict and (is_text or number == value))
        if (hint is int and is_whole) or (hint is float and abs(number) <= sys.float_info.max):
            return number
    elif hint not in (int, float, Path) and isinstance(value, hint):
        return value
    raise TypeError


def _kinds(hint: Any) -> tuple[Any, ...]:
    union = get_origin(hint) in (Union, UnionType)
    return tuple(kind for kind in get_args(hint) if kind is not NoneType) if union else (hint,)


def _is_class(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint)


def _describe(hint: Any) -> str:
    """Return a type in a user's words."""
    kinds, origin, arguments = _kinds(hint), get_origin(hint), get_args(hint)
    if kinds != (hint,):
        return " or ".join(map(_describe, kinds))
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin is tuple:
        one = _NAMES.get(arguments[0], "a value").removeprefix("a ")
        return f"a list of {one}{'s' * (one != 'text')}"
    return "a table" if _is_class(hint) or origin is dict else _NAMES.get(hint, str(hint))
