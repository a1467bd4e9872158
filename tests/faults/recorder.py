"""Record the operations that a program makes on the files below a folder.

The functions of `os` and `open` are replaced while it records. What changes files otherwise is not
recorded: `Recorder.operations` has an "unknown" operation for what Python's audit events know of
it, and replaying the record (`tests.faults.disk.Disk.seen`) shows the rest.
"""

import builtins
import fcntl
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.faults.disk import Operation

_CHANGES = {
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
}
_RECORDED = (
    *("open", "write", "pwrite", "truncate", "ftruncate", "fsync", "fdatasync", "mkdir"),
    *("rename", "replace", "unlink", "remove", "rmdir", "link", "symlink"),
)
_NOT_MODELLED = ("copy_file_range", "posix_fallocate", "pwritev", "sendfile", "splice", "writev")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_fsync, _fstat, _lseek, _stat = os.fsync, os.fstat, os.lseek, os.stat


class PowerLoss(BaseException):
    """Raised by each operation after the last one that is let through."""


class Recorder:
    """The operations below a folder, in their order.

    Args:
        root: the folder.
        last: number of operations after which the process counts as killed: no later one has an
            effect. None: all are let through.
    """

    def __init__(self, root: Path, last: int | None = None) -> None:
        self.root, self.last = f"{root.resolve()}/", last
        self.operations: list[Operation] = []
        self.lock = threading.RLock()
        self.inside = threading.local()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record while this is open. Nothing waits for the disk meanwhile."""
        replaced = [(builtins, "open", _open_for(self)), (io, "open", _open_for(self))]
        for name in _RECORDED:
            function = getattr(self, f"_{name}", None)
            if function is None:
                same = {"replace": "rename", "unlink": "remove", "rmdir": "remove"}
                function = getattr(self, f"_{same.get(name, name)}")
            replaced.append((os, name, self._wrapped(getattr(os, name), function)))
        for name in _NOT_MODELLED:
            if hasattr(os, name):
                replaced.append((os, name, self._refusing(getattr(os, name))))
        originals = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
        _hear_events_of(self)
        try:
            for owner, name, function in replaced:
                setattr(owner, name, function)
            yield
        finally:
            _hear_events_of(None)
            for owner, name, function in originals:
                setattr(owner, name, function)

    def key(self, path: Any, dir_fd: int | None = None) -> str | None:
        """Return a path relative to the folder, None for one outside it."""
        if isinstance(path, int):
            return None
        text = os.fsdecode(path)
        if dir_fd is not None:
            text = f"{os.readlink(f'/proc/self/fd/{dir_fd}')}/{text}"  # noqa: PTH115
        text = os.path.abspath(text)  # noqa: PTH100 links are not followed
        return text.removeprefix(self.root) if text.startswith(self.root) else None

    def add(self, kind: Any, **details: Any) -> None:
        """Record an operation."""
        self.operations.append(Operation(kind=kind, **details))

    @contextmanager
    def operation(self) -> Iterator[None]:
        """Hold the order of operations; raise PowerLoss after the last one."""
        with self.lock:
            if self.last is not None and len(self.operations) >= self.last:
                raise PowerLoss
            self.inside.depth = getattr(self.inside, "depth", 0) + 1
            try:
                yield
            finally:
                self.inside.depth -= 1

    def is_inside(self) -> bool:
        """Return whether an operation that is recorded runs in this thread."""
        return bool(getattr(self.inside, "depth", 0))

    def opened(self, key: str, number: int, flags: int, *, existed: bool) -> None:
        """Record what opening a file for writing has done."""
        status = _fstat(number)
        if not existed:
            self.add("make", node=status.st_ino, path=key)
        elif flags & os.O_TRUNC:
            self.add("cut", node=status.st_ino)

    def _wrapped(self, real: Callable[..., Any], function: Callable[..., Any]) -> Any:
        def wrapper(*args: Any, **settings: Any) -> Any:
            return function(real, *args, **settings)

        return wrapper

    def _refusing(self, real: Callable[..., Any]) -> Any:
        def refuse(*args: Any, **settings: Any) -> Any:
            for one in args[:2]:
                if isinstance(one, int) and self._is_mine(one):
                    self.add("unknown", path=real.__name__)
            return real(*args, **settings)

        return refuse

    def _is_mine(self, number: int) -> bool:
        try:
            place = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115
        except OSError:
            return False
        return f"{place}/".startswith(self.root)

    def _open(
        self, real: Any, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None
    ) -> int:
        key = self.key(path, dir_fd)
        if key is None or not flags & _WRITES:
            return int(real(path, flags, mode, dir_fd=dir_fd))
        with self.operation():
            existed = os.path.lexists(self.root + key)
            number = int(real(path, flags, mode, dir_fd=dir_fd))
            self.opened(key, number, flags, existed=existed)
        return number

    def _write(self, real: Any, number: int, data: Any) -> int:
        if not self._is_mine(number):
            return int(real(number, data))
        with self.operation():
            count = int(real(number, data))
            self.wrote(number, _lseek(number, 0, os.SEEK_CUR) - count, data, count)
        return count

    def _pwrite(self, real: Any, number: int, data: Any, offset: int) -> int:
        if not self._is_mine(number):
            return int(real(number, data, offset))
        with self.operation():
            if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_APPEND:  # Linux then ignores the offset
                offset = _fstat(number).st_size
            count = int(real(number, data, offset))
            self.wrote(number, offset, data, count)
        return count

    def wrote(self, number: int, start: int, data: Any, count: int) -> None:
        """Record bytes that were written."""
        written = bytes(memoryview(data).cast("B")[:count])
        self.add("write", node=_fstat(number).st_ino, start=start, data=written)

    def _ftruncate(self, real: Any, number: int, length: int) -> None:
        if not self._is_mine(number):
            real(number, length)
            return
        with self.operation():
            real(number, length)
            self.add("cut", node=_fstat(number).st_ino, start=length)

    def _truncate(self, real: Any, path: Any, length: int) -> None:
        if isinstance(path, int):
            os.ftruncate(path, length)
            return
        if self.key(path) is None:
            real(path, length)
            return
        with self.operation():
            real(path, length)
            self.add("cut", node=_stat(path).st_ino, start=length)

    def _fsync(self, real: Any, file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        if not self._is_mine(number):
            real(number)
            return
        with self.operation():
            self.add("sync", node=_fstat(number).st_ino)

    _fdatasync = _fsync  # of new files, whose length it keeps

    def _mkdir(
        self, real: Any, path: Any, *args: Any, dir_fd: int | None = None, **kw: Any
    ) -> None:
        key = self.key(path, dir_fd)
        if key is None:
            real(path, *args, dir_fd=dir_fd, **kw)
            return
        with self.operation():
            real(path, *args, dir_fd=dir_fd, **kw)
            self.add("folder", node=_stat(self.root + key).st_ino, path=key)

    def _rename(
        self,
        real: Any,
        path: Any,
        to: Any,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
    ) -> None:
        self._both("rename", real, path, to, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    def _link(self, real: Any, path: Any, to: Any, **kw: Any) -> None:
        self._both("link", real, path, to, **kw)

    def _both(self, kind: str, real: Any, path: Any, to: Any, **kw: Any) -> None:
        keys = self.key(path, kw.get("src_dir_fd")), self.key(to, kw.get("dst_dir_fd"))
        if keys == (None, None):
            real(path, to, **kw)
            return
        with self.operation():
            nodes = [_node(f"{self.root}{key}") for key in keys]
            real(path, to, **kw)
            if None in keys:
                self.add("unknown", path=f"{kind} {path} {to}")
            elif nodes[0] != nodes[1]:  # a rename between two names of one file does nothing
                self.add(kind, path=keys[0], to=keys[1])

    def _symlink(self, real: Any, path: Any, to: Any, *args: Any, **kw: Any) -> None:
        if self.key(to, kw.get("dir_fd")) is not None:
            self.add("unknown", path=f"symlink {to}")
        real(path, to, *args, **kw)

    def _remove(self, real: Any, path: Any, *, dir_fd: int | None = None) -> None:
        key = self.key(path, dir_fd)
        if key is None:
            real(path, dir_fd=dir_fd)
            return
        with self.operation():
            real(path, dir_fd=dir_fd)
            self.add("remove", path=key)

    def hear(self, event: str, details: tuple[Any, ...]) -> None:
        """Note an audit event of a change that no wrapper records."""
        if event not in _CHANGES and not (event == "open" and details[2] & _WRITES):
            return
        if self.is_inside():
            return
        if any(isinstance(one, str | bytes | os.PathLike) and self.key(one) for one in details[:2]):
            self.add("unknown", path=f"{event} {details}")


def _node(path: str) -> int | None:
    try:
        return os.lstat(path).st_ino
    except OSError:
        return None


_heard: Recorder | None = None
_hears = False


def _hear_events_of(recorder: Recorder | None) -> None:
    """Send audit events to a recorder; hooks can't be removed."""
    global _heard, _hears
    _heard = recorder
    if not _hears:
        _hears = True
        sys.addaudithook(lambda event, details: _heard.hear(event, details) if _heard else None)


def _open_for(recorder: Recorder) -> Any:
    """Return `open` whose files record what is written to them."""
    real = io.open

    class Recorded(io.FileIO):
        def __init__(self, path: Any, mode: str, **settings: Any) -> None:
            key = recorder.key(path)
            self.mine = key is not None
            if key is None:
                super().__init__(path, mode, **settings)
                return
            with recorder.operation():
                existed = os.path.lexists(recorder.root + key)
                super().__init__(path, mode, **settings)
                flags = os.O_TRUNC if "w" in mode else 0
                recorder.opened(key, self.fileno(), flags, existed=existed)

        def write(self, data: Any) -> int:
            if not self.mine:
                return super().write(data)
            with recorder.operation():
                count = super().write(data)
                recorder.wrote(self.fileno(), self.tell() - count, data, count)
            return count

        def truncate(self, size: int | None = None) -> int:
            if not self.mine:
                return super().truncate(size)
            with recorder.operation():
                size = super().truncate(size)
                recorder.add("cut", node=_fstat(self.fileno()).st_ino, start=size)
            return size

    def opening(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        if not set(mode) & set("wxa+") or recorder.key(file) is None:
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = Recorded(file, mode.replace("b", "").replace("t", ""), opener=opener)
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        text = io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)
        text.mode = mode  # type: ignore[misc]
        return text

    return opening
