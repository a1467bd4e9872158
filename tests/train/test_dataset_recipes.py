"""The recipes for CIFAR10-DVS, DVS128 Gesture and N-Caltech101, on small data of their layouts."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import eventdata
from eventdata.cli import main
from tests.fuzz.seeds.recordings import aedat4_file
from tests.makers import write_npz
from train import load_model
from train.networks import build
from train.neurons.neuron import NeuronSettings
from train.recipe import load
from train.runs.folder import read_json

SMALL = ["all.epochs=1", "all.batch_size=4", "all.recalibrate=1", "network.width=4"]
SMALL += ["machine.accelerator=cpu", "machine.keep_pages=false"]


def command(*words):
    done = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def train(method, recipe, store, folder, *changes):
    words = [word for change in (*SMALL, *changes) for word in ("--set", change)]
    return command("train", method, "--recipe", recipe, "--data", store, "-o", folder, *words)


def imagenet_weights(path):
    """Write weights under torchvision's names, of a narrow network of a thousand classes."""
    network = build(
        "torchvision-resnet18",
        width=4,
        channels=3,
        classes=1000,
        neuron=NeuronSettings(kind="ann", activation="relu"),
    )
    save_file(network.state_dict(), path)
    return path


@pytest.mark.parametrize("steps", [8, 10])
def test_cifar10_dvs(tmp_path, steps):
    """aedat4 files in class folders: ImageNet's weights, frozen at first, and from scratch."""
    pytest.importorskip("aedat")
    for name in ("cat", "truck"):
        for number in range(8):
            path = tmp_path / "CIFAR10DVS" / name / f"cifar10_{name}_{number}.aedat4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(aedat4_file())
    store = tmp_path / "s.zarr"
    command("convert", "tonic:CIFAR10DVS", tmp_path, store, "--frames", steps)
    ds = eventdata.FrameDataset(store, "all")
    assert ds[0][0].shape == (steps, 2, 128, 128)
    source = imagenet_weights(tmp_path / "imagenet.safetensors")
    weights = f"lif.weights={source}"
    epochs = ["lif.epochs=3", "lif.keep=last"]
    said = train("pipe-d", "cifar10-dvs", store, tmp_path / "run", weights, *epochs)
    assert "flip 0.5" in said
    assert "lif starts from imagenet.safetensors, whose training is not counted" in said
    assert "10% of each class are drawn" in said
    network, info = load_model(tmp_path / "run")
    assert info.settings.freeze == ("stages",)
    assert len(info.classes) == 10
    with torch.no_grad():
        assert network(ds[0][0][None].float()).shape == (1, 10)
    (stage,) = read_json(tmp_path / "run" / "result.json")["stages"]
    assert stage["kind"] == "lif"
    train("scratch", "cifar10-dvs", store, tmp_path / "scratch")
    assert "speed-up" in command(
        "report", tmp_path / "run", tmp_path / "scratch", "-o", tmp_path / "r"
    )


def test_the_transferred_weights_of_cifar10_dvs_are_frozen_for_two_epochs(tmp_path):
    write_gestures(tmp_path / "raw")
    store = tmp_path / "s.zarr"
    command(
        "convert", "recordings", tmp_path / "raw", store, "--frames", 2, "--sensor-size", "128x128"
    )
    source = imagenet_weights(tmp_path / "imagenet.safetensors")
    inner, outer = "stages.0.0.first.conv.weight", "stem.conv.weight"
    before = load_file(source)
    stem = before[outer].mean(1, keepdim=True).expand(-1, 2, -1, -1)
    for epochs in (2, 3):
        changes = [f"lif.weights={source}", f"lif.epochs={epochs}"]
        train("pipe-d", "cifar10-dvs", store, tmp_path / f"{epochs}", *changes)
        after = load_file(tmp_path / f"{epochs}" / "lif" / "last.safetensors")
        assert torch.equal(after[inner], before[inner]) == (epochs == 2)
        assert not torch.equal(after[outer], stem)


def write_gestures(root):
    """Write 128x128 recordings of two gestures in class folders."""
    rng = np.random.default_rng(0)
    for number in range(16):
        t = np.sort(rng.integers(0, 5000, 300))
        x, y = rng.integers(0, 128, (2, 300))
        name = ("left_hand_wave", "right_hand_wave")[number % 2]
        write_npz(root / name / f"user{number:02d}.npz", x=x, y=y, t=t, p=rng.integers(0, 2, 300))


def test_dvs_gesture(tmp_path):
    write_gestures(tmp_path / "raw")
    store = tmp_path / "s.zarr"
    size = ["--sensor-size", "128x128"]
    command("convert", "recordings", tmp_path / "raw", store, "--frames", 5, *size)
    said = train("pipe-d", "dvs-gesture", store, tmp_path / "run")
    assert "flip" not in said
    predicted = command("predict", tmp_path / "run", tmp_path / "raw")
    assert predicted.count("_hand_wave,0.") == 16
    train("scratch", "dvs-gesture", store, tmp_path / "scratch")


def test_n_caltech101(shared, tmp_path):
    """bin files of different sizes in class folders; the ANN may start from ImageNet's weights."""
    content = (shared / "recordings" / "faces_easy_0001.bin").read_bytes()
    for name in ("Faces_easy", "accordion", "stop_sign"):
        for number in range(6):
            path = tmp_path / "NCALTECH101" / "Caltech101" / name / f"image_{number:04d}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content[: -5 * number or None])
    store = tmp_path / "s.zarr"
    size = ["--sensor-size", "240x180"]
    command("convert", "tonic:NCALTECH101", tmp_path, store, "--frames", 4, *size)
    source = imagenet_weights(tmp_path / "imagenet.safetensors")
    said = train("pipe-d", "n-caltech101", store, tmp_path / "run", f"sum.weights={source}")
    assert "flip" not in said
    assert "balanced over classes" in said
    assert load_model(tmp_path / "run")[0].sample_shape == (4, 2, 180, 240)
    train("scratch", "n-caltech101", store, tmp_path / "scratch")


@pytest.mark.parametrize("name", ["dvs-gesture", "n-caltech101"])
def test_recipes_of_what_has_left_and_right_do_not_flip(name):
    for scratch in (False, True):
        assert all(stage.augment.flip == 0 for stage in load(name, scratch=scratch).stages.values())
