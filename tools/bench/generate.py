"""Generate packed frames from images and clips: ours against decoding and the published steps.

    python tools/bench/generate.py [--images DIR] [--clips DIR] [--output result.json]

All methods run on one thread. Kernels get a decoded image or clip and are compared with the
published steps in plain code; their floor is one copy of the bytes that they read and write. The
path from file to packed frames is compared with decoding only, which is its floor. All methods take
turns on a few files each, so that a busy machine slows all of them and each finds its code and
memory in the caches, as in a conversion.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from eventdata.formats.image import read_picture
from eventdata.formats.video import read_clip
from eventdata.kernels.odg import PUBLISHED_TRACE, OdgSettings, image_frames
from eventdata.kernels.video import VideoSettings, clip_frames, frame_indices
from tools.bench.report import ResultFile, Timing, copy_bandwidth, report, runs_option

WHOLE = "file to frames"
FILES = 16  # of a turn
Method = tuple[
    Callable[[Path], Any], Callable[[Any], Any]
]  # an untimed function of a path, and a timed one of its result


@click.command()
@click.option("--images", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--clips", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--limit", type=click.IntRange(1), help="Number of files of each kind, evenly spread."
)
@runs_option(5)
@click.option(
    "--output",
    type=ResultFile(),
    help="Write JSON to STEM-image.json and STEM-clip.json of this STEM.json.",
)
def main(
    images: Path | None, clips: Path | None, limit: int | None, runs: int, output: Path | None
) -> None:
    """Measure on the JPEGs under --images and the AVIs under --clips."""
    torch.set_num_threads(1)
    if images is None and clips is None:
        raise click.UsageError("nothing to measure; pass --images, --clips or both")
    for kind, folder, patterns, measure in (
        ("image", images, ("*.jpg", "*.jpeg", "*.JPEG"), measure_images),
        ("clip", clips, ("*.avi",), measure_clips),
    ):
        if folder is None:
            continue
        paths = sorted(path for pattern in patterns for path in folder.rglob(pattern))
        paths = paths[:: max(1, -(-len(paths) // limit))] if limit else paths
        if not paths:
            raise click.UsageError(
                f"{folder}: no {', '.join(patterns)} in this folder; pass another one"
            )
        timings, floors, facts = measure(paths, runs)
        report(
            f"{kind.capitalize()}s to packed frames, one thread",
            timings,
            WHOLE,
            {"files": len(paths), **facts},
            output and output.with_stem(f"{output.stem}-{kind}"),
            floors=floors,
            unit=f"ms/{kind}",
            packages=("numba", "numpy", "pillow", "torch") if kind == "image" else ("av", "numba"),
        )


Measured = tuple[dict[str, Timing], dict[str, float], dict[str, object]]


def measure_images(paths: list[Path], runs: int) -> Measured:
    """Return times of all methods, floors and ratios."""
    published, centred = OdgSettings(mode="published", min_events=0), OdgSettings(min_events=0)
    area = OdgSettings(resampling="area", min_events=0)
    out = np.empty(centred.frames_shape, np.uint8)

    def fresh(path: Path) -> NDArray[np.uint8]:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))

    def decode(path: Path) -> None:
        with Image.open(path) as image:
            image.load()

    timings = take_turns(
        paths,
        runs,
        {
            WHOLE: (Path, lambda path: image_frames(read_picture(path), centred, out)),
            "JPEG decoding": (Path, decode),
            "kernel, published": (fresh, lambda image: image_frames(image, published, out)),
            "kernel, centred": (fresh, lambda image: image_frames(image, centred, out)),
            "kernel, centred, area": (fresh, lambda image: image_frames(image, area, out)),
            "torch, published steps": (fresh, published_steps),
        },
    )
    pixels = float(np.mean([fresh(path).size for path in paths]))
    return with_floors(timings, pixels + out.nbytes, "JPEG decoding", "torch, published steps")


def measure_clips(paths: list[Path], runs: int) -> Measured:
    """Return times of all methods, floors and ratios."""
    settings, drawn = VideoSettings(), VideoSettings(mode=2)
    counted = VideoSettings(mode=2, draws="counter")
    out = np.empty(settings.frames_shape, np.uint8)

    def fresh(path: Path) -> NDArray[np.uint8]:
        return read_clip(path, settings)

    timings = take_turns(
        paths,
        runs,
        {
            WHOLE: (Path, lambda path: clip_frames(read_clip(path, settings), settings, out)),
            "decoding and scaling": (Path, lambda path: decode_clip(path, settings)),
            "decoding": (Path, lambda path: decode_clip(path, None)),
            "kernel, published": (fresh, lambda grey: clip_frames(grey, settings, out)),
            "kernel, mode 2": (fresh, lambda grey: clip_frames(grey, drawn, out)),
            "kernel, mode 2, counter": (fresh, lambda grey: clip_frames(grey, counted, out)),
            "NumPy, published steps": (fresh, published_differences),
        },
    )
    grey = float(np.prod((settings.frames, *settings.size)))
    return with_floors(timings, grey + out.nbytes, "decoding and scaling", "NumPy, published steps")


def with_floors(timings: dict[str, Timing], moved: float, decoding: str, plain: str) -> Measured:
    """Add floors, for kernels a copy of ``moved`` bytes, and ratios."""
    bandwidth = copy_bandwidth()
    floors = {name: 1e3 * moved / bandwidth for name in timings if name.startswith("kernel")}
    floors[WHOLE] = timings[decoding].median
    kernel = timings["kernel, published"].median
    facts: dict[str, object] = {
        f"{plain}, over the kernel": round(timings[plain].median / kernel, 2),
        f"{WHOLE}, over {decoding}": round(timings[WHOLE].median / timings[decoding].median, 3),
        "copy, read and written": f"{bandwidth / 1e9:.1f} GB/s",
    }
    return timings, floors, facts


def take_turns(paths: list[Path], runs: int, methods: dict[str, Method]) -> dict[str, Timing]:
    """Return each method's milliseconds per file."""
    names = list(methods)
    times: dict[str, list[float]] = {name: [] for name in names}
    for run in range(runs + 1):
        spent = dict.fromkeys(names, 0.0)
        chosen = paths if run else paths[:1]  # the first run, not counted, compiles
        for start in range(0, len(chosen), FILES):
            for name in names[:: (-1) ** (start // FILES)]:
                prepare, work = methods[name]
                given = [prepare(path) for path in chosen[start : start + FILES]]
                started = time.perf_counter()
                for one in given:
                    work(one)
                spent[name] += time.perf_counter() - started
        for name in names if run else ():
            times[name].append(1e3 * spent[name] / len(paths))
    return {name: Timing(tuple(values)) for name, values in times.items()}


def published_steps(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Generate the events of an image (H, W, 3) as the published ODG does, in torch."""
    brightness = torch.from_numpy(image / 255.0).permute(2, 0, 1)[None]
    height, width = brightness.shape[2:]
    longest = max(height, width)
    a, b = height * 254 // longest, width * 254 // longest
    plane = torch.nn.functional.interpolate(brightness, size=(a, b), mode="nearest")[0].amax(0)
    events: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    last = torch.zeros(a + 4, b + 4, dtype=torch.float64)
    for step, (y, x) in enumerate(PUBLISHED_TRACE):
        new = torch.zeros_like(last)
        new[y : y + a, x : x + b] = plane
        if step:
            y0, x0 = PUBLISHED_TRACE[step - 1]
            change = new - last
            for hit, found in zip((change > 0.18, change < -0.18), events, strict=True):
                for edge in (0, a):
                    hit[min(y, y0) + edge : max(y, y0) + edge] = False
                for edge in (0, b):
                    hit[:, min(x, x0) + edge : max(x, x0) + edge] = False
                places = hit.nonzero()
                places = places[((places > 16) & (places < 240)).all(1)]
                found.append(torch.cat([places, torch.full((len(places), 1), step)], 1))
        last = new
    pos, neg = (torch.cat(found).to(torch.uint8).numpy() for found in events)
    return pos, neg


def published_differences(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Compute the published video differences in NumPy."""
    change = np.diff(grey / 255.0, axis=0)
    lower, upper = np.percentile(change, [7.5, 92.5])
    return np.stack([change > upper, change < lower]).astype(np.uint8)


def decode_clip(path: Path, settings: VideoSettings | None) -> None:
    """Decode a clip with PyAV on one thread and scale the frames selected by the settings."""
    import av
    from av.video.reformatter import VideoReformatter

    scaler = VideoReformatter()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        wanted = set(frame_indices(stream.frames, settings.frames).tolist()) if settings else ()
        for index, frame in enumerate(container.decode(stream)):
            if settings and index in wanted:
                height, width = settings.size
                scaler.reformat(frame, width, height, "gray", threads=1).to_ndarray()


if __name__ == "__main__":
    main()
