"""Turn downloaded archives into a verified store: unpack, convert, verify.

    python tools/prepare.py es-imagenet published ES-imagenet-0.18.part*.rar --out es.zarr
    python tools/prepare.py es-imagenet images ILSVRC2012/ --val-labels val.txt --out es.zarr
    python tools/prepare.py es-ucf101 UCF101.rar --fold 1 \\
        --splits UCF101TrainTestSplits-RecognitionTask.zip --out ucf.zarr

Run the same command again to resume: finished steps are kept.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.filesize import decimal

import eventdata
from eventdata.errors import EventDataError, InputError, OptionError
from eventdata.progress import progress_bar
from eventdata.raw.es_imagenet import MANIFESTS
from eventdata.raw.ucf101 import Ucf101
from eventdata.raw.ucf101_lists import find_clips
from tools.archives import Limits, group_parts, unpack

# The published ES-ImageNet holds 108 GB in files of at most half a megabyte; ImageNet holds 150 GB
# in images of at most 16 MB.
IMAGENET_LIMITS = Limits(file_bytes=64 * 2**20, total_bytes=400 * 2**30)
# UCF101 holds 7 GB in clips of at most 20 MB; its frames as JPEG take 30 GB.
UCF101_LIMITS = Limits(file_bytes=2**30, total_bytes=100 * 2**30)
TARS = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
UNPACKED = ".unpacked.json"
"""File in a folder that names the archives unpacked there completely, with sizes and times."""
EXISTING = click.Path(exists=True, path_type=Path)


class Program(click.Group):
    """Commands that report an error as one sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; print an expected error without its traceback."""
        try:
            return super().invoke(ctx)
        except EventDataError as error:
            text, code = str(error), 2 if isinstance(error, OptionError) else 1
        except OSError as error:
            text, code = f"{error.filename or 'prepare'}: {error.strerror}", 1
        except KeyboardInterrupt:
            text, code = "stopped; run the same command again to resume", 130
        click.echo(f"prepare: {text}", err=True)
        raise SystemExit(code)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Make a verified store from downloaded archives."""


def with_common_options(work: str) -> Callable[[Any], Any]:
    """Return a decorator that adds the options of every command; ``work`` is a default."""

    def decorate(command: Any) -> Any:
        for option in (
            click.option("--out", required=True, help="Output store: a folder or a URL."),
            click.option(
                "--work",
                type=click.Path(file_okay=False, path_type=Path),
                default=Path(work),
                show_default=True,
                help="Folder for unpacked files; remove it once the store is complete.",
            ),
            click.option(
                "--workers",
                type=click.IntRange(1),
                default=os.cpu_count() or 1,
                help="Worker processes; one per core by default.",
            ),
            click.option(
                "--on-error",
                type=click.Choice(["fail", "skip"]),
                default="fail",
                show_default=True,
                help="Stop at an unreadable sample, or skip it.",
            ),
        ):
            command = option(command)
        return command

    return decorate


split_option = click.option("--split", type=click.Choice(["train", "val"]), help="Only this split.")


@main.group()
def es_imagenet() -> None:
    """Prepare ES-ImageNet."""


@es_imagenet.command()
@click.argument("parts", nargs=-1, required=True, type=EXISTING, metavar="PART...")
@split_option
@with_common_options("es-imagenet-work")
def published(
    parts: tuple[Path, ...], out: str, work: Path, split: str | None, **options: Any
) -> None:
    """Convert the published archive: all its parts, or the folder that holds its files.

    The parts are rar volumes, which 7-Zip (7zz or 7z) unpacks. Zip and tar files, whole or cut
    into parts, need no other program.
    """
    root = parts[0]
    if not (len(parts) == 1 and root.is_dir()):
        unpack_all(parts, work, IMAGENET_LIMITS)
        root = work
    wanted = [MANIFESTS[split]] if split else list(MANIFESTS.values())
    raw = find_folder(
        root, lambda folder: any((folder / name).is_file() for name in wanted), " or ".join(wanted)
    )
    convert_and_verify("es-imagenet", raw, out, split=split, **options)


@es_imagenet.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@split_option
@click.option(
    "--val-labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Labels of val without class folders: lines 'ILSVRC2012_val_00000001.JPEG index|wnid'.",
)
@click.option(
    "--odg",
    type=click.Choice(["centred", "published"]),
    default="centred",
    show_default=True,
    help="Crop window of the generated events.",
)
@with_common_options("es-imagenet-work")
def images(
    folder: Path, out: str, work: Path, split: str | None, val_labels: Path | None, **options: Any
) -> None:
    """Generate events from ImageNet: a folder with train/ and val/, or with the official two tars.

    The files of the tars are ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar.
    """
    tars = {name: folder / tar for name, tar in TARS.items() if (folder / tar).is_file()}
    for name, tar in tars.items():
        if split in (None, name):
            unpack_all([tar], work / name, IMAGENET_LIMITS)
    root = work if tars else folder
    for name in TARS:  # one split as a tar, the other as a folder
        if tars and name not in tars and (folder / name).is_dir():
            link_folder(folder / name, work / name)
    if split != "train":
        options["list"] = val_labels
        if val_labels is None and (root / "val").is_dir():
            say("labels", "val must have class folders, because --val-labels was not given")
    convert_and_verify("imagenet", root, out, split=split, **options)


@main.command("es-ucf101")
@click.argument("clips", type=EXISTING)
@click.option(
    "--splits", type=EXISTING, help="Folder or archive of the official lists; else one split, all."
)
@click.option("--fold", type=click.IntRange(1, 3), help="Fold of --splits; 1 by default.")
@click.option(
    "--mode",
    type=click.Choice(["1", "2"]),
    default="1",
    show_default=True,
    help="1: two thresholds per clip; 2: a random threshold per pixel and step.",
)
@with_common_options("es-ucf101-work")
def es_ucf101(
    clips: Path,
    splits: Path | None,
    fold: int | None,
    mode: str,
    out: str,
    work: Path,
    **options: Any,
) -> None:
    """Generate events from CLIPS: UCF101.rar (by 7-Zip or bsdtar), a zip, a tar or a folder."""
    if splits is None and fold is not None:
        raise click.UsageError("--fold needs the official lists; pass them with --splits")
    root = find_folder(unpacked(clips, work / "clips"), holds_clips, "clips")
    if splits is not None:
        options["splits"] = find_folder(
            unpacked(splits, work / "lists"),
            lambda folder: (folder / "classInd.txt").is_file(),
            "classInd.txt",
        )
        options["fold"] = fold or 1
    convert_and_verify("ucf101", root, out, mode=int(mode), **options)


def unpacked(path: Path, folder: Path) -> Path:
    """Return ``path`` itself if it is a folder; else unpack the archive into ``folder``."""
    if path.is_dir():
        return path
    unpack_all([path], folder, UCF101_LIMITS)
    return folder


def holds_clips(folder: Path) -> bool:
    """Return whether a folder or its class folders hold clips."""
    try:
        return bool(find_clips(folder, Ucf101.suffixes))
    except InputError:
        return False


def say(step: str, text: object) -> None:
    """Print a line about a step."""
    click.echo(f"{click.style(step, bold=True)}: {text}", err=True)


def unpack_all(paths: Sequence[Path], folder: Path, limits: Limits) -> None:
    """Unpack archives into a folder; skip those that an earlier run unpacked completely."""
    marker = folder / UNPACKED
    done = _read_marker(marker)
    for parts in group_parts(paths):
        numbers = [[part.stat().st_size, part.stat().st_mtime_ns] for part in parts]
        name = parts[0].name + (f" and {len(parts) - 1} more parts" if parts[1:] else "")
        if done.get(parts[0].name) == numbers:
            say("unpack", f"{name}: unpacked before, into {folder}")
            continue
        say("unpack", f"{name} ({decimal(sum(size for size, _ in numbers))}) into {folder}")
        count = unpack(parts, folder, limits)
        done[parts[0].name] = numbers
        written = marker.with_suffix(".tmp")
        written.write_text(json.dumps(done))
        written.replace(marker)
        say("unpack", f"{name}: {count:,} files")


def _read_marker(marker: Path) -> dict[str, Any]:
    """Return the archives unpacked before; if that is unknown, all are unpacked again."""
    try:
        return dict(json.loads(marker.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def link_folder(folder: Path, link: Path) -> None:
    """Make ``link`` point to a folder; raise InputError if something else has that name."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(folder.resolve(), target_is_directory=True)
    elif link.resolve() != folder.resolve():
        raise InputError(f"{link}: left by another run; remove it, or choose another --work")


def find_folder(root: Path, accept: Callable[[Path], bool], what: str) -> Path:
    """Return the nearest accepted folder: ``root`` or one at most three levels below."""
    level = [root]
    for _ in range(4):
        for folder in level:
            if accept(folder):
                return folder
        level = sorted(sub for folder in level for sub in folder.iterdir() if sub.is_dir())[:10_000]
    raise InputError(f"{root}: no {what} here or three levels below; pass the folder that holds it")


def convert_and_verify(source: str, root: Path, out: str, *, workers: int, **options: Any) -> None:
    """Convert, check every checksum, and compare some samples with their raw files."""
    say("convert", f"{source} from {root} into {out}")
    with progress_bar("converting") as progress:
        made = eventdata.convert(source, root, out, workers=workers, progress=progress, **options)
    for note in made.notes:
        say("convert", f"note: {note}")
    splits = ", ".join(f"{split} {count:,}" for split, count in made.samples.items())
    say("convert", f"{made.state}: {splits}, {made.skipped:,} skipped, {decimal(made.bytes)}")
    against = {key: options[key] for key in ("list", "classes", "splits", "fold") if key in options}
    say("verify", "every checksum, and 256 samples of each split against their raw files")
    with progress_bar("verifying") as progress:
        found = eventdata.verify(out, against=root, workers=workers, progress=progress, **against)
    for problem in found.problems[:20]:
        say("verify", problem)
    if not found.ok:
        raise InputError(f"{out}: {len(found.problems):,} problems; convert again with --overwrite")
    say("verify", f"sound; {found.samples:,} samples, {found.compared:,} compared")


if __name__ == "__main__":
    main()
