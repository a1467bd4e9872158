"""ResNets of torchvision and timm: the same outputs from the same weights, and transfer of them."""

import sys
import types

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from eventdata.errors import InputError, OptionError
from tests.drawn import make_store
from train import load_model
from train.networks import build
from train.networks.published_names import TORCHVISION_RESNET, form_of, rename
from train.neurons.neuron import NeuronSettings
from train.recipe import load
from train.runs.module import prepare
from train.runs.run import run
from train.transfer import transfer
from train.weights import find_weights, load_state

DEPTHS = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3)}


class PlainBlock(nn.Module):
    def __init__(self, inputs, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or inputs != channels:
            conv = nn.Conv2d(inputs, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(out + shortcut)


class PlainResNet(nn.Module):
    """A restatement of torchvision's ResNet in plain torch, with its names."""

    def __init__(self, depths, classes=1000, width=64):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage, depth in enumerate(depths):
            outputs = width << stage
            blocks = [PlainBlock(inputs, outputs, 1 if stage == 0 else 2)]
            blocks += [PlainBlock(outputs, outputs, 1) for _ in range(depth - 1)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            inputs = outputs
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def trained(model, seed=0):
    """Give every entry a value that no initialisation has, so that each of them matters."""
    rng = torch.Generator().manual_seed(seed)
    for key, value in model.state_dict().items():
        if key.endswith("running_var") or (value.ndim == 1 and key.endswith("weight")):
            value.copy_(torch.rand(value.shape, generator=rng) + 0.5)
        elif value.ndim == 1:
            value.copy_(torch.randn(value.shape, generator=rng) / 5)
    return model.eval()


@pytest.fixture
def small(tmp_path):
    """A narrow ResNet-18 in a file with torchvision's names."""
    model = trained(PlainResNet(DEPTHS["18"], classes=3, width=4))
    save_file(model.state_dict(), tmp_path / "resnet18.safetensors")
    return model, tmp_path / "resnet18.safetensors"


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_logits_are_those_of_the_plain_network(tmp_path, depth):
    torch.manual_seed(0)
    model = trained(PlainResNet(DEPTHS[depth], classes=10))
    torch.save(model.state_dict(), tmp_path / "resnet.pth")
    network, info = load_model(tmp_path / "resnet.pth", recipe=f"torchvision-resnet{depth}")
    assert (info.stage, info.settings.neuron.kind) == ("pretrain", "ann")
    x = torch.randn(2, 3, 65, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), atol=1e-5, rtol=1e-5)


def test_the_logits_are_those_of_timm(tmp_path):
    timm = pytest.importorskip("timm", exc_type=ImportError)
    torch.manual_seed(0)
    model = trained(timm.create_model("resnet18", num_classes=10))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    network, _ = load_model(tmp_path / "model.safetensors", recipe="torchvision-resnet18")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["liaf", "lif"])
def test_spiking_neurons_take_the_weights(small, kind):
    """Every entry except the learned decays, and the mean of the colours for each polarity."""
    model, path = small
    neuron = NeuronSettings(kind=kind)
    network = build("torchvision-resnet18", channels=2, classes=3, neuron=neuron, width=4)
    report = transfer(network, load_state(path))
    assert all(key.endswith("neuron.decay") for key in report.of("fresh"))
    assert list(report.of("adapted")) == ["stem.conv.weight"]
    mean = model.conv1.weight.detach().mean(dim=1)
    assert torch.equal(network.stem.conv.weight[:, 1], mean)
    frames = (torch.rand(2, 5, 2, 33, 33) < 0.2).float()
    images = build("torchvision-resnet18", channels=3, classes=3, neuron=neuron, steps=4, width=4)
    assert network(frames).shape == images(torch.randn(2, 3, 33, 33)).shape == (2, 3)


NARROW = ["network.width=4", "run.held_out=0.2", "machine.accelerator=cpu", "all.batch_size=9"]
NARROW += ["machine.keep_pages=false"]


def short(recipe, changes):
    """Return a recipe with few epochs, and few samples for calibrations and norms."""
    stages = load(recipe, changes=changes, check_weights=False).stages
    for name, stage in stages.items():
        if name.endswith("-teacher"):  # it is not in the recipe
            continue
        few = (
            {"calibrate_samples": 16}
            if stage.calibrate != "none"
            else {"recalibrate": min(stage.recalibrate, 1)}
        )
        few |= {"epochs": min(stage.epochs, 1), "epoch_share": 1}
        changes = [*changes, *(f"{name}.{key}={value}" for key, value in few.items())]
    return load(recipe, changes=changes)


@pytest.mark.parametrize(
    ("recipe", "first", "change"),
    [
        ("torchvision-resnet18", "pretrain", ""),
        ("torchvision-resnet18", "sum", ""),
        ("torchvision-pipe-s", "ann", ""),
        ("pipe-d-images", "pretrain", "network.name=torchvision-resnet18"),
        ("pipe-s", "ann", "network.name=torchvision-resnet18"),
    ],
)
def test_pipelines_start_from_the_weights(small, events, images, tmp_path, recipe, first, change):
    changes = [*NARROW, f"{first}.weights={small[1]}", *filter(None, [change])]
    mine = short(recipe, changes)
    data = images if mine.pipeline == "pipe-s" else events
    result = run(mine, tmp_path / "run", data=data, images=images)
    assert [stage["name"] for stage in result["stages"]] == list(mine.stages)
    assert next(iter(mine.stages)) == first
    lines = (tmp_path / "run" / first / "transfer.txt").read_text().splitlines()
    fates = [line.split()[1] for line in lines if "first.conv.weight" in line]
    assert fates == ["taken"] * 8
    if mine.stages[first].epochs == 0:  # its ANN answers as the file's network does
        kept, info = load_model(tmp_path / "run", stage=first)
        assert info.settings.normalise == "imagenet"
        x = torch.randn(2, 3, 16, 16)
        with torch.no_grad():
            torch.testing.assert_close(kept(x), small[0](x), atol=1e-5, rtol=1e-5)


def test_lif_neurons_are_calibrated_to_a_file_and_taught_by_it(small, events, tmp_path):
    """The file takes the place of the ANN that the recipe would train."""
    change = "network.name=torchvision-resnet18"
    changes = [*NARROW, change, f"lif.weights={small[1]}"]
    mine = short("pipe-d-events", changes)
    result = run(mine, tmp_path / "run", data=events)
    assert [(one["name"], one["epochs"]) for one in result["stages"]] == [
        ("lif-teacher", 0),
        ("lif", 1),
    ]
    assert (tmp_path / "run/lif/calibrate.json").exists()
    assert result["uncounted"] == ["resnet18.safetensors"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("ann.neuron.activation=leaky_relu", "neuron.activation=relu; use the recipe torchvision"),
        ("ann.weights=many", r"fc\.weight, fc\.bias would stay random \(5 classes in the source"),
    ],
)
def test_weights_that_are_not_trained_have_to_fit(small, images, tmp_path, change, says):
    save_file(
        trained(PlainResNet(DEPTHS["18"], classes=5, width=4)).state_dict(),
        tmp_path / "many.safetensors",
    )
    change = change.replace("=many", f"={tmp_path / 'many.safetensors'}")
    mine = short("torchvision-pipe-s", [*NARROW, f"ann.weights={small[1]}", change])
    with pytest.raises((InputError, OptionError), match=says):
        run(mine, tmp_path / "run", data=images)


@pytest.mark.parametrize("recipe", ["pipe-d-images", "pipe-s"])
def test_another_network_is_refused(small, events, images, tmp_path, recipe):
    first = next(iter(load(recipe).stages))
    mine = load(recipe, changes=[*NARROW, f"{first}.weights={small[1]}"])
    data = images if mine.pipeline == "pipe-s" else events
    says = "network.name=torchvision-resnet18; use the recipe torchvision-resnet18"
    with pytest.raises(OptionError, match=f"a ResNet of torchvision or timm.*{says}"):
        run(mine, tmp_path / "run", data=data, images=images)


def test_weights_of_timm_are_found(small, monkeypatch):
    """Stand in for the hub, which tests do not reach."""
    hub = types.ModuleType("huggingface_hub")
    hub.hf_hub_download = lambda repository, name: {
        ("timm/resnet18.a1_in1k", "model.safetensors"): str(small[1])
    }[repository, name]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert find_weights("timm:resnet18.a1_in1k") == small[1]
    recipe = load("torchvision-resnet18", changes=["sum.weights=timm:resnet18.a1_in1k"])
    assert recipe.stages["sum"].weights == "timm:resnet18.a1_in1k"
    changes = ["network.width=4"]
    name = "timm:resnet18.a1_in1k"
    network, info = load_model(name, recipe="torchvision-resnet18", changes=changes)
    assert info.file == small[1]
    want = rename(small[0].state_dict(), TORCHVISION_RESNET)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in want.items())
    with pytest.raises(InputError, match="timm:resnet99 can't be downloaded.*check the name"):
        find_weights("timm:resnet99")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(OptionError, match="huggingface_hub.*pip install timm"):
        find_weights("timm:resnet18.a1_in1k")


def test_images_are_normalised_as_by_torchvision(tmp_path):
    stage = load("torchvision-resnet18", check_weights=False).stages["pretrain"]
    colours = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    want = (colours / 255 - mean[:, None, None]) / deviation[:, None, None]
    torch.testing.assert_close(prepare(colours, stage), want)
    grey = make_store(tmp_path / "grey.zarr", kind="image", channels=1)
    mine = load("pipe-s", changes=[*NARROW, "all.normalise=imagenet"])
    with pytest.raises(OptionError, match="normalise is imagenet, but .* 1 channels"):
        run(mine, tmp_path / "run", data=grey)


def test_the_names_are_recognised():
    assert form_of(PlainResNet(DEPTHS["18"], width=2).state_dict()) is TORCHVISION_RESNET
