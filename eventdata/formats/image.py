"""Read one still image file as upright RGB or grey bytes.

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

# Formats that Pillow decodes without running another program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 2**25
"""A larger image is refused before it is decoded, which may take twenty bytes per pixel."""
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

    As in OpenCV's ``imread``, EXIF rotation is applied, transparency is dropped without blending,
    16 bits are reduced to the upper eight, and only the first of several pictures is read. A JPEG
    is decoded in full, since quick scaled decoding gives other pixels.

    Args:
        path: a file of one of FORMATS, which its content and not its name decides.
        grey: return brightness; for a JPEG the luma that it stores, not one computed from RGB.

    Returns:
        Contiguous uint8 (H, W, 3), or (H, W) for a grey image and with ``grey``. It may be
        read-only.

    Raises:
        InputError: the file is missing, not such an image, damaged, truncated or too large.
    """
    try:
        check_plain(path)
        with open(path, "rb") as file, warnings.catch_warnings():  # noqa: PTH123 str or Path
            # Odd metadata does no harm, and large sizes raise below.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as image:
                return _decode(image, grey)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise InputError(f"{path}: the file isn't there; check the path") from None
    except UnidentifiedImageError:
        raise InputError(
            f"{path}: not an image of the formats {', '.join(FORMATS)}; convert or replace it"
        ) from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: more than {MAX_PIXELS:,} pixels; scale it down") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds for damaged files
        raise InputError(f"{path}: can't be decoded ({error}); get the file again") from error


def _decode(image: Image.Image, grey: bool) -> NDArray[np.uint8]:
    """Return the upright pixels of an opened image."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(f"{height}x{width} pixels are more than {MAX_PIXELS:,}; scale it down")
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
    """Convert a grey image from 16 to 8 bits."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        upper = np.asarray(image) >> 8
        return Image.fromarray(upper.clip(0, 255, out=upper).astype(np.uint8))
    raise InputError("pixels of 32 bits have no known range; save the image with 8 or 16 bits")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 (upright) without one and where its block is damaged."""
    if "exif" not in image.info and image.format != "TIFF":  # reading it takes time
        return 1
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # the block is damaged, but the pixels are sound
        return 1
    return value if isinstance(value, int) else 1
