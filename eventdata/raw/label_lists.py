"""Read the lists of labels that people have for ImageNet's validation set.

    ILSVRC2012_val_00000001.JPEG 65       Caffe's val.txt; also the class's name for its index
    ImageId,PredictionString              LOC_val_solution.csv of Kaggle
    n01751748                             a WordNet id per line, in the order of the images
    490                                   ILSVRC2012_validation_ground_truth.txt of the devkit

The devkit numbers the classes from 1 in an order of its own, which its meta.mat has.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

from eventdata.errors import InputError
from eventdata.raw.listing import read_lines

META = "meta.mat"
_KAGGLE = "ImageId,PredictionString"
_WNID = re.compile(r"n[0-9]{8}")
_NUMBER = re.compile(r"[0-9]{1,4}")
_VAL = re.compile(r"ILSVRC2012_val_[0-9]{8}(\.\w+)")


def read_labels(path: Path, images: Collection[str]) -> list[str]:
    """Return the lines of a list as ``path label``.

    Args:
        path: the list.
        images: names of the images in no class folder, which a list without names is about.

    Raises:
        InputError: it is empty, or has no names and it is not clear which images are meant.
    """
    lines = read_lines(path)
    if not lines:
        raise InputError(f"{path}: the list is empty; get it again")
    if lines[0].strip() == _KAGGLE:
        return _of_kaggle(path, lines[1:], images)
    if not all(map(_WNID.fullmatch, lines)) and not all(map(_NUMBER.fullmatch, lines)):
        return lines
    suffix = next((match[1] for match in map(_VAL.fullmatch, images) if match), None)
    if suffix is None:
        raise InputError(
            f"{path}: labels without names of images, which only those called "
            "ILSVRC2012_val_00000001.JPEG need not have; pass a list of lines 'path label'"
        )
    if _NUMBER.fullmatch(lines[0]):
        names = _devkit_classes(path)
        lines = [names.get(int(line), line) for line in lines]
    return [f"ILSVRC2012_val_{number:08d}{suffix} {wnid}" for number, wnid in enumerate(lines, 1)]


def _of_kaggle(path: Path, lines: Sequence[str], images: Collection[str]) -> list[str]:
    """Return ``path label`` for each line ``ID,WNID X Y X Y WNID ...`` with one class."""
    names = {PurePosixPath(name).stem: name for name in images}
    found = []
    for number, line in enumerate(lines, 2):
        image, _, boxes = line.partition(",")
        wnids = set(boxes.split()[::5])
        if len(wnids) != 1:
            raise InputError(f"{path}:{number}: {len(wnids)} classes, not one: {line!r}")
        found.append(f"{names.get(image, f'{image}.JPEG')} {wnids.pop()}")
    return found


def _devkit_classes(path: Path) -> Mapping[int, str]:
    """Return the WordNet ids by the devkit's numbers, from its meta.mat next to the list."""
    meta = path.with_name(META)
    if not meta.is_file():
        raise InputError(
            f"{path}: numbers of the ILSVRC devkit, which only its {META} explains; put {META} "
            "next to it, or pass a list of lines 'path label', such as Caffe's val.txt"
        )
    try:
        from scipy.io import loadmat

        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        numbers = synsets["ILSVRC2012_ID"].tolist(), synsets["WNID"].tolist()
        found = {int(number): str(wnid) for number, wnid in zip(*numbers, strict=True)}
    except ImportError:
        raise InputError(f"{meta}: scipy is missing; run: pip install scipy") from None
    except Exception as error:
        raise InputError(f"{meta}: can't be read ({error}); get the devkit again") from None
    if not all(map(_WNID.fullmatch, found.values())):
        raise InputError(f"{meta}: a class has no WordNet id; get the devkit again")
    return found
