"""Convert long recordings of 1280x720 pixels: time per event and memory, by the number of events.

    python tools/bench/long.py [--quick] [--millions 1,10,100] [--output result.json]

Each recording is a Prophesee DAT file with 10 million random events a second. One worker converts
it in a process of its own, whole with --frames and cut with --every. Growth is linear if the time
per event is equal at all lengths. The peak memory of the process must not grow once a recording
has more events than are kept in memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from tools.bench.report import machine, output_option, publish

WIDTH, HEIGHT = 1280, 720
MILLION = 1_000_000
METHODS: dict[str, dict[str, int]] = {
    "whole": {"frames": 8},
    "cut": {"every": 100_000, "window": 12_500},
}
CONVERT = """
import json, re, sys, time, eventdata
raw, out, options, warm = sys.argv[1:]
options = json.loads(options)
eventdata.convert("recordings", warm, f"{out}.warm", **options)
started = time.perf_counter()
eventdata.convert("recordings", raw, out, **options)
seconds = time.perf_counter() - started
status = open("/proc/self/status").read()
print(json.dumps([seconds, int(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1])]))
"""  # first a short recording, so that compiling is not measured


@click.command()
@click.option("--millions", default="1,10,100", show_default=True, help="Lengths in 10**6 events.")
@click.option("--quick", is_flag=True, help="Measure 1 and 2 million events only.")
@output_option
def main(millions: str, quick: bool, output: Path | None) -> None:
    """Measure the conversion of long recordings."""
    lengths = [1, 2] if quick else [int(one) for one in millions.split(",")]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        warm = Path(folder, "warm")
        write_recording(warm / "a" / "1.dat", MILLION // 10)
        for length in lengths:
            raw = Path(folder, str(length))
            write_recording(raw / "a" / "1.dat", length * MILLION)
            for method, options in METHODS.items():
                words = [str(raw), f"{folder}/{length}-{method}", json.dumps(options), str(warm)]
                command = [sys.executable, "-c", CONVERT, *words]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                seconds, peak = json.loads(done.stdout)
                rows.append(
                    {
                        "millions": length,
                        "method": method,
                        "seconds": round(seconds, 3),
                        "ns_per_event": round(1e3 * seconds / length, 1),
                        "peak_mib": peak // 1024,
                    }
                )
            (raw / "a" / "1.dat").unlink()
    head = ("10**6 events", "method", "seconds", "ns per event", "peak memory (MiB)")
    lines = [tuple(map(str, row.values())) for row in rows]
    here = machine(("numba", "numpy"))
    title = f"Conversion of recordings of {WIDTH}x{HEIGHT} pixels by one worker"
    publish(title, head, lines, dict(here), output, {"machine": here, "rows": rows}, lambda: None)


def write_recording(path: Path, events: int) -> None:
    """Write a DAT file of random events, 10 a microsecond."""
    rng = np.random.default_rng(0)
    count = min(events, MILLION)
    x, y, p = (rng.integers(0, side, count, np.uint32) for side in (WIDTH, HEIGHT, 2))
    words = np.empty((count, 2), "<u4")
    words[:, 1] = x | y << 14 | p << 28
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.write(f"% Version 2\n% Width {WIDTH}\n% Height {HEIGHT}\n% end\n\0\x08".encode())
        for start in range(0, events, count):
            words[:, 0] = (start + np.arange(count)) // 10
            file.write(words.tobytes())


if __name__ == "__main__":
    main()
