"""Settings: frozen dataclasses whose fields carry their help text, unit and bounds.

    @dataclass(frozen=True, kw_only=True)
    class OdgSettings(Settings):
        min_events: int = setting(1000, "Minimum events per image.", unit="events", least=0)

Such a class is the only place that describes its settings. Its checks, the options of a command,
the values read from Python calls, command lines and TOML tables, the parameters in a store's
header and the reference documentation are all made from it.
"""

import dataclasses
import difflib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
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
_NAMES = {int: "whole number", float: "number", str: "text", Path: "path", bool: "true or false"}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The description of a field.

    least, most: bounds that are allowed; above, below: bounds that are not. They hold for a number
    and for each number of a tuple.
    option: the name as an option, where it is not the field's; "" for a field that is no option.
    section: the heading of a nested class's options in a help page.
    stored: whether the value goes into a store's parameters.
    needs: another option without which this one has no meaning.
    repeated: whether a command line may give the option several times.
    read, write: between an option's text and a value that no annotation says how to read. ``read``
    fails for what is not ``form``.
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
    needs: str = ""
    repeated: bool = False
    form: str = ""
    read: Callable[[Any], Any] | None = None
    write: Callable[[Any], Any] | None = None

    @property
    def bounds(self) -> str:
        """The bounds in words; "" without any."""
        if self.least is not None and self.most is not None:
            return f"{_number(self.least)} to {_number(self.most)}"
        words = {"at least": self.least, "more than": self.above}
        words |= {"at most": self.most, "less than": self.below}
        known = {word: bound for word, bound in words.items() if bound is not None}
        return " and ".join(f"{word} {_number(bound)}" for word, bound in known.items())

    def allows(self, value: Any) -> bool:
        """Return whether a value, or each of a tuple, lies within the bounds."""
        if isinstance(value, tuple):
            return all(map(self.allows, value))
        return not isinstance(value, (int, float)) or (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def setting(
    default: Any = MISSING,
    help: str = "",  # noqa: A002
    *,
    factory: Any = MISSING,
    **facts: Any,
) -> Any:
    """Return a dataclass field with a description; see `Setting` for the facts."""
    described = Setting(help=help, **facts)
    if factory is not MISSING:
        return dataclasses.field(default_factory=factory, metadata={"setting": described})
    return dataclasses.field(default=default, metadata={"setting": described})


class Settings:
    """Base of settings: an instance whose described fields have other types or values can't be.

    A class with further checks calls this one's ``__post_init__`` first.
    """

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for option in fields_of(kind):
            if option.described:
                option.read(getattr(self, option.key), option.key, strict=True)


@dataclass(frozen=True)
class Option:
    """A field of a settings class, found by ``path`` from the class that it is looked up in."""

    path: tuple[str, ...]
    hint: Any
    default: Any
    facts: Setting
    described: bool
    section: str = ""

    @property
    def key(self) -> str:
        """The name in a table of TOML, with those of the tables around it."""
        return ".".join(self.path)

    @property
    def name(self) -> str:
        """The name as an argument of a Python call, or in a store's parameters."""
        return self.facts.option or self.path[-1]

    @property
    def flag(self) -> str:
        """The name on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types that a value may have, None not among them."""
        union = get_origin(self.hint) in (Union, UnionType)
        kinds = get_args(self.hint) if union else (self.hint,)
        return tuple(kind for kind in kinds if kind is not NoneType)

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a Literal; empty for any other type."""
        return get_args(self.kinds[0]) if get_origin(self.kinds[0]) is Literal else ()

    @property
    def shown(self) -> str:
        """The default as a help page shows it; "" without one."""
        default = None if self.default in (MISSING, ()) else self.write(self.default)
        return "" if default is None else str(default)

    def read(self, value: Any, where: str = "", *, strict: bool = False) -> Any:
        """Return a value as the field's type, within its bounds.

        Args:
            value: a value, or unless ``strict`` also its text, as on a command line.
            where: its place, for the message.

        Raises:
            OptionError: a value of another type, or out of bounds.
        """
        where = where or self.name
        if self.facts.read is None or strict:
            value = _read(value, self.hint, where, strict)
        else:
            try:
                value = self.facts.read(value)
            except OptionError:
                raise
            except (AttributeError, TypeError, ValueError, OverflowError):
                form = self.facts.form or _describe(self.hint)
                raise OptionError(f"{where} is {value!r:.80}, not {form}") from None
        if not self.facts.allows(value):
            raise OptionError(f"{where} is {value!s:.80}: choose {self.facts.bounds}")
        return value

    def write(self, value: Any) -> Any:
        """Return a value as JSON has it; null for an unset flag."""
        if value is None or value is False:
            return None
        if self.facts.write is not None:
            return self.facts.write(value)
        return list(value) if isinstance(value, tuple) else value


@cache
def fields_of(cls: Any) -> tuple[Option, ...]:
    """Return the fields of a dataclass, with their types and descriptions."""
    hints = get_type_hints(cls)
    return tuple(
        Option(
            path=(field.name,),
            hint=hints[field.name],
            default=field.default if field.default_factory is MISSING else field.default_factory,
            facts=field.metadata.get("setting", Setting()),
            described="setting" in field.metadata,
        )
        for field in dataclasses.fields(cls)
    )


@cache
def options_of(cls: Any, section: str = "") -> tuple[Option, ...]:
    """Return the options of a settings class and of those nested in it, in their order."""
    found: list[Option] = []
    for field in fields_of(cls):
        if not field.described or field.facts.option == "":
            continue
        if _is_class(field.hint):
            inner = options_of(field.hint, field.facts.section or section)
            found += (dataclasses.replace(one, path=field.path + one.path) for one in inner)
        else:
            found.append(dataclasses.replace(field, section=section))
    return tuple(found)


def from_options(cls: type[T], values: Mapping[str, Any], **fixed: Any) -> T:
    """Return settings made from options by their names, and from ``fixed`` fields.

    Raises:
        OptionError: a value of another type, or values that do not go together.
    """
    kind: Any = cls
    tree: Table = dict(fixed)
    for option in options_of(kind):
        if values.get(option.name) is not None:
            table = tree
            for key in option.path[:-1]:
                table = table.setdefault(key, {})
            table[option.path[-1]] = option.read(values[option.name])
    made: T = _build(kind, tree)
    return made


def _build(cls: Any, tree: Table) -> Any:
    nested = {field.key: field.hint for field in fields_of(cls) if field.described}
    return cls(
        **{
            key: _build(nested[key], value) if isinstance(value, dict) else value
            for key, value in tree.items()
        }
    )


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
        raise OptionError(f"{where} lacks {', '.join(missing)}")
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
    table: Table = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            table[field.name] = table_of(value)
        elif value is not None:
            table[field.name] = list(value) if isinstance(value, tuple) else value
    return table


def parameters_of(settings: Any) -> Table:
    """Return the stored settings by the names of their options, as JSON values."""
    values: Table = {}
    for option in options_of(settings.__class__):
        if option.facts.stored:
            value = settings
            for key in option.path:
                value = getattr(value, key)
            values[option.name] = option.write(value)
    return values


def reference(options: Iterable[Option], spell: Callable[[Option], str]) -> str:
    """Return a Markdown table of options: name, value, default and help."""
    rows = ["| | value | default | |", "|---|---|---|---|"]
    for option in options:
        shown = f"`{option.shown}`" if option.shown else ""
        value = ", ".join(f"`{one}`" for one in option.choices) or option.facts.unit
        if option.kinds != (bool,):
            value = value or option.facts.form or " or ".join(map(_describe, option.kinds))
        bounds = option.facts.bounds
        value += f"{', ' * bool(value)}{bounds}" if bounds else ""
        rows.append(f"| `{spell(option)}` | {value} | {shown} | {option.facts.help} |")
    return "\n".join(rows) + "\n"


def _read(value: Any, hint: Any, where: str, strict: bool) -> Any:
    """Return a value as the type that a field is annotated with."""
    origin, arguments = get_origin(hint), get_args(hint)
    if _is_class(hint):
        made = isinstance(hint, type) and isinstance(value, hint)
        return value if made else from_table(hint, value, where)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        kinds = [kind for kind in arguments if kind is not NoneType]
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
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            if arguments[-1] is Ellipsis:
                return tuple(_read(item, arguments[0], where, strict) for item in value)
            if len(value) == len(arguments):
                pairs = zip(value, arguments, strict=True)
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


def _number(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def _is_class(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint)


def _describe(hint: Any) -> str:
    """Return a type in a user's words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_describe(kind) for kind in arguments if kind is not NoneType)
    if origin is tuple:
        one = _NAMES.get(arguments[0], "value")
        return f"a list of {one if arguments[0] is str else one + 's'}"
    if _is_class(hint) or origin is dict:
        return "a table"
    name = _NAMES.get(hint, str(hint))
    return name if hint in (str, bool) or hint not in _NAMES else f"a {name}"
