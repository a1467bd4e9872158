"""Tonic's transforms are read from text: only literals, and only those that a store may use."""

import numpy as np
import pytest
import tonic.transforms
from hypothesis import given, settings
from hypothesis import strategies as st

from eventdata.errors import InputError, OptionError
from eventdata.events import make_events
from eventdata.kernels.framing import Framing
from eventdata.raw.framed import FrameSettings
from eventdata.raw.transforms import TRANSFORMS, EventTransform

SIZE = (34, 20)


def some_events(count=300, seed=0, size=SIZE):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, size[0], count), rng.integers(0, size[1], count)
    return make_events(x, y, np.sort(rng.integers(0, 10_000, count)), rng.integers(0, 2, count))


CASES = [
    ("CenterCrop(size=(10, 8))", {"sensor_size": (*SIZE, 2), "size": (10, 8)}, (10, 8)),
    ("CenterCrop(size=12)", {"sensor_size": (*SIZE, 2), "size": 12}, (12, 12)),
    ("CropTime(min=500, max=5000)", {"min": 500, "max": 5000}, SIZE),
    ("Decimation(n=3)", {"n": 3}, SIZE),
    ("Denoise(filter_time=100)", {"filter_time": 100}, SIZE),
    ("Downsample(spatial_factor=0.5)", {"spatial_factor": 0.5}, (17, 10)),
    ("Downsample(spatial_factor=(0.3, 1))", {"spatial_factor": (0.3, 1)}, (10, 20)),
    (
        "Downsample(target_size=(11, 7))",
        {"sensor_size": (*SIZE, 2), "target_size": (11, 7)},
        (11, 7),
    ),
    ("Downsample(time_factor=0.001)", {"time_factor": 0.001}, SIZE),
    ("DropPixel(coordinates=[[1, 2], [3, 4]])", {"coordinates": [[1, 2], [3, 4]]}, SIZE),
    (
        "EventDownsampling(target_size=(17, 10), dt=0.5, downsampling_method='integrator', "
        "noise_threshold=1)",
        {
            "sensor_size": (*SIZE, 2),
            "target_size": (17, 10),
            "dt": 0.5,
            "downsampling_method": "integrator",
            "noise_threshold": 1,
        },
        (17, 10),
    ),
    ("RefractoryPeriod(delta=900)", {"delta": 900}, SIZE),
    ("TimeAlignment()", {}, SIZE),
    ("TimeSkew(coefficient=2.0, offset=7)", {"coefficient": 2.0, "offset": 7}, SIZE),
]


@pytest.mark.parametrize(("text", "theirs", "size"), CASES)
def test_events_are_those_of_tonic(text, theirs, size):
    events = some_events()
    before = events.copy()
    transform = EventTransform.parse(text)
    assert transform.sensor_after(SIZE) == size
    assert EventTransform.parse(str(transform)) == transform
    made = transform.apply(events, SIZE)
    expected = getattr(tonic.transforms, transform.name)(**theirs)(before.copy())
    assert 0 < len(made) == len(expected)
    for field in "xytp":
        np.testing.assert_array_equal(made[field], expected[field])
    np.testing.assert_array_equal(events, before)
    assert transform.changes_time or np.isin(made["t"], before["t"]).all()
    assert not len(transform.apply(events[:0], SIZE))


def test_every_offered_transform_is_tested():
    assert {case[0].partition("(")[0] for case in CASES} == set(TRANSFORMS)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.floats(0.01, 1))
def test_a_downsampled_sensor_just_holds_its_corner(side, factor):
    corner = make_events([side - 1], [0], [0], [1])
    transform = EventTransform.parse(f"Downsample(spatial_factor={factor})")
    width, height = transform.sensor_after((side, 1))
    made = transform.apply(corner, (side, 1))
    assert (made["x"][0], height) == (width - 1, 1)


def test_transforms_are_applied_in_order():
    chain = tuple(
        EventTransform.parse(text)
        for text in ("Downsample(spatial_factor=0.5)", "CenterCrop(size=(8, 8))")
    )
    made = FrameSettings(framing=Framing(frames=1), transforms=chain).sample_format(SIZE)
    assert (made.width, made.height) == (8, 8)
    events = some_events()
    for transform, size in zip(chain, (SIZE, (17, 10)), strict=True):
        events = transform.apply(events, size)
    assert events["x"].max() == events["y"].max() == 7


def test_nothing_of_the_last_sample_is_kept():
    transform = EventTransform.parse("CropTime(min=0)")  # Tonic keeps the first sample's end
    assert len(transform.apply(some_events(5), SIZE)) == 5
    assert len(transform.apply(some_events(300), SIZE)) == 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Denoise", "write it as Name"),
        ("Denoise(100)", "write it as Name"),
        ("Denoise(filter_time=print(1))", "write it as Name"),
        ("Denoise(filter_time=__import__('os'))", "write it as Name"),
        ("Denoise(**{'filter_time': 1})", "missing a required argument"),
        ("os.system(command='true')", "write it as Name"),
        ("Denoise(filter_time=1); 1", "write it as Name"),
        ("", "write it as Name"),
        ("(" * 5000, "write it as Name"),
        ("ToFrame(sensor_size=None)", "frames have options"),
        ("DropEvent(p=0.5)", "Random ones belong to training"),
        ("Nonsense()", "Nonsense is not supported"),
        ("Denoise()", "missing a required argument: 'filter_time'"),
        ("Denoise(filter_time=9, time=1)", "unexpected keyword"),
        ("RefractoryPeriod(delta=(0, 100))", "makes it random; pass a number"),
        ("TimeSkew(coefficient=[0.5, 2])", "makes it random; pass a number"),
    ],
)
def test_other_texts_are_refused(text, message):
    with pytest.raises(OptionError, match=message):
        EventTransform.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Denoise(filter_time='long')", "fails"),
        ("Decimation(n=0)", "fails"),
        ("TimeSkew(coefficient=1e300)", "fails"),
        ("TimeSkew(coefficient=3e14)", "out of range"),
        ("Downsample(sensor_size=(10, 10, 2), target_size=(5, 5))", "after Downsample.* 5x5"),
    ],
)
def test_a_transform_that_fails_is_an_error_of_the_sample(text, message):
    with pytest.raises(InputError, match=message):
        EventTransform.parse(text).apply(some_events(), SIZE)


@pytest.mark.parametrize(
    "text", ["CenterCrop(size='a')", "Downsample(spatial_factor='a')", "CenterCrop(size=0)"]
)
def test_a_transform_must_leave_a_sensor(text):
    with pytest.raises(OptionError, match="--transform"):
        EventTransform.parse(text).sensor_after(SIZE)
