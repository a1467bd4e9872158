"""Clocks that fall or jump, and reading in chunks, against a statement in plain NumPy.

A recording that is read in chunks of any size, from any of their places, gives the same events as
the whole.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventdata.errors import InputError
from eventdata.events import EVENT_DTYPE, make_events
from eventdata.formats.decoding import Chunk, DecodeOptions, Place, Recording
from eventdata.raw import reading
from eventdata.raw.clock import mend
from eventdata.raw.reading import Excerpt, Reader, survey

SIZE = (16, 12)


def events_at(times, seed=0):
    """Return random events at these times, in their order."""
    rng = np.random.default_rng(seed)
    events = np.empty(len(times), EVENT_DTYPE)
    events["t"] = times
    for field, side in (("x", SIZE[0]), ("y", SIZE[1]), ("p", 2)):
        events[field] = rng.integers(0, side, len(times))
    return events


def recording_of(events, cuts=()):
    """Return a recording whose chunks end at these numbers; places are numbers of events."""
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(events)}), len(events)]

    def chunks(place: Place | None) -> Iterator[Chunk]:
        start = 0 if place is None else edges.index(place.offset)
        for low, high in zip(edges[start:-1], edges[start + 1 :], strict=True):
            part = events[low:high]
            yield Chunk(Place(low, 7), part["x"], part["y"], part["t"], part["p"])

    return Recording(chunks, SIZE)


def surveyed(events, cuts, monkeypatch, *, cut=False, kept=1 << 23):
    monkeypatch.setattr(reading, "read_recording", lambda path, options: recording_of(events, cuts))
    monkeypatch.setattr(reading, "KEPT_EVENTS", kept)
    return survey(Path("a.npz"), SIZE, DecodeOptions(), cut=cut)


def stable(events):
    return events[np.argsort(events["t"], kind="stable")]


cuts = st.lists(st.integers(1, 400), max_size=8)


@st.composite
def disordered(draw):
    """Draw times of a long recording in which some events are late by up to 9 ms."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    t = np.sort(rng.integers(0, 2_000_000, 400))
    late = rng.integers(0, 9_000, 400) * (rng.random(400) < draw(st.sampled_from([0, 0.1, 0.9])))
    return t[np.argsort(t + late, kind="stable")] + draw(st.sampled_from([0, -5_000, 2**50]))


@settings(deadline=None, max_examples=60)
@given(disordered(), cuts, st.booleans())
def test_chunks_in_the_order_of_time_are_the_sorted_whole(times, cuts, few):
    events = events_at(times)
    with pytest.MonkeyPatch.context() as patch:
        found = surveyed(events, cuts, patch, kept=0 if few else 1 << 23)
        stream = found.whole()
        chunks = [*stream.chunks()]
    np.testing.assert_array_equal(np.concatenate(chunks), stable(events))
    np.testing.assert_array_equal(mend(events)[0], stable(events))
    assert (stream.count, stream.span) == (400, (times.min(), times.max() + 1))
    late = np.sum(times < np.maximum.accumulate(times))
    assert len(found.clock.notes) == (late > 0)
    if late:
        text, where = found.clock.notes[0]
        worst = np.max(np.maximum.accumulate(times) - times)
        assert "time falls slightly" in text
        assert f"{late:,} events" in where
        at = int(where.rpartition(" ")[2].replace(",", ""))
        assert times[:at].max() - times[at] == worst


@settings(deadline=None, max_examples=60)
@given(disordered(), cuts, st.integers(3_000, 2_500_000), st.booleans(), st.randoms())
def test_pieces_are_read_from_any_place(times, cuts, every, few, random):
    events = events_at(times)
    first, last = times.min(), times.max()
    expected = {}
    for number in range(max((last + 1 - first) // every, 1)):
        start = first + number * every
        inside = stable(events[(times >= start) & (times < start + every)])
        if len(inside):
            expected[number] = inside
    with pytest.MonkeyPatch.context() as patch:
        pieces = surveyed(events, cuts, patch, cut=True, kept=0 if few else 1 << 23).pieces(every)
        assert pieces.numbers.tolist() == list(expected)
        assert pieces.empty == max((last + 1 - first) // every, 1) - len(expected)
        reader = Reader(Path("a.npz"), SIZE, DecodeOptions(), "us")
        order = list(range(len(expected)))
        if random.random() < 0.5:
            random.shuffle(order)
        for i in order:
            excerpt = Excerpt.of_row(pieces.rows[i].tolist())
            found = np.concatenate([*reader.excerpt(excerpt).chunks()])
            number = int(pieces.numbers[i])
            assert excerpt.span == (first + number * every, first + (number + 1) * every)
            np.testing.assert_array_equal(found, expected[number])


def test_too_many_pieces_are_refused(monkeypatch):
    monkeypatch.setattr(reading, "MAX_PIECES", 99)
    found = surveyed(events_at(np.arange(1000)), [], monkeypatch, cut=True)
    assert len(found.pieces(11).numbers) == 90
    with pytest.raises(InputError, match="1,000 us makes 100 samples of 10 us, more than 99"):
        found.pieces(10)


@st.composite
def restarted(draw):
    """Draw the times of parts with a clock each, which begins before the end of the one before."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 4))
    parts = []
    for _ in range(count):
        length = int(rng.integers(200_000, 900_000))
        parts.append(np.sort(rng.integers(0, length, int(rng.integers(150, 400)))))
    return parts


@settings(deadline=None, max_examples=60)
@given(restarted(), cuts, st.sampled_from([0, 1, 3]), st.sampled_from(["up", "down", "none"]))
def test_parts_follow_on_each_other_and_few_events_are_skipped(parts, cuts, left_over, wrong):
    """Left-over events before the first part, and wrong times inside it, are skipped."""
    total = sum(map(len, parts))
    expected, end = [], parts[0][0]
    for part in parts:
        expected.append(part - part[0] + end)
        end += part[-1] - part[0] + 1
    recorded = [part.copy() for part in parts]
    skipped = left_over
    if wrong != "none":
        far = {"up": 70_000_000, "down": -70_000_000}[wrong]
        recorded[0] = np.insert(recorded[0], 100, recorded[0][100] + far)
        skipped += 1
    if skipped * 100 > total:
        return  # too many to skip
    before = 600_000_000 + np.arange(left_over)
    events = events_at(np.concatenate([before, *recorded]))
    with pytest.MonkeyPatch.context() as patch:
        found = surveyed(events, cuts, patch, kept=0)
        chunks = [*found.whole().chunks()]
    times = np.concatenate(chunks)["t"]
    np.testing.assert_array_equal(times, np.concatenate(expected))
    mended, notes = mend(events)
    np.testing.assert_array_equal(mended, np.concatenate(chunks))
    assert notes == found.clock.notes
    texts = " ".join(text for text, _ in notes)
    assert ("skipped" in texts) == (skipped > 0)
    assert ("each part follows" in texts) == (len(parts) > 1)
    if len(parts) > 1:
        where = next(where for text, where in notes if "each part follows" in text)
        number = left_over + len(recorded[0])
        fall = recorded[0].max() if wrong == "none" else parts[0][-1]
        assert f"at event {number:,} time falls from {fall:,} to {parts[1][0]:,} us" in where


@settings(deadline=None, max_examples=30)
@given(restarted(), cuts, st.integers(50_000, 150_000))
def test_each_part_has_pieces_of_its_own(parts, cuts, every):
    events = events_at(np.concatenate(parts))
    starts = np.cumsum([0, *map(len, parts)])
    expected = []
    for start, part in zip(starts, parts, strict=False):
        own = events[start : start + len(part)]
        for number in range((part[-1] - part[0] + 1) // every):
            low = part[0] + number * every
            inside = own[(part >= low) & (part < low + every)]
            expected += [inside] if len(inside) else []
    with pytest.MonkeyPatch.context() as patch:
        pieces = surveyed(events, cuts, patch, cut=True, kept=0).pieces(every)
        reader = Reader(Path("a.npz"), SIZE, DecodeOptions(), "us")
        rows = [Excerpt.of_row(row) for row in pieces.rows.tolist()]
        found = [np.concatenate([*reader.excerpt(row).chunks()]) for row in rows]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("times", "noted"), [([7] * 100, True), ([7] * 99, False), ([7] * 99 + [8], False)]
)
def test_a_clock_that_stands_still_is_noted(monkeypatch, times, noted):
    """Frames of such a recording are no sequence; a few events may well have one time."""
    notes = surveyed(events_at(times), (), monkeypatch).clock.notes
    assert notes == [("all events have the same time", "7 us")] * noted


def test_a_jump_makes_no_empty_samples_and_is_noted(monkeypatch):
    half = np.sort(np.random.default_rng(0).integers(0, 1_000_000, 3000))
    half[[0, -1]] = 0, 999_999
    events = events_at(np.concatenate([half, half + 3_600_000_000]))
    found = surveyed(events, [2000], monkeypatch, cut=True)
    assert found.clock.notes == [
        (
            "time jumps forward",
            "at event 3,000 time jumps from 999,999 to 3,600,000,000 us, by 3,599 s",
        )
    ]
    pieces = found.pieces(100_000)
    assert pieces.numbers.tolist() == [*range(10), *range(36_000, 36_010)]
    assert pieces.empty == 35_990


def test_few_events_before_a_huge_jump_are_skipped(monkeypatch):
    rest = 600_000_000 + np.sort(np.random.default_rng(0).integers(0, 1_000_000, 5980))
    events = events_at(np.concatenate([np.arange(20), rest]))
    found = surveyed(events, [], monkeypatch)
    np.testing.assert_array_equal(np.concatenate([*found.whole().chunks()]), events[20:])
    ((text, where),) = found.clock.notes
    assert text == "time jumps forward, and the few events of the other time were skipped"
    assert where.startswith("20 events, 0.33 % of all; at event 20 time jumps from 19 to 600,")


def test_events_in_any_order_are_sorted_with_a_note(monkeypatch):
    times = np.random.default_rng(0).permutation(np.arange(0, 4_000_000, 10_000))
    events = events_at(times)
    found = surveyed(events, [100, 250], monkeypatch)
    np.testing.assert_array_equal(np.concatenate([*found.whole().chunks()]), stable(events))
    assert found.clock.notes[0][0] == "time falls again and again, and the events were sorted"


def test_more_disorder_than_fits_into_memory_is_refused(monkeypatch):
    events = events_at(np.random.default_rng(0).permutation(4000) * 10_000)
    monkeypatch.setattr(reading, "CARRIED_EVENTS", 1000)
    found = surveyed(events, range(0, 4000, 500), monkeypatch)
    with pytest.raises(InputError, match=r"time falls by up to .* sort the events by time"):
        [*found.whole().chunks()]


def test_times_since_1970_are_of_one_clock(monkeypatch):
    part = np.sort(np.random.default_rng(0).integers(0, 400_000, 900)) + 1_600_000_000_000_000
    events = events_at(np.concatenate([part, part]))
    found = surveyed(events, [300, 1200], monkeypatch)
    np.testing.assert_array_equal(np.concatenate([*found.whole().chunks()]), stable(events))
    ((text, where),) = found.clock.notes
    assert text == "time falls, and the events were sorted, since times since 1970 are of one clock"
    assert where.startswith("at event 900 time falls from ")


def test_mending_changes_no_input():
    events = events_at([600_000_000, *range(0, 3_000_000, 10_000)])
    before = events.copy()
    mended, notes = mend(events)
    np.testing.assert_array_equal(events, before)
    assert len(mended) == len(events) - (len(events) >= 100)
    assert notes
    one = make_events([1], [1], [5], [1])
    assert mend(one)[0] is one
    assert not len(mend(one[:0])[0])
