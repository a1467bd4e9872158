"""Describe a store: as JSON values for programs, as a table for people.

Shapes: K planes, H rows, W columns, P polarities or C colour channels.
"""

from collections.abc import Mapping
from math import isfinite, prod, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.counts import class_counts, class_table
from eventdata.errors import StoreError, printable
from eventdata.kernels.representations import REPRESENTATIONS
from eventdata.store.layout import SampleFormat, shard_count, shard_key
from eventdata.store.read import Split, Store
from eventdata.units import NAMES

MEASURED_SAMPLES = 1000  # of a split, for mean and deviation
MEASURED_BYTES = 1 << 31  # of these samples; at least one sample is measured


def describe(store: Store) -> dict[str, Any]:
    """Return splits, shapes, classes, bytes, event rates, moments and parameters as JSON values.

    ``event_rate`` is the share of cells (step, polarity, row, column) with an event in binary
    frames, the events per cell in other frames, and None for still images. Events are those that
    ``event_count`` counts: cells set in binary frames.

    ``events_per_second`` is relative to the time that frames cover, padding included. It is None
    where the store does not state that time, as for --frames without --every.

    ``time_unit`` is the unit of the recordings' times where their format does not state it; None
    for other data. Frames are made in microseconds.

    ``mean`` and ``deviation`` are those of the values of each channel, over all cells of
    ``measured`` samples: all valid ones, or some spread evenly over the split.
    """
    header = store.header
    seconds = _seconds(header.parameters, header.representation, header.steps)
    return {
        "store": store.files.where,
        **{key: vars(header)[key] for key in ("version", "dataset", "representation", "steps")},
        "polarity": list(header.polarity),
        "classes": len(header.classes),
        "class_names": list(header.classes),
        "complete": header.complete,
        "bytes": store.files.total_bytes(),
        "splits": {
            name: _describe_split(split)
            | {"class_counts": _count_classes(split, store)}
            | _rates(split, seconds)
            | _moments(split)
            for name, split in store.splits.items()
        },
        "seconds_per_sample": seconds,
        "time_unit": _time_unit(header.parameters),
        "skipped": store.skipped,
        "parameters": dict(header.parameters),
        "parameters_sha256": header.parameters_sha256,
    }


def _count_classes(split: Split, store: Store) -> dict[str, int]:
    """Return the valid samples of each class."""
    return class_counts(split.labels[split.valid], store.header.classes)


def _seconds(parameters: Mapping[str, Any], kind: str, steps: int | None) -> float | None:
    """Return the time that the frames of a sample cover; None where it depends on the sample."""
    keys = ("window", "every", "overlap")
    window, every, overlap = (
        value if isinstance(value, int) and value >= 0 else 0 for value in map(parameters.get, keys)
    )
    if window and steps:
        # Binary frames and counts have the events of an overlap twice, time surfaces once.
        timed = kind in REPRESENTATIONS and REPRESENTATIONS[kind].timed
        repeated = overlap * (steps - 1) if timed else 0
        return (window * steps - repeated) / 1e6
    return every / 1e6 if every and parameters.get("frames") and not overlap else None


def _time_unit(parameters: Mapping[str, Any]) -> str | None:
    source = str(parameters.get("source"))
    known = source == "recordings" or source.startswith("tonic:")
    return str(parameters.get("time_unit", "us")) if known else None


def _rates(split: Split, seconds: float | None) -> dict[str, float | None]:
    """Return events per step and second, None where there are none."""
    steps, valid = split.sample.steps, int(split.valid.sum())
    each = split.event_counts[split.valid].sum(dtype=np.int64) / valid if steps and valid else None
    return {
        "events_per_step": None if each is None or steps is None else float(each / steps),
        "events_per_second": None if each is None or not seconds else float(each / seconds),
    }


def _moments(split: Split) -> dict[str, Any]:
    """Return mean and deviation of each channel; None, with a reason, if samples are damaged."""
    sample, valid = split.sample, np.flatnonzero(split.valid)
    most = MEASURED_BYTES // (sample.planes * sample.chunk_bytes)
    count = min(len(valid), MEASURED_SAMPLES, max(1, most))
    facts: dict[str, Any] = {"mean": None, "deviation": None, "measured": 0}
    if not count:
        return facts
    chosen = valid[np.arange(count) * len(valid) // count].tolist()
    sums = np.zeros((2, sample.channels))
    packed = np.empty(sample.packed_shape, sample.dtype)
    try:
        reader = split.reader()
        for start in range(0, count, 64):
            group = chosen[start : start + 64]
            fetched = reader.fetch(group)
            for index in group:
                fetched.read(index, packed)
                sums += _sums(packed, sample)
    except StoreError as error:
        return facts | {"unreadable": str(error)}
    first, second = sums * sample.channels / (prod(sample.dense_shape) * count)
    mean, deviation = first.tolist(), [sqrt(max(0, x)) for x in (second - first**2).tolist()]
    if not all(map(isfinite, mean + deviation)):
        return facts | {"unreadable": "values that are not finite"}
    return {"mean": mean, "deviation": deviation, "measured": count}


def _sums(packed: NDArray[Any], sample: SampleFormat) -> NDArray[np.float64]:
    """Return the sum of values and of their squares, (2, P), of a stored sample (K, H, W, P)."""
    if sample.is_packed:
        ones = np.bitwise_count(packed).sum(axis=(0, 1, 2), dtype=np.float64)
        return np.stack([ones, ones])
    total = np.zeros((2, sample.channels))
    for plane in packed:  # one by one, because eight bytes per value would take much memory
        values = plane.astype(np.float64)
        total += values.sum(axis=(0, 1)), np.square(values).sum(axis=(0, 1))
    return total


def _describe_split(split: Split) -> dict[str, Any]:
    sample = split.sample
    valid = int(split.valid.sum())
    shards = shard_count(split.count, split.shard_size)
    sizes = [split.files.size(shard_key(split.name, sample, shard)) for shard in range(shards)]
    total = sum(size or 0 for size in sizes)
    events = int(split.event_counts[split.valid].sum(dtype=np.int64))
    cells = prod(sample.dense_shape) * valid if sample.steps else 0
    return {
        "samples": split.count,
        "valid": valid,
        "skipped": split.count - valid,
        "classes_present": len(np.unique(split.labels[split.valid])),
        "shape": list(sample.dense_shape),
        "dtype": sample.dtype,
        "stored_shape": list(sample.array_shape),
        "shards": shards,
        "shard_size": split.shard_size,
        "bytes": total,
        "bytes_per_sample": round(total / valid, 1) if valid else None,
        "events": events,
        "events_per_sample": round(events / valid, 1) if valid and cells else None,
        "event_rate": events / cells if cells else None,
    }


def print_table(facts: dict[str, Any]) -> None:
    """Print the values of `describe` as a table."""
    from rich.console import Console
    from rich.filesize import decimal
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    steps = f", {facts['steps']} steps" if facts["steps"] else ""

    def say(text: str) -> None:
        console.print(printable(text), markup=False, soft_wrap=True)

    say(
        f"{facts['store']}: {facts['dataset']}, {facts['representation']}{steps}, "
        f"{facts['classes']} classes, {decimal(facts['bytes'])}, format {facts['version']}"
    )
    table = Table("split", box=None, header_style="bold", pad_edge=False)
    columns = "samples,skipped,shape,shards,bytes,bytes/sample"
    events = "events/sample,events/step,events/s,event rate"
    for column in f"{columns},{events}".split(","):
        table.add_column(column, justify="right")
    rates = ("events_per_step", "events_per_second")
    for name, split in facts["splits"].items():
        rate = split["event_rate"]
        table.add_row(
            escape(name),
            f"{split['samples']:,}",
            f"{split['skipped']:,}",
            "x".join(map(str, split["shape"])),
            f"{split['shards']:,}",
            decimal(split["bytes"]),
            f"{split['bytes_per_sample'] or 0:,.0f}",
            "" if rate is None else f"{split['events_per_sample']:,.0f}",
            *("" if split[key] is None else f"{split[key]:,.0f}" for key in rates),
            "" if rate is None else f"{rate:.2%}",
        )
    console.print(table)
    if facts["representation"] == "binary":
        say("events: cells set, because binary frames do not count more")
    if facts["steps"] and facts["seconds_per_sample"] is None:
        say("events/s: unknown, because the store does not state how long its samples last")
    for name, split in facts["splits"].items():
        say(f"{name}: {_moments_line(split, facts['polarity'])}")
    for line in class_table({name: one["class_counts"] for name, one in facts["splits"].items()}):
        say(line)
    if unit := facts["time_unit"]:
        say(f"times of the recordings: {NAMES.get(unit, unit)}, or as their format states")
    settings = ", ".join(f"{k}={v}" for k, v in facts["parameters"].items() if v is not None)
    say(f"parameters: {settings}")
    for entry in facts["skipped"][:10]:
        say(f"skipped: {entry['split']} {entry['index']} {entry['name']}: {entry['reason']}")
    if len(facts["skipped"]) > 10:
        say(f"... and {len(facts['skipped']) - 10:,} more in skipped.json")


def _moments_line(split: dict[str, Any], polarity: list[str]) -> str:
    """Return mean and deviation in one line."""
    if "unreadable" in split:
        return f"values can't be read ({split['unreadable']}); run `eventdata verify`"
    if split["mean"] is None:
        return "no valid samples"
    mean, deviation = (
        ", ".join(f"{value:.5g}" for value in split[key]) for key in ("mean", "deviation")
    )
    names = polarity or (["red", "green", "blue"] if len(split["mean"]) == 3 else [])
    channels = f" of {', '.join(names)}" if len(names) > 1 else ""
    part = f"{split['measured']:,} of {split['valid']:,} samples"
    return f"mean {mean}{channels}; deviation {deviation}; over {part}"
