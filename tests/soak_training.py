"""Train on one store for a long time and record the process's memory, files and threads.

    python -m tests.soak_training [--minutes 60] [--output training.json] [STORE]

Each epoch trains with several reading threads, evaluates the moving average on held-out samples,
and writes weights, tables and the state for resuming. After each epoch the process's memory, open
files, threads and Python objects are recorded. Then the stage is finished and tested as usual. The
exit code is 1 if any of them has grown after the first fifth of the epochs.
"""

import gc
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import click
from lightning.pytorch import LightningModule, Trainer

from tests.drawn import make_store
from tests.usage import growth, usage
from tools.bench.report import machine, output_option
from train.recipe import load
from train.runs.record import Record
from train.runs.run import run

LEAST_EPOCHS = 40
ALLOWED = {
    "resident": 32 << 20,  # bytes: allocators keep freed memory in pieces
    "children": 1 << 20,  # bytes
    "files": 0.5,
    "threads": 0.5,
    "objects": 5,
}
"""By how much each figure may grow."""
RECIPE = """
pipeline = "pipe-d"
[network]
name = "vgg"
width = 8
plan = [[1], [2]]
[machine]
accelerator = "cpu"
threads = 3
[run]
held_out = 0.2
[defaults]
batch_size = 16
epochs = 100000
learning_rate = 0.02
schedule = "constant"
ema = 0.99
augment = { crop = 0.1, event_drop = 0.2, mixup = 0.2 }
[stages.lif]
neuron = { kind = "lif" }
recalibrate = 2
"""


@click.command()
@click.argument("store", required=False)
@click.option("--minutes", default=60.0, show_default=True)
@output_option
def main(store: str | None, minutes: float, output: Path | None) -> None:
    """Train on STORE, or on a random store."""
    with tempfile.TemporaryDirectory() as folder:
        epochs, result = train(store or make_store(Path(folder) / "s.zarr"), folder, 60 * minutes)
    rows = {name: [epoch[name] for epoch in epochs] for name in ALLOWED}
    failures = judge(rows)
    click.echo(f"{len(epochs):,} epochs, {result['stages'][0]['trained_samples']:,} samples")
    click.echo(f"{'':<10}{'first':>14}{'last':>14}{'most':>14}{'growth':>14}")
    for name, values in rows.items():
        first, last, most = values[int(0.2 * len(values))], values[-1], max(values)
        click.echo(f"{name:<10}{first:>14,}{last:>14,}{most:>14,}{growth(values):>14,.1f}")
    for failure in failures:
        click.echo(failure, err=True)
    if output is not None:
        document = {
            "machine": machine(["torch", "lightning"]),
            "minutes": minutes,
            "trained_samples": result["stages"][0]["trained_samples"],
            "top1": result["test"]["top1"],
            "growth": {name: growth(values) for name, values in rows.items()},
            "failures": failures,
            "epochs": epochs,
        }
        output.write_text(json.dumps(document, indent=1))
    if failures:
        raise SystemExit(1)


def train(store: str, folder: str, seconds: float) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Train until the time is over; return the usage after each epoch, and the result."""
    recipe, out = Path(folder, "recipe.toml"), Path(folder, "run")
    recipe.write_text(RECIPE)
    epochs: list[dict[str, float]] = []
    started = time.monotonic()
    gc.freeze()  # a collection looks only at what comes later
    record = Record.on_train_epoch_end

    def recorded(self: Record, trainer: Trainer, module: LightningModule) -> None:
        record(self, trainer, module)
        epochs.append(usage())
        over = time.monotonic() - started > seconds
        trainer.should_stop = over and len(epochs) >= LEAST_EPOCHS

    try:
        with mock.patch.object(Record, "on_train_epoch_end", recorded):
            result = run(load(str(recipe)), out, data=store, say=partial(click.echo, err=True))
    finally:
        gc.unfreeze()
    return epochs, result


def judge(rows: Mapping[str, Sequence[float]]) -> list[str]:
    """Return a sentence for each figure that has grown by more than it may."""
    return [
        f"{name} grew by {growth(values):,.1f}, more than {ALLOWED[name]:,}"
        for name, values in rows.items()
        if growth(values) > ALLOWED[name]
    ]


if __name__ == "__main__":
    main()
