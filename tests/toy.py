"""A source for the tests: text files with one event each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError
from eventdata.raw.source import Sample, Samples, SourceSettings
from eventdata.settings import Settings, setting
from eventdata.store.layout import SampleFormat


@dataclass(frozen=True, kw_only=True)
class Dots(Settings):
    """Settings nested in those of the source."""

    size: int = setting(4, "Rows and columns.", unit="pixels", least=1, most=64)
    corner: bool = setting(False, "Add an event in the corner.")


@dataclass(frozen=True, kw_only=True)
class Toy(SourceSettings):
    """Text files ``CLASS-NAME.txt`` with one line: the row and the column of an event."""

    names: Path | None = setting(None, "File of class names.", unit="file", stored=False)
    dots: Dots = setting(factory=Dots, section="Dots")
    dataset = "toy"
    example = "notes/ toy.zarr --size 8"

    @property
    def classes(self) -> list[str]:
        if self.names is not None:
            return self.names.read_text().split()
        return sorted({path.name.split("-")[0] for path in self.root.glob("*.txt")})

    @property
    def sample_format(self) -> SampleFormat:
        size = self.dots.size
        return SampleFormat(representation="binary", steps=1, channels=2, height=size, width=size)

    def splits(self) -> dict[str, Samples]:
        paths = sorted(self.root.glob("*.txt"))
        labels = [self.classes.index(path.name.split("-")[0]) for path in paths]
        return {
            "all": Samples(
                names=[path.name for path in paths],
                labels=np.array(labels, np.int32),
                paths=[str(path) for path in paths],
                details=np.empty((len(paths), 0), np.int64),
            )
        }

    def read(self, sample: Sample, out: NDArray[Any]) -> int:
        out[:] = 0
        try:
            row, column = map(int, Path(sample.path).read_text().split())
            out[0, row, column, 0] = 128
        except (ValueError, IndexError) as error:
            raise InputError(f"{sample.path}: {error}") from None
        if self.dots.corner:
            out[0, -1, -1, 1] = 128
        return int(np.count_nonzero(out))
