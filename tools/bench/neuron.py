"""Run LIF neurons forward and backward: ours against ReLU and other implementations.

    python tools/bench/neuron.py [--device cuda --dtype bfloat16] [--compile] [--output FILE.json]

Every method gets the same current (T, N, C, H, W) and the same gradient, and all take turns. The
floor is the bytes that each must move, at the speed of a copy between existing tensors: forward,
the input and the output; backward, one kept tensor, the gradient and the input's gradient. Fresh
pages for a large tensor can cost more than filling it, so malloc keeps the pages of freed tensors,
as in training. Pass --no-keep-pages to measure its default.

On a GPU tensors are larger than its cache, and its own clock times many passes in a row. The
surrogate is then the arctangent, because SpikingJelly has kernels for it; its fastest
implementation is measured.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import click
import torch
from torch import Tensor

from tools.bench.report import by_clock, measure, output_option, report, runs_option
from train.neurons.memory import counted, keep_pages
from train.neurons.neuron import integrate
from train.neurons.surrogate import Surrogate

Method = Callable[[Tensor], Tensor]

OURS, PEER = "lif", "SpikingJelly LIFNode"
FORWARD, BACKWARD = 2, 3  # tensors that must be moved at least
TENSORS = FORWARD + BACKWARD
SHAPES = {"cpu": (8, 8, 64, 56, 56), "cuda": (8, 64, 64, 112, 112)}
PEERS = ("cuda", "triton", "torch")  # SpikingJelly's implementations on a GPU; torch: a loop
PEERS_SETTING = "SJ_LIF_CUDA_IMPLEMENTATION"  # it reads this when it is imported
PACKAGES = ("torch", "numba", "numpy")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def surrogate_on(device: str) -> Surrogate:
    """Return the surrogate of all neurons on a device."""
    return "rectangular" if device == "cpu" else "arctangent"


def prepare_peer(device: str, dtype: str) -> tuple[list[str], dict[str, str]]:
    """Choose SpikingJelly's implementation before its import; return what is missing, and notes."""
    if find_spec("spikingjelly") is None:
        return [f"{PEER} (not installed)"], {}
    if device == "cpu":
        return [], {}
    note = choose_peer(device, dtype)
    missing = [] if PEERS_SETTING in os.environ else [f"{PEER} ({note})"]
    return missing, {PEER: note}


def spikingjelly_lif(device: str) -> Method:
    """Return SpikingJelly's LIFNode with the same membrane and surrogate."""
    return spikingjelly_node() if device == "cpu" else spikingjelly_kernels()


def spikingjelly_kernels() -> Method:
    """Return the function behind LIFNode, called so that SpikingJelly's kernels run.

    They need a known surrogate and a membrane in float32, whatever the dtype of x. Otherwise
    SpikingJelly 2 silently runs a loop.
    """
    from spikingjelly.activation_based import functional, surrogate

    slope = surrogate.ATan(2.0)

    def run(x: Tensor) -> Tensor:
        v = torch.zeros_like(x.detach()[0], dtype=torch.float)
        out: Tensor = functional.lif_multi_step(
            x,
            v,
            tau=4 / 3,
            decay_input=False,
            v_threshold=0.5,
            v_reset=0.0,
            surrogate_function=slope,
            detach_reset=True,
        )[0]
        return out

    return run


def choose_peer(device: str, dtype: str) -> str:
    """Select SpikingJelly's fastest implementation on a GPU and return a note about it.

    Each is tried in its own process, because the choice is final for a process.
    """
    if PEERS_SETTING in os.environ:
        return f"{os.environ[PEERS_SETTING]}, as {PEERS_SETTING} says"
    found = {name: peer_milliseconds(name, device, dtype) for name in PEERS}
    times = {name: time for name, time in found.items() if isinstance(time, float)}
    failures = [
        f"{name} does not run ({why})" for name, why in found.items() if isinstance(why, str)
    ]
    if not times:
        return "; ".join(failures)
    fastest = min(times, key=times.__getitem__)
    os.environ[PEERS_SETTING] = fastest
    what = "its loop, none of its kernels" if fastest == "torch" else "its fastest"
    return "; ".join([f"{fastest}, {what}", *failures])


def peer_milliseconds(name: str, device: str, dtype: str) -> float | str:
    """Return the time of a pass by an implementation, or the reason why it does not run."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tools.bench.neuron",
            "--peer-alone",
            f"--device={device}",
            f"--dtype={dtype}",
        ],
        env={**os.environ, PEERS_SETTING: name},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return float(done.stdout.splitlines()[-1])


def spikingjelly_node() -> Method:
    """Return SpikingJelly's LIFNode as it runs on a CPU."""
    from spikingjelly.activation_based import functional, neuron, surrogate

    node = neuron.LIFNode(
        tau=4 / 3,
        decay_input=False,
        v_threshold=0.5,
        v_reset=0.0,
        detach_reset=True,
        surrogate_function=surrogate.Rect(),
        step_mode="m",
    )

    def run(x: Tensor) -> Tensor:
        functional.reset_net(node)
        out: Tensor = node(x)
        return out

    return run


def methods(device: str, compiled: bool) -> dict[str, Method]:
    """Return all methods except SpikingJelly by name."""
    raw = torch.zeros(1, requires_grad=True, device=device)
    lif = partial(integrate, surrogate=surrogate_on(device))
    chosen: dict[str, Method] = {
        "relu": torch.relu,
        OURS: lambda x: lif(x, 0.25),
        "lif, learned decay": lambda x: lif(x, torch.sigmoid(raw)),
        "liaf membrane": lambda x: integrate(x, 0.25, surrogate=None),
        "lif, torch loop": lambda x: lif(x, 0.25, backend="loop"),
    }
    if compiled:
        chosen["lif, torch.compile"] = lambda x: lif(x, 0.25, backend="compile")
    return chosen


def timer(device: str) -> Callable[[Callable[[], float]], tuple[float, float]]:
    """Return a clock for `measure`; on a GPU it is the GPU's own."""
    return by_clock if device == "cpu" else by_events


def by_events(method: Callable[[], float]) -> tuple[float, float]:
    """Return the seconds of a method's work on the GPU, and its result."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    samples = method()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000, samples


def passes(method: Method, x: Tensor, gradient: Tensor | None) -> Callable[[], int]:
    """Return a method that runs passes forward and, with a gradient, backward."""
    count = 2 if x.is_cpu else 20  # passes per turn

    def run() -> int:
        for _ in range(count):
            x.grad = None
            out = method(x)
            if gradient is not None:
                out.backward(gradient)  # type: ignore[no-untyped-call]
        return count

    return run


def kept(method: Method, x: Tensor) -> float:
    """Return the bytes kept between forward and backward, relative to x."""
    with counted() as counts:
        out = method(x)
        size = sum(counts.values())
    del out
    return size / x.nbytes


def copy_milliseconds(like: Tensor, runs: int = 7) -> float:
    """Return the time of a copy between two existing tensors."""
    source, target = torch.ones_like(like), torch.ones_like(like)
    return statistics.median(milliseconds(lambda: target.copy_(source), like.device.type, runs))


def milliseconds(work: Callable[[], object], device: str, runs: int) -> list[float]:
    """Return times of some work; on a GPU each is the mean of many runs in a row."""
    count = 1 if device == "cpu" else 50

    def in_a_row() -> int:
        for _ in range(count):
            work()
        return count

    times = [timer(device)(in_a_row)[0] for _ in range(runs)]
    return [1000 * seconds / count for seconds in times]


@click.command()
@click.option("--shape", type=int, nargs=5, help=f"T N C H W; by default {SHAPES}.")
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="float32", show_default=True)
@runs_option(7)
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Threads of torch and of the kernels.")
@click.option("--compile", "compiled", is_flag=True, help="Also measure torch.compile of the loop.")
@click.option("--keep-pages/--no-keep-pages", "keep", default=True, show_default=True)
@click.option("--peer-alone", is_flag=True, hidden=True, help="Print SpikingJelly's ms/pass.")
@output_option
def main(
    shape: tuple[int, ...] | None,
    dtype: str,
    runs: int,
    device: str,
    threads: int | None,
    compiled: bool,
    keep: bool,
    peer_alone: bool,
    output: Path | None,
) -> None:
    """Measure LIF forward and backward against ReLU and other implementations of it."""
    if keep:
        keep_pages()
    if threads is not None:
        torch.set_num_threads(threads)
    if device != "cpu":
        torch.cuda.set_device(torch.device(device).index or 0)  # its clock is read
    shape = shape or SHAPES[torch.device(device).type]
    torch.manual_seed(0)
    x, gradient = (torch.randn(shape, device=device).to(DTYPES[dtype]) for _ in range(2))
    x.requires_grad_()
    timed = timer(device)
    if peer_alone:
        method = passes(spikingjelly_lif(device), x, gradient)
        alone = measure({PEER: method}, runs, timed=timed)
        click.echo(alone[PEER].median)
        return
    chosen = methods(device, compiled)
    missing, notes = prepare_peer(device, dtype)
    if not missing:
        chosen[PEER] = spikingjelly_lif(device)
    both = {name: passes(method, x, gradient) for name, method in chosen.items()}
    timings = measure(both, runs, timed=timed)
    forward = measure({n: passes(w, x, None) for n, w in chosen.items()}, runs, timed=timed)
    tensor = copy_milliseconds(gradient) / 2  # a copy moves two
    floor = TENSORS * tensor
    ours = timings[OURS].median
    facts = {
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "(T, N, C, H, W)": f"{shape} {dtype}",
        "threads": torch.get_num_threads(),
        "surrogate": surrogate_on(device),
        **notes,
        "forward, of the copy's bandwidth": {
            name: round(FORWARD * tensor / forward[name].median, 2) for name in chosen
        },
        "backward, of the copy's bandwidth": {
            name: round(BACKWARD * tensor / (timings[name].median - forward[name].median), 2)
            for name in chosen
        },
        "kept between the passes, over the input": {
            name: round(kept(method, x), 2) for name, method in chosen.items()
        },
        "lif over relu": round(ours / timings["relu"].median, 2),
        "lif over torch loop": round(ours / timings["lif, torch loop"].median, 2),
    }
    if not missing:
        peer = timings[PEER].median
        facts["lif over SpikingJelly LIFNode"] = round(ours / peer, 2)
    report(
        "Neurons over time, forward and backward",
        timings,
        OURS,
        facts,
        output,
        floors=dict.fromkeys(timings, floor),
        unit="ms/pass",
        missing=missing,
        packages=PACKAGES,
    )


if __name__ == "__main__":
    main()
