"""Pictures of stored samples: the steps of one, a contact sheet, an animation, or a page.

Positive events are blue and negative ones vermilion on white, colours of Okabe and Ito's palette
that colour-blind readers can distinguish. If both fall on a pixel, the colours mix to dark.

Shapes: T steps, K planes, P polarities, C colour channels, H rows, W columns.
"""

import math
import os
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from eventdata.errors import OptionError, writing
from eventdata.files.local import write_whole
from eventdata.page import PageSample, make_page
from eventdata.store.layout import SampleFormat
from eventdata.store.read import Split, Store

POSITIVE = (0, 114, 178)
NEGATIVE = (213, 94, 0)
INK = (40, 40, 40)
GAP = 6
CAPTION = 14
TITLE = 20
STEP_MILLISECONDS = 120
MAX_TILES = 256
_LEGENDS = {1: "dark: events", 2: "blue: positive, vermilion: negative"}  # by number of channels
MAX_PIXELS = 1 << 26
MAX_MOVING_PIXELS = 1 << 28  # in all pictures of an animation
MAX_CELLS = 1 << 30  # (step, polarity, row, column) in memory at once

_ENDINGS = (".png", ".gif", ".mp4", ".html")

Rgb = NDArray[np.uint8]


def show(
    store: Store, split: str, index: str, out: str | os.PathLike[str], *, scale: int = 1
) -> Path:
    """Write a picture, an animation or a page of samples of a split, by the ending of ``out``.

    A .png is a picture, a .gif or .mp4 an animation over steps, and an .html a self-contained page
    that plays the samples.

    Args:
        index: ``7``, ``-1``, or a range ``0:16`` or ``0:100:10``. A picture of a range is a contact
            sheet with the busiest step of each sample.
        scale: pixels on a side for each pixel of a frame.

    Raises:
        OptionError: the path, split, index or size is not possible, or PyAV is missing.
    """
    path = Path(out)
    ending = path.suffix.lower()
    if ending not in _ENDINGS:
        endings = f"{', '.join(_ENDINGS[:-1])} or {_ENDINGS[-1]}"
        raise OptionError(f"{path}: a picture must be {endings}; choose such a name")
    moving = ending in (".gif", ".mp4")
    part = store.split(split)
    chosen, sample = parse_index(index, len(part)), part.sample
    if ending == ".html":
        _check_channels(sample)
        with writing(path):
            write_whole({path: _page(store, part, chosen, scale)})
        return path
    _check_size(sample, len(chosen), scale, moving=moving)
    titles = [_title(store, part, number) for number in chosen]
    images = not sample.is_events
    signed = sample.polarity == ["signed"]
    draw = paint_image if images else partial(paint_events, signed=signed)
    legend = "" if images else _LEGENDS.get(2 if signed else sample.channels, "")

    def sheet(tiles: Sequence[Rgb], captions: list[str], title: str = "") -> Image.Image:
        return _sheet([draw(tile) for tile in tiles], captions, scale, legend, title)

    dense = (_dense(part, number) for number in chosen)
    steps = range(sample.steps or 1)
    if moving:
        samples = list(dense)
        pictures = [sheet([frames[step] for frames in samples], titles) for step in steps]
    elif len(chosen) == 1 and len(steps) > 1:
        pictures = [sheet([*next(dense)], [f"step {step + 1}" for step in steps], titles[0])]
    else:
        pictures = [sheet([frames[busiest_step(frames)] for frames in dense], titles)]
    if ending == ".mp4":
        film = _film(pictures)
        with writing(path):
            write_whole({path: film})
        return path
    animation: dict[str, Any] = {"save_all": True, "append_images": pictures[1:], "loop": 0}
    animation["duration"] = STEP_MILLISECONDS
    with writing(path):
        pictures[0].save(path, **(animation if moving else {}))
    return path


def _check_size(sample: SampleFormat, count: int, scale: int, *, moving: bool) -> None:
    """Raise OptionError if samples or pictures would take too much memory."""
    steps, height, width = sample.steps or 1, sample.height, sample.width
    cells = steps * sample.channels * height * width * (count if moving else 1)
    tile = (scale * height + GAP + CAPTION) * (scale * width + GAP)
    painted = tile * (count * steps if moving else max(count, steps if count == 1 else 1))
    if cells > MAX_CELLS or painted > (MAX_MOVING_PIXELS if moving else MAX_PIXELS):
        raise OptionError("the picture would be too large; choose a smaller --scale or --index")
    _check_channels(sample)


def _check_channels(sample: SampleFormat) -> None:
    if not sample.is_events and sample.channels not in (1, 3):
        raise OptionError(f"images of {sample.channels} channels can't be drawn, only 1 or 3")


def parse_index(text: str, count: int) -> list[int]:
    """Return the samples of ``7``, ``-1``, ``0:16`` or ``0:100:10`` in a split of ``count``."""
    try:
        numbers = [int(part) if part else None for part in text.split(":")]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 3 or numbers == [None]:
        raise OptionError(f"--index {text!r}: pass a number (7) or a range (0:16)")
    if len(numbers) == 1:
        number = numbers[0] or 0
        if not -count <= number < count:
            raise OptionError(f"--index {text}: the split has {count:,} samples, from 0")
        return [number % count]
    if numbers[2:] == [0]:
        raise OptionError(f"--index {text}: the range's step can't be 0")
    chosen = range(count)[slice(*numbers)]
    if not 0 < len(chosen) <= MAX_TILES:
        raise OptionError(
            f"--index {text}: {len(chosen):,} of {count:,} samples; choose 1 to {MAX_TILES}"
        )
    return list(chosen)


def paint_events(frame: NDArray[Any], *, signed: bool = False) -> Rgb:
    """Return a step (P, H, W) of events as RGB (H, W, 3), cells relative to the largest.

    In ``signed`` frames (1, H, W) cells below 0 are negative events.
    """
    weights = frame.astype(np.float32)
    weights /= max(1, float(abs(weights).max()))
    if signed:
        return _mix(weights[0].clip(0), (-weights[0]).clip(0))
    return _mix(weights[0], weights[-1])  # merged polarities are both: dark


def paint_image(image: NDArray[Any]) -> Rgb:
    """Return an image (C, H, W), grey or RGB, as RGB (H, W, 3)."""
    return np.ascontiguousarray(np.broadcast_to(np.moveaxis(image, 0, -1), (*image.shape[1:], 3)))


def busiest_step(frames: NDArray[Any]) -> int:
    """Return the step of (T, P, H, W) with the most events; all steps would make edges dark."""
    return int(np.argmax(abs(frames).sum(axis=(1, 2, 3), dtype=np.float64)))


def _mix(positive: NDArray[np.float32], negative: NDArray[np.float32]) -> Rgb:
    """Return white minus the colours' complements, by weights (H, W) from 0 to 1."""
    rgb = np.full((*positive.shape, 3), 255, np.float32)
    rgb -= positive[..., None] * (255 - np.array(POSITIVE, np.float32))
    rgb -= negative[..., None] * (255 - np.array(NEGATIVE, np.float32))
    return np.clip(rgb, 0, 255).astype(np.uint8)


def _dense(split: Split, index: int) -> NDArray[Any]:
    """Return the frames (T, P, H, W) of a sample; zeros if skipped; images as one step."""
    sample = split.sample
    packed = np.zeros(sample.packed_shape, sample.dtype)
    if split.valid[index]:
        split.reader().read(index, packed)
    frames = np.moveaxis(packed, -1, 1)  # (K, P, H, W)
    if sample.is_packed:
        return np.unpackbits(frames, axis=0, count=sample.steps)
    return frames


def _page(store: Store, split: Split, chosen: Sequence[int], scale: int) -> bytes:
    """Return a page of samples, each read when it is encoded."""
    sample, header = split.sample, store.header
    samples = (
        PageSample(
            index=index,
            name=str(split.sample_names[index]),
            label=header.class_name(int(split.labels[index])),
            events=int(split.event_counts[index]) if sample.is_events else None,
            frames=_dense(split, index) if split.valid[index] else None,
        )
        for index in chosen
    )
    shape = " x ".join(map(str, sample.dense_shape))
    facts = f"split {split.name}, {len(chosen):,} of {len(split):,} samples, {shape}"
    title = f"{header.dataset}, {header.representation}"
    return make_page(title, facts, sample, samples, scale=scale)


def _film(pictures: Sequence[Image.Image]) -> bytes:
    """Return an .mp4 of pictures of one size, in H.264, whose sides must be even."""
    try:
        import av
    except ImportError:
        raise OptionError(".mp4 needs PyAV; run: pip install 'eventdata[video]'") from None
    file = BytesIO()
    with av.open(file, "w", format="mp4") as container:
        options = {"crf": "16", "threads": "1"}  # threads would make other bytes
        stream = container.add_stream("libx264", Fraction(1000, STEP_MILLISECONDS), options)
        stream.width, stream.height = (side + side % 2 for side in pictures[0].size)
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            whole = Image.new("RGB", (stream.width, stream.height), "white")
            whole.paste(picture)
            frame = av.VideoFrame.from_ndarray(np.asarray(whole))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def _title(store: Store, split: Split, index: int) -> str:
    name = f"{split.name} {index}: {split.sample_names[index]}"
    if not split.valid[index]:
        return f"{name} (skipped)"
    name += f", {store.header.class_name(int(split.labels[index]))}"
    return f"{name}, {split.event_counts[index]:,} events" if split.sample.is_events else name


def _sheet(
    tiles: Sequence[Rgb], captions: Sequence[str], scale: int, legend: str, title: str = ""
) -> Image.Image:
    """Return tiles in rows under their captions, as near to 16:9 as possible."""
    height, width = (scale * side for side in tiles[0].shape[:2])
    columns = _columns(len(tiles), width / height)
    rows = -(-len(tiles) // columns)
    top = TITLE if title else 0
    caption = CAPTION if any(captions) else 0
    total = GAP + top + rows * (height + caption + GAP) + (CAPTION if legend else 0)
    sheet = Image.new("RGB", (GAP + columns * (width + GAP), total), "white")
    draw = ImageDraw.Draw(sheet)
    small, large = ImageFont.load_default(10), ImageFont.load_default(13)
    draw.text((GAP, 3), _shorten(title, sheet.width, large), INK, large)
    for number, (tile, text) in enumerate(zip(tiles, captions, strict=True)):
        row, column = divmod(number, columns)
        left = GAP + column * (width + GAP)
        upper = GAP + top + row * (height + caption + GAP)
        draw.text((left, upper), _shorten(text, width, small), INK, small)
        picture = Image.fromarray(tile).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(picture, (left, upper + caption))
        frame = (left - 1, upper + caption - 1, left + width, upper + caption + height)
        draw.rectangle(frame, outline=(200,) * 3)
    draw.text((GAP, total - CAPTION), legend, INK, small)
    return sheet


def _columns(tiles: int, aspect: float) -> int:
    """Return the tiles a row: near to 16:9, with few empty places in the last row."""
    best = math.sqrt(tiles * 16 / 9 / aspect)
    least = min(tiles, max(1, math.floor(0.7 * best)))
    near = range(least, max(least, min(tiles, math.ceil(1.3 * best))) + 1)
    return min(near, key=lambda columns: (-tiles % columns, abs(columns - best)))


def _shorten(text: str, width: int, font: Any) -> str:
    """Return the text, cut at its end if it is wider than its tile."""
    text = "".join(one if one.isprintable() else "?" for one in text[: width + 1])
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
