"""Columns have the bytes that zarr-python writes, and are read back unchanged."""

import json

import numpy as np
import pytest
import zarr

from eventdata.files.local import LocalFiles
from eventdata.store import columns as module
from eventdata.store.columns import TYPES, encode_column, read_column


def values_of(name, count):
    rng = np.random.default_rng(0)
    if name == "name":
        return np.array([f"clip {i} é" * int(i % 3) for i in range(count)], dtype=object)
    return rng.integers(0, 2 if name == "valid" else 1000, count).astype(TYPES[name])


@pytest.mark.parametrize("count", [0, 1, 10, 23])
@pytest.mark.parametrize("name", TYPES)
def test_same_bytes_as_zarr_and_back(tmp_path, monkeypatch, name, count):
    monkeypatch.setattr(module, "METADATA_CHUNK", 10)
    values = values_of(name, count)
    array = zarr.create_array(
        tmp_path / "theirs",
        shape=values.shape,
        dtype=TYPES[name],
        chunks=(min(10, max(count, 1)),),
        compressors=[zarr.codecs.ZstdCodec(level=1), zarr.codecs.Crc32cCodec()],
        dimension_names=["sample"],
        config={"write_empty_chunks": True},
    )
    array[:] = values
    files = LocalFiles(tmp_path)
    files.prepare()
    encoded = encode_column(name, values)
    for key, data in encoded.items():
        theirs = (tmp_path / "theirs" / key.removeprefix(f"{name}/")).read_bytes()
        assert json.loads(data) == json.loads(theirs) if key.endswith(".json") else data == theirs
        files.write({f"split/{key}": data})
    back = read_column(files, "split", name)
    assert back.tolist() == values.tolist()
    assert back.dtype == values.dtype
