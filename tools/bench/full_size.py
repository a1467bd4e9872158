"""Plan, convert, resume, check and read the 1.3 million samples of ES-ImageNet.

    python tools/bench/full_size.py [--input folder|tar|zip] [--whole] [--output simulation.json]

Raw files are tiny. A folder has hard links to a few files, so that every file is looked up; an
archive has all files in it. Without ``--whole`` all shards of the store get the same bytes, except
the last, which the resumed conversion makes. With it, every sample is converted until the
conversion is interrupted before its last shard, and the samples that are read are compared with
their raw files. Each step runs in its own process; its time excludes the start of Python. The exit
code is 1 if a step exceeds its limit of time or memory.
"""

import contextlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np

import eventdata
from eventdata.conversion import DEFAULT_SHARD_SIZE, SourcePlan, plan_job
from eventdata.files import WORK
from eventdata.files.archives.indexes import keep_indexes
from eventdata.files.inputs import open_input
from eventdata.files.local import LocalFiles
from eventdata.raw.es_imagenet import EsImageNet
from eventdata.store.layout import shard_count, shard_key
from eventdata.store.shard import ShardBuilder
from eventdata.store.write import ShardRecord, begin
from tools.bench.growth import CLASSES, READS, ROWS, make_raw, manifest, raw_contents, raw_names
from tools.bench.report import machine, output_option, resident

SAMPLES = 1_257_035 + 49_881  # published: training and validation
MAX_BYTES = 2**30
MAX_SECONDS = 60.0
LIMITED = ("plan", "resume", "check again", "open")  # others read many samples or all
STEPS = ("plan", "convert", "resume", "check again", "open", "read", "verify")
SHIFT = (254 - 190) // 2 - 16  # rows between raw files and frames
COLUMN = 100 - 16  # of all events


@click.command()
@click.option("--samples", default=SAMPLES, show_default=True, help="Number of samples.")
@click.option(
    "--input",
    "kind",
    type=click.Choice(["folder", "tar", "zip"]),
    default="folder",
    show_default=True,
    help="Form of the raw files.",
)
@click.option("--whole", is_flag=True, help="Convert every sample, which takes half an hour.")
@click.option(
    "--only", multiple=True, type=click.Choice(STEPS), help="Steps to run; all by default."
)
@output_option
@click.option("--step", nargs=2, hidden=True, help="Run one step and print its time and memory.")
def main(
    samples: int,
    kind: str,
    whole: bool,
    only: tuple[str, ...],
    output: Path | None,
    step: tuple[str, str] | None,
) -> None:
    """Simulate a conversion that was interrupted before its last shard."""
    if step is not None:
        click.echo(json.dumps(do_step(step[0], Path(step[1]), whole)))
        return
    rows = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_input(folder, samples, kind)
        if not whole:
            write_all_but_the_last(folder)
        for name in only or STEPS:
            if name == "convert" and not whole:
                continue
            words = [sys.executable, "-m", "tools.bench.full_size", "--step", name, place]
            words += ["--whole"] * whole
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            rows[name] = json.loads(done.stdout)
            row = rows[name]
            click.echo(
                f"{name:<14}{row['seconds']:>8.1f} s{row['cpu_seconds']:>8.1f} s of a core"
                f"{row['peak_bytes'] / 1e6:>8,.0f} MB"
            )
    if output is not None:
        result = {"machine": machine(), "samples": samples, "input": kind, "whole": whole}
        output.write_text(json.dumps({**result, "steps": rows}))
    over = [
        name
        for name, row in rows.items()
        if (name in LIMITED and row["seconds"] > MAX_SECONDS) or row["peak_bytes"] > MAX_BYTES
    ]
    if over:
        limits = f"over {MAX_SECONDS:.0f} s or {MAX_BYTES / 1e6:,.0f} MB"
        click.echo(f"{limits}: {', '.join(over)}")
        raise SystemExit(1)


def make_input(folder: Path, samples: int, kind: str) -> None:
    """Make the raw files in a folder `raw` or in an archive of this name."""
    if kind == "folder":
        make_raw(folder / "raw", samples)
        return
    contents = raw_contents()
    files = ((f"train/{name}", contents[number % ROWS]) for number, name in raw_names(samples))
    listed = ("trainlabel.txt", manifest(samples).encode())
    if kind == "zip":
        with zipfile.ZipFile(folder / "raw.zip", "w") as archive:
            for name, content in [listed, *files]:
                archive.writestr(name, content)
        return
    with tarfile.open(folder / "raw.tar", "w") as tar:
        for name, content in [listed, *files]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
            tar.members = []  # type: ignore[attr-defined]  # a million would fill the memory


def raw_input(folder: Path) -> Path:
    """Return the folder or archive that `make_input` made."""
    return next(path for path in folder.glob("raw*"))


def planned(folder: Path) -> SourcePlan:
    """Plan the conversion."""
    source = EsImageNet(open_input(raw_input(folder)))
    return plan_job(source, shard_size=DEFAULT_SHARD_SIZE, limit=None, on_error="fail")


def write_all_but_the_last(folder: Path) -> None:
    """Write the store as an interrupted conversion leaves it."""
    files = LocalFiles(folder / "store.zarr")
    with keep_indexes(files) as indexes:
        plan = planned(folder)
    packed = np.zeros(plan.sample.packed_shape, plan.sample.dtype)
    packed[0, 0, 0] = 128
    builder = ShardBuilder(plan.sample, plan.shard_size)
    for slot in range(plan.shard_size):
        builder.add([(slot, packed)])
    data = builder.finish()
    events = int(np.count_nonzero(packed))
    record = ShardRecord(events=[events] * plan.shard_size, skipped={}, size=len(data))
    document = json.dumps(asdict(record)).encode()
    files.prepare()
    begin(files, plan, overwrite=False)
    indexes.save()
    for shard in range(shard_count(plan.counts["train"], plan.shard_size) - 1):
        key = shard_key("train", plan.sample, shard)
        files.write({key: data, f"{WORK}/train-{shard}.json": document})


def do_step(name: str, folder: Path, whole: bool) -> dict[str, float]:
    """Run a step in this process; return its seconds and peak bytes."""
    raw, store = raw_input(folder), folder / "store.zarr"
    if name in ("open", "read"):
        import torch  # noqa: F401  before the clock starts
    start, cpu = time.perf_counter(), time.process_time()
    if name == "plan":
        planned(folder)
    elif name == "convert":
        with contextlib.suppress(KeyboardInterrupt):
            eventdata.convert("es-imagenet", raw, store, progress=stop_before_the_last_shard)
    elif name == "resume":
        result = eventdata.convert("es-imagenet", raw, store)
        assert result.state == "complete"
        assert 0 < sum(result.samples.values()) - result.done_before <= DEFAULT_SHARD_SIZE
    elif name == "check again":
        assert eventdata.convert("es-imagenet", raw, store).state == "already complete"
    elif name == "open":
        loader = eventdata.FrameLoader(eventdata.FrameDataset(store), 64, shuffle=True)
        next(iter(loader))
    elif name == "read":
        read_random_samples(store, compare=whole)
    else:
        assert eventdata.verify(store, against=raw if whole else None).ok
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_bytes": resident("VmHWM"),
    }


def stop_before_the_last_shard(done: int, total: int) -> None:
    """Interrupt a conversion as Ctrl-C does."""
    if total - done <= DEFAULT_SHARD_SIZE:
        raise KeyboardInterrupt


def read_random_samples(store: Path, *, compare: bool) -> None:
    """Read samples at random; compare them with what raw files of their names hold."""
    dataset = eventdata.FrameDataset(store)
    for index in np.random.default_rng(0).integers(0, len(dataset), READS).tolist():
        frames, label = dataset[index]
        if compare:
            number = int(dataset.names[index].rpartition("_")[2].removesuffix(".npz"))
            assert label == number % CLASSES
            assert frames[0, :, number % ROWS + SHIFT, COLUMN].tolist() == [1, 1]
            assert np.count_nonzero(frames) == 2


if __name__ == "__main__":
    main()
