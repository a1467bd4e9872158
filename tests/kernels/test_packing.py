"""Compare the packing kernels with plain NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventdata.kernels.packing import (
    BAD_COORDINATE,
    BAD_STEP,
    BAD_VALUE,
    OK,
    count_ones,
    pack_dense,
    pad_bits_set,
    planes_first_batch,
    scatter_coordinates,
    unpack,
    unpack_batch,
)

seeds = st.integers(0, 2**32 - 1)


def numpy_packed(frames):
    """Pack (T, P, H, W) of zeros and ones into (K, H, W, P) with numpy.packbits."""
    return np.moveaxis(np.packbits(frames, axis=0), 1, -1)


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(1, 30), st.integers(1, 3), st.integers(1, 9), st.integers(1, 40))
def test_packed_frames_unpack_to_the_same(seed, steps, polarities, height, width):
    rng = np.random.default_rng(seed)
    dense = (rng.random((polarities, steps, height, width)) < 0.3).astype(np.uint8)
    frames = np.ascontiguousarray(dense.swapaxes(0, 1))
    packed = np.full((-(-steps // 8), height, width, polarities), 255, np.uint8)
    assert pack_dense(dense, packed) == (dense.sum(), OK)
    np.testing.assert_array_equal(packed, numpy_packed(frames))
    back = np.full_like(frames, 9)
    unpack(packed, back)
    np.testing.assert_array_equal(back, frames)
    assert count_ones(packed) == dense.sum()
    assert not pad_bits_set(packed, steps)


@settings(deadline=None, max_examples=80)
@given(
    seeds,
    st.integers(1, 17),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 80),
    st.sampled_from([("uint8", 1), ("uint16", 0x3F80), ("uint32", 0x3F800000)]),
    st.booleans(),
    st.integers(0, 7),
)
def test_unpack_writes_only_its_sample(
    seed, steps, polarities, height, width, dtype_and_one, time_first, offset
):
    """Vector instructions must not reach past the ends, in any layout, width and memory place."""
    dtype, one = dtype_and_one
    packed = np.random.default_rng(seed).integers(
        0, 256, (2, -(-steps // 8), height, width, polarities), np.uint8
    )
    cells = np.unpackbits(np.moveaxis(packed, -1, 2)[:, :, None], axis=2)
    expected = cells.reshape(2, -1, polarities, height, width)[:, :steps].astype(dtype) * one
    shape = (4, steps, polarities, height, width)
    memory = np.full(offset + np.prod(shape), 9, dtype)
    batch = memory[offset:].reshape(shape)
    if time_first:
        batch = batch.reshape(steps, 4, *shape[2:]).swapaxes(0, 1)
    unpack_batch(packed, batch[1:3], batch.dtype.type(one))
    np.testing.assert_array_equal(batch[1:3], expected)
    assert (batch[0] == 9).all()
    assert (batch[3] == 9).all()
    assert (memory[:offset] == 9).all()


def test_unpack_refuses_arrays_that_do_not_fit():
    packed = np.zeros((2, 6, 5, 2), np.uint8)
    for shape in ((8, 2, 6, 5), (17, 2, 6, 5), (16, 1, 6, 5), (16, 2, 5, 6)):
        with pytest.raises(ValueError, match="do not have the shape"):
            unpack(packed, np.zeros(shape, np.uint8))
    for wide in (
        np.zeros((16, 2, 6, 10), np.uint8)[..., ::2],
        np.zeros((16, 2, 6, 8), np.uint8)[..., :5],
    ):
        with pytest.raises(ValueError, match="not contiguous"):
            unpack(packed, wide)


@pytest.mark.parametrize("stored_type", ["uint8", "uint16"])
def test_planes_first_converts_values_by_a_table(stored_type):
    rng = np.random.default_rng(0)
    count = np.iinfo(stored_type).max + 1
    stored = rng.integers(0, count, (3, 4, 6, 5, 2)).astype(stored_type)
    values = rng.integers(0, 2**32, count, np.uint32)
    out = np.zeros((4, 3, 2, 6, 5), np.uint32)
    planes_first_batch(stored, values, out.swapaxes(0, 1))
    np.testing.assert_array_equal(out.swapaxes(0, 1), np.moveaxis(values[stored], -1, 2))


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(0, 3000), st.integers(0, 60), st.integers(0, 60))
def test_scatter_is_the_published_canvas_and_crop(seed, count, row_shift, column_shift):
    rng = np.random.default_rng(seed)
    events = np.stack(
        [
            rng.integers(0, 256 - row_shift, count),
            rng.integers(0, 256 - column_shift, count),
            rng.integers(1, 9, count),
        ],
        axis=1,
    ).astype(np.uint8)
    canvas = np.zeros((8, 2, 256, 256), np.uint8)
    rows, columns, steps = events.astype(int).T
    canvas[steps - 1, 1, rows + row_shift, columns + column_shift] = 1
    crop = canvas[:, :, 16:240, 16:240]
    out = np.zeros((1, 224, 224, 2), np.uint8)
    assert scatter_coordinates(events, 1, row_shift, column_shift, 256, 16, out) == (OK, 0)
    np.testing.assert_array_equal(out, numpy_packed(crop))


@pytest.mark.parametrize("before", [0, 5, 3000])
def test_scatter_names_the_faulty_event(before):
    good = [100, 100, 1]
    for bad, fault in (
        ([100, 100, 0], BAD_STEP),
        ([100, 100, 9], BAD_STEP),
        ([250, 100, 1], BAD_COORDINATE),
        ([100, 255, 1], BAD_COORDINATE),
    ):
        out = np.zeros((1, 224, 224, 2), np.uint8)
        events = np.array([*[good] * before, bad, good, [0, 255, 255]], np.uint8)
        assert scatter_coordinates(events, 0, 6, 1, 256, 16, out) == (fault, before)


def test_pack_dense_refuses_other_values():
    dense = np.zeros((2, 9, 4, 5), np.uint8)
    dense[1, 8, 3, 4] = 2
    assert pack_dense(dense, np.empty((2, 4, 5, 2), np.uint8))[1] == BAD_VALUE


def test_pad_bits_are_found():
    packed = np.zeros((4, 3, 5, 2), np.uint8)
    packed[3, 2, 4, 1] = 0b00000100  # the thirtieth of 30 steps
    assert not pad_bits_set(packed, 30)
    packed[3, 0, 0, 0] = 0b00000010
    assert pad_bits_set(packed, 30)
    assert not pad_bits_set(np.full((1, 2, 2, 2), 255, np.uint8), 8)
