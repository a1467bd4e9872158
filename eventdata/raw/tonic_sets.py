"""Tonic's data sets: their splits, opening one without a download, its classes."""

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eventdata.errors import EventDataError, InputError, OptionError

NO_CLASSES = ("EBSSA", "ThreeET_Eyetracking", "VPR")  # boxes, gazes and places
Targets = list[int] | list[str]


class Opened(NamedTuple):
    """A split of a data set as Tonic opened it, and a file per sample or None."""

    dataset: Any
    files: list[str] | None


def split_arguments(name: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the arguments of Tonic's class for each split; raise OptionError for other classes."""
    kind = _tonic_class(name)
    parameters = inspect.signature(kind).parameters
    needed = [key for key, one in parameters.items() if one.default is one.empty]
    if needed != ["save_to"] or name in NO_CLASSES:
        raise OptionError(f"tonic.datasets.{name} is no set of events with a class for each sample")
    if "train" in parameters:
        return {"train": {"train": True}, "test": {"train": False}}
    if "split" in parameters:
        return {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}}
    return {"all": {}}


def open_split(name: str, root: Path, split: str) -> Opened:
    """Let Tonic open a split; raise InputError with the place where Tonic looks for it."""
    arguments = split_arguments(name)[split]
    kind = _without_download(_tonic_class(name), arguments)
    try:
        dataset = kind(str(root), **arguments)
        count = len(dataset)
    except EventDataError:
        raise
    except Exception as error:
        raise InputError(
            f"{root}: Tonic can't open {name} there ({type(error).__name__}: {error})"
        ) from None
    if not count:
        folder = Path(dataset.location_on_system, dataset.folder_name)
        raise _missing(kind, arguments, root, folder)
    data = dataset.data
    is_files = isinstance(data, list) and all(isinstance(item, str | os.PathLike) for item in data)
    files = [os.fspath(item) for item in data] if is_files and len(data) == count else None
    return Opened(dataset, files)


def _tonic_class(name: str) -> Any:
    from tonic import datasets
    from tonic.dataset import Dataset

    names = [one for one in datasets.__all__ if issubclass(getattr(datasets, one), Dataset)]
    if name not in names:
        raise OptionError(f"Tonic has no data set {name!r}; it has {', '.join(names)}")
    return getattr(datasets, name)


def _without_download(kind: Any, arguments: Mapping[str, Any]) -> Any:
    """Return the class without its download and its checks of the files."""

    def _check_exists(self: Any) -> bool:
        folder = Path(self.location_on_system, self.folder_name)
        if not folder.is_dir():
            raise _missing(kind, arguments, Path(self.location_on_system).parent, folder)
        return True

    def download(self: Any) -> None:
        folder = Path(self.location_on_system)
        raise _missing(kind, arguments, folder.parent, folder)

    # Tonic finds the folder by the name of the class.
    return type(kind.__name__, (kind,), {"_check_exists": _check_exists, "download": download})


def _missing(kind: Any, arguments: Mapping[str, Any], root: Path, folder: Path) -> InputError:
    given = "".join(f", {key}={value!r}" for key, value in arguments.items())
    return InputError(
        f"{folder}: Tonic looks for {kind.__name__} there, and finds none; run "
        f"python -c \"import tonic; tonic.datasets.{kind.__name__}('{root}'{given})\", or give the "
        "folder that holds it as INPUT"
    )


def is_whole(name: str, dataset: Any) -> bool:
    """Return whether Tonic's own check takes the data set for complete."""
    return bool(_tonic_class(name)._check_exists(dataset))


def common_file(dataset: Any) -> str:
    """Return the one file that holds all samples; "" if Tonic does not name it."""
    place = dataset.location_on_system
    names = (getattr(dataset, key, None) for key in ("file_path", "data_filename"))
    paths = [os.path.join(place, name) for name in names if isinstance(name, str)]  # noqa: PTH118
    return next((path for path in paths if Path(path).is_file()), "")


def read_targets(name: str, dataset: Any) -> Targets:
    """Return the labels, all numbers or all texts, from Tonic's list or from each sample.

    Raises:
        OptionError: labels that are neither.
        InputError: a sample can't be read.
    """
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
    raise OptionError(f"tonic.datasets.{name} has no class for each sample, but {targets[0]!r}")


def class_names(dataset: Any, targets: Sequence[int | str]) -> list[str]:
    """Return class names by label: Tonic's if they fit the labels, otherwise the labels."""
    stated: Any = next(
        (s for key in ("int_classes", "classes") if (s := getattr(dataset, key, None)) is not None),
        [],
    )
    if isinstance(stated, Mapping):
        stated = sorted(stated, key=stated.__getitem__)
    names = [one.decode() if isinstance(one, bytes) else str(one) for one in stated]
    texts = {target for target in targets if isinstance(target, str)}
    if texts:
        return names if texts <= set(names) else sorted(texts)
    highest = max(target for target in targets if isinstance(target, int))
    return names if highest < len(names) else [str(label) for label in range(highest + 1)]
