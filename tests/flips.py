"""Flip bits of a store one at a time and check that `eventdata verify` finds each of them.

    python -m tests.flips STORE [--flips 10000] [--output flips.json]

The program works on a copy. It takes all files in turn (chunks, shard indices, columns, zarr.json)
except skipped.json, whose reasons have no checksum, and flips a random bit. The exit code is 1 if a
flip is not found, or if the store is not sound before and after.
"""

import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click

import eventdata
from eventdata.errors import StoreError
from eventdata.store.layout import SKIPPED_KEY
from tools.bench.report import machine, output_option


@click.command()
@click.argument("store", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--flips", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@output_option
def main(store: Path, flips: int, seed: int, output: Path | None) -> None:
    """Flip bits of a copy of STORE, which should be small: each flip needs a verification."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "store.zarr"
        shutil.copytree(store, copy)
        if not is_sound(copy):
            raise click.UsageError(f"{store} is damaged already; run `eventdata verify` on it")
        files = sorted(
            path for path in copy.rglob("*") if path.is_file() and path.name != SKIPPED_KEY
        )
        draw = random.Random(seed)
        missed = []
        with click.progressbar(range(flips), label="flips", file=sys.stderr) as numbers:
            for number in numbers:
                path = files[number % len(files)]
                bit = draw.randrange(8 * path.stat().st_size)
                flip(path, bit)
                if is_sound(copy):
                    missed.append(f"{path.relative_to(copy)}: bit {bit}")
                flip(path, bit)
        sound = is_sound(copy)
    found = {
        "flips": flips,
        "found": flips - len(missed),
        "missed": missed,
        "files": len(files),
        "seconds": round(time.monotonic() - start),
        "machine": machine(("eventdata",)),
    }
    if output is not None:
        output.write_text(json.dumps(found, indent=1))
    click.echo(f"{found['found']} of {flips} flips in {len(files)} files found")
    if missed or not sound:
        sys.exit("\n".join(missed) or "the copy is not sound after each flip was undone")


def is_sound(store: Path) -> bool:
    """Return whether `eventdata verify` finds nothing; a store that does not open is damaged."""
    try:
        return eventdata.verify(store).ok
    except StoreError:
        return False


def flip(path: Path, bit: int) -> None:
    """Flip one bit of a file."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (value,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([value ^ 1 << bit % 8]))


if __name__ == "__main__":
    main()
