"""Stores, complete and unfinished, and their inputs."""

import contextlib
import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

import eventdata
from eventdata.generation import generate
from tests.fuzz.seeds.pictures import encoded, picture
from tests.fuzz.seeds.recordings import npz_events
from tests.fuzz.seeds.trees import Real, Tree, tree_of, write_tree


@dataclass(frozen=True)
class Made:
    """The making of a small store: input, source and options."""

    tree: Tree
    source: str
    options: dict[str, Any]


@functools.cache
def store_inputs() -> list[Made]:
    """Return inputs of stores of binary frames, counts, images and ODG frames."""
    folders = {f"{name}/{n}.npz": npz_events() for name in ("left", "right") for n in range(3)}
    sensor = {"sensor_size": "16x16"}
    images = {
        f"{split}/{name}/{number}.png": encoded(Image.fromarray(picture()), "PNG")
        for split in ("train", "val")
        for name in ("cat", "dog")
        for number in range(2)
    }
    return [
        Made(folders, "recordings", {"frames": 10, **sensor}),
        Made(folders, "recordings", {"frames": 3, "representation": "count", **sensor}),
        Made(images, "images", {"short_side": 16, "crop": 16}),
        Made(images, "imagenet", {"long_side": 28, "crop": 24, "min_events": 0}),
    ]


def stores(real: Real) -> list[Tree]:
    """Return complete stores, one of them with a skipped sample."""
    trees = []
    for number, made in enumerate(store_inputs()):
        tree = dict(made.tree)
        if number == 0:
            tree["left/0.npz"] = b"damaged"
        trees.append(_converted(tree, made))
    if real:
        trees += [_real_store(real)]
    return trees


def _converted(tree: Tree, made: Made) -> Tree:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_tree(root / "raw", tree)
        eventdata.convert(
            made.source, root / "raw", root / "out", shard_size=2, on_error="skip", **made.options
        )
        return tree_of(root / "out")


def _real_store(real: Path) -> Tree:
    with tempfile.TemporaryDirectory() as folder:
        eventdata.convert(
            "es-imagenet", real / "es_imagenet", folder + "/out", split="val", limit=3, shard_size=2
        )
        return tree_of(Path(folder, "out"))


def odg_stores(real: Real) -> list[Tree]:
    """Return stores that grey images can be made from."""
    made = store_inputs()[3]
    return [_converted(made.tree, made), *([_real_store(real)] if real else [])]


def stores_and_inputs(_: Real) -> list[Tree]:
    """Return stores with their inputs."""
    return [
        {
            **{f"store/{name}": data for name, data in _converted(made.tree, made).items()},
            **{f"raw/{name}": data for name, data in made.tree.items()},
        }
        for made in store_inputs()
    ]


class _StoppedError(Exception):
    """Stands in for a kill."""


def unfinished_stores(_: Real) -> list[Tree]:
    """Return inputs with stores that were interrupted after some shards, with .work.

    ``number`` is the index of the input in `store_inputs`.
    """
    trees = []
    for number, made in enumerate(store_inputs()[:3]):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_tree(root / "raw", made.tree)
            begin = functools.partial(
                eventdata.convert, made.source, root / "raw", root / "out", shard_size=2
            )
            _interrupt(functools.partial(begin, **made.options), 4)
            trees.append({**tree_of(root), "number": str(number).encode()})
    return trees


def _interrupt(run: Callable[..., object], after: int) -> None:
    """Stop a conversion or generation once ``count`` samples are done."""

    def stop(done: int, _: int) -> None:
        if done >= after:
            raise _StoppedError

    with contextlib.suppress(_StoppedError):
        run(progress=stop)


def unfinished_raw(_: Real) -> list[Tree]:
    """Return images and the raw files of some of them, with .work."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_tree(root / "raw", store_inputs()[3].tree)
        begin = functools.partial(generate, "es-imagenet", root / "raw", root / "out", min_events=0)
        _interrupt(begin, 1)
        return [tree_of(root)]
