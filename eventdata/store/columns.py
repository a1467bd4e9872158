"""The one-value-a-sample arrays of a split, written and read by zarr-python in memory.

Both sides pass whole documents and chunks through a dictionary, so that the files themselves are
written by `Files.write` (whole or not at all) and checked by the codecs' CRC-32C.
"""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import StoreError
from eventdata.store.files import Files
from eventdata.store.layout import METADATA_CHUNK, ZSTD_LEVEL

TYPES = {
    "label": "int32",
    "event_count": "uint32",
    "name": "string",
    "valid": "bool",
    "input_size": "uint64",
    "input_time": "int64",
}


def encode_column(name: str, values: NDArray[Any]) -> dict[str, bytes]:
    """Files of the array ``name`` with these values (N,): ``NAME/zarr.json``, ``NAME/c/0``, ..."""
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec
    from zarr.core.buffer import Buffer

    files: dict[str, Buffer] = {}
    array = zarr.create_array(
        zarr.storage.MemoryStore(files),
        shape=values.shape,
        dtype=TYPES[name],
        chunks=(min(METADATA_CHUNK, max(len(values), 1)),),
        compressors=[ZstdCodec(level=ZSTD_LEVEL), Crc32cCodec()],
        dimension_names=["sample"],
        config={"write_empty_chunks": True},
    )
    array[:] = values
    return {f"{name}/{key}": value.to_bytes() for key, value in files.items()}


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
