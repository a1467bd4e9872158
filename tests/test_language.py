"""Plain English: words that documents, help texts, messages, docstrings and comments avoid."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from eventdata.cli import main

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FOLDERS = ("eventdata", "train", "tools", "tests")
CODE = [path for name in FOLDERS for path in (ROOT / name).rglob("*.py") if path != Path(__file__)]

AVOID = {
    r"told|tells?|telling": "report, return, print, state, raise",
    r"rivals?": "baseline",
    r"(?<!in a )ways?(?! round)": "method",
    r"(?:leaves?|leaving|left) out": "skip, omit",
    r"not there": "missing",
    r"(?:are|is) there": "exist",
    r"strangers?": "untrusted files",
    r"beside": "next to, against",
    r"but for": "except",
    r"alone": "only",
    r"for good": "forever, permanently",
    r"amid": "during, among",
    r"so many|so much": "this many, a number of",
    r"(?<!all |one )(?<!each |none |some )of which|of whom": "split the sentence",
    r"to be had": "available",
    r"go on|goes on|going on|went on": "resume, continue",
    r"by that": "therefore",
    r"(?:calls?|called|calling) (?:(?:it|the same|this|that) )?again": "run the same command again",
    r"spares?": "avoid, save",
    r"strays?|befalls?|befell|whoever|whomever|whence|lest": "a common word",
    r"see to": "check",
    r"for who|by who|to who|of who": "name the caller",
    r"(?<!there )(?:is|are) (?-i:none)": "is not a",
    r"something else than": "something other than",
}
PATTERN = re.compile("|".join(rf"\b(?:{words})\b" for words in AVOID), re.IGNORECASE)
FIRST_WORDS = ("Of", "What", "That", "Where", "Who", "For who")
PARENTHESES = re.compile(r"\(([^()]*)\)")
MOST_WORDS = 5  # in parentheses

Texts = Iterator[tuple[int, str]]
"""Line numbers and texts."""


def prose(document: str) -> Texts:
    """Yield paragraphs of a Markdown document without code and link targets."""
    fence = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
    document = fence.sub(lambda code: "\n" * code[0].count("\n"), document)
    number = 1
    for paragraph in document.split("\n\n"):
        text = re.sub(r"`[^`]*`", "``", paragraph)
        yield number, re.sub(r"\]\([^)]*\)", "]", text)
        number += paragraph.count("\n") + 2


def strings(code: str) -> Texts:
    """Yield the texts in a Python file: strings of more than one word, and comments."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, re.sub(r"``[^`]*``|`[^`]*`", "``", node.value)
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], re.sub(r"`[^`]*`", "``", token.string)


def docstrings(code: str) -> Texts:
    """Yield the docstrings of modules, classes, functions and attributes."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.lineno, str(node.value.value)


def help_texts(name: str, command: click.Command) -> Iterator[tuple[str, str]]:
    """Yield commands, by their words, and the texts that their ``--help`` prints."""
    for text in (command.help, command.short_help, command.epilog):
        yield name, text or ""
    for parameter in command.params:
        yield name, getattr(parameter, "help", None) or ""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None, child
            yield from help_texts(f"{name} {child}", found)


def avoided(texts: Texts) -> list[str]:
    """Return where texts have words to avoid, with what to write instead."""
    found = []
    for line, text in texts:
        for match in PATTERN.finditer(re.sub(r"\s+", " ", text)):
            words = match[0]
            better = next(
                better for avoid, better in AVOID.items() if re.fullmatch(avoid, words, re.I)
            )
            found.append(f"line {line}: {words!r} ({better})")
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_avoid_the_words(path: Path) -> None:
    assert not avoided(prose(path.read_text()))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_parentheses_in_documents_are_short(path: Path) -> None:
    long = [
        f"line {line}: {inner}"
        for line, text in prose(path.read_text())
        for inner in PARENTHESES.findall(text)
        if len(re.findall(r"[A-Za-z][\w'-]+", inner)) > MOST_WORDS
    ]
    assert not long


def test_help_texts_avoid_the_words() -> None:
    texts = list(help_texts("eventdata", main))
    assert len(texts) > 50
    found = {name: words for name, text in texts if (words := avoided(iter([(1, text)])))}
    assert not found


def test_code_avoids_the_words() -> None:
    assert len(CODE) > 50
    found = {
        path.relative_to(ROOT).as_posix(): words
        for path in CODE
        if (words := avoided(strings(path.read_text())))
    }
    assert not found


def test_docstrings_begin_well() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}": text.partition("\n")[0]
        for path in CODE
        for line, text in docstrings(path.read_text())
        if text.startswith(tuple(f"{first} " for first in FIRST_WORDS))
    }
    assert not found


@pytest.mark.parametrize("words", ["it tells why", "The rival.", "a way of", "Call it again"])
def test_the_words_are_found(words: str) -> None:
    assert avoided(iter([(1, words)]))


@pytest.mark.parametrize(
    "words",
    [
        *("intellect", "always", "foretold", "Called once again."),
        *(
            "if it is None",
            "where there is none",
            "the other way round",
            "parts, each of which is kept",
        ),
    ],
)
def test_other_words_are_not(words: str) -> None:
    assert not avoided(iter([(1, words)]))
