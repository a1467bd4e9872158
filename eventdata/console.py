"""Output and errors of the command: one line per message, exit codes, ``--debug``."""

import importlib
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import click

from eventdata.errors import EventDataError, OptionError, printable

EXIT_BAD_DATA, EXIT_BAD_USAGE, EXIT_STOPPED = 1, 2, 130


class Commands(click.Group):
    """Commands whose errors are one sentence and an exit code.

    lazy: commands by the module that holds them, imported when one is called or listed.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted([*super().list_commands(ctx), *self.lazy])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name."""
        if cmd_name in self.lazy:
            command: click.Command = getattr(importlib.import_module(self.lazy[cmd_name]), cmd_name)
            return command
        return super().get_command(ctx, cmd_name)

    def main(self, *args: Any, **settings: Any) -> Any:
        """Run the program, also if nothing can be written to the standard output."""
        try:
            return super().main(*args, **settings)
        except OSError:
            try:
                print(flush=True)
            except OSError as error:
                with open(os.devnull, "w") as nowhere:  # noqa: PTH123 Python tries again at its end
                    os.dup2(nowhere.fileno(), sys.stdout.fileno())
                reason = error.strerror or error
                warn(f"eventdata: can't write to the standard output: {reason}")
                sys.exit(EXIT_BAD_DATA)
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; print a traceback only with --debug."""
        try:
            return super().invoke(ctx)
        except EventDataError as error:
            if ctx.find_root().meta.get("debug"):
                traceback.print_exc()
            warn(f"eventdata: {error}")
            ctx.exit(EXIT_BAD_USAGE if isinstance(error, OptionError) else EXIT_BAD_DATA)
        except KeyboardInterrupt:
            warn("eventdata: stopped; run the same command again to resume")
            ctx.exit(EXIT_STOPPED)


def say(text: str) -> None:
    """Print lines, with names and texts from files made printable."""
    for line in text.split("\n"):
        click.echo(printable(line))


def warn(text: str) -> None:
    """Print one line to standard error, with names and texts from files made printable."""
    click.echo(printable(text), err=True)


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.find_root().meta["debug"] = value or ctx.find_root().meta.get("debug", False)


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_remember_debug,
    help="Show the traceback of an error.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
workers_option = click.option(
    "--workers",
    type=click.IntRange(1),
    default=lambda: os.cpu_count() or 1,
    show_default="one per core",
    help="Worker processes.",
)
scheduler_option = click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Run on the workers of a Dask cluster, such as tcp://host:8786.",
)
limit_option = click.option(
    "--limit", type=click.IntRange(1), help="First N samples of each split; all by default."
)
