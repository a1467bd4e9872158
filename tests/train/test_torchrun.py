"""Two processes started by torchrun (gloo, on a CPU) train like one with the whole batch.

The result is the same when one of them is killed and torchrun restarts both.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.drawn import TINY_RECIPE, make_store
from train.networks.sync_norm import SyncBatchNorm2d, synchronise_norms
from train.recipe import load
from train.runs.folder import read_rows
from train.runs.run import run

RECIPE = (
    TINY_RECIPE
    + """
sync_norm = true
[defaults]
batch_size = 16
augment = { strength = 0 }
[stages.lif]
neuron = { kind = "lif" }
epochs = 3
"""
)
# The program of each rank: note the samples that it is given, then train. One kills itself.
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from eventdata import FrameDataset, FrameLoader
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
store, notes = sys.argv[1:3]
dataset = FrameDataset(store)
dataset.labels[:] = range(len(dataset))  # the label is the number of the sample
loader = FrameLoader(dataset, 7, shuffle=True, seed=5, rank=rank, world_size=world)
seen = [[label for _, labels in loader for label in labels.tolist()] for _ in range(2)]
Path(notes, f"seen-{rank}.json").write_text(json.dumps(seen))
from train.runs.module import Classifier
real, epochs = Classifier.training_step, []
def training_step(self, batch, index):
    epochs.append(self.current_epoch + 1)
    if rank == 1:
        Path(notes, f"epochs-{attempt}.json").write_text(json.dumps(epochs))
        if attempt == 0 and len(epochs) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
    return real(self, batch, index)
Classifier.training_step = training_step
from eventdata.cli import main
main(sys.argv[3:])
"""


def torchrun(folder: Path, store: str) -> None:
    """Train with two processes in a folder; torchrun restarts them once."""
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "program.py").write_text(PROGRAM)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words += ["--max-restarts=1", str(folder / "program.py"), store, str(folder)]
    words += ["train", "pipe-d", "--data", store, "--recipe", str(folder / "recipe.toml")]
    words += ["-o", str(folder / "run"), "--set", "machine.devices=2"]
    # With a shared store, restarted processes would find the addresses of the dead ones.
    settings = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    done = subprocess.run(words, capture_output=True, env=os.environ | settings)
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("torchrun") / "events.zarr")


@pytest.fixture(scope="module")
def two(tmp_path_factory, store):
    """The folder of a run with two processes, one of them killed and restarted."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    torchrun(folder, store)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "run/lif/last.safetensors")


def test_ranks_see_each_sample_once_in_each_epoch(two):
    seen = [json.loads((two / f"seen-{rank}.json").read_text()) for rank in range(2)]
    for epoch in range(2):
        assert sorted(seen[0][epoch] + seen[1][epoch]) == list(range(60))
    assert seen[0][0] != seen[0][1]


def test_two_processes_train_like_one_with_the_whole_batch(two, store, tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    single = run(load(str(tmp_path / "recipe.toml")), tmp_path / "run", data=store)
    together = json.loads((two / "run/result.json").read_text())
    one, both = (read_rows(folder / "run/lif/epochs.csv") for folder in (tmp_path, two))
    assert [row["epoch"] for row in one] == [0, 1, 2, 3]
    for name in ("train_loss", "loss"):
        expected = [row[name] for row in one if name in row]
        assert len(expected) >= 3
        assert [row[name] for row in both if name in row] == pytest.approx(expected, rel=1e-3)
    expected = weights(tmp_path)
    for key, value in weights(two).items():
        assert torch.allclose(value.float(), expected[key].float(), rtol=1e-2, atol=1e-3), key
    assert together["test"]["samples"] == single["test"]["samples"] == 24
    assert together["test"]["loss"] == pytest.approx(single["test"]["loss"], rel=1e-3)


def test_a_killed_and_restarted_rank_resumes_after_the_last_epoch(two):
    epochs = [json.loads((two / f"epochs-{attempt}.json").read_text()) for attempt in range(2)]
    assert epochs == [[1, 1, 1, 2, 2], [2, 2, 2, 3, 3, 3]]
    steps = [row["step"] for row in read_rows(two / "run/lif/steps.csv")]
    assert steps == list(range(1, 10))


def test_synchronised_norms_equal_those_of_torch(monkeypatch):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3)))
    plain[1].weight.data.uniform_()
    shared = synchronise_norms(nn.Sequential(nn.Conv2d(2, 3, 3), *plain[1:]))
    assert [type(module) for module in (shared[1], shared[2][0])] == [SyncBatchNorm2d] * 2
    x = torch.randn(4, 3, 5, 5)
    norm, expected = SyncBatchNorm2d(3), nn.BatchNorm2d(3)
    monkeypatch.setattr("train.networks.sync_norm.dist.is_initialized", lambda: True)
    monkeypatch.setattr("train.networks.sync_norm.dist.get_world_size", lambda: 2)
    monkeypatch.setattr("train.networks.sync_norm.dist.all_reduce", lambda total: total.mul_(2))
    # Two processes with the same batch have the mean and variance of one of them.
    for _ in range(2):
        assert torch.allclose(norm(x), expected(torch.cat([x, x])).chunk(2)[0], atol=1e-5)
    for key, value in expected.state_dict().items():
        assert torch.allclose(norm.state_dict()[key], value, atol=1e-5), key
    assert torch.allclose(norm.eval()(x), expected.eval()(x), atol=1e-5)
