"""Settings: one dataclass gives the checks, the options, the tables and the reference."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from eventdata.errors import OptionError
from eventdata.settings import (
    Settings,
    from_options,
    from_table,
    options_of,
    parameters_of,
    reference,
    setting,
    table_of,
)


def read_pair(text: str) -> tuple[int, int]:
    first, second = text.split("x")
    return int(first), int(second)


@dataclass(frozen=True, kw_only=True)
class Inner(Settings):
    mode: Literal["fast", "slow"] = setting("fast", "How quickly.", option="speed")
    level: Literal[1, 2] = setting(1, "Which level.")
    size: tuple[int, int] = setting(
        (2, 3),
        "Rows and columns.",
        least=1,
        most=9,
        form="ROWSxCOLUMNS",
        parse=read_pair,
        dump=lambda size: f"{size[0]}x{size[1]}",
    )
    hidden: float = setting(0.5, "Not an option.", option="", above=0, below=1)


@dataclass(frozen=True, kw_only=True)
class Outer(Settings):
    root: Path
    count: int = setting(7, "How many.", unit="samples", least=0)
    share: float = setting(0.5, "Which share.", above=0, most=1)
    overlap: int | float = setting(0, "Shared part.")
    file: Path | None = setting(None, "A file.", stored=False)
    grey: bool = setting(False, "Without colour.")
    words: tuple[str, ...] = setting((), "Words.")
    inner: Inner = setting(factory=Inner, section="Inside")
    function: str | Callable[[int], int] = setting("name", "A name or a function.", option="")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count == 3 and self.grey:
            raise OptionError("count is 3, which grey does not allow")


def make(**options: Any) -> Outer:
    return from_options(Outer, options, root=Path())


def test_options_are_read_from_python_values_and_text():
    made = make(count="8", share="0.25", overlap=2.0, file="a", grey=True, speed="slow", size="4x5")
    assert made == Outer(
        root=Path(),
        count=8,
        share=0.25,
        overlap=2,
        file=Path("a"),
        grey=True,
        inner=Inner(mode="slow", size=(4, 5)),
    )
    assert make(level="2", words=["a"]) == make(level=2, words=("a",))
    assert type(make(overlap=np.float32(3)).overlap) is int
    assert make(overlap="0.5").overlap == 0.5
    assert make(count=None, grey=np.False_) == make()
    assert make(count=2**70 + 1).count == make(count=str(2**70 + 1)).count == 2**70 + 1


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("count", "many", "count is 'many', not a whole number"),
        ("count", 1.5, "count is 1.5, not a whole number"),
        ("count", True, "count is True, not a whole number"),
        ("count", float("inf"), "count is inf, not a whole number"),
        ("count", -1, "count is -1: choose at least 0"),
        ("share", 0, "share is 0.0: choose more than 0 and at most 1"),
        ("share", float("nan"), "share is nan, not a number"),
        ("file", 7, "file is 7, not a path"),
        ("grey", "maybe", "grey is 'maybe', not true or false"),
        ("words", [1], "words is 1, not text"),
        ("words", 1, "words is 1, not a list of text"),
        ("speed", "quick", "speed is 'quick': choose fast, slow"),
        ("level", True, "level is True: choose 1, 2"),
        ("size", "4", "size is '4', not ROWSxCOLUMNS"),
        ("size", 4.5, "size is 4.5, not ROWSxCOLUMNS"),
        ("size", "4x10", r"size is \(4, 10\): choose 1 to 9"),
    ],
)
def test_errors_name_the_option_and_what_it_takes(option, value, says):
    with pytest.raises(OptionError, match=f"^{says}$"):
        make(**{option: value})


def test_instances_are_checked_when_they_are_made():
    for cls, values in (
        (Inner, {"mode": "quick"}),
        (Inner, {"hidden": 1.0}),
        (Inner, {"size": (0, 1)}),
        (Inner, {"size": "2x3"}),
        (Outer, {"root": Path(), "count": "8"}),
        (Outer, {"root": Path(), "inner": 3}),
    ):
        with pytest.raises(OptionError):
            cls(**values)
    with pytest.raises(OptionError, match="count is -1: choose at least 0"):
        replace(make(), count=-1)
    with pytest.raises(OptionError, match="which grey does not allow"):
        make(count=3, grey=True)
    assert Outer(root=Path(), function=abs).function is abs


def test_tables_and_back():
    table = {"root": ".", "count": 4, "inner": {"mode": "slow", "size": [4, 5]}}
    made = from_table(Outer, table, "here")
    assert made == replace(make(), count=4, inner=Inner(mode="slow", size=(4, 5)))
    assert from_table(Outer, table_of(made) | {"root": "."}, "here") == made


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"root": ".", "cont": 1}, "here has no key 'cont'; did you mean 'count'?"),
        ({"root": ".", "inner": {"mood": 1}}, "here.inner has no key 'mood'; did you mean 'mode'?"),
        ({"root": ".", "inner": {"hidden": 2}}, "here.inner.hidden is 2.0: choose more than 0 and"),
        ({"root": ".", "inner": 5}, "here.inner is 5, not a table of settings"),
        ({"root": ".", "count": "1"}, "here.count is '1', not a whole number"),
        ({"root": ".", "count": 1.0}, "here.count is 1.0, not a whole number"),
        ({"root": ".", "words": 3}, "here.words is 3, not a list of text"),
        ({"root": ".", "count": 3, "grey": True}, "here: count is 3, which grey does not"),
        ({"count": 3}, "here lacks root"),
        (3, "here is 3, not a table of settings"),
    ],
)
def test_errors_of_tables_name_the_place(table, says):
    with pytest.raises(OptionError, match=says):
        from_table(Outer, table, "here")


def test_parameters_are_json_by_the_names_of_options():
    assert parameters_of(make(file="a", words=["b"])) == {
        "count": 7,
        "share": 0.5,
        "overlap": 0,
        "grey": None,
        "words": ["b"],
        "speed": "fast",
        "level": 1,
        "size": "2x3",
    }


def test_reference():
    text = reference(options_of(Outer), lambda option: option.flag)
    assert "| `--count` | samples, at least 0 | `7` | How many. |" in text
    assert "| `--speed` | `fast`, `slow` | `fast` | How quickly. |" in text
    assert "| `--grey` |  |  | Without colour. |" in text
    assert "| `--size` | ROWSxCOLUMNS, 1 to 9 | `2x3` | Rows and columns. |" in text
    assert "hidden" not in text
    assert {option.section for option in options_of(Outer)} == {"", "Inside"}


def test_settings_load_neither_torch_nor_numba_nor_click():
    code = (
        "import sys, eventdata.settings\n"
        "bad = {'torch', 'numba', 'click', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
