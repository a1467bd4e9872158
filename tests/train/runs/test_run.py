"""Runs of tiny recipes on tiny stores, uninterrupted and resumed after a kill anywhere."""

import json
import os
import shutil
import stat
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from filelock import FileLock
from safetensors.torch import load_file, save_file

import train.runs.calibration
import train.runs.folder
import train.runs.record
import train.runs.run
from eventdata.cli import main
from eventdata.errors import InputError, MismatchError, OptionError
from tests.drawn import TINY_RECIPE, T, make_store
from tests.makers import tree_digest
from train import load_model
from train.export import export
from train.networks import build
from train.recipe import load, recipe_names
from train.results import read_run
from train.runs.cost import FREE
from train.runs.folder import RunFolder, read_rows, weight_facts
from train.runs.module import Classifier, DivergedError, divergence, prepare
from train.runs.plan import make_plan
from train.runs.record import Record
from train.runs.run import run
from train.runs.schedule import rate_factor
from train.runs.stage import StageRun
from train.settings import Stage

TINY = (
    TINY_RECIPE
    + """
[defaults]
batch_size = 16
schedule = "cosine"
augment = { crop = 0.1, mixup = 0.2 }
[stages.pretrain]
data = "images"
neuron = { kind = "ann" }
epochs = 2
[stages.lif]
weights = "pretrain"
recalibrate = 2
freeze = ["stem"]
freeze_epochs = 1
ema = 0.9
augment = { event_drop = 0.2 }
epochs = 3
[scratch]
epochs = 2
"""
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY)
    return str(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, recipe, events, images):
    """An uninterrupted run: its folder and its result."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    said: list[str] = []
    result = run(load(recipe), folder, data=events, images=images, say=said.append)
    assert said[-1].startswith(f"{folder}: finished")
    return folder, result


def weights(folder: Path) -> dict[str, bytes]:
    return {
        f"{stage}/{which}": (folder / stage / f"{which}.safetensors").read_bytes()
        for stage in ("pretrain", "lif")
        for which in ("best", "last")
    }


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a run, without the facts in the files, which hold seconds."""
    return {
        f"{path.parent.name}/{path.stem}/{key}": value
        for path in sorted(folder.glob("*/*.safetensors"))
        for key, value in load_file(path).items()
    }


def assert_same(folder: Path, other: Path) -> None:
    here, there = tensors(folder), tensors(other)
    assert list(here) == list(there)
    apart = {key: (here[key] - there[key]).abs().max().item() for key in here}
    assert not {key: by for key, by in apart.items() if by}
    for table in ("pretrain/steps", "pretrain/epochs", "lif/steps", "lif/epochs"):
        rows = [
            [
                {key: row[key] for key in row if not key.endswith("seconds")}
                for row in read_rows(path)
            ]
            for path in (folder / f"{table}.csv", other / f"{table}.csv")
        ]
        assert rows[0] == rows[1]


def test_files_of_a_run(whole):
    folder, result = whole
    assert [stage["name"] for stage in result["stages"]] == ["pretrain", "lif"]
    assert json.loads((folder / "result.json").read_text()) == result
    assert 0 <= result["test"]["top1"] <= 1
    assert "top5" not in result["test"]  # there are three classes
    assert result["more_samples"]  # its images are not made of the events
    assert result["test"]["balanced"] == pytest.approx(result["test"]["top1"])  # of equal size
    assert sum(map(sum, result["test"]["confusion"])) == result["test"]["samples"] == 24
    seconds = [stage["train_seconds"] for stage in result["stages"]]
    assert result["train_seconds"] == pytest.approx(sum(seconds))
    epochs, steps = read_rows(folder / "lif/epochs.csv"), read_rows(folder / "lif/steps.csv")
    assert [row["epoch"] for row in epochs] == [0, 1, 2, 3]
    assert [row["step"] for row in steps] == list(range(1, 10))
    assert epochs[-1]["train_seconds"] == pytest.approx(seconds[1])
    best = max(epochs[1:], key=lambda row: row["top1"])
    assert result["stages"][1]["best_top1"] == best["top1"]
    operations = json.loads((folder / "lif/operations.json").read_text())
    assert operations["samples"] > 0
    pretrain, lif = result["stages"]
    assert lif["trained_samples"] == 3 * 48
    assert lif["multiply_adds"] == lif["trained_samples"] * operations["training_multiply_adds"]
    for key in ("cpu_seconds", "multiply_adds", "additions"):
        assert result["cost"][key] == pytest.approx(pretrain[key] + lif[key])
        assert lif["before"][key] == pretrain[key]
    assert epochs[-1]["cpu_seconds"] == pytest.approx(lif["cpu_seconds"])
    assert epochs[-1]["cpu_seconds"] > epochs[1]["cpu_seconds"] > 0
    assert operations["rates"]
    assert "taken" in (folder / "lif/transfer.txt").read_text()
    assert list((folder / "tensorboard/lif").glob("events.*"))
    facts = weight_facts(folder / "lif/best.safetensors")
    assert facts["classes"] == ["c0", "c1", "c2"]
    assert facts["seconds"] > seconds[0]


def test_it_learns(tmp_path, recipe, events):
    changes = ["scratch.epochs=30", "scratch.ema=0", "scratch.augment.mixup=0"]
    result = run(load(recipe, scratch=True, changes=changes), tmp_path / "run", data=events)
    assert result["test"]["top1"] > 0.8  # of three classes


def test_frozen_parts_thaw_after_their_epochs(tmp_path, recipe, events):
    kept = {}
    for epochs in (1, 2):
        changes = [f"lif.epochs={epochs}", "lif.ema=0", "lif.weights=fresh", "lif.recalibrate=0"]
        mine = load(recipe, changes=changes)
        mine = replace(mine, stages={"lif": mine.stages["lif"]})
        run(mine, tmp_path / str(epochs), data=events)
        kept[epochs] = load_file(tmp_path / str(epochs) / "lif/last.safetensors")
    torch.manual_seed(0)
    assert torch.equal(kept[1]["stem.norm.weight"], torch.ones(4))
    assert not torch.equal(kept[2]["stem.norm.weight"], torch.ones(4))
    assert not torch.equal(kept[1]["fc.weight"], kept[2]["fc.weight"])


def test_a_finished_run_is_not_repeated(whole, recipe, events, images):
    folder, result = whole
    before = weights(folder)
    again = run(load(recipe, changes=["machine.threads=2"]), folder, data=events, images=images)
    assert again == result
    assert weights(folder) == before


def test_the_config_of_a_run_repeats_it(tmp_path, whole, events, images):
    folder, _ = whole
    run(load(str(folder / "config.toml")), tmp_path / "again", data=events, images=images)
    assert_same(tmp_path / "again", folder)


class StoppedError(Exception):
    """Stand in for a kill, within this process."""


@pytest.mark.parametrize(
    ("stage", "step"), [("pretrain", 2), ("pretrain", 5), ("lif", 1), ("lif", 7)]
)
def test_a_resumed_run_ends_with_the_same_weights(
    tmp_path, monkeypatch, whole, recipe, events, images, stage, step
):
    real = Classifier.training_step

    def stop(self, batch, index):
        here = "pretrain" if self.stage.data == "images" else "lif"
        if (here, self.global_step) == (stage, step):
            raise StoppedError
        return real(self, batch, index)

    monkeypatch.setattr(Classifier, "training_step", stop)
    with pytest.raises(StoppedError):
        run(load(recipe), tmp_path / "run", data=events, images=images)
    monkeypatch.undo()
    run(load(recipe), tmp_path / "run", data=events, images=images)
    assert_same(tmp_path / "run", whole[0])


def test_a_run_resumes_in_half_precision_with_accumulated_gradients(
    tmp_path, monkeypatch, recipe, events, images
):
    """bf16, several batches per step, the last weights kept, averages in every stage."""
    changes = ["run.precision=bf16-mixed", "all.accumulate=2", "all.keep=last", "all.ema=0.8"]
    chosen = load(recipe, changes=[*changes, "lif.augment.time_shift=1"])
    run(chosen, tmp_path / "whole", data=events, images=images)
    real, left = Classifier.training_step, [0]

    def stop(self, batch, index):
        left[0] -= 1
        if left[0] == 0:
            raise StoppedError
        return real(self, batch, index)

    monkeypatch.setattr(Classifier, "training_step", stop)
    for batches in (3, 8, 14):  # of 12 in the first stage and 18 in the second
        left[0] = batches
        with pytest.raises(StoppedError):
            run(chosen, tmp_path / "run", data=events, images=images)
    monkeypatch.undo()
    run(chosen, tmp_path / "run", data=events, images=images)
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_half_precision_learns_like_single_precision(tmp_path, recipe, events):
    changes = ["scratch.epochs=1", "scratch.ema=0"]
    steps = []
    for precision in ("32-true", "bf16-mixed"):
        mine = load(recipe, scratch=True, changes=[*changes, f"run.precision={precision}"])
        run(mine, tmp_path / precision, data=events)
        steps.append(read_rows(tmp_path / precision / "scratch/steps.csv"))
    single, half = ([row["loss"] for row in rows] for rows in steps)
    assert half == pytest.approx(single, rel=0.05)
    assert half != single


def test_a_run_does_not_resume_with_another_recipe_or_store(tmp_path, whole, recipe, images):
    folder, _ = whole
    other = make_store(tmp_path / "other", counts=(("train", 61), ("test", 24)))
    with pytest.raises(MismatchError, match=r"stages\.lif\.epochs is 3 there and 2 here"):
        run(load(recipe, changes=["lif.epochs=2"]), folder, data=other, images=images)
    with pytest.raises(MismatchError, match=r"stages\.pretrain\.epochs is 2 there and 3 here"):
        run(load(recipe, changes=["pretrain.epochs=3"]), folder, data=other, images=images)
    renamed = make_store(tmp_path / "renamed", names="t{:03}")  # by the same parameters
    for store in (other, renamed):
        with pytest.raises(MismatchError, match=r"stores\.data\.sha256"):
            run(load(recipe), folder, data=store, images=images)
    for name in ("thesis.tex", "film.part"):
        (tmp_path / f"my-{name}").mkdir()
        (tmp_path / f"my-{name}" / name).touch()
        with pytest.raises(MismatchError, match="is not empty and does not hold a run"):
            run(load(recipe), tmp_path / f"my-{name}", data=other, images=images)


def test_a_run_that_fails_before_training_leaves_its_folder_free(tmp_path, recipe, events):
    other = tmp_path / "other.safetensors"
    save_file({"layer.weight": torch.zeros(3)}, other)
    for change in (f"scratch.weights={other}", "scratch.batch_size=49"):
        with pytest.raises((InputError, OptionError)):
            run(load(recipe, scratch=True, changes=[change]), tmp_path / "run", data=events)
    run(load(recipe, scratch=True, changes=["scratch.epochs=1"]), tmp_path / "run", data=events)


def test_damaged_files_of_a_run_raise_errors(tmp_path, recipe, events):
    mine = load(recipe, scratch=True)
    run(mine, tmp_path / "run", data=events)
    kept = tensors(tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    (tmp_path / "run/scratch/stage.json").write_text("[]")
    with pytest.raises(InputError, match=r"stage.json: is damaged .*; delete it"):
        run(mine, tmp_path / "run", data=events)
    (tmp_path / "run/scratch/stage.json").unlink()
    state = tmp_path / "run/scratch/state.ckpt"
    state.write_bytes(state.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"state.ckpt: is damaged .*; delete it to train"):
        run(mine, tmp_path / "run", data=events)
    state.unlink()
    run(mine, tmp_path / "run", data=events)
    again = tensors(tmp_path / "run")
    assert all(torch.equal(kept[key], again[key]) for key in kept)


def stop_in_the_second_epoch(chosen, folder, data):
    real = Classifier.training_step

    def stop(self, batch, index):
        if self.current_epoch == 1:
            raise StoppedError
        return real(self, batch, index)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Classifier, "training_step", stop)
        with pytest.raises(StoppedError):
            run(chosen, folder, data=data)


@pytest.fixture(scope="module")
def begun(tmp_path_factory, recipe, events):
    """A run that was stopped in its second epoch."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    stop_in_the_second_epoch(load(recipe, scratch=True), folder, events)
    return folder


def edit_state(folder, *keys, value):
    """Put a value into a run's state.ckpt, below these keys."""
    path = folder / "scratch/state.ckpt"
    state = inner = torch.load(path, weights_only=True)
    for key in keys[:-1]:
        inner = inner[key]
    if value is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    torch.save(state, path)


RECORD, LOOP = ("callbacks", "Record"), ("loops", "fit_loop")
OPTIMIZER, SCHEDULE = ("optimizer_states", 0), ("lr_schedulers", 0)


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        ((*RECORD, "best"), "x", "best is 'x', not a number from 0 to 1"),
        ((*RECORD, "train_seconds"), "x", "train_seconds is 'x', not a number"),
        ((*RECORD, "waiting_seconds"), -1.0, "waiting_seconds is '-1.0', not a number from 0"),
        ((*RECORD, "rows", 0, "top1"), "x", "top1 is 'x', not a number"),
        ((*RECORD, "rows", 0, "a\nb"), 1.0, "a column 'a.nb'"),
        (RECORD, None, "it has no state of Record"),
        (("callbacks", "MovingAverage", "average", "fc.bias"), torch.zeros(9), r"average.fc.bias"),
        (
            (*OPTIMIZER, "state", 0, "momentum_buffer"),
            torch.zeros(9),
            r"is '\(9,\) of torch.float32",
        ),
        ((*OPTIMIZER, "state", 0, "momentum_buffer"), "x", "momentum_buffer is 'x'"),
        ((*OPTIMIZER, "param_groups", 0, "lr"), "x", "lr is 'x'"),
        ((*SCHEDULE, "last_epoch"), "x", "last_epoch is 'x'"),
        ((*LOOP, "epoch_progress", "current", "processed"), "x", "processed is 'x'"),
        ((*LOOP, "epoch_progress", "current", "processed"), -1, "processed is '-1'"),
        ((*LOOP, "epoch_loop.batch_progress", "is_last_batch"), "x", "is_last_batch is 'x'"),
    ],
)
def test_values_of_a_state_are_checked(
    tmp_path, monkeypatch, recipe, events, begun, keys, value, says
):
    folder = shutil.copytree(begun, tmp_path / "run")
    edit_state(folder, *keys, value=value)
    monkeypatch.setattr(Classifier, "training_step", lambda *_: pytest.fail("training has begun"))
    with pytest.raises(InputError, match=rf"state.ckpt: is damaged .*{says}.*; delete it"):
        run(load(recipe, scratch=True), folder, data=events)


def test_values_that_no_state_has_are_removed(tmp_path, recipe, events, begun):
    """Lightning and torch would set any attribute from them."""
    folder = shutil.copytree(begun, tmp_path / "run")
    edit_state(folder, *SCHEDULE, "step", value="x")
    edit_state(folder, *SCHEDULE, "optimizer", value="x")
    edit_state(folder, *LOOP, "epoch_progress", "current", "reset", value="x")
    edit_state(folder, *OPTIMIZER, "param_groups", 0, "momentum", value="x")
    (folder / "scratch/steps.csv").write_text("epoch\n1\n")
    run(load(recipe, scratch=True), folder, data=events)
    run(load(recipe, scratch=True), tmp_path / "whole", data=events)
    here, there = tensors(folder), tensors(tmp_path / "whole")
    assert all(torch.equal(here[key], there[key]) for key in there)


def test_a_run_of_an_older_version_resumes(tmp_path, recipe, events, begun):
    """Its config.toml lacks newer keys, which then have their defaults; so does its state."""
    folder = shutil.copytree(begun, tmp_path / "run")
    config = folder / "config.toml"
    newer = ("test_share", "sampling", "class_weights", "calibrate", "strength")
    lines = config.read_text().splitlines(keepends=True)
    old = [line for line in lines if not line.startswith(newer)]
    assert len(lines) - len(old) >= len(newer)
    config.write_text("".join(old))
    for key in ("cpu_seconds", "waiting_seconds"):
        edit_state(folder, *RECORD, key, value=None)
    other = load(recipe, scratch=True, changes=["scratch.sampling=balanced"])
    with pytest.raises(MismatchError, match=r"sampling is 'uniform' there and 'balanced' here"):
        run(other, folder, data=events)
    assert config.read_text() == "".join(old)
    run(load(recipe, scratch=True), folder, data=events)
    run(load(recipe, scratch=True), tmp_path / "whole", data=events)
    assert_same_tensors(folder, tmp_path / "whole")
    assert "sampling" in config.read_text()


def assert_same_tensors(folder: Path, other: Path) -> None:
    here, there = tensors(folder), tensors(other)
    assert all(torch.equal(here[key], there[key]) for key in there)


@pytest.mark.parametrize(
    ("stopped_at", "epochs", "best"),
    [("state.ckpt", 3, 1), ("best.safetensors", 3, 2), ("best.safetensors", 2, 2)],
)
def test_best_weights_of_an_epoch_that_is_worse_when_repeated(
    tmp_path, monkeypatch, recipe, events, stopped_at, epochs, best
):
    """As on a device that is not deterministic: stopped while the best epoch is being saved."""
    mine = load(recipe, scratch=True, changes=[f"scratch.epochs={epochs}"])
    first = {1: 0.5, 2: 0.6}
    top1 = dict(first)
    real_row, real_write, written = Record._row, train.runs.record.write, []

    def row(self, epoch, *details):
        return real_row(self, epoch, *details) | {"top1": top1.get(epoch, 0.1)}

    def stop(path, data):
        written.append(path.name)
        if written.count(stopped_at) == 2:
            raise StoppedError
        real_write(path, data)

    monkeypatch.setattr(Record, "_row", row)
    with monkeypatch.context() as patched:
        patched.setattr(train.runs.record, "write", stop)
        with pytest.raises(StoppedError):
            run(mine, tmp_path, data=events)
    top1.clear()
    stage = tmp_path / "scratch"
    kept = (stage / ("last" if best == 2 else "best")).with_suffix(".safetensors").read_bytes()
    (result,) = run(mine, tmp_path, data=events)["stages"]
    assert (result["best_epoch"], result["best_top1"]) == (best, first[best])
    assert (stage / "best.safetensors").read_bytes() == kept
    assert weight_facts(stage / "best.safetensors")["epoch"] == best


@pytest.mark.parametrize("change", ["optimizer=adamw", "momentum=0"])
def test_a_run_resumes_with_other_optimisers(tmp_path, recipe, events, change):
    mine = load(recipe, scratch=True, changes=[f"scratch.{change}"])
    stop_in_the_second_epoch(mine, tmp_path / "run", events)
    if change == "optimizer=adamw":
        folder = shutil.copytree(tmp_path / "run", tmp_path / "damaged")
        edit_state(folder, *OPTIMIZER, "state", 0, "step", value=torch.tensor(-1.0))
        with pytest.raises(InputError, match="step is '-1.0'"):
            run(mine, folder, data=events)
        edit_state(folder, *OPTIMIZER, "state", 0, "exp_avg", value=None)
        with pytest.raises(InputError, match="exp_avg"):
            run(mine, folder, data=events)
    run(mine, tmp_path / "run", data=events)
    run(mine, tmp_path / "whole", data=events)
    here, there = tensors(tmp_path / "run"), tensors(tmp_path / "whole")
    assert all(torch.equal(here[key], there[key]) for key in there)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train_seconds": "x"}, "train_seconds is 'x', not a number"),
        ({"train_seconds": 1e308}, "train_seconds is '1e.308', not a number"),
        ({"waiting_seconds": None}, "waiting_seconds is 'None'"),
        ({"best_top1": "x"}, "best_top1 is 'x', not a number from 0 to 1"),
        ({"best_top1": 7}, "best_top1 is '7'"),
        ({"best_epoch": [1]}, "best_epoch is "),
        ({"name": "pretrain"}, "name is not lif"),
        ({"epochs": 7}, "epochs is not 3"),
    ],
)
def test_values_of_a_finished_stage_are_checked(
    tmp_path, recipe, events, images, whole, change, says
):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    (folder / "result.json").unlink()
    result = folder / "lif/stage.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | change))
    with pytest.raises(InputError, match=rf"stage.json: is damaged .{says}.*; delete it"):
        run(load(recipe), folder, data=events, images=images)


@pytest.mark.parametrize(
    ("change", "facts", "says"),
    [
        ({"fc.bias": torch.zeros(9)}, {"epoch": 1}, "size mismatch for fc.bias"),
        ({"other": torch.zeros(9)}, {"epoch": 1}, "Unexpected key.*other"),
        ({}, {}, "epoch is 'None'"),
        ({}, {"epoch": 4}, "epoch is '4', not a number from 1 to 3"),
    ],
)
def test_kept_weights_of_another_stage_raise_an_error(
    tmp_path, recipe, events, images, whole, change, facts, says
):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    (folder / "result.json").unlink()
    best = folder / "lif/best.safetensors"
    train.runs.folder.write_weights(best, load_file(best) | change, facts)
    with pytest.raises(InputError, match=f"best.safetensors: is not of stage lif .*{says}.*delete"):
        run(load(recipe), folder, data=events, images=images)


def test_a_damaged_result_raises_an_error(tmp_path, recipe, events, images, whole):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    (folder / "result.json").write_text("[]")
    with pytest.raises(InputError, match=r"result.json: is damaged; delete it"):
        run(load(recipe), folder, data=events, images=images)


def test_one_process_trains_at_a_time(tmp_path, monkeypatch, recipe, events, begun):
    folder, mine = shutil.copytree(begun, tmp_path / "run"), load(recipe, scratch=True)
    before = tree_digest(folder)
    with (
        FileLock(folder / ".lock"),
        pytest.raises(InputError, match="run: another process is"),
    ):
        run(mine, folder, data=events)
    assert tree_digest(folder) == before
    monkeypatch.setattr(train.runs.run, "_run_stages", lambda *_: {})
    run(mine, folder, data=events)
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed/.lock").touch()  # killed before it wrote anything
    run(mine, tmp_path / "killed", data=events)


def test_a_finished_run_needs_no_lock(tmp_path, recipe, events, images, whole):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    with FileLock(folder / ".lock"):
        assert run(load(recipe), folder, data=events, images=images) == whole[1]


@pytest.mark.parametrize(
    ("name", "outside"),
    [
        ("config.toml.part", "file"),
        (".lock", "file"),
        (".lock", "gone"),
        ("scratch", "folder"),
        ("tensorboard", "folder"),
        ("tensorboard/scratch", "folder"),
        ("tensorboard/scratch/hparams.yaml", "gone"),  # TensorBoard keeps an existing one
    ],
)
def test_nothing_is_written_through_links(tmp_path, monkeypatch, recipe, events, name, outside):
    (tmp_path / "outside/folder").mkdir(parents=True)
    (tmp_path / "outside/file").write_text("precious")
    before = tree_digest(tmp_path / "outside")
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "outside" / outside)
    mine = load(recipe, scratch=True, changes=["scratch.epochs=1"])
    if name == "config.toml.part":
        monkeypatch.setattr(train.runs.run, "_run_stages", lambda *_: {})
        run(mine, tmp_path / "run", data=events)
        assert not (tmp_path / "run/config.toml").is_symlink()
    else:
        (tmp_path / "run/config.toml").touch()  # of a run that failed before training
        with pytest.raises(InputError, match=f"run/{name}: is a link; remove it"):
            run(mine, tmp_path / "run", data=events)
    assert tree_digest(tmp_path / "outside") == before


def test_stores_of_the_wrong_kind_raise_errors(tmp_path, recipe, events, images):
    with pytest.raises(OptionError, match="holds still images, but pipe-d needs a store of event"):
        run(load(recipe), tmp_path / "a", data=images, images=images)
    with pytest.raises(OptionError, match="needs a store of still images as --images"):
        run(load(recipe), tmp_path / "b", data=events, images=events)
    with pytest.raises(OptionError, match="pass a store of them with --images"):
        run(load(recipe), tmp_path / "c", data=events)
    with pytest.raises(OptionError, match="pipe-s needs a store of still images as --data"):
        run(load("pipe-s"), tmp_path / "d", data=events)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_raises_an_error(tmp_path, monkeypatch, recipe, events):
    real = Classifier.forward
    calls = []

    def forward(self, x):
        calls.append(1)
        return real(self, x) * (float("nan") if self.training and self.global_step == 4 else 1)

    monkeypatch.setattr(Classifier, "forward", forward)
    with pytest.raises(
        DivergedError, match=r"the loss \(batch 2\) is nan in epoch 2.*last whole epoch"
    ):
        run(load(recipe, scratch=True), tmp_path / "run", data=events)
    kept = load_file(tmp_path / "run/scratch/last.safetensors")
    assert all(value.isfinite().all() for value in kept.values())
    assert weight_facts(tmp_path / "run/scratch/last.safetensors")["epoch"] == 1


def test_weights_that_are_not_finite_are_not_kept(tmp_path, monkeypatch, recipe, events):
    """Spikes hide them from the loss, and no batch follows the last one of an epoch."""
    real = Classifier.on_train_epoch_end

    def on_train_epoch_end(self):
        if self.current_epoch == 1:
            with torch.no_grad():
                next(self.network.parameters()).fill_(float("nan"))
        real(self)

    monkeypatch.setattr(Classifier, "on_train_epoch_end", on_train_epoch_end)
    with pytest.raises(DivergedError, match=r"\.weight is not finite.* stage scratch"):
        run(load(recipe, scratch=True), tmp_path / "run", data=events)
    kept = load_file(tmp_path / "run/scratch/last.safetensors")
    assert all(value.isfinite().all() for value in kept.values())


def test_checkpoints_of_other_networks_raise_errors(tmp_path, recipe, events, whole):
    other = tmp_path / "other.safetensors"
    save_file({"layer.weight": torch.zeros(3)}, other)
    folder, _ = whole
    changes = [f"scratch.weights={other}"]
    with pytest.raises(InputError, match="nothing in the checkpoint fits"):
        run(load(recipe, scratch=True, changes=changes), tmp_path / "a", data=events)
    changes = [f"scratch.weights={folder}/lif/best.safetensors", "network.width=8"]
    with pytest.raises(InputError, match="of another network"):
        run(load(recipe, scratch=True, changes=changes), tmp_path / "b", data=events)


def test_the_training_time_of_a_checkpoint_is_counted(tmp_path, recipe, events, whole):
    folder, result = whole
    changes = [f"scratch.weights={folder}/lif/last.safetensors", "scratch.epochs=1"]
    mine = run(load(recipe, scratch=True, changes=changes), tmp_path / "a", data=events)
    assert mine["seconds_before"] == pytest.approx(result["train_seconds"])
    assert mine["train_seconds"] > result["train_seconds"]


def test_a_classifier_of_other_classes_is_not_taken(tmp_path, recipe, events, whole):
    folder, _ = whole
    state = load_file(folder / "lif/last.safetensors")
    facts = {"classes": ["cat", "dog", "eel"], "seconds": 0}
    train.runs.folder.write_weights(tmp_path / "w.safetensors", state, facts)
    changes = [f"scratch.weights={tmp_path}/w.safetensors", "scratch.epochs=1"]
    run(load(recipe, scratch=True, changes=changes), tmp_path / "a", data=events)
    lines = (tmp_path / "a/scratch/transfer.txt").read_text().splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("fc.weight")] == [
        ["fc.weight", "fresh"]
    ]


def test_the_best_weights_count_the_time_of_their_whole_stage(tmp_path, recipe, events, whole):
    folder, result = whole
    changes = [f"scratch.weights={folder}/lif/best.safetensors", "scratch.epochs=1"]
    said: list[str] = []
    mine = run(
        load(recipe, scratch=True, changes=changes), tmp_path / "a", data=events, say=said.append
    )
    assert mine["seconds_before"] == pytest.approx(result["train_seconds"])
    assert said[0] == "scratch: augmentation: crop 0.1, mixup 0.2, event_drop 0.2"
    (weights,) = (line for line in said if "scratch: weights from" in line)
    assert " taken, 0 adapted, 0 fresh, 0 unused" in weights


def test_torchrun_with_another_number_of_processes_raises_an_error(
    tmp_path, monkeypatch, recipe, events
):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OptionError, match="torchrun has started 2 processes, but machine.devices"):
        run(load(recipe, scratch=True), tmp_path / "run", data=events)


def test_a_missing_gpu_raises_an_error(tmp_path, monkeypatch, recipe, events):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(OptionError, match="torch finds no GPU on this machine"):
        run(load(recipe, scratch=True, changes=["machine.accelerator=gpu"]), tmp_path, data=events)


def test_half_precision_of_gpus_on_a_cpu_raises_an_error(tmp_path, monkeypatch, recipe, events):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(OptionError, match=r"16-mixed, which needs a GPU; set it to bf16-mixed"):
        run(load(recipe, scratch=True, changes=["run.precision=16-mixed"]), tmp_path, data=events)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("steps=15", "steps is 15, but the store's samples have 4"),
        ("collapse=3", "collapse is 3, which does not divide 4 steps"),
        ("collapse=8", "collapse is 8, which does not divide 4 steps"),
    ],
)
def test_steps_that_the_store_does_not_have_raise_errors(tmp_path, recipe, events, change, says):
    with pytest.raises(OptionError, match=says):
        run(load(recipe, scratch=True, changes=[f"scratch.{change}"]), tmp_path / "a", data=events)


def test_unused_images_are_reported(tmp_path, recipe, events, images):
    said: list[str] = []
    mine = load(recipe, scratch=True, changes=["scratch.epochs=1"])
    run(mine, tmp_path / "a", data=events, images=images, say=said.append)
    assert said[0] == "scratch tiny: has no stage on still images, so --images is not used"
    run(mine, tmp_path / "a", data=events, say=said.append)
    assert said[-1] == f"{tmp_path / 'a'}: has finished already"


def test_a_run_resumes_after_a_full_disk(tmp_path, monkeypatch, recipe, events, images, whole):
    real, left = os.fsync, [6]

    def fsync(number):
        left[0] -= stat.S_ISREG(os.fstat(number).st_mode)
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(InputError, match="run: can't be written .No space left .*last whole epoch"):
        run(load(recipe), tmp_path / "run", data=events, images=images)
    monkeypatch.undo()
    run(load(recipe), tmp_path / "run", data=events, images=images)
    assert_same(tmp_path / "run", whole[0])


def test_batches_that_cannot_be_made_raise_errors(tmp_path, recipe, events):
    with pytest.raises(OptionError, match="batch_size is 64, more than the 48 samples"):
        run(load(recipe, scratch=True, changes=["all.batch_size=64"]), tmp_path / "a", data=events)
    with pytest.raises(OptionError, match="width"):
        run(load(recipe, scratch=True, changes=["network.width=no"]), tmp_path / "b", data=events)
    changes = ['scratch.freeze=["head"]', "scratch.freeze_epochs=1"]
    with pytest.raises(OptionError, match="can't freeze 'head'"):
        run(load(recipe, scratch=True, changes=changes), tmp_path / "c", data=events)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("batch_size=1", "in batches of 1 .Expected more than 1 value per channel"),
        ("batch_size=4 scratch.accumulate=4", "in batches of 1 .Expected more than 1 value"),
        (
            'batch_size=4 scratch.freeze=["stem","cells","fc"] scratch.freeze_epochs=1',
            "scratch: freeze leaves nothing to train",
        ),
    ],
)
def test_batches_that_cannot_be_learned_from_raise_errors(tmp_path, recipe, events, change, says):
    """An ann on one step whose last maps have one pixel."""
    changes = ["neuron.kind=ann", "collapse=1", "downscale=8", *change.split(" ")]
    changes = [f"scratch.{one.removeprefix('scratch.')}" for one in changes]
    with pytest.raises(OptionError, match=says):
        run(load(recipe, scratch=True, changes=changes), tmp_path / "a", data=events)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            "lif.downscale=16",
            r"lif: the network can't take samples of .* change the recipe",
        ),
        ("network.width=0", "network vgg: width is 0"),
        ("network.channels=3", "network.channels can't be set in a recipe"),
        ("network.widht=3", r"widht.*; its settings are \w+"),
    ],
)
def test_networks_that_cannot_be_built_raise_errors(tmp_path, recipe, events, images, change, says):
    """The error comes before the first stage is trained, and the folder stays free."""
    with pytest.raises(OptionError, match=says):
        run(load(recipe, changes=[change]), tmp_path / "a", data=events, images=images)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("change", ["network.a b=1", 'network."=1', "network.x=[{a=1}]"])
def test_settings_that_no_network_has_raise_errors(tmp_path, recipe, events, change):
    with pytest.raises(OptionError, match="network vgg: got an unexpected keyword argument"):
        run(load(recipe, changes=[change], scratch=True), tmp_path / "a", data=events)


def test_a_run_on_a_store_with_an_odd_name_resumes(tmp_path, monkeypatch, recipe, events):
    store = shutil.copytree(events, tmp_path / 'a"b\\c\x7f\n.zarr')
    mine = load(recipe, scratch=True, changes=["scratch.epochs=1", "run.label=a\x7f"])
    done = run(mine, tmp_path / "run", data=str(store))
    assert run(mine, tmp_path / "run", data=str(store)) == done
    shutil.copytree(events, other := os.fsdecode(os.fsencode(tmp_path) + b"/\xff.zarr"))
    with pytest.raises(OptionError, match=r"stores.data.path is '.*udcff.zarr', which is not"):
        run(mine, tmp_path / "other", data=other)
    assert not (tmp_path / "other").exists()


def test_gradients_accumulate(tmp_path, recipe, events):
    """Two halves of a batch make one step, as the whole batch does except for its norms."""
    changes = ["scratch.augment.strength=0", "scratch.ema=0"]
    result = run(
        load(recipe, scratch=True, changes=[*changes, "scratch.accumulate=2"]),
        tmp_path / "a",
        data=events,
    )
    steps = read_rows(tmp_path / "a/scratch/steps.csv")
    assert result["stages"][0]["epochs"] == 2
    assert [row["step"] for row in steps] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6][: len(steps)]
    assert len(steps) == 12


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Stores of events and of still images, large enough for every network."""
    folder = tmp_path_factory.mktemp("large")
    counts, trace = (("train", 12), ("test", 6)), " ".join(f"0,{n % 2}" for n in range(T + 1))
    return [
        make_store(folder / "events.zarr", side=36, counts=counts, trace=trace),
        make_store(folder / "images.zarr", kind="image", channels=3, side=36, counts=counts),
    ]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_trains(tmp_path, name, large):
    """One step of each stage, with narrow networks, on a few samples."""
    events, images = large
    changes = ["network.width=4", "run.held_out=0.2", "machine.accelerator=cpu"]
    changes += ["all.epochs=1", "all.batch_size=9", "all.steps=3", "all.downscale=1"]
    changes += ["machine.keep_pages=false", "machine.log_every=1"]
    bare = load(name, changes=changes, check_weights=False)
    for first, stage in bare.stages.items():
        key = "recalibrate=1" if stage.calibrate == "none" else "calibrate_samples=16"
        changes.append(f"{first}.{key}")
        if 3 % (stage.collapse or 1):
            changes.append(f"{first}.collapse=1")
        if stage.weights == "checkpoint":
            size = {"size": (36, 36)} if bare.network["name"] == "crnn" else {}
            settings = {"channels": 3, "classes": 3, "neuron": stage.neuron}
            network = build(**bare.network, **settings, **size)
            save_file(network.state_dict(), tmp_path / "source.safetensors")
            changes.append(f"{first}.weights={tmp_path / 'source.safetensors'}")
    mine = load(name, changes=changes)
    data = images if mine.pipeline == "pipe-s" else events
    result = run(mine, tmp_path / "run", data=data, images=images)
    kinds = [stage["kind"] for stage in result["stages"]]
    assert kinds == [stage.neuron.kind for stage in mine.stages.values()]
    assert all(len(read_rows(path)) == 1 for path in (tmp_path / "run").glob("*/steps.csv"))
    assert result["test"]["samples"] == 6


@pytest.mark.parametrize(
    ("settings", "steps", "factors"),
    [
        ({"epochs": 4}, (0, 39), (1, 1)),
        ({"epochs": 4, "warmup": 1}, (0, 4, 9, 10), (0.1, 0.5, 1, 1)),
        ({"epochs": 4, "schedule": "cosine"}, (0, 20, 40), (1, 0.5, 0)),
        ({"epochs": 4, "warmup": 1e-300, "schedule": "cosine"}, (0, 20), (1, 0.5)),
        (
            {"epochs": 9, "schedule": "step", "milestones": (2, 4), "gamma": 0.3},
            (0, 19, 20, 39, 40),
            (1, 1, 0.3, 0.3, 0.09),
        ),
        (
            {"epochs": 4, "schedule": "one-cycle", "warmup": 0.25},
            (0, 10, 25, 40),
            (0.04, 1, 0.5, 0),
        ),
    ],
)
def test_learning_rates(settings, steps, factors):
    stage = Stage(**settings)
    found = [rate_factor(stage, step, 10) for step in steps]
    assert found == pytest.approx(factors, abs=2e-4)


def test_the_input_of_the_network():
    frames = (torch.rand(2, 6, 2, 8, 8) < 0.3).to(torch.uint8)
    assert torch.equal(prepare(frames, Stage()), frames.float())
    for left in (1, 2, 3):
        parts = [part.float().sum(dim=1) for part in frames.chunk(left, dim=1)]
        assert torch.equal(prepare(frames, Stage(collapse=left)), torch.stack(parts, dim=1))
    pictures = torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)
    assert prepare(pictures, Stage()).unique().tolist() == pytest.approx([0.55 / 0.225])


def test_two_devices_end_as_one_network(tmp_path, recipe, events, images):
    arguments = ["pipe-d", "--data", events, "--images", images, "--recipe", recipe]
    arguments += ["--out", str(tmp_path / "run"), "--set", "machine.devices=2"]
    done = subprocess.run([sys.executable, "-m", "train", *arguments], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert sum(map(sum, result["test"]["confusion"])) == 24  # each sample once, on one device
    steps = read_rows(tmp_path / "run/lif/steps.csv")
    assert [row["step"] for row in steps] == list(range(1, 10))
    assert done.stdout.decode().count("finished") == 1


def test_the_command(tmp_path, recipe, events):
    arguments = [
        "train",
        "scratch",
        "--data",
        events,
        "--recipe",
        recipe,
        "-o",
        str(tmp_path / "a"),
    ]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "test: top-1" in done.output
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert json.loads(done.stdout)["label"] == "scratch tiny"
    wrong = CliRunner().invoke(main, [*arguments, "--set", "scratch.epoch=1"])
    assert wrong.exit_code == 2
    assert "did you mean 'epochs'" in wrong.output


@pytest.mark.parametrize("way", ["images", "sums", "file"])
def test_a_stage_calibrates_to_the_source_of_its_weights(
    tmp_path, recipe, events, images, whole, way
):
    folder, _ = whole
    changes = ["lif.calibrate=refit", "lif.calibrate_samples=20", "lif.recalibrate=0"]
    changes += ["all.epochs=1", "lif.freeze=[]", "lif.freeze_epochs=0"]
    changes += {
        "images": [],
        "sums": ["pretrain.data=data", "pretrain.collapse=1"],
        "file": [f"lif.weights={folder / 'pretrain/last.safetensors'}"],
    }[way]
    said: list[str] = []
    made = load(recipe, changes=changes)
    run(made, tmp_path, data=events, images=images, say=said.append)
    rows = json.loads((tmp_path / "lif/calibrate.json").read_text())
    assert len(rows) > 1
    assert all(0 <= row["before"] <= row["kept"] <= 1 for row in rows)
    assert all(row["residual"][1] <= row["residual"][0] for row in rows[1:])
    assert any(rows[0]["name"] in text and "calibrated" in text for text in said)
    assert not (tmp_path / "pretrain/calibrate.json").exists()


@pytest.mark.parametrize(("kind", "notes"), [("ann", 1), ("liaf", 0)])
def test_a_decay_that_is_not_used_is_noted(tmp_path, recipe, events, kind, notes):
    """Decays are weights: an ann hands on its initial ones, and a liaf those that it learned."""
    changes = ["all.epochs=1", "pretrain.data=data", f"pretrain.neuron.kind={kind}"]
    changes += ["lif.neuron.decay=0.9"]
    said: list[str] = []
    run(load(recipe, changes=changes), tmp_path, data=events, say=said.append)
    found = [text for text in said if "lif.neuron.decay=0.9 is not used" in text]
    assert len(found) == notes
    assert all("those of the source are 0.5" in text for text in found)


@pytest.mark.parametrize("stage", ["pretrain", "lif"])
def test_a_decay_may_be_learned_in_one_of_the_two_stages(tmp_path, recipe, events, stage):
    changes = ["lif.calibrate=refit", "lif.calibrate_samples=20", "lif.recalibrate=0"]
    changes += ["all.epochs=1", "pretrain.data=data", "pretrain.neuron.kind=liaf"]
    run(
        load(recipe, changes=[*changes, f"{stage}.neuron.learn_decay=false"]), tmp_path, data=events
    )
    assert (tmp_path / "lif/calibrate.json").exists()


def test_the_reference_of_a_file_has_the_settings_of_its_header(
    tmp_path, recipe, events, images, whole, monkeypatch
):
    seen = []

    def record(network, reference, pairs, **options):
        seen.append((reference.layers()[0].neuron.settings, pairs[0][1].shape[1]))
        return calibrate(network, reference, pairs, **options)

    calibrate = train.runs.calibration.calibrate
    monkeypatch.setattr(train.runs.calibration, "calibrate", record)
    first = ["lif.neuron.threshold=0.9", "lif.neuron.decay=0.7", "lif.neuron.learn_decay=false"]
    first += ["lif.weights=fresh", "lif.recalibrate=0", "lif.collapse=2", "lif.epochs=1"]
    run(load(recipe, changes=first), tmp_path / "first", data=events)
    source = tmp_path / "first/lif/last.safetensors"
    again = ["lif.calibrate=refit", "lif.calibrate_samples=20", "lif.recalibrate=0"]
    again += ["lif.epochs=1", "lif.freeze=[]", "lif.freeze_epochs=0"]
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(whole[0] / "pretrain/last.safetensors"), bare)
    said: list[str] = []
    exported = tmp_path / "exported.safetensors"  # states its settings, but not its samples
    export(bare, exported, recipe=recipe, stage="pretrain")
    for name, file in (("own", source), ("bare", bare), ("exported", exported)):
        one = load(recipe, changes=[*again, f"lif.weights={file}"])
        result = run(one, tmp_path / name, data=events, say=said.append)
        assert result["more_samples"] == (name != "own")
    (own, own_steps), *others = seen
    assert (own.kind, own.threshold, own.decay, own_steps) == ("lif", 0.9, 0.7, 2)
    assert [(neuron.kind, steps) for neuron, steps in others] == [("ann", 1), ("ann", 1)]
    notes = [text for text in said if "does not state how it was trained" in text]
    assert len(notes) == 1
    assert notes[0].endswith("taken as of ann neurons on the sum of the frames")


def test_a_stage_learns_from_a_teacher(tmp_path, recipe, events, images):
    """With the teacher's answers as the whole loss, labels decide nothing."""
    changes = ["pretrain.data=data", "pretrain.collapse=1", "pretrain.epochs=1", "lif.epochs=2"]
    taught = [*changes, "lif.teacher=pretrain", "lif.calibrate=refit", "lif.recalibrate=0"]
    taught += ["lif.calibrate_samples=20"]
    whole = run(load(recipe, changes=taught), tmp_path / "taught", data=events)
    alone = run(load(recipe, changes=changes), tmp_path / "alone", data=events)
    losses = [read_rows(tmp_path / name / "lif/epochs.csv")[-1] for name in ("taught", "alone")]
    assert losses[0]["train_loss"] < losses[1]["train_loss"]
    work = [result["stages"][1]["multiply_adds"] for result in (whole, alone)]
    assert work[0] > 1.05 * work[1]
    assert not whole["more_samples"]
    header = weight_facts(tmp_path / "taught/lif/last.safetensors")
    assert header["settings"]["teacher"] == ""


def test_a_stage_with_a_teacher_resumes(tmp_path, recipe, events):
    """A resumed stage loads its teacher again and ends with the same weights."""
    changes = ["pretrain.data=data", "pretrain.collapse=1", "pretrain.epochs=1", "lif.epochs=2"]
    changes += ["lif.teacher=pretrain", "lif.teacher_weight=0.5", "all.epoch_share=0.5"]
    chosen = load(recipe, changes=changes)
    run(chosen, tmp_path / "whole", data=events)
    assert [row["step"] for row in read_rows(tmp_path / "whole/lif/epochs.csv")] == [0, 2, 4]
    stop_in_the_second_epoch(chosen, tmp_path / "stopped", events)
    run(chosen, tmp_path / "stopped", data=events)
    assert_same(tmp_path / "whole", tmp_path / "stopped")


def test_a_stage_without_epochs_keeps_the_weights_of_its_source(tmp_path, recipe, events, whole):
    """With calibration it is LIF without training; each stage is evaluated, and can be resumed."""
    folder, _ = whole
    source = folder / "lif/best.safetensors"
    changes = [f"lif.weights={source}", "lif.epochs=0", "lif.recalibrate=0", "lif.freeze=[]"]
    changes += ["lif.freeze_epochs=0"]
    mine = load(recipe, changes=changes)
    result = run(mine, tmp_path / "run", data=events)
    before, after = (load_file(path) for path in (source, tmp_path / "run/lif/best.safetensors"))
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert weight_facts(tmp_path / "run/lif/last.safetensors")["epoch"] == 0
    (stage,) = result["stages"]
    assert (stage["epochs"], stage["best_epoch"], stage["trained_samples"]) == (0, 0, 0)
    (row,) = read_rows(tmp_path / "run/lif/epochs.csv")
    assert row["top1"] == stage["best_top1"]
    assert read_run(tmp_path / "run").best == row["top1"]
    assert load_model(tmp_path / "run")[1].settings.epochs == 0
    # A run that was killed before its end resumes, with the same settings only.
    (tmp_path / "run/result.json").unlink()
    other = load(recipe, changes=[*changes, f"lif.weights={folder / 'lif/last.safetensors'}"])
    with pytest.raises(MismatchError, match=r"lif\.weights is"):
        run(other, tmp_path / "run", data=events)
    assert run(mine, tmp_path / "run", data=events)["test"] == result["test"]
    calibrated = ["lif.calibrate=refit", "lif.calibrate_samples=20"]
    ann = f"lif.weights={folder / 'pretrain/last.safetensors'}"
    run(load(recipe, changes=[*changes, ann, *calibrated]), tmp_path / "c", data=events)
    assert (tmp_path / "c/lif/calibrate.json").exists()
    # More epochs continue from the start.
    longer = load(recipe, changes=[*changes, "lif.epochs=1"])
    rows = run(longer, tmp_path / "run", data=events)["stages"]
    assert rows[0]["trained_samples"] == 48


def test_a_file_that_also_teaches_is_counted_once(tmp_path, recipe, events, whole):
    ann = whole[0] / "pretrain/last.safetensors"
    changes = [f"lif.weights={ann}", "lif.epochs=1", "lif.freeze=[]", "lif.freeze_epochs=0"]
    result = run(load(recipe, changes=[*changes, f"lif.teacher={ann}"]), tmp_path, data=events)
    assert [stage["name"] for stage in result["stages"]] == ["lif-teacher", "lif"]
    assert result["seconds_before"] == weight_facts(ann)["seconds"]
    assert result["more_samples"]  # the file has learned from pictures


def test_an_ann_that_is_not_trained_takes_no_weights_of_spiking_neurons(
    tmp_path, recipe, events, images, whole
):
    changes = ["pretrain.epochs=0", f"pretrain.weights={whole[0] / 'lif/last.safetensors'}"]
    says = "pretrain does not train its weights, but the weights were trained with lif neurons"
    with pytest.raises(InputError, match=says):
        run(load(recipe, changes=changes), tmp_path / "run", data=events, images=images)


def test_a_divergence_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    own, theirs = rng.normal(size=(2, 5, 4)) * 3
    p, q = (np.exp(x / 4) / np.exp(x / 4).sum(axis=1, keepdims=True) for x in (own, theirs))
    wanted = 16 * (q * np.log(q / p)).sum() / 5
    found = divergence(torch.from_numpy(own), torch.from_numpy(theirs), 4.0)
    assert float(found) == pytest.approx(wanted, rel=1e-4)


def test_several_devices_recalibrate_with_one_devices_share_of_a_batch(
    tmp_path, recipe, events, images, monkeypatch
):
    sizes: list[int] = []
    monkeypatch.setattr(
        "train.runs.stage.recalibrate", lambda _, batches: sizes.extend(map(len, batches))
    )
    mine = load(recipe, changes=["machine.devices=2"])
    plan = make_plan(mine, data=events, images=images)
    folder = RunFolder(tmp_path).stage("lif")
    stage = StageRun(plan=plan, name="lif", folder=folder, before=FREE)
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        precision_plugin=SimpleNamespace(forward_context=nullcontext),
    )
    stage._start(trainer, None, print)
    assert sizes == [8] * 4  # two batches of 16
