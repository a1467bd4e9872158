"""Pack raw coordinates and dense planes into bits, and unpack bits into dense frames.

T steps, K = ceil(T/8) time bytes, P polarities (0 = positive), H rows, W columns. Packed frames
are uint8 (K, H, W, P): byte [k, y, x, p] holds steps 8k..8k+7 of a pixel, the first in the highest
bit, pad bits zero.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

U8 = NDArray[np.uint8]

OK, BAD_STEP, BAD_COORDINATE, BAD_VALUE = 0, 1, 2, 3

VECTOR_BYTES = 32  # stored at once when unpacking
_EVENTS = 1024  # located before their bits are set
_U16 = np.uint16


@numba.njit(cache=True, nogil=True)
def scatter_coordinates(
    events: U8, polarity: int, row_shift: int, column_shift: int, canvas: int, margin: int, out: U8
) -> tuple[int, int]:
    """Set the bit of each event that falls into the crop.

    Args:
        events: (n, 3), contiguous; each is a row, a column and a step from 1 to 8.
        polarity: index into P.
        row_shift, column_shift: centre the sample on the canvas.
        canvas: side of the canvas in pixels, at most 256.
        margin: pixels that the crop omits on each side.
        out: (1, H, W, P), where H = W = canvas - 2 * margin.

    Returns:
        A fault code and the first faulty event; if there is a fault, do not use ``out``.
    """
    _, height, width, channels = out.shape
    flat, coordinates = out.reshape(-1), events.reshape(-1)
    up, left = _U16(row_shift - margin), _U16(column_shift - margin)
    rows, columns = _U16(canvas - row_shift), _U16(canvas - column_shift)
    numbers = (up, left, rows, columns, _U16(height), _U16(width))
    places, bits = np.empty(_EVENTS, np.uint16), np.empty(_EVENTS, np.uint8)
    for first in range(0, len(events), _EVENTS):
        count = min(_EVENTS, len(events) - first)
        if not _locate(coordinates[3 * first : 3 * (first + count)], numbers, places, bits):
            for event in range(first, first + count):
                if not 1 <= events[event, 2] <= 8:
                    return BAD_STEP, event
                if events[event, 0] >= rows or events[event, 1] >= columns:
                    return BAD_COORDINATE, event
        for i in range(count):
            flat[np.uint64(places[i]) * np.uint64(channels) + np.uint64(polarity)] |= bits[i]
    return OK, 0


@numba.njit(cache=True, nogil=True)
def _locate(
    coordinates: U8, numbers: tuple[np.uint16, ...], places: NDArray[np.uint16], bits: U8
) -> bool:
    """Find the place y * W + x of each event and the bit of its step, both 0 outside the crop.

    All numbers have 16 bits, which places need, and there are no branches, so LLVM works on sixteen
    events at once: two to three times as fast as one by one. A pixel before the crop wraps around
    to a large number. Returns false if an event is invalid.
    """
    up, left, rows, columns, height, width = numbers
    last_row = last_column = last_step = _U16(0)
    for i in range(coordinates.size // 3):
        row = _U16(coordinates[3 * i])
        column = _U16(coordinates[3 * i + 1])
        step = _U16(coordinates[3 * i + 2])
        last_row, last_column = max(last_row, row), max(last_column, column)
        last_step = max(last_step, _U16(step - _U16(1)))  # a step of 0 wraps around
        y, x = _U16(row + up), _U16(column + left)
        inside = _U16(_U16(y < height) & _U16(x < width))
        places[i] = _U16(_U16(_U16(y * width) + x) * inside)
        bits[i] = np.uint8(_U16(_U16(_U16(256) * inside) >> step))
    return bool(last_row < rows and last_column < columns and last_step < 8)


@numba.njit(cache=True, nogil=True)
def pack_dense(frames: U8, out: U8) -> tuple[int, int]:
    """Pack dense binary planes (P, T, H, W) into out (K, H, W, P).

    Returns the number of set cells, and OK, or BAD_VALUE if a cell is neither 0 nor 1.
    """
    polarities, steps, height, width = frames.shape
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
def unpack(packed: U8, out: NDArray[Any], one: int = 1) -> None:
    """Unpack (K, H, W, P) into dense (T, P, H, W): ``one`` where a bit is set, else 0.

    Args:
        packed: (K, H, W, P) uint8, contiguous.
        out: (T, P, H, W) unsigned integers; its planes (H, W) are contiguous, the other axes need
            not be.
        one: value for a set bit, for example the bits of 1.0 in a float of the same width.

    Raises:
        ValueError: the shapes do not fit, or a plane is not contiguous.
    """
    steps, polarities, height, width = out.shape
    octets, rows, columns, channels = packed.shape
    if (rows, columns, channels) != (height, width, polarities) or octets != (steps + 7) // 8:
        raise ValueError("packed frames do not have the shape of the dense ones")
    if out.strides[2] != width * out.itemsize or out.strides[3] != out.itemsize:
        raise ValueError("the planes to unpack into are not contiguous")
    value = out.dtype.type(one)
    planes = np.empty((polarities, height * width), np.uint8)
    for k in range(octets):
        # First separate the polarities, then take a bit of each pixel: both loops use vectors.
        _split_polarities(packed[k].reshape(-1), planes)
        for step in range(8 * k, min(8 * k + 8, steps)):
            mask = np.uint8(128 >> (step - 8 * k))
            for p in range(polarities):
                _take_bit(planes[p], mask, value, out[step, p])


@numba.njit(cache=True, nogil=True)
def _split_polarities(interleaved: U8, planes: U8) -> None:
    if len(planes) == 2:  # the compiler turns a constant stride into a vector shuffle
        first, second = planes[0], planes[1]
        for i in range(len(first)):
            first[i] = interleaved[2 * i]
            second[i] = interleaved[2 * i + 1]
    else:
        for p in range(len(planes)):
            planes[p] = interleaved[p :: len(planes)]


@numba.njit(cache=True, nogil=True)
def _take_bit(plane: U8, mask: np.uint8, one: int, out: NDArray[Any]) -> None:
    """Set out (H, W), contiguous, to ``one`` where a byte of plane (H * W,) has the bit, else 0."""
    source, target, itemsize = plane.ctypes.data, out.ctypes.data, out.itemsize
    lanes = VECTOR_BYTES // itemsize
    start = min(plane.size, -target % VECTOR_BYTES // itemsize)  # the first aligned vector
    stop = start + (plane.size - start) // lanes * lanes
    _take_bit_by_pixel(plane, mask, one, out, 0, start)
    for i in range(start, stop, lanes):
        _stream_bits(np.uintp(source + i), np.uintp(target + i * itemsize), mask, one)
    _take_bit_by_pixel(plane, mask, one, out, stop, plane.size)


@numba.njit(cache=True, nogil=True)
def _take_bit_by_pixel(
    plane: U8, mask: np.uint8, one: int, out: NDArray[Any], start: int, stop: int
) -> None:
    none = out.dtype.type(0)
    for i in range(start, stop):
        out[i // out.shape[1], i % out.shape[1]] = one if plane[i] & mask else none


def _bit_stream(typing: Any, source: Any, target: Any, mask: Any, one: Any) -> Any:
    """Store a vector at address target: ``one`` where a byte at address source has the bit, else 0.

    The store bypasses the cache, which no loop is compiled to: a batch is larger than the cache,
    and an ordinary store first reads the memory that it overwrites. With plain loops `FrameLoader`
    took 1.5 to 2.3 times as long for a sample of ES-ImageNet. Another thread reads a batch under a
    lock, which waits for such stores.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        source, target, mask, one = args
        lanes = 8 * VECTOR_BYTES // one.type.width
        octets, values = ir.VectorType(ir.IntType(8), lanes), ir.VectorType(one.type, lanes)
        loaded = builder.load(builder.inttoptr(source, octets.as_pointer()), align=1)
        bits = builder.and_(loaded, _everywhere(builder, mask, octets))
        is_set = builder.icmp_unsigned("!=", bits, octets(None))
        vector = builder.select(is_set, _everywhere(builder, one, values), values(None))
        place = builder.inttoptr(target, values.as_pointer())
        store = builder.store(vector, place, align=VECTOR_BYTES)
        past_cache = builder.module.add_metadata([ir.IntType(32)(1)])
        store.set_metadata("nontemporal", past_cache)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uint8, one), generate


_stream_bits: Any = intrinsic(_bit_stream)


def _everywhere(builder: ir.IRBuilder, value: Any, vector: ir.VectorType) -> Any:
    """Return a vector with the value in every lane."""
    first = ir.IntType(32)
    single = builder.insert_element(vector(ir.Undefined), value, first(0))
    order = ir.VectorType(first, vector.count)(None)
    return builder.shuffle_vector(single, vector(ir.Undefined), order)


@numba.njit(cache=True, nogil=True)
def count_ones(packed: U8) -> int:
    """Return how many bits are set in contiguous packed frames of any shape."""
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


def pad_bits_set(packed: U8, steps: int) -> bool:
    """Return whether any bit after the last step is set in packed frames (K, H, W, P)."""
    mask = np.uint8((1 << 8 * len(packed) - steps) - 1)
    return bool((packed[-1] & mask).any())


@numba.njit(cache=True, nogil=True)
def unpack_batch(packed: U8, out: NDArray[Any], one: int) -> None:
    """Unpack samples (N, K, H, W, P) into dense out (N, T, P, H, W), each with `unpack`."""
    for n in range(packed.shape[0]):
        unpack(packed[n], out[n], one)


@numba.njit(cache=True, nogil=True)
def planes_first_batch(stored: NDArray[Any], values: NDArray[Any], out: NDArray[Any]) -> None:
    """Copy stored counts or images (N, K, H, W, P) into dense out (N, K, P, H, W).

    A stored value v becomes ``values[v]``, for example its bits in a float.
    """
    for n, k, p in np.ndindex(out.shape[:3]):
        for y in range(out.shape[3]):
            for x in range(out.shape[4]):
                out[n, k, p, y, x] = values[stored[n, k, y, x, p]]
