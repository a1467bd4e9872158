"""Compare video events with the published files and with plain NumPy."""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from eventdata.errors import InputError, OptionError
from eventdata.kernels.counter import philox
from eventdata.kernels.differences import level_percentiles
from eventdata.kernels.video import (
    VideoSettings,
    clip_events,
    clip_frames,
    frame_indices,
    thresholds,
)

U8 = NDArray[np.uint8]


def plain_thresholds(grey: U8, ratio: float) -> tuple[float, float]:
    change = np.diff(grey / 255.0, axis=0)
    low, high = np.percentile(change, [50 * ratio, 100 - 50 * ratio])
    return float(low), float(high)


def plain_events(grey: U8, video: VideoSettings, name: str) -> U8:
    """Return (P, T, H, W) for each mode by whole arrays."""
    change = np.diff(grey / 255.0, axis=0)
    low, high = plain_thresholds(grey, video.event_ratio)
    if video.mode == 1:
        return np.stack([change > high, change < low]).astype(np.uint8)
    rng = np.random.default_rng([video.seed, *hashlib.sha256(name.encode()).digest()])
    drawn = np.zeros(change.shape)
    beyond = np.abs(change) > video.least  # thresholds are not nearer to zero
    drawn[beyond] = video.sigma * rng.standard_normal(beyond.sum())
    upper = np.maximum(high + drawn, video.least)
    lower = np.minimum(low + drawn, -video.least)
    return np.stack([change > upper, change < lower]).astype(np.uint8)


def plain_philox(*counter: Any, key: Any) -> list[Any]:
    """Return the four words of counters, arrays, by ten rounds of Philox4x32."""
    a, b, c, d = np.broadcast_arrays(*(np.asarray(word, np.uint64) for word in counter))
    for turn in range(10):
        e = (int(key[0]) + turn * 0x9E3779B9) % 2**32
        f = (int(key[1]) + turn * 0xBB67AE85) % 2**32
        (high_a, low_a), (high_c, low_c) = (
            np.divmod(np.uint64(factor) * word, np.uint64(2**32))
            for factor, word in ((0xD2511F53, a), (0xCD9E8D57, c))
        )
        a, b, c, d = high_c ^ b ^ np.uint64(e), low_c, high_a ^ d ^ np.uint64(f), low_a
    return [a, b, c, d]


def plain_counter_events(grey: U8, video: VideoSettings, name: str) -> U8:
    """Return (P, T, H, W) of mode 2 with counted draws by whole arrays."""
    key = np.frombuffer(hashlib.sha256(f"{video.seed} {name}".encode()).digest()[:8], "<u4")
    levels = np.diff(grey.astype(int), axis=0)
    ratio = video.event_ratio
    low, high = np.percentile(levels / 255, [50 * ratio, 100 - 50 * ratio])
    pixel, step = np.arange(grey[0].size), np.arange(len(grey) - 1)[:, None]
    words = np.stack(plain_philox(pixel // 16, step, 0, 0, key=key), axis=-1)  # (T, M, 4)
    octets = words.astype("<u4").view(np.uint8)  # (T, M, 16)
    upper = np.take_along_axis(octets, (pixel % 16)[None, :, None], axis=2)[..., 0]
    draw = upper.astype(np.int64) * 2**32 + plain_philox(pixel, step, 1, 0, key=key)[0].astype(int)
    chances = np.zeros((2, 511))
    for level in range(-255, 256):
        if abs(level / 255) > video.least:
            beyond = level / 255 - high if level > 0 else low - level / 255
            chance = 0.5 * math.erfc(-beyond / video.sigma / math.sqrt(2))
            chances[0 if level > 0 else 1, level + 255] = chance
    limits = np.rint(chances * 2**40).astype(np.int64)[:, levels + 255]
    return (draw.reshape(levels.shape) < limits).astype(np.uint8)


def random_clip(seed: int, frames: int, size: tuple[int, int], kind: str) -> U8:
    rng = np.random.default_rng(seed)
    shape = (frames, *size)
    if kind == "still":
        return np.full(shape, rng.integers(256), np.uint8)
    if kind == "two values":
        return rng.choice(np.array([0, 255], np.uint8), shape)
    walk = rng.integers(-9, 10, shape).cumsum(axis=0) + rng.integers(60, 190, size)
    return walk.clip(0, 255).astype(np.uint8)


clips = st.builds(
    random_clip,
    st.integers(0, 2**32 - 1),
    st.integers(2, 20),
    st.tuples(st.integers(1, 7), st.integers(1, 40)),
    st.sampled_from(["still", "two values", "walk"]),
)
ratios = st.sampled_from([0.15, 0.1, 0.3, 0.01, 1.0, 0.999]) | st.floats(1e-6, 1.0)


def test_the_published_files_are_reproduced(shared: Path) -> None:
    folders = sorted((shared / "es_ucf101" / "jpegs_256").iterdir())
    assert len(folders) == 3
    for folder in folders:
        paths = sorted(folder.glob("*.jpg"))
        taken = []
        for index in frame_indices(len(paths), 31):
            with Image.open(paths[index]) as image:
                image.draft("YCbCr", None)
                taken.append(np.asarray(image)[..., 0])
        with np.load(shared / "es_ucf101" / "event_dvs" / f"{folder.name}.npz") as raw:
            made = clip_events(np.stack(taken), VideoSettings())
            assert made.dtype == raw["arr_0"].dtype
            np.testing.assert_array_equal(made, raw["arr_0"], err_msg=folder.name)


@settings(deadline=None, max_examples=150)
@given(clips, ratios)
def test_thresholds_equal_numpys_percentiles(grey: U8, ratio: float) -> None:
    assert thresholds(grey, ratio) == plain_thresholds(grey, ratio)


@settings(deadline=None, max_examples=100)
@given(clips, ratios, st.sampled_from([1, 2]), st.integers(0, 9), st.sampled_from(["", "v_a"]))
def test_events_equal_plain_numpy(grey: U8, ratio: float, mode: Any, seed: int, name: str) -> None:
    video = VideoSettings(
        steps=len(grey) - 1, size=grey.shape[1:], event_ratio=ratio, mode=mode, seed=seed
    )
    plain = plain_events(grey, video, name)
    np.testing.assert_array_equal(clip_events(grey, video, name), plain)
    packed = np.full(video.frames_shape, 0xAA, np.uint8)
    assert clip_frames(grey, video, packed, name) == plain.sum()
    np.testing.assert_array_equal(packed, np.packbits(plain, axis=1).transpose(1, 2, 3, 0))


def changing_clip(kind: str) -> U8:
    """Return a clip whose percentiles a sample of its pixels finds, or misses."""
    rng = np.random.default_rng(5)
    shape = (10, 60, 90)
    if kind == "hardly":
        return (rng.random(shape) < 0.04).astype(np.uint8)
    if kind == "brighter":
        return (20 * np.arange(10)[:, None, None] + rng.integers(0, 9, shape)).astype(np.uint8)
    if kind == "darker":
        return changing_clip("brighter")[::-1].copy()
    if kind == "every thirteenth":
        walk = random_clip(5, 10, (60, 90), "walk")
        walk.reshape(10, -1)[:, ::13] = 7
        return walk
    return random_clip(5, 10, (60, 90), kind)


@pytest.mark.parametrize("ratio", [0.15, 0.075, 0.9, 1.0])
@pytest.mark.parametrize(
    "kind", ["hardly", "brighter", "darker", "every thirteenth", "walk", "two values", "still"]
)
def test_large_clips_equal_plain_numpy(kind: str, ratio: float) -> None:
    grey = changing_clip(kind)
    video = VideoSettings(steps=9, size=(60, 90), event_ratio=ratio)
    np.testing.assert_array_equal(clip_events(grey, video), plain_events(grey, video, ""))


def test_every_pair_of_greys_equals_plain_numpy() -> None:
    """All 65,536 differences agree; their float64 values vary in the last bit within a level."""
    old, new = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    grey = np.stack([old, new])
    for ratio in (0.15, 0.5, 0.07, 0.93):
        video = VideoSettings(steps=1, size=(256, 256), event_ratio=ratio)
        np.testing.assert_array_equal(clip_events(grey, video), plain_events(grey, video, ""))


def test_mode_2_draws_by_seed_and_name() -> None:
    grey = random_clip(0, 16, (40, 50), "walk")

    def made(seed: int, name: str) -> U8:
        return clip_events(grey, VideoSettings(steps=15, size=(40, 50), mode=2, seed=seed), name)

    np.testing.assert_array_equal(made(0, "a"), made(0, "a"))
    assert (made(0, "a") != made(0, "b")).any()
    assert (made(0, "a") != made(1, "a")).any()


def test_mode_2_has_the_probabilities_of_a_threshold_per_pixel() -> None:
    """A difference d is an event if max(normal(upper, sigma), 0.01) is below d."""
    grey = np.zeros((2, 400, 500), np.uint8)
    grey[1] = 20  # a positive difference of 20/255, the mean of the threshold
    video = VideoSettings(steps=1, size=(400, 500), mode=2)
    assert abs(clip_events(grey, video)[0].mean() - 0.5) < 0.01
    grey[1] = 2  # 2/255 is under 0.01, so it is never an event
    assert not clip_events(grey, video).any()


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_answers(counter: str, key: str, words: str) -> None:
    """These are the known answers of Random123, the authors' library."""
    given, keys, expected = (
        [int(word, 16) for word in text.split()] for text in (counter, key, words)
    )
    assert list(philox(*given, np.array(keys, np.uint64))) == expected
    assert plain_philox(*given, key=keys) == expected


@settings(deadline=None, max_examples=100)
@given(clips, ratios, st.integers(0, 2**70), st.sampled_from(["", "v_a"]))
def test_counted_draws_equal_plain_numpy(grey: U8, ratio: float, seed: int, name: str) -> None:
    video = VideoSettings(
        steps=len(grey) - 1,
        size=grey.shape[1:],
        event_ratio=ratio,
        mode=2,
        draws="counter",
        seed=seed,
    )
    plain = plain_counter_events(grey, video, name)
    np.testing.assert_array_equal(clip_events(grey, video, name), plain)
    packed = np.full(video.frames_shape, 0xAA, np.uint8)
    assert clip_frames(grey, video, packed, name) == plain.sum()
    np.testing.assert_array_equal(packed, np.packbits(plain, axis=1).transpose(1, 2, 3, 0))


@settings(deadline=None, max_examples=100)
@given(clips, ratios)
def test_percentiles_of_levels_equal_numpys(grey: U8, ratio: float) -> None:
    levels = np.diff(grey.astype(int), axis=0) / 255
    expected = np.percentile(levels, [50 * ratio, 100 - 50 * ratio])
    assert level_percentiles(grey.reshape(len(grey), -1), ratio) == tuple(expected)


def test_counted_draws_of_a_large_clip_equal_plain_numpy() -> None:
    """The clip has several blocks of pixels, and draws that their upper byte does not decide."""
    grey = random_clip(7, 12, (171, 113), "walk")
    video = VideoSettings(steps=11, size=(171, 113), mode=2, draws="counter")
    plain = plain_counter_events(grey, video, "clip")
    np.testing.assert_array_equal(clip_events(grey, video, "clip"), plain)
    other = VideoSettings(steps=11, size=(171, 113), mode=2, draws="counter", seed=1)
    for events in (clip_events(grey, other, "clip"), clip_events(grey, video, "another")):
        assert 0.01 < (events != plain).mean() < 0.2


def test_without_deviation_counted_draws_are_the_thresholds() -> None:
    grey = random_clip(7, 12, (40, 50), "walk")
    video = VideoSettings(steps=11, size=(40, 50), mode=2, sigma=0.0, draws="counter")
    low, high = (round(255 * bound) for bound in thresholds(grey, video.event_ratio))
    levels = np.diff(grey.astype(int), axis=0)
    expected = np.stack([levels > max(high, 2), levels < min(low, -2)])
    np.testing.assert_array_equal(clip_events(grey, video), expected)


def test_both_kinds_of_draws_have_the_same_distribution() -> None:
    """Events of each level are as frequent as the threshold's distribution has them."""
    levels, count = np.arange(-45, 46), 6000
    grey = np.full((2, len(levels), count), 100, np.uint8)
    grey[1] += levels.astype(np.uint8)[:, None]  # wraps around
    low, high = thresholds(grey, 0.3)
    beyond = np.where(levels > 0, levels / 255 - high, low - levels / 255)
    chances = np.array([0.5 * math.erfc(-one / 0.03 / math.sqrt(2)) for one in beyond])
    chances[np.abs(levels) <= 2] = 0
    drawn = {}
    for draws in ("numpy", "counter"):
        video = VideoSettings(steps=1, size=grey.shape[1:], event_ratio=0.3, mode=2, draws=draws)
        drawn[draws] = clip_events(grey, video).sum(axis=(0, 1, 3), dtype=int)
        assert not drawn[draws][chances == 0].any()
    likely = np.minimum(chances, 1 - chances) * count > 5
    assert likely.sum() > 50
    spread = (count * chances * (1 - chances))[likely]
    counter, other = drawn["counter"][likely], drawn["numpy"][likely]
    most = likely.sum() + 4 * math.sqrt(2 * likely.sum())  # four deviations of chi-square
    assert ((counter - count * chances[likely]) ** 2 / spread).sum() < most
    assert ((counter - other) ** 2 / (2 * spread)).sum() < most


@pytest.mark.parametrize("available", [1, 2, 30, 31, 32, 56, 164, 1776])
def test_frame_indices_are_the_published_ones(available: int) -> None:
    indices = frame_indices(available, 31)
    published = [int(sample) for sample in np.round(np.linspace(0, available - 1, 31))]
    assert indices.tolist() == published
    assert (indices[0], indices[-1]) == (0, available - 1)


def test_frame_indices_round_halves_to_even() -> None:
    assert frame_indices(6, 11).tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"steps": 0}, "steps"),
        ({"size": (0, 4)}, "size"),
        ({"event_ratio": 0.0}, "event_ratio"),
        ({"event_ratio": float("nan")}, "event_ratio"),
        ({"mode": 3}, "mode"),
        ({"sigma": -0.1}, "sigma"),
        ({"least": -0.1}, "least"),
        ({"seed": -1}, "seed"),
        ({"draws": "philox"}, "draws"),
        ({"interpolation": "cubic"}, "interpolation"),
    ],
)
def test_settings_are_checked(options: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        VideoSettings(**options)


def test_other_arrays_are_refused() -> None:
    video = VideoSettings(steps=2, size=(4, 5))
    for grey in (np.zeros((3, 5, 4), np.uint8), np.zeros((3, 4, 5)), np.zeros((2, 4, 5), np.uint8)):
        with pytest.raises(InputError, match="a clip must be uint8"):
            clip_events(grey, video)
    with pytest.raises(ValueError, match="out is"):
        clip_frames(np.zeros((3, 4, 5), np.uint8), video, np.empty((1, 5, 4, 2), np.uint8))
