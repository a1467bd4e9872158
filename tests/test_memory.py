"""A conversion's memory does not grow with the number of samples."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.makers import make_es_imagenet, make_es_ucf101

# VmHWM, because a child inherits ru_maxrss, which is large after a long test run.
PEAK = """
import re, sys, eventdata
eventdata.convert(sys.argv[1], sys.argv[2], sys.argv[3], shard_size=int(sys.argv[4]))
print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
"""
KIB = 1024

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc"
)


def peak_bytes(source, raw, out, shard_size):
    words = [source, raw, out, str(shard_size)]
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
