"""Time and memory of planning a conversion, and of finding that nothing has changed, by size.

    python tools/bench_plan.py [--samples 1257000]

Makes a synthetic raw ES-ImageNet of hard links to a few tiny files, in a temporary folder; plans
its conversion (a dry run: every file is looked up), and tells the peak memory of that process.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np

CLASSES = 1000

PLAN = """
import json, resource, sys, time
from eventdata.conversion import plan_job
from eventdata.raw.es_imagenet import EsImageNet
from pathlib import Path
start = time.perf_counter()
job = plan_job(EsImageNet(Path(sys.argv[1])), shard_size=512, limit=None, on_error="fail")
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"samples": job.total, "seconds": seconds, "peak_bytes": peak}))
"""


@click.command()
@click.option("--samples", default=1_257_000, show_default=True)
def main(samples: int) -> None:
    """Measure planning of 1,000 samples and of --samples."""
    for count in sorted({1000, samples}):
        with tempfile.TemporaryDirectory() as folder:
            root = make_raw(Path(folder), count)
            run = subprocess.run(
                [sys.executable, "-c", PLAN, root], check=True, capture_output=True, text=True
            )
        told = json.loads(run.stdout)
        click.echo(
            f"{told['samples']:>10,} samples: {told['seconds']:.2f} s, "
            f"{1e6 * told['seconds'] / count:.1f} us a sample, "
            f"peak {told['peak_bytes'] / 1e6:,.0f} MB"
        )


def make_raw(root: Path, count: int) -> Path:
    """Raw ES-ImageNet with ``count`` names of a few files."""
    event = np.array([[100, 100, 1]], np.uint8)
    lines = []
    for label in range(CLASSES):
        folder = root / "train" / f"class{label}"
        folder.mkdir(parents=True)
        original = folder / "original"
        with original.open("wb") as file:
            np.savez(file, pos=event, neg=event)
        for number in range(label, count, CLASSES):
            name = f"class{label}/class{label}_{number}.npz"
            (root / "train" / name).hardlink_to(original)
            lines.append(f"{name} {label} 190 254\n")
    (root / "trainlabel.txt").write_text("".join(lines))
    return root


if __name__ == "__main__":
    main()
