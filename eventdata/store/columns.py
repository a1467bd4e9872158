"""The arrays with one value a sample: plain Zarr arrays in chunks of 65,536 samples.

They are encoded here byte by byte, so that the same values are the same bytes with any version of
a library: resuming compares them. They are decoded here so that an untrusted store cannot ask for
more memory than its files are worth.

Shapes: N samples.
"""

from typing import Any

import numpy as np
import zstandard
from numcodecs.vlen import VLenUTF8
from numpy.typing import NDArray

from eventdata.errors import StoreError
from eventdata.files import Files
from eventdata.files.local import MAX_ARRAY_DOCUMENT
from eventdata.store.layout import (
    COMPRESSION,
    CONVERT_AGAIN,
    METADATA_CHUNK,
    ZSTD_LEVEL,
    array_document,
    parse_json,
    same_document,
    value_codecs,
    whole_number,
)
from eventdata.store.shard import CRC_BYTES, crc32c

TYPES = {
    "label": "int32",
    "event_count": "uint32",
    "name": "string",
    "valid": "bool",
    "input_size": "uint64",
    "input_time": "int64",
}
# Limits on the decoded texts of a chunk; paths compress to a fiftieth.
MAX_NAME_BYTES, MAX_TEXT_BYTES, MAX_TEXT_RATIO = 4096, 1 << 20, 256


def column_document(kind: str, count: int, chunk: int | None = None) -> bytes:
    """Return the ``zarr.json`` of an array of ``count`` values of a type in `TYPES`."""
    chunk = chunk or min(METADATA_CHUNK, max(count, 1))
    text: list[Any] = [{"name": "vlen-utf8", "configuration": {}}, *COMPRESSION]
    codecs = text if kind == "string" else value_codecs(kind)
    return array_document([count], [chunk], kind, codecs, ["sample"])


def encode_column(name: str, values: NDArray[Any]) -> dict[str, bytes]:
    """Return the files of the array ``name`` (N,): ``NAME/zarr.json``, ``NAME/c/0``, ..."""
    kind = TYPES[name]
    chunk = min(METADATA_CHUNK, max(len(values), 1))
    files = {f"{name}/zarr.json": column_document(kind, len(values))}
    compress = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress
    for number, start in enumerate(range(0, len(values), chunk)):
        part = values[start : start + chunk]
        whole = np.full(chunk, "" if kind == "string" else 0, _dtype(kind).newbyteorder("<"))
        whole[: len(part)] = part
        packed = compress(VLenUTF8().encode(whole) if kind == "string" else whole.tobytes())
        files[f"{name}/c/{number}"] = packed + crc32c(packed)
    return files


def read_column(files: Files, split: str, name: str) -> NDArray[Any]:
    """Return the values (N,) of an array; StoreError if a file is missing or damaged.

    Memory is taken only for chunks that exist, not for what the zarr.json declares.
    """
    kind, where = TYPES[name], f"{files.where}/{split}/{name}"
    document = files.read(f"{split}/{name}/zarr.json", MAX_ARRAY_DOCUMENT)
    if document is None:
        raise StoreError(f"{where}: the array is missing; {CONVERT_AGAIN}")
    parts = [np.empty(0, _dtype(kind))]
    try:
        found = parse_json(document)
        count = whole_number(found["shape"][0], least=0)
        chunk = whole_number(found["chunk_grid"]["configuration"]["chunk_shape"][0], least=1)
        if chunk > METADATA_CHUNK or not same_document(found, column_document(kind, count, chunk)):
            raise ValueError(f"its zarr.json is not that of {kind} (N,)")
        most = chunk * _dtype(kind).itemsize
        if kind == "string":
            most = max(MAX_TEXT_BYTES, MAX_NAME_BYTES * chunk)
        for number in range(-(-count // chunk)):
            data = files.read(f"{split}/{name}/c/{number}", 2 * most + 1024)
            if data is None:
                raise ValueError(f"chunk {number} is missing")
            parts.append(_decode(data, kind, chunk, most))
    except StoreError:  # the disk failed, or a file is too large
        raise
    except (ValueError, KeyError, TypeError, IndexError, zstandard.ZstdError) as error:
        raise StoreError(f"{where}: the array is damaged ({error}); {CONVERT_AGAIN}") from None
    return np.concatenate(parts)[:count]


def _decode(data: bytes, kind: str, chunk: int, most: int) -> NDArray[Any]:
    """Return the ``chunk`` values of a chunk file; ValueError or ZstdError if it is damaged."""
    packed = data[:-CRC_BYTES]
    if crc32c(packed) != data[-CRC_BYTES:]:
        raise ValueError("a chunk fails its checksum")
    if kind == "string":
        most = min(most, max(MAX_TEXT_BYTES, MAX_TEXT_RATIO * len(packed)))
    declared = zstandard.frame_content_size(packed)
    if not 0 <= declared <= most:
        raise ValueError(f"a chunk declares {declared:,} bytes, at most {most:,} are valid")
    raw = zstandard.ZstdDecompressor().decompress(packed)
    if kind == "string":
        if int.from_bytes(raw[:4], "little") != chunk:
            raise ValueError("a chunk has the wrong number of texts")
        return np.asarray(VLenUTF8().decode(raw), object)
    values = np.frombuffer(raw, _dtype(kind).newbyteorder("<"))
    if len(values) != chunk or (kind == "bool" and np.frombuffer(raw, np.uint8).max() > 1):
        raise ValueError(f"a chunk is not {chunk:,} values of {kind}")
    return values.astype(_dtype(kind), copy=False)


def _dtype(kind: str) -> np.dtype[Any]:
    return np.dtype(object if kind == "string" else kind)
