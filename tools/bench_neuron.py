"""LIF neurons forward and backward on the CPU, beside ReLU and the other ways of running them.

    python tools/bench_neuron.py [--compile] [--json]

Every way gets the same current (T, N, C, H, W) float32 and the same gradient; times are the median
of rounds in which all ways take turns, so that a noisy machine is noisy for all. The floor is the
bytes that LIF has to move (x and s forward; x, gradient and gx backward) at the speed at which this
machine copies between tensors it already has. Getting fresh pages for a large tensor can cost more
than filling it: --keep-pages has malloc keep those of freed ones.
"""

import json
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TypedDict

import click
import torch
from torch import Tensor

from train.memory import keep_pages
from train.neurons import integrate

Way = Callable[[Tensor], Tensor]


class Row(TypedDict):
    """What one way took."""

    ms: float
    over_relu: float
    over_floor: float
    kept: float  # bytes kept between forward and backward, over those of x
    first_call_s: float  # compiling included


class Result(TypedDict):
    """One run of the benchmark."""

    shape: tuple[int, ...]
    threads: int
    floor_ms: float
    ways: dict[str, Row]


def spikingjelly_lif() -> Way | None:
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

    def run(x: Tensor) -> Tensor:
        functional.reset_net(node)
        out: Tensor = node(x)
        return out

    return run


def ways(compiled: bool) -> dict[str, Way]:
    """What is measured, by name; ReLU first."""
    raw = torch.zeros(1, requires_grad=True)
    chosen: dict[str, Way] = {
        "relu": torch.relu,
        "lif": lambda x: integrate(x, 0.25),
        "lif, learned decay": lambda x: integrate(x, torch.sigmoid(raw)),
        "liaf membrane": lambda x: integrate(x, 0.25, surrogate=None),
        "lif, torch loop": lambda x: integrate(x, 0.25, backend="loop"),
    }
    if compiled:
        chosen["lif, torch.compile"] = lambda x: integrate(x, 0.25, backend="compile")
    peer = spikingjelly_lif()
    if peer is not None:
        chosen["SpikingJelly LIFNode"] = peer
    return chosen


def step(way: Way, x: Tensor, gradient: Tensor) -> float:
    """Seconds of one pass forward and backward."""
    x.grad = None
    start = time.perf_counter()
    way(x).backward(gradient)  # type: ignore[no-untyped-call]
    return time.perf_counter() - start


def saved_bytes(way: Way, x: Tensor) -> int:
    """Bytes kept between forward and backward."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = way(x)
    del out
    return sum(kept.values())


def copy(source: Tensor, target: Tensor) -> float:
    """Seconds of a copy between two tensors that are there already."""
    start = time.perf_counter()
    target.copy_(source)
    return time.perf_counter() - start


def measure(shape: tuple[int, ...], rounds: int, compiled: bool) -> Result:
    """All ways on one tensor."""
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=True)
    gradient = torch.randn(shape)
    chosen = ways(compiled)
    first = {name: step(way, x, gradient) for name, way in chosen.items()}
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    copies: list[float] = []
    target = torch.ones(shape)
    for _ in range(rounds):
        copies.append(copy(gradient, target))
        for name, way in chosen.items():
            step(way, x, gradient)  # leaves the allocator as this way, not the one before, would
            seconds[name].append(step(way, x, gradient))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    floor = 5 / 2 * statistics.median(copies)  # a copy moves two tensors, lif at least five
    rows: dict[str, Row] = {
        name: {
            "ms": 1e3 * median,
            "over_relu": median / medians["relu"],
            "over_floor": median / floor,
            "kept": saved_bytes(chosen[name], x) / x.nbytes,
            "first_call_s": first[name],
        }
        for name, median in medians.items()
    }
    return {
        "shape": shape,
        "threads": torch.get_num_threads(),
        "floor_ms": 1e3 * floor,
        "ways": rows,
    }


@click.command()
@click.option("--shape", type=int, nargs=5, default=(8, 8, 64, 56, 56), show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Of torch and of the kernels.")
@click.option("--compile", "compiled", is_flag=True, help="Also torch.compile of the loop.")
@click.option("--keep-pages", "keep", is_flag=True, help="Have malloc keep freed pages.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
def main(
    shape: tuple[int, ...],
    rounds: int,
    threads: int | None,
    compiled: bool,
    keep: bool,
    as_json: bool,
) -> None:
    """LIF forward and backward beside ReLU and other ways of running it."""
    if keep:
        keep_pages()
    if threads is not None:
        torch.set_num_threads(threads)
    result = measure(shape, rounds, compiled)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    click.echo(f"(T, N, C, H, W) = {shape} float32, {result['threads']} threads")
    click.echo(f"floor of lif: {result['floor_ms']:.1f} ms at this machine's copy bandwidth")
    click.echo(f"{'':22}{'ms':>8}{'/ relu':>8}{'/ floor':>9}{'kept / x':>10}{'first call s':>14}")
    for name, row in result["ways"].items():
        click.echo(
            f"{name:22}{row['ms']:8.1f}{row['over_relu']:8.2f}{row['over_floor']:9.2f}"
            f"{row['kept']:10.2f}{row['first_call_s']:14.2f}"
        )


if __name__ == "__main__":
    main()
