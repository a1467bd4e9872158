"""Images of each format, and clips as videos and as folders of frames."""

import io
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.fuzz.seeds.trees import Real, Tree, drawn, real_files


def picture(height: int = 40, width: int = 56) -> NDArray[np.uint8]:
    """Draw squares of random colours, (H, W, 3)."""
    colours = drawn().integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return np.ascontiguousarray(colours.repeat(8, 0).repeat(8, 1)[:height, :width])


def encoded(image: Image.Image, kind: str, **settings: Any) -> bytes:
    """Return an image file's bytes."""
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def pictures(real: Real) -> list[Tree]:
    """Return images of each format, mode and peculiarity that is read."""
    rgb = Image.fromarray(picture())
    deep = Image.fromarray(picture()[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = [
        encoded(rgb, "JPEG", quality=90, exif=exif),
        encoded(rgb, "JPEG", progressive=True),
        encoded(rgb.convert("CMYK"), "JPEG"),
        encoded(rgb, "PNG"),
        encoded(rgb.quantize(16), "PNG", transparency=3),
        encoded(deep, "PNG"),
        encoded(rgb.convert("1"), "PNG"),
        encoded(rgb, "WEBP", lossless=True),
        encoded(rgb, "WEBP"),
        encoded(rgb, "BMP"),
        encoded(rgb.quantize(16), "GIF", save_all=True, append_images=[rgb.quantize(8)]),
        encoded(rgb, "TIFF"),
        encoded(rgb, "TIFF", compression="tiff_lzw"),
        encoded(rgb, "TIFF", compression="jpeg"),
        encoded(rgb, "TIFF", compression="tiff_adobe_deflate"),
        encoded(deep, "TIFF"),
        encoded(rgb, "PPM"),
    ]
    return [{"image": data} for data in made] + real_files(real, "imagenet_samples/val/*/*.JPEG")


def video(suffix: str, codec: str, pixels: str = "yuv420p", frames: int = 6) -> bytes:
    """Return a short video."""
    import av

    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        with av.open(file.name, "w") as container:
            stream: Any = container.add_stream(codec, rate=Fraction(25))
            stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
            stream.codec_context.thread_count = 1
            scene = picture(48, 64 + frames)
            for number in range(frames):
                moved = np.ascontiguousarray(scene[:, number : number + 64])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, "rgb24")))
            container.mux(stream.encode(None))
        return Path(file.name).read_bytes()


def clips(real: Real) -> list[Tree]:
    """Return videos in the containers that are read, and clips as folders of frames."""
    made = [
        {"clip.avi": video(".avi", "mpeg4")},
        {"clip.mp4": video(".mp4", "mpeg4")},
        {"clip.mkv": video(".mkv", "mpeg4")},
        {"clip.webm": video(".webm", "libvpx-vp9")},
        {"clip.mov": video(".mov", "mjpeg", "yuvj420p")},
        {f"clip/frame{n}.jpg": encoded(Image.fromarray(picture()), "JPEG") for n in range(3)},
    ]
    return made + real_files(real, "ucf101/UCF-101/*/*.avi", 1 << 19)
