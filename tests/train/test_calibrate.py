"""Calibration of spiking neurons: its folding is exact and it never makes a layer worse.

Legend: N samples, T steps, P polarities, C channels, H rows, W columns.
"""

import pytest
import torch
from torch.nn import functional

from eventdata.errors import OptionError
from train.affine import Affine, places
from train.calibrate import calibrate, recalibrate, table
from train.networks.crnn import CRNN
from train.networks.layers import Network
from train.networks.resnet import EVENT, IMAGE, ResNet
from train.networks.vgg import VGG
from train.neurons.neuron import NeuronSettings
from train.refit import match, refit
from train.settings import Stage

N, T, P, CLASSES = 10, 4, 2, 5
SMALL = {"width": 4, "stem": "small", "depths": (2, 1)}
NETWORKS = {
    "event-resnet": (ResNet, {"design": EVENT, **SMALL}),
    "pooled-resnet": (ResNet, {"design": EVENT, **SMALL, "stem": "imagenet"}),
    "image-resnet": (ResNet, {"design": IMAGE, **SMALL}),
    "vgg": (VGG, {"width": 4, "plan": ((1, 2), (2,), (2, 1))}),
    "crnn": (CRNN, {"size": (33, 33), "width": 3, "hidden": 12, "embedding": 8, "memory": 6}),
}
both = pytest.mark.parametrize("mode", ["channels", "refit"])
every = pytest.mark.parametrize("name", NETWORKS)


def network(name, kind, seed=0, *, channels=P, steps=T, decay=0.5, threshold=0.6):
    torch.manual_seed(seed)
    neuron = NeuronSettings(
        kind=kind, decay=decay, learn_decay=False, threshold=threshold, activation="relu"
    )
    build, settings = NETWORKS[name]
    made = build(channels=channels, classes=CLASSES, neuron=neuron, steps=steps, **settings)
    return made.double().eval()


def frames(name, steps=T, seed=0):
    side = 33 if name == "crnn" else 9
    rng = torch.Generator().manual_seed(seed)
    return (torch.rand(N, steps, P, side, side, generator=rng) < 0.3).double()


def images(name, seed=0):
    side = 33 if name == "crnn" else 9
    return torch.randn(N, 3, side, side, generator=torch.Generator().manual_seed(seed)).double()


def trained(name, x, seed=0, kind="ann", **settings):
    """Return a network with norms of many sizes, which fit the input x."""
    made = network(name, kind, seed, **settings)
    for key, parameter in made.named_parameters():
        if key.endswith("norm.weight"):
            torch.nn.init.uniform_(parameter, 0.3, 1.5)
        elif key.endswith("bias"):
            torch.nn.init.normal_(parameter, 0.1, 0.3)
    recalibrate(made, [x])
    return made


def case(name, inputs, seed=0, kind="lif", **settings):
    """Return a network, its trained reference, and the batches of both."""
    if inputs == "images":
        x = images(name, seed)
        seen, settings["channels"] = x, 3
    else:
        x = frames(name, settings.get("steps", T), seed)
        seen = x.sum(dim=1, keepdim=True)
    reference = trained(name, seen, seed, **settings)
    made = network(name, kind, seed + 1, **settings)
    made.load_state_dict(reference.state_dict())
    return made, reference, [(x[:6], seen[:6]), (x[6:], seen[6:])]


class Unfolded:
    """A calibrated network with a threshold and an amplitude for each channel, step by step."""

    def __init__(self, spiking, reference, outcomes, x, seen):
        kind = spiking.layers()[0].neuron.settings
        still = x.ndim == 4
        steps = spiking.steps if still else x.shape[1]
        span = 1 if still else steps / seen.shape[1]
        raw = {None: x.unsqueeze(0) if still else x.transpose(0, 1)}
        out = {None: raw[None] * span}
        self.errors = []
        targets = outputs_of(reference, seen)
        for index, (layer, outcome) in enumerate(zip(spiking.layers(), outcomes, strict=False)):
            currents, plain = 0, 0
            for branch, a_map in zip(layer.branches, outcome.maps, strict=True):
                part = self.apply(a_map, out[branch.source])
                currents = currents + part
                plain = plain + (raw[branch.source].double() if a_map.tied else part)

            def run(currents, threshold, layer=layer):
                axes = [-1] + [1] * (currents.ndim - 3)
                membrane, spikes = 0, torch.zeros(())
                every = []
                for current in currents.expand(steps, *currents.shape[1:]):
                    membrane = kind.decay * membrane * (1 - spikes) + current
                    spikes = (membrane > threshold.view(axes)).double()
                    out = spikes
                    if kind.kind == "liaf":
                        out = membrane.relu() * kind.threshold / threshold.view(axes)
                    every.append(out if layer.pool is None else layer.pool(out))
                return torch.stack(every)

            raw[index] = run(currents, outcome.thresholds)
            out[index] = raw[index] * outcome.amplitudes.view(-1, *[1] * (currents.ndim - 3))
            as_it_is = run(plain, torch.full_like(outcome.thresholds, kind.threshold))
            axes = (0, *range(2, targets[index].ndim))
            self.errors.append(
                [
                    (targets[index] - answer.mean(dim=0)).square().sum(dim=axes)
                    for answer in (as_it_is, out[index])
                ]
            )
        last = out[len(outcomes) - 1]
        if isinstance(reference, CRNN):
            self.logits = reference.decoder(reference.encoder.embedding(last))
        else:
            self.logits = reference.fc(last)

    @staticmethod
    def apply(a_map, x):
        if a_map.weight.ndim == 1:
            return x * a_map.weight.view(-1, 1, 1) + a_map.bias.view(-1, 1, 1)
        if a_map.weight.ndim == 2:
            return functional.linear(x.flatten(2), a_map.weight, a_map.bias)
        conv = getattr(a_map.module, "conv", a_map.module)
        steps = [
            functional.conv2d(step, a_map.weight, a_map.bias, conv.stride, conv.padding)
            for step in x
        ]
        return torch.stack(steps)


def outputs_of(reference, x):
    """Return the mean outputs over time of each layer."""
    found = []
    layers = reference.layers()[:-1]

    def record(neuron, inputs, out):
        pool = layers[len(found)].pool
        found.append(out.mean(dim=0) if pool is None else torch.stack([*map(pool, out)]).mean(0))

    hooks = [n.register_forward_hook(record) for n in {layer.neuron for layer in layers}]
    reference(x)
    for hook in hooks:
        hook.remove()
    return found


@both
@every
@pytest.mark.parametrize("inputs", ["images", "frames"])
@torch.no_grad()
def test_the_folded_network_is_one_of_explicit_thresholds_and_amplitudes(name, inputs, mode):
    spiking, reference, batches = case(name, inputs)
    before = spiking.state_dict()
    shapes = {key: value.shape for key, value in before.items()}
    outcomes = calibrate(spiking, reference, batches, refit=mode == "refit")
    after = spiking.state_dict()
    assert {key: value.shape for key, value in after.items()} == shapes
    assert all(value.isfinite().all() for value in after.values())
    assert len(outcomes) == len(spiking.layers()) - 1
    for x, seen in batches:
        unfolded = Unfolded(spiking, reference, outcomes, x, seen)
        torch.testing.assert_close(spiking(x), unfolded.logits, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("decay", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ["image-resnet", "vgg"])
@torch.no_grad()
def test_calibration_never_raises_the_error_of_a_channel(name, seed, steps, decay):
    """It is compared with the same maps, one threshold and no amplitudes."""
    spiking, reference, batches = case(name, "images", seed, steps=steps, decay=decay)
    outcomes = calibrate(spiking, reference, batches)
    unfolded = [Unfolded(spiking, reference, outcomes, *pair).errors for pair in batches]
    for outcome, *parts in zip(outcomes, *unfolded, strict=True):
        as_it_is, calibrated = (sum(each) for each in zip(*parts, strict=True))
        assert (calibrated <= as_it_is + 1e-9).all(), outcome.name
        assert outcome.kept >= outcome.before


@every
@pytest.mark.parametrize("inputs", ["images", "frames"])
def test_a_refit_never_raises_the_held_out_error_of_a_layer(name, inputs):
    spiking, reference, batches = case(name, inputs, seed=3)
    first, *others = calibrate(spiking, reference, batches, refit=True)
    assert first.residual is None  # the stem reads the same input
    for outcome in others:
        before, after = outcome.residual
        assert 0 <= after <= before, outcome.name


@both
@pytest.mark.parametrize("name", ["event-resnet", "vgg"])
@pytest.mark.parametrize("kinds", [("ann", "liaf"), ("liaf", "lif"), ("lif", "lif")])
@torch.no_grad()
def test_any_kind_is_a_reference_of_liaf_and_lif(name, kinds, mode):
    x = frames(name)
    reference = trained(name, x, kind=kinds[0])
    spiking = network(name, kinds[1])
    spiking.load_state_dict(reference.state_dict())
    outcomes = calibrate(spiking, reference, [(x, x)], refit=mode == "refit")
    unfolded = Unfolded(spiking, reference, outcomes, x, x)
    torch.testing.assert_close(spiking(x), unfolded.logits, rtol=1e-5, atol=1e-9)
    for outcome, (as_it_is, calibrated) in zip(outcomes, unfolded.errors, strict=True):
        assert (calibrated <= as_it_is + 1e-9).all(), outcome.name
        assert outcome.kept > 0.5


@both
@every
@torch.no_grad()
def test_a_calibrated_network_agrees_better_with_its_reference(name, mode):
    errors = []
    for change in (False, True):
        spiking, reference, batches = case(name, "frames", seed=5, steps=8)
        recalibrate(spiking, [x for x, _ in batches])
        if change:
            calibrate(spiking, reference, batches, refit=mode == "refit")
        answers = [(spiking(x), reference(seen)) for x, seen in batches]
        if name == "crnn":  # the LSTM counts steps
            answers = [
                (spiking.encoder(x).mean(dim=0), reference.encoder(seen)[0]) for x, seen in batches
            ]
        errors.append(sum((found - wanted).square().sum() for found, wanted in answers))
    assert errors[1] < errors[0]


@both
def test_the_same_seed_gives_the_same_weights(mode):
    states = []
    for _ in range(2):
        spiking, reference, batches = case("image-resnet", "images")
        calibrate(spiking, reference, batches, refit=mode == "refit", seed=2)
        states.append(spiking.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@torch.no_grad()
def test_a_silent_channel_stays_as_it_is():
    spiking, reference, batches = case("event-resnet", "frames")
    reference.stem.norm.weight[0] = 0
    reference.stem.norm.bias[0] = -1
    stem, *_ = calibrate(spiking, reference, batches, refit=True)
    assert stem.thresholds[0] == pytest.approx(0.6)
    assert stem.amplitudes[0] == 1
    assert all(value.isfinite().all() for value in spiking.state_dict().values())


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@torch.no_grad()
def test_few_samples_calibrate(count):
    """Hold out the last of fewer than five samples; refit nothing with a single one."""
    spiking, reference, batches = case("event-resnet", "frames")
    batches = [(x[:1], seen[:1]) for x, seen in (batches * 5)[:count]]
    _, *others = calibrate(spiking, reference, batches, refit=True)
    assert all(value.isfinite().all() for value in spiking.state_dict().values())
    for outcome in others:
        assert (outcome.residual is None) == (count == 1)
        assert count == 1 or 0 <= outcome.residual[1] <= outcome.residual[0]


@torch.no_grad()
def test_norms_hold_the_statistics_of_the_calibrated_network():
    spiking, reference, batches = case("event-resnet", "frames", steps=3)
    x, seen = (torch.cat(parts) for parts in zip(*batches, strict=True))
    calibrate(spiking, reference, [(x, seen)])
    wanted = {key: value.clone() for key, value in spiking.state_dict().items()}
    recalibrate(spiking, [x])
    for key, value in spiking.state_dict().items():
        if "running" in key:
            # Spikes differ a little: batches are normalised by their biased variance.
            torch.testing.assert_close(value, wanted[key], rtol=0.1, atol=0.02)


def test_the_table_has_a_line_for_each_layer():
    spiking, reference, batches = case("vgg", "images")
    outcomes = calibrate(spiking, reference, batches, refit=True)
    head, *lines = table(outcomes).splitlines()
    assert head.split()[0] == "layer"
    assert [line.split()[0] for line in lines] == ["stem", *(f"cells.{n}" for n in range(4))]
    assert f"{outcomes[0].kept:.3f}" in lines[0]


def test_a_network_that_does_not_list_its_layers_is_refused():
    class Odd(Network):
        pass

    with pytest.raises(OptionError, match=r"Odd can't be calibrated.*Define its method layers"):
        Odd().layers()


def test_respond_to_sum_is_refused():
    made = ResNet(
        channels=P, classes=CLASSES, neuron=NeuronSettings(), design=EVENT, respond_to_sum=True,
        **SMALL,
    )  # fmt: skip
    with pytest.raises(OptionError, match="respond_to_sum can't be calibrated"):
        made.layers()


def test_mixed_axes_are_refused():
    made = CRNN(
        channels=P, classes=CLASSES, neuron=NeuronSettings(), mix_axes=True, **NETWORKS["crnn"][1]
    )
    with pytest.raises(OptionError, match="mix_axes can't be calibrated"):
        made.layers()


def test_grouped_convolutions_are_refused():
    spiking, reference, batches = case("vgg", "images")
    conv = torch.nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False).double()
    reference.cells[0].conv = conv
    with pytest.raises(OptionError, match="a convolution with groups"):
        calibrate(spiking, reference, batches)


@pytest.mark.parametrize(
    "shape",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": (3, 5), "padding": "same"},
        {"kernel_size": (2, 3), "stride": 2, "padding": "valid"},
        {"kernel_size": (3, 2), "stride": (1, 2), "padding": (0, 1), "dilation": (2, 3)},
    ],
)
def test_rows_are_the_inputs_of_the_chosen_outputs(shape):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 8, **shape).double()
    x = torch.randn(3, 4, 9, 11).double()
    outputs = places(conv(x))
    chosen = torch.randperm(len(outputs))[:20]
    found = Affine.of(conv, x[0, :, 0, 0]).rows(x, chosen)
    torch.testing.assert_close(found @ conv.weight.flatten(1).T + conv.bias, outputs[chosen])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neuron": NeuronSettings(kind="ann")}, "kind ann, which has no threshold"),
        ({"weights": "fresh"}, "the weights are fresh"),
        ({"stem": "fresh"}, "the stem is fresh"),
        ({"take": "decoder"}, "the encoder is fresh"),
        ({"neuron": NeuronSettings(threshold=0)}, "neuron.threshold is 0, not above 0"),
        ({"calibrate": "none", "calibrate_samples": 64}, "calibrate_samples needs calibrate"),
        ({"recalibrate": 5}, "recalibrate is 5, but calibrate computes"),
    ],
)
def test_a_stage_without_anything_to_calibrate_is_refused(changes, message):
    with pytest.raises(OptionError, match=message):
        Stage(**{"weights": "ann", "calibrate": "refit"} | changes)


def rows(count, columns, seed=0):
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(seed)).double()


def held(count):
    return torch.arange(count) % 5 == 4


@pytest.mark.parametrize("count", [200, 30])
def test_a_refit_finds_the_map_that_is_missing(count):
    """Also with fewer rows than inputs, where it solves the other system."""
    x, own = rows(count, 40), rows(count, 3, seed=1)
    weight, gain = rows(40, 3, seed=2) * (count / 200) ** 2, torch.tensor([1.0, -2.0, 0])
    residual = x @ weight + own * gain + 0.7
    change = refit(x, residual, held(count), own)
    assert change.after < change.before
    left = residual - x @ change.weight - own * change.gain - change.bias
    assert left.square().mean() < 0.1 * residual.square().mean()
    if count == 200:
        torch.testing.assert_close(change.gain, gain.double(), atol=0.02, rtol=0)


def test_a_refit_of_noise_changes_nothing():
    x, residual = rows(60, 40), rows(60, 3, seed=1)
    residual[held(60)] *= -1
    residual -= residual.mean(dim=0)
    change = refit(x, residual - residual[held(60)].mean(dim=0), held(60))
    assert change.after <= change.before
    if change.after == change.before:
        assert not change.weight.any()


@pytest.mark.parametrize("value", [0.37, -0.013, 1e-5])
def test_an_output_that_only_varies_by_rounding_keeps_its_gain(value):
    target = rows(16_000, 1)
    gain, offset = match(torch.full_like(target, value), target)
    assert gain == 1
    torch.testing.assert_close(offset, target.mean(dim=0) - value)
    change = refit(rows(100, 3), target[:100], held(100), torch.full((100, 1), value))
    assert change.gain.abs().max() == 0


def test_a_match_is_the_best_gain_and_offset():
    output = rows(50, 3)
    target = output * torch.tensor([2.0, -1, 0.5]) + 3
    gain, offset = match(output, target)
    torch.testing.assert_close(gain, torch.tensor([2.0, -1, 0.5]).double())
    torch.testing.assert_close(offset, torch.full((3,), 3.0).double())
    gain, offset = match(torch.ones(4, 1), torch.full((4, 1), 5.0))
    assert (gain.item(), offset.item()) == (1, 4)
