"""A conversion's memory grows neither with the number of samples nor with a recording's length."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.makers import make_es_imagenet, make_es_ucf101

# VmHWM, because a child inherits ru_maxrss, which is large after a long test run.
PEAK = """
import json, re, sys, eventdata
options = json.loads(sys.argv[5])
eventdata.convert(sys.argv[1], sys.argv[2], sys.argv[3], shard_size=int(sys.argv[4]), **options)
print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
"""
KIB = 1024

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc"
)


def peak_bytes(source, raw, out, shard_size, **options):
    words = [source, raw, out, str(shard_size), json.dumps(options)]
    run = subprocess.run(
        [sys.executable, "-c", PEAK, *words], check=True, capture_output=True, text=True
    )
    return int(run.stdout) * KIB


def test_constant_in_the_number_of_samples(tmp_path):
    few = make_es_imagenet(tmp_path / "few", train=32, val=0)
    many = make_es_imagenet(tmp_path / "many", train=640, val=0)
    small = peak_bytes("es-imagenet", few, tmp_path / "few.zarr", 32)
    large = peak_bytes("es-imagenet", many, tmp_path / "many.zarr", 32)
    assert large < 2**30
    assert large - small < 30 * 2**20


def test_large_samples_stay_under_a_gibibyte(tmp_path):
    raw = make_es_ucf101(tmp_path / "raw", clips=24)
    assert peak_bytes("es-ucf101", raw, tmp_path / "ucf.zarr", 512) < 2**30


# Set it to 1250 for a recording of 10 GB.
MILLIONS = int(os.environ.get("EVENTDATA_LONG_RECORDING", "40"))


def write_long_recording(path, millions):
    """Write a Prophesee DAT file of 1280x720 pixels, 10 million events a second."""
    rng = np.random.default_rng(0)
    count = 1_000_000
    x, y, p = (rng.integers(0, side, count, np.uint32) for side in (1280, 720, 2))
    words = np.empty((count, 2), "<u4")
    words[:, 1] = x | y << 14 | p << 28
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.write(b"% Version 2\n% Width 1280\n% Height 720\n% end\n\0\x08")
        for number in range(millions):
            words[:, 0] = np.arange(count) // 10 + number * 100_000
            file.write(words.tobytes())


@pytest.mark.parametrize(
    "options",
    [
        {"every": 50_000, "window": 10_000},
        {"window": 100_000, "steps": 8},
        {"n_event_bins": 4},
    ],
    ids=["every", "window", "bins"],
)
def test_flat_in_the_length_of_a_recording(tmp_path, options):
    """Short ones have more events than are kept in memory, too."""
    peaks = []
    for millions in (12, MILLIONS):
        raw = tmp_path / str(millions)
        write_long_recording(raw / "a" / "1.dat", millions)
        peaks.append(peak_bytes("recordings", raw, raw / "../out.zarr", 16, **options))
        (raw / "a" / "1.dat").unlink()
        options = {**options, "overwrite": True}
    assert max(peaks) < 2**29
    assert peaks[1] - peaks[0] < 30 * 2**20
