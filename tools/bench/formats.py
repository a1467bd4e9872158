"""Compare the decoders of recordings with the Python libraries that read the same files.

    python tools/bench/formats.py [--events 4000000] [--only text] [--output result.json]

Each file holds the same random events. A peer reads it whole into arrays, as its users do, or in
chunks where it can; a decoder reads it chunk by chunk. Readers take turns. The least CPU time of
each counts, in all its threads: other programs change it little. A new format is one line in
``CASES``.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from eventdata.events import EVENT_DTYPE, Events, make_events
from eventdata.formats.decoding import DecodeOptions
from eventdata.formats.recording import read_recording
from tools.bags import write_bag
from tools.bench import arrays
from tools.bench.report import machine, output_option, publish, runs_option

Write = Callable[[Path, Events], None]
Read = Callable[[Path], int]  # returns the number of events
SIZE = (1280, 720)


def make(count: int) -> Events:
    """Return random events of two million a second."""
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, side, count) for side in SIZE)
    t = np.sort(rng.integers(0, max(count // 2, 1), count))
    return make_events(x, y, t, rng.integers(0, 2, count), SIZE)


def ours(path: Path) -> int:
    return sum(len(chunk.x) for chunk in read_recording(path, DecodeOptions()).chunks(None))


def _write_atis(path: Path, events: Events) -> None:
    t = events["t"].astype(np.int64)
    rows = [events["x"], events["y"] % 240, events["p"] << 7 | t >> 16 & 0x7F, t >> 8, t]
    path.write_bytes(np.stack([np.asarray(row) & 0xFF for row in rows], 1).astype("u1").tobytes())


def _write_evt21(path: Path, events: Events) -> None:
    """Write a time and an event in turn."""
    x, y, t, p = (events[field].astype(np.uint64) for field in "xytp")
    words: NDArray[Any] = np.empty((len(events), 2), "<u8")
    words[:, 0] = 8 << 60 | t >> 6 << 32
    words[:, 1] = p << 60 | (t & 63) << 54 | x // 32 * 32 << 43 | y << 32 | 1 << x % 32
    halves = words.view("<u4").reshape(-1, 2)[:, ::-1]
    header = b"% evt 2.1\n% format EVT21;height=720;width=1280\n% endianness legacy\n"
    path.write_bytes(header + b"% geometry 1280x720\n% end\n" + halves.tobytes())


def _write_text(path: Path, events: Events) -> None:
    columns = [events["t"] / 1e6, *(events[field].astype(int) for field in "xyp")]
    np.savetxt(path, np.column_stack(columns), fmt=["%.9f", "%d", "%d", "%d"])


def _write_bag(path: Path, events: Events) -> None:
    rows = [(1 + t // 10**6, t % 10**6 * 1000, x, y, bool(p)) for x, y, t, p in events.tolist()]
    path.unlink(missing_ok=True)
    write_bag(path, {"/events": rows}, each=5000)


def _wizard(encoding: str) -> tuple[Write, Mapping[str, Read]]:
    """Return how expelliarmus writes and reads an encoding, and evutils reads it."""

    def wizard() -> Any:
        return import_module("expelliarmus").Wizard(encoding=encoding)

    def in_chunks(path: Path) -> int:
        reader = wizard()
        reader.set_file(path)
        reader.set_chunk_size(1 << 20)
        return sum(map(len, reader.read_chunk()))

    peers: dict[str, Read] = {
        "expelliarmus": lambda path: len(wizard().read(path)),
        "expelliarmus, chunks": in_chunks,
        "evutils": _evutils,
    }
    return lambda path, events: wizard().save(path, events), peers


def _evutils(path: Path) -> int:
    with import_module("evutils.io").EventReader(str(path)) as reader:
        return len(reader.read_all())


def _tonic(path: Path) -> int:
    return len(import_module("tonic.io").read_mnist_file(str(path), EVENT_DTYPE))


def _pandas(path: Path) -> int:
    read = import_module("pandas").read_csv
    return sum(map(len, read(path, sep=" ", header=None, chunksize=1 << 20)))


def _polars(path: Path) -> int:
    return len(import_module("polars").read_csv(path, separator=" ", has_header=False))


def _pyarrow(path: Path) -> int:
    csv = import_module("pyarrow.csv")
    options = csv.ReadOptions(autogenerate_column_names=True), csv.ParseOptions(delimiter=" ")
    return len(csv.read_csv(path, *options))


def _rosbags(path: Path) -> int:
    with import_module("rosbags.highlevel").AnyReader([path]) as bag:
        messages = (bag.deserialize(data, one.msgtype) for one, _, data in bag.messages())
        return sum(len(message.events) for message in messages)


# By the name of the file: how it is written, and its peers.
CASES: dict[str, tuple[Write, Mapping[str, Read]]] = {
    **arrays.CASES,
    "dat.dat": _wizard("dat"),
    "evt2.raw": _wizard("evt2"),
    "evt21.raw": (_write_evt21, {"evutils": _evutils}),
    "evt3.raw": _wizard("evt3"),
    "atis.bin": (_write_atis, {"Tonic": _tonic}),
    "text.txt": (_write_text, {"pandas": _pandas, "polars": _polars, "pyarrow": _pyarrow}),
    "ros.bag": (_write_bag, {"rosbags": _rosbags}),
}


def _least_times(readers: Mapping[str, Read], path: Path, runs: int) -> dict[str, float]:
    """Return the CPU time of each reader, in milliseconds per million events."""
    least = dict.fromkeys(readers, float("inf"))
    for _ in range(runs):
        for name, read in readers.items():
            start = time.process_time()
            count = read(path)
            least[name] = min(least[name], (time.process_time() - start) * 1e9 / count)
    return least


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--events", default=4_000_000, show_default=True, type=click.IntRange(1))
@click.option("--only", multiple=True, type=click.Choice([*CASES]), help="Formats; all by default.")
@runs_option(5)
@output_option
def main(events: int, only: tuple[str, ...], runs: int, output: Path | None) -> None:
    """Compare the decoders of recordings with the Python libraries that read the same files."""
    made = make(events)
    rows: list[dict[str, Any]] = []
    missing: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in only or CASES:
            write, peers = CASES[name]
            path = Path(folder) / name
            readers: dict[str, Read] = {}
            try:
                write(path, made)
            except ImportError as error:
                missing.append(f"{name} ({error})")
                continue
            for peer, read in {"eventdata": ours, **peers}.items():
                try:
                    read(path)
                except ImportError as error:
                    missing.append(f"{peer} ({error})")
                else:
                    readers[peer] = read
            timings = _least_times(readers, path, runs)
            for peer, timing in timings.items():
                over = timing / timings["eventdata"]
                rows.append({"file": name, "reader": peer, "ms": timing, "over_ours": over})
            path.unlink()
    title = f"Reading {events:,} events"
    head = ("file", "reader", "CPU ms per million events", "over ours")
    cells = [
        (row["file"], row["reader"], f"{row['ms']:.2f}", f"{row['over_ours']:.2f}") for row in rows
    ]
    facts = {**machine(), **({"not measured": "; ".join(missing)} if missing else {})}
    publish(
        title,
        head,
        cells,
        facts,
        output,
        {"title": title, "rows": rows, "facts": facts},
        lambda: None,
    )


if __name__ == "__main__":
    main()
