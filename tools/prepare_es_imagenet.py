"""ES-ImageNet from what one can download to a verified store; every step goes on when called again.

    python tools/prepare_es_imagenet.py published ES-imagenet-0.18.part*.rar --out es.zarr
    python tools/prepare_es_imagenet.py images ILSVRC2012/ --val-labels val.txt --out es.zarr

`published` takes the archive's parts, or the folder that they were unpacked to. `images` takes
ImageNet itself: a folder with train/ and val/, or one with the official ILSVRC2012_img_train.tar
and ILSVRC2012_img_val.tar, and makes the events by ODG.
"""

import os
from pathlib import Path
from typing import Any

import click

from eventdata.raw.es_imagenet import MANIFESTS
from tools.archives import Limits
from tools.preparing import (
    convert_and_verify,
    find_folder,
    link_folder,
    say,
    told_plainly,
    unpack_all,
)

# The published archive holds 108 GB in files of at most half a megabyte; ImageNet 150 GB in images
# of at most 16 MB.
LIMITS = Limits(file_bytes=64 * 2**20, total_bytes=400 * 2**30)
TARS = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}


def common(command: Any) -> Any:
    """Options of both ways."""
    for option in (
        click.option("--out", required=True, help="The store: a folder or a URL."),
        click.option(
            "--work",
            type=click.Path(file_okay=False, path_type=Path),
            default=Path("es-imagenet-work"),
            show_default=True,
            help="Folder for what is unpacked; remove it when the store is made.",
        ),
        click.option("--workers", type=click.IntRange(1), default=os.cpu_count() or 1),
        click.option("--split", type=click.Choice(["train", "val"]), help="Only this split."),
        click.option("--on-error", type=click.Choice(["fail", "skip"]), default="fail"),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Make a verified store of ES-ImageNet."""


@main.command()
@click.argument(
    "parts",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="PART...",
)
@common
def published(
    parts: tuple[Path, ...], out: str, work: Path, workers: int, split: str | None, on_error: str
) -> None:
    """From the published archive: all its parts, or the folder they were unpacked to.

    The parts are rar volumes, which 7-Zip (7zz or 7z) unpacks; zip and tar, whole or cut into
    parts, need nothing.
    """
    with told_plainly():
        root = parts[0]
        if not (len(parts) == 1 and root.is_dir()):
            unpack_all(parts, work, LIMITS)
            root = work
        wanted = [MANIFESTS[split]] if split else list(MANIFESTS.values())
        raw = find_folder(
            root,
            lambda folder: any((folder / name).is_file() for name in wanted),
            " or ".join(wanted),
        )
        convert_and_verify("es-imagenet", raw, out, workers=workers, on_error=on_error, split=split)


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@common
@click.option(
    "--val-labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Of val where it has no class folders: lines 'ILSVRC2012_val_00000001.JPEG index|wnid'.",
)
@click.option("--odg", type=click.Choice(["centred", "published"]), default="centred")
def images(
    folder: Path,
    out: str,
    work: Path,
    workers: int,
    split: str | None,
    on_error: str,
    val_labels: Path | None,
    odg: str,
) -> None:
    """From ImageNet: a folder with train/ and val/, or with the official two tars."""
    with told_plainly():
        tars = {name: folder / tar for name, tar in TARS.items() if (folder / tar).is_file()}
        for name, tar in tars.items():
            if split in (None, name):
                unpack_all([tar], work / name, LIMITS)
        root = work if tars else folder
        for name in TARS:  # one split as a tar, the other as a folder
            if tars and name not in tars and (folder / name).is_dir():
                link_folder(folder / name, work / name)
        if val_labels is None and (root / "val").is_dir() and split != "train":
            say("labels", "no --val-labels: val must have class folders")
        options = {"split": split, "odg": odg, "list": val_labels}
        if split == "train":
            del options["list"]
        convert_and_verify("imagenet", root, out, workers=workers, on_error=on_error, **options)


if __name__ == "__main__":
    main()
