"""Read the images and labels of Parquet shards, as the Hugging Face hub has them.

    train-00000-of-00294.parquet     image: {bytes, path}, label: int64

The path of an image in one is FILE.parquet/GROUP-ROW/NAME. Its row group is read whole, once for
all its rows, because Parquet compresses a group as one. pyarrow reads them: `eventdata[parquet]`.
"""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from eventdata.errors import EventDataError, InputError
from eventdata.files.archives.index import Place
from eventdata.files.archives.members import MAX_MEMBER
from eventdata.files.archives.ranges import file_state, open_file

MAX_GROUP = 1 << 30  # bytes of the images of a row group; each process holds one in memory
IMAGES = ("image", "img")  # names of the column, where several hold images
LABELS = ("label", "labels", "fine_label")  # names of the column
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Rows:
    """The rows of a shard: paths in it, labels, and the names of the classes if it has them."""

    paths: list[str]
    labels: list[str]
    classes: list[str]


def list_rows(shard: str) -> Rows:
    """Return the rows of a shard.

    Raises:
        InputError: pyarrow is missing, or the shard is damaged or has no images with labels.
    """
    with _Opened(shard) as file:
        schema = file.schema_arrow
        image = _column(schema, shard)
        label = next((one for one in LABELS if one in schema.names), None)
        if label is None:
            raise InputError(f"{shard}: no column label in it (found: {', '.join(schema.names)})")
        table = file.read([f"{image}.path", label])
        names = table.column(image).combine_chunks().field("path").to_pylist()
        values = table.column(label).to_pylist()
        if not all(isinstance(one, int | str | None) for one in values):
            raise InputError(f"{shard}: its labels are neither whole numbers nor texts; convert it")
        labels = ["" if one in (None, -1) else str(one) for one in values]
        sizes = [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)]
        classes = _classes(schema.metadata or {}, label)
    places = [(group, row) for group, count in enumerate(sizes) for row in range(count)]
    paths = [
        f"{group}-{row}/{_name(name) or f'{group}-{row}'}"
        for (group, row), name in zip(places, names, strict=True)
    ]
    return Rows(paths, labels, classes)


def _name(path: object) -> str:
    """Return the last part of a listed path, "" where it has none that is safe."""
    name = PurePosixPath(path).name if isinstance(path, str) else ""
    return "" if name == ".." or "\0" in name else name


def read_row(shard: str, place: Place) -> bytes | None:
    """Return the bytes of an image, None where its row has none."""
    return read_rows(shard, [place])[0]


def read_rows(shard: str, places: Sequence[Place]) -> list[bytes | None]:
    """Return what `read_row` does for rows of one group."""
    with _LOCK:  # one group in memory, whatever the threads
        images = _group(shard, file_state(shard), places[0].start)
        rows = [place.packed for place in places]
        values = [images[row].as_py() if row < len(images) else None for row in rows]
    return [
        value if isinstance(value, bytes) and len(value) <= MAX_MEMBER else None for value in values
    ]


@lru_cache(maxsize=1)  # rows come one after the other
def _group(shard: str, _state: tuple[int, int], group: int) -> Any:
    with _Opened(shard) as file:
        image = _column(file.schema_arrow, shard)
        facts = file.metadata.row_group(group)
        if facts.total_byte_size > MAX_GROUP:
            raise InputError(
                f"{shard}: a row group of {facts.total_byte_size:,} bytes, more than "
                f"{MAX_GROUP:,}; write it again with smaller row groups"
            )
        table = file.read_row_group(group, [f"{image}.bytes"])
        return table.column(image).combine_chunks().field("bytes")


def _column(schema: Any, shard: str) -> str:
    """Return the name of the column of images."""
    import pyarrow

    found = [
        str(field.name)
        for field in schema
        if pyarrow.types.is_struct(field.type)
        and {"bytes", "path"} <= {one.name for one in field.type}
    ]
    if not found:
        raise InputError(f"{shard}: no column of images {{bytes, path}} in it")
    named = [name for name in found if name in IMAGES]
    if len(found) > 1 and len(named) != 1:
        raise InputError(
            f"{shard}: {' and '.join(found)} are columns of images; rename the one to read to "
            "'image'"
        )
    return (named or found)[0]


def _classes(metadata: dict[bytes, bytes], label: str) -> list[str]:
    """Return the names of the classes that the hub's own metadata has; empty without them."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
        return [str(name) for name in names]
    except (KeyError, ValueError, TypeError, RecursionError):
        return []


class _Opened:
    """A shard as pyarrow opens it; its errors are raised as one sentence."""

    def __init__(self, shard: str) -> None:
        self._shard = shard

    def __enter__(self) -> Any:
        try:
            from pyarrow import parquet
        except ImportError:
            raise InputError(
                f"{self._shard}: pyarrow is missing; run: pip install 'eventdata[parquet]'"
            ) from None
        self._open = open_file(self._shard)
        file = self._open.__enter__()
        try:
            return parquet.ParquetFile(file)
        except Exception as error:
            self.__exit__(type(error), error, None)
            raise

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._open.__exit__(None, None, None)
        if isinstance(error, Exception) and not isinstance(error, EventDataError | MemoryError):
            reason = " ".join(str(error).split())
            text = f"{self._shard}: can't be read as Parquet ({reason}); get it again"
            raise InputError(text) from error
