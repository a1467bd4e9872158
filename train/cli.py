"""The commands ``train``, ``report``, ``evaluate``, ``predict`` and ``export``: parse, call, print.

`eventdata.cli` loads this module by its name. It loads torch only when a command runs.
"""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import click

from eventdata.console import debug_option, json_option, say
from eventdata.errors import OptionError

NEEDED = ("lightning", "matplotlib", "safetensors", "tensorboard", "tomli_w", "torchmetrics")
"""Modules that come with the extra `train`."""


def _complete_recipe(_: click.Context, __: click.Parameter, incomplete: str) -> list[Any]:
    from click.shell_completion import CompletionItem

    # Importing train.recipe would load torch.
    names = sorted(path.stem for path in Path(__file__).with_name("recipes").glob("*.toml"))
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def _check_extra() -> None:
    """Raise OptionError if a module that training needs is not installed."""
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise OptionError(f"{name} is not installed; run: pip install 'eventdata[train]'")


@click.command()
@click.argument("method", type=click.Choice(["pipe-s", "pipe-d", "scratch"]))
@click.option("--data", required=True, help="Store for the last training stage and for the test.")
@click.option("--images", help="Store of still images, for recipes that pretrain on them.")
@click.option(
    "--recipe",
    shell_complete=_complete_recipe,
    help="Name of a recipe (see docs/training.md) or path of a TOML file. Default: pipe-s for "
    "still images; for events pipe-d-images with --images, otherwise pipe-d-events.",
)
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False), help="Output folder.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="STAGE.KEY=VALUE",
    help="Change one key of the recipe (see docs/training.md); can be repeated.",
)
@json_option
@debug_option
def train(
    method: str,
    data: str,
    images: str | None,
    recipe: str | None,
    out: str,
    changes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train a network with METHOD: the pipeline of a recipe, or its baseline from scratch.

    To resume an interrupted run, run the same command again.

    \b
    eventdata train pipe-d --data es.zarr --images imagenet.zarr -o runs/pipe-d
    eventdata train scratch --data es.zarr -o runs/scratch
    eventdata train pipe-s --data imagenet.zarr -o runs/pipe-s --set all.batch_size=128
    """
    _check_extra()
    from train.runs.run import train as run

    result = run(
        method,
        out,
        data=data,
        images=images,
        recipe=recipe,
        changes=changes,
        say=None if as_json else say,
    )
    if as_json:
        click.echo(json.dumps(result))


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(file_okay=False))
@click.option(
    "-o",
    "--out",
    default="report",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for the page, the tables and the plot, or NAME.html for only the page.",
)
@json_option
@debug_option
def report(runs: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Compare the run folders RUNS by accuracy over training time, pretraining included.

    The page report.html has curves, tables, confusion matrices and firing rates, and loads nothing.

    \b
    eventdata report runs/scratch-0 runs/scratch-1 runs/pipe-d-0 runs/pipe-d-1
    eventdata report runs/* -o report.html
    """
    _check_extra()
    from train.report import is_page, read_runs, text
    from train.report import report as write_report

    rows = write_report(runs, out)
    if as_json:
        click.echo(json.dumps(rows))
        return
    click.echo(text(read_runs(runs), rows), nl=False)
    files = "report.html, .md, .json, .png and .svg, front.png and .svg"
    say(str(out) if is_page(out) else f"{out}: {files}")


@click.command()
@click.argument("network", metavar="RUN|WEIGHTS")
@click.option("--data", help="Store to evaluate on. Default: the run's store.")
@click.option(
    "--split",
    help="Split of the store. Default: the test part of the run on its own store; otherwise test, "
    "val or the only split.",
)
@click.option(
    "--recipe",
    shell_complete=_complete_recipe,
    help="Recipe of a file of weights that does not state its settings.",
)
@json_option
@debug_option
def evaluate(
    network: str, data: str | None, split: str | None, recipe: str | None, as_json: bool
) -> None:
    """Evaluate a network on a store: accuracies, confusion matrix, firing rates.

    RUN|WEIGHTS is a run folder or a file of weights. On the run's own store, the samples are those
    that the run kept for its test, even if it drew them at random.

    \b
    eventdata evaluate runs/pipe-d --data es.zarr
    eventdata evaluate runs/pipe-d/lif/last.safetensors --data other.zarr --split val --json
    """
    _check_extra()
    from eventdata.progress import progress_bar
    from train.evaluate import evaluate as run
    from train.evaluate import text

    with progress_bar("evaluating") as progress:
        result = run(network, data, split=split, recipe=recipe, progress=progress)
    if as_json:
        click.echo(json.dumps(result))
    else:
        say(text(result))


@click.command()
@click.argument("network", metavar="RUN|WEIGHTS")
@click.argument("input", type=click.Path())
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="CSV file to write. Default: print the rows.",
)
@click.option("--split", help="Split of a store. Default: test, val or the only split.")
@click.option(
    "--top",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Most probable classes per sample.",
)
@click.option(
    "--recipe",
    shell_complete=_complete_recipe,
    help="Recipe of a file of weights that does not state its settings.",
)
@debug_option
def predict(
    network: str,
    input: str,  # noqa: A002
    out: Path | None,
    split: str | None,
    top: int,
    recipe: str | None,
) -> None:
    """Predict the class of each sample in INPUT; write CSV: file, sample, class, probability.

    INPUT is a store, or a file or folder of raw files without labels. Raw files must be of the kind
    that the run's store was made from, and are framed as that store was. The row of a file that
    can't be read has the reason in its last column.

    \b
    eventdata predict runs/hands recordings/ -o predictions.csv
    eventdata predict runs/hands new.aedat4 --top 3
    eventdata predict runs/hands hands.zarr --split test -o predictions.csv
    """
    _check_extra()
    from eventdata.progress import progress_bar
    from train.predict import predict as run
    from train.predict import table
    from train.runs.folder import write, writing_run

    with progress_bar("predicting") as progress:
        rows = run(network, input, split=split, recipe=recipe, top=top, progress=progress)
    if out is None:
        say(table(rows).rstrip("\n"))
    else:
        with writing_run(out.parent):
            write(out, table(rows))
        say(f"{out}: {len(rows):,} samples")
    if unread := sum(not row.best for row in rows):
        click.echo(f"{unread:,} of {len(rows):,} samples can't be read; see their rows", err=True)


def _parse_shape(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,6}(,[0-9]{1,6}){2,3}", text):
        raise click.BadParameter(f"{text!r:.40} is neither T,P,H,W nor C,H,W")
    return tuple(map(int, text.split(",")))


@click.command()
@click.argument("network", metavar="RUN|WEIGHTS")
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write: .onnx, .pt2, .nir or .safetensors.",
)
@click.option("--stage", help="Stage of the run. Default: the last one.")
@click.option(
    "--recipe",
    shell_complete=_complete_recipe,
    help="Recipe of a file of weights that does not state its settings.",
)
@click.option(
    "--shape",
    callback=_parse_shape,
    help="Shape of a sample, T,P,H,W or C,H,W, for weights that do not state it.",
)
@debug_option
def export(
    network: str,
    out: Path,
    stage: str | None,
    recipe: str | None,
    shape: tuple[int, ...] | None,
) -> None:
    """Export a network to the format of the suffix: ONNX, torch.export, NIR or safetensors.

    The file has the classes, the framing of the input and the settings. The network is that of a
    run folder or of a file of weights. NIR has only networks of LIF neurons.

    \b
    eventdata export runs/pipe-d -o net.onnx
    eventdata export runs/pipe-d -o net.nir
    eventdata export resnet18.pth --recipe torchvision-resnet18 --shape 3,224,224 -o net.pt2
    """
    _check_extra()
    from train.export import export as run

    sample = run(network, out, stage=stage, recipe=recipe, shape=shape)
    say(f"{out}: samples of shape {sample}" if sample else str(out))
