"""Shards equal those of zarr-python, other readers can read them, and damage is detected."""

import json

import numpy as np
import pytest
import zarr
import zstandard

from eventdata.errors import StoreError
from eventdata.store.layout import SampleFormat, sample_array_document, shard_key
from eventdata.store.shard import MISSING, ShardBuilder, crc32c, parse_index, read_chunk

SHARD = 8
FORMATS = {
    "binary": SampleFormat(representation="binary", steps=8, channels=2, height=24, width=20),
    "binary 30": SampleFormat(representation="binary", steps=30, channels=2, height=24, width=20),
    "count": SampleFormat(representation="count", steps=5, channels=2, height=9, width=7),
    "count 16": SampleFormat(
        representation="count", steps=3, channels=1, height=9, width=7, dtype="uint16"
    ),
    "voxel": SampleFormat(
        representation="voxel", steps=3, channels=1, height=9, width=7, dtype="float16"
    ),
    "image": SampleFormat(representation="image", steps=None, channels=3, height=11, width=13),
}


def random_samples(sample, count):
    rng = np.random.default_rng(1)
    shape = (count, *sample.packed_shape)
    if sample.dtype == "float16":
        return rng.normal(size=shape) * (rng.random(shape) < 0.1)
    high = np.iinfo(sample.dtype).max + 1
    values = rng.integers(0, high, shape, sample.dtype)
    return values * (rng.random(values.shape) < 0.1)


def as_stored(sample, packed):
    """Return samples (N, K, H, W, P) in the shape of the array on disk."""
    return np.moveaxis(packed, -1, 2).reshape(len(packed), *sample.array_shape)


@pytest.fixture(params=FORMATS)
def written(request, tmp_path):
    """Write one array in a folder; return sample format, values, folder and shard path."""
    sample = FORMATS[request.param]
    packed = random_samples(sample, 6).astype(sample.dtype)
    builder = ShardBuilder(sample, SHARD)
    for slot, values in enumerate(packed):
        builder.add([(slot, values)])
    folder = tmp_path / "split" / sample.array
    shard = tmp_path / shard_key("split", sample, 0)
    shard.parent.mkdir(parents=True)
    shard.write_bytes(builder.finish())
    (folder / "zarr.json").write_bytes(sample_array_document(sample, 6, SHARD))
    return sample, packed, folder, shard


def test_zarr_reads_it(written):
    sample, packed, folder, _ = written
    array = zarr.open_array(folder, mode="r")
    np.testing.assert_array_equal(array[:], as_stored(sample, packed))
    assert list(array.metadata.dimension_names) == sample.dimension_names


def test_zarr_writes_the_same_metadata_and_chunks(written, tmp_path):
    sample, packed, folder, shard = written
    last = len(sample.chunk_shape) - 1
    order = (*range(last - 2), last - 1, last, last - 2)
    array = zarr.create_array(
        tmp_path / "theirs",
        shape=(6, *sample.array_shape),
        dtype=sample.dtype,
        chunks=sample.chunk_shape,
        shards=(SHARD, *sample.array_shape),
        dimension_names=sample.dimension_names,
        filters=[zarr.codecs.TransposeCodec(order=order)],
        compressors=[zarr.codecs.ZstdCodec(level=1), zarr.codecs.Crc32cCodec()],
        config={"write_empty_chunks": True},
        attributes=sample.attributes,
    )
    array[:] = as_stored(sample, packed)
    theirs = json.loads((tmp_path / "theirs" / "zarr.json").read_text())
    assert theirs == json.loads((folder / "zarr.json").read_text())
    their_shard = (tmp_path / "theirs" / shard.relative_to(folder)).read_bytes()
    if sample.planes == 1:  # else zarr-python orders chunks along a Morton curve
        assert their_shard[: 16 * SHARD] == shard.read_bytes()[: 16 * SHARD]
    ours, other = (memoryview(data) for data in (shard.read_bytes(), their_shard))
    for mine, yours in zip(
        parse_index(ours, sample, SHARD, "x", len(ours))[:6].reshape(-1, 2),
        parse_index(other, sample, SHARD, "x", len(other))[:6].reshape(-1, 2),
        strict=True,
    ):
        assert ours[int(mine[0]) : int(mine.sum())] == other[int(yours[0]) : int(yours.sum())]


def test_our_reader_reads_it(written):
    sample, packed, _, shard = written
    data = memoryview(shard.read_bytes())
    index = parse_index(data, sample, SHARD, "x", len(data))
    assert (index[6:] == MISSING).all()
    out = np.empty(sample.packed_shape, sample.dtype)
    for slot in range(6):
        for plane in range(sample.planes):
            read_chunk(data, index[slot, plane], out[plane], "x")
        np.testing.assert_array_equal(out, packed[slot])
    with pytest.raises(StoreError, match="missing"):
        read_chunk(data, index[7, 0], out[0], "x")


def test_every_flipped_bit_is_detected(written):
    sample, _, _, shard = written
    sound = shard.read_bytes()
    out = np.empty(sample.packed_shape, sample.dtype)
    rng = np.random.default_rng(2)
    for bit in rng.integers(0, 8 * len(sound), 200):
        damaged = bytearray(sound)
        damaged[bit // 8] ^= 1 << (bit % 8)
        data = memoryview(bytes(damaged))
        with pytest.raises(StoreError):  # noqa: PT012 which of the reads fails depends on the bit
            index = parse_index(data, sample, SHARD, "x", len(data))
            for slot in range(6):
                for plane in range(sample.planes):
                    read_chunk(data, index[slot, plane], out[plane], "x")


@pytest.mark.parametrize("cut", [0, 3, 100])
def test_shard_cut_short(written, cut):
    sample, _, _, shard = written
    with pytest.raises(StoreError):
        parse_index(memoryview(shard.read_bytes()[:cut]), sample, SHARD, "x")


def test_chunk_that_declares_another_size(written):
    """A frame with a valid checksum but another size is refused before decompression."""
    sample = written[0]
    chunk = zstandard.ZstdCompressor().compress(bytes(10**6))
    data = memoryview(chunk + crc32c(chunk))
    entry = np.array([0, len(data)], np.uint64)
    with pytest.raises(StoreError, match="holds 1000000 bytes"):
        read_chunk(data, entry, np.empty(sample.packed_shape, sample.dtype)[0], "x")
    for content in (b"", b"no zstd frame at all"):
        data = memoryview(content + crc32c(content))
        with pytest.raises(StoreError, match=r"can't be decompressed|holds"):
            read_chunk(data, np.array([0, len(data)], np.uint64), np.empty(9, np.uint8), "x")
