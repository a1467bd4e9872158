"""The command ``eventdata``: parse, call, print; nothing else."""

import dataclasses
import importlib
import json
import os
import re
import sys
import traceback
from typing import Any

import click

from eventdata import __version__
from eventdata.errors import EventDataError, OptionError, printable
from eventdata.options import SectionCommand, convert_options, generate_options, verify_options
from eventdata.raw.registry import SOURCES

EXIT_BAD_DATA, EXIT_BAD_USAGE, EXIT_STOPPED = 1, 2, 130

LAZY = {"train": "train.cli", "report": "train.cli"}
"""Commands by the module that holds them, which is imported when one is called or listed."""


class Commands(click.Group):
    """Commands whose errors are one sentence and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted([*super().list_commands(ctx), *LAZY])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name."""
        if cmd_name in LAZY:
            command: click.Command = getattr(importlib.import_module(LAZY[cmd_name]), cmd_name)
            return command
        return super().get_command(ctx, cmd_name)

    def main(self, *args: Any, **settings: Any) -> Any:
        """Run the program; also where the standard output can't be written."""
        try:
            return super().main(*args, **settings)
        except OSError:
            reason = _output_fault()
            if not reason:
                raise
            _say(f"eventdata: can't write to the standard output: {reason}", err=True)
            sys.exit(EXIT_BAD_DATA)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a traceback only with --debug."""
        try:
            return super().invoke(ctx)
        except EventDataError as error:
            if ctx.find_root().meta.get("debug"):
                traceback.print_exc()
            _say(f"eventdata: {error}", err=True)
            ctx.exit(EXIT_BAD_USAGE if isinstance(error, OptionError) else EXIT_BAD_DATA)
        except KeyboardInterrupt:
            click.echo("eventdata: stopped; call the same again to go on", err=True)
            ctx.exit(EXIT_STOPPED)


def _say(text: str, err: bool = False) -> None:
    """Print one line, into which texts of files and names of paths may go."""
    click.echo(printable(text), err=err)


def _output_fault() -> str:
    """Why nothing can be printed, which is from now on dropped; "" where it can."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError as error:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 else it is tried again at the end
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return error.strerror or str(error)
    return ""


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.find_root().meta["debug"] = value or ctx.find_root().meta.get("debug", False)


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_remember_debug,
    help="Show tracebacks of errors.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
workers_option = click.option(
    "--workers",
    type=click.IntRange(1),
    default=lambda: os.cpu_count() or 1,
    show_default="one a core",
    help="Worker processes.",
)
scheduler_option = click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Have the workers of a Dask cluster do it (tcp://host:8786).",
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
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


def _complete_source(_: click.Context, __: click.Parameter, incomplete: str) -> list[Any]:
    from click.shell_completion import CompletionItem

    return [
        CompletionItem(name, help=entry.summary)
        for name, entry in SOURCES.items()
        if name.startswith(incomplete)
    ]


def _complete_folder(_: click.Context, __: click.Parameter, incomplete: str) -> list[Any]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]  # the shell looks; a URL stays as it is


@main.command(
    cls=SectionCommand,
    epilog="Sources:\n\n\b\n"
    + "\n".join(f"  {name:<12} {entry.summary}" for name, entry in SOURCES.items()),
)
@click.argument("source", shell_complete=_complete_source)
@click.argument("input", type=click.Path(file_okay=False))
@click.argument("out", type=click.Path())
@convert_options
@workers_option
@scheduler_option
@click.option(
    "--shard-size", type=click.IntRange(1), default=512, show_default=True, help="Samples a file."
)
@click.option("--limit", type=click.IntRange(1), help="Only the first N samples of each split.")
@click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="Stop at a sample that can't be read, or leave its slot invalid and tell why.",
)
@click.option("--overwrite", is_flag=True, help="Replace the store that is there.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be done, and the bytes.")
@json_option
@debug_option
def convert(
    source: str,
    input: str,  # noqa: A002
    out: str,
    workers: int,
    scheduler: str | None,
    shard_size: int,
    limit: int | None,
    on_error: Any,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Convert raw data in the folder INPUT into one verified store OUT.

    Call it again to finish a conversion that was interrupted. INPUT and OUT may be folders or URLs
    that fsspec reaches (s3://...).

    \b
    eventdata convert es-imagenet ES-imagenet-0.18/ es.zarr
    eventdata convert es-imagenet ES-imagenet-0.18/ val.zarr --split val --workers 8
    eventdata convert es-ucf101 event_dvs/ ucf.zarr --splits ucfTrainTestlist/ --fold 1
    eventdata convert imagenet ILSVRC2012/ es.zarr --workers 8
    eventdata convert imagenet ILSVRC2012/ es.zarr --odg published --list val.txt
    eventdata convert ucf101 UCF-101/ ucf.zarr --splits ucfTrainTestlist/ --fold 1
    eventdata convert images ILSVRC2012/ images.zarr --short-side 256 --crop 224
    eventdata convert images es.zarr grey.zarr --grey-from-events
    eventdata convert tonic:NMNIST data/ nmnist.zarr --frames 10
    eventdata convert recordings hands/ hands.zarr --every 100000 --window 10000
    eventdata convert es-imagenet s3://bucket/raw s3://bucket/es.zarr --scheduler tcp://host:8786
    """
    from eventdata.conversion import convert as run
    from eventdata.info import human_bytes
    from eventdata.progress import progress_bar

    with progress_bar("converting") as progress:
        result = run(
            source,
            input,
            out,
            workers=workers,
            scheduler=scheduler,
            shard_size=shard_size,
            limit=limit,
            on_error=on_error,
            overwrite=overwrite,
            dry_run=dry_run,
            progress=progress,
            **options,
        )
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result)))
        return
    for note in result.notes:
        _say(f"note: {note}", err=True)
    total = sum(result.samples.values())
    splits = ", ".join(f"{split} {count:,}" for split, count in result.samples.items())
    if dry_run:
        _say(
            f"{result.out}: would hold {total:,} samples ({splits}) in about "
            f"{human_bytes(result.bytes)}; {result.done_before:,} are done, "
            f"{total - result.done_before:,} to do"
        )
    else:
        _say(
            f"{result.out}: {result.state}, {total:,} samples ({splits}), "
            f"{human_bytes(result.bytes)}, {result.seconds:.1f} s"
        )
    if result.skipped:
        reasons = "" if dry_run else " (reasons in skipped.json)"
        _say(f"skipped: {result.skipped:,}{reasons}", err=True)


@main.command(cls=SectionCommand)
@click.argument("kind", type=click.Choice(["es-imagenet", "es-ucf101"]))
@click.argument("input", type=click.Path(file_okay=False))
@click.argument("raw", type=click.Path(file_okay=False))
@generate_options
@workers_option
@scheduler_option
@click.option("--limit", type=click.IntRange(1), help="Only the first N samples of each split.")
@click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="Stop at an input that can't be read, or leave it out.",
)
@json_option
@debug_option
def generate(
    kind: str,
    input: str,  # noqa: A002
    raw: str,
    workers: int,
    scheduler: str | None,
    limit: int | None,
    on_error: Any,
    as_json: bool,
    **options: Any,
) -> None:
    """Make raw files in the published layout, in the folder RAW, from images or clips in INPUT.

    `eventdata convert` reads them to the frames that it makes straight from INPUT, which is
    shorter where no other program needs the raw files. Call it again to go on after an
    interruption.

    \b
    eventdata generate es-imagenet ILSVRC2012/ raw/ --odg published
    eventdata generate es-ucf101 UCF-101/ event_dvs/
    """
    from eventdata.generation import generate as run
    from eventdata.progress import progress_bar

    with progress_bar("generating") as progress:
        result = run(
            kind,
            input,
            raw,
            workers=workers,
            scheduler=scheduler,
            limit=limit,
            on_error=on_error,
            progress=progress,
            **options,
        )
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result)))
        return
    for note in result.notes:
        _say(f"note: {note}", err=True)
    splits = ", ".join(f"{split} {count:,}" for split, count in result.samples.items())
    _say(f"{result.out}: {result.state}, files: {splits}; {result.seconds:.1f} s")
    if result.left_out or result.skipped:
        _say(
            f"left out: {result.left_out:,} with too few events, {result.skipped:,} that can't be "
            "read (see generated.json)",
            err=True,
        )


@main.command()
@click.argument("store", shell_complete=_complete_folder)
@json_option
@debug_option
def info(store: str, as_json: bool) -> None:
    """Tell what is in STORE: splits, shapes, classes, bytes, event rate, parameters."""
    from eventdata.info import describe, print_table
    from eventdata.store.read import open_store

    facts = describe(open_store(store))
    if as_json:
        click.echo(json.dumps(facts))
    else:
        print_table(facts)


@main.command(cls=SectionCommand)
@click.argument("store", shell_complete=_complete_folder)
@click.option("--against", type=click.Path(file_okay=False), help="Raw data to convert again.")
@click.option(
    "--samples",
    help="With --against: how many of each split, drawn at random, or 'all'.  [default: 256]",
)
@click.option("--seed", type=int, help="With --against: seed of the draw.")
@verify_options
@workers_option
@scheduler_option
@json_option
@debug_option
def verify(
    store: str,
    against: str | None,
    samples: str | None,
    seed: int | None,
    workers: int,
    scheduler: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Check every checksum of STORE, and every array against the others.

    Exit code 1 where anything is wrong, with the shard and the sample.

    \b
    eventdata verify es.zarr
    eventdata verify es.zarr --against ES-imagenet-0.18/ --samples all
    """
    from eventdata.info import human_bytes
    from eventdata.progress import progress_bar
    from eventdata.verification import verify as run

    if samples not in (None, "all") and not re.fullmatch("[0-9]{1,18}", str(samples)):
        raise OptionError(f"--samples is a number or 'all', not {samples!r:.40}")
    given = {key: value for key, value in options.items() if value is not None}
    if samples is not None:
        given["samples"] = None if samples == "all" else int(samples)
    with progress_bar("verifying") as progress:
        result = run(
            store,
            against=against,
            seed=seed,
            workers=workers,
            scheduler=scheduler,
            progress=progress,
            **given,
        )
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(result), "ok": result.ok}))
    else:
        for problem in result.problems:
            _say(f"{result.store}: {problem}", err=True)
        verdict = "sound" if result.ok else f"{len(result.problems):,} problems"
        compared = f", {result.compared:,} compared with their raw files" if against else ""
        _say(
            f"{result.store}: {verdict}; {result.samples:,} samples{compared}, "
            f"{human_bytes(result.bytes)}, {result.seconds:.1f} s"
        )
    if not result.ok:
        raise SystemExit(EXIT_BAD_DATA)


@main.command()
@click.argument("store", shell_complete=_complete_folder)
@click.option("--split", help="Which split; needed where there are several.")
@click.option("--index", default="0", show_default=True, help="A sample (7), or a range (0:16).")
@click.option("-o", "--out", required=True, type=click.Path(dir_okay=False), help=".png or .gif")
@click.option(
    "--scale",
    type=click.IntRange(1, 32),
    default=1,
    show_default=True,
    help="Times as large as the samples are.",
)
@debug_option
def show(store: str, split: str | None, index: str, out: str, scale: int) -> None:
    """Draw samples of STORE: positive events blue, negative ones vermilion.

    \b
    eventdata show es.zarr --split val --index 7 -o steps.png      the steps of one sample
    eventdata show es.zarr --split val --index 7 -o moving.gif     the same, moving
    eventdata show es.zarr --split val --index 0:16 -o sheet.png   a contact sheet
    """
    from eventdata.show import show as draw
    from eventdata.store.read import open_store

    opened = open_store(store)
    if split is None:
        if len(opened.splits) > 1:
            raise OptionError(f"{store}: which --split? There are {', '.join(opened.splits)}")
        split = next(iter(opened.splits), "")
    _say(str(draw(opened, split, index, out, scale=scale)))


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that makes SHELL complete this command with the tab key.

    \b
    eval "$(eventdata completion bash)"        in ~/.bashrc
    """
    from click.shell_completion import get_completion_class

    complete = get_completion_class(shell)
    if complete is not None:
        click.echo(complete(main, {}, "eventdata", "_EVENTDATA_COMPLETE").source())
