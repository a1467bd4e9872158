"""A model of a file system that loses power: what was synced stays, everything else may be lost.

It promises only what POSIX does. A sync of a file keeps its bytes; a sync of a folder keeps its
entries. Without one:

- each entry that was made, replaced or removed may be as it was at any time since the last sync of
  its folder, whatever the others are, so a rename may survive without the bytes of its file, and in
  one of its two folders only
- the bytes of a file may be missing, cut, zero, or written in some sectors only
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias

SECTOR = 512
"""Bytes that are written together. Devices write more at once, and files of tests are small."""

Loss = Literal["none", "lost", "cut", "torn", "zero"]
LOSSES: tuple[Loss, ...] = ("none", "lost", "cut", "torn", "zero")
"""The fates of unsynced bytes: all written, none, a beginning, some sectors, only the length."""

Tree = dict[str, bytes | None]
"""The files of a folder with their bytes, and its folders with None, by relative path."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One call that changed files, or synced them.

    node: the number of the file or folder that was made, written or synced.
    """

    kind: Literal["make", "folder", "write", "cut", "sync", "rename", "link", "remove", "unknown"]
    node: int = 0
    path: str = ""
    to: str = ""
    start: int = 0
    data: bytes = b""


@dataclass(eq=False)
class File:
    """The bytes that are durable, and those that programs see."""

    synced: bytes = b""
    data: bytearray = field(default_factory=bytearray)

    def after(self, loss: Loss, draw: random.Random) -> bytes:
        """Return the bytes that are found after the power was lost."""
        old, new = self.synced, bytes(self.data)
        if loss == "none" or old == new:
            return new
        if loss == "lost":
            return old
        if loss == "cut":
            shared = next((i for i, (a, b) in enumerate(zip(old, new)) if a != b), len(old))  # noqa: B905
            return new[: draw.randrange(min(shared, len(new)), max(len(new), 1))]
        under = old[: len(new)].ljust(len(new), b"\0")
        if loss == "zero":
            return under
        sectors = range(0, len(new), SECTOR)
        return b"".join(draw.choice((under, new))[start : start + SECTOR] for start in sectors)


@dataclass(eq=False)
class Folder:
    """The entries that programs see, and all that each has been since the last sync."""

    entries: "dict[str, Node]" = field(default_factory=dict)
    history: "dict[str, list[Node | None]]" = field(default_factory=dict)

    def set(self, name: str, node: "Node | None") -> None:
        """Make, replace or remove an entry."""
        self.history.setdefault(name, [self.entries.get(name)]).append(node)
        if node is None:
            del self.entries[name]
        else:
            self.entries[name] = node


Node: TypeAlias = File | Folder


@dataclass(frozen=True)
class State:
    """A tree that a power loss could leave.

    losses: what became of unsynced bytes of files in the tree; entries: whether changes of entries
    are lost.
    """

    tree: Tree
    losses: frozenset[Loss]
    entries: bool


class Disk:
    """The file system below one folder."""

    def __init__(self, root: Path) -> None:
        """Take a real folder, all of it durable; nodes have its numbers."""
        self.root = Folder()
        self.nodes: dict[int, Node] = {root.stat().st_ino: self.root}
        for path in sorted(root.rglob("*")):
            node: Node = Folder()
            if path.is_file():
                data = path.read_bytes()
                node = File(data, bytearray(data))
            folder, name = self._place(path.relative_to(root).as_posix())
            folder.entries[name] = node
            self.nodes[path.stat().st_ino] = node

    def _place(self, path: str) -> tuple[Folder, str]:
        *above, name = path.split("/")
        folder = self.root
        for part in above:
            inner = folder.entries[part]
            assert isinstance(inner, Folder), path
            folder = inner
        return folder, name

    def apply(self, one: Operation) -> None:
        """Do an operation."""
        if one.kind in ("make", "folder"):
            node: Node = File() if one.kind == "make" else Folder()
            self.nodes[one.node] = node
            folder, name = self._place(one.path)
            folder.set(name, node)
        elif one.kind in ("rename", "link"):
            folder, name = self._place(one.path)
            target, to = self._place(one.to)
            target.set(to, folder.entries[name])
            if one.kind == "rename":
                folder.set(name, None)
        elif one.kind == "remove":
            folder, name = self._place(one.path)
            folder.set(name, None)
        else:
            node = self.nodes[one.node]
            if isinstance(node, Folder):
                assert one.kind == "sync", one
                node.history.clear()
            elif one.kind == "write":
                node.data.extend(bytes(max(0, one.start - len(node.data))))
                node.data[one.start : one.start + len(one.data)] = one.data
            elif one.kind == "cut":
                node.data[:] = node.data[: one.start].ljust(one.start, b"\0")
            elif one.kind == "sync":
                node.synced = bytes(node.data)
            else:
                raise ValueError(f"{one.path}: {one.kind}")

    def seen(self) -> Tree:
        """Return what programs see."""
        return self._state(random.Random(0), {}, ("none",)).tree

    def states(self, draw: random.Random, more: int) -> list[Callable[[], State]]:
        """Return functions that make states which a power loss could leave now.

        Some are regular: nothing unsynced is kept; all entries are, with each loss of bytes, of all
        files or of one; all except one; one only. ``more`` are drawn at random.
        """
        changed = {(id(f), name): h for f in self._folders() for name, h in f.history.items()}
        first = dict.fromkeys(changed, 0)
        last = {key: len(history) - 1 for key, history in changed.items()}
        of_one = partial(self._state, draw, last, ("none",))
        made: list[Callable[[], State]] = [partial(self._state, draw, first, ("lost",))]
        made += [partial(self._state, draw, last, (loss,)) for loss in LOSSES]
        made += [partial(of_one, {id(node): loss}) for node in self._files() for loss in LOSSES[1:]]
        for key, end in last.items():
            for loss in draw.sample(LOSSES, 2):
                made.append(partial(self._state, draw, {**last, key: draw.randrange(end)}, (loss,)))
            made.append(partial(self._state, draw, {**first, key: end}, (draw.choice(LOSSES),)))
        for _ in range(more if changed or self._files() else 0):
            kept = draw.choice((0.2, 0.5, 0.8))
            drawn = {
                key: end if draw.random() < kept else draw.randrange(end)
                for key, end in last.items()
            }
            made.append(partial(self._state, draw, drawn, LOSSES))
        return made

    def _files(self) -> list[File]:
        """Return the files with unsynced bytes."""
        named = [node for folder in self._folders() for node in folder.entries.values()]
        files = {id(node): node for node in named if isinstance(node, File)}
        return [file for file in files.values() if file.synced != file.data]

    def _folders(self) -> list[Folder]:
        """Return the folders that exist, or may exist after a power loss."""
        found = {id(self.root): self.root}
        left = [self.root]
        while left:
            folder = left.pop()
            once = [node for history in folder.history.values() for node in history]
            for node in (*folder.entries.values(), *once):
                if isinstance(node, Folder) and id(node) not in found:
                    found[id(node)] = node
                    left.append(node)
        return list(found.values())

    def _state(
        self,
        draw: random.Random,
        chosen: Mapping[tuple[int, str], int],
        losses: Sequence[Loss],
        one: Mapping[int, Loss] = MappingProxyType({}),
    ) -> State:
        """Return a state.

        Args:
            draw: for choices and damage.
            chosen: the index of each changed entry in its history.
            losses: the losses to choose from for each file.
            one: the loss of some files.
        """
        tree: Tree = {}
        found: set[Loss] = set()
        files: dict[int, bytes] = {}  # one under two names has the same bytes under both
        entries = False

        def visit(folder: Folder, path: str) -> None:
            nonlocal entries
            for name in sorted({*folder.entries, *folder.history}):
                node = folder.entries.get(name)
                if (key := (id(folder), name)) in chosen:
                    node = folder.history[name][chosen[key]]
                    entries |= node is not folder.entries.get(name)
                if isinstance(node, Folder):
                    tree[path + name] = None
                    visit(node, f"{path}{name}/")
                elif isinstance(node, File):
                    if id(node) not in files:
                        loss: Loss = one[id(node)] if id(node) in one else draw.choice(losses)
                        files[id(node)] = node.after(loss, draw)
                        if files[id(node)] != node.data:
                            found.add(loss)
                    tree[path + name] = files[id(node)]

        visit(self.root, "")
        return State(tree, frozenset(found), entries)
