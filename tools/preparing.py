"""What the programs prepare_*.py share: archives to a folder, a folder to a verified store."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

import eventdata
from eventdata.errors import EventDataError, InputError, OptionError
from eventdata.info import human_bytes
from eventdata.progress import progress_bar
from tools.archives import Limits, group_parts, unpack

UNPACKED = ".unpacked.json"  # archives that this folder holds whole, by name, size and time


@contextlib.contextmanager
def told_plainly() -> Iterator[None]:
    """An error of ours as one sentence and an exit code, as the command `eventdata` does it."""
    try:
        yield
    except EventDataError as error:
        click.echo(f"{Path(sys.argv[0]).name}: {error}", err=True)
        raise SystemExit(2 if isinstance(error, OptionError) else 1) from None
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        click.echo(f"{Path(sys.argv[0]).name}: {place}{error.strerror}; see to that", err=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        click.echo("stopped; call the same again to go on", err=True)
        raise SystemExit(130) from None


def say(step: str, what: object) -> None:
    """A line about a step."""
    click.echo(f"{click.style(step, bold=True)}: {what}", err=True)


def unpack_all(paths: Sequence[Path], folder: Path, limits: Limits) -> None:
    """Unpack archives into a folder, but for those that an earlier call unpacked whole."""
    marker = folder / UNPACKED
    done = _read_marker(marker)
    for parts in group_parts(paths):
        numbers = [[part.stat().st_size, part.stat().st_mtime_ns] for part in parts]
        name = parts[0].name + (f" and {len(parts) - 1} more parts" if parts[1:] else "")
        if done.get(parts[0].name) == numbers:
            say("unpack", f"{name}: unpacked before, into {folder}")
            continue
        say("unpack", f"{name} ({human_bytes(sum(size for size, _ in numbers))}) into {folder}")
        count = unpack(parts, folder, limits)
        done[parts[0].name] = numbers
        written = marker.with_suffix(".tmp")
        written.write_text(json.dumps(done))
        written.replace(marker)
        say("unpack", f"{name}: {count:,} files")


def _read_marker(marker: Path) -> dict[str, Any]:
    """Archives unpacked before; none where that is not known, and they are unpacked again."""
    try:
        return dict(json.loads(marker.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def link_folder(folder: Path, link: Path) -> None:
    """Make ``link`` lead to a folder; InputError where something else is there."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(folder.resolve(), target_is_directory=True)
    elif link.resolve() != folder.resolve():
        raise InputError(f"{link}: of an earlier call; remove it, or choose another --work")


def find_folder(root: Path, is_it: Callable[[Path], bool], what: str) -> Path:
    """The nearest folder under ``root``, itself included, at most three levels down."""
    level = [root]
    for _ in range(4):
        for folder in level:
            if is_it(folder):
                return folder
        level = sorted(sub for folder in level for sub in folder.iterdir() if sub.is_dir())[:10_000]
    raise InputError(f"{root}: no {what} in it or three levels below; give the folder with it")


def convert_and_verify(
    source: str, root: Path, out: str, *, workers: int, on_error: Any, **options: Any
) -> None:
    """Convert, check every checksum, and compare some samples with their raw files."""
    say("convert", f"{source} from {root} into {out}")
    with progress_bar("converting") as progress:
        made = eventdata.convert(
            source, root, out, workers=workers, on_error=on_error, progress=progress, **options
        )
    for note in made.notes:
        say("convert", f"note: {note}")
    splits = ", ".join(f"{split} {count:,}" for split, count in made.samples.items())
    say("convert", f"{made.state}: {splits}, {made.skipped:,} left out, {human_bytes(made.bytes)}")
    against = {key: options[key] for key in ("list", "classes", "splits", "fold") if key in options}
    say("verify", "every checksum, and 256 samples of each split with what they were made from")
    with progress_bar("verifying") as progress:
        found = eventdata.verify(out, against=root, workers=workers, progress=progress, **against)
    for problem in found.problems[:20]:
        say("verify", problem)
    if not found.ok:
        raise InputError(f"{out}: {len(found.problems):,} problems; convert again with --overwrite")
    say("verify", f"sound; {found.samples:,} samples, {found.compared:,} compared")
