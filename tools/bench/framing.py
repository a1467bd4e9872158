"""Events -> frames beside Tonic's ToFrame, on recordings.

Each row is one recording cut one way. Ours is measured as packed binary frames, as counts in uint8
(the store's default; uint16 where that is too narrow) and in uint16 (as many bytes as Tonic's
int16), into an array that is used again as a conversion does; checking the events, once in a
conversion, is its own column. All run in turn, in one process. The floors are what frames cost at
least: reading the events and writing the frames once, at the speed of a copy.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import tonic.transforms
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.events import Events, SensorSize, check_events
from eventdata.formats.recording import DECODERS, read_events
from eventdata.kernels.framing import Framing, frame_edges, frame_events
from tools.bench.report import (
    copy_bandwidth,
    machine,
    markdown,
    new_figure,
    output_option,
    show,
    write,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]


@click.command()
@click.argument("recordings", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--window", default=10_000, show_default=True, help="Microseconds a frame.")
@click.option("--events-per-frame", default=3_000, show_default=True, help="Events a frame.")
@click.option("--frames", default=10, show_default=True, help="Number of frames.")
@click.option("--repeats", default=7, show_default=True, help="Runs of each; the median counts.")
@output_option
def main(
    recordings: Path,
    window: int,
    events_per_frame: int,
    frames: int,
    repeats: int,
    output: Path | None,
) -> None:
    """Measure framing on all event files in the folder RECORDINGS."""
    ways: dict[str, tuple[dict[str, int], dict[str, int]]] = {
        "time window": ({"window": window}, {"time_window": window}),
        "event count": ({"events_per_frame": events_per_frame}, {"event_count": events_per_frame}),
        "number of bins": ({"frames": frames}, {"n_time_bins": frames}),
    }
    bandwidth = copy_bandwidth()
    rows: list[Row] = []
    for path in sorted(path for path in recordings.iterdir() if path.suffix in DECODERS):
        events, size = read_events(path)
        for way, (ours, tonics) in ways.items():
            row = measure(events, size, ours, tonics, repeats, bandwidth)
            rows.append({"recording": path.name, "way": way, "events": len(events)} | row)
    summary = {
        way: {
            kind: round(
                statistics.geometric_mean(row[kind] for row in rows if row["way"] == way), 1
            )
            for kind in ("times_faster_packed", "times_faster_count", "times_faster_count16")
        }
        for way in ways
    }
    title = "Events to frames: ms, median ± half the quartiles' distance"
    lines = [cells(row) for row in rows]
    here = machine(("numba", "numpy", "tonic"))
    told: dict[str, object] = {"copy, read and written": f"{bandwidth / 1e9:.1f} GB/s"}
    for way, means in summary.items():
        packed, *counts = means.values()
        told[f"times as fast as Tonic, by {way}"] = (
            f"{packed} packed, {' and '.join(map(str, counts))} as counts in uint8 and in uint16 "
            "(geometric means)"
        )
    told |= here
    show(title, HEAD, lines, told)
    if output is not None:
        result = {"machine": here, "copy_gb_s": round(bandwidth / 1e9, 2), "rows": rows}
        result |= {"geometric_mean": summary}
        write(output, result, markdown(title, HEAD, lines, told), plot(title, rows))


def plot(title: str, rows: list[Row]) -> Figure | None:
    """A point a recording: how many times as fast as Tonic over the number of events."""
    figure = new_figure(4)
    if figure is None:
        return None
    axes = figure.subplots()
    for way in dict.fromkeys(row["way"] for row in rows):
        mine = [row for row in rows if row["way"] == way]
        ratios = [row["times_faster_packed"] for row in mine]
        axes.plot([row["events"] for row in mine], ratios, "o", label=way)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("events of the recording")
    axes.set_ylabel("times as fast as Tonic, packed")
    axes.set_title(title, fontsize=10)
    axes.legend()
    return figure


def measure(
    events: Events,
    size: SensorSize,
    ours: dict[str, int],
    tonics: dict[str, int],
    repeats: int,
    bandwidth: float,
) -> Row:
    """Median times and their spread of one recording, cut one way."""
    binary = Framing(**ours)  # type: ignore[arg-type]
    count = Framing(**ours, representation="count")  # type: ignore[arg-type]
    steps, (width, height) = len(frame_edges(events["t"], binary).start), size
    packed = np.empty((-(-steps // 8), height, width, 2), np.uint8)
    counts: NDArray[Any] = np.empty((steps, height, width, 2), np.uint8)
    try:
        frame_events(events, count, counts)
    except InputError:  # a pixel with more events than that in one frame
        counts = np.empty((steps, height, width, 2), np.uint16)
    wide = np.empty((steps, height, width, 2), np.uint16)
    to_frame = tonic.transforms.ToFrame(sensor_size=(width, height, 2), **tonics)
    runs: dict[str, Callable[[], Any]] = {
        "packed": lambda: frame_events(events, binary, packed),
        "count": lambda: frame_events(events, count, counts),
        "count16": lambda: frame_events(events, count, wide),
        "tonic": lambda: to_frame(events),
        "check": lambda: check_events(events, size),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if repeat:  # the first run compiles, and fills the caches
                times[name].append(1e3 * (time.perf_counter() - started))
    medians = {name: statistics.median(values) for name, values in times.items()}
    floors = {
        name: 1e3 * (events.nbytes + out.nbytes) / bandwidth
        for name, out in (("packed", packed), ("count", counts), ("count16", wide))
    }
    return {
        "frames": steps,
        **{f"{name}_ms": round(median, 4) for name, median in medians.items()},
        **{f"{name}_spread_ms": round(spread(values), 4) for name, values in times.items()},
        **{f"{name}_floor_ms": round(floor, 4) for name, floor in floors.items()},
        **{f"{name}_over_floor": round(medians[name] / floors[name], 1) for name in floors},
        **{f"times_faster_{name}": round(medians["tonic"] / medians[name], 1) for name in floors},
    }


def spread(values: list[float]) -> float:
    """Half of the distance between the quartiles."""
    low, high = np.percentile(values, [25, 75])
    return float(high - low) / 2


HEAD = (
    *("recording", "way", "events", "frames", "Tonic", "packed", "count", "count16", "check"),
    *("Tonic/packed", "Tonic/count", "Tonic/count16", "packed/floor", "count/floor"),
)


def cells(row: Row) -> tuple[str, ...]:
    """What the table has of a row, in the order of `HEAD`."""
    ways = ("tonic", "packed", "count", "count16", "check")
    ratios = [f"times_faster_{name}" for name in ("packed", "count", "count16")]
    return (
        row["recording"],
        row["way"],
        f"{row['events']:,}",
        str(row["frames"]),
        *(f"{row[f'{name}_ms']:.3g} ± {row[f'{name}_spread_ms']:.1g}" for name in ways),
        *(str(row[name]) for name in (*ratios, "packed_over_floor", "count_over_floor")),
    )


if __name__ == "__main__":
    main()
