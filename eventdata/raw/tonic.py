"""Any data set of Tonic whose samples are events and a class: N-MNIST, CIFAR10-DVS, DVS-Gesture ...

Tonic finds and reads the files; nothing is downloaded or written. If a set has one file per sample,
samples are named and ordered by their files, because Tonic's own order may be that of the file
system. Otherwise they are named by their numbers.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import InputError, OptionError
from eventdata.events import Events, SensorSize, check_events, make_events
from eventdata.formats.aedat4 import check_aedat4
from eventdata.formats.npz import check_npy
from eventdata.raw.framed import FrameSettings
from eventdata.raw.listing import stored_name
from eventdata.raw.source import Sample, Samples, SourceSettings
from eventdata.raw.tonic_sets import (
    Opened,
    Targets,
    class_names,
    common_file,
    is_whole,
    open_split,
    read_targets,
    split_arguments,
)
from eventdata.settings import setting
from eventdata.store.layout import Parameters, SampleFormat

PREFIX = "tonic:"
_CHECKS = {".aedat4": check_aedat4, ".npy": check_npy}  # before Tonic's readers trust a file


@dataclass(frozen=True, kw_only=True)
class TonicSource(SourceSettings):
    """The data set of the class ``tonic.datasets.NAME`` under ``root``, Tonic's ``save_to``.

    A set without splits has one split, ``all``.
    """

    name: str
    frames: FrameSettings = setting(factory=FrameSettings, section="Frames from events")
    example = "data/ nmnist.zarr --frames 10"
    walks = False
    local = "data that Tonic opens"

    @classmethod
    def named(cls, name: str) -> Mapping[str, Any]:
        """Return the name of Tonic's class."""
        return {"name": name.removeprefix(PREFIX)}

    @property
    def dataset(self) -> str:  # type: ignore[override]
        """Name of Tonic's class."""
        return self.name

    @cached_property
    def _found(self) -> dict[str, Opened | InputError]:
        """All splits, as they were opened, or the error of one that is missing."""
        arguments = split_arguments(self.name)
        if self.only is not None and self.only not in arguments:
            raise OptionError(
                f"{PREFIX}{self.name} has the splits {', '.join(arguments)}, not {self.only!r}"
            )
        found: dict[str, Opened | InputError] = {}
        for split in arguments:
            try:
                found[split] = open_split(self.name, self.root, split)
            except InputError as error:
                if split == self.only:
                    raise
                found[split] = error
        return found

    @cached_property
    def _opened(self) -> dict[str, Opened]:
        """All splits that exist, also with ``only``: labels must not depend on it."""
        opened = {split: found for split, found in self._found.items() if isinstance(found, Opened)}
        if not opened:
            raise InputError("; ".join(dict.fromkeys(map(str, self._found.values()))))
        return opened

    @cached_property
    def _targets(self) -> dict[str, Targets]:
        return {
            split: read_targets(self.name, opened.dataset) for split, opened in self._opened.items()
        }

    @cached_property
    def classes(self) -> Sequence[str]:
        """Names that Tonic's class gives, otherwise the labels themselves."""
        first = next(iter(self._opened.values()))
        return class_names(first.dataset, [t for part in self._targets.values() for t in part])

    @cached_property
    def sample_format(self) -> SampleFormat:
        """Frames of the sensor's size; one channel where the sensor has one polarity."""
        dataset = next(iter(self._opened.values())).dataset
        polarities = (dataset.sensor_size or (0, 0, 2))[2]
        return self.frames.sample_format(self._size(dataset), polarities)

    @property
    def parameters(self) -> Parameters:
        """All settings but the split."""
        return {"source": f"{PREFIX}{self.name}", **self.frames.parameters}

    def splits(self) -> dict[str, Samples]:
        """Return the splits; labels are from Tonic's list, or from reading every sample."""
        _reopen.cache_clear()  # files may have come since this process read the same data set
        numbers = list(split_arguments(self.name))
        listing = {
            split: self._list(opened, self._targets[split], numbers.index(split))
            for split, opened in self._opened.items()
            if self.only in (None, split)
        }
        if self.only is None:
            next(iter(listing.values())).notes.extend(
                f"no split {split}: {found}"
                for split, found in self._found.items()
                if isinstance(found, InputError)
            )
        return listing

    def _list(self, opened: Opened, targets: Sequence[int | str], split: int) -> Samples:
        count = len(targets)
        order = list(range(count))
        if opened.files is not None:
            files = opened.files
            place = opened.dataset.location_on_system
            names = [stored_name(Path(os.path.relpath(file, place)).as_posix()) for file in files]
            order.sort(key=names.__getitem__)
            names, paths = [names[i] for i in order], [files[i] for i in order]
        else:
            names, paths = [str(i) for i in order], [common_file(opened.dataset)] * count
        numbers = {name: i for i, name in enumerate(self.classes)}
        labels = [t if isinstance(t, int) else numbers[t] for t in targets]
        details = np.full((count, 2), split, np.int64)
        details[:, 0] = order
        samples = Samples(names, np.array(labels, np.int32)[order], paths, details)
        if not is_whole(self.name, opened.dataset):
            samples.notes.append(
                f"{opened.dataset.location_on_system}: Tonic's own check of {self.name} misses the "
                f"archive or some files; the {count:,} samples found are used"
            )
        return samples

    def read(self, sample: Sample, out: NDArray[Any]) -> int:
        """Fill out (K, H, W, P) with what Tonic reads; see `Source.read`."""
        index, split = sample.details
        where = sample.path or f"{self.root}: sample {sample.name}"
        dataset, places = _reopen(self.name, self.root, list(split_arguments(self.name))[split])
        index = places.get(sample.path, index)
        if not index < len(dataset) or (places and sample.path not in places):
            raise InputError(f"{where}: no longer in the data set; run the same command again")
        size = self._size(dataset)
        check = _CHECKS.get(Path(where).suffix)
        if check is not None:
            check(Path(where))
        try:
            made, _ = dataset[index]
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # whatever its reader stumbles over, panics in Rust too
            raise InputError(
                f"{where}: Tonic can't read it ({type(error).__name__}: {error}); get it again"
            ) from None
        events = _check(made, size, where)
        if not len(events):
            raise InputError(f"{where}: no events in it; get it again")
        try:
            return self.frames.fill(events, size, out)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None

    def _size(self, dataset: Any) -> SensorSize:
        size = self.frames.sensor_size or dataset.sensor_size
        if size is None:
            raise OptionError(
                f"the recordings of {self.name} differ in size; give --sensor-size WxH"
            )
        return int(size[0]), int(size[1])


@lru_cache(maxsize=4)
def _reopen(name: str, root: Path, split: str) -> tuple[Any, dict[str, int]]:
    """Open a data set once in each worker; return it and the place of each file in it."""
    dataset, files = open_split(name, root, split)
    return dataset, {file: i for i, file in enumerate(files or [])}


def _check(made: Any, size: SensorSize, where: str) -> Events:
    """Return what Tonic read as checked events; events of a cochlea have no y."""
    events = np.asarray(made)
    fields = events.dtype.names or ()
    if size[1] == 1 and "y" not in fields and {"x", "t", "p"} <= set(fields):
        row = np.zeros(len(events), np.int16)
        return make_events(events["x"], row, events["t"], events["p"], size, name=where)
    return check_events(events, size, name=where)
