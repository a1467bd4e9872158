"""The published raw layouts of ES-ImageNet and ES-UCF101, which `generate` writes."""

import io
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np

from eventdata.errors import InputError, OptionError
from eventdata.raw.es_imagenet import CLASSES, MANIFESTS
from eventdata.raw.imagenet import ImageNet
from eventdata.raw.registry import GENERATED, build_source
from eventdata.raw.source import Samples
from eventdata.raw.ucf101 import Ucf101

Maker = ImageNet | Ucf101


def source_of(kind: str, root: Path, options: Mapping[str, Any]) -> Maker:
    """Return the source of the images or clips to make raw files of ``kind`` from."""
    source = build_source(kind, root, options, GENERATED)
    if isinstance(source, ImageNet) and len(source.classes) > CLASSES:
        raise InputError(f"{root}: {len(source.classes):,} classes; ES-ImageNet has {CLASSES:,}")
    return cast(Maker, source)


def raw_keys(kind: str, split: str, samples: Samples) -> list[str]:
    """Return the place of each sample's file in the raw folder."""
    if kind == "es-ucf101":
        return [f"{Path(name).stem}.npz" for name in samples.names]
    if split not in MANIFESTS:
        raise OptionError(f"ES-ImageNet has only train and val; remove {split!r} from the input")
    if split == "train":  # numbered in each class, from 1
        number: defaultdict[int, Iterator[int]] = defaultdict(lambda: count(1))
        labels = samples.labels.tolist()
        return [f"train/class{one}/class{one}_{next(number[one])}.npz" for one in labels]
    # ImageNet's numbers, or consecutive ones for images of other names.
    matches = [re.fullmatch(r"(?:.*/)?ILSVRC2012_val_(\d{8})\.\w+", n) for n in samples.names]
    numbers = [int(match[1]) for match in matches if match]
    if len(numbers) < len(matches):
        numbers = list(range(1, len(matches) + 1))
    if len(set(numbers)) != len(numbers):
        raise InputError("two images of val have the same number in their names; rename one")
    return [f"val/ILSVRC2012_val_{number:08d}.npz" for number in numbers]


def raw_file(source: Maker, path: str) -> tuple[bytes, tuple[int, int]]:
    """Return the npz of an image or clip, and rows and columns for its manifest line."""
    buffer = io.BytesIO()  # numpy dates the members 1980: the same arrays are the same bytes
    if isinstance(source, ImageNet):
        pos, neg, size = source.events(path)
        np.savez_compressed(buffer, pos=pos, neg=neg)
    else:
        size = source.video.size
        np.savez_compressed(buffer, source.events(path))
    return buffer.getvalue(), size


def manifests(lines: Mapping[str, list[str]]) -> dict[str, bytes]:
    """Return the manifest of each split; ES-UCF101 has no manifests."""
    return {
        MANIFESTS[split]: "".join(f"{line}\n" for line in part).encode()
        for split, part in lines.items()
        if split in MANIFESTS
    }
