"""LIF neurons forward and backward, beside ReLU and the other ways of running them.

    python tools/bench_neuron.py [--device cuda] [--dtype bfloat16] [--compile] [--output FILE.json]

Every way gets the same current (T, N, C, H, W) and the same gradient, and all take turns. The floor
is the bytes that any of them has to move (the input read and the output written forward; one kept
tensor, the gradient and the input's gradient backward) at the speed at which this device copies
between tensors it already has. Getting fresh pages for a large tensor can cost more than filling
it: as in training, malloc keeps those of freed ones (--no-keep-pages: as it does by default).
"""

import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import click
import torch
from measuring import measure, report
from torch import Tensor

from train.memory import counted, keep_pages
from train.neurons import integrate

Way = Callable[[Tensor], Tensor]

OURS = "lif"
PASSES = 2  # of one way before the next has its turn
TENSORS = 5  # that are moved at the least
PACKAGES = ("torch", "numba", "numpy")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def spikingjelly_lif(device: str = "cpu") -> Way | None:
    """SpikingJelly's LIFNode set to the same membrane and surrogate; None where not installed."""
    if find_spec("spikingjelly") is None:
        return None
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
    for name in ("triton", "cupy"):  # the fastest first; version 2 chooses by itself
        if device != "cpu" and name in getattr(node, "supported_backends", ()) and find_spec(name):
            node.backend = name
            break

    def run(x: Tensor) -> Tensor:
        functional.reset_net(node)
        out: Tensor = node(x)
        return out

    return run


def ways(device: str, compiled: bool) -> tuple[dict[str, Way], list[str]]:
    """What is measured, by name; and what can't be, and why."""
    raw = torch.zeros(1, requires_grad=True, device=device)
    chosen: dict[str, Way] = {
        "relu": torch.relu,
        OURS: lambda x: integrate(x, 0.25),
        "lif, learned decay": lambda x: integrate(x, torch.sigmoid(raw)),
        "liaf membrane": lambda x: integrate(x, 0.25, surrogate=None),
        "lif, torch loop": lambda x: integrate(x, 0.25, backend="loop"),
    }
    if compiled:
        chosen["lif, torch.compile"] = lambda x: integrate(x, 0.25, backend="compile")
    peer = spikingjelly_lif(device)
    if peer is None:
        return chosen, ["SpikingJelly's LIFNode (not installed)"]
    return {**chosen, "SpikingJelly LIFNode": peer}, []


def synchronise(device: str) -> None:
    """Wait for what was started on a GPU."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def passes(way: Way, x: Tensor, gradient: Tensor) -> Callable[[], int]:
    """Some passes forward and backward."""

    def run() -> int:
        for _ in range(PASSES):
            x.grad = None
            way(x).backward(gradient)  # type: ignore[no-untyped-call]
        synchronise(str(x.device))
        return PASSES

    return run


def kept(way: Way, x: Tensor) -> float:
    """Bytes kept between forward and backward, over those of x."""
    with counted() as counts:
        out = way(x)
        size = sum(counts.values())
    del out
    return size / x.nbytes


def copy_milliseconds(like: Tensor, runs: int = 7) -> float:
    """Of a copy between two tensors that are there already."""
    source, target = torch.ones_like(like), torch.ones_like(like)
    device = str(like.device)
    times = []
    for _ in range(runs):
        synchronise(device)
        start = time.perf_counter()
        for _ in range(in_a_row(device)):
            target.copy_(source)
        synchronise(device)
        times.append(1000 * (time.perf_counter() - start) / in_a_row(device))
    return statistics.median(times)


def in_a_row(device: str) -> int:
    """How often to do what is measured: a GPU's launch and wait would outlast a single one."""
    return 1 if device == "cpu" else 50


@click.command()
@click.option("--shape", type=int, nargs=5, default=(8, 8, 64, 56, 56), show_default=True)
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="float32", show_default=True)
@click.option("--runs", type=click.IntRange(1), default=7, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Of torch and of the kernels.")
@click.option("--compile", "compiled", is_flag=True, help="Also torch.compile of the loop.")
@click.option("--keep-pages/--no-keep-pages", "keep", default=True, show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here.")
def main(
    shape: tuple[int, ...],
    dtype: str,
    runs: int,
    device: str,
    threads: int | None,
    compiled: bool,
    keep: bool,
    output: Path | None,
) -> None:
    """LIF forward and backward beside ReLU and other ways of running it."""
    if keep:
        keep_pages()
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    x, gradient = (torch.randn(shape).to(device, DTYPES[dtype]) for _ in range(2))
    x.requires_grad_()
    chosen, missing = ways(device, compiled)
    timings = measure({name: passes(way, x, gradient) for name, way in chosen.items()}, runs)
    floor = TENSORS / 2 * copy_milliseconds(gradient)  # a copy moves two
    ours = timings[OURS].median
    facts = {
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "(T, N, C, H, W)": f"{shape} {dtype}",
        "threads": torch.get_num_threads(),
        "kept between the passes, over the input": {
            name: round(kept(way, x), 2) for name, way in chosen.items()
        },
        "lif over relu": round(ours / timings["relu"].median, 2),
        "lif over torch loop": round(ours / timings["lif, torch loop"].median, 2),
    }
    if not missing:
        peer = timings["SpikingJelly LIFNode"].median
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
