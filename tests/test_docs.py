"""Everything that the documents name exists: commands, options, programs, files, messages."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest

from eventdata.cli import main

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PLACES = re.compile(r"(?<![\w./-])(?:eventdata|train|tools|tests|docs)/[\w./-]*\w")
PENDING: set[str] = set()
"""Names that documents use before they exist."""


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Yield the words of each line of shell in the documents, with the document's name."""
    for path in DOCUMENTS:
        text = path.read_text()
        lines = "\n".join(code for kind, code in FENCE.findall(text) if kind == "sh")
        spans = re.findall(r"`((?:eventdata|python|torchrun) [^`\n]+)`", FENCE.sub("", text))
        for line in [*lines.replace("\\\n", " ").splitlines(), *spans]:
            words = shlex.split(line, comments=True)
            if words:
                yield path.name, words


def check_words(command: click.Command, words: list[str]) -> None:
    """Raise click's UsageError unless a command, or one below it, has these options."""
    context = click.Context(command, info_name=command.name)
    _, rest, _ = command.make_parser(context).parse_args(list(words))
    if isinstance(command, click.Group) and rest:
        _, child, rest = command.resolve_command(context, rest)
        assert child is not None, rest
        check_words(child, rest)


def test_commands_have_the_documented_options() -> None:
    lines = [(name, words) for name, words in command_lines() if words[0] == "eventdata"]
    assert len(lines) > 50
    problems = []
    for name, words in lines:
        known = ["imagenet" if word == "SOURCE" else word for word in words[1:] if word != "..."]
        try:
            check_words(main, known)
        except click.UsageError as error:
            problems.append(f"{name}: {shlex.join(words)}: {error.format_message()}")
    assert not problems


def test_trainings_have_the_documented_options() -> None:
    """Check the words after ``-m train``, by python or torchrun."""
    train = main.get_command(click.Context(main), "train")
    assert train is not None
    found = 0
    for _, words in command_lines():
        if "train" in words[2:] and words[words.index("train") - 1] == "-m":
            check_words(
                train, [word for word in words[words.index("train") + 1 :] if word != "..."]
            )
            found += 1
    assert found >= 4


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Create the file in place of documented checkpoints."""
    path = tmp_path / "weights.safetensors"
    path.touch()
    return path


def filled(change: str, checkpoint: Path) -> str:
    """Return a documented change of a recipe with values in place of names."""
    change = re.sub(r"(\.weights=).*", rf"\1{checkpoint}", change)
    return change.replace("$seed", "1")


def test_documented_recipes_have_the_documented_keys(checkpoint: Path) -> None:
    """Load each recipe that a command names, with the changes of its ``--set``."""
    from train.recipe import default_recipe, load_method

    count = 0
    for _, words in command_lines():
        if "train" not in words or words[-1] == "..." or "--data" not in words:
            continue
        method = words[words.index("train") + 1]
        pairs = list(pairwise(words))
        changes = [filled(value, checkpoint) for option, value in pairs if option == "--set"]
        default = default_recipe(method, on_images=False, with_images="--images" in words)
        name = next((value for option, value in pairs if option == "--recipe"), default)
        load_method(method, name, changes)
        count += 1
    assert count > 15


def test_every_recipe_is_documented() -> None:
    text = (ROOT / "docs/training.md").read_text()
    recipes = [path.stem for path in (ROOT / "train/recipes").glob("*.toml")]
    assert not [name for name in recipes if f"`{name}`" not in text]


def test_documented_settings_exist(checkpoint: Path) -> None:
    """Apply each ``--set`` in the table of docs/training.md to a recipe."""
    from train.recipe import load

    text = (ROOT / "docs/training.md").read_text()
    changes = re.findall(r"^\| `--set ([^`]+)` \|", text, re.MULTILINE)
    assert len(changes) > 8
    for change in changes:
        load("pipe-d-images", changes=[filled(change, checkpoint)])


def test_programs_exist_with_their_options() -> None:
    """Look options up in the folder of each program, where a shared one may be declared."""
    problems = []
    for name, words in command_lines():
        if words[0] != "python" or words[1] == "-c":
            continue
        place = words[2].replace(".", "/") if words[1] == "-m" else words[1]
        if place in PENDING or place == "train":
            continue
        path = ROOT / place
        program = next((one for one in (path, path.with_suffix(".py")) if one.exists()), None)
        if program is None:
            problems.append(f"{name}: {place} is missing")
            continue
        folder = program if program.is_dir() else program.parent
        shared = [*folder.glob("*.py"), ROOT / "tools/bench/report.py"]
        code = "".join(one.read_text() for one in shared)
        missing = [word for word in words if word.startswith("--") and f'"{word}"' not in code]
        problems += [f"{name}: {place} has no {word}" for word in missing]
    assert not problems


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_exist(path: Path) -> None:
    text = path.read_text()
    named = {place for span in re.findall(r"`([^`\n]+)`", text) for place in PLACES.findall(span)}
    if path.name == "README.md":
        named |= {place for _, code in FENCE.findall(text) for place in PLACES.findall(code)}
    folders = ("raw", "formats", "kernels/representations")
    examples = (*(f"eventdata/{folder}/NAME" for folder in folders), "train/networks/NAME")
    named = {place for place in named - PENDING if not place.startswith(examples)}
    assert not [place for place in named if not (ROOT / place).exists()]
    short = re.findall(r"`(test_\w+\.py)`", text)
    assert not [name for name in short if not (ROOT / "tests/faults" / name).is_file()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """Check files and headings, but no other sites."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"\w+:", target) or target in PENDING:
            continue
        place, _, heading = target.partition("#")
        file = path.parent / place if place else path
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in anchors, target


def test_quoted_messages_exist() -> None:
    """Look up each part of the messages in the last table of datasets.md."""
    table = (ROOT / "datasets.md").read_text().partition("## When something is wrong")[2]
    code = "".join(path.read_text() for path in (ROOT / "eventdata").rglob("*.py"))
    code = re.sub(r'"\s*f?"', "", code)
    messages = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    assert len(messages) > 5
    for message in messages:
        for part in message.split("..."):
            fixed = part.partition(": ")[0].strip()
            assert fixed in code, message


def test_documented_targets_of_make_exist() -> None:
    text = "".join(path.read_text() for path in DOCUMENTS)
    code = "\n".join(
        [*(block for _, block in FENCE.findall(text)), *re.findall(r"`([^`\n]+)`", text)]
    )
    named = set(re.findall(r"^make ([\w-]+)", code, re.MULTILINE))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert len(named) > 3
    assert named - PENDING <= targets
