"""The options of sources on the command line and in the documentation.

``python -m eventdata.options`` prints docs/options.md.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from eventdata.raw.registry import SOURCES, SourceEntry, entry_name, unknown_option, unknown_source
from eventdata.settings import Option, reference

HEADING = """# Options of each source

`eventdata convert SOURCE INPUT OUT` takes these options, and the general ones of its `--help`.
From Python they are keyword arguments of `eventdata.convert`, with `_` in place of `-`.
This file is generated: `python -m eventdata.options > docs/options.md`.
"""
GENERAL = "General options"
AGAINST = "Options for --against, as they were given to convert"


class SectionOption(click.Option):
    """An option made from a setting, which a help page shows under a heading of its own."""

    def __init__(self, option: Option, section: str) -> None:
        kind, unit, default = option.kinds[0], option.facts.unit, option.shown
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
        if option.facts.repeated:
            attributes |= {"multiple": True, "callback": lambda *given: list(given[2]) or None}
        text = option.facts.help + (f"  [default: {default}]" if default else "")
        super().__init__([option.flag, option.name], help=text, **attributes)
        self.section = section


class SourceCommand(click.Command):
    """A command with options of sources, made when first needed and shown in sections."""

    def __init__(
        self,
        *args: Any,
        own: Callable[[], Iterable[SectionOption]] = tuple,
        example: Callable[[], str] = str,
        refuse: Callable[[str], object] = str,
        **attributes: Any,
    ) -> None:
        self._own = own
        self._example = example
        self._refuse = refuse
        super().__init__(*args, **attributes)

    @property
    def params(self) -> list[click.Parameter]:
        """The options and arguments."""
        own, self._own = self._own, tuple
        self._params[:0] = own()
        return self._params

    @params.setter
    def params(self, params: list[click.Parameter]) -> None:
        self._params = list(params)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments; an option of other commands is refused in a sentence."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            self._refuse(error.option_name.lstrip("-").replace("-", "_"))
            raise

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
    """A command per source, with the options of ``template`` and the source's own.

    sources: the table of sources; own: the options of a source, by name; example: words of
    an example, after the source's name.
    """

    def __init__(
        self,
        *args: Any,
        template: click.Command,
        sources: Mapping[str, SourceEntry],
        own: Callable[[str], Mapping[str, Option]],
        example: Callable[[str], str],
        **attributes: Any,
    ) -> None:
        folders = [one for one in template.params if isinstance(one, click.Argument)]
        words = " ".join(one.human_readable_name for one in folders)
        attributes |= {"subcommand_metavar": f"SOURCE {words} [OPTIONS]", "no_args_is_help": False}
        super().__init__(*args, **attributes)
        self.template, self.sources, self.own, self.example = template, sources, own, example

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the sources."""
        return list(self.sources)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a source.

        Raises:
            OptionError: no source has this name.
        """
        if entry_name(cmd_name) not in self.sources:
            raise unknown_source(cmd_name, self.sources)
        callback: Any = self.template.callback
        return SourceCommand(
            cmd_name,
            params=self.template.params,
            callback=partial(callback, cmd_name),
            help=self.sources[entry_name(cmd_name)].summary,
            own=lambda: made_options(self.own(cmd_name).values(), f"Options of {cmd_name}"),
            example=lambda: f"eventdata {self.name} {cmd_name} {self.example(cmd_name)}",
            refuse=partial(self._refuse, cmd_name),
        )

    def _refuse(self, source: str, name: str) -> None:
        known = {one: self.own(one) for one in {entry_name(source): None, **self.sources}}
        if any(name in options for options in known.values()):
            raise unknown_option(source, name, known)

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
                for one in SourceGroup.get_command(self, ctx, name).params  # type: ignore[union-attr]
                if isinstance(one, click.Option) and not one.is_flag
                for word in one.opts
            }
            place = 0
            while place < len(args) and args[place].startswith("-"):
                place += 2 if args[place] in valued else 1
            args = [*args[place : place + 1], *args[:place], *args[place + 1 :]]
        return super().parse_args(ctx, args)


def made_options(options: Iterable[Option], section: str) -> list[SectionOption]:
    """Return options of the command line; those without a section get this one."""
    return [SectionOption(option, option.section or section) for option in options]


def against_options() -> list[SectionOption]:
    """Return the options of all sources that name files, which no store knows."""
    found = {
        option.name: option
        for entry in SOURCES.values()
        for option in entry.options.values()
        if Path in option.kinds or option.facts.needs
    }
    return [SectionOption(option, AGAINST) for option in found.values()]


def markdown() -> str:
    """Return docs/options.md: a table of options for each source."""
    parts = [HEADING]
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
