"""Read a video clip as evenly spread grey frames, from a folder of images or a video file."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eventdata.errors import InputError, OptionError, check_open_files, reading
from eventdata.files.local import check_plain
from eventdata.formats.image import read_picture
from eventdata.kernels.video import VideoSettings, frame_indices

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_FRAME_PIXELS = 4096 * 2304  # decoders keep seventeen frames of six bytes a pixel: under 1 GiB
CONTAINERS = "avi,mov,mp4,matroska,webm,mpeg,mpegts,flv,asf,ogg"  # in the terms of FFmpeg


def read_clip(path: Path | str, settings: VideoSettings) -> NDArray[np.uint8]:
    """Return the frames of a clip that ``settings`` select, keeping no others in memory.

    ``path`` is a folder with an image per frame, in natural order (frame 2 before 10), or a video
    file, which needs PyAV.

    Returns:
        uint8 (frames, rows, columns). Frames of another size are scaled. The grey of a JPEG is the
        luma that it stores; that of a video is its luma stretched to 0..255.

    Raises:
        InputError: the clip is missing, empty, damaged or cut short.
        OptionError: it is a video file, and PyAV is not installed.
    """
    path = Path(path)
    return _read_folder(path, settings) if path.is_dir() else _read_video(path, settings)


def natural_order(names: Sequence[str]) -> list[str]:
    """Sort names with their numbers compared as numbers: frame2 before frame10."""

    def key(name: str) -> tuple[list[str | int], str]:
        parts = re.split(r"([0-9]+)", name)  # text and numbers alternate
        return [int(part) if i % 2 else part for i, part in enumerate(parts)], name

    return sorted(names, key=key)


def _read_folder(folder: Path, settings: VideoSettings) -> NDArray[np.uint8]:
    with reading(folder):
        files = [file.name for file in folder.iterdir() if not file.name.startswith(".")]
    names = natural_order([name for name in files if name.lower().endswith(FRAME_SUFFIXES)])
    if not names:
        raise InputError(f"{folder}: no frames ({', '.join(FRAME_SUFFIXES)}); check the folder")
    indices = frame_indices(len(names), settings.frames)
    frames = {}
    for index in set(indices.tolist()):
        frame = read_picture(folder / names[index], grey=True)
        if frame.shape != settings.size:
            method = {"area": "BOX"}.get(settings.interpolation, settings.interpolation.upper())
            scaled = Image.fromarray(frame).resize(settings.size[::-1], Image.Resampling[method])
            frame = np.asarray(scaled)
        frames[index] = frame
    return np.stack([frames[index] for index in indices.tolist()])


def _read_video(path: Path, settings: VideoSettings) -> NDArray[np.uint8]:
    _check_whole(path)
    # If the header states a wrong number of frames, the first pass has counted them for a second.
    expected, count, frames = _decode(path, settings, None)
    if expected != count > 0:
        expected, count, frames = _decode(path, settings, count)
    if count == 0:
        raise InputError(f"{path}: no frames in this video; get the file again")
    if expected != count:
        raise InputError(f"{path}: decodes to {expected} or {count} frames; get the file again")
    return frames


def _decode(
    path: Path, settings: VideoSettings, expected: int | None
) -> tuple[int, int, NDArray[np.uint8]]:
    """Decode all frames and keep those that a clip of ``expected`` frames needs.

    Return the number expected (by default the header's), the number found, and the frames, which
    are undefined where these numbers differ.
    """
    try:
        import av
        from av.codec.context import Flags
        from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
    except ImportError:
        raise OptionError("videos need PyAV; run: pip install 'eventdata[video]'") from None

    name = {"nearest": "POINT"}.get(settings.interpolation, settings.interpolation.upper())
    # Exact rounding, also in the decoder, gives the same bytes on every processor.
    method = Interpolation[name] | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
    scaling: Any = {"interpolation": method, "dst_color_range": ColorRange.JPEG, "threads": 1}
    scaler, count, row = VideoReformatter(), 0, 0
    height, width = settings.size
    kept = np.empty((settings.frames, height, width), np.uint8)
    try:
        # The name may look like an address, and a file that passes for a video may list others.
        only = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
        try:
            container = av.open(f"file:{path}", options=only)
        except av.error.ArgumentError:
            raise InputError(f"{path}: not a video in one of the containers {CONTAINERS}") from None
        with container:
            if not container.streams.video:
                raise InputError(f"{path}: no video in this file; get the file again")
            stream = container.streams.video[0]
            decoder = stream.codec_context
            if decoder is None:
                raise InputError(f"{path}: FFmpeg has no decoder for its codec here; convert it")
            # Frames may differ from the header.
            decoder.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
            if decoder.width * decoder.height > MAX_FRAME_PIXELS:
                raise InputError(f"{path}: more than {MAX_FRAME_PIXELS} pixels; scale it down")
            decoder.thread_count = 1  # clips are read in parallel, not frames
            decoder.flags |= Flags.bitexact
            expected = stream.frames if expected is None else expected
            # A short clip shows some frames several times.
            rows = Counter(frame_indices(expected or 1, settings.frames).tolist())
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise InputError(f"{path}: frame {count} is damaged; get the file again")
                if count in rows:
                    scaled = scaler.reformat(frame, width, height, "gray", **scaling)
                    kept[row : row + rows[count]] = scaled.to_ndarray()
                    row += rows[count]
                count += 1
    except InputError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        check_open_files(error, path)
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: can't be decoded ({reason}); get the file again") from error
    return expected, count, kept


def _check_whole(path: Path) -> None:
    """Raise ``InputError`` for a missing file, and for an AVI that was cut between two frames."""
    with reading(path):
        size = check_plain(path).st_size
        with path.open("rb") as file:
            head = file.read(12)
    whole = int.from_bytes(head[4:8], "little") + 8
    if head[:4] + head[8:] == b"RIFFAVI " and size < whole:
        raise InputError(f"{path}: cut short, {size} of {whole} bytes; get the file again")
