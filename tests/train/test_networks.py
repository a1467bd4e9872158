"""One contract for every network: three kinds of neuron, one state dict, frames and images."""

import pytest
import torch

from eventdata.errors import OptionError
from train.networks import NETWORKS, build
from train.networks.layers import ConvNorm, recompute
from train.neurons.memory import counted
from train.neurons.neuron import NeuronSettings
from train.transfer import transfer

KINDS = ("ann", "liaf", "lif")
N, T, P, CLASSES = 3, 4, 2, 5
HOW = ("whole", "nothing", "time", "blocks")
"""Spikes saved whole, or as bits with one of the choices of `recompute`."""


def training_step(contract, how):
    """Return logits, gradients and statistics of a step that saves activations by `how`."""
    network = contract.network("lif")
    recompute(network, "nothing" if how == HOW[0] else how)
    network.pack_spikes = "never" if how == HOW[0] else "auto"
    out = network(contract.frames())
    out.float().square().sum().backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return [out.detach(), *gradients, *network.buffers()]


class NetworkContract:
    """The tests of every network; a subclass sets `name`, `settings` and the side of its input."""

    name: str
    settings: dict[str, object]
    side = 33

    def network(self, kind, channels=P, seed=0, **settings):
        torch.manual_seed(seed)
        neuron = NeuronSettings(kind=kind)
        arguments = {"channels": channels, "classes": CLASSES, "neuron": neuron}
        return build(self.name, **arguments | self.settings | settings)

    def frames(self, steps=T, seed=0):
        rng = torch.Generator().manual_seed(seed)
        shape = (N, steps, P, self.side, self.side)
        return (torch.rand(shape, generator=rng) < 0.1).float()

    def images(self, seed=0):
        rng = torch.Generator().manual_seed(seed)
        return torch.randn(N, 3, self.side, self.side, generator=rng)

    def settled(self, network, x):
        """Return the network in eval mode, with the statistics of x in its norms."""
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        with torch.no_grad():
            network.train()(x)
        return network.eval()

    def test_one_state_dict_fits_all_kinds(self):
        states = {kind: self.network(kind).state_dict() for kind in KINDS}
        shapes = [{key: value.shape for key, value in state.items()} for state in states.values()]
        assert shapes[0] == shapes[1] == shapes[2]
        for kind in KINDS:
            for state in states.values():
                self.network(kind).load_state_dict(state)

    @pytest.mark.parametrize("kind", KINDS)
    def test_frames_of_any_number_of_steps_and_images_give_logits(self, kind):
        for x in (self.frames(), self.frames(steps=1)):
            out = self.network(kind)(x)
            assert out.shape == (N, CLASSES)
            assert out.isfinite().all()
        assert self.network(kind, channels=3, steps=2)(self.images()).shape == (N, CLASSES)

    def test_an_ann_is_a_liaf_of_one_step(self):
        for channels, x in ((P, self.frames(steps=1)), (3, self.images())):
            ann = self.settled(self.network("ann", channels), x)
            liaf = self.network("liaf", channels, seed=1)
            liaf.load_state_dict(ann.state_dict())
            with torch.no_grad():
                assert torch.equal(ann(x), liaf.eval()(x))

    @pytest.mark.parametrize("source", KINDS)
    @pytest.mark.parametrize("target", KINDS)
    def test_transfer_copies_the_weights_unchanged(self, source, target):
        there, here = self.network(source), self.network(target, seed=1)
        report = transfer(here, there.state_dict())
        assert len(report.of("taken")) == len(here.state_dict())
        for key, value in here.state_dict().items():
            assert torch.equal(value, there.state_dict()[key]), key

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_parameter_learns(self, kind):
        network = self.network(kind)
        network(self.frames()).square().sum().backward()
        still = [
            name
            for name, parameter in network.named_parameters()
            if parameter.requires_grad and not parameter.grad.abs().max() > 0
        ]
        # A bias before a norm has no effect; its gradient is rounding.
        assert [name for name in still if not name.endswith("conv.bias")] == []

    def test_spikes_are_saved_as_bits_unless_disabled(self):
        sizes = {}
        for packing in ("auto", "always", "never"):
            network = self.network("lif")
            network.pack_spikes = packing
            with counted() as counts:
                out = network(self.frames())
                sizes[packing] = sum(counts.values())
            del out
        assert sizes["auto"] == sizes["always"] < sizes["never"]

    def test_saving_less_changes_no_bit(self):
        whole, *others = (training_step(self, how) for how in HOW)
        for other in others:
            assert all(map(torch.equal, whole, other))

    def test_an_image_is_the_input_current_of_every_step(self):
        images = self.images()
        network = self.network("lif", channels=3, steps=T)
        frames = images.unsqueeze(1).expand(-1, T, -1, -1, -1)
        network = self.settled(network, frames)
        with torch.no_grad():
            torch.testing.assert_close(network(images), network(frames))

    def test_a_wrong_number_of_channels_is_an_error(self):
        with pytest.raises(OptionError, match=r"neither frames \(N, T, 2, H, W\) nor images"):
            self.network("lif")(torch.zeros(1, 3, self.side, self.side))


class TestEventResNet(NetworkContract):
    name, settings = "event-resnet18", {"width": 4, "stem": "small"}


class TestEventResNetForLargeInput(NetworkContract):
    name, settings = "event-resnet34", {"width": 4, "stem": "imagenet"}
    side = 64


class TestImageResNet(NetworkContract):
    name, settings = "image-resnet18", {"width": 4, "stem": "imagenet"}
    side = 64


class TestImageResNetForMediumInput(NetworkContract):
    name, settings = "image-resnet34", {"width": 4, "stem": "medium"}


class TestTorchvisionResNet(NetworkContract):
    name, settings = "torchvision-resnet18", {"width": 4, "stem": "small"}


class TestTorchvisionResNetForLargeInput(NetworkContract):
    name, settings = "torchvision-resnet34", {"width": 4, "stem": "imagenet"}
    side = 64


class TestVGG(NetworkContract):
    name, settings = "vgg", {"width": 4}


class TestCRNN(NetworkContract):
    name, settings = "crnn", {"size": (33, 33), "hidden": 40, "embedding": 20, "memory": 10}

    def test_the_encoder_keeps_time_channels_and_samples_apart(self):
        encoder = self.network("ann").encoder.eval()
        frames = self.frames()
        order, samples = torch.tensor([2, 0, 3, 1]), torch.tensor([1, 2, 0])
        with torch.no_grad():
            embeddings = encoder(frames)  # (T, N, embedding)
            torch.testing.assert_close(encoder(frames[:, order]), embeddings[order])
            torch.testing.assert_close(encoder(frames[samples]), embeddings[:, samples])
            assert (embeddings[0] - embeddings[1]).abs().max() > 0

    def test_frames_of_a_wrong_size_are_an_error(self):
        with pytest.raises(
            OptionError, match="frames of 40x33 do not fit a network built for size"
        ):
            self.network("lif")(torch.zeros(1, T, P, 40, 33))
        with pytest.raises(OptionError, match="too small"):
            self.network("lif", size=(32, 40))

    def test_the_layers_are_the_published_ones(self):
        neuron = NeuronSettings(kind="lif")
        encoder = build("crnn", channels=2, classes=101, neuron=neuron).encoder
        convs = [encoder.stem.conv, *(cell.conv for cell in encoder.cells)]
        assert [conv.out_channels for conv in convs] == [8, 16, 32, 64]
        assert [conv.kernel_size[0] for conv in convs] == [5, 3, 3, 3]
        assert encoder.hidden.weight.shape == (1024, 64 * 14 * 20)
        assert encoder.embedding.weight.shape == (512, 1024)


@pytest.mark.parametrize(
    ("name", "channels", "learned", "parameters"),
    [
        ("event-resnet18", 2, True, 11_693_233),
        ("event-resnet34", 2, True, 21_808_825),
        ("image-resnet18", 3, False, 11_693_736),
        ("image-resnet34", 3, False, 21_801_896),
    ],
)
def test_the_number_of_parameters_is_the_published_one(name, channels, learned, parameters):
    neuron = NeuronSettings(kind="lif", learn_decay=learned)
    network = build(name, channels=channels, classes=1000, neuron=neuron)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "stem", "side", "first", "last"),
    [
        ("event-resnet18", "imagenet", 224, 55, 7),
        ("image-resnet18", "imagenet", 224, 56, 7),
        ("event-resnet18", "medium", 64, 32, 4),
        ("image-resnet18", "small", 32, 32, 4),
    ],
)
def test_stems_give_maps_of_the_right_size(name, stem, side, first, last):
    neuron = NeuronSettings(kind="ann")
    network = build(name, channels=2, classes=5, neuron=neuron, width=2, stem=stem)
    with torch.no_grad():
        maps = network.stages[0](network.stem(torch.zeros(1, 1, 2, side, side)))
        assert maps.shape[-1] == first
        assert network.stages[1:](maps).shape[-1] == last


def test_norms_of_image_networks_start_at_a_half():
    neuron = NeuronSettings()
    network = build("image-resnet18", channels=3, classes=5, neuron=neuron, width=2)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all((norm.weight == 0.5).all() for norm in norms)


def test_norm_statistics_are_over_steps_samples_and_pixels():
    layer = ConvNorm(torch.nn.Identity(), 3)
    x = torch.randn(T, N, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    x += torch.arange(T).reshape(T, 1, 1, 1, 1)
    want = (x - x.mean((0, 1, 3, 4), keepdim=True)) / x.std(
        (0, 1, 3, 4), keepdim=True, correction=0
    )
    torch.testing.assert_close(layer(x), want, atol=1e-4, rtol=1e-4)


def test_the_published_sum_stops_the_rectangular_gradient():
    """Show why `respond_to_sum` is off: in lif a block's last neuron sees only 0 and 1."""
    frames = (torch.rand(2, T, P, 33, 33, generator=torch.Generator().manual_seed(0)) < 0.1).float()
    reached = {}
    for surrogate in ("rectangular", "triangular"):
        torch.manual_seed(0)
        neuron = NeuronSettings(kind="lif", surrogate=surrogate)
        settings = {"width": 4, "stem": "small", "respond_to_sum": True}
        network = build("event-resnet18", channels=P, classes=5, neuron=neuron, **settings)
        network(frames).square().sum().backward()
        reached[surrogate] = bool(network.stem.conv.weight.grad.abs().max() > 0)
    assert reached == {"rectangular": False, "triangular": True}


def test_saving_less_changes_no_bit_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        whole, *others = (training_step(TestEventResNet(), how) for how in HOW)
    assert all(value.isfinite().all() for value in whole)
    for other in others:
        assert all(map(torch.equal, whole, other))


def test_a_spiking_network_saves_no_more_than_one_with_relu():
    frames = (torch.rand(2, T, P, 64, 64, generator=torch.Generator().manual_seed(0)) < 0.1).float()
    kept = {}
    for kind, what in (("ann", "nothing"), ("lif", "nothing"), ("lif", "blocks")):
        torch.manual_seed(0)
        neuron = NeuronSettings(kind=kind, activation="relu")
        network = build("event-resnet18", channels=P, classes=5, neuron=neuron, width=8)
        recompute(network, what)
        own = {tensor.data_ptr() for tensor in network.state_dict().values()}
        with counted() as counts:
            out = network(frames)
        kept[kind, what] = sum(size for place, size in counts.items() if place not in own)
        out.sum().backward()
    assert kept["lif", "nothing"] < 1.05 * kept["ann", "nothing"]
    assert kept["lif", "blocks"] < 0.6 * kept["lif", "nothing"]


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("resnet", {}, "network 'resnet' does not exist; choose one of event-resnet18"),
        (
            "vgg",
            {"classes": 5, "depth": 3},
            "network vgg: .*depth.*; its settings are width",
        ),
        ("vgg", {"channels": 2}, "network vgg: missing a required argument: 'classes'"),
    ],
)
def test_unknown_names_and_settings_are_named(name, settings, says):
    with pytest.raises(OptionError, match=says):
        build(name, **{"neuron": NeuronSettings(), "channels": 2} | settings)


def test_every_network_has_a_contract():
    tested = {contract.name for contract in NetworkContract.__subclasses__()}
    assert tested == set(NETWORKS)
