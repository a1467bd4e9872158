"""Choose the unit of the times of recordings that do not state it, the same for all of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from eventdata.errors import InputError, OptionError
from eventdata.formats.decoding import DecodeOptions
from eventdata.formats.recording import read_recording
from eventdata.units import (
    NAMES,
    TimeFacts,
    TimeUnit,
    describe_doubt,
    describe_unit,
    infer_unit,
    is_documented,
    is_possible,
    settle_unit,
    time_facts,
)


class UnitChoice(NamedTuple):
    """The unit of times in files that state none; None where all files state theirs.

    stored: what a store's parameters keep, None for microseconds that the files show again;
    notes: remarks for the user.
    """

    unit: TimeUnit | None
    stored: TimeUnit | None
    notes: list[str]


def choose_unit(
    paths: Iterable[Path], given: TimeUnit | None, options: DecodeOptions
) -> UnitChoice:
    """Return the given unit, or the one that the times of the first recordings suggest.

    Of each format the first recording that can be read is opened.

    Raises:
        InputError: the times suggest no unit, or those of two recordings suggest different ones.
        OptionError: a unit is given, and all recordings state another one.
    """
    stated: dict[TimeUnit, Path] = {}
    unstated: list[tuple[Path, TimeFacts]] = []
    seen: set[str] = set()
    for path in paths:
        suffix = path.suffix.lower()
        if suffix in seen:
            continue
        try:
            recording = read_recording(path, options)
            if recording.time_unit is not None:
                stated.setdefault(recording.time_unit, path)
            else:
                t = next((chunk.t for chunk in recording.chunks(None) if len(chunk.t)), None)
                if t is None:
                    continue
                unstated.append((path, time_facts(t)))
        except InputError:
            continue  # it is reported when it is read
        seen.add(suffix)
    if not unstated:
        return _of_formats(stated, given)
    if given is not None:
        suggested = {infer_unit(facts) for _, facts in unstated}
        stored = _stored(given, unstated) if suggested == {given} else given
        doubts = [
            f"{path}: {describe_doubt(facts, given)}"
            for path, facts in unstated
            if not is_possible(facts, given)
        ]
        return UnitChoice(given, stored, doubts)
    unit, notes = None, []
    for path, facts in unstated:
        try:
            unit = settle_unit(facts, unit)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        notes.append(f"{path}: {describe_unit(facts, unit)}")
    return UnitChoice(unit, _stored(unit, unstated), notes)


def _stored(unit: TimeUnit | None, unstated: Iterable[tuple[Path, TimeFacts]]) -> TimeUnit | None:
    """Return what the parameters keep of a unit that the times suggest.

    None stands for whole numbers of microseconds, which versions without this parameter read so
    too. They took floats for seconds, whatever their values were.
    """
    whole = all(is_documented(facts, "us") for _, facts in unstated)
    return None if unit == "us" and whole else unit


def _of_formats(stated: dict[TimeUnit, Path], given: TimeUnit | None) -> UnitChoice:
    """Return the choice for files that all state their unit."""
    units = list(stated)
    if given is not None and units and given not in units:
        raise OptionError(
            f"{stated[units[0]]}: its times are in {NAMES[units[0]]}, as its format states; remove "
            f"--time-unit {given}"
        )
    return UnitChoice(given, units[0] if len(units) == 1 and units != ["us"] else None, [])
