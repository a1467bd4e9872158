"""Try every stage of the full-size recipes, and estimate how long ImageNet would take.

    python tools/bench/recipes.py IMAGES [--batch 8] [--tflops 47] [--device cuda]

IMAGES is a folder of ImageNet's layout with some pictures. They become a store of images, and
stores of events and of grey images that are made of the same pictures. Each stage runs a few
training steps on them: augmentation, forward, loss, teacher, backward and SGD, on a GPU in
bfloat16. A calibration is a row of its own. Every row is measured in its own process, so its peak
of memory is its own, above the memory before the networks were built.

The hours are an estimate. They are the multiply-adds of all training steps with their teachers, of
calibrations and of norms computed anew, for the samples of ImageNet-1K or ES-ImageNet, over a
sustained throughput of one GPU (--tflops; a multiply-add is two operations). A GPU computes spikes
as dense numbers, so zeros count as work. Memory traffic of norms and neurons is only in the
throughput. Evaluation, reading and saving are not counted.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import eventdata
from eventdata.dataset import FrameDataset
from tools.bench.report import machine, output_option, publish, resident
from train.calibrate import calibrate, recalibrate
from train.networks.layers import Network, channels_last
from train.neurons.memory import keep_pages
from train.operations import measure
from train.recipe import SCRATCH, Recipe, load
from train.runs.module import divergence, prepare
from train.runs.plan import build_network
from train.runs.teacher import Teacher
from train.settings import Stage

CLASSES, STEPS, SIDE = 1000, 8, 224
IMAGES, EVENTS, GREY = "images.zarr", "events.zarr", "grey.zarr"
SAMPLES = {IMAGES: 1_281_167, EVENTS: 1_257_035, GREY: 1_257_035}
"""Training samples of ImageNet-1K and of ES-ImageNet."""
PEAK = 312.0
"""Dense bfloat16 operations of an A100 per second, in 1e12."""
TFLOPS = 47.0
"""15 % of PEAK. NVIDIA's ResNet-50 trains 2,470 images/s on an A100 in mixed precision, which is
20 %; a ResNet-18 with neurons and norms over time moves more bytes per operation."""
PIPELINES: Mapping[str, tuple[str, ...]] = {
    "pipe-S": ("pipe-s",),
    "pipe-S, torchvision": ("torchvision-pipe-s",),
    "pipe-D, images": ("pipe-d-images",),
    "pipe-D, grey images": ("pipe-d-grey",),
    "pipe-D, events": ("pipe-d-events",),
    "pipe-D, torchvision": ("torchvision-resnet18", "sum.weights=checkpoint"),
}
"""Name of the recipe of each pipeline, and changes to it."""
CALIBRATION = ", calibration"
BASELINES = ("pipe-S", "pipe-D, events")
HEAD = (
    *("stage", "T", "samples at once", "s", "CPU s", "peak (GB)", "forward (G)", "work (G)"),
    *("samples in all", "GPU hours"),
)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Figures of a training step, or of a calibration."""

    samples: int
    """Those at once."""
    seconds: float
    cpu_seconds: float
    peak_bytes: float
    forward: float
    """Dense multiply-adds of one answer per sample."""
    work: float
    """Multiply-adds of the step with its teacher, or of the calibration, per sample."""


class Work:
    """A stage on real samples: its network, its teacher, and what trains it."""

    def __init__(self, recipe: Recipe, name: str, store: Path, size: int, device: str) -> None:
        self.recipe, self.stage, self.size, self.device = recipe, recipe.stages[name], size, device
        self.data = FrameDataset(store, "train")
        self.seen = 0
        self.network = self._build(self.stage)
        self.teacher: Teacher | None = None
        if self.stage.teacher:
            own = recipe.stages[self.stage.teacher]
            network = self._build(own)
            with torch.no_grad():  # fresh norms make the outputs of a fresh network explode
                recalibrate(network, [prepare(self.frames(), own)])
            binary = self.data.sample_format.is_packed
            self.teacher = Teacher.of(network, own, self.stage, binary=binary)
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.01, momentum=0.9)

    def _build(self, stage: Stage) -> Network:
        torch.manual_seed(0)
        sample = self.data.sample_format
        steps = () if sample.steps is None else (sample.steps,)
        shape = (*steps, sample.channels, sample.height, sample.width)
        network = build_network(self.recipe, stage, shape=shape, classes=CLASSES)
        channels_last(network).to(self.device)
        return network

    def frames(self) -> Tensor:
        """Return the next samples as stored, from the first one again after the last one."""
        chosen = [(self.seen + n) % len(self.data) for n in range(self.size)]
        self.seen += self.size
        return torch.stack([self.data[n][0] for n in chosen]).to(self.device)

    def calibrate(self) -> float:
        """Calibrate the network; return the multiply-adds."""
        assert self.teacher is not None
        frames = self.frames()
        pairs = [(prepare(frames, self.stage), prepare(frames, self.teacher.view))]
        with FlopCounterMode(display=False) as counter:  # its flops are two a multiply-add
            calibrate(self.network, self.teacher.network, pairs, refit=True)
        return float(counter.get_total_flops() / 2)

    def step(self, seed: int) -> None:
        """Run one training step."""
        frames, place = self.frames(), torch.device(self.device).type
        labels = torch.randint(0, CLASSES, (len(frames),), device=self.device)
        self.optimizer.zero_grad()
        with torch.autocast(place, torch.bfloat16, enabled=place == "cuda"):
            logits = self.network(prepare(frames, self.stage, seed))
            loss = functional.cross_entropy(logits.float(), labels)
            if self.teacher is not None:
                apart = divergence(logits, self.teacher(frames, seed), self.stage.temperature)
                loss = torch.lerp(loss, apart, self.stage.teacher_weight)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def dense(self) -> tuple[float, float]:
        """Return the dense multiply-adds per sample of an answer and of a training step."""
        frames = self.frames()[:1]
        own = measure(self.network, [prepare(frames, self.stage)])
        taught = 0.0
        if self.teacher is not None:
            x = prepare(frames, self.teacher.view)
            taught = measure(self.teacher.network, [x]).dense_additions
        return own.dense_additions, own.dense_training + taught


def run(
    recipe: Recipe, name: str, store: Path, *, size: int, device: str, steps: int, calibrates: bool
) -> Trial:
    """Run a stage's calibration or some of its steps in this process; return the figures."""
    on_cpu = device == "cpu"
    before = resident("VmRSS") if on_cpu else 0
    work = Work(recipe, name, store, size, device)
    if not calibrates:
        work.step(0)  # compiles kernels, and takes memory that later steps use again
    elif not on_cpu:
        torch.cuda.reset_peak_memory_stats(device)
    if not on_cpu:
        torch.cuda.synchronize()
    started, cpu, counted = time.perf_counter(), time.process_time(), 0.0
    for seed in range(1 if calibrates else steps):
        if calibrates:
            counted += work.calibrate() / size
        else:
            work.step(seed)
    if not on_cpu:
        torch.cuda.synchronize()
    runs = 1 if calibrates else steps
    seconds, used = (time.perf_counter() - started) / runs, (time.process_time() - cpu) / runs
    most = resident("VmHWM") if on_cpu else torch.cuda.max_memory_allocated(device)
    forward, training = work.dense()
    return Trial(
        samples=size,
        seconds=seconds,
        cpu_seconds=used,
        peak_bytes=most - before,
        forward=forward,
        work=counted if calibrates else training,
    )


def make_stores(images: Path, folder: Path, side: int) -> None:
    """Make the stores of all stages from the same pictures."""
    of_events: dict[str, Any] = {"long_side": side, "crop": side, "min_events": 0}
    of_images: dict[str, Any] = {"short_side": side, "crop": side}
    if side == SIDE:  # as the documents do it
        of_events, of_images = {}, {}
    eventdata.convert("imagenet", images, folder / EVENTS, **of_events)
    eventdata.convert("images", images, folder / IMAGES, **of_images)
    eventdata.convert("images", folder / EVENTS, folder / GREY, grey_from_events=True)


def store_of(recipe: Recipe, stage: Stage) -> str:
    """Return the store that a stage learns from."""
    if recipe.pipeline == "pipe-d" and stage.data == "data":
        return EVENTS
    return GREY if recipe.name == "pipe-d-grey" else IMAGES


def read(pipeline: str, *, scratch: bool, width: int | None) -> Recipe:
    """Return the recipe of a pipeline, or its baseline."""
    name, *changes = PIPELINES[pipeline]
    changes = [] if scratch else changes
    if width is not None:
        changes.append(f"network.width={width}")
    return load(name, scratch=scratch, changes=changes, check_weights=False)


def hours(multiply_adds: float, tflops: float) -> float:
    """Return the hours of work at a throughput in 1e12 operations per second."""
    return 2 * multiply_adds / (tflops * 1e12) / 3600


def rows_of(
    label: str, recipe: Recipe, trials: Mapping[str, Trial], tflops: float
) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each part of a recipe, and of their sum."""
    total = 0.0
    for name, stage in recipe.stages.items():
        store = store_of(recipe, stage)
        shown = str((stage.collapse or STEPS) if store == EVENTS else (stage.steps or 1))
        parts = {"": stage.epochs * stage.epoch_share * SAMPLES[store]}
        if stage.calibrate != "none":
            parts = {CALIBRATION: stage.calibrate_samples, **parts}
        for part, samples in parts.items():
            trial = trials[name + part]
            work = samples * trial.work
            if not part:
                work += stage.recalibrate * stage.batch_size * trial.forward
            total += (each := hours(work, tflops))
            yield (
                f"{label}: {name}{part}",
                shown,
                str(trial.samples),
                f"{trial.seconds:.2f}",
                f"{trial.cpu_seconds:.2f}",
                f"{trial.peak_bytes / 1e9:.2f}",
                f"{trial.forward / 1e9:.2f}",
                f"{trial.work / 1e9:.2f}",
                f"{samples:,.0f}",
                f"{each:.2f}",
            )
    if len(recipe.stages) > 1:
        yield (f"**{label}**", *[""] * (len(HEAD) - 2), f"**{total:.1f}**")


@click.command()
@click.argument("images", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--pipeline", "chosen", multiple=True, type=click.Choice(list(PIPELINES)))
@click.option("--batch", default=8, show_default=True, help="Samples at once.")
@click.option("--steps", default=2, show_default=True, help="Timed training steps of a stage.")
@click.option("--side", default=SIDE, show_default=True, help="H and W of the samples.")
@click.option("--width", type=int, help="Channels of the first stage; those of the recipes.")
@click.option(
    "--tflops",
    default=TFLOPS,
    show_default=True,
    help="Sustained 1e12 operations per second of one GPU in training.",
)
@click.option("--device", default="cpu", show_default=True)
@output_option
@click.option("--part", hidden=True, help="Measure one part, as JSON, and print its figures.")
def main(
    images: Path,
    chosen: tuple[str, ...],
    batch: int,
    steps: int,
    side: int,
    width: int | None,
    tflops: float,
    device: str,
    output: Path | None,
    part: str | None,
) -> None:
    """Try every stage of the full-size recipes on the pictures in IMAGES."""
    if part is not None:
        keep_pages()
        pipeline, scratch, name, calibrates = json.loads(part)
        recipe = read(pipeline, scratch=scratch, width=width)
        store = images / store_of(recipe, recipe.stages[name])
        trial = run(
            recipe, name, store, size=batch, device=device, steps=steps, calibrates=calibrates
        )
        click.echo(json.dumps(asdict(trial)))
        return
    options = [f"--batch={batch}", f"--steps={steps}", f"--device={device}"]
    options += [] if width is None else [f"--width={width}"]
    rows: list[tuple[str, ...]] = []
    known: dict[str, Trial] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_stores(images, Path(folder), side)
        for pipeline in chosen or PIPELINES:
            for scratch in (False, *([True] if pipeline in BASELINES else [])):
                recipe = read(pipeline, scratch=scratch, width=width)
                trials = {}
                for name, stage in recipe.stages.items():
                    for calibrates in (True, False) if stage.calibrate != "none" else (False,):
                        key = _key(recipe, name, calibrates=calibrates)
                        if key not in known:
                            known[key] = _child(
                                [folder, *options], [pipeline, scratch, name, calibrates]
                            )
                        trials[name + CALIBRATION * calibrates] = known[key]
                rows += rows_of(
                    f"{pipeline}, {SCRATCH}" if scratch else pipeline, recipe, trials, tflops
                )
    facts = {
        "samples": f"{side} x {side} pixels, {device}, {torch.get_num_threads()} threads",
        "throughput": f"{tflops:g}e12 operations/s, {tflops / PEAK:.0%} of an A100's {PEAK:g}e12",
        **machine(("torch", "numba")),
    }
    cells = [dict(zip(HEAD, row, strict=True)) for row in rows]
    figures = {key: asdict(trial) for key, trial in known.items()}
    result = {"machine": facts, "rows": cells, "trials": figures}
    title = "Stages of the recipes at full size"
    publish(title, HEAD, rows, facts, output, result, lambda: None)


def _key(recipe: Recipe, name: str, *, calibrates: bool) -> str:
    """Return a text that is equal for stages that do the same work on a sample."""
    stage = recipe.stages[name]
    views = [
        (one.neuron, one.steps, one.collapse, store_of(recipe, one))
        for one in (stage, recipe.stages.get(stage.teacher))
        if one is not None
    ]
    return repr((recipe.network, views, calibrates))


def _child(options: list[str], part: list[object]) -> Trial:
    """Measure a part in its own process."""
    command = [sys.executable, "-m", "tools.bench.recipes", *options, f"--part={json.dumps(part)}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Trial(**json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
