"""Reading a store on a local disk: every method reports faults."""

import errno
import os

import numpy as np
import pytest
import zstandard

import eventdata
from eventdata.errors import StoreError
from eventdata.store import read_local as local
from eventdata.store.shard import crc32c
from tests.drawn import make_store

SHARD = "train/frames/c/0/0/0/0/0"


@pytest.fixture
def dataset(tmp_path):
    return eventdata.FrameDataset(make_store(tmp_path / "store.zarr"))


def read_all(dataset):
    out = np.empty((len(dataset), *dataset.sample_format.packed_shape), np.uint8)
    dataset.reader.read_many(dataset.stored.tolist(), out)
    return out


def test_read_many_equals_single_reads(dataset):
    together = read_all(dataset)
    for index, packed in enumerate(together):
        assert np.array_equal(packed, dataset.packed(index))


def test_frames_that_cannot_be_decoded_together(dataset, monkeypatch):
    """Older releases of numcodecs are slower, with the same result."""
    expected = read_all(dataset)

    def refuse(chunks, out):
        raise StoreError("one frame at a time")

    monkeypatch.setattr(local, "decompress_many", refuse)
    assert np.array_equal(read_all(dataset), expected)


def test_without_pread(dataset, monkeypatch):
    expected = read_all(dataset)
    monkeypatch.delattr(os, "pread")
    assert np.array_equal(read_all(dataset), expected)


def test_failing_disk(dataset, monkeypatch):
    dataset[0]  # the shard is open

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(StoreError, match=r"shard 0, sample 5: can't be read \(.*Input/output"):
        dataset[5]
    with pytest.raises(StoreError, match="shard 0, sample 0: can't be read"):
        read_all(dataset)


def test_shard_truncated_while_open(dataset, tmp_path):
    """A memory map would end the process here."""
    dataset[0]
    os.truncate(tmp_path / "store.zarr" / SHARD, 10)
    with pytest.raises(StoreError, match="shard 0, sample 7: a chunk fails its checksum"):
        dataset[7]


def test_damaged_index(dataset, tmp_path):
    path = tmp_path / "store.zarr" / SHARD
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="index fails its checksum"):
        dataset[0]


def test_chunk_of_another_size_is_refused_before_decompression():
    frame = zstandard.ZstdCompressor().compress(bytes(10**6))
    chunk = frame + crc32c(frame)
    out = np.empty((2, 8), np.uint8)
    with pytest.raises(StoreError, match="holds 1000000 bytes, not 16"):
        local.decompress(chunk, out)
    with pytest.raises(StoreError, match="can't be decompressed together"):
        local.decompress_many([chunk, chunk], out)
    nothing = b"no zstd frame at all"
    with pytest.raises(StoreError, match="can't be decompressed"):
        local.decompress(nothing + crc32c(nothing), out)


def test_chunk_of_two_frames_does_not_shift_the_next_ones():
    """Its first frame has the right size; the second must not become the next sample."""
    frames = [zstandard.ZstdCompressor().compress(bytes([n]) * 8) for n in (1, 2, 3)]
    double = frames[0] + frames[1]
    chunks = [double + crc32c(double), frames[2] + crc32c(frames[2])]
    out = np.zeros((2, 8), np.uint8)
    with pytest.raises(StoreError, match="together"):
        local.decompress_many(chunks, out)
    for chunk, place in zip(chunks, out, strict=True):
        local.decompress(chunk, place)
    assert out.tolist() == [[1] * 8, [3] * 8]
