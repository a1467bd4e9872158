"""The benches run on little data and write their results."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.makers import make_es_imagenet, make_images, write_npz
from tools.bench import (
    archives,
    convert,
    formats,
    framing,
    generate,
    gpu,
    growth,
    loader,
    long,
    parts,
    recipes,
)


def run(bench, *options):
    """Run a bench in this process, which has imported most of what it needs."""
    done = CliRunner().invoke(bench.main, list(map(str, options)), catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_the_bench_of_loaders(tmp_path):
    raw = make_es_imagenet(tmp_path / "raw", train=4, val=1)
    output = tmp_path / "result.json"
    run(loader, raw, "--runs", 1, "--repeats", 1, "--batch-size", 2, "--output", output)
    result = json.loads(output.read_text())
    timings = result["ms_per_sample"]
    ours = "FrameLoader, uint8"
    assert timings[ours]["over_ours"] == 1
    for method in (f"{ours}, 2 threads", "FrameLoader, packed", "FrameLoader, float32"):
        assert timings[method]["floor"] > 0
    not_measured = " ".join(result["not_measured"])
    for peer in (
        "published loader from raw npz",
        "SpikingJelly's frames cache, restated",
        "Tonic DiskCachedDataset",
        "zarr-python, unpackbits",
        "zarrs, unpackbits",
        "TensorStore, unpackbits",
    ):
        assert peer in timings or peer in not_measured


def test_the_bench_of_parts(tmp_path):
    raw = make_es_imagenet(tmp_path / "raw", train=4, val=1)
    output = tmp_path / "result.json"
    run(parts, raw, "--runs", 1, "--output", output)
    timings = json.loads(output.read_text())["ms_per_sample"]
    assert len(timings) == 13
    assert all(one["median"] > 0 for one in timings.values())


def test_the_bench_of_growth(tmp_path):
    output = tmp_path / "result.json"
    options = ["--sizes", "20,40", "--runs", 1, "--only", "plan", "--only", "convert"]
    run(growth, *options, "--output", output)
    result = json.loads(output.read_text())
    assert result["samples"] == [20, 40]
    assert list(result["us_per_sample"]) == ["plan", "convert"]
    for runs in result["us_per_sample"].values():
        assert [len(found) for found in runs] == [1, 1]


def test_the_bench_of_long_recordings(tmp_path, monkeypatch):
    monkeypatch.setattr(long, "MILLION", 20_000)
    output = tmp_path / "result.json"
    run(long, "--quick", "--output", output)
    rows = json.loads(output.read_text())["rows"]
    found = [(row["millions"], row["method"]) for row in rows]
    assert found == [(1, "whole"), (1, "cut"), (2, "whole"), (2, "cut")]
    assert all(row["seconds"] > 0 and row["peak_mib"] > 0 for row in rows)


def test_the_bench_of_generation(tmp_path):
    images = make_images(tmp_path / "images", train=2, val=0)
    output = tmp_path / "result.json"
    run(generate, "--images", images, "--runs", 1, "--output", output)
    result = json.loads((tmp_path / "result-image.json").read_text())
    timings = result["ms_per_image"]
    assert timings["file to frames"]["floor"] == timings["JPEG decoding"]["median"]
    assert timings["kernel, published"]["floor"] > 0
    ratio = timings["torch, published steps"]["median"] / timings["kernel, published"]["median"]
    reported = result["facts"]["torch, published steps, over the kernel"]
    assert reported == pytest.approx(ratio, abs=0.01)


def test_the_bench_of_formats(tmp_path):
    output = tmp_path / "result.json"
    run(formats, "--events", 2000, "--runs", 1, "--output", output)
    result = json.loads(output.read_text())
    assert {row["file"] for row in result["rows"]} == set(formats.CASES)
    readers = {row["reader"] for row in result["rows"]}
    assert {"eventdata", "expelliarmus", "Tonic", "rosbags"} <= readers


def test_the_bench_of_framing(tmp_path):
    rng = np.random.default_rng(0)
    columns = {name: rng.integers(0, side, 9000) for name, side in (("x", 16), ("y", 12), ("p", 2))}
    write_npz(tmp_path / "recordings/a.npz", t=np.sort(rng.integers(0, 10**5, 9000)), **columns)
    output = tmp_path / "result.json"
    run(framing, tmp_path / "recordings", "--repeats", 3, "--output", output)
    result = json.loads(output.read_text())
    assert [row["method"] for row in result["rows"]] == list(result["geometric_mean"])
    for row in result["rows"]:
        ratio = row["tonic_ms"] / row["packed_ms"]
        assert row["times_faster_packed"] == pytest.approx(ratio, rel=0.01, abs=0.06)  # 1 decimal
    assert "| a.npz | time window | 9,000 |" in output.with_suffix(".md").read_text()


def test_the_bench_of_conversion(tmp_path):
    raw = make_es_imagenet(tmp_path / "raw", train=2, val=1)
    output = tmp_path / "result.json"
    few = ["--copies", 2, "--runs", 1, "--output", output]
    run(convert, raw, *few)
    result = json.loads(output.read_text())
    timings = result["ms_per_sample"]
    floor = timings["floor: read, inflate, zstd"]["median"]
    assert timings["eventdata convert"]["floor"] == floor
    for peer in ("published script (dense int8, npz)", "Tonic DiskCachedDataset"):
        assert timings[peer]["over_ours"] > 0
    assert result["facts"]["samples"] == "6; baselines 6"
    run(convert, raw, *few, "--growth", "events")
    result = json.loads(output.read_text())
    events = result["facts"]["events a sample"].replace(",", "").split()
    quarter, half, one, two, four = map(int, events)
    assert (4 * quarter, 2 * half, two, four) == (one, one, 2 * one, 4 * one)
    assert list(result["ms_per_1000 events"]) == [f"events x {f}" for f in (0.25, 0.5, 1, 2, 4)]
    run(convert, raw, *few, "--growth", "workers")
    assert {"1 workers", "2 workers"} <= set(json.loads(output.read_text())["ms_per_sample"])


def test_the_bench_of_recipes(tmp_path, monkeypatch):
    """Every part of a pipeline and of its baseline has figures, and hours that follow from them."""
    images = make_images(tmp_path / "images", train=2, val=0)

    def measured_here(options, part):
        words = [*options, f"--part={json.dumps(part)}"]
        done = CliRunner().invoke(recipes.main, words, catch_exceptions=False)
        return recipes.Trial(**json.loads(done.stdout))

    monkeypatch.setattr(recipes, "_child", measured_here)
    monkeypatch.setattr(recipes, "keep_pages", lambda: None)
    monkeypatch.setattr(recipes, "CLASSES", 3)
    output = tmp_path / "result.json"
    small = ["--side", 32, "--width", 4, "--batch", 2, "--steps", 1]
    run(recipes, images, *small, "--pipeline", "pipe-S", "--tflops", 1e-3, "--output", output)
    result = json.loads(output.read_text())
    rows = {row["stage"]: row for row in result["rows"]}
    assert {name: row["T"] for name, row in rows.items()} == {
        "pipe-S: ann": "1",
        "pipe-S: lif, calibration": "6",
        "pipe-S: lif": "6",
        "**pipe-S**": "",
        "pipe-S, scratch: scratch": "6",
    }
    ann, calibration, lif, scratch = result["trials"].values()
    assert calibration["seconds"] > 0 < calibration["work"]
    assert ann["forward"] < lif["forward"] < 6 * ann["forward"]
    assert lif["work"] == scratch["work"] + ann["forward"]  # the same network, and a teacher
    seen = 90 * 1_281_167
    assert rows["pipe-S, scratch: scratch"]["samples in all"] == f"{seen:,}"
    hours = 2 * seen * scratch["work"] / 1e9 / 3600
    assert float(rows["pipe-S, scratch: scratch"]["GPU hours"]) == pytest.approx(hours, abs=0.01)
    parts = [float(row["GPU hours"]) for row in list(rows.values())[:3]]
    assert float(rows["**pipe-S**"]["GPU hours"].strip("*")) == pytest.approx(sum(parts), abs=0.1)


HANGS = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"


def test_the_parts_of_the_gpu_bench_fail_one_by_one(tmp_path):
    plan = gpu.Plan("cpu", True, tmp_path)
    commands = gpu.commands(plan)
    assert list(commands) == ["contract", "copy", "neurons", "step", "loader", "training"]
    results = {
        "contract": gpu.run_part("contract", ["-c", "print('9 passed in 1 s')"], plan, 60),
        "copy": gpu.run_part("copy", ["-c", "print('{\"GB/s\": 5.5}')"], plan, 60),
        "step": gpu.run_part("step", ["-c", "raise SystemExit('no memory')"], plan, 60),
        "loader": gpu.run_part("loader", ["-c", HANGS], plan, 1),
    }
    (tmp_path / "neuron.json").write_text(
        json.dumps(
            {
                "title": "Neurons",
                "facts": {"threads": 2},
                "ms_per_pass": {
                    "lif": {
                        "median": 2.0,
                        "spread": 0.1,
                        "over_ours": 1.0,
                        "floor": 1.0,
                        "over_floor": 2.0,
                    }
                },
            }
        )
    )
    results["neurons"] = gpu.run_part("neurons", ["-c", ""], plan, 60)
    states = {name: part["state"] for name, part in results.items()}
    assert states == {
        "contract": "done",
        "copy": "done",
        "step": "failed with exit code 1",
        "loader": "stopped after 1 s",
        "neurons": "done",
    }
    text = gpu.page(results, {"cores": "2"})
    for words in ("| lif | 2.000 | 10% | 1.00 | 1.000 | 2.00 |", "9 passed", "5.5", "no memory"):
        assert words in text
    gpu.make_raw(tmp_path / "raw", 2)
    done = CliRunner().invoke(gpu.main, ["--device", "cuda"])
    assert done.exit_code == 2 or gpu.torch.cuda.is_available()


def test_a_part_of_the_gpu_bench_has_its_share_of_the_time_left():
    parts = list(gpu.commands(gpu.Plan("cpu", True, Path())))
    assert list(gpu.SHARES) == parts
    left, used = 480.0, []
    for part in parts:
        used.append(gpu.share(part, left))
        left -= used[-1]
    assert min(used) > 0
    assert left == pytest.approx(0)
    assert gpu.share("training", 90) == 90


def test_the_bench_of_archives(tmp_path):
    raw = make_es_imagenet(tmp_path / "raw", train=2, val=1)
    images = make_images(tmp_path / "images") / "train"
    given = ["--images", images, "--es-imagenet", raw, "--copies", 1, "--runs", 1]
    run(archives, *given, "--output", tmp_path / "result.json")
    for source, names in (("imagenet", {"tar of tars", "WebDataset"}), ("es-imagenet", {"tar"})):
        result = json.loads((tmp_path / f"result-{source}.json").read_text())
        assert names < result["ms_per_sample"].keys()
        assert result["ms_per_sample"]["folder"]["over_ours"] == 1
