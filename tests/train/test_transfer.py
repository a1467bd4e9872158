"""Transfer of weights between networks, and its report."""

import argparse

import pytest
import torch
from safetensors.torch import save_file

from eventdata.errors import EventDataError, InputError, OptionError
from train.networks import build
from train.neurons.neuron import NeuronSettings
from train.transfer import freeze, thaw, transfer
from train.weights import DTYPES, load_state


def network(kind="lif", name="event-resnet18", *, seed=0, **settings):
    torch.manual_seed(seed)
    settings = {"channels": 2, "classes": 5, "width": 4} | settings
    return build(name, neuron=NeuronSettings(kind=kind), **settings)


def crnn(kind, seed=0, **settings):
    small = {"size": (33, 33), "hidden": 40, "embedding": 20, "memory": 10}
    return network(kind, "crnn", seed=seed, **small | settings)


def test_each_polarity_of_the_stem_gets_the_mean_of_the_colours():
    ann, lif = network("ann", channels=3), network("lif", seed=1)
    report = transfer(lif, ann.state_dict())
    mean = ann.stem.conv.weight.detach().mean(dim=1)
    assert torch.equal(lif.stem.conv.weight[:, 0], mean)
    assert torch.equal(lif.stem.conv.weight[:, 1], mean)
    assert report.of("adapted") == {"stem.conv.weight": "mean of 3 channels for each of 2"}
    assert report.of("fresh") == {}
    assert torch.equal(lif.stem.norm.weight, ann.stem.norm.weight)


def test_a_fresh_stem_is_not_changed():
    ann, lif = network("ann"), network("lif", seed=1)
    before = {key: value.clone() for key, value in lif.state_dict().items()}
    report = transfer(lif, ann.state_dict(), stem="fresh")
    assert set(report.of("fresh")) == {key for key in before if key.startswith("stem.")}
    for key, value in lif.state_dict().items():
        want = before if key in report.of("fresh") else ann.state_dict()
        assert torch.equal(value, want[key]), key


def test_a_classifier_with_another_number_of_classes_is_fresh():
    source, target = network(classes=7), network(seed=1)
    fc = target.fc.weight.detach().clone()
    report = transfer(target, source.state_dict())
    assert set(report.of("fresh")) == {"fc.weight", "fc.bias"}
    assert report.of("fresh")["fc.bias"] == "7 classes in the source, 5 here"
    assert torch.equal(target.fc.weight, fc)


@pytest.mark.parametrize("part", ["encoder", "decoder", "both"])
def test_a_part_of_a_crnn_is_taken(part):
    source, target = crnn("ann", channels=3), crnn("lif", seed=1)
    report = transfer(target, source.state_dict(), stem="fresh", part=part)
    taken = {key.split(".")[0] for key in report.of("taken")}
    assert taken == ({"encoder", "decoder"} if part == "both" else {part})
    assert all(
        "stem" in key or part not in ("both", key.split(".")[0]) for key in report.of("fresh")
    )
    for key in report.of("taken"):
        assert torch.equal(target.state_dict()[key], source.state_dict()[key])


def test_the_decoder_of_a_network_without_one_is_its_classifier():
    report = transfer(network(), network(seed=1).state_dict(), part="decoder")
    assert list(report.of("taken")) == ["fc.weight", "fc.bias"]


def test_the_report_has_the_fate_of_every_entry():
    source = network("ann", channels=3, classes=7).state_dict()
    source["extra.weight"] = torch.zeros(1)
    del source["stages.0.0.neuron.decay"]
    target = network("lif")
    report = transfer(target, source)
    entries = [*report.of("taken"), *report.of("adapted"), *report.of("fresh")]
    assert sorted(entries) == sorted(target.state_dict())
    assert report.of("fresh")["stages.0.0.neuron.decay"] == "not in the source"
    assert list(report.of("unused")) == ["extra.weight"]
    lines = str(report).splitlines()
    assert len(lines) == len(entries) + 2
    assert any(line.split() == ["stem.conv.bias", "taken"] for line in lines)
    assert any(line.startswith("stem.conv.weight") and "adapted" in line for line in lines)
    assert lines[-1].endswith("1 adapted, 3 fresh, 1 unused")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({}, "nothing in the checkpoint fits.*it has nothing"),
        ({"conv.weight": torch.zeros(3)}, "nothing in the checkpoint fits.*it has conv.weight"),
    ],
)
def test_a_source_without_a_match_is_an_error(source, says):
    with pytest.raises(EventDataError, match=says):
        transfer(network(), source)


def test_another_network_is_an_error_and_changes_nothing():
    target = network()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(InputError, match=r"of another network: stem\.conv\.weight is"):
        transfer(target, network(width=8).state_dict())
    for key, value in target.state_dict().items():
        assert torch.equal(value, before[key])


SHAPE = (4, 3, 7, 7)  # of the stem's kernel for images


@pytest.mark.parametrize("dtype", sorted(DTYPES, key=str))
@pytest.mark.parametrize("channels", [2, 3])
def test_numbers_of_every_type_are_taken_and_averaged(dtype, channels):
    target = network()
    kernel = (torch.arange(4 * channels * 49) % 2).reshape(4, channels, 7, 7).to(dtype)
    source = network("ann", channels=channels).state_dict() | {"stem.conv.weight": kernel}
    transfer(target, source)
    expected = kernel.float() if channels == 2 else kernel.float().mean(1, True).expand(-1, 2, 7, 7)
    assert torch.equal(target.stem.conv.weight, expected)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("stem.conv.weight", torch.zeros(4, 0, 7, 7), r"is \(4, 0, 7, 7\) there"),
        ("stem.conv.weight", torch.zeros(0, 3, 7, 7), r"is \(0, 3, 7, 7\) there"),
        ("stem.conv.weight", torch.zeros(4, 3, 5, 5), r"is \(4, 3, 5, 5\) there"),
        ("stem.conv.weight", torch.zeros(4, 3, 49), r"is \(4, 3, 49\) there"),
        ("stem.conv.weight", torch.zeros(()), r"is \(\) there"),
        ("stem.conv.weight", torch.zeros(SHAPE, dtype=torch.complex64), "is of torch.complex64"),
        ("stem.conv.weight", torch.zeros(SHAPE, dtype=torch.uint16), "is of torch.uint16"),
        ("stem.conv.weight", torch.zeros(SHAPE, device="meta"), "has no values"),
        ("stem.conv.weight", torch.zeros(SHAPE).to_sparse(), "is not dense"),
        ("stages.3.1.second.conv.weight", torch.zeros(0), r"is \(0,\) there"),
        ("fc.bias", torch.zeros(()), r"is \(\) there"),
        ("fc.bias", torch.zeros(5, dtype=torch.complex64), "is of torch.complex64"),
        ("fc.bias", torch.zeros(5, device="meta"), "has no values"),
    ],
)
def test_an_entry_that_does_not_fit_changes_nothing(key, value, says):
    source = network("ann", seed=1, channels=3).state_dict()
    target = network()
    before = {name: values.clone() for name, values in target.state_dict().items()}
    with pytest.raises(InputError, match=f"{key}.* {says}"):
        transfer(target, source | {key: value})
    assert all(torch.equal(values, before[name]) for name, values in target.state_dict().items())


@pytest.mark.parametrize(
    ("ours", "theirs"), [("event-resnet34", "event-resnet18"), ("event-resnet18", "event-resnet34")]
)
def test_a_network_of_another_depth_is_another_network(ours, theirs):
    settings = {"channels": 2, "classes": 3, "neuron": NeuronSettings(kind="lif"), "width": 4}
    target = build(ours, **settings)
    with pytest.raises(InputError, match=r"of another network: the .* lacks \d+ of \d+ layers"):
        transfer(target, build(theirs, **settings).state_dict())


def test_a_classifier_with_other_class_names_is_fresh():
    target = network()
    before = target.state_dict()["fc.weight"].clone()
    report = transfer(target, network(seed=1).state_dict(), same_classes=False)
    assert report.of("fresh") == dict.fromkeys(
        ("fc.weight", "fc.bias"), "classes of other names in the source"
    )
    assert torch.equal(target.state_dict()["fc.weight"], before)
    assert "fc.bias" in report.summary()
    assert "taken" not in report.summary().splitlines()[0]


@pytest.mark.parametrize("wrong", [{"stem": "sum"}, {"part": "head"}])
def test_unknown_options_are_named(wrong):
    with pytest.raises(OptionError, match="choose (mean, fresh|encoder, decoder, both)"):
        transfer(network(), network().state_dict(), **wrong)


def test_checkpoints_of_all_formats_load(tmp_path):
    state = network().state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pt")
    lightning = {f"network.{key}": value for key, value in state.items()}
    torch.save({"state_dict": lightning, "epoch": 3}, tmp_path / "c.ckpt")
    for path in tmp_path.iterdir():
        loaded = load_state(path)
        assert list(loaded) == list(state) or sorted(loaded) == sorted(state)
        assert all(torch.equal(loaded[key], state[key]) for key in state)


class Trap:
    """An object that fails the test when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("the checkpoint was unpickled",))


def test_bad_checkpoints_are_named_and_never_unpickled(tmp_path):
    torch.save({"state_dict": Trap()}, tmp_path / "trap.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    (tmp_path / "text.pt").write_text("weights")
    (tmp_path / "nothing.pt").touch()
    (tmp_path / "torn.safetensors").write_bytes(b"\x00\x01")
    for path in [*tmp_path.iterdir(), tmp_path / "missing.pt", tmp_path / "missing.safetensors"]:
        with pytest.raises(InputError, match=path.name):
            load_state(path)


def test_options_of_scripts_are_read_only_as_options(tmp_path):
    state = network().state_dict()
    options = argparse.Namespace(lr=0.1, model="resnet18")
    torch.save({"model": state, "args": options}, tmp_path / "a.pt")
    assert list(load_state(tmp_path / "a.pt")) == list(state)
    vars(options)["__setstate__"] = "called by a second BUILD"
    torch.save({"model": state, "args": options}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="attributes of a Namespace that are not options"):
        load_state(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (lambda: torch.empty(3, device="meta"), "has no values"),
        (lambda: torch.zeros(3, dtype=torch.uint8).view(torch.bits8), "is of torch.bits8"),
        (lambda: torch.zeros(3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "is of .*float4"),
        (lambda: torch.zeros(3, dtype=torch.complex64), "is of torch.complex64"),
        (lambda: torch.nested.nested_tensor([torch.zeros(3)]), "is nested"),
        (lambda: torch.zeros(3).to_sparse(), "is sparse"),
        (lambda: torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.quint8), "is quantized"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_not_numbers_are_named(tmp_path, tensor, message):
    state = network().state_dict() | {"stem.odd": tensor()}
    torch.save({"state_dict": state}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=f"a.pt.*'stem.odd' {message}"):
        load_state(tmp_path / "a.pt")


def test_checkpoints_of_trainers_load(tmp_path):
    """Load an optimiser, a schedule, shared and strided weights in both formats of torch."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.rand(2, 3, 2, 64, 64)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    state = net.state_dict() | {
        "extra": torch.arange(12).view(3, 4).t()[1:],
        "empty": torch.ones(0),
    }
    whole = {
        "state_dict": state | {"again": state["fc.weight"], "half": torch.ones(3).half()},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [schedule.state_dict()],
        "sizes": torch.Size([1, 2]),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "device": torch.device("cpu"),
        "type": torch.float16,
    }
    for name, new in (("a.pt", True), ("b.pt", False)):
        torch.save(whole, tmp_path / name, _use_new_zipfile_serialization=new)
        loaded = load_state(tmp_path / name)
        assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_frozen_parts_keep_their_weights_until_thawed():
    net = network()
    names = freeze(net, ["stem", "stages.0"])
    assert "stem.conv.weight" in names
    assert "stages.0.1.second.norm.bias" in names
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    x = (torch.rand(2, 3, 2, 64, 64) < 0.1).float()

    def step():
        before = {name: value.detach().clone() for name, value in net.named_parameters()}
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
        return {n for n, value in net.named_parameters() if not torch.equal(value, before[n])}

    moved = step()
    assert moved
    assert not moved & set(names)
    thaw(net, names)
    assert "stem.conv.weight" in step()


def test_thawing_leaves_an_anns_decay_frozen():
    ann = network("ann")
    thaw(ann, freeze(ann, ["stages"]))
    decays = [p for name, p in ann.named_parameters() if name.endswith("decay")]
    assert decays
    assert not any(decay.requires_grad for decay in decays)


def test_freezing_an_unknown_prefix_is_an_error():
    net = network()
    with pytest.raises(OptionError, match="can't freeze 'ste'"):
        freeze(net, ["stem", "ste"])
    assert all(parameter.requires_grad for parameter in net.parameters())
