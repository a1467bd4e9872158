"""Describe a store: as JSON values for programs, as a table for people."""

from math import prod
from typing import Any

import numpy as np

from eventdata.counts import class_counts, class_table
from eventdata.errors import printable
from eventdata.store.layout import shard_count, shard_key
from eventdata.store.read import Split, Store


def describe(store: Store) -> dict[str, Any]:
    """Return splits, shapes, classes, bytes, event rates and parameters as JSON values.

    ``event_rate`` is the share of cells (step, polarity, row, column) with an event in binary
    frames, the events per cell in counts, and None for still images.
    """
    header = store.header
    return {
        "store": store.files.where,
        **{key: vars(header)[key] for key in ("version", "dataset", "representation", "steps")},
        "polarity": list(header.polarity),
        "classes": len(header.classes),
        "class_names": list(header.classes),
        "complete": header.complete,
        "bytes": store.files.total_bytes(),
        "splits": {
            name: _describe_split(split) | {"class_counts": _count_classes(split, store)}
            for name, split in store.splits.items()
        },
        "skipped": store.skipped,
        "parameters": dict(header.parameters),
        "parameters_sha256": header.parameters_sha256,
    }


def _count_classes(split: Split, store: Store) -> dict[str, int]:
    """Return the valid samples of each class."""
    return class_counts(split.labels[split.valid], store.header.classes)


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
    columns = "samples,skipped,shape,shards,bytes,bytes/sample,events/sample,event rate"
    for column in columns.split(","):
        table.add_column(column, justify="right")
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
            "" if rate is None else f"{rate:.2%}",
        )
    console.print(table)
    for line in class_table({name: one["class_counts"] for name, one in facts["splits"].items()}):
        say(line)
    settings = ", ".join(f"{k}={v}" for k, v in facts["parameters"].items() if v is not None)
    say(f"parameters: {settings}")
    for entry in facts["skipped"][:10]:
        say(f"skipped: {entry['split']} {entry['index']} {entry['name']}: {entry['reason']}")
    if len(facts["skipped"]) > 10:
        say(f"... and {len(facts['skipped']) - 10:,} more in skipped.json")
