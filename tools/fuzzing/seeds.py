"""Sound inputs to damage: small ones made here, and some of the real data where that is given.

An input is a folder, as a `Tree`: the path of each file in it and its bytes.
"""

import contextlib
import functools
import io
import itertools
import json
import os
import re
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import eventdata
from eventdata.events import EVENT_DTYPE
from eventdata.generation import generate

Tree = dict[str, bytes]
Real = Path | None
"""The folder of real data, where there is one."""
REAL_FILES = 3  # taken of each kind


def tree_of(root: Path) -> Tree:
    """The files below a folder."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def write_tree(root: Path, tree: Tree) -> None:
    """The files into a folder, of one age each time: stores know the age of their input."""
    for name, data in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (1e9, 1e9))


def real_files(real: Real, pattern: str, size: int = 1 << 21) -> list[Tree]:
    """The first few real files of a pattern, each a tree, none larger than ``size``."""
    paths = sorted(real.glob(pattern)) if real else []
    small = (path for path in paths if path.stat().st_size <= size)
    return [{path.name: path.read_bytes()} for path in itertools.islice(small, REAL_FILES)]


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


# Raw npz and lists.


def npz(**arrays: NDArray[Any]) -> bytes:
    """A compressed npz."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    """An npy file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def coordinates(count: int = 40) -> NDArray[np.uint8]:
    """Row, column and step of events, as raw ES-ImageNet has them."""
    rng = _rng()
    places = rng.integers(20, 150, (count, 2))
    return np.column_stack([places, rng.integers(1, 9, count)]).astype(np.uint8)


def es_imagenet(real: Real) -> list[Tree]:
    """Manifests and their files."""
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
    """Single files of raw ES-ImageNet."""
    made = npz(pos=coordinates(), neg=coordinates(30))
    return [{"a.npz": made}, *real_files(real, "es_imagenet/val/*.npz")]


DENSE_SHAPE = (2, 4, 24, 32)  # that of real ones would fill the time


def dense_files(_: Real) -> list[Tree]:
    """Single files of raw ES-UCF101, of a smaller shape."""
    frames = (_rng().random(DENSE_SHAPE) < 0.1).astype(np.uint8)
    return [{"a.npz": npz(arr_0=frames)}, {"a.npz": npz(arr_0=np.asfortranarray(frames))}]


def manifests(real: Real) -> list[Tree]:
    """Manifests of ES-ImageNet alone."""
    lines = b"class0/class0_1.npz 0 190 254\nclass7/class7_2.npz 7 254 180\n" * 20
    return [{"trainlabel.txt": lines, "vallabel.txt": b"a.npz 3 254 1\n"}] + [
        {"vallabel.txt": data[:20_000]}
        for tree in real_files(real, "labels/es_imagenet_vallabel.txt", 1 << 23)
        for data in tree.values()
    ]


CLASS_NAMES = ("Archery", "HandstandPushups", "PushUps")


def split_lists(real: Real) -> list[Tree]:
    """UCF101's lists beside clips that have nothing in them."""
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
    """Lists of images, and a list of classes; the images are empty."""
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


# Images and clips.


def picture(height: int = 40, width: int = 56) -> NDArray[np.uint8]:
    """Squares of random colours, (H, W, 3)."""
    colours = _rng().integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return np.ascontiguousarray(colours.repeat(8, 0).repeat(8, 1)[:height, :width])


def encoded(image: Image.Image, kind: str, **settings: Any) -> bytes:
    """An image file's bytes."""
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def pictures(real: Real) -> list[Tree]:
    """An image of each format, mode and peculiarity that is read."""
    rgb = Image.fromarray(picture())
    deep = Image.fromarray(picture()[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = [
        encoded(rgb, "JPEG", quality=90, exif=exif),
        encoded(rgb, "JPEG", progressive=True),
        encoded(rgb.convert("CMYK"), "JPEG"),
        encoded(rgb, "PNG"),
        encoded(rgb.quantize(16), "PNG", transparency=3),
        encoded(deep, "PNG"),
        encoded(rgb.convert("1"), "PNG"),
        encoded(rgb, "WEBP", lossless=True),
        encoded(rgb, "WEBP"),
        encoded(rgb, "BMP"),
        encoded(rgb.quantize(16), "GIF", save_all=True, append_images=[rgb.quantize(8)]),
        encoded(rgb, "TIFF"),
        encoded(rgb, "TIFF", compression="tiff_lzw"),
        encoded(rgb, "TIFF", compression="jpeg"),
        encoded(rgb, "TIFF", compression="tiff_adobe_deflate"),
        encoded(deep, "TIFF"),
        encoded(rgb, "PPM"),
    ]
    return [{"image": data} for data in made] + real_files(real, "imagenet_samples/val/*/*.JPEG")


def video(suffix: str, codec: str, pixels: str = "yuv420p", frames: int = 6) -> bytes:
    """A short moving picture."""
    import av

    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        with av.open(file.name, "w") as container:
            stream: Any = container.add_stream(codec, rate=Fraction(25))
            stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
            stream.codec_context.thread_count = 1
            scene = picture(48, 64 + frames)
            for number in range(frames):
                moved = np.ascontiguousarray(scene[:, number : number + 64])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, "rgb24")))
            container.mux(stream.encode(None))
        return Path(file.name).read_bytes()


def clips(real: Real) -> list[Tree]:
    """Videos in the containers that are read, and clips as folders of frames."""
    made = [
        {"clip.avi": video(".avi", "mpeg4")},
        {"clip.mp4": video(".mp4", "mpeg4")},
        {"clip.mkv": video(".mkv", "mpeg4")},
        {"clip.webm": video(".webm", "libvpx-vp9")},
        {"clip.mov": video(".mov", "mjpeg", "yuvj420p")},
        {f"clip/frame{n}.jpg": encoded(Image.fromarray(picture()), "JPEG") for n in range(3)},
    ]
    return made + real_files(real, "ucf101/UCF-101/*/*.avi", 1 << 19)


# Recordings.


def events(count: int = 200, side: int = 16) -> NDArray[np.void]:
    """Events of a small sensor, in order."""
    rng = _rng()
    made = np.zeros(count, EVENT_DTYPE)
    made["x"], made["y"] = rng.integers(0, side, (2, count))
    made["t"] = np.cumsum(rng.integers(0, 50, count))
    made["p"] = rng.integers(0, 2, count)
    return made


def bin_file() -> bytes:
    """N-MNIST's form."""
    parts = events()
    rows = [parts["x"], parts["y"], parts["p"] << 7 | (t := parts["t"]) >> 16, t >> 8, t]
    return np.stack([np.asarray(row) & 0xFF for row in rows], axis=1).astype(np.uint8).tobytes()


def dat_file() -> bytes:
    """Prophesee's DAT."""
    parts = events()
    word = parts["x"].astype(np.uint32) | parts["y"].astype(np.uint32) << 14
    word |= parts["p"].astype(np.uint32) << 28
    body = np.stack([parts["t"].astype(np.uint32), word], axis=1).astype("<u4").tobytes()
    return b"% Data file\n% Version 2\n% Width 16\n% Height 16\n\x0c\x08" + body


def evt2_file() -> bytes:
    """Prophesee's EVT 2.0."""
    words = [8 << 28]
    for x, y, t, p in events().tolist():
        words += [8 << 28 | t >> 6] if t >> 6 != words[-1] & 0xFFF_FFFF else []
        words.append(int(p) << 28 | (t & 63) << 22 | x << 11 | y)
    header = b"% evt 2.0\n% format EVT2;height=16;width=16\n% end\n"
    return header + np.array(words, "<u4").tobytes()


def evt3_file() -> bytes:
    """Prophesee's EVT 3.0, single events and vectors."""
    words = []
    for x, y, t, p in events().tolist():
        words += [8 << 12 | t >> 12, 6 << 12 | t & 4095, y, 2 << 12 | int(p) << 11 | x]
        words += [3 << 12 | int(p) << 11, 5 << 12 | 0x81, 4 << 12 | 0x101]
    header = b"% evt 3.0\n% geometry 32x16\n% end\n"
    return header + np.array(words, "<u2").tobytes()


def es_file() -> bytes:
    """Event Stream 2."""
    body = bytearray(b"Event Stream\x02\x00\x00\x01" + struct.pack("<HH", 16, 16))
    before = 0
    for x, y, t, p in events().tolist():
        pauses, rest = divmod(t - before, 127)
        body += b"\xff" * pauses + struct.pack("<BHH", rest << 1 | int(p), x, y)
        before = t
    return bytes(body)


def aedat2_file() -> bytes:
    """AEDAT 2.0 of a DVS128."""
    parts = events(side=128)
    address = (127 - parts["x"].astype(np.int64)) << 1 | (127 - parts["y"].astype(np.int64)) << 8
    body = np.stack([address | ~parts["p"] & 1, parts["t"]], axis=1).astype(">u4").tobytes()
    return b"#!AER-DAT2.0\r\n# AEChip: DVS128\r\n" + body


AEDAT4_XML = """<dv version="2.0"><node name="outInfo" path="/mainloop/Recorder/outInfo/">\
<node name="0" path="/mainloop/Recorder/outInfo/0/">\
<attr key="compression" type="string">{compression}</attr>\
<attr key="originalModuleName" type="string">capture</attr>\
<attr key="typeIdentifier" type="string">EVTS</attr>\
<node name="info" path="/mainloop/Recorder/outInfo/0/info/">\
<attr key="sizeX" type="int">16</attr><attr key="sizeY" type="int">16</attr>\
<attr key="source" type="string">DVXplorer</attr></node></node></node></dv>"""


def aedat4_file() -> bytes:
    """AEDAT 4.0 without compression; the flatbuffers are put together by hand."""
    xml = AEDAT4_XML.format(compression="NONE").encode()
    xml += bytes(-len(xml) % 4 or 4)  # ends with a zero
    text = struct.pack("<I", len(xml.rstrip(b"\0"))) + xml
    # Root offset and name; vtable; table: compression, offset of the text, place of the data table.
    header = struct.pack("<I4s5H2x", 20, b"IOHE", 10, 20, 4, 12, 8)
    header += struct.pack("<iiIq", 12, 0, 12, -1) + text
    packets = b"".join(_aedat4_packet(part) for part in np.array_split(events(), 3))
    return b"#!AER-DAT4.0\r\n" + struct.pack("<I", len(header)) + header + packets


def _aedat4_packet(part: NDArray[np.void]) -> bytes:
    rows = np.zeros(len(part), "<i8, <i2, <i2, u1, V3")
    rows["f0"], rows["f1"], rows["f2"], rows["f3"] = (part[key] for key in "txyp")
    # The same; the table holds the offset of the events, which lie at a multiple of 8.
    body = struct.pack("<I4s3H2xiI4x", 16, b"EVTS", 6, 8, 4, 8, 8)
    body += struct.pack("<I", len(rows))
    body += rows.tobytes()
    packet = struct.pack("<I", len(body)) + body
    return struct.pack("<II", 0, len(packet)) + packet


def recordings(
    suffix: str, make: Callable[[], bytes], pattern: str = "none"
) -> Callable[[Real], list[Tree]]:
    """Recordings of one format; ``pattern``: of real ones."""

    def seeds(real: Real) -> list[Tree]:
        return [{f"a{suffix}": make()}, *real_files(real, pattern, 1 << 22)]

    return seeds


def npz_events() -> bytes:
    """Columns in an npz."""
    return npz(**{name: events()[name] for name in "xytp"})


def class_folders(_: Real) -> list[Tree]:
    """Recordings of several formats in class folders."""
    return [
        {"left/a.npz": npz_events(), "left/b.dat": dat_file(), "right/a.es": es_file()},
        {f"{split}/{name}/a.raw": evt3_file() for split in ("train", "test") for name in "ab"},
    ]


def tonic_sets(real: Real) -> list[Tree]:
    """Data sets as Tonic finds them."""
    gesture = np.column_stack([events()[name].astype(np.int64) for name in "xypt"])
    hand = np.column_stack([events()[name].astype(np.int64) for name in "txyp"])
    return [
        {f"NMNIST/Train/{label}/{n}.bin": bin_file() for label in (0, 7) for n in (1, 2)},
        {f"DVSGesture/ibmGestureTrain/user0{n}_lab/{n}.npy": npy(gesture) for n in (1, 2)},
        {f"POKERDVS/pips_train/{suit}/0.npy": npy(hand) for suit in ("he", "cl")},
        {f"CIFAR10DVS/{name}/a.aedat4": aedat4_file() for name in ("cat", "truck")},
    ]


# Archives.


def archives(_: Real) -> list[Tree]:
    """Zip and tar, plain and compressed, one with an archive in it."""
    files = {"a/x.npz": npz(pos=coordinates()), "a/b/y.txt": b"text\n" * 50, "z": b""}

    def tarred(mode: str, content: Tree) -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
            for name, data in content.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return stream.getvalue()

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return [
        {"a.zip": stream.getvalue()},
        {"a.tar": tarred("w:", files)},
        {"a.tar": tarred("w:", {"n01440764.tar": tarred("w:", files), "b.txt": b"1"})},
        {"a.tar.gz": tarred("w:gz", files)},
        {"a.tar.bz2": tarred("w:bz2", files)},
        {"a.tar.xz": tarred("w:xz", files)},
    ]


# Stores.


@dataclass(frozen=True)
class _Recordings:
    """How the small stores are made: input, source and options."""

    tree: Tree
    source: str
    options: dict[str, Any]


@functools.cache
def store_inputs() -> list[_Recordings]:
    """Inputs of a store of binary frames, one of counts, one of images, one of ODG frames."""
    folders = {f"{name}/{n}.npz": npz_events() for name in ("left", "right") for n in range(3)}
    sensor = {"sensor_size": "16x16"}
    images = {
        f"{split}/{name}/{number}.png": encoded(Image.fromarray(picture()), "PNG")
        for split in ("train", "val")
        for name in ("cat", "dog")
        for number in range(2)
    }
    return [
        _Recordings(folders, "recordings", {"frames": 10, **sensor}),
        _Recordings(folders, "recordings", {"frames": 3, "representation": "count", **sensor}),
        _Recordings(images, "images", {"short_side": 16, "crop": 16}),
        _Recordings(images, "imagenet", {"long_side": 28, "crop": 24, "min_events": 0}),
    ]


def stores(real: Real) -> list[Tree]:
    """Whole stores, one with a sample that was skipped."""
    trees = []
    for number, made in enumerate(store_inputs()):
        tree = dict(made.tree)
        if number == 0:
            tree["left/0.npz"] = b"damaged"
        trees.append(_converted(tree, made))
    if real:
        trees += [_real_store(real)]
    return trees


def _converted(tree: Tree, made: _Recordings) -> Tree:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_tree(root / "raw", tree)
        eventdata.convert(
            made.source, root / "raw", root / "out", shard_size=2, on_error="skip", **made.options
        )
        return tree_of(root / "out")


def _real_store(real: Path) -> Tree:
    with tempfile.TemporaryDirectory() as folder:
        eventdata.convert(
            "es-imagenet", real / "es_imagenet", folder + "/out", split="val", limit=3, shard_size=2
        )
        return tree_of(Path(folder, "out"))


def odg_stores(real: Real) -> list[Tree]:
    """Stores that grey images can be put together from."""
    made = store_inputs()[3]
    return [_converted(made.tree, made), *([_real_store(real)] if real else [])]


def stores_and_inputs(_: Real) -> list[Tree]:
    """Stores with what they were made from."""
    return [
        {
            **{f"store/{name}": data for name, data in _converted(made.tree, made).items()},
            **{f"raw/{name}": data for name, data in made.tree.items()},
        }
        for made in store_inputs()
    ]


class _StoppedError(Exception):
    """Instead of a kill."""


def unfinished_stores(_: Real) -> list[Tree]:
    """Raw files and a store that was interrupted after some shards, ``.work`` in it.

    ``number``: of `store_inputs`, what it is made from.
    """
    trees = []
    for number, made in enumerate(store_inputs()[:3]):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_tree(root / "raw", made.tree)
            begin = functools.partial(
                eventdata.convert, made.source, root / "raw", root / "out", shard_size=2
            )
            _interrupt(functools.partial(begin, **made.options), 4)
            trees.append({**tree_of(root), "number": str(number).encode()})
    return trees


def _interrupt(run: Callable[..., object], after: int) -> None:
    """Stop a conversion or generation once so many samples are done."""

    def stop(done: int, _: int) -> None:
        if done >= after:
            raise _StoppedError

    with contextlib.suppress(_StoppedError):
        run(progress=stop)


def unfinished_raw(_: Real) -> list[Tree]:
    """Images and the raw files of some of them, ``.work`` among these."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_tree(root / "raw", store_inputs()[3].tree)
        begin = functools.partial(generate, "es-imagenet", root / "raw", root / "out", min_events=0)
        _interrupt(begin, 1)
        return [tree_of(root)]


# Training.

RECIPE = b"""
pipeline = "pipe-d"
name = "small"
[network]
name = "event-resnet18"
width = 8
[run]
seed = 1
held_out = 0.2
precision = "32-true"
[machine]
devices = 1
threads = 2
[defaults]
batch_size = 8
augment = { crop = 0.1, flip = 0.5 }
neuron = { decay = 0.6 }
[stages.pretrain]
data = "images"
neuron = { kind = "ann" }
epochs = 2
learning_rate = 0.05
[stages.lif]
weights = "pretrain"
neuron = { kind = "lif", threshold = 1.3 }
schedule = "step"
milestones = [1, 2]
freeze = ["stem"]
steps = 4
[scratch]
epochs = 8
"""


def recipes(_: Real) -> list[Tree]:
    """A recipe of every kind of setting, and those that come with the package."""
    from train.recipe import RECIPES

    return [{"recipe.toml": RECIPE}] + [
        {"recipe.toml": path.read_bytes()} for path in sorted(RECIPES.glob("*.toml"))
    ]


def small_state() -> dict[str, Any]:
    """Tensors of several types and shapes."""
    import torch

    return {
        "stem.conv.weight": torch.arange(54.0).reshape(2, 3, 3, 3),
        "stages.0.0.first.norm.num_batches_tracked": torch.tensor(3),
        "fc.weight": torch.ones(4, 2, dtype=torch.float16),
        "fc.bias": torch.zeros(4),
    }


def checkpoints(_: Real) -> list[Tree]:
    """Safetensors with facts, torch files of both kinds, and one as Lightning writes it."""
    import torch
    from safetensors.torch import save

    state = small_state()
    facts = {"classes": ["a", "b", "c", "d"], "seconds": 1.5, "epoch": 2, "kind": "ann"}

    def torch_file(content: Any, **settings: Any) -> bytes:
        stream = io.BytesIO()
        torch.save(content, stream, **settings)
        return stream.getvalue()

    return [
        {"a.safetensors": save(state, {"train": json.dumps(facts)})},
        {"a.pt": torch_file(state)},
        {"a.pth": torch_file(state, _use_new_zipfile_serialization=False)},
        {"a.ckpt": torch_file({"state_dict": state, "epoch": 3, "callbacks": {"Record": {}}})},
    ]


def runs(_: Real) -> list[Tree]:
    """The folder of a finished run, without its weights."""
    from train.recipe import load

    with tempfile.TemporaryDirectory() as folder:
        write_tree(Path(folder), {"small.toml": RECIPE})
        recipe = load(f"{folder}/small.toml")
    stage = {"name": "lif", "train_seconds": 4.0, "best_epoch": 1, "best_top1": 0.5, "epochs": 2}
    result = {
        "recipe": "small",
        "label": "small",
        "store": "0" * 64,
        "seed": 1,
        "protocol": "correct",
        "machine": {"system": "Linux", "torch": "2.4", "threads": 2, "gpus": []},
        "stages": [{**stage, "name": "pretrain"}, stage],
        "train_seconds": 8.0,
        "test": {"top1": 0.4, "top5": 0.9, "loss": 1.0, "samples": 4},
    }
    rows = "epoch,step,train_seconds,evaluation_seconds,top1,top5,loss\n"
    rows += "0,0,0.0,0.1,0.25,1.0,1.4\n1,3,2.0,0.2,0.5,1.0,1.2\n2,6,4.0,0.3,0.5,,1.1\n"
    return [
        {
            "config.toml": recipe.document().encode(),
            "result.json": json.dumps(result).encode(),
            "lif/epochs.csv": rows.encode(),
            "lif/operations.json": json.dumps({"synaptic": 1e6}).encode(),
        }
    ]
