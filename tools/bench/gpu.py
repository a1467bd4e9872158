"""Check and measure everything that runs on a GPU, within eight minutes, on one page.

    python tools/bench/gpu.py [--device cpu --quick] [--output gpu.json]

contract     the kernels' contract tests, interpreted and on the GPU
copy         the bandwidth of a copy on the device, and from pinned memory of the host
neurons      LIF forward and backward next to ReLU and SpikingJelly's fastest backend
step         a training step of a ResNet-18 on events, with the same neurons
loader       batches from a store of random events, decoded on the device
training     a few hundred steps in bfloat16, and the same steps in float32 on the CPU

Each part is a program of its own, so that one that fails or hangs takes no other with it. A part
that takes more than its share of the time left is stopped; what a part does not use is left to the
later ones.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from tools.bench.neuron import copy_milliseconds
from tools.bench.report import cells, machine, markdown, output_option, write
from tools.bench.step import OURS, Trainer

LIMIT = 480.0  # seconds for all parts
SHARES = {"contract": 4, "copy": 1, "neurons": 3, "step": 5, "loader": 2, "training": 2}
LAST = 50  # steps whose mean loss is compared
EVENTS = 17_000  # of each polarity in a sample, as in ES-ImageNet
NEURONS = {False: "8 64 64 112 112", True: "4 2 16 28 28"}
STEP = {False: [], True: ["--width=8", "--side=32", "--batch=2", "--steps=4"]}
SAMPLES = {False: 256, True: 8}
STEPS = {False: 300, True: 6}
PACKAGES = ("torch", "numba", "numpy")
Result = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """The device, whether everything is small, and a folder for the parts' files."""

    device: str
    quick: bool
    folder: Path
    runs: list[str] = field(default_factory=list)

    def bench(self, name: str, *options: str) -> list[str]:
        """Return the command of another bench that writes its result to ``NAME.json``."""
        output = f"--output={self.folder / name}.json"
        device = f"--device={self.device}"
        return ["-m", f"tools.bench.{name}", device, *self.runs, output, *options]


def commands(plan: Plan) -> dict[str, list[str]]:
    """Return the arguments of Python for each part."""
    dtype = "--dtype=float32" if plan.device == "cpu" else "--dtype=bfloat16"
    itself = ["-m", "tools.bench.gpu", f"--device={plan.device}", *["--quick"] * plan.quick]
    tests = ["tests/train/neurons/test_gpu.py", "tests/test_loader.py", "-k", "gpu or kernels"]
    return {
        "contract": ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests],
        "copy": [*itself, "--part=copy"],
        "neurons": plan.bench("neuron", dtype, "--shape", *NEURONS[plan.quick].split()),
        "step": plan.bench("step", dtype, *STEP[plan.quick]),
        "loader": plan.bench("loader", "--batch-size=32", "--repeats=4", str(plan.folder / "raw")),
        "training": [*itself, "--part=training"],
    }


def make_raw(folder: Path, samples: int) -> None:
    """Write raw files of ES-ImageNet's layout with random events."""
    rng = np.random.default_rng(0)
    (folder / "train" / "n0").mkdir(parents=True)
    for number in range(samples):
        columns = {
            name: np.column_stack(
                [rng.integers(17, 240, (EVENTS, 2)), rng.integers(1, 9, EVENTS)]
            ).astype(np.uint8)
            for name in ("pos", "neg")
        }
        np.savez(folder / "train" / "n0" / f"{number}.npz", pos=columns["pos"], neg=columns["neg"])
    lines = [f"n0/{number}.npz 0 254 254\n" for number in range(samples)]
    (folder / "trainlabel.txt").write_text("".join(lines))


def copies(device: str, *, quick: bool) -> Result:
    """Return bandwidths in GB/s, counting read and written bytes."""
    nbytes = 1 << (26 if quick else 30)
    there = torch.empty(nbytes, dtype=torch.uint8, device=device)
    found = {"on the device, GB/s": 2 * nbytes / copy_milliseconds(there) / 1e6}
    if torch.device(device).type == "cuda":
        here = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
        seconds = []
        for _ in range(5):
            torch.cuda.synchronize()
            start = time.perf_counter()
            there.copy_(here, non_blocking=True)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        found["from pinned memory, GB/s"] = nbytes / min(seconds) / 1e9
    return {key: round(value, 1) for key, value in found.items()}


def training(device: str, *, quick: bool) -> Result:
    """Train alike on the device in bfloat16 and on the CPU in float32; return both losses."""
    size = {"width": 8, "side": 32, "batch": 8, "steps": 4}
    runs = {f"{device}, bfloat16": (device, "bfloat16"), "cpu, float32": ("cpu", "float32")}
    steps = STEPS[quick]
    result: Result = {"steps": steps}
    for name, (place, dtype) in runs.items():
        trainer = Trainer(OURS, device=place, dtype=dtype, **size)
        draw = torch.Generator().manual_seed(1)
        start = time.perf_counter()
        losses = []
        for _ in range(steps):
            labels = torch.randint(0, 4, (size["batch"],), generator=draw)
            chance = torch.full((size["batch"], 1, 1, 2, 2), 0.02)
            chance.view(-1, 4)[torch.arange(size["batch"]), labels] = 0.3  # a bright quadrant
            chance = chance.repeat_interleave(16, -1).repeat_interleave(16, -2)
            frames = torch.rand((size["batch"], 4, 2, 32, 32), generator=draw) < chance
            trainer.frames, trainer.labels = frames.float().to(place), labels.to(place)
            trainer.step()
            with torch.no_grad():
                losses.append(float(trainer.forward()))
        kept = losses[-LAST:]
        result[name] = {
            "first loss": round(losses[0], 4),
            "mean of the last losses": round(float(np.mean(kept)), 4),
            "deviation of the last losses": round(float(np.std(kept)), 4),
            "finite": bool(np.isfinite(losses).all()),
            "seconds": round(time.perf_counter() - start, 1),
        }
    return result


def share(name: str, left: float) -> float:
    """Return a part's share of the seconds that are left for it and the later parts."""
    later = list(SHARES)[list(SHARES).index(name) :]
    return left * SHARES[name] / sum(SHARES[part] for part in later)


PARTS: Mapping[str, Callable[..., Result]] = {"copy": copies, "training": training}


def run_part(name: str, command: list[str], plan: Plan, seconds: float) -> Result:
    """Run a part; return its state, seconds and figures or the end of what it printed."""
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, errors = process.communicate(timeout=seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # with its own children, which hold the pipes
            if isinstance(error, subprocess.TimeoutExpired):
                return {"state": f"stopped after {seconds:.0f} s"}
            raise
    took = round(time.perf_counter() - start, 1)
    if process.returncode:
        lines = (printed + errors).splitlines()
        return {
            "state": f"failed with exit code {process.returncode}",
            "seconds": took,
            "end": lines[-15:],
        }
    result: Result = {"state": "done", "seconds": took}
    written = plan.folder / f"{ {'neurons': 'neuron'}.get(name, name) }.json"
    if written.exists():
        result |= json.loads(written.read_text())
        result.pop("machine", None)
    elif name in PARTS:
        result["facts"] = json.loads(printed.splitlines()[-1])
    else:
        result["facts"] = {"tests": printed.splitlines()[-1]}
    return result


def page(results: Mapping[str, Result], facts: Mapping[str, str]) -> str:
    """Return all parts as one Markdown page."""
    overview = [
        (name, str(part["state"]), str(part.get("seconds", ""))) for name, part in results.items()
    ]
    texts = [markdown("On a GPU", ("part", "state", "seconds"), overview, facts)]
    for name, part in results.items():
        table = next((key for key in part if "_per_" in key), "")
        rows = [(method, *cells(values)) for method, values in part.get(table, {}).items()]
        notes = part.get("facts", {})
        if part.get("end"):
            notes = {"the end of what it printed": " / ".join(part["end"])}
        head = ("method", table.replace("_per_", "/"), "spread", "over ours", "floor", "over floor")
        title = str(part.get("title", name))
        texts.append("#" + (markdown(title, head, rows, notes) if rows else _facts(title, notes)))
    return "\n".join(texts)


def _facts(title: str, facts: Mapping[str, object]) -> str:
    return "\n".join([f"# {title}", "", *(f"- {key}: {value}" for key, value in facts.items()), ""])


@click.command()
@click.option("--device", default="cuda", show_default=True)
@click.option("--quick", is_flag=True, help="Run everything on little data, to try the program.")
@click.option("--limit", default=LIMIT, show_default=True, help="Seconds for all parts.")
@click.option("--part", type=click.Choice(list(PARTS)), hidden=True)
@output_option
def main(device: str, quick: bool, limit: float, part: str | None, output: Path | None) -> None:
    """Check the kernels and measure neurons, steps, loaders and training on a device."""
    if part is not None:
        click.echo(json.dumps(PARTS[part](device, quick=quick)))
        return
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("torch finds no GPU here; pass --device cpu --quick to try this")
    deadline = time.monotonic() + limit
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as name:
        plan = Plan(device, quick, Path(name), ["--runs=1"] if quick else [])
        make_raw(plan.folder / "raw", SAMPLES[quick])
        for part_name, command in commands(plan).items():
            click.echo(f"{part_name}: ", nl=False)
            seconds = share(part_name, deadline - time.monotonic())
            results[part_name] = run_part(part_name, command, plan, seconds)
            click.echo(results[part_name]["state"])
    facts = machine(PACKAGES)
    if torch.device(device).type == "cuda":
        facts["device"] = torch.cuda.get_device_name(device)
    text = page(results, facts)
    click.echo(text)
    if output is not None:
        write(output, {"machine": facts, "parts": results}, text, None)
    if any(one["state"].startswith("failed") for one in results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
