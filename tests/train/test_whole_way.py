"""The whole path by the command line, from class folders of recordings to exported networks."""

import csv
import json
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from eventdata.cli import main
from tests.train.test_export import run_graph

DIGITS = {"0": "nought", "1": "one", "7": "seven"}
EACH = 20
FRAMES = ["--frames", "6", "--sensor-size", "34x34"]
SMALL = {
    "network.width": 8,
    "all.batch_size": 8,
    "sum.epochs": 8,
    "lif.epochs": 4,
    "machine.accelerator": "cpu",
    "machine.keep_pages": "false",
}

LOAD = """
import sys, torch, train
from eventdata import FrameDataset

network, info = train.load_model(sys.argv[1])
ds = FrameDataset(sys.argv[2], "all")
frames = torch.stack([ds[index][0] for index in range(len(ds))]).float()
with torch.no_grad():
    shares = network(frames).softmax(dim=1)
for name, row in zip(ds.names, shares):
    print(name, info.classes[row.argmax()], float(row.max()))
"""


def command(*words):
    done = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def raw(shared, tmp_path_factory):
    """Real recordings: class folders without splits to train on, and a folder without labels."""
    root = tmp_path_factory.mktemp("raw")
    with zipfile.ZipFile(shared / "nmnist_550.zip") as archive:
        names = sorted(archive.namelist())
        for digit, name in DIGITS.items():
            files = [one for one in names if f"Train/{digit}/" in one and one.endswith(".bin")]
            for number, file in enumerate(files[:EACH]):
                path = root / "digits" / name / f"{number:02d}.bin"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(file))
            files = [one for one in names if f"Test/{digit}/" in one and one.endswith(".bin")]
            for number, file in enumerate(files[:5]):
                path = root / "new" / f"{digit}-{number}.bin"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(file))
    return root


def shares_of(table):
    """Return the class and its probability for each file of a CSV table."""
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert all(row["note"] == "" for row in rows)
    return {row["file"]: (row["class"], float(row["probability"])) for row in rows}


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, (label, share) in wanted.items():
        assert found[name] == (label, pytest.approx(share, abs=1e-4)), name


def test_from_class_folders_to_the_same_predictions_everywhere(tmp_path, raw):
    # Convert and train. The store has one split.
    store, run = tmp_path / "digits.zarr", tmp_path / "run"
    command("convert", "recordings", raw / "digits", store, *FRAMES)
    changes = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    words = ["train", "pipe-d", "--recipe", "pipe-d-small-events", "--data", store, "-o", run]
    said = command(*words, *changes)
    assert "has no split test, so 20% of each class are drawn for it" in said
    # Evaluate on the test part that the run has drawn.
    result = json.loads(command("evaluate", run, "--json"))
    own = json.loads((run / "result.json").read_text())["test"]
    assert result["samples"] == own["samples"] == 12
    assert result["top1"] == pytest.approx(own["top1"])
    assert result["top1"] > 0.7
    assert result["confusion"] == own["confusion"]
    # Predict new files without labels.
    command("predict", run, raw / "new", "-o", tmp_path / "new.csv")
    wanted = shares_of(tmp_path / "new.csv")
    assert len(wanted) == 15
    right = sum(DIGITS[name[0]] == label for name, (label, _) in wanted.items())
    assert right > 10
    # The same files, labelled and converted, as a store.
    for name in wanted:
        path = tmp_path / "labelled" / DIGITS[name[0]] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(raw / "new" / name, path)
    new = tmp_path / "new.zarr"
    command("convert", "recordings", tmp_path / "labelled", new, *FRAMES)
    command("predict", run, new, "-o", tmp_path / "store.csv")
    in_store = shares_of(tmp_path / "store.csv")
    same({Path(name).name: pair for name, pair in in_store.items()}, wanted)
    assert json.loads(command("evaluate", run, "--data", new, "--json"))["top1"] == right / 15
    # Ten lines of Python, from the run and from its exported weights.
    command("export", run, "-o", tmp_path / "net.safetensors")
    assert len(LOAD.strip().splitlines()) <= 10
    for source in (run, tmp_path / "net.safetensors"):
        done = subprocess.run(
            [sys.executable, "-c", LOAD, source, new], capture_output=True, text=True, check=True
        )
        rows = [line.split() for line in done.stdout.splitlines()]
        same({name: (label, float(share)) for name, label, share in rows}, in_store)
    # Every other format.
    check_exports(tmp_path, run, new, in_store)


def check_exports(folder, run, store, wanted):
    from eventdata import FrameDataset

    ds = FrameDataset(store, "all")
    frames = torch.stack([ds[index][0] for index in range(len(ds))]).float()
    formats = [".pt2"]
    formats += [".onnx"] if find_spec("onnxscript") and find_spec("onnxruntime") else []
    formats += [".nir"] if find_spec("nir") else []
    for suffix in formats:
        file = folder / f"net{suffix}"
        command("export", run, "-o", file)
        logits, classes = READERS[suffix](file, frames)
        shares = torch.as_tensor(np.asarray(logits)).softmax(dim=1)
        found = {
            name: (classes[int(row.argmax())], float(row.max()))
            for name, row in zip(ds.names, shares, strict=True)
        }
        same(found, wanted)


def read_pt2(file, frames):
    facts = {"facts.json": ""}
    network = torch.export.load(file, extra_files=facts).module()
    return network(frames).detach(), json.loads(facts["facts.json"])["classes"]


def read_onnx(file, frames):
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    return session.run(["logits"], {"input": frames.numpy()})[0], classes


def read_nir(file, frames):
    import nir

    graph = nir.read(file)
    dt = json.loads(graph.metadata["dt"])
    return run_graph(graph, frames.transpose(0, 1), dt), json.loads(graph.metadata["classes"])


READERS = {".pt2": read_pt2, ".onnx": read_onnx, ".nir": read_nir}
