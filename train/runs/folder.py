"""What a run leaves on disk, written so that a kill at any moment leaves it whole.

RUN/
  .lock                   held while a call trains; empty
  config.toml             the recipe as run, every setting; the stores and their digests
  result.json             the end: stages, seconds, test accuracy (only of a finished run)
  tensorboard/STAGE/      the same figures for TensorBoard
  STAGE/
    steps.csv epochs.csv  figures a step and an epoch (epoch 0: before the first step)
    best.safetensors      weights of the best epoch        last.safetensors  of the last
    state.ckpt            all that a resume needs (weights, optimiser, loops), after each epoch
    transfer.txt          what became of each entry of the source's weights
    operations.json       firing rates, operations a sample (train.operations)
    stage.json            the stage's end (only of a finished stage)
"""

import csv
import io
import json
import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from eventdata.errors import EventDataError, InputError, StoreError
from eventdata.files.local import LocalFiles, check_plain, held, read_plain
from eventdata.store.layout import parse_json

Row = Mapping[str, float]

MAX_BYTES = 1 << 30  # of result.json and its like, and of the tables: eight million steps
CHARTS = "tensorboard"
_LOCK = ".lock"


@dataclass(frozen=True)
class StageFolder:
    """The files of one stage."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "state.ckpt"

    @property
    def result(self) -> Path:
        return self.root / "stage.json"

    @property
    def epochs(self) -> Path:
        return self.root / "epochs.csv"

    @property
    def steps(self) -> Path:
        return self.root / "steps.csv"

    def weights(self, which: str) -> Path:
        """Of `best` or `last`."""
        return self.root / f"{which}.safetensors"


@dataclass(frozen=True)
class RunFolder:
    """The files of a run."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def result(self) -> Path:
        return self.root / "result.json"

    def is_free(self) -> bool:
        """Whether nothing is there but what a call leaves that was killed as it began."""
        left = {_LOCK, _part(self.config).name}
        return not self.root.exists() or all(path.name in left for path in self.root.iterdir())

    def has_begun(self) -> bool:
        """Whether an epoch of any stage is done."""
        return any(self.root.glob("*/state.ckpt"))

    def stage(self, name: str) -> StageFolder:
        """Where a stage writes."""
        return StageFolder(self.root / name)

    @contextmanager
    def locked(self, stages: Iterable[str]) -> Iterator[None]:
        """Hold the folder for this process, which is about to train these stages.

        InputError where another call holds it, or where a link would lead what is written out.
        """
        lock = self._own(_LOCK)
        for stage in stages:
            self._own(stage)
            charts = self._own(f"{CHARTS}/{stage}")
            for path in charts.glob("*"):  # TensorBoard writes through links; `write` does not
                self._own(f"{CHARTS}/{stage}/{path.name}")
        self.root.mkdir(parents=True, exist_ok=True)
        with held(
            lock, InputError(f"{self.root}: another call is training in it; wait for that to end")
        ):
            yield

    def _own(self, key: str) -> Path:
        try:
            return LocalFiles(self.root).own(key)
        except StoreError as error:
            raise InputError(str(error)) from None


@contextmanager
def telling_write_errors(root: Path, then: str = "") -> Iterator[None]:
    """Turn the system's errors of writing under a folder into one sentence.

    then: what the same call does once that is mended, where it does not begin anew.
    """
    told = threading.excepthook
    threading.excepthook = lambda args: None if _of_the_system(args) else told(args)
    try:
        yield
    except EventDataError:
        raise
    except OSError as error:
        raise InputError(
            f"{root}: can't be written ({error.strerror or error}); mend that and call the same "
            f"again{then and f': {then}'}"
        ) from error
    finally:
        threading.excepthook = told


def _of_the_system(args: threading.ExceptHookArgs) -> bool:
    """Whether a thread ended by an OSError: TensorBoard's does, and raises it in ours again."""
    return issubclass(args.exc_type, OSError)


def write(path: Path, data: bytes | str) -> None:
    """A file that appears whole or not at all, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path)
    part.unlink(missing_ok=True)  # what a kill left, or a link that somebody else put there
    with part.open("xb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _part(path: Path) -> Path:
    """Where a file is written before it is renamed. What a kill leaves is replaced."""
    return path.with_name(f"{path.name}.part")


def write_json(path: Path, value: Any) -> None:
    """JSON for people and programs."""
    write(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote; InputError where it isn't there or is no JSON."""
    try:
        return parse_json(read_plain(path, MAX_BYTES))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be read ({error})") from None


def write_weights(path: Path, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """A state dict as safetensors, with facts about it in its header."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    write(path, save(tensors, {"train": json.dumps(facts)}))


def weight_facts(path: Path) -> dict[str, Any]:
    """The facts `write_weights` put beside weights; empty for files of others."""
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


def finite(value: Any) -> float:
    """A number out of JSON or CSV; ValueError for what is none, not finite, or beyond a float."""
    try:
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise ValueError(f"{str(value)[:100]!r} is no number")


def number_in(values: Any, key: str, least: float = 0, most: float = 1e15) -> float:
    """A number of a document or row; ValueError where there is none from least to most.

    Sums of such numbers stay finite, which those of all that a float can be do not.
    """
    found = values.get(key) if isinstance(values, Mapping) else None
    with suppress(ValueError):
        if least <= (value := finite(found)) <= most:
            return value
    raise ValueError(f"{key} is {str(found)[:100]!r}, no number from {least:g} to {most:g}")


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """A CSV table with the columns of all rows."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write(path, text.getvalue())


def read_rows(path: Path) -> list[dict[str, float]]:
    """A CSV table of numbers; what is empty is left out. A torn last line is too."""
    rows = []
    try:
        text = read_plain(path, MAX_BYTES).decode(errors="replace")
        for row in csv.DictReader(io.StringIO(text, newline="")):
            rows.append({key: finite(float(value)) for key, value in row.items() if value})
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from None
    except (TypeError, ValueError, csv.Error):
        pass  # what comes after the first row that is none was not written to its end
    return rows
