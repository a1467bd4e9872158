"""Raw npz files with their lists, lists of images, and archives."""

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zipfile

import numpy as np
from numpy.typing import NDArray

from tests.fuzz.seeds.trees import Real, Tree, drawn, npz, real_files


def coordinates(count: int = 40) -> NDArray[np.uint8]:
    """Return row, column and step of events as in raw ES-ImageNet."""
    rng = drawn()
    places = rng.integers(20, 150, (count, 2))
    return np.column_stack([places, rng.integers(1, 9, count)]).astype(np.uint8)


def es_imagenet(real: Real) -> list[Tree]:
    """Return manifests and their files."""
    files = npz(pos=coordinates(), neg=coordinates(30))
    train = [f"class{label}/class{label}_{label}.npz" for label in (0, 7, 999)]
    val = [f"ILSVRC2012_val_{number:08d}.npz" for number in (1, 2)]
    lines = [f"{name} {label} 190 254\n" for name, label in zip(train, (0, 7, 999), strict=True)]
    made = {
        "trainlabel.txt": "".join(lines).encode(),
        "vallabel.txt": "".join(f"{name} 3 254 180\n" for name in val).encode(),
        **{f"train/{name}": files for name in train},
        **{f"val/{name}": files for name in val},
    }
    trees = [made]
    if real:
        root = real / "es_imagenet"
        lines = (root / "vallabel.txt").read_text().splitlines(keepends=True)[:4]
        names = [line.split()[0] for line in lines]
        files_there = {f"val/{name}": (root / "val" / name).read_bytes() for name in names}
        trees.append({"vallabel.txt": "".join(lines).encode(), **files_there})
    return trees


def coordinate_files(real: Real) -> list[Tree]:
    """Return single files of raw ES-ImageNet."""
    made = npz(pos=coordinates(), neg=coordinates(30))
    return [{"a.npz": made}, *real_files(real, "es_imagenet/val/*.npz")]


DENSE_SHAPE = (2, 4, 24, 32)  # files of the real shape would take most of the time


def dense_files(_: Real) -> list[Tree]:
    """Return single files of raw ES-UCF101 with a smaller shape."""
    frames = (drawn().random(DENSE_SHAPE) < 0.1).astype(np.uint8)
    return [{"a.npz": npz(arr_0=frames)}, {"a.npz": npz(arr_0=np.asfortranarray(frames))}]


def manifests(real: Real) -> list[Tree]:
    """Return manifests of ES-ImageNet without their files."""
    lines = b"class0/class0_1.npz 0 190 254\nclass7/class7_2.npz 7 254 180\n" * 20
    return [{"trainlabel.txt": lines, "vallabel.txt": b"a.npz 3 254 1\n"}] + [
        {"vallabel.txt": data[:20_000]}
        for tree in real_files(real, "labels/es_imagenet_vallabel.txt", 1 << 23)
        for data in tree.values()
    ]


CLASS_NAMES = ("Archery", "HandstandPushups", "PushUps")


def split_lists(real: Real) -> list[Tree]:
    """Return UCF101's lists with empty clips."""
    clips = [f"v_{name}_g{g:02d}_c01" for name in CLASS_NAMES for g in (1, 2)]
    index = "".join(f"{number} {name}\r\n" for number, name in enumerate(CLASS_NAMES, 1))
    train = "".join(f"{c[2:-8]}/{c}.avi {CLASS_NAMES.index(c[2:-8]) + 1}\r\n" for c in clips[::2])
    test = "".join(f"{c[2:-8]}/{c}.avi\r\n" for c in clips[1::2])
    lists = {"classInd.txt": index, "trainlist01.txt": train, "testlist01.txt": test}
    trees = [
        {
            **{f"lists/{name}": text.encode() for name, text in lists.items()},
            **{f"clips/{clip}.avi": b"" for clip in clips},
        }
    ]
    if real:
        root = real / "ucf101/ucfTrainTestlist"
        texts = {f"lists/{name}": (root / name).read_bytes() for name in lists}
        names = re.findall(rb"v_Archery_g\d+_c\d+\.avi", texts["lists/trainlist01.txt"])[:9]
        texts = {
            name: b"".join(text.splitlines(keepends=True)[:500]) for name, text in texts.items()
        }
        trees.append({**texts, **{f"clips/{name.decode()}": b"" for name in names}})
    return trees


def image_lists(_: Real) -> list[Tree]:
    """Return lists of images and a list of classes; the images are empty."""
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 7)]
    images = {f"images/val/{name}": b"" for name in names}
    indices = "".join(f"{name} {number % 3}\n" for number, name in enumerate(names))
    wnids = ("n01440764", "n01443537", "n02119789")
    by_name = "".join(f"val/{name} {wnids[n % 3]}\n" for n, name in enumerate(names))
    classes = "".join(f"{wnid} {number} tench, Tinca\n" for number, wnid in enumerate(wnids))
    return [
        {"list.txt": indices.encode(), **images},
        {"list.txt": by_name.encode(), "classes.txt": classes.encode(), **images},
    ]


def archives(_: Real) -> list[Tree]:
    """Return zip and tar files, plain and compressed, and one with an archive inside."""
    files = {"a/x.npz": npz(pos=coordinates()), "a/b/y.txt": b"text\n" * 50, "z": b""}

    def tarred(content: Tree) -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, data in content.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return stream.getvalue()

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # without its time
    return [
        {"a.zip": stream.getvalue()},
        {"a.tar": tarred(files)},
        {"a.tar": tarred({"n01440764.tar": tarred(files), "b.txt": b"1"})},
        {"a.tar.gz": gzip.compress(tarred(files), mtime=0)},
        {"a.tar.bz2": bz2.compress(tarred(files))},
        {"a.tar.xz": lzma.compress(tarred(files))},
    ]
