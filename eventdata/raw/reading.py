"""Read the events of one recording, whole or cut into pieces of equal time."""

from functools import lru_cache
from pathlib import Path

from eventdata.errors import InputError
from eventdata.events import Events, SensorSize, cut, skipped_note
from eventdata.files.inputs import Numbers
from eventdata.formats.decoding import DecodeOptions
from eventdata.formats.recording import read_recording
from eventdata.raw.source import note


def read_sized(path: Path, size: SensorSize, options: DecodeOptions) -> Events:
    """Return checked events of a recording from a sensor of that size (W, H)."""
    recording = read_recording(path, options)
    stated = recording.sensor_size
    if stated is not None and stated != size:
        raise InputError(
            f"{path}: a sensor of {stated[0]}x{stated[1]} pixels, not {size[0]}x{size[1]} as the "
            "first recording or --sensor-size; make a store for each size"
        )
    checker = recording.checker(size, options, str(path))
    events = recording.events(checker)
    if checker.skipped:
        note(skipped_note(checker.skipped))
    for text in recording.notes:
        note(text)
    if not len(events):
        raise InputError(f"{path}: no events in it; record it again, or remove it")
    return events


@lru_cache(maxsize=1)  # pieces of a recording come one after the other
def read_cut(
    path: Path, _state: Numbers, size: SensorSize, every: int, options: DecodeOptions
) -> tuple[Events, list[slice]]:
    """Return a recording and its pieces, read once for all of them, and again if it changed."""
    events = read_sized(path, size, options)
    return events, cut(events, every)
