"""Compare voxel grids and time surfaces with plain NumPy and, where Tonic is right, with Tonic.

Frames are (T, P, H, W). Channel 0 is positive here; Tonic's channel is p.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tonic.functional import to_timesurface_numpy, to_voxel_grid_numpy

from eventdata.errors import InputError, OptionError
from eventdata.events import make_events
from eventdata.kernels.framing import DEFAULT_TAU, Framing, frame_edges, frame_events
from eventdata.kernels.representations import REPRESENTATIONS
from tests.kernels.test_framing import H, W, events_at, offsets, times

TONIC = np.dtype([("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "i1")])


def ours(events, representation, span=None, dtype=np.float64, **options):
    """Return frames (T, P, H, W) and the event count, made by the kernels."""
    framing = Framing(representation=representation, **options)
    steps = len(frame_edges(events["t"], framing, span).start)
    planes = framing.kind.planes(steps)
    out = np.full((planes, H, W, framing.polarities), 99, dtype)
    total, _ = frame_events(events, framing, out, span)
    return np.moveaxis(out, -1, 1), total


def plain_voxel(events, steps, first, length):
    """Add every event to every step, with weight 1 - |step - its time in frames| above 0."""
    grid = np.zeros((steps, 1, H, W))
    for x, y, t, p in events[["x", "y", "t", "p"]].tolist():
        for step in range(steps):
            weight = max(0, 1 - abs(step - (t - first) / length))
            grid[step, 0, y, x] += weight if p else -weight
    return grid


def plain_surface(events, ends, tau, merged=False):
    """Return exp(-(end - last) / tau) for the last event before each end, 0 without one."""
    surface = np.zeros((len(ends), 1 if merged else 2, H, W))
    for step, end in enumerate(ends):
        last = {}
        for x, y, t, p in events[["x", "y", "t", "p"]].tolist():
            if t < end:
                last[0 if p or merged else 1, y, x] = t
        for place, t in last.items():
            surface[step][place] = np.exp(-(end - t) / tau)
    return surface


def for_tonic(events):
    return np.array(events[["x", "y", "t", "p"]].tolist(), TONIC)


@settings(deadline=None, max_examples=100)
@given(times, offsets, st.integers(1, 12))
def test_voxel_grids_equal_plain_numpy(ticks, offset, steps):
    events = events_at(np.array(ticks, np.int64) + offset)
    frames, total = ours(events, "voxel", frames=steps)
    t = events["t"].tolist() or [0]
    expected = plain_voxel(events, steps, t[0], max(t[-1] - t[0], 1) / steps)
    np.testing.assert_allclose(frames, expected, atol=1e-9)
    assert total == len(events)


@settings(deadline=None, max_examples=100)
@given(times, st.integers(1, 9), st.integers(1, 12), st.booleans())
def test_voxel_grids_of_windows_equal_plain_numpy(ticks, window, steps, incomplete):
    events = events_at(ticks)
    frames, total = ours(events, "voxel", window=window, steps=steps, include_incomplete=incomplete)
    first, end = (ticks[0], ticks[-1] + 1) if ticks else (0, 0)
    whole = max((end - first) // window, 1)
    kept = min(steps, max(-(-(end - first) // window), 1) if incomplete else whole)
    inside = events[events["t"] < first + kept * window]
    np.testing.assert_allclose(frames, plain_voxel(inside, steps, first, window), atol=1e-9)
    assert total == len(inside)


@settings(deadline=None, max_examples=100)
@given(times.filter(lambda ticks: len(set(ticks)) > 1), offsets, st.integers(1, 12))
def test_voxel_grids_equal_tonic(ticks, offset, steps):
    events = events_at(np.array(ticks, np.int64) + offset)
    expected = to_voxel_grid_numpy(for_tonic(events), (W, H, 2), steps)
    frames, _ = ours(events, "voxel", frames=steps)
    np.testing.assert_allclose(frames, expected, atol=1e-9)
    stored, _ = ours(events, "voxel", frames=steps, dtype=np.float16)
    np.testing.assert_allclose(stored, expected, rtol=2e-3, atol=1e-6)


def test_where_tonics_voxel_grids_are_wrong():
    single = make_events([1, 2], [1, 1], [5, 5], [1, 0], (W, H))
    with np.errstate(invalid="ignore"), pytest.raises(IndexError):
        to_voxel_grid_numpy(for_tonic(single), (W, H, 2), 2)  # it divides by the length of 0
    frames, _ = ours(single, "voxel", frames=2)
    assert frames[0, 0, 1, :3].tolist() == [0, 1, -1]
    events = events_at(range(20))
    flags = np.array(events[["x", "y", "t", "p"]].tolist(), [*TONIC.descr[:3], ("p", "?")])
    before = flags.copy()
    assert (to_voxel_grid_numpy(flags, (W, H, 2), 4) >= 0).all(), "False becomes True, not -1"
    assert flags["p"].all(), "and the caller's polarities are overwritten"
    frames, _ = ours(events, "voxel", frames=4)
    assert (frames < 0).any()
    assert events["p"].tolist() == before["p"].tolist()


@settings(deadline=None, max_examples=100)
@given(times, offsets, st.integers(1, 12), st.integers(1, 90), st.booleans())
def test_time_surfaces_equal_plain_numpy(ticks, offset, steps, tau, merged):
    events = events_at(np.array(ticks, np.int64) + offset)
    frames, total = ours(
        events, "timesurface", frames=steps, tau=tau, merge_polarities=merged, dtype=np.float32
    )
    first = int(events["t"][0]) if ticks else 0
    span = max(int(events["t"][-1]) + 1 - first, 1) if ticks else 1
    ends = [min(first + (i + 1) * max(span, steps) // steps, first + span) for i in range(steps)]
    np.testing.assert_allclose(frames, plain_surface(events, ends, tau, merged), rtol=1e-6)
    assert total == len(events)


@settings(deadline=None, max_examples=100)
@given(times.filter(len), st.integers(1, 12), st.integers(1, 9), st.data())
def test_time_surfaces_of_windows_equal_plain_numpy(ticks, window, steps, data):
    overlap = data.draw(st.integers(0, window - 1))
    events = events_at(ticks)
    frames, total = ours(
        events, "timesurface", window=window, overlap=overlap, steps=steps, tau=20, dtype=np.float32
    )
    stride, span = window - overlap, ticks[-1] + 1 - ticks[0]
    kept = min(max((span - window) // stride + 1, 1), steps)
    ends = [ticks[0] + i * stride + window for i in range(kept)]
    np.testing.assert_allclose(frames[:kept], plain_surface(events, ends, 20), rtol=1e-6)
    assert not frames[kept:].any(), "padding is empty"
    assert total == np.sum(events["t"] < ends[-1])


@settings(deadline=None, max_examples=60)
@given(times.filter(len), st.integers(1, 12), st.integers(1, 90))
def test_time_surfaces_equal_tonic(ticks, window, tau):
    ticks = [*ticks, ticks[-1] + window]  # Tonic needs one whole window
    events = events_at(ticks)
    expected = to_timesurface_numpy(for_tonic(events), (W, H, 2), window, tau)
    frames, _ = ours(events, "timesurface", window=window, tau=tau)
    np.testing.assert_allclose(frames[: len(expected)], expected[:, ::-1], rtol=1e-5)
    assert len(frames) - len(expected) in (0, 1), "Tonic omits a window that ends with the events"


def test_where_tonics_time_surfaces_are_wrong():
    events = make_events([1, 2], [1, 1], [0, 30], [1, 1], (W, H))
    tonics = to_timesurface_numpy(for_tonic(events), (W, H, 2), 20, 10.0, overlap=10)
    frames, _ = ours(events, "timesurface", window=20, overlap=10, tau=10)
    assert tonics[1, 1, 1, 1] == pytest.approx(np.exp(-4)), "window 1 ends at 30, not at 40"
    assert frames[1, 0, 1, 1] == pytest.approx(np.exp(-3), rel=1e-5)
    assert (tonics.max() <= 1) & (frames.max() <= 1)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_stored_frames_have_no_faults_but_others_do(representation):
    events = events_at(range(60))
    kind = REPRESENTATIONS[representation]
    frames, total = ours(events, representation, frames=5, dtype=kind.dtypes[0])
    packed = np.ascontiguousarray(np.moveaxis(frames, 1, -1))
    assert not list(kind.faults(packed, 5, total))
    assert list(kind.faults(packed, 5, 0))
    for value in (np.nan, np.inf, -2000):
        if kind.dtypes[0] == "float16":
            packed[0, 0, 0, 0] = value
            assert list(kind.faults(packed, 5, total)), value


def test_a_voxel_that_float16_does_not_hold_is_an_error():
    n = 70_000
    events = make_events([1] * n, [2] * n, [0] * (n - 1) + [9], [0] * n, (W, H))
    with pytest.raises(InputError, match=r"x=1, y=2 add up to -69,999 .* float16 holds \(65,504\)"):
        ours(events, "voxel", frames=2, dtype=np.float16)


@pytest.mark.parametrize("representation", ["voxel", "timesurface"])
def test_events_off_the_sensor_are_refused(representation):
    events = events_at(range(8))
    events["x"][5] = W
    with pytest.raises(InputError, match=f"event 5 lies at x={W}"):
        ours(events, representation, frames=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"representation": "voxel", "n_event_bins": 3}, "voxel depends on times.*pass --frames"),
        ({"representation": "timesurface", "events_per_frame": 3}, "timesurface depends on times"),
        ({"representation": "voxel", "frames": 3, "merge_polarities": True}, "remove --merge-pol"),
        ({"representation": "voxel", "frames": 3, "overlap": 0.5}, "remove --overlap"),
        ({"representation": "voxel", "frames": 3, "tau": 5}, "--tau needs .* timesurface"),
        ({"representation": "timesurface", "frames": 3, "tau": 0}, "tau is 0: choose at least 1"),
        ({"representation": "grid", "frames": 3}, "'grid': choose binary, count, voxel, timesur"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        Framing(**options)


def test_the_default_of_tau_is_documented():
    events = events_at(range(60))
    named, _ = ours(events, "timesurface", frames=3, tau=DEFAULT_TAU)
    np.testing.assert_array_equal(ours(events, "timesurface", frames=3)[0], named)
