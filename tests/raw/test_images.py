"""Still images are scaled with antialiasing and cropped in the middle, or made from events."""

import numpy as np
import pytest
from PIL import Image

import eventdata
from eventdata.conversion import convert
from eventdata.errors import InputError, OptionError, StoreError
from eventdata.formats.image import read_picture
from eventdata.kernels.odg import OdgSettings, edge_integral
from eventdata.raw.images import GreyFromEvents, Images, scale_and_crop
from tests.makers import make_es_imagenet, make_images


def noise(height, width, channels=(3,)):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, *channels), dtype=np.uint8)


@pytest.mark.parametrize("size", [(300, 300), (300, 500), (500, 300), (301, 477)])
@pytest.mark.parametrize("channels", [(3,), ()])
def test_scaling_and_cropping_are_one_step(size, channels):
    """The result is close to that of scaling the whole image before the crop."""
    pixels = noise(*size, channels)
    made = scale_and_crop(pixels, 64, 48)
    assert made.shape == (48, 48, *channels)
    height, width = (round(side * 64 / min(size)) for side in size)
    whole = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - 48) // 2, (height - 48) // 2
    plain = np.asarray(whole.crop((left, top, left + 48, top + 48)))
    difference = np.abs(made.astype(int) - plain)
    if size[0] == size[1]:
        np.testing.assert_array_equal(made, plain)
    assert difference.mean() < 12  # noise, and up to half a pixel apart


def test_a_long_strip_takes_no_memory():
    """The whole scaled image would take 10 GB."""
    assert scale_and_crop(noise(2, 100_000), 256, 224).shape == (224, 224, 3)


def test_scaling_is_antialiased():
    """Stripes finer than the pixels become grey instead of other stripes."""
    stripes = np.zeros((512, 512), np.uint8)
    stripes[:, ::2] = 255
    made = scale_and_crop(stripes, 64, 64)[4:-4, 4:-4]
    assert abs(made.astype(int) - 127).max() <= 2


@pytest.mark.parametrize("grey", [False, True])
def test_a_store_of_images_is_read(tmp_path, grey):
    raw = make_images(tmp_path / "raw")
    options = {"grey": True} if grey else {}
    convert("images", raw, tmp_path / "out", short_side=40, crop=32, **options)
    channels = 1 if grey else 3
    for split in ("train", "val"):
        ds = eventdata.FrameDataset(tmp_path / "out", split)
        assert ds.sample_format.array == "images"
        for name, (image, _) in zip(ds.names, ds, strict=True):
            assert image.shape == (channels, 32, 32)
            pixels = read_picture(raw / split / name, grey=grey)
            expected = scale_and_crop(pixels, 40, 32).reshape(32, 32, channels)
            np.testing.assert_array_equal(image.numpy().transpose(1, 2, 0), expected)
        assert not ds.event_counts.any()


def test_grey_files_fill_three_channels(tmp_path):
    (tmp_path / "raw" / "a").mkdir(parents=True)
    Image.fromarray(noise(40, 50, ())).save(tmp_path / "raw" / "a" / "1.png")
    convert("images", tmp_path / "raw", tmp_path / "out", short_side=40, crop=32)
    image, _ = eventdata.FrameDataset(tmp_path / "out")[0]
    assert (image == image[:1]).all()


def test_bad_settings_are_refused(tmp_path):
    for settings in ({"crop": 300}, {"crop": 0}, {"short_side": 5000}):
        with pytest.raises(OptionError, match="choose (a crop|1 to 4096)"):
            Images(root=tmp_path, **settings)
    with pytest.raises(OptionError, match="does not use 'crop'; remove it"):
        convert("images", tmp_path, tmp_path / "out", grey_from_events=True, crop=5)


def test_grey_images_are_made_from_events(tmp_path):
    """Each sample equals the kernel's result; skipped ones are omitted; names and labels stay."""
    raw = make_es_imagenet(tmp_path / "raw")
    name = (raw / "trainlabel.txt").read_text().splitlines()[2].split()[0]
    (raw / "train" / name).write_bytes(b"")
    convert("es-imagenet", raw, tmp_path / "events", on_error="skip", shard_size=5)
    result = convert("images", tmp_path / "events", tmp_path / "out", grey_from_events=True)
    assert result.samples == {"train": 11, "val": 4}
    assert result.notes == ["1 invalid samples of train skipped"]
    for split in ("train", "val"):
        frames = eventdata.FrameDataset(tmp_path / "events", split)
        images = eventdata.FrameDataset(tmp_path / "out", split)
        assert images.names == frames.names
        assert images.labels.tolist() == frames.labels.tolist()
        assert images.classes == frames.classes
        for (dense, _), (image, _) in zip(frames, images, strict=True):
            packed = np.packbits(dense.numpy(), axis=0).transpose(0, 2, 3, 1)
            np.testing.assert_array_equal(image[0], edge_integral(packed, OdgSettings()))


def test_grey_images_are_made_from_one_split(tmp_path):
    convert("es-imagenet", make_es_imagenet(tmp_path / "raw"), tmp_path / "events")
    out = tmp_path / "out"
    convert("images", tmp_path / "events", out, grey_from_events=True, split="val")
    assert (
        eventdata.FrameDataset(out, "val").names
        == eventdata.FrameDataset(tmp_path / "events", "val").names
    )
    assert eventdata.verify(out, against=tmp_path / "events", samples=None).ok


def test_trace_of_the_store_is_used(tmp_path):
    raw = make_images(tmp_path / "raw", val=0)
    trace = "0,0 3,0 3,3 0,3 0,0"
    options = {"trace": trace, "long_side": 60, "crop": 48, "min_events": 0}
    convert("imagenet", raw, tmp_path / "events", **options)
    source = GreyFromEvents(root=tmp_path / "events")
    out = np.empty((1, 48, 48, 1), np.uint8)
    source.read(source.splits()["train"].row(0), out)
    dense, _ = eventdata.FrameDataset(tmp_path / "events")[0]
    packed = np.packbits(dense.numpy(), axis=0).transpose(0, 2, 3, 1)
    settings = OdgSettings(trace=((0, 0), (3, 0), (3, 3), (0, 3), (0, 0)))
    np.testing.assert_array_equal(out[0, ..., 0], edge_integral(packed, settings))


def test_stores_without_odg_events_are_refused(tmp_path):
    with pytest.raises(StoreError, match="no store found"):
        convert("images", tmp_path / "none", tmp_path / "out", grey_from_events=True)
    convert("images", make_images(tmp_path / "raw"), tmp_path / "images", short_side=8, crop=8)
    with pytest.raises(InputError, match="only from the events of ODG"):
        convert("images", tmp_path / "images", tmp_path / "out", grey_from_events=True)
