"""Calibrate transferred weights to spiking neurons and to their new input, without labels.

A neuron of an ann answers with any number, a spiking one with few rates. Layer by layer, with the
real neurons over all steps, `calibrate` chooses for each channel a threshold and the amplitude of a
spike, so that the mean output over time is closest to that of the reference, the network that the
weights come from. Both fold into ordinary weights: a threshold into the norm before the neuron, an
amplitude into the weights that read its spikes. Optionally each affine map is also refitted to the
outputs that it really sees.

Legend: T steps, N samples, C channels, H rows, W columns; R rows of a regression.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from train.affine import Affine, over_channels, places
from train.networks.layers import Layer, Network, fold
from train.refit import match
from train.refit import refit as refit_map

ROWS = 16_000
"""Places that suffice to choose a channel's threshold, or to refit a map."""
HELD = 5
"""Every fifth sample is held out to choose the strength of a refit; of fewer, the last one."""
LEVELS = tuple(0.3 * (2.6 / 0.3) ** (n / 11) for n in range(12))
"""Thresholds that are tried, as multiples of the root mean square of the reference's output."""


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Compute the running statistics of every batch norm anew, as means over batches.

    After a transfer they are those of another input and of other neurons, and evaluation is
    meaningless until they have adapted. Weights stay as they are.

    Returns:
        The number of batches; without any, the statistics stay too.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    mode = network.training
    count = 0
    try:
        network.train()
        for count, batch in enumerate(batches, start=1):
            if count == 1:
                for norm in norms:
                    norm.reset_running_stats()
                    norm.momentum = None  # a plain mean over all batches
            network(batch)
    finally:
        network.train(mode)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return count


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """The outcome of one layer of neurons."""

    name: str
    before: float
    """Share of the energy of the reference's outputs that the neurons keep with one threshold, that
    of the network, and one amplitude."""
    kept: float
    """The same with a threshold and an amplitude for each channel."""
    residual: tuple[float, float] | None
    """Mean square of the current's error on held-out samples, before and after the refit."""
    maps: tuple[Affine, ...]
    """The layer's branches in units of the reference."""
    thresholds: Tensor
    """(C,), in the same units."""
    amplitudes: Tensor
    """(C,), of a spike in the same units."""

    def as_dict(self) -> dict[str, Any]:
        """Return the figures, for JSON."""
        return {key: getattr(self, key) for key in ("name", "before", "kept", "residual")}


def table(outcomes: Iterable[Calibrated]) -> str:
    """Return the outcomes as a table, one line for each layer."""
    rows = [("layer", "as it is", "calibrated", "residual refitted")]
    for outcome in outcomes:
        refitted = ""
        if outcome.residual is not None:
            refitted = f"{outcome.residual[1] / max(outcome.residual[0], 1e-30):.2f}"
        rows.append((outcome.name, f"{outcome.before:.3f}", f"{outcome.kept:.3f}", refitted))
    width = max(len(name) for name, *_ in rows)
    return "\n".join(
        f"{name:{width}} {before:>9} {kept:>11}  {refitted}".rstrip()
        for name, before, kept, refitted in rows
    )


@torch.no_grad()
def calibrate(
    network: Network,
    reference: Network,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    refit: bool = False,
    seed: int = 0,
) -> list[Calibrated]:
    """Make a network of spiking neurons answer like its reference, in place.

    Args:
        network: a network of liaf or lif neurons. Its own weights matter only by their size.
        reference: the same network with the neurons, weights and norms that it was trained with.
        batches: inputs of the network and of the reference, made of the same samples. A frame of
            one may be the sum of several of the other.
        refit: also refit the affine maps.
        seed: random seed of the places that the refit sees.

    Returns:
        The outcome of each layer of neurons.

    Raises:
        OptionError: the network can't be calibrated.
    """
    pairs = list(batches)
    own, there = _Side(network, [x for x, _ in pairs]), _Side(reference, [x for _, x in pairs])
    names = {module: name for name, module in network.named_modules()}
    rng = torch.Generator().manual_seed(seed)
    first = pairs[0][0]
    span = 1.0 if first.ndim == 4 else own.steps / there.steps
    amplitudes: dict[int | None, Tensor] = {None: first.new_full((first.shape[-3],), span)}
    outcomes: list[Calibrated] = []
    for index, (layer, original) in enumerate(zip(own.layers, there.layers, strict=True)):
        work = _Work(
            own,
            layer,
            [Affine.of(branch.module, amplitudes[branch.source]) for branch in original.branches],
            [amplitudes[branch.source] for branch in layer.branches],
        )
        if layer.neuron is None:
            work.write_last()
            break
        currents, targets = there.run(index, work.maps)
        residual = None
        if not refit:
            work.match(currents)
        elif all(branch.source is not None for branch in layer.branches):
            residual = work.refit(currents, rng)
        gain, amplitudes[index], before, kept = work.choose(targets)
        own.outputs[index] = work.write(gain)
        outcomes.append(
            Calibrated(
                name=names[layer.branches[0].module],
                before=before,
                kept=kept,
                residual=residual,
                maps=tuple(work.maps),
                thresholds=layer.neuron.settings.threshold / gain,
                amplitudes=amplitudes[index],
            )
        )
        own.forget(index)
        there.forget(index)
    return outcomes


class _Side:
    """One of both networks: its layers, its steps, and the outputs that later layers read."""

    def __init__(self, network: Network, inputs: Sequence[Tensor]) -> None:
        self.layers = network.layers()
        images = inputs[0].ndim == 4
        neuron = self.layers[0].neuron
        assert neuron is not None
        of_images = 1 if neuron.settings.kind == "ann" else network.steps
        self.steps = of_images if images else inputs[0].shape[1]
        self.outputs: dict[int | None, list[Tensor]] = {
            None: [x.unsqueeze(0) if images else x.transpose(0, 1) for x in inputs]
        }
        """Outputs of each batch by layer, (T, N, C, H, W) or (T, N, C); spikes are bool."""

    def respond(self, layer: Layer, current: Tensor) -> Tensor:
        """Return the output of a layer for its current, (T, N, ...)."""
        assert layer.neuron is not None
        out: Tensor = layer.neuron(current.expand(self.steps, *current.shape[1:]))
        return out if layer.pool is None else fold(layer.pool, out)

    def run(self, index: int, maps: list[Affine]) -> tuple[list[Tensor], list[Tensor]]:
        """Run a layer; return the means over time of its currents and of its outputs."""
        layer, means = self.layers[index], []
        self.outputs[index] = []
        inputs = [self.outputs[branch.source] for branch in layer.branches]
        for batch in zip(*inputs, strict=True):
            current = _sum(a_map(x) for a_map, x in zip(maps, batch, strict=True))
            self.outputs[index].append(self.respond(layer, current))
            means.append(current.mean(dim=0))
        return means, [out.mean(dim=0) for out in self.outputs[index]]

    def forget(self, done: int) -> None:
        """Free the outputs that no layer after `done` reads."""
        read = {branch.source for layer in self.layers[done + 1 :] for branch in layer.branches}
        for source in self.outputs.keys() - read:
            del self.outputs[source]


class _Work:
    """The calibration of one layer, whose maps are in units of the reference."""

    def __init__(
        self, side: _Side, layer: Layer, maps: list[Affine], amplitudes: list[Tensor]
    ) -> None:
        self.side, self.layer, self.maps, self.amplitudes = side, layer, maps, amplitudes
        self.raw = [side.outputs[branch.source] for branch in layer.branches]
        self.tied = [n for n, a_map in enumerate(maps) if a_map.tied]
        self.free = [n for n, a_map in enumerate(maps) if not a_map.tied]

    def _input(self, n: int, batch: int) -> Tensor:
        """Return what a map reads, in units of the reference."""
        raw = self.raw[n][batch]
        return raw * over_channels(self.amplitudes[n], raw)

    def _mean(self, n: int, batch: int) -> Tensor:
        """Return the mean over time (1, N, C, ...) of what a map reads, in the same units."""
        mean = self.raw[n][batch].mean(dim=0, keepdim=True, dtype=self.amplitudes[n].dtype)
        return mean * over_channels(self.amplitudes[n], mean)

    def match(self, currents: list[Tensor]) -> None:
        """Bring the current of each channel closest to that of the reference, (N, C, ...)."""
        outputs, targets = [], []
        for batch, current in enumerate(currents):
            of_free, of_tied = (
                [self.maps[n](self._mean(n, batch))[0] for n in those]
                for those in (self.free, self.tied)
            )
            outputs.append(places(_sum(of_free)))
            targets.append(places(current - sum(of_tied)))
        gain, offset = match(torch.cat(outputs), torch.cat(targets))
        for n in self.free:
            self.maps[n].scale(gain)
        self.maps[self.free[0]].bias += offset

    def refit(self, currents: list[Tensor], rng: torch.Generator) -> tuple[float, float] | None:
        """Refit the maps to the currents of the reference; return the held-out errors.

        With a single sample nothing can be held out, and the maps stay.
        """
        given = sum(map(len, currents))
        if given < 2:
            return None
        wide = [a_map for a_map in self.maps if not a_map.is_identity]
        single = [a_map for a_map in self.maps if a_map.is_identity]
        xs, residuals, held, own = [], [], [], []
        total, samples = sum(len(places(current)) for current in currents), 0
        for batch, current in enumerate(currents):
            means = [self._mean(n, batch)[0] for n in range(len(self.maps))]
            pairs = list(zip(self.maps, means, strict=True))
            residual = places(current - _sum(a_map(mean[None])[0] for a_map, mean in pairs))
            count = min(len(residual), -(-ROWS * len(residual) // total))
            chosen = torch.randperm(len(residual), generator=rng)[:count].to(residual.device)
            rows = [(a_map.is_identity, a_map.rows(mean, chosen)) for a_map, mean in pairs]
            xs.append(torch.cat([x for identity, x in rows if not identity], dim=1))
            own += [x for identity, x in rows if identity]
            residuals.append(residual[chosen])
            of_sample = len(residual) // len(current)
            number = chosen // of_sample + samples
            held.append(number % HELD == HELD - 1 if given >= HELD else number == given - 1)
            samples += len(current)
        change = refit_map(
            torch.cat(xs), torch.cat(residuals), torch.cat(held), torch.cat(own) if own else None
        )
        sizes = [a_map.weight[0].numel() for a_map in wide]
        for a_map, part in zip(wide, torch.split(change.weight, sizes), strict=True):
            a_map.weight += part.T.reshape(a_map.weight.shape)
        wide[0].bias += change.bias
        for a_map in single:
            a_map.weight += change.gain
        return change.before, change.after

    def _drive(self, batch: int) -> tuple[Tensor, Tensor | float]:
        """Return the sums of the free maps' outputs and of the tied maps' raw inputs."""
        return _sum(self.maps[n](self._input(n, batch)) for n in self.free), self._tied(batch)

    def _tied(self, batch: int) -> Tensor | float:
        return sum(self.raw[n][batch] for n in self.tied)

    def _respond(self, drive: tuple[Tensor, Tensor | float], gain: Tensor) -> Tensor:
        free, tied = drive
        return self.side.respond(self.layer, free * over_channels(gain, free) + tied)

    def _gains(self, targets: list[Tensor]) -> Iterator[Tensor]:
        """Yield the gains (C,) of the current that are tried; a threshold is one over its gain."""
        assert self.layer.neuron is not None
        power = torch.cat([places(target) for target in targets]).square().mean(dim=0)
        yield torch.ones_like(power)
        for level in LEVELS:
            threshold = level * power.sqrt()
            yield torch.where(threshold > 0, self.layer.neuron.settings.threshold / threshold, 1.0)
        # A tied branch passes raw spikes on. These gains make them what its map says.
        for n in self.tied:
            for size in (self.amplitudes[n], self.amplitudes[n] * self.maps[n].weight):
                yield torch.where(size > 0, 1 / size, 1.0)

    def choose(self, targets: list[Tensor]) -> tuple[Tensor, Tensor, float, float]:
        """Choose the gains and the amplitudes that come closest to the outputs of the reference.

        Args:
            targets: means over time (N, C, ...) of the reference's outputs.

        Returns:
            Gain (C,) of the current, amplitude (C,), and the shares of energy that are kept with
            gains and amplitudes of one, and with these.
        """
        gains = torch.stack(list(self._gains(targets)))
        products, powers = torch.zeros_like(gains), torch.zeros_like(gains)
        energy, rows = 0.0, 0
        for batch, target in enumerate(targets):
            wanted, drive = places(target), self._drive(batch)
            for n, gain in enumerate(gains):
                rates = places(self._respond(drive, gain).mean(dim=0))
                products[n] += (rates * wanted).sum(dim=0)
                powers[n] += rates.square().sum(dim=0)
            energy += float(wanted.square().sum())
            rows += len(wanted)
            if rows >= ROWS:
                break
        explained = torch.where(powers > 0, products.square() / powers, 0.0)
        best = explained.argmax(dim=0, keepdim=True)  # the first one if several are equal
        amplitudes = torch.where(products != 0, products / powers, 1.0)
        before = float(products[0].sum().square() / powers[0].sum())
        after = float(explained.gather(0, best).sum())
        return (
            gains.gather(0, best)[0],
            amplitudes.gather(0, best)[0],
            before / energy if before > 0 < energy else 0.0,
            after / energy if energy > 0 else 0.0,
        )

    def write(self, gain: Tensor) -> list[Tensor]:
        """Write the maps into the network; return the layer's outputs (T, N, ...)."""
        assert self.layer.neuron is not None
        spikes = self.layer.neuron.settings.kind == "lif"
        outputs = []
        seen = [_Moments() for _ in self.maps]
        for batch in range(len(self.raw[0])):
            currents = {n: self.maps[n](self._input(n, batch)) for n in self.free}
            for n, current in currents.items():
                x = self.raw[n][batch] if self.maps[n].is_identity else current
                seen[n].add(places(x.flatten(0, 1)))
            out = self._respond((_sum(currents.values()), self._tied(batch)), gain)
            outputs.append(out.bool() if spikes else out)
        for n in self.free:
            module = self.layer.branches[n].module
            self.maps[n].write(module, gain, self.amplitudes[n], *seen[n].result(gain.dtype))
        for n in self.tied:
            self.maps[n].weight = 1 / (gain * self.amplitudes[n])
        return outputs

    def write_last(self) -> None:
        """Write the maps of a layer without neurons."""
        for n, branch in enumerate(self.layer.branches):
            one = torch.ones_like(self.maps[n].bias)
            self.maps[n].write(branch.module, one, self.amplitudes[n], 0 * one, one)


class _Moments:
    """Mean and variance of channels over many rows."""

    def __init__(self) -> None:
        self.rows, self.sums = 0, torch.zeros(())

    def add(self, x: Tensor) -> None:  # (R, C)
        """Count rows in."""
        x = x.double()
        self.rows += len(x)
        self.sums = self.sums.to(x) + torch.stack((x.sum(dim=0), x.square().sum(dim=0)))

    def result(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return mean and unbiased variance (C,)."""
        mean, square = self.sums / self.rows
        variance = (square - mean.square()).clamp_min(0) * self.rows / max(self.rows - 1, 1)
        return mean.to(dtype), variance.to(dtype)


def _sum(parts: Iterable[Tensor]) -> Tensor:
    first, *others = parts
    return sum(others, first)
