"""Images of every common kind are read, and damaged ones are refused."""

import contextlib
import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from eventdata.errors import InputError
from eventdata.formats.image import MAX_PIXELS, _pixels, read_picture

U8 = NDArray[np.uint8]


def noise(height: int, width: int, channels: tuple[int, ...] = (3,), seed: int = 0) -> U8:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, *channels), dtype=np.uint8)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp"])
def test_lossless_formats_are_read_exactly(tmp_path: Path, suffix: str) -> None:
    pixels = noise(37, 45)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(pixels), lossless=True)
    np.testing.assert_array_equal(read_picture(path), pixels)
    np.testing.assert_array_equal(read_picture(str(path)), pixels)


def test_content_decides_the_format_not_the_name(tmp_path: Path) -> None:
    """ImageNet holds a PNG with a name that ends in .JPEG."""
    pixels = noise(37, 45)
    path = save(tmp_path / "a.JPEG", Image.fromarray(pixels), format="PNG")
    np.testing.assert_array_equal(read_picture(path), pixels)


@pytest.mark.parametrize("size", [(32, 32), (4000, 33), (33, 4000), (1, 1)])
def test_images_of_any_size_are_read(tmp_path: Path, size: tuple[int, int]) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(noise(*size)), compress_level=1)
    assert read_picture(path).shape == (*size, 3)


def test_jpeg_is_decoded_in_full(shared: Path) -> None:
    path = next((shared / "imagenet_samples" / "train").rglob("*goldfinch.JPEG"))
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_picture(path), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3), (2200, 2000, 3)])
def test_pixels_outlive_their_image_and_are_not_copied(shape: tuple[int, ...]) -> None:
    """Pillow keeps images of more than 16 MiB in several blocks, which it does not share."""
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image = Image.fromarray(values).copy()
    pixels = _pixels(image)
    if hasattr(image, "__arrow_c_array__") and len(values) == 9:
        image.putpixel((0, 0), 1 if values.ndim == 2 else (1, 1, 1))
        assert (pixels[0, 0] == 1).all()
        values[0, 0] = 1
    image.close()
    np.testing.assert_array_equal(pixels, values)
    assert not pixels.flags.writeable


def test_grey_of_a_jpeg_is_its_luma(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(noise(40, 50)), subsampling=0)
    with Image.open(path) as image:
        image.draft("YCbCr", None)
        luma = np.asarray(image)[..., 0]
    np.testing.assert_array_equal(read_picture(path, grey=True), luma)
    computed = np.asarray(Image.fromarray(read_picture(path)).convert("L"))
    assert (computed != luma).any()  # which is why it is read from the file


def test_grey_images_are_read(tmp_path: Path) -> None:
    pixels = noise(33, 40, ())
    for name in ("a.jpg", "a.png"):
        path = save(tmp_path / name, Image.fromarray(pixels))
        with Image.open(path) as image:
            expected = np.asarray(image)
        for grey in (False, True):
            np.testing.assert_array_equal(read_picture(path, grey=grey), expected)


def test_the_first_of_several_images_is_read(tmp_path: Path) -> None:
    """Phones store a second picture inside a JPEG (MPO), and a GIF may be animated."""
    first, second = Image.fromarray(noise(32, 40)), Image.fromarray(noise(32, 40, seed=1))
    for name in ("a.mpo", "a.png", "a.gif"):
        path = save(tmp_path / name, first, save_all=True, append_images=[second])
        with Image.open(path) as image:
            assert getattr(image, "n_frames", 1) == 2
            expected = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(read_picture(path), expected)


def test_black_and_white_images_are_read(tmp_path: Path) -> None:
    pixels = noise(33, 40, ()) > 127
    path = save(tmp_path / "a.png", Image.fromarray(pixels))
    np.testing.assert_array_equal(read_picture(path), 255 * pixels.astype(np.uint8))


def test_palettes_are_applied(tmp_path: Path) -> None:
    colours = noise(1, 16)[0]
    indices = noise(33, 40, ()) % 16
    image = Image.frombytes("P", (40, 33), indices.tobytes())
    image.putpalette(colours.ravel().tolist())
    for name in ("a.png", "a.gif"):
        path = save(tmp_path / name, image)
        np.testing.assert_array_equal(read_picture(path), colours[indices])


def test_transparency_is_dropped(tmp_path: Path) -> None:
    pixels = noise(33, 40, (4,))
    path = save(tmp_path / "a.png", Image.fromarray(pixels))
    np.testing.assert_array_equal(read_picture(path), pixels[..., :3])
    grey = noise(33, 40, (2,))
    path = save(tmp_path / "b.png", Image.fromarray(grey))
    np.testing.assert_array_equal(read_picture(path), grey[..., 0])


def test_sixteen_bits_keep_the_upper_eight(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 2**16, (33, 40), dtype=np.uint16)
    for name in ("a.png", "a.tiff"):
        path = save(tmp_path / name, Image.fromarray(deep))
        np.testing.assert_array_equal(read_picture(path), (deep >> 8).astype(np.uint8))


def test_pixels_of_32_bits_are_refused(tmp_path: Path) -> None:
    for name, dtype in (("a.tiff", np.float32), ("b.tiff", np.int32)):
        path = save(tmp_path / name, Image.fromarray(np.ones((33, 40), dtype)))
        with pytest.raises(InputError, match="32 bits"):
            read_picture(path)


def test_cmyk_jpegs_become_rgb(tmp_path: Path) -> None:
    """ImageNet holds 22 such files; their colours are recovered as far as JPEG allows."""
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[:32], colours[32:, :32], colours[32:, 32:] = (250, 30, 30), (30, 30, 220), 128
    path = save(tmp_path / "a.jpg", Image.fromarray(colours).convert("CMYK"), quality=95)
    made = read_picture(path)
    assert made.shape == (64, 64, 3)
    assert np.abs(made.astype(int) - colours).mean() < 3
    assert read_picture(path, grey=True).shape == (64, 64)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tiff", "deep.png"])
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = noise(32, 48)
    image = Image.fromarray(
        (pixels[..., 0].astype(np.uint16) << 8) if name == "deep.png" else pixels
    )
    path = save(tmp_path / name, image, exif=exif)
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    if name == "deep.png":
        expected = (expected >> 8).astype(np.uint8)
    made = read_picture(path)
    np.testing.assert_array_equal(made, expected)
    assert made.shape[:2] == ((32, 48) if orientation < 5 else (48, 32))


def test_damaged_exif_does_no_harm(tmp_path: Path) -> None:
    """Many ImageNet files have such blocks, but their pixels are sound."""
    pixels = Image.fromarray(noise(32, 48))
    for number, block in enumerate(
        (
            b"Exif\0\0MM\0*\0\0\0\x08\0\xff\x01\x12\0\x03",
            b"Exif\0\0junk",
            b"Exif\0\0",
            b"Exif\0\0II*\0\xff\xff\xff\xff",
        )
    ):
        path = save(tmp_path / f"{number}.jpg", pixels, exif=block)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert read_picture(path).shape == (32, 48, 3)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.tiff", "a.webp", "a.bmp"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_truncated_images_are_refused(tmp_path: Path, name: str, part: float) -> None:
    path = save(tmp_path / name, Image.fromarray(noise(64, 64)))
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(InputError, match=name) as error:
        read_picture(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(InputError, match="not an image"):
        read_picture(path)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing"):
        read_picture(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="directory"):
        read_picture(tmp_path)


@pytest.mark.parametrize("side", [9_000, 60_000])
def test_too_many_pixels_are_refused(tmp_path: Path, side: int) -> None:
    """A kilobyte that declares gigapixels is refused before memory is allocated."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
        + png_chunk(b"IEND", b"")
    )
    assert side**2 > MAX_PIXELS
    with pytest.raises(InputError, match=f"more than {MAX_PIXELS:,}"):
        read_picture(path)


def test_random_damage_is_an_input_error_or_an_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a"
    for format_ in ("JPEG", "PNG", "TIFF", "GIF", "WEBP"):
        buffer = io.BytesIO()
        Image.fromarray(noise(40, 40)).save(buffer, format_)
        sound = np.frombuffer(buffer.getvalue(), np.uint8)
        for _ in range(60):
            broken = sound.copy()
            where = rng.integers(0, min(200, len(broken)), 3)
            broken[where] = rng.integers(0, 256, 3, dtype=np.uint8)
            path.write_bytes(broken.tobytes())
            with contextlib.suppress(InputError):
                assert read_picture(path).dtype == np.uint8
