"""Give damaged and made-up files to every reader of the package for as long as you like.

    python -m tests.fuzz DATA --minutes 60             DATA: folder of real files to damage
    python -m tests.fuzz --only pictures,clips --seed 7
    python -m tests.fuzz --replay fuzz/pictures-123    run a finding again in this process

Cases run in child processes with limits of memory and time. `tests.fuzz.cases` defines what a
finding is. Each finding is kept with its files; a table and fuzz.json report the numbers. The exit
code is 1 if there is a finding.
"""

import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from tests.fuzz.cases import Finding, Watch
from tests.fuzz.children import Done, Job, run_jobs
from tests.fuzz.readers import READERS
from tests.fuzz.seeds.trees import tree_of


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("data", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--minutes", type=float, default=60.0, show_default=True, help="Minutes for all readers."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
@click.option("--only", help=f"Readers, separated by commas: {', '.join(READERS)}.")
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("fuzz"),
    show_default=True,
    help="Folder for findings and fuzz.json.",
)
@click.option(
    "--replay", type=click.Path(exists=True, path_type=Path), help="Finding to run again."
)
def main(
    data: Path | None, minutes: float, seed: int, only: str | None, out: Path, replay: Path | None
) -> None:
    """Fuzz the readers; DATA is an optional folder of real data."""
    if replay is not None:
        sys.exit(run_again(replay))
    names = only.split(",") if only else list(READERS)
    unknown = sorted(set(names) - set(READERS))
    if unknown:
        raise click.UsageError(f"unknown reader {unknown[0]!r}; choose from {', '.join(READERS)}")
    if out.exists() and any(out.iterdir()):
        raise click.UsageError(f"{out} is not empty; choose another folder with --out")
    done = []
    for number, name in enumerate(names, 1):
        seconds = 60 * minutes / len(names)
        click.echo(f"{number}/{len(names)} {name}", err=True)
        done += run_jobs([Job(name, seed, seconds=seconds)], out, data, print_death)
    findings = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    for finding in findings:
        finding["again"] = (
            f"python -m tests.fuzz --replay {out}/{finding['reader']}-{finding['case']}"
        )
    print_table(done, findings)
    report = {
        "when": time.strftime("%Y-%m-%d"),
        "seed": seed,
        "cases": sum(one.cases for one in done),
        "readers": [dataclasses.asdict(one) for one in done],
        "findings": findings,
    }
    (out / "fuzz.json").write_text(json.dumps(report, indent=1))
    sys.exit(bool(findings))


def print_death(finding: Finding) -> None:
    """Print a child's death as soon as it happens."""
    click.echo(f"{finding.reader}: case {finding.case}: {finding.kind}, {finding.place}", err=True)


def print_table(done: list[Done], findings: list[dict[str, Any]]) -> None:
    """Print the numbers of each reader, then the places of findings."""
    table = Table("reader", box=None, header_style="bold")
    for column in ("cases", "read", "refused", "cases a minute", "faults"):
        table.add_column(column, justify="right")
    for one in done:
        places = {finding["place"] for finding in findings if finding["reader"] == one.reader}
        counts = (one.cases, one.read, one.refused, round(60 * one.cases / max(one.seconds, 1e-3)))
        table.add_row(one.reader, *(f"{count:,}" for count in (*counts, len(places))))
    console = Console()
    console.print(table)
    first = {str(finding["place"]): finding for finding in reversed(findings)}
    for place, finding in first.items():
        line = f"{finding['reader']}: {place}: {finding['again']}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def run_again(folder: Path) -> int:
    """Give a finding's files to its reader again; return 0 if the fault is fixed."""
    name = folder.name.rsplit("-", 1)[0]
    with tempfile.TemporaryDirectory() as work:
        watch = Watch(Path(work))
        watch.warm_up(name, READERS[name].seeds(None)[:1])
        outcome = watch.run(name, tree_of(folder))
    click.echo(outcome.details if isinstance(outcome, Finding) else f"{name}: {outcome}")
    return int(isinstance(outcome, Finding))


if __name__ == "__main__":
    main()
