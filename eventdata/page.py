"""A self-contained HTML page that plays samples: no network, all data inside.

Shapes: T steps, P polarities, C colour channels, H rows, W columns.
"""

import base64
import hashlib
import html
import json
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import OptionError
from eventdata.store.layout import SampleFormat

MAX_PAGE_BYTES = 100 * 10**6  # browsers become slow beyond
MAX_PAGE_CELLS = 1 << 29  # a byte each, once the browser has drawn the sample
MAX_BARS = 512  # steps of the chart of events
LEVELS = 15  # of each polarity; a byte has both


@dataclass(frozen=True, kw_only=True)
class PageSample:
    """A sample of a page; frames (T, P, H, W) or (1, C, H, W), None if the sample was skipped."""

    index: int
    name: str
    label: str
    events: int | None
    frames: NDArray[Any] | None


def make_page(
    title: str, facts: str, sample: SampleFormat, samples: Iterable[PageSample], *, scale: int = 1
) -> bytes:
    """Return the page.

    Args:
        title, facts: two lines at the top.
        sample: the shape and type of all samples.
        samples: the samples; frames are dropped as soon as they are encoded.
        scale: pixels on a side for each pixel of a frame, at first.

    Raises:
        OptionError: the page would be too large.
    """
    encoded = []
    total = 0
    for one in samples:
        encoded.append(_encode(one, sample))
        total += len(encoded[-1]["data"] or "")
        cells = len(encoded) * sample.height * sample.width * (sample.steps or 3)
        if total > MAX_PAGE_BYTES or cells > MAX_PAGE_CELLS:
            raise OptionError(
                f"the page would be too large with more than {len(encoded) - 1:,} of the samples; "
                "choose fewer of them with --index"
            )
    data = {
        "title": title,
        "facts": facts,
        "images": not sample.is_events,
        "steps": sample.steps or 1,
        "channels": 2 if sample.polarity == ["signed"] else sample.channels,
        "height": sample.height,
        "width": sample.width,
        "scale": scale,
        "samples": encoded,
    }
    # In JSON, < is only in texts. Escaped there, it can't end the script element.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    page = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {"HASH": f"sha256-{digest}", "TITLE": html.escape(title), "DATA": text}
    page = re.sub("@(HASH|TITLE|DATA)@", lambda found: parts[found[1]], page)
    return page.encode(errors="replace")


def _encode(one: PageSample, sample: SampleFormat) -> dict[str, Any]:
    """Return a sample as JSON values; bytes are compressed and in Base64."""
    facts: dict[str, Any] = {key: getattr(one, key) for key in ("index", "name", "label", "events")}
    if one.frames is None:
        return {**facts, "data": None}
    if sample.is_events:
        levels = _levels(one.frames, signed=sample.polarity == ["signed"])
        if 1 < len(levels) <= MAX_BARS:
            active = np.abs(one.frames).sum(axis=(1, 2, 3), dtype=np.float64)
            facts["activity"] = np.rint(100 * active / max(active.max(), 1e-9)).astype(int).tolist()
    else:  # grey or RGB
        image = np.moveaxis(one.frames[0], 0, -1)
        levels = np.broadcast_to(image, (*image.shape[:2], 3))
    return {**facts, "data": base64.b64encode(zlib.compress(levels.tobytes())).decode()}


def _levels(frames: NDArray[Any], *, signed: bool) -> NDArray[np.uint8]:
    """Return (T, H, W): 16 times the level of positive events, plus that of negative ones.

    A level grows with the square root of the value, so that few events are visible near many.
    """
    out = np.empty((len(frames), *frames.shape[2:]), np.uint8)
    largest = max(1.0, float(frames.max(initial=0)), -float(frames.min(initial=0)))
    for step, frame in enumerate(frames):
        values = frame.astype(np.float32)
        pair = (values[0].clip(0), (-values[0]).clip(0)) if signed else (values[0], values[-1])
        positive, negative = (np.ceil(LEVELS * np.sqrt(one / largest)) for one in pair)
        out[step] = 16 * positive + negative
    return out
