"""The files of a run, written so that a kill at any moment leaves each of them whole.

RUN/
  .lock                   locked while a process trains; empty
  config.toml             the recipe with every setting, and the stores with their digests
  result.json             stages, seconds, test accuracy (only of a finished run)
  tensorboard/STAGE/      the same figures for TensorBoard
  STAGE/
    steps.csv epochs.csv  figures of each step and epoch (epoch 0: before the first step)
    best.safetensors      weights of the best epoch        last.safetensors  of the last
    state.ckpt            all that resuming needs (weights, optimiser, loops), after each epoch
    transfer.txt          what became of each entry of the source's weights
    operations.json       firing rates and operations per sample (train.operations)
    stage.json            result of the stage (only of a finished stage)
"""

import csv
import io
import json
import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from eventdata.errors import InputError, MismatchError, StoreError, reading, writing
from eventdata.files.local import LocalFiles, check_plain, held, part_of, read_plain, write_whole
from eventdata.settings import table_of
from eventdata.store.layout import parse_json
from train.settings import Run, Stage
from train.toml import MAX_BYTES as MAX_CONFIG_BYTES
from train.toml import parse_toml

Row = Mapping[str, float]

MAX_BYTES = 1 << 30  # of a JSON file, or of a table: eight million steps
CHARTS = "tensorboard"
_LOCK = ".lock"


class StageFolder:
    """The files of one stage."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state.ckpt"
        self.result = root / "stage.json"
        self.epochs = root / "epochs.csv"
        self.steps = root / "steps.csv"

    def weights(self, which: str) -> Path:
        """Return the path of the weights `best` or `last`."""
        return self.root / f"{which}.safetensors"


class RunFolder:
    """The files of a run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.toml"
        self.result = root / "result.json"

    def stage(self, name: str) -> StageFolder:
        """Return the folder of a stage."""
        return StageFolder(self.root / name)

    def check_free_or_run(self) -> None:
        """Raise MismatchError if the folder holds something other than a run."""
        if self.config.exists() or not self.root.exists():
            return
        # A process that was killed as it began leaves no more than these.
        left = {_LOCK, part_of(self.config).name}
        if any(path.name not in left for path in self.root.iterdir()):
            raise MismatchError(
                f"{self.root}: is not empty and does not hold a run; choose another folder"
            )

    def check_same(self, document: str, extends: str = "") -> bool:
        """Raise MismatchError if another run has trained here.

        Args:
            document: the config.toml of this run. Settings of [machine] and the paths of stores
                may differ. Keys that an older version did not write there have their defaults.
            extends: a stage that may have more epochs than it had.

        Returns:
            Whether it has.
        """
        if not any(
            path for name in ("state.ckpt", "stage.json") for path in self.root.glob(f"*/{name}")
        ):
            return False  # no epoch and no stage is done
        try:
            found = parse_toml(read_plain(self.config, MAX_CONFIG_BYTES).decode())
        except (OSError, ValueError):
            raise MismatchError(f"{self.config}: is damaged; choose another folder") from None
        here, there = _flat(parse_toml(document)), _with_defaults(found)
        key = f"stages.{extends}.epochs"
        extended = key in here and isinstance(there.get(key), int) and here[key] > there[key]
        if extended:
            there[key] = here[key]
        different = [
            f"{key} is {there.get(key)!r} there and {here.get(key)!r} here"
            for key in sorted({*here, *there})
            if here.get(key) != there.get(key)
            and not key.startswith("machine.")
            and not key.endswith(".path")
        ]
        if different:
            raise MismatchError(
                f"{self.root}: holds another run: {'; '.join(different[:5])}; pass the same "
                "settings, or choose another folder"
            )
        return extended

    def reopen(self, stage: str) -> None:
        """Remove the results of a finished run, so that a stage can train for more epochs."""
        self.result.unlink(missing_ok=True)
        self.stage(stage).result.unlink(missing_ok=True)
        self.sync()  # before config.toml says that the run with more epochs has these results

    def sync(self) -> None:
        """Make durable what a killed process has written or removed here, too."""
        LocalFiles(self.root).sync()

    def read_result(self) -> dict[str, Any]:
        """Return the result of the finished run."""
        result = read_json(self.result)
        if not isinstance(result, dict):
            raise InputError(
                f"{self.result}: is damaged; delete it, then run the same command again"
            )
        return result

    @contextmanager
    def locked(self, stages: Iterable[str]) -> Iterator[None]:
        """Lock the folder for this process, which will train these stages.

        Raises:
            InputError: another process has locked it, or a link leads out of it.
        """
        lock = self._own(_LOCK)
        for stage in stages:
            self._own(stage)
            charts = self._own(f"{CHARTS}/{stage}")
            for path in charts.glob("*"):  # TensorBoard writes through links; `write` does not
                self._own(f"{CHARTS}/{stage}/{path.name}")
        self.root.mkdir(parents=True, exist_ok=True)
        busy = InputError(f"{self.root}: another process is training in it; wait until it ends")
        with held(lock, busy):
            yield

    def _own(self, key: str) -> Path:
        try:
            return LocalFiles(self.root).own(key)
        except StoreError as error:
            raise InputError(str(error)) from None


def _with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.toml as one table, with the defaults of the keys that it lacks."""
    stages = config.get("stages")
    names = stages if isinstance(stages, Mapping) else {}
    defaults = {"run": table_of(Run()), "stages": {name: table_of(Stage()) for name in names}}
    return _flat(defaults) | _flat(config)


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a table of tables as one table, its keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@contextmanager
def writing_run(root: Path, then: str = "run the same command again") -> Iterator[None]:
    """Raise InputError, in one sentence, for an OSError of writing under a folder.

    Args:
        root: the folder.
        then: what to do once the disk is in order, as an imperative.
    """
    original = threading.excepthook
    # TensorBoard's thread ends by an OSError that it raises again in the main thread.
    threading.excepthook = lambda args: (
        None if issubclass(args.exc_type, OSError) else original(args)
    )
    try:
        with writing(root, InputError, then):
            yield
    finally:
        threading.excepthook = original


def write(path: Path, data: bytes | str) -> None:
    """Write a file that appears whole or not at all, and the folders above it."""
    write_whole({path: data.encode() if isinstance(data, str) else data})


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    write(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; raise InputError if it is missing or is not JSON."""
    with reading(path):
        data = read_plain(path, MAX_BYTES)
    try:
        return parse_json(data)
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error})") from None


def write_weights(path: Path, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a state dict as safetensors, with facts about it in the header."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    write(path, save(tensors, {"train": json.dumps(facts)}))


def weight_facts(path: Path) -> dict[str, Any]:
    """Return the facts that `write_weights` wrote; an empty dict for other files."""
    if path.suffix != ".safetensors":
        return {}
    try:
        check_plain(path)
        with safe_open(path, "pt") as file:
            facts = parse_json((file.metadata() or {}).get("train", "{}").encode())
        number_in({"seconds": 0} | facts, "seconds")
    except (OSError, SafetensorError, TypeError, ValueError):
        return {}
    return dict(facts)


def number_in(values: Any, key: str, least: float = 0, most: float = 1e15) -> float:
    """Return a number of a document or row; raise ValueError if it is out of range.

    The default range keeps sums of such numbers finite.
    """
    found = values.get(key) if isinstance(values, Mapping) else None
    if isinstance(found, int | float) and least <= found <= most:
        return float(found)
    raise ValueError(f"{key} is {str(found)[:100]!r}, not a number from {least:g} to {most:g}")


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a CSV table with the columns of all rows."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write(path, text.getvalue())


def read_rows(path: Path) -> list[dict[str, float]]:
    """Read a CSV table of numbers, without empty cells and without a torn last line."""
    if not path.exists():
        return []
    with reading(path):
        text = read_plain(path, MAX_BYTES).decode(errors="replace")
    rows = []
    with suppress(TypeError, ValueError, csv.Error):  # the rest was not written to its end
        for row in csv.DictReader(io.StringIO(text, newline="")):
            values = {key: float(value) for key, value in row.items() if value}
            if not all(map(math.isfinite, values.values())):
                break
            rows.append(values)
    return rows
