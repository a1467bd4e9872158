"""The options of sources on the command line and in the documentation.

``python -m eventdata.options`` prints docs/options.md.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from eventdata.raw.registry import SOURCES, SourceEntry, source_entry, unknown_option
from eventdata.settings import Option, options_of, reference

HEADING = """# Options of each source

`eventdata convert SOURCE INPUT OUT` takes these options, and the general ones of its `--help`.
From Python they are keyword arguments of `eventdata.convert`, with `_` in place of `-`.
This file is generated: `python -m eventdata.options > docs/options.md`.
"""
GENERAL = "General options"
AGAINST = "Options for --against, as they were passed to convert"


class SectionOption(click.Option):
    """An option made from a setting, which a help page shows under a heading of its own."""

    def __init__(self, option: Option, section: str) -> None:
        kind, unit, default = option.kinds[0], option.unit, option.shown
        attributes: dict[str, Any] = {"metavar": unit.upper() if unit.islower() else unit or None}
        if option.choices:
            attributes = {"type": click.Choice([str(one) for one in option.choices])}
        elif kind is bool:
            attributes = {"is_flag": True, "default": None}
        elif kind is Path:
            attributes["type"] = click.Path(
                exists=True, file_okay=unit != "folder", dir_okay=unit == "folder"
            )
        elif option.kinds in ((int,), (float,)):
            attributes["type"] = kind
        if option.repeated:
            attributes |= {"multiple": True, "callback": lambda *given: list(given[2]) or None}
        text = option.help + (f"  [default: {default}]" if default else "")
        super().__init__([option.flag, option.name], help=text, **attributes)
        self.section = section


class RawInput(click.Path):
    """A folder of raw data, or an archive."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        from eventdata.files.archives.paths import has_suffix  # not for the help page

        self.file_okay = has_suffix(str(value))  # a pattern of shards need not exist
        return super().convert(value, param, ctx)


class SourceCommand(click.Command):
    """A command with options of sources, made when first needed and shown in sections."""

    def __init__(
        self,
        *args: Any,
        own: Callable[[], list[SectionOption]],
        example: Callable[[], str] = str,
        **attributes: Any,
    ) -> None:
        self._own, self._example = own, example
        super().__init__(*args, **attributes)

    @property
    def params(self) -> list[click.Parameter]:
        """The options of sources, then the others and the arguments."""
        own, self._own = self._own, list
        self._params[:0] = own()
        return self._params  # click appends to it

    @params.setter
    def params(self, params: list[click.Parameter]) -> None:
        self._params = list(params)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help text, then an example."""
        super().format_help_text(ctx, formatter)
        if example := self._example():
            formatter.write_paragraph()
            formatter.write(f"  {example}\n")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by section, those without one last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "section", GENERAL), []).append(record)
        for name, records in sections.items():
            with formatter.section("Options" if len(sections) == 1 else name):
                formatter.write_dl(records)


class SourceGroup(click.Group):
    """A command per source of a table, with the source's own options before the shared ones."""

    def __init__(
        self,
        *args: Any,
        sources: Mapping[str, SourceEntry],
        params: list[click.Parameter],
        callback: Callable[..., Any],
        **attributes: Any,
    ) -> None:
        folders = [one.human_readable_name for one in params if isinstance(one, click.Argument)]
        metavar = f"SOURCE {' '.join(folders)} [OPTIONS]"
        attributes |= {"subcommand_metavar": metavar, "no_args_is_help": False}
        super().__init__(*args, **attributes)
        self.sources, self.shared, self.run = sources, params, callback

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the sources."""
        return list(self.sources)

    def get_command(self, ctx: click.Context, cmd_name: str) -> SourceCommand:
        """Return the command of a source.

        Raises:
            OptionError: no source has this name.
        """
        entry = source_entry(cmd_name, self.sources)
        return SourceCommand(
            cmd_name,
            params=self.shared,
            callback=partial(self.run, cmd_name),
            help=entry.summary,
            own=lambda: [
                SectionOption(option, option.section or f"Options of {cmd_name}")
                for option in entry.options.values()
            ],
            example=lambda: f"eventdata {self.name} {cmd_name} {entry.example}",
        )

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command of a source; an option of other sources is refused in a sentence."""
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            option = error.option_name.lstrip("-").replace("-", "_")
            if any(option in entry.options for entry in self.sources.values()):
                raise unknown_option(str(ctx.invoked_subcommand), option, self.sources) from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sources with a line each."""
        with formatter.section("Sources"):
            formatter.write_dl([(name, entry.summary) for name, entry in self.sources.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments, among which options may stand before the source."""
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            valued = {
                word
                for name in self.sources
                for one in self.get_command(ctx, name).params
                if isinstance(one, click.Option) and not one.is_flag
                for word in one.opts
            }
            place = 0
            while place < len(args) and args[place].startswith("-"):
                place += 2 if args[place] in valued else 1
            args = [*args[place : place + 1], *args[:place], *args[place + 1 :]]
        return super().parse_args(ctx, args)


def against_options() -> list[SectionOption]:
    """Return the options of all sources that name files, which no store knows."""
    found = {
        option.name: option
        for entry in SOURCES.values()
        for option in entry.options.values()
        if Path in option.kinds or option.needs
    }
    return [SectionOption(option, AGAINST) for option in found.values()]


def markdown() -> str:
    """Return docs/options.md: a table of options for each source."""
    from eventdata.raw.hold_out import HoldOut

    kind: Any = HoldOut
    table = reference(options_of(kind), lambda option: option.flag)
    parts = [HEADING, f"\n## Hold-out, for every source\n\n{table}"]
    for name, entry in SOURCES.items():
        parts.append(f"\n## {name}\n\n{entry.summary}\n")
        options = entry.options.values()
        for section in dict.fromkeys(option.section for option in options):
            rows = [option for option in options if option.section == section]
            title = f"\n### {section}\n" if section else ""
            parts.append(f"{title}\n{reference(rows, lambda option: option.flag)}")
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(markdown())
