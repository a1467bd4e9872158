"""Loops of the ODG over all pixels: changes between placements, and uses of their bits.

Legend: N events, T steps, P polarities (0 = positive), H rows, W columns; m is the largest offset
of a placement; the scaled image has a rows and b columns, its canvas a+m and b+m.
"""

from typing import Any

import numpy as np
from numba import njit

from eventdata.kernels.packing import count_ones


@njit(cache=True, nogil=True)
def _compare(old: Any, new: Any, least: Any, bit: Any, cells: Any) -> None:
    """Set ``bit`` in a cell's low byte where the grey rose by ``least``, in the high if it fell.

    The loop has no branch, only unsigned bytes and a function of its own, so that the compiler
    processes a full register of pixels at a time.
    """
    up, down, none = np.uint16(bit), np.uint16(bit << 8), np.uint16(0)
    for i in range(len(cells)):
        most = max(old[i], new[i])
        rise = up if np.uint8(most - old[i]) >= least else none
        fall = down if np.uint8(most - new[i]) >= least else none
        cells[i] |= rise | fall


@njit(cache=True, nogil=True)
def _covered_steps(offsets: Any, reach: int, window: Any, octets: int, size: int) -> Any:
    """Return the steps at which both placements cover each row, or column, of the canvas.

    The result is uint16 (ceil(T/8), size), a step's bit in both bytes, zero outside ``window``.
    """
    steps = np.zeros((octets, size), np.uint16)
    for step in range(len(offsets) - 1):
        start = max(window[0], max(offsets[step], offsets[step + 1]))
        stop = min(window[1], min(offsets[step], offsets[step + 1]) + size - reach)
        for i in range(start, stop):
            steps[step // 8, i] |= np.uint16(0x8080 >> (step % 8))
    return steps


@njit(cache=True, nogil=True)
def difference(padded: Any, trace: Any, levels: int, window: Any, cells: Any) -> None:
    """Set the bits of all changes of at least ``levels`` where both placements show the image.

    Args:
        padded: uint8 (a+2m+1, b+m), the image from row m+1 and column 0 on, zero elsewhere.
        trace: int (T+1, 2).
        levels: 1 to 255.
        window: int (2, 2), first and end of the rows, and of the columns, to keep.
        cells: uint16 (ceil(T/8), a+m, b+m), zero; the low byte takes positive bits.
    """
    octets, rows, columns = cells.shape
    top = len(padded) - rows
    flat = padded.reshape(-1)
    size = rows * columns
    for step in range(len(trace) - 1):
        y0, x0 = trace[step]
        y1, x1 = trace[step + 1]
        old = flat[(top - y0) * columns - x0 :][:size]
        new = flat[(top - y1) * columns - x1 :][:size]
        bit = np.uint8(128 >> (step % 8))
        _compare(old, new, np.uint8(levels), bit, cells[step // 8].reshape(-1))
    row_steps = _covered_steps(trace[:, 0], top - 1, window[0], octets, rows)
    column_steps = _covered_steps(trace[:, 1], top - 1, window[1], octets, columns)
    for octet in range(octets):
        for row in range(rows):
            line, wanted, steps = cells[octet, row], column_steps[octet], row_steps[octet, row]
            for column in range(columns):
                line[column] &= wanted[column] & steps


@njit(cache=True, nogil=True)
def list_events(bits: Any, steps: int, polarity: int) -> Any:
    """Return row, column and step (from 1) of a polarity's bits in order of step: uint8 (N, 3)."""
    _, rows, columns, _ = bits.shape
    events = np.empty((count_ones(bits), 3), np.uint8)
    n = 0
    for step in range(steps):
        shift = 7 - step % 8
        for row in range(rows):
            for column in range(columns):
                if (bits[step // 8, row, column, polarity] >> shift) & 1:
                    events[n, 0], events[n, 1], events[n, 2] = row, column, step + 1
                    n += 1
    return events[:n].copy()


@njit(cache=True, nogil=True)
def add_edges(packed: Any, trace: Any, home: int, sums: Any) -> None:
    """Add pos - neg of each step to ``sums`` (H, W), moved back from its placement to ``home``."""
    height, width = sums.shape
    for step in range(len(trace) - 1):
        dy, dx = trace[step + 1, 0] - home, trace[step + 1, 1] - home
        shift = 7 - step % 8
        for row in range(max(0, -dy), min(height, height - dy)):
            for column in range(max(0, -dx), min(width, width - dx)):
                cell = packed[step // 8, row + dy, column + dx]
                sums[row, column] += np.int64((cell[0] >> shift) & 1) - ((cell[1] >> shift) & 1)
