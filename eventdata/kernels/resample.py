"""Scale an image and reduce it to its brightest channel, in one pass over its pixels.

Legend: C channels, H rows, W columns of the image; a rows, b columns of the plane.
"""

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def scale_nearest(image: Any, plane: Any) -> None:
    """Take the nearest source pixel as torch's ``interpolate`` does, and the max over channels.

    torch floors row * (H / a) after rounding it to float32. Where H * a is under 2**23, that is the
    floor of the exact quotient, since a product that is not whole is at least 1/a away from a whole
    number. For planes of at most 128 rows and columns together, torch rounds differently.

    Args:
        image: uint8 (H, W, C), C of 1 or 3.
        plane: uint8 (a, b), overwritten.
    """
    height, width, channels = image.shape
    a, b = plane.shape
    sources = (np.arange(b) * width // b).astype(np.uint32)  # unsigned: no test for negatives
    for row in range(a):
        line = image[row * height // a]
        target = plane[row]
        if channels == 3:  # constant indices: half the time of a loop over channels
            for column in range(b):
                pixel = line[sources[column]]
                best = pixel[0] if pixel[0] > pixel[1] else pixel[1]
                target[column] = best if best > pixel[2] else pixel[2]
        else:
            for column in range(b):
                target[column] = line[sources[column], 0]


@njit(cache=True, nogil=True)
def scale_area(image: Any, plane: Any) -> None:
    """Take the mean of the source area under each pixel, halves up, and the max over channels.

    Row r of the plane covers source rows r*H/a to (r+1)*H/a. In units of 1/a of a source row all
    overlaps are whole numbers that add up to H; columns likewise. The mean is therefore exact.

    Args:
        image: uint8 (H, W, C).
        plane: uint8 (a, b), overwritten.
    """
    height, width, channels = image.shape
    a, b = plane.shape
    area = height * width
    lines = image.reshape(height, width * channels)
    sums = np.empty(width * channels, np.int32)
    edges = np.arange(b + 1) * width
    first, part = edges // b, edges % b
    for row in range(a):
        start, stop = row * height, (row + 1) * height
        sums[:] = 0
        for y in range(start // a, (stop - 1) // a + 1):
            weight = np.int32(min(stop, (y + 1) * a) - max(start, y * a))
            line = lines[y]
            for i in range(len(sums)):
                sums[i] += weight * line[i]
        for column in range(b):
            best = 0
            for channel in range(channels):
                total = -part[column] * np.int64(sums[first[column] * channels + channel])
                for x in range(first[column], first[column + 1]):
                    total += b * np.int64(sums[x * channels + channel])
                if part[column + 1]:
                    last = first[column + 1] * channels + channel
                    total += part[column + 1] * np.int64(sums[last])
                best = max(best, total)
            plane[row, column] = (2 * best + area) // (2 * area)
