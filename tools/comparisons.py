"""The comparisons of `tools.experiments`: the stores of each data set, and the methods on them."""

import contextlib
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import click

import eventdata
from tools.baselines import Changes


@dataclass(frozen=True)
class Method:
    """A method of training: a command's words, and the store of its pictures."""

    label: str
    words: tuple[str, ...]
    images: Path | None = None


@dataclass(frozen=True)
class Comparison:
    """Methods that are tested on the same store."""

    name: str
    store: Path
    recipe: str
    """The recipe whose baseline is searched."""
    methods: tuple[Method, ...]
    changes: tuple[str, ...] = ()
    """Settings of the recipe in every run."""
    few: int = 2
    """The number of few steps; it divides the number of all steps."""
    tried: tuple[Changes, ...] = ()
    """Changes of the baseline to search besides those of `tools.baselines`."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen part of a data set, and the size of its samples."""

    classes: int = 10
    """Number of classes of pictures."""
    first_class: int = 0
    size: tuple[int, int] | None = None
    """H and W; None: those of the comparison in docs/results.md."""
    splits: Path | None = None
    """Folder ucfTrainTestlist; None: next to the clips."""


def sets(changes: Iterable[str]) -> list[str]:
    """Return the words of a command for changes of its recipe."""
    return [word for change in changes for word in ("--set", change)]


def lengths(label: str, words: tuple[str, ...], epochs: Mapping[str, str]) -> tuple[Method, ...]:
    """Return a method for several lengths.

    Args:
        label, words: of the method.
        epochs: changes such as "ann.epochs=20 lif.epochs=1" by the word for a length.
    """
    found = [Method(label, words)]
    for name, changes in epochs.items():
        found.append(Method(f"{label}, {name}", (*words, *sets(changes.split()))))
    return tuple(found)


def pictures(archive: Path, work: Path, choice: Choice) -> list[Comparison]:
    """Prepare classes of Tiny ImageNet for pipe-D and pipe-S."""
    side, width = choice.size or (32, 32)
    if side != width:
        raise click.UsageError("pictures are square; pass --size with equal sides")
    folder = work / "pictures"
    unpack_pictures(archive, folder, choice.first_class, choice.classes)
    events, rgb, grey = (work / f"{name}.zarr" for name in ("events", "rgb", "grey"))
    eventdata.convert(
        "imagenet", folder, events, long_side=side, crop=side, min_events=0, resampling="area"
    )
    eventdata.convert("images", folder, rgb, short_side=side, crop=side)
    eventdata.convert("images", events, grey, grey_from_events=True)
    recipe_d, recipe_s = ("--recipe", "pipe-d-small"), ("--recipe", "pipe-s-small")
    recipe_e = ("--recipe", "pipe-d-small-events", "--set", "all.augment.flip=0.5")
    recipe_a = ("--recipe", "pipe-d-small-aligned")
    return [
        Comparison(
            "pipe-D",
            events,
            "pipe-d-small",
            (
                Method("scratch", ("scratch", *recipe_d)),
                *lengths("pipe-D, aligned", ("pipe-d", *recipe_a), LENGTHS_ALIGNED),
                *lengths("pipe-D, events", ("pipe-d", *recipe_e), LENGTHS_EVENTS),
                Method("pipe-D, RGB", ("pipe-d", *recipe_d), rgb),
                Method("pipe-D, grey", ("pipe-d", *recipe_d), grey),
            ),
            tried=ALIGNED,
        ),
        Comparison(
            "pipe-S",
            rgb,
            "pipe-s-small",
            (
                Method("scratch", ("scratch", *recipe_s)),
                *lengths("pipe-S", ("pipe-s", *recipe_s), LENGTHS_IMAGES),
            ),
        ),
    ]


ALIGNED: tuple[Changes, ...] = (
    (("align", True),),
    (("align", True), ("neuron.decay", 0.6), ("augment.polarity_swap", 0.0)),
)
"""The input of the aligned pipeline for baselines, first without its neurons, then with them."""

LENGTHS_ALIGNED: Mapping[str, str] = {
    "calibrated": "sum.epochs=10 lif.epochs=0",
    "long": "sum.epochs=40 sum.augment.crop=0.15 sum.augment.scale=0.2 lif.epochs=4",
}
LENGTHS_EVENTS: Mapping[str, str] = {
    "calibrated": "sum.epochs=16 lif.epochs=0",
    # Two steps of four frames each, more varied samples, and the neurons of the tuned baseline.
    "long": (
        "sum.epochs=24 sum.collapse=2 sum.augment.crop=0.15 sum.augment.scale=0.2"
        " lif.neuron.threshold=0.5 lif.neuron.decay=0.25"
    ),
}
LENGTHS_NMNIST: Mapping[str, str] = {
    "calibrated": "lif.epochs=0 lif.calibrate_samples=128",
    "long": "lif.epochs=12",
}
LENGTHS_IMAGES: Mapping[str, str] = {
    "calibrated": "lif.epochs=0",
    "long": "ann.epochs=24 ann.augment.crop=0.15 ann.augment.scale=0.2 lif.epochs=3",
    "longer": "ann.epochs=40 ann.augment.crop=0.15 ann.augment.scale=0.2 lif.epochs=4",
}
"""Lengths of the pipelines other than their recipes'."""


@contextlib.contextmanager
def whole(folder: Path, root: str = "") -> Iterator[Path]:
    """Yield a folder to fill; once it is complete, move it, or its folder `root`, to `folder`."""
    beside = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    yield beside
    (beside / root).rename(folder)
    shutil.rmtree(beside, ignore_errors=True)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive whose files are in a folder of the same name, unless it is unpacked."""
    if folder.exists():
        return
    with whole(folder, folder.name) as beside, zipfile.ZipFile(archive) as zipped:
        zipped.extractall(beside)


def unpack_pictures(archive: Path, folder: Path, first: int, count: int) -> None:
    """Unpack some classes, in the order of their names, of an archive ROOT/SPLIT/CLASS/*.JPEG.

    Raises:
        UsageError: the folder has other classes.
    """
    with zipfile.ZipFile(archive) as zipped:
        files = [PurePosixPath(name) for name in zipped.namelist() if name.endswith(".JPEG")]
        chosen = sorted({path.parts[-2] for path in files})[first : first + count]
        if folder.exists():
            if {path.name for path in folder.glob("*/*")} != set(chosen):
                raise click.UsageError(f"{folder} has other classes; choose another WORK")
            return
        with whole(folder) as beside:
            for path in files:
                if path.parts[-2] in chosen:
                    target = beside.joinpath(*path.parts[-3:])
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(zipped.read(str(path)))


def nmnist(archive: Path, work: Path, choice: Choice) -> list[Comparison]:
    """Prepare N-MNIST, an archive of NMNIST/{Train,Test}/DIGIT/*.bin, in eight steps."""
    unpack(archive, work / "NMNIST")
    store = work / "nmnist.zarr"
    eventdata.convert("tonic:NMNIST", work, store, frames=8)
    recipe = ("--recipe", "pipe-d-small-events")
    changes = ("all.batch_size=16", "all.augment.flip=0")
    few = ("--set", "lif.learning_rate=0.05")  # 26 steps per epoch
    methods = (
        Method("scratch", ("scratch", *recipe)),
        *lengths("pipe-D, events", ("pipe-d", *recipe, *few), LENGTHS_NMNIST),
    )
    return [Comparison("pipe-D", store, "pipe-d-small-events", methods, changes)]


def ucf101(source: Path, work: Path, choice: Choice) -> list[Comparison]:
    """Prepare the first fold of UCF101 from a folder or a zip of UCF-101/CLASS/*."""
    clips, store = source / "UCF-101", work / "ucf101.zarr"
    if source.is_file():
        clips = work / "UCF-101"
        unpack(source, clips)
    lists = choice.splits or source / "ucfTrainTestlist"
    size = {} if choice.size is None else {"size": choice.size}
    options: dict[str, Any] = {"splits": lists, "fold": 1, **size}
    eventdata.convert("ucf101", clips, store, **options)
    recipe = ("--recipe", "ucf101-small")
    # A fresh encoder has nothing to calibrate, and more to learn.
    takes = {
        "CNN": "lif.take=encoder",
        "RNN": "lif.take=decoder lif.calibrate=none lif.epochs=15 lif.learning_rate=2e-3",
        "CRNN": "lif.take=both",
    }
    methods = [Method("scratch", ("scratch", *recipe))]
    for name, take in takes.items():
        methods.append(Method(f"pipe-D, {name}", ("pipe-d", *recipe, *sets(take.split()))))
    # The recipe is for clips of 256x342 pixels, which it divides by four.
    changes = () if choice.size is None or choice.size[0] > 128 else ("all.downscale=1",)
    return [Comparison("pipe-D", store, "ucf101-small", tuple(methods), changes, few=3)]


DATA: dict[str, Callable[[Path, Path, Choice], list[Comparison]]] = {
    "pictures": pictures,
    "nmnist": nmnist,
    "ucf101": ucf101,
}


def only(comparison: Comparison, labels: tuple[str, ...]) -> Comparison:
    """Return a comparison of the methods with some labels, of all without any."""
    chosen = [one for one in comparison.methods if one.label in labels or not labels]
    return replace(comparison, methods=tuple(chosen))


def as_run(comparison: Comparison) -> tuple[Method, ...]:
    """Return the methods with the comparison's settings in their words."""
    words = sets(comparison.changes)
    return tuple(replace(one, words=(*one.words, *words)) for one in comparison.methods)
