"""Packed frames: raw coordinates and dense planes into bits, and bits into dense frames.

T steps, K = ceil(T/8) time bytes, P polarities (0 = positive), H rows, W columns. Packed frames
are uint8 (K, H, W, P): byte [k, y, x, p] holds steps 8k..8k+7 of a pixel, the first in the highest
bit, pad bits zero.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]

OK, BAD_STEP, BAD_COORDINATE, BAD_VALUE = 0, 1, 2, 3


@numba.njit(cache=True, nogil=True)
def scatter_coordinates(
    events: U8, polarity: int, row_shift: int, column_shift: int, canvas: int, margin: int, out: U8
) -> tuple[int, int, int]:
    """Set the bit of each event (row, column, step 1..8) that falls into the crop.

    events (n, 3); out (1, H, W, P), where H = W = canvas - 2 * margin. The shifts centre the
    sample on the canvas. Returns how many bits were new, a fault code and the faulty event.
    """
    _, height, width, _ = out.shape
    ones = 0
    for i in range(events.shape[0]):
        step = events[i, 2]
        if step < 1 or step > 8:
            return ones, BAD_STEP, i
        row = events[i, 0] + row_shift
        column = events[i, 1] + column_shift
        if row >= canvas or column >= canvas:
            return ones, BAD_COORDINATE, i
        y = row - margin
        x = column - margin
        if 0 <= y < height and 0 <= x < width:
            bit = np.uint8(128 >> (step - 1))
            byte = out[0, y, x, polarity]
            ones += (byte & bit) == 0
            out[0, y, x, polarity] = byte | bit
    return ones, OK, 0


@numba.njit(cache=True, nogil=True)
def pack_dense(frames: U8, out: U8) -> tuple[int, int]:
    """Pack dense binary planes (P, T, H, W) into out (K, H, W, P).

    Returns how many cells are set and OK, or BAD_VALUE where a cell is neither 0 nor 1.
    """
    polarities, steps, height, width = frames.shape
    out[:] = 0
    ones = 0
    seen = np.uint8(0)
    row_bytes = np.empty(width, np.uint8)
    for k in range(out.shape[0]):
        for p in range(polarities):
            for y in range(height):
                row_bytes[:] = 0
                for step in range(8 * k, min(8 * k + 8, steps)):
                    shift = np.uint8(7 - step % 8)
                    total = 0
                    for x in range(width):
                        value = frames[p, step, y, x]
                        seen |= value
                        total += value
                        row_bytes[x] |= np.uint8(value << shift)
                    ones += total
                for x in range(width):
                    out[k, y, x, p] = row_bytes[x]
    return ones, BAD_VALUE if seen > 1 else OK


@numba.njit(cache=True, nogil=True)
def unpack(packed: U8, out: U8) -> None:
    """Unpack (K, H, W, P) into dense out (T, P, H, W) of zeros and ones, both contiguous."""
    steps, polarities, height, width = out.shape
    size = height * width
    planes = np.empty((polarities, size), np.uint8)
    for k in range(packed.shape[0]):
        # Polarities apart first, then eight pixels at a time: both loops run on whole vectors.
        _split_polarities(packed[k].reshape(-1), planes)
        for step in range(8 * k, min(8 * k + 8, steps)):
            shift = 7 - step % 8
            for p in range(polarities):
                _take_bit(planes[p], shift, out[step, p].reshape(-1))


@numba.njit(cache=True, nogil=True)
def _split_polarities(interleaved: U8, planes: U8) -> None:
    polarities, size = planes.shape
    if polarities == 2:  # a stride that the compiler knows makes it a vector shuffle
        first, second = planes[0], planes[1]
        for i in range(size):
            first[i] = interleaved[2 * i]
            second[i] = interleaved[2 * i + 1]
    else:
        for p in range(polarities):
            for i in range(size):
                planes[p, i] = interleaved[polarities * i + p]


@numba.njit(cache=True, nogil=True)
def _take_bit(plane: U8, shift: int, out: U8) -> None:
    whole = plane.size - plane.size % 8
    words, out_words = plane[:whole].view(np.uint64), out[:whole].view(np.uint64)
    mask = np.uint64(0x0101010101010101)
    distance = np.uint64(shift)
    for i in range(words.size):
        out_words[i] = (words[i] >> distance) & mask
    for i in range(whole, plane.size):
        out[i] = (plane[i] >> np.uint8(shift)) & np.uint8(1)


@numba.njit(cache=True, nogil=True)
def count_ones(packed: U8) -> int:
    """How many bits are set in packed frames of any shape (contiguous)."""
    flat = packed.reshape(-1)
    whole = len(flat) // 8 * 8
    count = 0
    for word in flat[:whole].view(np.uint64):
        while word:  # compiled to the processor's bit count
            word &= word - np.uint64(1)
            count += 1
    for byte in flat[whole:]:
        while byte:
            byte &= byte - 1
            count += 1
    return count


@numba.njit(cache=True, nogil=True)
def pad_bits_set(packed: U8, steps: int) -> bool:
    """Whether any bit after the last step is set in packed frames (K, H, W, P)."""
    pad = packed.shape[0] * 8 - steps
    mask = np.uint8((1 << pad) - 1)
    return bool((packed[-1] & mask).any())


@numba.njit(cache=True, nogil=True)
def unpack_into(packed: U8, batch: NDArray[Any], n: int, one: int, time_first: bool) -> None:
    """Unpack (K, H, W, P) into sample ``n`` of a dense batch.

    batch: contiguous (T, N, P, H, W) if time_first, else (N, T, P, H, W), of unsigned integers;
    a set cell becomes ``one``, which may be the bits of 1.0 in a float of the same width.
    """
    steps = batch.shape[0] if time_first else batch.shape[1]
    octets, height, width, polarities = packed.shape
    planes = np.empty((polarities, height * width), np.uint8)
    for k in range(octets):
        _split_polarities(packed[k].reshape(-1), planes)
        for step in range(8 * k, min(8 * k + 8, steps)):
            shift = 7 - step % 8
            for p in range(polarities):
                plane = batch[step, n, p] if time_first else batch[n, step, p]
                _take_bit_as(planes[p], shift, one, plane.reshape(-1))


@numba.njit(cache=True, nogil=True)
def _take_bit_as(plane: U8, shift: int, one: int, out: NDArray[Any]) -> None:
    distance = np.uint8(shift)
    value, none = out.dtype.type(one), out.dtype.type(0)
    for i in range(len(plane)):
        out[i] = value if (plane[i] >> distance) & np.uint8(1) else none
