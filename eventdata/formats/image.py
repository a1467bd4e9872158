"""Read one still image file as upright RGB or grey bytes."""

import ctypes
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from eventdata.errors import InputError, check_open_files
from eventdata.files.fetch import local_copy
from eventdata.files.local import check_plain

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # decoded by Pillow itself
MAX_PIXELS = 2**25  # decoding may take twenty bytes for each
ORIENTATION = 0x0112  # the EXIF tag
_TURNS = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE ROTATE_90"
UPRIGHT = {value: Image.Transpose[turn] for value, turn in enumerate(_TURNS.split(), start=2)}


def read_picture(path: Path | str, *, grey: bool = False) -> NDArray[np.uint8]:
    """Return the pixels of an image file, whose content and not its name decides its format.

    As in OpenCV's ``imread``, EXIF rotation is applied, transparency is dropped without blending,
    16 bits are reduced to the upper eight, and only the first of several pictures is read. A JPEG
    is decoded in full, since quick scaled decoding gives other pixels.

    Returns:
        uint8 (rows, columns, 3), which may be read-only, and have four bytes a pixel in memory.
        Grey images, and all with ``grey``, are (rows, columns); a JPEG's grey is the luma that it
        stores.

    Raises:
        InputError: the file is missing, not such an image, damaged, truncated or too large.
    """
    with local_copy(str(path)) as copy:
        return _read(copy, grey)


def _read(path: str, grey: bool) -> NDArray[np.uint8]:
    try:
        check_plain(path)
        with open(path, "rb") as file, warnings.catch_warnings():  # noqa: PTH123 a str
            # Odd metadata does no harm, and large sizes raise below.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as image:
                return _decode(image, grey)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise InputError(f"{path}: the file is missing; check the path") from None
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise InputError(f"{path}: not an image ({kinds}); convert or replace it") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: more than {MAX_PIXELS:,} pixels; scale it down") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds for damaged files
        check_open_files(error, path)
        raise InputError(f"{path}: can't be decoded ({error}); get the file again") from error


def _decode(image: Image.Image, grey: bool) -> NDArray[np.uint8]:
    """Return the upright pixels of an opened image."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(f"{height}x{width} pixels are more than {MAX_PIXELS:,}; scale it down")
    if grey and isinstance(image, JpegImageFile):
        image.draft("L", None)
    image.load()
    turn, mode = _turn(image), image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        upper = np.asarray(image) >> 8
        pixels = Image.fromarray(upper.clip(0, 255, out=upper).astype(np.uint8))
    elif mode.startswith(("I", "F")):
        raise InputError("pixels of 32 bits have no known range; save the image with 8 or 16 bits")
    elif mode in ("1", "LA") or (grey and mode != "L"):
        pixels = image.convert("L")
    else:
        pixels = image if mode in ("L", "RGB") else image.convert("RGB")
    return _pixels(pixels if turn is None else pixels.transpose(turn))


class _ArrowArray(ctypes.Structure):
    """The first fields of an array in Arrow's C data interface."""


_ArrowArray._fields_ = [
    ("counts", ctypes.c_int64 * 4),  # length, null_count, offset, n_buffers
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]
_get_pointer: Any = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


class _Memory:
    """The memory of a Pillow image, which NumPy reads in place: (H, W), or (H, W, 4) for RGB."""

    def __init__(self, image: Image.Image) -> None:
        _, self._owner = image.__arrow_c_array__()  # keeps the memory of a closed image
        array = _ArrowArray.from_address(_get_pointer(self._owner, b"arrow_array"))
        nested = array.n_children > 0
        if nested:
            array = array.children[0].contents
        self.__array_interface__ = {
            "shape": (image.height, image.width, 4) if nested else (image.height, image.width),
            "typestr": "|u1",
            "data": (array.buffers[1], True),  # read-only
            "version": 3,
        }


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels of an RGB or grey image, without a copy where Pillow shares them."""
    try:
        pixels = np.asarray(_Memory(image), np.uint8)
    except (AttributeError, ValueError):  # Pillow before 11.3, or an image in several blocks
        return np.asarray(image)
    return pixels[..., :3] if pixels.ndim == 3 else pixels


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return the transpose of the EXIF orientation; None without one or if its block is damaged."""
    value = None
    if "exif" in image.info or image.format == "TIFF":  # reading it takes time
        with suppress(Exception):  # the pixels are sound
            value = image.getexif().get(ORIENTATION)
    return UPRIGHT.get(value) if isinstance(value, int) else None
