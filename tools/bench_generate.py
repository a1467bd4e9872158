"""Images and clips -> packed frames, beside decoding alone and the published steps in torch.

    python tools/bench_generate.py [--images DIR] [--clips DIR] [--json]

Three ratios, on one thread: a plain torch statement of the published ODG over our kernel, both on
an image just decoded; image file -> packed frames over decoding the JPEG alone; clip -> packed
frames over decoding it and scaling the frames it is made of. In each round all ways take turns on
each file, so that a noisy machine is noisy for all; a ratio is taken within a round.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from eventdata.kernels.odg import PUBLISHED_TRACE, OdgSettings, image_frames
from eventdata.kernels.video import VideoSettings, clip_frames, frame_indices
from eventdata.raw.clips import read_clip
from eventdata.raw.pictures import read_picture

Times = dict[str, list[float]]


@click.command()
@click.option("--images", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--clips", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--limit", type=click.IntRange(1), help="Files of each kind, evenly spread.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def main(
    images: Path | None, clips: Path | None, limit: int | None, repeats: int, as_json: bool
) -> None:
    """Measure on the JPEGs under --images and the AVIs under --clips."""
    torch.set_num_threads(1)
    results = {}
    for kind, folder, patterns, measure in (
        ("image", images, ("*.jpg", "*.jpeg", "*.JPEG"), measure_images),
        ("clip", clips, ("*.avi",), measure_clips),
    ):
        if folder is not None:
            paths = sorted(path for pattern in patterns for path in folder.rglob(pattern))
            paths = paths[:: max(1, -(-len(paths) // limit))] if limit else paths
            if not paths:
                raise click.UsageError(f"{folder}: no {', '.join(patterns)} under it")
            results[kind] = summarise(measure(paths, repeats), len(paths))
    if not results:
        raise click.UsageError("nothing to measure: give --images, --clips or both")
    if as_json:
        click.echo(json.dumps(results, indent=2))
    else:
        for kind, result in results.items():
            print_table(kind, result)


def measure_images(paths: list[Path], repeats: int) -> Times:
    """Seconds a round of each way, the sum over all images."""
    published, centred = OdgSettings(mode="published", min_events=0), OdgSettings(min_events=0)
    area = OdgSettings(resampling="area", min_events=0)
    out = np.empty(centred.frames_shape, np.uint8)

    def fresh(path: Path) -> NDArray[np.uint8]:
        return np.asarray(Image.open(path).convert("RGB"))

    return take_turns(
        paths,
        repeats,
        {
            "torch, published steps": (fresh, published_steps),
            "kernel, published": (fresh, lambda image: image_frames(image, published, out)),
            "kernel, centred": (fresh, lambda image: image_frames(image, centred, out)),
            "kernel, centred, area": (fresh, lambda image: image_frames(image, area, out)),
            "JPEG decoding": (Path, lambda path: Image.open(path).load()),
            "file to frames": (Path, lambda path: image_frames(read_picture(path), centred, out)),
        },
    )


def measure_clips(paths: list[Path], repeats: int) -> Times:
    """Seconds a round of each way, the sum over all clips."""
    settings, drawn = VideoSettings(), VideoSettings(mode=2)
    out = np.empty(settings.frames_shape, np.uint8)

    def fresh(path: Path) -> NDArray[np.uint8]:
        return read_clip(path, settings)

    return take_turns(
        paths,
        repeats,
        {
            "NumPy, published steps": (fresh, published_differences),
            "kernel, mode 1": (fresh, lambda grey: clip_frames(grey, settings, out)),
            "kernel, mode 2": (fresh, lambda grey: clip_frames(grey, drawn, out)),
            "decoding": (Path, lambda path: decode_clip(path, None)),
            "decoding and scaling": (Path, lambda path: decode_clip(path, settings)),
            "file to frames": (
                Path,
                lambda path: clip_frames(read_clip(path, settings), settings, out),
            ),
        },
    )


def take_turns(
    paths: list[Path],
    repeats: int,
    ways: dict[str, tuple[Callable[[Path], Any], Callable[[Any], Any]]],
) -> Times:
    """Times each way's second function on what its first, untimed, made of a path."""
    times: Times = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        spent = dict.fromkeys(ways, 0.0)
        for path in paths if repeat else paths[:1]:  # the first, uncounted, compiles
            for name, (prepare, run) in ways.items():
                given = prepare(path)
                started = time.perf_counter()
                run(given)
                spent[name] += time.perf_counter() - started
        for name in ways if repeat else ():
            times[name].append(spent[name])
    return times


def published_steps(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The published ODG as one would write it in torch: events of an image (H, W, 3)."""
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
    """The published video differences as one would write them in NumPy."""
    change = np.diff(grey / 255.0, axis=0)
    lower, upper = np.percentile(change, [7.5, 92.5])
    return np.stack([change > upper, change < lower]).astype(np.uint8)


def decode_clip(path: Path, settings: VideoSettings | None) -> None:
    """Decode a whole clip on one thread and scale the frames that settings ask for, by PyAV."""
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


RATIOS = {  # name: numerator, denominator
    "torch / kernel": ("torch, published steps", "kernel, published"),
    "image file to frames / JPEG decoding": ("file to frames", "JPEG decoding"),
    "NumPy / kernel": ("NumPy, published steps", "kernel, mode 1"),
    "clip to frames / decoding and scaling": ("file to frames", "decoding and scaling"),
}


def summarise(times: Times, files: int) -> dict[str, Any]:
    """Milliseconds a file and ratios, each as the middle of all rounds."""
    ratios = {
        name: np.divide(times[above], times[below])
        for name, (above, below) in RATIOS.items()
        if above in times and below in times
    }
    return {
        "files": files,
        "ms": {name: middle(1e3 * np.array(spent) / files) for name, spent in times.items()},
        "ratios": {name: middle(values) for name, values in ratios.items()},
    }


def middle(values: NDArray[np.float64]) -> dict[str, float]:
    """Median, and half of the distance between the quartiles."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": round(median, 4), "spread": round((high - low) / 2, 4)}


def print_table(kind: str, result: dict[str, Any]) -> None:
    """One kind's times and ratios."""
    table = Table(title=f"{result['files']} {kind} files: median ± half the quartiles' distance")
    table.add_column("")
    table.add_column(f"ms a {kind}", justify="right")
    table.add_column("ratio", justify="right")
    for name, value in result["ms"].items():
        table.add_row(name, f"{value['median']:.3g} ± {value['spread']:.1g}", "")
    table.add_section()
    for name, value in result["ratios"].items():
        table.add_row(name, "", f"{value['median']:.3g} ± {value['spread']:.1g}")
    Console().print(table)


if __name__ == "__main__":
    main()
