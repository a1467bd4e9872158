"""A progress bar on standard error: samples done, samples a second, time left.

Speed and time left use the monotonic clock, because the system's clock may jump.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a function to call with samples done and in total; None without a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():  # None: started with it closed
        yield None
        return
    from rich import progress as rich
    from rich.console import Console

    class SpeedColumn(rich.ProgressColumn):
        def render(self, task: rich.Task) -> str:
            speed = task.finished_speed or task.speed
            return f"{speed:,.0f} samples/s" if speed else ""

    with rich.Progress(
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        SpeedColumn(),
        rich.TimeRemainingColumn(),
        console=Console(file=cast(TextIO, _Terminal(sys.stderr))),
    ) as bar:
        tasks: list[rich.TaskID] = []

        def update(done: int, total: int) -> None:
            if not tasks:  # finished work of an earlier run must not count into the speed
                tasks.append(bar.add_task(label, total=total, completed=done))
            bar.update(tasks[0], completed=done)

        yield update


class _Terminal:
    """A terminal that may be closed without ending the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()
