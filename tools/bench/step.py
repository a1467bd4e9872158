"""Run a training step of a ResNet-18 on events: our neurons against ReLU and other neurons.

    python tools/bench/step.py [--width 16 --side 64 --batch 8] [--device cuda] [--output FILE.json]
    python tools/bench/step.py --growth     time per frame over T and N

A step is forward, loss, backward and SGD with momentum on a batch (N, T, P, H, W). `ann` has ReLU
and no membrane, so it sees T*N images. All methods take turns. The floor is the operations of the
convolutions at the speed of this device's matrix product, plus the bytes that neurons must move at
the speed of a copy. Each method's peak of memory is measured in its own process, above the memory
after all libraries are loaded and kernels compiled. Bytes kept between forward and backward exclude
parameters.

On a GPU several steps run at once and are timed by the GPU's clock. The surrogate is then the
arctangent, because SpikingJelly has kernels for it.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch._C._autograd import DeviceType
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tools.bench.neuron import (
    DTYPES,
    PEER,
    TENSORS,
    copy_milliseconds,
    milliseconds,
    prepare_peer,
    spikingjelly_lif,
    surrogate_on,
    timer,
)
from tools.bench.report import Timing, measure, output_option, report, resident, runs_option
from train.networks import build
from train.networks.layers import Packing, Recompute, recompute
from train.neurons.memory import counted, keep_pages
from train.neurons.neuron import Neuron, NeuronSettings

OURS, RELU, LOOP, BITS = "lif", "ann, ReLU", "lif, torch loop", "lif, spikes as bits"
CLASSES, POLARITIES = 100, 2
PACKAGES = ("torch", "numba", "numpy")
# Neurons, what the backward pass recomputes, and whether spikes are kept for it as bits.
METHODS: dict[str, tuple[NeuronSettings, Recompute, Packing]] = {
    RELU: (NeuronSettings(kind="ann", activation="relu"), "nothing", "auto"),
    OURS: (NeuronSettings(kind="lif"), "nothing", "auto"),
    BITS: (NeuronSettings(kind="lif"), "nothing", "always"),
    "lif, blocks run again": (NeuronSettings(kind="lif"), "blocks", "auto"),
    "liaf, ReLU": (NeuronSettings(kind="liaf", activation="relu"), "nothing", "auto"),
    LOOP: (NeuronSettings(kind="lif", backend="loop"), "nothing", "auto"),
    PEER: (NeuronSettings(kind="lif"), "nothing", "auto"),
}
# Names of the neurons' operations in a profile.
OPERATIONS = {OURS: ("Fused", "FusedBackward"), RELU: ("aten::relu", "aten::threshold_backward")}


class Peer(nn.Module):
    """SpikingJelly's neurons in place of ours."""

    def __init__(self, settings: NeuronSettings, device: str) -> None:
        super().__init__()
        self.settings = settings
        self.node = spikingjelly_lif(device)

    def forward(self, x: Tensor) -> Tensor:
        return self.node(x)


class Trainer:
    """A network of one method and a batch; a call runs some steps and returns their number."""

    def __init__(
        self, method: str, *, width: int, side: int, batch: int, steps: int, device: str, dtype: str
    ) -> None:
        torch.manual_seed(0)
        neuron, what, packing = METHODS[method]
        neuron = replace(neuron, surrogate=surrogate_on(device))
        network = build(
            "event-resnet18", channels=POLARITIES, classes=CLASSES, neuron=neuron, width=width
        )
        recompute(network, what)
        network.pack_spikes = packing
        if method == PEER:
            for module in list(network.modules()):
                for name, child in module.named_children():
                    if isinstance(child, Neuron):
                        setattr(module, name, Peer(child.settings, device))
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
        shape = (batch, steps, POLARITIES, side, side)
        self.frames = (torch.rand(shape) < 0.05).float().to(device)
        self.labels = torch.randint(0, CLASSES, (batch,)).to(device)
        self.device, self.dtype = device, DTYPES[dtype]

    def forward(self) -> Tensor:
        """Compute the loss."""
        mixed = self.dtype != torch.float32
        with torch.autocast(torch.device(self.device).type, self.dtype, enabled=mixed):
            return functional.cross_entropy(self.network(self.frames).float(), self.labels)

    def step(self) -> None:
        """Run one training step."""
        self.optimizer.zero_grad()
        self.forward().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def __call__(self) -> int:
        count = 1 if self.device == "cpu" else 10  # before the GPU is waited for
        for _ in range(count):
            self.step()
        return count

    def kept(self) -> int:
        """Return the bytes kept between forward and backward, without parameters."""
        own = {tensor.data_ptr() for tensor in self.network.state_dict().values()}
        with counted() as counts:
            loss = self.forward()
            size = sum(size for address, size in counts.items() if address not in own)
        del loss
        return size

    def neuron_bytes(self) -> int:
        """Return the bytes that neurons must move in a step."""
        moved = 0

        def count(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            nonlocal moved
            moved += TENSORS * out.nbytes

        neurons = [module for module in self.network.modules() if isinstance(module, Neuron)]
        hooks = [neuron.register_forward_hook(count) for neuron in neurons]
        self.forward()
        for hook in hooks:
            hook.remove()
        return moved

    def share(self, names: tuple[str, ...]) -> float:
        """Return the share of a step's time in operations with these names."""
        cuda = self.device != "cpu"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        with profile(activities=activities) as seen:
            self.step()
            if cuda:
                torch.cuda.synchronize()
        return share_of(seen.key_averages(), names, cuda=cuda)


def share_of(events: Sequence[Any], names: tuple[str, ...], *, cuda: bool) -> float:
    """Return the share of a profile's time in operations with these names.

    On a GPU the time is that of kernels, which appear as their own events and again in operations.
    """
    on_cpu = [event for event in events if event.device_type == DeviceType.CPU]
    parts = [event for event in on_cpu if event.key in names]
    if not cuda:
        whole = sum(event.self_cpu_time_total for event in on_cpu)
        return float(sum(event.cpu_time_total for event in parts) / whole)
    whole = sum(
        event.self_device_time_total
        for event in events
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    )
    return float(sum(event.device_time_total for event in parts) / whole)


def peak(trainer: Callable[..., Trainer], device: str, size: dict[str, int]) -> float:
    """Return the peak bytes of two steps, above the process's memory after a small step."""
    trainer(**size | {"width": 4, "side": 64, "batch": 1}).step()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        before = resident("VmRSS")
    large = trainer(**size)
    large.step()
    large.step()
    most = resident("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated(device)
    return most - before


def matrix_speed(device: str, dtype: torch.dtype) -> float:
    """Return operations per second of a matrix product, counting products and sums."""
    side = 2048 if device == "cpu" else 8192
    a, b = torch.randn(2, side, side).to(device, dtype)
    return 2 * side**3 / (min(milliseconds(lambda: a @ b, device, 6)) / 1000)


@click.command()
@click.option("--width", default=64, show_default=True, help="Channels of the first stage.")
@click.option("--side", default=224, show_default=True, help="H and W of the frames.")
@click.option("--batch", type=click.IntRange(1), help="N; 1 by default, 32 on a GPU.")
@click.option("--steps", default=8, show_default=True, help="T.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32")
@runs_option(7)
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Threads of torch and of the kernels.")
@click.option(
    "--method",
    "chosen",
    multiple=True,
    type=click.Choice(list(METHODS)),
    help="Methods to add to lif and ReLU; all by default.",
)
@click.option("--growth", is_flag=True, help="Measure the time per frame over T and N instead.")
@click.option("--peak-of", hidden=True, help="Print only the peak of memory of a method.")
@output_option
def main(
    width: int,
    side: int,
    batch: int | None,
    steps: int,
    dtype: str,
    runs: int,
    device: str,
    threads: int | None,
    chosen: tuple[str, ...],
    growth: bool,
    peak_of: str | None,
    output: Path | None,
) -> None:
    """Measure a training step of a ResNet-18 on events for each neuron."""
    keep_pages()
    if threads is not None:
        torch.set_num_threads(threads)
    cuda = device != "cpu"
    if cuda:
        torch.cuda.set_device(torch.device(device).index or 0)  # its clock is read
        torch.backends.cudnn.benchmark = True  # as in training
        torch.set_float32_matmul_precision("high")  # TF32, as for convolutions
    batch = batch or (32 if cuda else 1)
    size = {"width": width, "side": side, "batch": batch, "steps": steps}
    trainer: Callable[..., Trainer] = partial(Trainer, device=device, dtype=dtype)
    if peak_of:
        click.echo(peak(partial(trainer, peak_of), device, size))
        return
    facts: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if cuda else device,
        "threads": torch.get_num_threads(),
        "surrogate": surrogate_on(device),
        "frames (N, T, P, H, W)": f"{(batch, steps, POLARITIES, side, side)}, {dtype}",
        "width": width,
    }
    if growth:
        timings = growing(trainer, size, runs, device)
        title = "A frame of a training step over T and N"
        ours = f"{OURS}, T = {steps}, N = {batch}"
        report(title, timings, ours, facts, output, unit="ms/frame", packages=PACKAGES)
        return
    usual = set(METHODS) - (set() if cuda else {BITS})  # on a CPU, lif keeps bits anyway
    wanted = {OURS, RELU, *(chosen or usual)}
    missing, of_peer = prepare_peer(device, dtype) if PEER in wanted else ([], {})
    facts |= of_peer
    names = [name for name in METHODS if name in wanted - ({PEER} if missing else set())]
    trainers = {name: trainer(name, **size) for name in names}
    timings = measure(trainers, runs, timed=timer(device))
    over = {name: timings[name].median / timings[RELU].median for name in names}
    kept = {name: one.kept() for name, one in trainers.items()}
    options = [f"--{key}={value}" for key, value in size.items()]
    options += [f"--dtype={dtype}", f"--device={device}", f"--threads={torch.get_num_threads()}"]
    if cuda:
        torch.cuda.empty_cache()  # leave the memory to the child processes
    peaks = {name: float(_child([*options, f"--peak-of={name}"])) for name in names}
    with FlopCounterMode(display=False) as counter:
        trainers[RELU].step()
    operations = counter.get_total_flops()
    moved = trainers[OURS].neuron_bytes()
    sample = torch.empty(2**30 if cuda else 2**26, dtype=torch.uint8, device=device)
    bandwidth = 2 * sample.nbytes / (copy_milliseconds(sample) / 1000)
    speed = matrix_speed(device, DTYPES[dtype])
    floor = 1000 * (operations / speed + moved / bandwidth)
    facts |= {
        "time over ReLU": _rounded(over),
        "peak of memory, MB": _rounded({name: size / 1e6 for name, size in peaks.items()}),
        "peak of memory over ReLU": _rounded({n: size / peaks[RELU] for n, size in peaks.items()}),
        "kept for the pass backward, MB": _rounded({n: size / 1e6 for n, size in kept.items()}),
        "share of the time in neurons": _rounded(
            {name: trainers[name].share(operations) for name, operations in OPERATIONS.items()}
        ),
        "operations a step, 1e9": round(operations / 1e9, 2),
        "matrix product, 1e9 operations/s": round(speed / 1e9, 1),
        "copy bandwidth, GB/s": round(bandwidth / 1e9, 1),
    }
    report(
        "A training step of a ResNet-18 on events",
        timings,
        OURS,
        facts,
        output,
        floors=dict.fromkeys(names, floor),
        unit="ms/step",
        missing=missing,
        packages=PACKAGES,
    )


def growing(
    trainer: Callable[..., Trainer], size: dict[str, int], runs: int, device: str
) -> dict[str, Timing]:
    """Return milliseconds per frame for half and twice the steps and twice the samples."""
    steps, batch = size["steps"], size["batch"]
    plans = [(max(1, steps // 2), batch), (steps, batch), (2 * steps, batch), (steps, 2 * batch)]
    methods = {
        f"{name}, T = {t}, N = {n}": _frames(
            trainer(name, **size | {"steps": t, "batch": n}), t * n
        )
        for name in (OURS, RELU)
        for t, n in plans
    }
    return measure(methods, runs, timed=timer(device))


def _frames(trainer: Trainer, count: int) -> Callable[[], int]:
    return lambda: trainer() * count


def _child(options: list[str]) -> str:
    """Run this program with these options and return what it prints."""
    command = [sys.executable, "-m", "tools.bench.step", *options]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


if __name__ == "__main__":
    main()
