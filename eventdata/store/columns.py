"""The one-value-a-sample arrays of a split: plain Zarr arrays in chunks of 65,536 samples.

Written here byte by byte, so that the same values are the same bytes whatever version of a library
is there (a later call compares them), and read by zarr-python.
"""

import json
import warnings
from typing import Any

import numpy as np
import zstandard
from numcodecs.vlen import VLenUTF8
from numpy.typing import NDArray

from eventdata.errors import StoreError
from eventdata.store.files import Files
from eventdata.store.layout import METADATA_CHUNK, ZSTD_LEVEL
from eventdata.store.shard import crc32c

TYPES = {
    "label": "int32",
    "event_count": "uint32",
    "name": "string",
    "valid": "bool",
    "input_size": "uint64",
    "input_time": "int64",
}
_FILL = {"string": "", "bool": False}


def encode_column(name: str, values: NDArray[Any]) -> dict[str, bytes]:
    """Files of the array ``name`` with these values (N,): ``NAME/zarr.json``, ``NAME/c/0``, ..."""
    kind = TYPES[name]
    chunk = min(METADATA_CHUNK, max(len(values), 1))
    files = {f"{name}/zarr.json": _document(kind, len(values), chunk)}
    compress = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress
    for number, start in enumerate(range(0, len(values), chunk)):
        part = values[start : start + chunk]
        if kind == "string":
            full = np.full(chunk, "", dtype=object)
            full[: len(part)] = part
            raw = VLenUTF8().encode(full)
        else:
            padded = np.zeros(chunk, np.dtype(kind).newbyteorder("<"))
            padded[: len(part)] = part
            raw = padded.tobytes()
        packed = compress(raw)
        files[f"{name}/c/{number}"] = packed + crc32c(packed)
    return files


def _document(kind: str, count: int, chunk: int) -> bytes:
    to_bytes: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    if kind == "string":
        to_bytes = {"name": "vlen-utf8", "configuration": {}}
    elif kind == "bool":
        to_bytes = {"name": "bytes"}
    document = {
        "shape": [count],
        "data_type": kind,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": _FILL.get(kind, 0),
        "codecs": [
            to_bytes,
            {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}},
            {"name": "crc32c"},
        ],
        "attributes": {},
        "dimension_names": ["sample"],
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    return json.dumps(document, indent=2).encode()


def read_column(files: Files, split: str, name: str) -> NDArray[Any]:
    """All values of an array of a split; StoreError where a file is missing or damaged.

    Strings come as an array of Python strings.
    """
    import zarr
    from zarr.core.buffer import Buffer
    from zarr.core.buffer.cpu import Buffer as MemoryBuffer

    where = f"{files.where}/{split}/{name}"
    folder = f"{split}/{name}"
    stored: dict[str, Buffer] = {}
    for key in files.list(folder):
        data = files.read(key)
        if data is not None:
            stored[key.removeprefix(f"{folder}/")] = MemoryBuffer.from_bytes(data)
    if "zarr.json" not in stored:
        raise StoreError(f"{where}: the array is missing; convert again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = zarr.open_array(zarr.storage.MemoryStore(stored), mode="r")
        chunk = array.chunks[0]
        lost = [i for i in range(-(-array.shape[0] // chunk)) if f"c/{i}" not in stored]
        if lost:
            raise StoreError(f"{where}: chunk {lost[0]} is missing; convert again")
        values = np.asarray(array[:])
    except StoreError:
        raise
    except Exception as error:  # zarr and its codecs raise many kinds on damaged bytes
        raise StoreError(f"{where}: the array is damaged ({error}); convert again") from None
    expected = object if TYPES[name] == "string" else np.dtype(TYPES[name])
    if values.ndim != 1 or (expected is not object and values.dtype != expected):
        raise StoreError(f"{where}: the array is not {TYPES[name]} (N,); convert again")
    return values.astype(object) if expected is object else values
