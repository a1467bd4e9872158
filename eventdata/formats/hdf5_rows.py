"""Read rows of an HDF5 data set without trusting what the file declares.

h5py only reads where a data set lies. Its bytes are read and the common filters undone here, each
chunk bounded by the size that it must have, and several times faster than by the HDF5 library. The
library reads data sets with other filters or types.
"""

import math
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from isal import isal_zlib
from numcodecs import blosc
from numpy.typing import NDArray

from eventdata.errors import EventDataError, InputError, OptionError, check_open_files
from eventdata.formats.decoding import most_events
from eventdata.formats.tables import Rows

MAX_CHUNK, MAX_CHUNK_RATIO = 1 << 24, 64  # bytes of an unpacked chunk, or times those of the file
ECF = 36559  # Prophesee's filter
PLUGIN_FILTERS = {307, 32004, 32008, 32013, 32017, 32018, 32024, 32026, 32028}  # of hdf5plugin
_INFLATE_ERROR: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # in its stub
DAMAGED = "a truncated or damaged HDF5 file; get it again"


def open_rows(path: Path, dataset: Any) -> Rows:
    """Return the rows of an h5py data set, which may be closed afterwards.

    Raises:
        InputError: it is not a column or table of numbers, lies outside the file, or declares more
            than the file can hold.
        OptionError: a package is missing that undoes a filter.
    """
    import h5py

    name, size = dataset.name.lstrip("/"), path.stat().st_size
    layout = dataset.id.get_create_plist()
    if layout.get_layout() == h5py.h5d.VIRTUAL or layout.get_external_count():
        raise InputError(f"{name} lies in other files, which are not read; copy it into this file")
    dtype, shape = dataset.dtype, dataset.shape
    if dtype.hasobject or any(dtype[name].kind not in "iufb" for name in dtype.names or ()):
        raise InputError(f"{name} holds {dtype}, not numbers")
    if shape[0] > most_events(size):
        raise InputError(f"{name} declares {shape[0]:,} rows, too many for {size:,} bytes")
    chunks = dataset.chunks
    each = dtype.itemsize * math.prod(shape[1:])
    if (
        math.prod(chunks or (1,)) * dtype.itemsize > max(MAX_CHUNK, MAX_CHUNK_RATIO * size)
        or not each
    ):
        raise InputError(f"{name} has chunks that are too large for a file of {size:,} bytes")
    filters = [layout.get_filter(number) for number in range(layout.get_nfilters())]
    plain = h5py.h5t.py_create(dtype) == dataset.id.get_type() and not dataset.file.userblock_size
    offset = None if chunks else dataset.id.get_offset()
    if plain and (chunks or offset is not None) and all(one[0] in _UNDO for one in filters):
        places = _places(dataset) if chunks else np.array([[(offset, each * shape[0], 0)]])
        if np.any(places[..., 0] + places[..., 1] > size):
            raise InputError(DAMAGED)
        return _Direct(path, shape, dtype, chunks or shape, places, filters)
    for code, *_ in filters:
        check_filter(code)
    return _ByLibrary(path, name, shape[0], max((chunks or shape)[0], 1), each)


def check_filter(code: int) -> None:
    """Raise OptionError or InputError unless the HDF5 library can undo a filter."""
    import h5py

    if not h5py.h5z.filter_avail(code):
        with suppress(ImportError):
            import hdf5plugin  # noqa: F401  registers its filters
        if not h5py.h5z.filter_avail(code):
            raise _missing(code)


def _missing(code: int) -> EventDataError:
    if code == ECF:
        return OptionError(
            f"its events are compressed with Prophesee's ECF (HDF5 filter {code}); install the "
            "plugin from github.com/prophesee-ai/hdf5_ecf, or convert the file to RAW or DAT"
        )
    compressed = f"its events are compressed with HDF5 filter {code}"
    if code in PLUGIN_FILTERS:
        return OptionError(f"{compressed}; run: pip install 'eventdata[recordings]'")
    return InputError(f"{compressed}, which is unknown; install its plugin or get the file again")


def _places(dataset: Any) -> NDArray[np.int64]:
    """Return offset, stored bytes and mask of skipped filters of each chunk: (rows, columns, 3)."""
    chunks: tuple[int, ...] = dataset.chunks
    grid = [-(-side // chunk) for side, chunk in zip(dataset.shape, chunks, strict=True)]
    places = np.full((grid[0], *(grid[1:] or [1]), 3), -1, np.int64)
    found: list[Any] = []
    if places.size:
        dataset.id.chunk_iter(found.append)
    rows = [
        (*one.chunk_offset, one.byte_offset, one.size, one.filter_mask)
        for one in found
        if one.byte_offset + one.size < 1 << 62
    ]
    stored = np.array(rows, np.int64).reshape(-1, len(grid) + 3)
    corners = stored[:, : len(grid)] // chunks
    inside = np.all(corners < grid, axis=1)
    row, *column = corners[inside].T
    places[row, column[0] if column else 0] = stored[inside, len(grid) :]
    if np.any(places[..., 1] < 0):
        raise InputError(f"{dataset.name} has parts that were never written; get it again")
    return places


@dataclass
class _Direct:
    """Rows whose bytes are read from the file itself.

    chunks: the shape of a chunk; places: offset, stored bytes and mask of skipped filters of each;
    filters: those of h5py's property list, in the order in which they were applied.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    places: NDArray[np.int64]
    filters: list[Any] = field(default_factory=list)
    _last: tuple[int, NDArray[Any]] | None = None

    def __post_init__(self) -> None:
        self.length, self.chunk = self.shape[0], max(self.chunks[0], 1)
        self.row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        filters = [(i, _UNDO[code], values) for i, (code, _, values, _) in enumerate(self.filters)]
        self._steps = filters[::-1]

    def pieces(self, start: int, step: int) -> Iterator[NDArray[Any]]:
        with self.path.open("rb", buffering=0) as file:
            for first in range(start, self.length, step):
                yield self._read(file.fileno(), first, min(first + step, self.length))

    def _read(self, file: int, start: int, stop: int) -> NDArray[Any]:
        rows = np.empty((stop - start, *self.shape[1:]), self.dtype)
        content, row_bytes = rows.view(np.uint8).reshape(-1).data, self.row_bytes
        whole = self.places.shape[1] == 1 and self.chunks[1:] == self.shape[1:]
        for number in range(start // self.chunk, -(-stop // self.chunk)):
            first = number * self.chunk
            low, high = max(start, first), min(stop, first + self.chunk)
            out = content[(low - start) * row_bytes : (high - start) * row_bytes]
            if not self.filters and self.places.shape[1] == 1:
                self._read_stored(file, number, low - first, out)
            elif whole and high - low == self.chunk:
                self._unpack(file, number, 0, out)
            else:
                block = self._block(file, number)
                rows[low - start : high - start] = block[low - first : high - first]
        return rows

    def _read_stored(self, file: int, number: int, low: int, out: memoryview) -> None:
        """Read rows of a chunk, from row ``low`` of it, that are stored as they are."""
        offset, stored, _ = self.places[number, 0].tolist()
        skipped = low * self.row_bytes
        while len(out):
            count = os.preadv(file, [out], offset + skipped) if skipped < stored else 0
            if count < 1 or skipped + count > stored:
                raise InputError(DAMAGED)
            skipped, out = skipped + count, out[count:]

    def _block(self, file: int, number: int) -> NDArray[Any]:
        """Return the rows of a chunk; the last ones are kept for chunks that are read in parts."""
        if self._last is None or self._last[0] != number:
            parts = [np.empty(self.chunks, self.dtype) for _ in self.places[number]]
            for column, part in enumerate(parts):
                self._unpack(file, number, column, part.view(np.uint8).reshape(-1).data)
            block = parts[0] if len(parts) == 1 else np.concatenate(parts, 1)[:, : self.shape[1]]
            self._last = number, block
        return self._last[1]

    def _unpack(self, file: int, number: int, column: int, out: memoryview) -> None:
        """Write the content of a chunk into ``out``, which has its size."""
        offset, stored, mask = self.places[number, column].tolist()
        data: Any = os.pread(file, min(stored, 2 * len(out) + 4096), offset)
        try:
            for index, undo, values in self._steps:
                if not mask >> index & 1:
                    data = undo(data, out, values)
            if data is not out:
                out[:] = data  # ValueError for another size
        except (RuntimeError, ValueError, struct.error, zstandard.ZstdError, _INFLATE_ERROR):
            raise InputError(DAMAGED) from None


@dataclass
class _ByLibrary:
    """Rows that the HDF5 library reads."""

    path: Path
    name: str
    length: int
    chunk: int
    row_bytes: int

    def pieces(self, start: int, step: int) -> Iterator[NDArray[Any]]:
        import h5py

        try:
            with h5py.File(self.path, "r", locking=False) as file:
                for first in range(start, self.length, step):
                    yield file[self.name][first : first + step]
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            check_open_files(error, self.path)
            raise InputError(f"{DAMAGED} ({error})") from None


# Each function undoes a filter of ``data``, of a chunk that has the size of ``out``. It may write
# into ``out`` and return that, unless ``data`` is ``out`` already.


def _unshuffle(data: Any, out: memoryview, values: tuple[int, ...]) -> Any:
    """Undo the filter that stores the first bytes of all elements, then the second ones."""
    each = values[0] if values else 1
    count = len(data) // each if each else 0
    if each < 2 or not count:
        return data
    stored = np.frombuffer(data, np.uint8)
    fits = data is not out and len(data) == len(out)
    whole = np.frombuffer(out, np.uint8) if fits else np.empty_like(stored)
    elements = whole[: count * each].reshape(count, each)
    for index in range(each):
        elements[:, index] = stored[index * count : (index + 1) * count]
    whole[count * each :] = stored[count * each :]
    return out if fits else whole


def _inflate(data: Any, out: memoryview, values: tuple[int, ...]) -> bytes:
    # One byte more than declared reveals a chunk that inflates to more.
    content: bytes = isal_zlib.decompressobj().decompress(data, len(out) + 1)
    return content


def _undo_blosc(data: Any, out: memoryview, values: tuple[int, ...]) -> bytes:
    unpacked, _, packed = struct.unpack_from("<III", data, 4)
    if (unpacked, packed) != (len(out), len(data)):
        raise ValueError("a chunk of another size")
    content: bytes = blosc.decompress(bytes(data))  # into ``out``, numcodecs takes longer
    return content


def _undo_zstd(data: Any, out: memoryview, values: tuple[int, ...]) -> bytes:
    if zstandard.frame_content_size(data) not in (-1, len(out)):
        raise ValueError("a chunk of another size")
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=len(out))


_UNDO: dict[int, Callable[[Any, memoryview, tuple[int, ...]], Any]] = {
    1: _inflate,
    2: _unshuffle,
    32001: _undo_blosc,
    32015: _undo_zstd,
}
