"""Read a recording of an event camera, in any of the file formats of ``DECODERS``.

Formats of fixed-size words are decoded here, since the libraries that know them hang, wrap or stop
silently on a damaged file; tests compare each decoder with one of these.
"""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from os import PathLike
from pathlib import Path

from eventdata.errors import InputError, OptionError, reading
from eventdata.events import Events, Outside, SensorSize, sensor_of
from eventdata.files.local import check_plain
from eventdata.formats.decoding import Chunk, DecodeOptions, Decoder, Place, Recording
from eventdata.jobs.worker import out_of_memory
from eventdata.units import NAMES, TimeUnit, describe_unit, is_documented

# The module in eventdata.formats whose ``read`` is the `Decoder`; it is imported when first used.
DECODERS = {
    ".aedat4": "aedat",
    ".aedat": "aedat",
    ".raw": "evt",
    ".dat": "dat",
    ".bin": "atis",
    ".es": "event_stream",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".hdf": "hdf5",
    ".txt": "text",
    ".csv": "text",
    ".bag": "rosbag",
    ".npz": "columns",
    ".npy": "columns",
}


def read_events(
    path: str | PathLike[str],
    sensor_size: SensorSize | None = None,
    *,
    stream: str | None = None,
    columns: str | None = None,
    time_unit: TimeUnit | None = None,
    outside: Outside = "fail",
) -> tuple[Events, SensorSize]:
    """Return the checked events of a recording, times in microseconds, and the size (W, H).

    Events whose time falls are sorted. Warnings say where and by how much, what was chosen or
    derived where the file does not state it, and that the end of the file is missing.

    Args:
        path: the file; its suffix selects the decoder.
        sensor_size: (W, H). Without it, the size that the file states is used or, where it states
            none (.bin, .npz, .npy, some .dat), the smallest that holds its events. The latter
            differs from file to file: pass the size to put several files into one store.
        time_unit: unit of the times of a file that does not state it ("s", "ms", "us" or "ns");
            by default the values have to suggest it. Whole numbers are microseconds and others are
            seconds, unless that makes an event camera of an unusual rate or duration; a warning
            says so where they are in another unit.
        outside: "fail", or "drop" to skip events off the sensor.
        stream: name of the stream of events, for a file with several; by default the first.
        columns: order of the columns of tables without names, such as "txyp".

    Raises:
        InputError: the format is unknown, or the file is not a whole file of it.
        OptionError: a package for the format is missing, or the file states another unit.
        EventDataError: memory ran out.
    """
    path = Path(path)
    options = DecodeOptions(
        sensor_size=sensor_size,
        time_unit=time_unit,
        outside=outside,
        stream=stream,
        columns=columns,
    )
    recording = read_recording(path, options)
    size = sensor_size or recording.sensor_size
    stated = recording.time_unit
    if time_unit and stated and time_unit != stated:
        raise OptionError(
            f"{path}: its times are in {NAMES[stated]}, as its format states; omit the time unit "
            f"{time_unit!r}"
        )
    checker = recording.checker(size, options, str(path))
    events = recording.events(checker)
    for text in recording.notes:
        warnings.warn(f"{path}: {text}", stacklevel=2)
    facts, unit = checker.facts, checker.time_unit
    if facts and unit and not is_documented(facts, unit):
        warnings.warn(f"{path}: {describe_unit(facts, unit)}", stacklevel=2)
    if size is None and not len(events):
        raise InputError(f"{path}: no events to derive the sensor size from; pass the sensor size")
    return events, size or sensor_of(events)


def read_recording(path: Path, options: DecodeOptions) -> Recording:
    """Open one recording; raise as ``read_events``."""
    module = DECODERS.get(path.suffix.lower())
    if module is None:
        raise InputError(f"{path}: not a recording; supported suffixes are {', '.join(DECODERS)}")
    decode: Decoder = import_module(f"eventdata.formats.{module}").read
    with _FaultsOf(path):
        check_plain(path)
        recording = decode(path, options)

    def chunks(place: Place | None) -> Iterator[Chunk]:
        with _FaultsOf(path):
            yield from recording.chunks(place)

    return replace(recording, chunks=chunks)


class _FaultsOf:
    """A context that adds the path to the errors of a decoder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, InputError | OptionError):
            raise type(error)(f"{self._path}: {error}") from None
        if isinstance(error, MemoryError):
            raise out_of_memory(str(self._path)) from None
        if isinstance(error, OSError):
            with reading(self._path):
                raise error
