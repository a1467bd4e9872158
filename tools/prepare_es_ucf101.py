"""Event frames of UCF101 from what one can download to a verified store.

    python tools/prepare_es_ucf101.py UCF101.rar --fold 1 \\
        --splits UCF101TrainTestSplits-RecognitionTask.zip --out ucf.zarr

Each step is told and goes on when called again.
"""

import os
from pathlib import Path

import click

from eventdata.errors import InputError
from eventdata.raw.ucf101 import KINDS
from eventdata.raw.ucf101_lists import find_clips
from tools.archives import Limits
from tools.preparing import convert_and_verify, find_folder, told_plainly, unpack_all

# UCF101 is 7 GB of clips of at most 20 MB; its frames as JPEG are 30 GB.
LIMITS = Limits(file_bytes=2**30, total_bytes=100 * 2**30)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("clips", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--splits",
    type=click.Path(exists=True, path_type=Path),
    help="The official lists, as a folder or an archive; without them one split, all.",
)
@click.option("--fold", type=click.IntRange(1, 3), help="Of --splits, where not given 1.")
@click.option("--out", required=True, help="The store: a folder or a URL.")
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("es-ucf101-work"),
    show_default=True,
    help="Folder for what is unpacked; remove it when the store is made.",
)
@click.option("--mode", type=click.Choice(["1", "2"]), default="1", show_default=True)
@click.option("--workers", type=click.IntRange(1), default=os.cpu_count() or 1)
@click.option("--on-error", type=click.Choice(["fail", "skip"]), default="fail")
def main(
    clips: Path,
    splits: Path | None,
    fold: int | None,
    out: str,
    work: Path,
    mode: str,
    workers: int,
    on_error: str,
) -> None:
    """Make a verified store of CLIPS: UCF101.rar (by 7-Zip or bsdtar), zip, tar, or a folder."""
    if splits is None and fold is not None:
        raise click.UsageError("--fold is of the official lists: give them by --splits")
    with told_plainly():
        root = find_folder(unpacked(clips, work / "clips"), holds_clips, "clips")
        options = {"mode": int(mode)}
        if splits is None:
            convert_and_verify("ucf101", root, out, workers=workers, on_error=on_error, **options)
            return
        lists = find_folder(
            unpacked(splits, work / "lists"),
            lambda folder: (folder / "classInd.txt").is_file(),
            "classInd.txt",
        )
        convert_and_verify(
            "ucf101",
            root,
            out,
            workers=workers,
            on_error=on_error,
            splits=lists,
            fold=fold or 1,
            **options,
        )


def unpacked(path: Path, folder: Path) -> Path:
    """A folder as it is, an archive unpacked."""
    if path.is_dir():
        return path
    unpack_all([path], folder, LIMITS)
    return folder


def holds_clips(folder: Path) -> bool:
    """Whether there are clips in it or in class folders there."""
    try:
        return bool(find_clips(folder, KINDS))
    except InputError:
        return False


if __name__ == "__main__":
    main()
