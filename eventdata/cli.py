"""The command ``eventdata``: parse, call, print."""

import dataclasses
import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from eventdata import __version__
from eventdata.console import (
    EXIT_BAD_DATA,
    Commands,
    debug_option,
    json_option,
    limit_option,
    say,
    scheduler_option,
    warn,
    workers_option,
)
from eventdata.errors import OptionError
from eventdata.options import RawInput, SourceCommand, SourceGroup, against_options
from eventdata.raw.registry import GENERATED, SOURCES

if TYPE_CHECKING:
    from eventdata.conversion import Conversion
    from eventdata.generation import Generation


@click.group(
    cls=Commands,
    lazy=dict.fromkeys(("train", "report", "evaluate", "predict", "export"), "train.cli"),
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(__version__, package_name="eventdata")
@debug_option
def main() -> None:
    """Event-camera datasets for spiking neural networks.

    \b
    eventdata convert es-imagenet ES-imagenet-0.18/ es.zarr
    eventdata verify es.zarr --against ES-imagenet-0.18/
    eventdata info es.zarr
    eventdata show es.zarr --split val --index 0:16 -o sheet.png
    """


def _complete_folder(_: click.Context, __: click.Parameter, incomplete: str) -> list[Any]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]  # the shell looks; a URL stays as it is


def _on_error(text: str) -> Any:
    kinds = click.Choice(["fail", "skip"])
    return click.option("--on-error", type=kinds, default="fail", help=text)


def _finish(result: "Conversion | Generation", as_json: bool, line: str, skipped: str) -> None:
    """Print what a conversion or generation has done, and how much of it was skipped."""
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result)))
        return
    for note in result.notes:
        warn(f"note: {note}")
    say(f"{result.out}: {line}")
    if skipped:
        warn(f"skipped: {skipped}")


def _counts(result: "Conversion | Generation") -> str:
    return ", ".join(f"{split} {count:,}" for split, count in result.samples.items())


@main.command(cls=partial(SourceGroup, sources=SOURCES))
@click.argument("input", type=RawInput())
@click.argument("out", type=click.Path())
@workers_option
@scheduler_option
@click.option(
    "--shard-size", type=click.IntRange(1), default=512, help="Samples per file of the store."
)
@limit_option
@_on_error("For a sample that can't be read: fail, or mark it invalid and record the reason.")
@click.option("--overwrite", is_flag=True, help="Replace an existing store.")
@click.option("--dry-run", is_flag=True, help="Only report the expected samples and bytes.")
@click.option(
    "--hold-out",
    type=float,
    metavar="SHARE",
    help="Share of each class to hold out as a split; samples of one recording stay together.",
)
@click.option("--hold-out-split", metavar="NAME", help="Split that is held out.  [default: test]")
@click.option(
    "--hold-out-seed",
    metavar="N|first|last",
    help="Random seed of the hold-out, or the first or last samples of each class in the natural "
    "order of names.  [default: 0]",
)
@json_option
@debug_option
def convert(source: str, input: str, out: str, as_json: bool, **options: Any) -> None:  # noqa: A002
    """Convert raw data in the folder or archive INPUT into one verified store OUT.

    INPUT and OUT may also be URLs that fsspec reaches (s3://...). INPUT may be a .tar or .zip, or
    a folder of them, for imagenet, images, es-imagenet and es-ucf101. To resume an interrupted
    conversion, run the same command again. `eventdata convert SOURCE --help` shows the options.

    \b
    eventdata convert es-imagenet ES-imagenet-0.18/ es.zarr
    eventdata convert imagenet ILSVRC2012/ es.zarr --odg published --workers 8
    eventdata convert tonic:NMNIST data/ nmnist.zarr --frames 10
    """
    from rich.filesize import decimal

    from eventdata.conversion import convert as run
    from eventdata.counts import class_table
    from eventdata.progress import progress_bar

    with progress_bar("converting") as progress:
        result = run(source, input, out, progress=progress, **options)
    total, size = sum(result.samples.values()), decimal(result.bytes)
    skipped = f"{result.skipped:,}" if result.skipped else ""
    if options["dry_run"]:
        line = (
            f"would hold {total:,} samples ({_counts(result)}) in about {size}; "
            f"{result.done_before:,} are done, {total - result.done_before:,} to do"
        )
    else:
        line = (
            f"{result.state}, {total:,} samples ({_counts(result)}), {size}, {result.seconds:.1f} s"
        )
        skipped += " (reasons in skipped.json)" * bool(skipped)
    _finish(result, as_json, line, skipped)
    if options["dry_run"] and not as_json:
        say("\n".join(class_table(result.classes)))


@main.command(cls=partial(SourceGroup, sources=GENERATED))
@click.argument("input", type=RawInput())
@click.argument("raw", type=click.Path(file_okay=False))
@workers_option
@scheduler_option
@limit_option
@_on_error("For an input that can't be read: fail, or skip it and record the reason.")
@json_option
@debug_option
def generate(kind: str, input: str, raw: str, as_json: bool, **options: Any) -> None:  # noqa: A002
    """Generate raw files in the published layout from INPUT, in the folder RAW.

    `eventdata convert` makes the same frames from these files as from INPUT itself, so generate
    them only for other programs. To resume an interrupted generation, run the same command
    again.

    \b
    eventdata generate es-imagenet ILSVRC2012/ raw/ --odg published
    eventdata generate es-ucf101 UCF-101/ event_dvs/
    """
    from eventdata.generation import generate as run
    from eventdata.progress import progress_bar

    with progress_bar("generating") as progress:
        result = run(kind, input, raw, progress=progress, **options)
    line = f"{result.state}, files: {_counts(result)}; {result.seconds:.1f} s"
    skipped = (
        f"{result.left_out:,} with too few events, {result.skipped:,} that can't be read "
        "(reasons in generated.json)"
    )
    _finish(result, as_json, line, skipped * bool(result.left_out or result.skipped))


@main.command()
@click.argument("store", shell_complete=_complete_folder)
@json_option
@debug_option
def info(store: str, as_json: bool) -> None:
    """Describe STORE: splits, shapes, classes, bytes, events a second, mean, deviation, parameters.

    Mean and deviation are those of the stored values of each channel, over all cells of up to
    1,000 samples per split. They serve to normalise the input of a network.

    \b
    eventdata info es.zarr
    eventdata info es.zarr --json
    """
    from eventdata.info import describe, print_table
    from eventdata.store.read import open_store

    facts = describe(open_store(store))
    if as_json:
        click.echo(json.dumps(facts))
    else:
        print_table(facts)


@main.command(cls=partial(SourceCommand, own=against_options))
@click.argument("store", shell_complete=_complete_folder)
@click.option("--against", type=RawInput(), help="Raw data to convert again and compare.")
@click.option(
    "--samples",
    help="With --against: samples to draw at random from each split, or 'all'.  [default: 256]",
)
@click.option("--seed", type=int, help="With --against: random seed of the draw; none by default.")
@workers_option
@scheduler_option
@json_option
@debug_option
def verify(
    store: str, against: str | None, samples: str | None, as_json: bool, **options: Any
) -> None:
    """Check every checksum of STORE, and every array against the others.

    The exit code is 1 if anything is wrong; a message names the shard and the sample.

    \b
    eventdata verify es.zarr
    eventdata verify es.zarr --against ES-imagenet-0.18/ --samples all
    """
    from rich.filesize import decimal

    from eventdata.progress import progress_bar
    from eventdata.verification import verify as run

    if samples not in (None, "all") and not re.fullmatch("[0-9]{1,18}", str(samples)):
        raise OptionError(f"--samples is {samples!r:.40}: pass a number or 'all'")
    given = {key: value for key, value in options.items() if value is not None}
    if samples is not None:
        given["samples"] = None if samples == "all" else int(samples)
    with progress_bar("verifying") as progress:
        result = run(store, against=against, progress=progress, **given)
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(result), "ok": result.ok}))
    else:
        for problem in result.problems:
            warn(f"{result.store}: {problem}")
        verdict = "sound" if result.ok else f"{len(result.problems):,} problems"
        compared = f", {result.compared:,} compared with their raw files" if against else ""
        say(
            f"{result.store}: {verdict}; {result.samples:,} samples{compared}, "
            f"{decimal(result.bytes)}, {result.seconds:.1f} s"
        )
    if not result.ok:
        raise SystemExit(EXIT_BAD_DATA)


@main.command()
@click.argument("store", shell_complete=_complete_folder)
@click.option("--split", help="Split to draw from; required if the store has several.")
@click.option("--index", default="0", help="Sample (7) or range (0:16).")
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(dir_okay=False),
    help="Output file: .png, .gif, .mp4 or .html.",
)
@click.option(
    "--scale",
    type=click.IntRange(1, 32),
    default=1,
    help="Side of a sample's pixel in the picture, in pixels.",
)
@debug_option
def show(store: str, split: str | None, index: str, out: str, scale: int) -> None:
    """Draw samples of STORE with positive events in blue, negative events in vermilion.

    \b
    eventdata show es.zarr --split val --index 7 -o steps.png      steps of one sample
    eventdata show es.zarr --split val --index 7 -o moving.gif     the same as an animation
    eventdata show es.zarr --split val --index 7 -o moving.mp4     the same as a video
    eventdata show es.zarr --split val --index 0:16 -o sheet.png   a contact sheet
    eventdata show es.zarr --split val --index 0:64 -o page.html   a page that plays 64 samples
    """
    from eventdata.show import show as draw
    from eventdata.store.read import open_store

    opened = open_store(store)
    if split is None:
        if len(opened.splits) > 1:
            raise OptionError(
                f"{store}: has several splits; pass --split {' or '.join(opened.splits)}"
            )
        split = next(iter(opened.splits), "")
    say(str(draw(opened, split, index, out, scale=scale)))


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that lets SHELL complete this command with the tab key.

    \b
    eval "$(eventdata completion bash)"        in ~/.bashrc
    """
    from click.shell_completion import get_completion_class

    complete = get_completion_class(shell)
    if complete is not None:
        click.echo(complete(main, {}, "eventdata", "_EVENTDATA_COMPLETE").source())
