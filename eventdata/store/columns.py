"""The one-value-a-sample arrays of a split: plain Zarr arrays in chunks of 65,536 samples.

Written here byte by byte, so that the same values are the same bytes whatever version of a library
is there (a later call compares them), and read here, so that a stranger's store can't ask for more
memory than its files are worth.
"""

import json
from typing import Any

import numpy as np
import zstandard
from numcodecs.vlen import VLenUTF8
from numpy.typing import NDArray

from eventdata.errors import StoreError
from eventdata.files import Files
from eventdata.files.local import MAX_ARRAY_DOCUMENT, read_bounded
from eventdata.store.layout import METADATA_CHUNK, ZSTD_LEVEL, parse_json, whole_number
from eventdata.store.shard import CRC_BYTES, crc32c

TYPES = {
    "label": "int32",
    "event_count": "uint32",
    "name": "string",
    "valid": "bool",
    "input_size": "uint64",
    "input_time": "int64",
}
_FILL = {"string": "", "bool": False}
# What the texts of a chunk may unpack to: paths, which are under 4096 bytes, pack to a fiftieth.
MAX_TEXT_BYTES, MAX_TEXT_RATIO = 1 << 20, 256


def encode_column(name: str, values: NDArray[Any]) -> dict[str, bytes]:
    """Files of the array ``name`` with these values (N,): ``NAME/zarr.json``, ``NAME/c/0``, ..."""
    kind = TYPES[name]
    chunk = min(METADATA_CHUNK, max(len(values), 1))
    document = _document(kind, len(values), chunk)
    files = {f"{name}/zarr.json": json.dumps(document, indent=2).encode()}
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


def _document(kind: str, count: int, chunk: int) -> dict[str, Any]:
    to_bytes: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    if kind == "string":
        to_bytes = {"name": "vlen-utf8", "configuration": {}}
    elif kind == "bool":
        to_bytes = {"name": "bytes"}
    return {
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


def read_column(files: Files, split: str, name: str) -> NDArray[Any]:
    """All values of an array of a split; StoreError where a file is missing or damaged.

    Strings come as an array of Python strings. Of what the array's zarr.json declares nothing is
    taken on trust: memory is needed for chunks that are there, one after the other.
    """
    where = f"{files.where}/{split}/{name}"
    document = read_bounded(files, f"{split}/{name}/zarr.json", MAX_ARRAY_DOCUMENT)
    if document is None:
        raise StoreError(f"{where}: the array is missing; convert again")
    try:
        count, chunk = _parse_document(document, TYPES[name])
        most = _most_bytes(TYPES[name], chunk)
        parts = []
        for number in range(-(-count // chunk)):
            data = read_bounded(files, f"{split}/{name}/c/{number}", most)
            if data is None:
                raise ValueError(f"chunk {number} is missing")
            parts.append(_decode(data, TYPES[name], chunk))
    except StoreError:  # it could not be read
        raise
    except (ValueError, KeyError, TypeError, IndexError, zstandard.ZstdError) as error:
        raise StoreError(f"{where}: the array is damaged ({error}); convert again") from None
    empty = np.empty(0, _dtype(TYPES[name]))
    return np.concatenate([empty, *parts])[:count]


def _parse_document(document: bytes, kind: str) -> tuple[int, int]:
    """Values and values a chunk of an array; ValueError unless it says what `_document` would."""
    found = parse_json(document)
    count = whole_number(found["shape"][0], least=0)
    chunk = whole_number(found["chunk_grid"]["configuration"]["chunk_shape"][0], least=1)
    expected = _document(kind, count, chunk).items()
    if chunk > METADATA_CHUNK or any(found.get(key) != value for key, value in expected):
        raise ValueError(f"its zarr.json is not that of {kind} (N,)")
    return count, chunk


def _most_bytes(kind: str, chunk: int) -> int:
    """Of a chunk's file: what it may unpack to, twice, as what does not compress grows a little."""
    if kind == "string":
        return 2 * max(MAX_TEXT_BYTES, 4096 * chunk)
    return 2 * chunk * _dtype(kind).itemsize + 1024


def _decode(data: bytes, kind: str, chunk: int) -> NDArray[Any]:
    """The values of a chunk; ValueError or ZstdError where its bytes are not those of so many."""
    packed = data[:-CRC_BYTES]
    if crc32c(packed) != data[-CRC_BYTES:]:
        raise ValueError("a chunk fails its checksum")
    dtype = _dtype(kind)
    most = chunk * dtype.itemsize
    if kind == "string":
        most = max(MAX_TEXT_BYTES, min(4096 * chunk, MAX_TEXT_RATIO * len(packed)))
    declared = zstandard.frame_content_size(packed)
    if not 0 <= declared <= most:
        raise ValueError(f"a chunk declares {declared:,} bytes, it has at most {most:,}")
    raw = zstandard.ZstdDecompressor().decompress(packed)
    if kind == "string":
        if int.from_bytes(raw[:4], "little") != chunk:
            raise ValueError("a chunk has not as many texts as it must")
        return np.asarray(VLenUTF8().decode(raw), object)
    values = np.frombuffer(raw, dtype.newbyteorder("<"))
    if len(values) != chunk or (kind == "bool" and np.frombuffer(raw, np.uint8).max() > 1):
        raise ValueError(f"a chunk is not {chunk:,} values of {kind}")
    return values.astype(dtype, copy=False)


def _dtype(kind: str) -> np.dtype[Any]:
    return np.dtype(object if kind == "string" else kind)
