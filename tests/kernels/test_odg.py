"""Compare the ODG with the published files and with plain NumPy."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from eventdata.errors import InputError, OptionError
from eventdata.kernels.odg import (
    PUBLISHED_TRACE,
    OdgSettings,
    TooFewEventsError,
    edge_integral,
    image_events,
    image_frames,
    scale_area,
    scale_nearest,
    scaled_size,
)
from eventdata.kernels.packing import OK, count_ones, scatter_coordinates

U8 = NDArray[np.uint8]


def dense(packed: U8, steps: int) -> U8:
    """Reorder (K, H, W, P) to (T, P, H, W)."""
    return np.unpackbits(packed, axis=0, count=steps).transpose(0, 3, 1, 2)


def frames_of(image: U8, odg: OdgSettings) -> tuple[U8, int]:
    """Return frames, packed into a buffer with old values, and their number of nonzero cells."""
    out = np.full(odg.frames_shape, 0xAA, np.uint8)
    return out, image_frames(image, odg, out)


def random_image(seed: int, height: int, width: int, channels: tuple[int, ...] = (3,)) -> U8:
    """Return slightly smoothed noise, so that some neighbours differ by more than the threshold."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return np.maximum(noise, np.roll(noise, 1, axis=0))


# ---- plain statements ----------------------------------------------------------------------------


def plain_nearest(image: NDArray[np.int64], a: int, b: int) -> NDArray[np.int64]:
    rows, columns = np.arange(a) * len(image) // a, np.arange(b) * image.shape[1] // b
    return image[rows][:, columns]


def plain_area(image: NDArray[np.int64], a: int, b: int) -> NDArray[np.int64]:
    """Repeat every pixel a times b, then average a by b blocks of H times W."""
    height, width = image.shape[:2]
    fine = image.repeat(a, axis=0).repeat(b, axis=1).reshape(a, height, b, width, -1)
    return (2 * fine.sum(axis=(1, 3)) + height * width) // (2 * height * width)


def plain_changes(image: U8, odg: OdgSettings) -> NDArray[np.bool_]:
    """Return the changes (T, P, a+m, b+m) on the canvas, before any window."""
    pixels = image.reshape(*image.shape[:2], -1).astype(np.int64)
    a, b = scaled_size(image.shape[0], image.shape[1], odg)
    scale = plain_nearest if odg.resampling == "nearest" else plain_area
    plane = scale(pixels, a, b).max(axis=2)
    laid = []
    for y, x in odg.trace:
        canvas = np.full((a + odg.reach, b + odg.reach), np.nan)  # nan: outside the image
        canvas[y : y + a, x : x + b] = plane / 255.0
        laid.append(canvas)
    change = np.diff(laid, axis=0)
    return np.stack([change > odg.threshold, change < -odg.threshold], axis=1)


def plain_events(image: U8, odg: OdgSettings) -> NDArray[np.bool_]:
    """Return the changes inside the mode's window."""
    changes = plain_changes(image, odg)
    margin = (odg.long_side + odg.reach - odg.crop) // 2
    kept = np.zeros_like(changes)
    for row in range(changes.shape[2]):
        for column in range(changes.shape[3]):
            if odg.mode == "published":
                inside = all(margin < place < margin + odg.crop for place in (row, column))
            else:
                inside = all(
                    0 <= place + (odg.long_side - side + odg.reach) // 2 - margin < odg.crop
                    for place, side in zip((row, column), changes.shape[2:], strict=True)
                )
            kept[:, :, row, column] = changes[:, :, row, column] & inside
    return kept


def plain_frames(image: U8, odg: OdgSettings) -> U8:
    """Return frames (T, P, H, W): centre the events on a square canvas and cut out its middle."""
    events = plain_events(image, odg)
    canvas = odg.long_side + odg.reach
    margin = (canvas - odg.crop) // 2
    out = np.zeros((odg.steps, 2, canvas, canvas), np.uint8)
    y, x = ((canvas - side) // 2 for side in events.shape[2:])
    out[:, :, y : y + events.shape[2], x : x + events.shape[3]] = events
    return out[:, :, margin : margin + odg.crop, margin : margin + odg.crop]


@st.composite
def odg_settings(draw: st.DrawFn) -> OdgSettings:
    long_side = draw(st.integers(8, 40))
    place = st.tuples(st.integers(0, 3), st.integers(0, 3))
    trace = draw(st.just(PUBLISHED_TRACE) | st.lists(place, min_size=2, max_size=12).map(tuple))
    reach = max(max(offsets) for offsets in trace)
    return OdgSettings(
        mode=draw(st.sampled_from(["centred", "published"])),
        long_side=long_side,
        crop=draw(st.integers(1, long_side + reach)),
        threshold=draw(st.sampled_from([0.0, 0.05, 0.18, 0.33, 0.9])),
        min_events=0,
        resampling=draw(st.sampled_from(["nearest", "area"])),
        trace=trace,
    )


sides = st.integers(5, 60)
seeds = st.integers(0, 2**32 - 1)


# ---- the published files -------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_published_files_are_reproduced(shared: Path, split: str) -> None:
    expected: dict[str, Any] = json.loads(
        (shared / "es_imagenet" / "expected_frames.json").read_text()
    )
    odg = OdgSettings(mode="published")
    sizes = {
        line.split()[0]: tuple(map(int, line.split()[2:]))
        for line in (shared / "es_imagenet" / f"{split}label.txt").read_text().splitlines()
    }
    assert set(sizes) == set(expected["frames"][split])
    for name, frames in expected["frames"][split].items():
        source = shared / "imagenet_samples" / expected["source_image"][f"{split}/{name}"]
        image = np.asarray(Image.open(source))
        assert scaled_size(image.shape[0], image.shape[1], odg) == sizes[name]
        pos, neg = image_events(image, odg)
        with np.load(shared / "es_imagenet" / split / name) as raw:
            for ours, published in ((pos, raw["pos"]), (neg, raw["neg"])):
                assert ours.dtype == published.dtype
                np.testing.assert_array_equal(ours, published, err_msg=name)
        packed, cells = frames_of(image, odg)
        made = np.ascontiguousarray(dense(packed, 8))
        assert (cells, hashlib.sha256(made).hexdigest()) == (frames["ones"], frames["sha256"])


def test_nearest_equals_torch() -> None:
    for size in [*range(1, 70), *range(71, 4001, 61), 4000]:
        index = torch.arange(size, dtype=torch.float64)[None, None, :, None]
        theirs = torch.nn.functional.interpolate(index, size=(254, 254), mode="nearest")
        parts = []
        for byte in (np.arange(size) & 255, np.arange(size) >> 8):
            plane = np.empty((254, 1), np.uint8)
            scale_nearest(byte.astype(np.uint8)[:, None, None], plane)
            parts.append(plane[:, 0].astype(np.int64))
        np.testing.assert_array_equal(parts[0] + 256 * parts[1], theirs[0, 0, :, 0].numpy())


# ---- the plain statements ------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(odg_settings(), seeds, sides, sides, st.sampled_from([(3,), ()]))
def test_frames_and_events_equal_plain_numpy(
    odg: OdgSettings, seed: int, height: int, width: int, channels: tuple[int, ...]
) -> None:
    image = random_image(seed, height, width, channels)
    if min(height, width) * odg.long_side < max(height, width):
        with pytest.raises(InputError, match="too narrow"):
            image_events(image, odg)
        return
    packed, cells = frames_of(image, odg)
    np.testing.assert_array_equal(dense(packed, odg.steps), plain_frames(image, odg))
    assert cells == np.bitwise_count(packed).sum()
    for polarity, events in enumerate(image_events(image, odg)):
        step, row, column = np.nonzero(plain_events(image, odg)[:, polarity])
        np.testing.assert_array_equal(events, np.stack([row, column, step + 1], axis=1))


@settings(deadline=None, max_examples=60)
@given(seeds, sides, sides, st.integers(1, 50), st.integers(1, 50), st.sampled_from([1, 3]))
def test_scaling_equals_plain_numpy(
    seed: int, height: int, width: int, a: int, b: int, channels: int
) -> None:
    image = random_image(seed, height, width, (channels,))
    for scale, plain in ((scale_nearest, plain_nearest), (scale_area, plain_area)):
        expected = plain(image.astype(np.int64), a, b).max(axis=2)
        unused = np.full((height, width, 1), 255, np.uint8)
        for pixels in [image] + [np.concatenate([image, unused], axis=2)] * (channels == 3):
            plane = np.empty((a, b), np.uint8)
            scale(pixels, plane)
            np.testing.assert_array_equal(plane, expected)


@pytest.mark.parametrize("mode", ["centred", "published"])
@pytest.mark.parametrize("shape", [(300, 400, 3), (400, 300, 3), (32, 32), (33, 900, 3)])
def test_raw_events_give_the_frames(mode: Any, shape: tuple[int, ...]) -> None:
    """`convert` reads files written by `generate` to the frames made directly."""
    odg = OdgSettings(mode=mode, min_events=0)
    image = random_image(1, shape[0], shape[1], shape[2:])
    a, b = scaled_size(shape[0], shape[1], odg)
    out = np.zeros(odg.frames_shape, np.uint8)
    for polarity, events in enumerate(image_events(image, odg)):
        shifts = (254 - a) // 2, (254 - b) // 2
        assert scatter_coordinates(events, polarity, *shifts, 256, 16, out) == (OK, 0)
    packed, cells = frames_of(image, odg)
    np.testing.assert_array_equal(out, packed)
    assert count_ones(out) == cells
    assert bool(cells) == (mode == "centred" or a > 17)  # no row is left of a narrow image


def test_centred_corrects_the_window() -> None:
    """The published window cuts 17 rows from the top of a landscape image, the centred one none."""
    image = random_image(3, 150, 254)
    rows = {
        mode: np.flatnonzero(frames_of(image, OdgSettings(mode=mode))[0].any(axis=(0, 2, 3)))
        for mode in ("centred", "published")
    }
    top = (254 - 150) // 2 - 16
    # Two placements share rows 1 to 150 of the canvas, as far from 0 as from 223.
    assert (rows["centred"][0], rows["centred"][-1]) == (top + 1, top + 150) == (37, 223 - 37)
    assert (rows["published"][0], rows["published"][-1]) == (top + 17, top + 150)


def test_grey_is_three_equal_channels() -> None:
    grey = random_image(5, 90, 70, ())
    three = np.stack([grey] * 3, axis=2)
    for resampling in ("nearest", "area"):
        odg = OdgSettings(resampling=resampling)
        np.testing.assert_array_equal(frames_of(grey, odg)[0], frames_of(three, odg)[0])


def test_any_memory_layout_gives_the_same_events() -> None:
    image = random_image(6, 80, 64)
    odg = OdgSettings()
    turned = np.asfortranarray(image)
    turned.flags.writeable = False
    four_bytes = np.full((80, 64, 4), 255, np.uint8)
    four_bytes[..., :3] = image
    at_the_end = np.full((80, 64, 4), 255, np.uint8)
    at_the_end[..., 1:] = image
    for resampling in ("nearest", "area"):
        odg = OdgSettings(resampling=resampling)
        expected = frames_of(image, odg)[0]
        for other in (turned, four_bytes[..., :3], at_the_end[..., 1:], image[::-1][::-1]):
            np.testing.assert_array_equal(frames_of(other, odg)[0], expected)


# ---- the reconstruction --------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(odg_settings(), seeds)
def test_edge_integral_equals_plain_numpy(odg: OdgSettings, seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = 13, 17
    planes = rng.integers(0, 2, (odg.steps, 2, height, width), dtype=np.uint8)
    packed = np.packbits(planes, axis=0).transpose(0, 2, 3, 1)
    signed = planes[:, 0].astype(np.int64) - planes[:, 1]
    home = odg.reach // 2
    canvas = np.zeros((height + odg.reach, width + odg.reach), np.int64)
    for (y, x), frame in zip(odg.trace[1:], signed, strict=True):
        y, x = odg.reach - y, odg.reach - x
        canvas[y : y + height, x : x + width] += frame
    start = odg.reach - home
    sums = canvas[start : start + height, start : start + width]
    made = edge_integral(packed, odg)
    assert made.dtype == np.uint8
    grey = 255 * (sums + odg.steps) / (2 * odg.steps)
    np.testing.assert_array_equal(made, np.floor(grey + 0.5))


def test_edge_integral_of_a_photograph_correlates_with_it(shared: Path) -> None:
    """An edge is brighter on its bright side, so the result correlates with fine detail."""
    source = next((shared / "imagenet_samples" / "train").rglob("*goldfinch.JPEG"))
    image = np.asarray(Image.open(source))
    odg = OdgSettings()
    made = edge_integral(frames_of(image, odg)[0], odg).astype(float) - 128
    plane = np.zeros((254, 254), np.uint8)
    a, b = scaled_size(image.shape[0], image.shape[1], odg)
    scale_nearest(image, plane[(254 - a) // 2 :][:a])
    detail = plane.astype(float) - sum(
        np.roll(plane.astype(float), shift, (0, 1))
        for shift in [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    ) / 9  # fmt: skip
    inside = slice(40, 180)
    window = detail[15:239, 15:239][inside, inside], made[inside, inside]
    correlation = np.corrcoef(window[0].ravel(), window[1].ravel())[0, 1]
    assert correlation > 0.5
    assert b == 254


def test_edge_integral_refuses_other_frames() -> None:
    with pytest.raises(InputError, match="8 steps"):
        edge_integral(np.zeros((2, 4, 4, 2), np.uint8), OdgSettings())


# ---- settings and bad input ----------------------------------------------------------------------


def test_too_few_events_are_refused() -> None:
    plain = np.full((60, 60, 3), 200, np.uint8)
    out = np.full(OdgSettings().frames_shape, 1, np.uint8)
    with pytest.raises(TooFewEventsError, match="0 events, fewer than the 1000"):
        image_frames(plain, OdgSettings(), out)
    assert not out.any()
    with pytest.raises(TooFewEventsError):
        image_events(plain, OdgSettings())
    assert image_frames(plain, OdgSettings(min_events=0), out) == 0


def test_min_events_counts_what_the_window_holds() -> None:
    image = random_image(9, 150, 254)
    odg = OdgSettings(mode="published")
    events = sum(map(len, image_events(image, odg)))
    _, cells = frames_of(image, odg)
    assert cells == events  # 17..150 of the canvas all lie inside the frames
    for least, fits in ((events, True), (events + 1, False)):
        changed = OdgSettings(mode="published", min_events=least)
        if fits:
            assert len(image_events(image, changed)) == 2
        else:
            with pytest.raises(TooFewEventsError):
                image_events(image, changed)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"mode": "mended"}, "mode"),
        ({"resampling": "cubic"}, "resampling"),
        ({"trace": ((0, 0),)}, "trace"),
        ({"trace": ((0, 0), (0, -1))}, "trace"),
        ({"trace": ((0, 0), (0, 1, 2))}, "trace"),
        ({"long_side": 0}, "long_side"),
        ({"crop": 257}, "crop"),
        ({"threshold": 1.0}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"min_events": -1}, "min_events"),
    ],
)
def test_settings_are_checked(options: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        OdgSettings(**options)


def test_the_threshold_is_in_grey_levels() -> None:
    assert [OdgSettings(threshold=t).levels for t in (0.0, 0.18, 0.2, 0.999)] == [1, 46, 52, 255]


def test_raw_events_must_fit_in_bytes() -> None:
    image = random_image(0, 300, 300)
    with pytest.raises(OptionError, match="canvas of at most 256"):
        image_events(image, OdgSettings(long_side=255))
    assert frames_of(image, OdgSettings(long_side=300, crop=300))[1] > 0


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((40, 40, 4), np.uint8),
        np.zeros((40, 40, 1), np.uint8),
        np.zeros((40,), np.uint8),
        np.zeros((40, 40, 3), np.float32),
        np.zeros((0, 40, 3), np.uint8),
        np.zeros((0, 0), np.uint8),
    ],
)
def test_other_arrays_are_refused(image: NDArray[Any]) -> None:
    with pytest.raises(InputError):
        image_events(image, OdgSettings())
    with pytest.raises(ValueError, match="out is"):
        image_frames(image, OdgSettings(), np.empty((1, 2, 2, 2), np.uint8))


@pytest.mark.parametrize("shape", [(1,), (3, 5), (1, 224, 224, 2), (7, 9, 2)])
def test_ones_are_counted(shape: tuple[int, ...]) -> None:
    data = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert count_ones(data) == np.bitwise_count(data).sum()
