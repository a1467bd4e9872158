"""Any dataset of Tonic whose samples are events and a class: N-MNIST, CIFAR10-DVS, DVS-Gesture ...

Tonic finds and reads the files; nothing is downloaded or written. If a set has one file per sample,
samples are named and ordered by their files, because Tonic's own order may be that of the file
system. Otherwise they are named by their numbers. A set without splits has one split, ``all``.
"""

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventdata.errors import EventDataError, InputError, OptionError
from eventdata.events import Events, SensorSize, check_events, make_events
from eventdata.files.inputs import only_local
from eventdata.formats.aedat4 import check_aedat4
from eventdata.formats.npz import check_npy
from eventdata.raw.clock import mend
from eventdata.raw.framed import FrameSettings, Stream
from eventdata.raw.listing import stored_name
from eventdata.raw.source import Sample, Samples, Source, SourceSettings, note, note_skipped
from eventdata.settings import from_options, setting
from eventdata.store.layout import Parameters, SampleFormat

PREFIX = "tonic:"
NO_CLASSES = ("EBSSA", "ThreeET_Eyetracking", "VPR")  # boxes, gazes and places
_CHECKS = {".aedat4": check_aedat4, ".npy": check_npy}  # before Tonic's readers trust a file
Opened = tuple[Any, list[str]]  # a split as Tonic opened it, and a file per sample or []
Targets = list[int] | list[str]


@dataclass(frozen=True, kw_only=True)
class TonicSource(SourceSettings):
    """The dataset of the class ``tonic.datasets.NAME`` under ``root``, Tonic's ``save_to``."""

    name: str
    frames: FrameSettings = setting(factory=FrameSettings, section="Frames from events")
    example = "data/ nmnist.zarr --frames 10"
    walks = False

    @classmethod
    def build(cls, name: str, root: Path, options: Mapping[str, Any]) -> Source:
        """Return the source ``tonic:NAME``; see `SourceSettings.build`."""
        only_local(root, "a dataset of Tonic")
        return from_options(cls, options, root=root, name=name.removeprefix(PREFIX))

    @property
    def dataset(self) -> str:  # type: ignore[override]
        return self.name

    @cached_property
    def _found(self) -> tuple[dict[str, Opened], dict[str, InputError]]:
        """Splits that exist and that do not, also with ``only``: labels must not depend on it."""
        splits = split_arguments(self.name)
        self.check_split(splits)
        opened: dict[str, Opened] = {}
        missing: dict[str, InputError] = {}
        for split in splits:
            try:
                opened[split] = open_split(self.name, self.root, split)
            except InputError as error:
                if split == self.only:
                    raise
                missing[split] = error
        if not opened:
            raise InputError("; ".join(dict.fromkeys(map(str, missing.values()))))
        return opened, missing

    @property
    def _first(self) -> Any:
        return next(iter(self._found[0].values()))[0]

    @cached_property
    def _targets(self) -> dict[str, Targets]:
        opened, _ = self._found
        return {split: read_targets(self.name, dataset) for split, (dataset, _) in opened.items()}

    @cached_property
    def classes(self) -> Sequence[str]:
        """Names that Tonic's class gives if they fit the labels, otherwise the labels."""
        found = (getattr(self._first, key, None) for key in ("int_classes", "classes"))
        stated: Any = next((one for one in found if one is not None), [])
        if isinstance(stated, Mapping):
            stated = sorted(stated, key=stated.__getitem__)
        names = [one.decode() if isinstance(one, bytes) else str(one) for one in stated]
        targets = {target for part in self._targets.values() for target in part}
        texts = {target for target in targets if isinstance(target, str)}
        if texts:
            return names if texts <= set(names) else sorted(texts)
        highest = max(target for target in targets if isinstance(target, int))
        return names if highest < len(names) else [str(label) for label in range(highest + 1)]

    @cached_property
    def sample_format(self) -> SampleFormat:
        """Frames of the sensor's size; one channel where the sensor has one polarity."""
        polarities = (self._first.sensor_size or (0, 0, 2))[2]
        return self.frames.sample_format(self._size(self._first), polarities)

    @property
    def parameters(self) -> Parameters:
        return {"source": f"{PREFIX}{self.name}", **self.frames.parameters}

    def splits(self) -> dict[str, Samples]:
        _reopen.cache_clear()  # files may have come since this process read the same dataset
        opened, missing = self._found
        listing = {
            split: self._list(number, opened[split], self._targets[split])
            for number, split in enumerate(split_arguments(self.name))
            if split in opened and self.only in (None, split)
        }
        if self.only is None:
            next(iter(listing.values())).notes.extend(
                f"no split {split}: {error}" for split, error in missing.items()
            )
        return listing

    def _list(self, split: int, opened: Opened, targets: Targets) -> Samples:
        dataset, files = opened
        place = dataset.location_on_system
        order = list(range(len(targets)))
        if files:
            names = [stored_name(Path(os.path.relpath(file, place)).as_posix()) for file in files]
            order.sort(key=names.__getitem__)
            names, paths = [names[i] for i in order], [files[i] for i in order]
        else:
            names, paths = [str(i) for i in order], [_common_file(dataset)] * len(order)
        numbers = {name: i for i, name in enumerate(self.classes)}
        labels = [t if isinstance(t, int) else numbers[t] for t in targets]
        details = np.full((len(order), 2), split, np.int64)
        details[:, 0] = order
        samples = Samples(names, np.array(labels, np.int32)[order], paths, details)
        if not _tonic_class(self.name)._check_exists(dataset):
            samples.notes.append(
                f"{place}: Tonic's own check of {self.name} misses the archive or files; the "
                f"{len(order):,} samples found are used"
            )
        return samples

    def read(self, sample: Sample, out: NDArray[Any]) -> int:
        index, split = sample.details
        where = sample.path or f"{self.root}: sample {sample.name}"
        dataset, places = _reopen(self.name, self.root, split)
        if places:
            index = places.get(sample.path, len(dataset))
        if index >= len(dataset):
            raise InputError(f"{where}: no longer in the dataset; run the same command again")
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
        events = self._check(made, size, where, sample.name)
        if not len(events):
            raise InputError(f"{where}: no events in it; get it again")
        try:
            return self.frames.fill(Stream.of(events), size, out)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None

    def _check(self, made: Any, size: SensorSize, where: str, name: str) -> Events:
        """Return what Tonic read as checked events; events of a cochlea have no y."""
        events = np.asarray(made)
        if events.ndim == 2 and 1 in events.shape:  # columns of MATLAB
            events = events.ravel()
        fields = events.dtype.names or ()
        checks: Any = {
            "name": where,
            "outside": self.frames.outside,
            "time_unit": self.frames.time_unit,
            "sort": False,
        }
        if size[1] == 1 and "y" not in fields and {"x", "t", "p"} <= set(fields):
            row = np.zeros(len(events), np.int16)
            checked = make_events(events["x"], row, events["t"], events["p"], size, **checks)
        else:
            checked = check_events(events, size, **checks)
        note_skipped(len(events) - len(checked))
        mended, notes = mend(checked)
        for text, place in notes:
            note(text, f"{name}: {place}")
        return mended

    def _size(self, dataset: Any) -> SensorSize:
        size = self.frames.sensor_size or dataset.sensor_size
        if size is None:
            raise OptionError(
                f"the recordings of {self.name} differ in size; pass --sensor-size WxH"
            )
        return int(size[0]), int(size[1])


@lru_cache(maxsize=4)
def _reopen(name: str, root: Path, split: int) -> tuple[Any, dict[str, int]]:
    """Open a dataset once in each worker; return it and the place of each file in it."""
    dataset, files = open_split(name, root, list(split_arguments(name))[split])
    return dataset, {file: i for i, file in enumerate(files)}


def split_arguments(name: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the arguments of Tonic's class for each split; raise OptionError for other classes."""
    parameters = inspect.signature(_tonic_class(name)).parameters
    needed = [key for key, one in parameters.items() if one.default is one.empty]
    if needed != ["save_to"] or name in NO_CLASSES:
        raise OptionError(f"tonic.datasets.{name} is not events with one class per sample")
    if "train" in parameters:
        return {"train": {"train": True}, "test": {"train": False}}
    if "split" in parameters:
        return {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}}
    return {"all": {}}


def open_split(name: str, root: Path, split: str) -> Opened:
    """Let Tonic open a split, without its download and its checks of the files."""
    arguments = split_arguments(name)[split]
    kind = _tonic_class(name)

    def missing(folder: Path) -> InputError:
        given = "".join(f", {key}={value!r}" for key, value in arguments.items())
        return InputError(
            f"{folder}: Tonic finds no {kind.__name__} in this folder; run "
            f"python -c \"import tonic; tonic.datasets.{kind.__name__}('{root}'{given})\", or pass "
            "the folder that holds it as INPUT"
        )

    def exists(self: Any) -> bool:
        folder = Path(self.location_on_system, self.folder_name)
        if not folder.is_dir():
            raise missing(folder)
        return True

    def download(self: Any) -> None:
        raise missing(Path(self.location_on_system))

    # Tonic finds the folder by the name of the class.
    opener: Any = type(kind.__name__, (kind,), {"_check_exists": exists, "download": download})
    try:
        dataset = opener(str(root), **arguments)
        count = len(dataset)
    except EventDataError:
        raise
    except Exception as error:
        raise InputError(
            f"{root}: Tonic can't open {name} there ({type(error).__name__}: {error})"
        ) from None
    if not count:
        raise missing(Path(dataset.location_on_system, dataset.folder_name))
    data = dataset.data if isinstance(dataset.data, list) and len(dataset.data) == count else []
    is_files = all(isinstance(item, str | os.PathLike) for item in data)
    return dataset, [os.fspath(item) for item in data] if is_files else []


def _tonic_class(name: str) -> Any:
    from tonic import datasets
    from tonic.dataset import Dataset

    names = [one for one in datasets.__all__ if issubclass(getattr(datasets, one), Dataset)]
    if name not in names:
        raise OptionError(f"Tonic has no dataset {name!r}; it has {', '.join(names)}")
    return getattr(datasets, name)


def _common_file(dataset: Any) -> str:
    """Return the one file that holds all samples; "" if Tonic does not name it."""
    place = dataset.location_on_system
    names = (getattr(dataset, key, None) for key in ("file_path", "data_filename"))
    paths = [os.path.join(place, name) for name in names if isinstance(name, str)]  # noqa: PTH118
    return next((path for path in paths if Path(path).is_file()), "")


def read_targets(name: str, dataset: Any) -> Targets:
    """Return the labels, all numbers or all texts, from Tonic's list or from each sample."""
    targets = dataset.targets
    if len(targets) != len(dataset):
        try:
            targets = [dataset[index][1] for index in range(len(dataset))]
        except Exception as error:
            raise InputError(
                f"{dataset.location_on_system}: Tonic can't read the labels of {name} "
                f"({type(error).__name__}: {error}); get it again"
            ) from None
    if all(isinstance(target, str) for target in targets):
        return list(targets)
    if all(isinstance(target, int | np.integer) and target >= 0 for target in targets):
        return [int(target) for target in targets]
    raise OptionError(f"tonic.datasets.{name} has labels that are not classes: {targets[0]!r}")
