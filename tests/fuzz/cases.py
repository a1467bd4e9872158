"""Run a case: give a tree of files to a reader and watch its memory, its time and its writes.

A case is a finding unless the reader returns or raises an EventDataError of one line, within the
memory that `Reader` allows and the deadline. The reader must not start a process, open a connection
or change a file outside its output.
"""

import contextlib
import faulthandler
import io
import itertools
import os
import re
import shutil
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from eventdata.errors import EventDataError
from tests.fuzz.generated import STRATEGIES, generated
from tests.fuzz.mutations import mutate
from tests.fuzz.readers import MIB, READERS, Reader
from tests.fuzz.seeds.trees import Tree, write_tree
from tools.bench.report import resident

DEADLINE = 60.0
"""Seconds for a case; generous, because kernels may be compiled and machines may be busy."""
BLOCK, GENERATED = 100, 20
"""Cases in a block, and how many of them are made by rules if the reader has rules."""


@dataclass(frozen=True)
class Finding:
    """A case that went wrong."""

    reader: str
    kind: Literal["error", "message", "memory", "write", "deadline", "died"]
    place: str
    """Error and line; findings of one place are one fault."""
    details: str
    case: int = -1


Outcome = Finding | Literal["read", "refused"]


def make_cases(name: str, trees: list[Tree], seed: int, first: int) -> Iterator[tuple[int, Tree]]:
    """Yield case numbers and their trees from number ``first`` on, without end.

    The first cases are the sound seeds. A case depends only on the seed and its number.
    """
    if first < len(trees):
        yield from list(enumerate(trees))[first:]
        first = len(trees)
    made: list[Tree] = []
    for number in itertools.count(first):
        block, place = divmod(number, BLOCK)
        if name in STRATEGIES and place < GENERATED:
            if place == 0 or not made:
                made = generated(name, Random(f"{seed} {name} {block}").getrandbits(32), GENERATED)
            yield number, {**trees[0], **made[place % len(made)]}
        else:
            yield number, _damaged(Random(f"{seed} {name} {number}"), READERS[name], trees)


def _damaged(rng: Random, reader: Reader, trees: list[Tree]) -> Tree:
    """Return a seed with one or two files damaged or removed."""
    tree = dict(rng.choice(trees))
    names = [name for name in tree if name.startswith(reader.damage)]
    for _ in range(rng.choice((1, 1, 1, 2))):
        name = rng.choice(names)
        other = rng.choice(list(rng.choice(trees).values()))
        if rng.random() < 0.02 and len(names) > 1:
            tree.pop(name, None)
        elif name in tree:
            tree[name] = mutate(rng, name, tree[name], other)
    return tree


class Watch:
    """A runner of cases in this process that returns the outcome of each."""

    def __init__(self, folder: Path) -> None:
        """Use ``folder`` for the files of the running case; they stay there if the process dies."""
        self.case = folder / "case"
        self.input, self.out = self.case / "input", self.case / "out"
        self._allowed = tuple(os.path.realpath(path) for path in (self.out, self.input / "out"))
        self._escapes: list[str] = []
        self._watching = False
        sys.addaudithook(self._audit)

    def warm_up(self, name: str, trees: list[Tree]) -> None:
        """Load and compile everything, so that the first cases need no extra time and memory."""
        for tree in trees:
            self.run(name, tree, patience=20)

    def run(self, name: str, tree: Tree, patience: int = 1) -> Outcome:
        """Give a tree to a reader; after ``patience`` deadlines the process ends."""
        reader = READERS[name]
        shutil.rmtree(self.case, ignore_errors=True)
        write_tree(self.input, tree)
        self.out.mkdir(parents=True)
        before = _names(self.case.parent)
        self._escapes.clear()
        reset_peak()
        started = resident("VmRSS")
        faulthandler.dump_traceback_later(patience * DEADLINE, exit=True)
        self._watching = True
        found: Outcome = "read"
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                reader.read(self.input, self.out)
        except EventDataError as error:
            found = _check_message(name, error)
        except BaseException as error:  # a panic in Rust is not an Exception
            found = Finding(name, "error", _place(error), traceback.format_exc())
        finally:
            self._watching = False
            faulthandler.cancel_dump_traceback_later()
        grown = resident("VmHWM") - started
        if _names(self.case.parent) != before or _names(self.case) != {"input", "out"}:
            self._escapes.append(
                f"next to the output: {_names(self.case.parent)} {_names(self.case)}"
            )
        if self._escapes:
            return Finding(name, "write", self._escapes[0], "\n".join(self._escapes))
        if isinstance(found, Finding):
            return found
        allowed = reader.mib * MIB + reader.times * sum(map(len, tree.values()))
        if grown > allowed:
            text = f"{grown / MIB:,.0f} MiB, more than the {allowed / MIB:,.0f} allowed"
            return Finding(name, "memory", "resident", text)
        return found

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Record what a reader must not do; Python calls this before the operation."""
        if not self._watching:
            return
        if event in _FORBIDDEN:
            self._escapes.append(f"{event} {arguments!r:.200}")
        elif event == "open":
            path, mode, flags = arguments
            if _writes(mode, flags):
                self._check_path(event, path, -1)
        elif event in _CHANGING:
            paths, folders = _CHANGING[event]
            for path, folder in zip(arguments[:paths], arguments[folders:], strict=False):
                self._check_path(event, path, folder)

    def _check_path(self, event: str, path: Any, folder: int) -> None:
        """Record a path outside the output; ``folder`` is a relative path's descriptor, or -1."""
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a descriptor that was opened before
        name = os.fsdecode(path)
        if folder >= 0:
            name = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)  # noqa: PTH115, PTH118
        whole = os.path.realpath(name)
        if not whole.startswith(self._allowed) and not _of_python(whole):
            self._escapes.append(f"{event} {whole}")


_FORBIDDEN = {
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen"),
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname"),
    *("os.kill", "os.putenv", "webbrowser.open"),
}
# The number of paths among the arguments, and the index of their folders' descriptors.
_CHANGING = {
    **{"os.mkdir": (1, 2), "os.remove": (1, 1), "os.rmdir": (1, 1), "os.chmod": (1, 2)},
    **{"os.chown": (1, 3), "os.utime": (1, 3), "os.rename": (2, 2), "os.link": (2, 2)},
    **{"os.symlink": (2, 2)},
}


def _writes(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


def _of_python(path: str) -> bool:
    """Return whether a path is compiled code that Python and Numba cache, or a null device."""
    return "/__pycache__" in path or path in ("/dev/null", "/dev/tty")


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in os.scandir(folder)}


def _check_message(name: str, error: EventDataError) -> Outcome:
    """Return "refused" if an error of ours is one line, short and printable, else a finding."""
    text = str(error)
    if text.isprintable() and 0 < len(text) < 3000:
        return "refused"
    return Finding(name, "message", _place(error), repr(text[:3000]))


def _place(error: BaseException) -> str:
    """Return an error's class and the innermost line of this project in its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if re.search(r"/(eventdata|train|tools)/[a-z_/]*\.py", f.filename)]
    line = (ours or frames)[-1]
    return f"{type(error).__name__} at {Path(line.filename).name}:{line.lineno}"


def reset_peak() -> None:
    """Set the peak of resident memory to the current value (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
