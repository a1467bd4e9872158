"""Reads one still image file: RGB or grey bytes, upright, whatever it holds.

Legend: H rows, W columns.
"""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from eventdata.errors import InputError
from eventdata.files.local import check_plain

# Formats that Pillow decodes by itself, without help from another program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 2**25
"""A larger image is refused before it is decoded: some take twenty bytes a pixel meanwhile."""
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_picture(path: Path | str, *, grey: bool = False) -> NDArray[np.uint8]:
    """Decode an image file.

    EXIF rotation is applied; transparency is dropped, not blended; of 16 bits the upper eight are
    kept; of several pictures the first is taken: all as OpenCV's ``imread`` does. A JPEG is
    decoded in full, since its quick scaled decoding gives other pixels.

    Args:
        path: a file of one of FORMATS, told by its content, not its name.
        grey: return brightness; of a JPEG the luma that it stores, not one computed from RGB.

    Returns:
        Contiguous uint8 (H, W, 3), or (H, W) of a grey image; always (H, W) with ``grey``. It may
        be read-only.

    Raises:
        InputError: the file is missing, no such image, damaged, truncated, or too large.
    """
    try:
        check_plain(path)
        with open(path, "rb") as file, warnings.catch_warnings():  # noqa: PTH123 str or Path
            # Of odd metadata, which does no harm, and of large sizes, which raise below.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as image:
                return _decode(image, grey)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise InputError(f"{path}: the file isn't there") from None
    except UnidentifiedImageError:
        raise InputError(
            f"{path}: not an image that can be read ({', '.join(FORMATS)}); convert or replace it"
        ) from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: more than {MAX_PIXELS} pixels; scale it down") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds for damaged files
        raise InputError(f"{path}: can't be decoded ({error}); get the file again") from error


def _decode(image: Image.Image, grey: bool) -> NDArray[np.uint8]:
    """Pixels of an opened image."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(f"{height}x{width} pixels are more than {MAX_PIXELS}; scale it down")
    if grey and isinstance(image, JpegImageFile):
        image.draft("L", None)
    image.load()
    turn = UPRIGHT.get(_orientation(image))
    pixels = _upper_byte(image) if image.mode.startswith(("I", "F")) else image
    if pixels.mode in ("1", "LA") or (grey and pixels.mode != "L"):
        pixels = pixels.convert("L")
    elif pixels.mode not in ("L", "RGB"):
        pixels = pixels.convert("RGB")
    return np.ascontiguousarray(pixels if turn is None else pixels.transpose(turn))


def _upper_byte(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits as one of 8."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        upper = np.asarray(image) >> 8
        return Image.fromarray(upper.clip(0, 255, out=upper).astype(np.uint8))
    raise InputError("pixels of 32 bits have no known range; save the image with 8 or 16 bits")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where there is none or its block is damaged."""
    if "exif" not in image.info and image.format != "TIFF":  # reading it costs time
        return 1
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # of a damaged block; the pixels are sound all the same
        return 1
    return value if isinstance(value, int) else 1
