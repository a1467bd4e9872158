"""Compare framing with plain NumPy and, where Tonic is right, with its ToFrame.

Each test of the second half names a case in which Tonic is wrong. It asserts what Tonic does, so
that a corrected Tonic shows, and what we do. Frames are dense counts (T, P, H, W). Channel 0 is
positive here; Tonic's channel is p, so its channels are reversed.
"""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from tonic.transforms import ToFrame

from eventdata.errors import InputError, OptionError
from eventdata.events import EVENT_DTYPE, check_events, make_events
from eventdata.formats.recording import read_events
from eventdata.kernels.framing import (
    MAX_FRAMES,
    FrameEdges,
    Framing,
    frame_chunks,
    frame_edges,
    frame_events,
)
from eventdata.kernels.representations import REPRESENTATIONS, Axis

W, H = 7, 5
RECORDINGS = [
    "DVS128-2017-03-21-short.aedat",
    "davis.aedat4",
    "dvs.es",
    "evt2_sample.raw",
    "faces_easy_0001.bin",
    "sample.aedat4",
    "sample_ncars.dat",
    "sample_nmnist.bin",
]


def events_at(times, seed=0):
    """Return random events on the small sensor at these times."""
    rng = np.random.default_rng(seed)
    n = len(times)
    return make_events(
        rng.integers(0, W, n), rng.integers(0, H, n), times, rng.integers(0, 2, n), (W, H)
    )


def ours(events, size=(W, H), **options):
    """Return counts (T, P, H, W) in int64, made by the kernels."""
    framing = Framing(**options, representation="count")
    steps = len(frame_edges(events["t"], framing).start)
    out = np.full((steps, size[1], size[0], framing.polarities), 99, np.int64)
    total, _ = frame_events(events, framing, out)
    assert total == out.sum()
    return np.moveaxis(out, -1, 1)


def tonics(events, size=(W, H), **options):
    """Return ToFrame's frames with channel 0 as positive."""
    return ToFrame(sensor_size=(*size, 2), **options)(events.copy())[:, ::-1]


def plain_frames(events, slices):
    """Count the events of each mask with numpy.add.at, (T, P, H, W)."""
    frames = np.zeros((len(slices), 2, H, W), np.int64)
    for step, mask in enumerate(slices):
        chosen = events[mask]
        np.add.at(frames, (step, 1 - chosen["p"].astype(int), chosen["y"], chosen["x"]), 1)
    return frames


def window_masks(ticks, end, size, stride, include_incomplete):
    """Return masks of the windows of [0, end): the first, then all that fit."""
    starts = [0]
    while True:
        start = starts[-1] + stride
        covered = starts[-1] + size >= end
        if covered or (start + size > end and not include_incomplete):
            return [(ticks >= start) & (ticks < start + size) for start in starts]
        starts.append(start)


def bin_masks(ticks, end, bins, overlap):
    """Return masks of equal bins of [0, end) with rounded edges, lengthened by the overlap."""
    width = Fraction(max(end, bins), bins)
    longer = math.floor(Fraction(str(overlap)) * width)
    edges = [math.floor(i * width) for i in range(bins + 1)]
    return [(ticks >= edges[i]) & (ticks < edges[i + 1] + longer) for i in range(bins)]


times = st.lists(st.integers(0, 60), max_size=40).map(sorted)
offsets = st.sampled_from([0, -7, 1_605_537_493_718_345])


@st.composite
def framings(draw):
    rule = draw(st.sampled_from(["frames", "n_event_bins", "window", "events_per_frame"]))
    options = {rule: draw(st.integers(1, 20))}
    if rule in ("window", "events_per_frame"):
        options["overlap"] = draw(st.integers(0, options[rule] - 1))
        options["include_incomplete"] = draw(st.booleans())
        options["steps"] = draw(st.none() | st.integers(1, 12))
    else:
        options["overlap"] = draw(st.sampled_from([0, 0.1, 0.3, 0.5, 0.99]))
    options["merge_polarities"] = draw(st.booleans())
    return options


def plain_framing(events, options, span=None):
    """Return frames by plain NumPy, and the number of frames that ``steps`` cut."""
    n = len(events)
    by_time = "frames" in options or "window" in options
    ticks = events["t"] - events["t"][:1] if by_time else np.arange(n)
    end = int(ticks[-1]) + 1 if n else 0
    if by_time and span is not None:
        ticks, end = events["t"] - span[0], span[1] - span[0]
    size = options.get("window") or options.get("events_per_frame")
    if size is None:
        bins = options.get("frames") or options.get("n_event_bins")
        frames = plain_frames(events, bin_masks(ticks, end, bins, options["overlap"]))
        wanted = bins
    else:
        stride = size - options["overlap"]
        masks = window_masks(ticks, end, size, stride, options["include_incomplete"])
        frames = plain_frames(events, masks)
        wanted = options["steps"] or len(frames)
    cut = max(len(frames) - wanted, 0)
    frames = np.concatenate([frames, np.zeros((max(wanted - len(frames), 0), 2, H, W), int)])
    if options["merge_polarities"]:
        frames = frames.sum(axis=1, keepdims=True)
    return frames[:wanted], cut


@settings(deadline=None, max_examples=200)
@given(times, offsets, framings())
def test_frames_equal_plain_numpy(ticks, offset, options):
    events = events_at(np.array(ticks, np.int64) + offset)
    expected, cut = plain_framing(events, options)
    np.testing.assert_array_equal(ours(events, **options), expected)

    framing = Framing(**options)
    edges = frame_edges(events["t"], framing)
    assert edges.frames_cut == cut
    assert framing.fixed_steps in (None, len(edges.start))
    inside = np.zeros(len(events), bool)
    for start, stop in zip(edges.start, edges.stop, strict=True):
        inside[start:stop] = True
    assert edges.events_skipped == np.sum(~inside)

    packed = np.full((-(-len(expected) // 8), H, W, framing.polarities), 255, np.uint8)
    cells, _ = frame_events(events, framing, packed)
    binary = np.moveaxis((expected > 0).astype(np.uint8), 1, -1)
    np.testing.assert_array_equal(packed, np.packbits(binary, axis=0))
    assert cells == binary.sum()


@settings(deadline=None, max_examples=200)
@given(times, offsets, framings(), st.integers(0, 9), st.integers(1, 80))
def test_a_span_of_known_length_is_framed_with_any_events(ticks, offset, options, lead, length):
    span = (offset + lead, offset + lead + length)
    events = events_at(np.array([t for t in ticks if lead <= t < lead + length], int) + offset)
    expected, _ = plain_framing(events, options, span)
    framing = Framing(**options, representation="count")
    if framing.window is not None or framing.fixed_steps is not None:
        assert framing.steps_in(length) == len(expected)
    else:
        assert framing.steps_in(length) is None
    out = np.full((len(expected), H, W, framing.polarities), 99, np.int64)
    total, _ = frame_events(events, framing, out, span)
    assert total == out.sum()
    np.testing.assert_array_equal(np.moveaxis(out, -1, 1), expected)


@settings(deadline=None, max_examples=200)
@given(
    times,
    offsets,
    framings(),
    st.sampled_from([*REPRESENTATIONS]),
    st.none() | st.tuples(st.integers(0, 9), st.integers(1, 80)),
    st.lists(st.integers(0, 40), max_size=5).map(sorted),
)
def test_chunks_of_any_size_give_the_frames_of_the_whole(
    ticks, offset, options, representation, span, cuts
):
    if span is not None:
        ticks = [t for t in ticks if span[0] <= t < sum(span)]
        span = (offset + span[0], offset + sum(span))
    events = events_at(np.array(ticks, np.int64) + offset)
    try:
        framing = Framing(**options, representation=representation)
    except OptionError:  # frames that this representation can't have
        reject()
    steps = len(frame_edges(events["t"], framing, span).start)
    shape = (framing.kind.planes(steps), H, W, framing.polarities)
    whole, parts = np.full((2, *shape), 99, framing.kind.dtypes[0])
    total, plan = frame_events(events, framing, whole, span)
    chunks = [events[slice(*pair)] for pair in pairwise([0, *cuts, len(events)])]
    assert frame_chunks(chunks, plan, framing, parts) == total
    np.testing.assert_array_equal(parts, whole)


@settings(deadline=None, max_examples=150)
@given(times.filter(len), st.integers(1, 12), st.data())
def test_windows_of_time_equal_tonic_and_the_one_it_drops(ticks, window, data):
    overlap, incomplete = data.draw(st.integers(0, window - 1)), data.draw(st.booleans())
    events = events_at(ticks)
    mine = ours(events, window=window, overlap=overlap, include_incomplete=incomplete)
    other = tonics(events, time_window=window, overlap=overlap, include_incomplete=incomplete)
    np.testing.assert_array_equal(mine[: len(other)], other)
    # Tonic measures from the first event to the last and forgets that the last takes a tick too.
    rest = ticks[-1] - ticks[0] - window
    dropped = rest >= 0 and (rest if incomplete else rest + 1) % (window - overlap) == 0
    assert len(mine) == len(other) + dropped


@settings(deadline=None, max_examples=100)
@given(times.filter(len), st.integers(1, 12), st.data())
def test_windows_of_events_equal_tonic(ticks, count, data):
    overlap, incomplete = data.draw(st.integers(0, count - 1)), data.draw(st.booleans())
    events = events_at(ticks)
    np.testing.assert_array_equal(
        ours(events, events_per_frame=count, overlap=overlap, include_incomplete=incomplete),
        tonics(events, event_count=count, overlap=overlap, include_incomplete=incomplete),
    )


@settings(deadline=None, max_examples=100)
@given(times, st.integers(2, 9), st.integers(1, 9))
def test_bins_that_divide_the_time_equal_tonic(ticks, bins, width):
    span = bins * width
    events = events_at(sorted([0, *(tick for tick in ticks if tick < span), span]))
    mine, other = ours(events, frames=bins), tonics(events, n_time_bins=bins)
    np.testing.assert_array_equal(mine[:-1], other[:-1])
    last = plain_frames(events, [events["t"] == span])[0]  # Tonic's bins end before the last tick
    np.testing.assert_array_equal(mine[-1], other[-1] + last)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 9), st.integers(1, 9))
def test_bins_that_divide_the_number_of_events_equal_tonic(bins, each):
    events = events_at(range(bins * each))
    np.testing.assert_array_equal(
        ours(events, n_event_bins=bins), tonics(events, n_event_bins=bins)
    )


@pytest.mark.parametrize("name", RECORDINGS)
def test_frames_of_real_recordings_equal_tonic(shared, name):
    events, size = read_events(shared / "recordings" / name)
    ticks = events["t"] - events["t"][0]
    window, overlap = next(  # one at which Tonic drops nothing, see above
        (window, window // 3)
        for window in range(int(ticks[-1]) // 12, int(ticks[-1]))
        if all((ticks[-1] - window + i) % (window - window // 3) for i in (0, 1))
    )
    for incomplete in (False, True):
        options = {"overlap": overlap, "include_incomplete": incomplete}
        mine = ours(events, size, window=window, **options)
        np.testing.assert_array_equal(mine, tonics(events, size, time_window=window, **options))
    each = len(events) // 12
    mine = ours(events, size, events_per_frame=each)
    np.testing.assert_array_equal(mine, tonics(events, size, event_count=each))
    whole = events[: each * 12]
    mine = ours(whole, size, n_event_bins=12)
    np.testing.assert_array_equal(mine, tonics(whole, size, n_event_bins=12))

    # Take events up to one that lies on the edge of ten bins, which Tonic drops.
    whole = events[: np.flatnonzero(ticks % 10 == 0)[-1] + 1]
    mine = ours(whole, size, frames=10)
    assert mine.sum() == len(whole)
    last = np.flatnonzero(whole["t"] == whole["t"][-1])
    x, y, p = (whole[field][last] for field in "xyp")
    np.subtract.at(mine, (9, 1 - p.astype(int), y, x), 1)
    np.testing.assert_array_equal(mine, tonics(whole, size, n_time_bins=10))


# Cases in which Tonic 1.7 is wrong.


def test_last_step_is_kept():
    events = events_at(range(1, 9))
    for incomplete in (False, True):
        options = {"include_incomplete": incomplete}
        assert len(tonics(events, time_window=1, **options)) == 7
        mine = ours(events, window=1, **options)
        np.testing.assert_array_equal(mine, plain_frames(events, events["t"] == np.c_[1:9]))


def test_last_event_is_kept_in_an_incomplete_window():
    events = events_at([0, 40, 100])
    assert tonics(events, time_window=50, include_incomplete=True).sum() == 2
    assert ours(events, window=50, include_incomplete=True).sum() == 3


def test_integer_steps_are_binned():
    events = events_at(range(1, 9))
    assert tonics(events, n_time_bins=8).sum() == 0
    np.testing.assert_array_equal(
        ours(events, frames=8), plain_frames(events, events["t"] == np.c_[1:9])
    )
    assert tonics(events, n_time_bins=4).sum(axis=(1, 2, 3)).tolist() == [1, 1, 1, 1]
    assert ours(events, frames=4).sum(axis=(1, 2, 3)).tolist() == [2, 2, 2, 2]


def test_bins_cover_the_sample_to_its_end():
    events = events_at(range(30))  # 30 / 8 = 3.75 steps per bin, by Tonic's own documentation
    assert tonics(events, n_time_bins=8).sum(axis=(1, 2, 3)).tolist() == [3] * 8
    assert ours(events, frames=8).sum(axis=(1, 2, 3)).tolist() == [3, 4, 4, 4, 3, 4, 4, 4]
    assert tonics(events, n_event_bins=8).sum(axis=(1, 2, 3)).tolist() == [3] * 8
    assert ours(events, n_event_bins=8).sum() == 30


def test_overlap_lengthens_bins_and_leaves_them_in_place():
    events = events_at(range(80))
    events["x"] = np.where(events["t"] < 64, 0, 1)
    # Tonic advances by the bin minus the overlap, so that its eight bins end at 61 or 64 of 80.
    for theirs, mine in (("n_time_bins", "frames"), ("n_event_bins", "n_event_bins")):
        assert not tonics(events, overlap=0.5, **{theirs: 8})[..., 1].any()
        assert ours(events, overlap=0.5, **{mine: 8})[..., 1].any()
    edges = frame_edges(events["t"], Framing(frames=8, overlap=0.5))
    assert edges.start.tolist() == [0, 10, 20, 30, 40, 50, 60, 70]
    assert edges.stop.tolist() == [15, 25, 35, 45, 55, 65, 75, 80]
    same = frame_edges(events["t"], Framing(n_event_bins=8, overlap=0.5))
    np.testing.assert_array_equal(same.stop, edges.stop)
    third = frame_edges(events["t"], Framing(frames=8, overlap=0.3))
    assert third.stop[0] == 13  # 0.3 of 10, although 0.3 is slightly less as a float


METHODS = [
    ({"window": 10}, {"time_window": 10}, 1),
    ({"events_per_frame": 10}, {"event_count": 10}, 1),
    ({"frames": 3}, {"n_time_bins": 3}, 3),
    ({"n_event_bins": 3}, {"n_event_bins": 3}, 3),
]


@pytest.mark.parametrize(("mine", "other", "steps"), METHODS)
def test_no_events_give_frames_of_the_usual_shape(mine, other, steps):
    events = events_at([])
    wrong = tonics(events, **other)
    assert (wrong.shape, wrong.dtype) == ((steps, 2, W, H), np.float64)
    frames = ours(events, **mine)
    assert frames.shape == (steps, 2, H, W)
    assert not frames.any()


@pytest.mark.parametrize(("mine", "other", "steps"), METHODS)
def test_one_event_is_in_the_first_frame(mine, other, steps):
    events = events_at([12345])
    assert tonics(events, **other).sum() == (1 if steps == 1 else 0)  # Tonic's bins lose it
    frames = ours(events, **mine)
    assert frames.shape == (steps, 2, H, W)
    assert frames[0].sum() == frames.sum() == 1


def test_counts_do_not_wrap():
    n = 40_000
    events = make_events([1] * n, [2] * n, range(n), [1] * n, (W, H))
    assert tonics(events, n_event_bins=1)[0, 0, 2, 1] == n - 65_536
    framing = Framing(events_per_frame=n, representation="count")
    out = np.empty((1, H, W, 2), np.uint16)
    assert frame_events(events, framing, out)[0] == n
    assert out[0, 2, 1].tolist() == [n, 0]
    for kind, limit in (("u1", 255), ("i2", 32_767)):
        with pytest.raises(InputError, match=rf"x=1, y=2 has more events .* \({limit}\)"):
            frame_events(events, framing, np.empty((1, H, W, 2), kind))
    some = Framing(events_per_frame=255, steps=3, representation="count", merge_polarities=True)
    out = np.empty((3, H, W, 1), np.uint8)
    assert frame_events(events, some, out)[0] == 765  # a full count does not overflow
    assert out[:, 2, 1, 0].tolist() == [255] * 3


def test_polarities_of_minus_one_are_negative():
    signed = np.dtype([("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "i1")])
    events = np.array([(1, 1, 0, -1), (2, 2, 1, 1)], signed)
    merged = ToFrame(sensor_size=(W, H, 2), event_count=2)(events)
    assert merged[0, 1].sum() == 2  # index -1 is the last channel
    assert ours(check_events(events, (W, H)), events_per_frame=2).sum(axis=(2, 3)).tolist() == [
        [1, 1]
    ]


def test_coordinates_off_the_sensor_are_refused():
    events = np.array([(-1, 1, 0, 1)], EVENT_DTYPE)
    assert tonics(events, event_count=1)[0, 0, 1, W - 1] == 1  # -1 would wrap around
    for column in ("x", "y"):
        for value in (-1, W, 32_767):
            bad = events_at(range(4))
            bad[column][2] = value
            for representation, planes in (("binary", 1), ("count", 2)):
                framing = Framing(frames=2, representation=representation)
                with pytest.raises(InputError, match="event 2 lies at"):
                    frame_events(bad, framing, np.empty((planes, H, W, 2), np.uint8))


def test_the_callers_events_stay_unchanged():
    events = events_at(range(20))
    before = events.copy()
    positive = events[events["p"]]
    ToFrame(sensor_size=(W, H, 1), event_count=2)(positive)
    assert not positive["p"].any()  # Tonic clears the polarity in place
    ours(events, frames=4, merge_polarities=True)
    np.testing.assert_array_equal(events, before)


# Edges and options.


def test_times_beyond_float_precision_are_exact():
    start = 2**60 + 1
    events = events_at(np.array([0, 9, 10, 19, 20], np.int64) + start)
    assert frame_edges(events["t"], Framing(window=10)).stop.tolist() == [2, 4]
    edges = frame_edges(events["t"], Framing(window=10, include_incomplete=True))
    assert edges.start.tolist() == [0, 2, 4]


def test_steps_pad_and_cut_and_report_it():
    events = events_at(range(25))
    padded = frame_edges(events["t"], Framing(window=10, steps=4))
    assert padded.start.tolist() == [0, 10, 25, 25]
    assert padded.stop.tolist() == [10, 20, 25, 25]
    assert (padded.frames_cut, padded.events_skipped) == (0, 5)
    cut = frame_edges(events["t"], Framing(events_per_frame=4, steps=2))
    assert cut.stop.tolist() == [4, 8]
    assert (cut.frames_cut, cut.events_skipped) == (4, 17)


def test_a_damaged_time_stamp_does_not_fill_the_memory():
    events = events_at([0, 1, 2**60])
    with pytest.raises(InputError, match="more than 65,536"):
        frame_edges(events["t"], Framing(window=1))
    assert frame_edges(events["t"], Framing(window=1, steps=4)).frames_cut == 2**60 + 1 - 4
    assert frame_edges(events["t"], Framing(window=2**80)).stop.tolist() == [3]
    assert frame_edges(events["t"], Framing(frames=MAX_FRAMES)).stop[-1] == 3


def test_strided_events_give_the_same_frames():
    events = events_at(range(40))
    out = np.empty((2, 2, H, W, 2), np.uint8)
    frame_events(np.repeat(events, 2)[::2], Framing(frames=9), out[0])
    frame_events(events, Framing(frames=9), out[1])
    np.testing.assert_array_equal(out[0], out[1])


def test_wrong_arguments_stop_before_the_kernel():
    events = events_at(range(8))
    edges = frame_edges(events["t"], Framing(frames=9))
    for shape in [(1, H, W, 2), (2, H, W, 3), (2, H, W)]:
        with pytest.raises(ValueError, match="out is"):
            frame_events(events, Framing(frames=9), np.empty(shape, np.uint8))
    bad = [edges._replace(stop=edges.stop + 1), edges._replace(start=edges.start - 1)]
    for wrong in bad:
        assert isinstance(wrong, FrameEdges)
        for representation, planes in (("binary", 2), ("count", 9)):
            out = np.empty((planes, H, W, 2), np.uint8)
            frames = REPRESENTATIONS[representation].begin(out, Axis(0, 1.0, wrong.stop, 1.0))
            with pytest.raises(ValueError, match="has other events than the 8 given"):
                frames.add(events, wrong.start, wrong.stop, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one .* not none"),
        ({"frames": 2, "window": 3}, "exactly one .* not frames and window"),
        ({"frames": 0}, "frames is 0"),
        ({"window": 0.5}, "window is 0.5"),
        ({"events_per_frame": True}, "events_per_frame is True"),
        ({"window": 5, "steps": 0}, "steps is 0"),
        ({"frames": MAX_FRAMES + 1}, "choose 1 to 65536"),
        ({"window": 5, "steps": MAX_FRAMES + 1}, "choose 1 to 65536"),
        ({"window": 5, "overlap": 5}, "from 0 to 4"),
        ({"window": 5, "overlap": 0.5}, "whole number from 0 to 4"),
        ({"frames": 5, "overlap": 1}, "a fraction of a frame"),
        ({"frames": 5, "overlap": float("nan")}, "overlap is nan, not a"),
        ({"n_event_bins": 5, "include_incomplete": True}, "need --window"),
        ({"frames": 5, "steps": 3}, "need --window"),
        ({"frames": 5, "representation": "sum"}, "choose binary, count"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        Framing(**options)
