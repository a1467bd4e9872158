"""Plan, resume, check and open a conversion with the 1.3 million samples of ES-ImageNet.

    python tools/bench/full_size.py [--samples 1306916] [--output simulation.json]

Raw files are hard links to a few tiny files, so that every file is looked up. All shards of the
store get the same bytes, except the last, which the resumed conversion makes. Each step runs in its
own process; its time excludes the start of Python. The exit code is 1 if a step exceeds MAX_SECONDS
or MAX_BYTES.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np

import eventdata
from eventdata.conversion import DEFAULT_SHARD_SIZE, SourcePlan, plan_job
from eventdata.files import WORK
from eventdata.files.local import LocalFiles
from eventdata.raw.es_imagenet import EsImageNet
from eventdata.store.layout import shard_count, shard_key
from eventdata.store.shard import ShardBuilder
from eventdata.store.write import ShardRecord, begin
from tools.bench.growth import make_raw
from tools.bench.report import machine, output_option, resident

SAMPLES = 1_257_035 + 49_881  # published: training and validation
MAX_SECONDS = 60.0
MAX_BYTES = 2**30
STEPS = ("plan", "resume", "check again", "open")


@click.command()
@click.option("--samples", default=SAMPLES, show_default=True, help="Number of samples.")
@output_option
@click.option("--step", nargs=2, hidden=True, help="Run one step and print its time and memory.")
def main(samples: int, output: Path | None, step: tuple[str, str] | None) -> None:
    """Simulate a conversion that was interrupted before its last shard."""
    if step is not None:
        click.echo(json.dumps(do_step(step[0], Path(step[1]))))
        return
    rows = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_raw(folder / "raw", samples)
        write_all_but_the_last(folder)
        for name in STEPS:
            words = [sys.executable, "-m", "tools.bench.full_size", "--step", name, place]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            rows[name] = json.loads(done.stdout)
            row = rows[name]
            click.echo(f"{name:<14}{row['seconds']:>8.1f} s{row['peak_bytes'] / 1e6:>10,.0f} MB")
    if output is not None:
        output.write_text(json.dumps({"machine": machine(), "samples": samples, "steps": rows}))
    over = [
        name
        for name, row in rows.items()
        if row["seconds"] > MAX_SECONDS or row["peak_bytes"] > MAX_BYTES
    ]
    if over:
        click.echo(f"over {MAX_SECONDS:.0f} s or {MAX_BYTES / 1e6:,.0f} MB: {', '.join(over)}")
        raise SystemExit(1)


def planned(folder: Path) -> SourcePlan:
    """Plan the conversion."""
    return plan_job(
        EsImageNet(folder / "raw"), shard_size=DEFAULT_SHARD_SIZE, limit=None, on_error="fail"
    )


def write_all_but_the_last(folder: Path) -> None:
    """Write the store as an interrupted conversion leaves it."""
    plan = planned(folder)
    samples = plan.listing["train"]
    packed = np.zeros(plan.sample.packed_shape, plan.sample.dtype)
    events = EsImageNet(folder / "raw").read(samples.row(0), packed)
    builder = ShardBuilder(plan.sample, plan.shard_size)
    for slot in range(plan.shard_size):
        builder.add([(slot, packed)])
    data = builder.finish()
    record = ShardRecord(events=[events] * plan.shard_size, skipped={}, size=len(data))
    document = json.dumps(asdict(record)).encode()
    files = LocalFiles(folder / "store.zarr")
    files.prepare()
    begin(files, plan, overwrite=False)
    for shard in range(shard_count(plan.counts["train"], plan.shard_size) - 1):
        key = shard_key("train", plan.sample, shard)
        files.write({key: data, f"{WORK}/train-{shard}.json": document})


def do_step(name: str, folder: Path) -> dict[str, float]:
    """Run a step in this process; return its seconds and peak bytes."""
    raw, store = folder / "raw", folder / "store.zarr"
    if name == "open":
        import torch  # noqa: F401  before the clock starts
    start = time.perf_counter()
    if name == "plan":
        planned(folder)
    elif name == "resume":
        result = eventdata.convert("es-imagenet", raw, store)
        assert result.state == "complete"
        assert 0 < sum(result.samples.values()) - result.done_before <= DEFAULT_SHARD_SIZE
    elif name == "check again":
        assert eventdata.convert("es-imagenet", raw, store).state == "already complete"
    else:
        loader = eventdata.FrameLoader(eventdata.FrameDataset(store), 64, shuffle=True)
        next(iter(loader))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_bytes": resident("VmHWM")}


if __name__ == "__main__":
    main()
