"""Turn events into frames: ours against Tonic's ToFrame, on recordings.

    python tools/bench/framing.py RECORDINGS [--output result.json]

Each row is one recording, cut by one rule. Ours is measured as packed binary frames, as counts in
uint8 (uint16 if needed) and as counts in uint16, which have as many bytes as Tonic's int16. The
output array is reused, as in a conversion. The check of the events, done once in a conversion, has
its own column. All methods take turns in one process. The floor of frames is one read of the events
and one write of the frames at the speed of a copy.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
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
from tools.bench.report import copy_bandwidth, machine, measure, new_figure, output_option, publish

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]


@click.command()
@click.argument("recordings", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--window", default=10_000, show_default=True, help="Microseconds per frame.")
@click.option("--events-per-frame", default=3_000, show_default=True, help="Events per frame.")
@click.option("--frames", default=10, show_default=True, help="Number of frames.")
@click.option("--repeats", default=7, show_default=True, help="Timed runs of each method.")
@output_option
def main(
    recordings: Path,
    window: int,
    events_per_frame: int,
    frames: int,
    repeats: int,
    output: Path | None,
) -> None:
    """Measure framing on all recordings in the folder RECORDINGS."""
    methods: dict[str, tuple[dict[str, int], dict[str, int]]] = {
        "time window": ({"window": window}, {"time_window": window}),
        "event count": ({"events_per_frame": events_per_frame}, {"event_count": events_per_frame}),
        "number of bins": ({"frames": frames}, {"n_time_bins": frames}),
    }
    bandwidth = copy_bandwidth()
    rows: list[Row] = []
    for path in sorted(path for path in recordings.iterdir() if path.suffix in DECODERS):
        events, size = read_events(path)
        for method, (ours, tonics) in methods.items():
            row = measure_one(events, size, ours, tonics, repeats, bandwidth)
            rows.append({"recording": path.name, "method": method, "events": len(events)} | row)
    summary = {
        method: {
            kind: round(
                statistics.geometric_mean(row[kind] for row in rows if row["method"] == method), 1
            )
            for kind in ("times_faster_packed", "times_faster_count", "times_faster_count16")
        }
        for method in methods
    }
    title = "Events to frames: ms, median ± half the interquartile range"
    lines = [cells(row) for row in rows]
    here = machine(("numba", "numpy", "tonic"))
    notes: dict[str, object] = {"copy, read and written": f"{bandwidth / 1e9:.1f} GB/s"}
    for method, means in summary.items():
        packed, *counts = means.values()
        notes[f"times as fast as Tonic, by {method}"] = (
            f"{packed} packed, {' and '.join(map(str, counts))} as counts in uint8 and in uint16 "
            "(geometric means)"
        )
    notes |= here
    result = {"machine": here, "copy_gb_s": round(bandwidth / 1e9, 2), "rows": rows}
    result |= {"geometric_mean": summary}
    publish(title, HEAD, lines, notes, output, result, lambda: plot(title, rows))


def plot(title: str, rows: list[Row]) -> Figure | None:
    """Draw the speed relative to Tonic over the number of events, a point per recording."""
    figure = new_figure(4)
    if figure is None:
        return None
    axes = figure.subplots()
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        ratios = [row["times_faster_packed"] for row in mine]
        axes.plot([row["events"] for row in mine], ratios, "o", label=method)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("events of the recording")
    axes.set_ylabel("times as fast as Tonic, packed")
    axes.set_title(title, fontsize=10)
    axes.legend()
    return figure


def measure_one(
    events: Events,
    size: SensorSize,
    ours: dict[str, int],
    tonics: dict[str, int],
    repeats: int,
    bandwidth: float,
) -> Row:
    """Return median times and spreads for one recording and one rule."""
    binary = Framing(**ours)  # type: ignore[arg-type]
    count = Framing(**ours, representation="count")  # type: ignore[arg-type]
    steps, (width, height) = len(frame_edges(events["t"], binary).start), size
    packed = np.empty((-(-steps // 8), height, width, 2), np.uint8)
    counts: NDArray[Any] = np.empty((steps, height, width, 2), np.uint8)
    try:
        frame_events(events, count, counts)
    except InputError:  # a pixel has more than 255 events in a frame
        counts = np.empty((steps, height, width, 2), np.uint16)
    wide = np.empty((steps, height, width, 2), np.uint16)
    to_frame = tonic.transforms.ToFrame(sensor_size=(width, height, 2), **tonics)
    works: dict[str, Callable[[], object]] = {
        "packed": lambda: frame_events(events, binary, packed),
        "count": lambda: frame_events(events, count, counts),
        "count16": lambda: frame_events(events, count, wide),
        "tonic": lambda: to_frame(events),
        "check": lambda: check_events(events, size),
    }
    timings = measure({name: _once(work) for name, work in works.items()}, repeats)
    medians = {name: timing.median for name, timing in timings.items()}
    floors = {
        name: 1e3 * (events.nbytes + out.nbytes) / bandwidth
        for name, out in (("packed", packed), ("count", counts), ("count16", wide))
    }
    return {
        "frames": steps,
        **{f"{name}_ms": round(median, 4) for name, median in medians.items()},
        **{f"{name}_spread_ms": round(spread(timing.runs), 4) for name, timing in timings.items()},
        **{f"{name}_floor_ms": round(floor, 4) for name, floor in floors.items()},
        **{f"{name}_over_floor": round(medians[name] / floors[name], 1) for name in floors},
        **{f"times_faster_{name}": round(medians["tonic"] / medians[name], 1) for name in floors},
    }


def _once(work: Callable[[], object]) -> Callable[[], int]:
    def run() -> int:
        work()
        return 1

    return run


def spread(values: Sequence[float]) -> float:
    """Return half the interquartile range."""
    low, high = np.percentile(values, [25, 75])
    return float(high - low) / 2


HEAD = (
    *("recording", "method", "events", "frames", "Tonic", "packed", "count", "count16", "check"),
    *("Tonic/packed", "Tonic/count", "Tonic/count16", "packed/floor", "count/floor"),
)


def cells(row: Row) -> tuple[str, ...]:
    """Return the cells of a row in the order of `HEAD`."""
    methods = ("tonic", "packed", "count", "count16", "check")
    ratios = [f"times_faster_{name}" for name in ("packed", "count", "count16")]
    return (
        row["recording"],
        row["method"],
        f"{row['events']:,}",
        str(row["frames"]),
        *(f"{row[f'{name}_ms']:.3g} ± {row[f'{name}_spread_ms']:.1g}" for name in methods),
        *(str(row[name]) for name in (*ratios, "packed_over_floor", "count_over_floor")),
    )


if __name__ == "__main__":
    main()
