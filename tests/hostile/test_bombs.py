"""Bombs and huge declared shapes: a few bytes that would become gigabytes."""

import bz2
import contextlib
import gzip
import json
import lzma
import os
import shutil
import struct
import tarfile
import time
import uuid
import zipfile
import zlib
from pathlib import Path

import fsspec
import lz4.frame
import numpy as np
import pytest
import torch
import zstandard
from PIL import Image

import eventdata
from eventdata.errors import EventDataError, InputError, StoreError
from eventdata.files.inputs import open_input
from eventdata.formats.aedat4 import check_aedat4
from eventdata.formats.image import MAX_PIXELS, read_picture
from eventdata.formats.npz import read_npz
from eventdata.formats.recording import read_events
from eventdata.formats.video import read_clip
from eventdata.generation import generate
from eventdata.info import describe
from eventdata.kernels.video import VideoSettings
from eventdata.raw.listing import read_lines
from tests.makers import make_es_imagenet, make_es_ucf101, make_images, write_npz
from tests.nasty import (
    LIMITS,
    MIB,
    array,
    at_most,
    chunk_file,
    header,
    npy_head,
    png,
    recordings,
    unpack,
    zip_bomb,
    zlib_zeros,
)
from train.recipe import load
from train.runs.folder import read_json, read_rows
from train.weights import load_state


@pytest.mark.parametrize("declared", [None, 1000])
def test_a_zip_bomb_as_npz_is_refused(tmp_path, declared):
    """Three MiB declare 3 GiB, or only a kilobyte."""
    head = npy_head(f"({3072 * MIB // 3}, 3)")
    raw = zip_bomb(tmp_path / "a.npz", "pos.npy", 3072, head, declared)
    assert raw.stat().st_size < 4 * MIB
    with at_most(32), pytest.raises(InputError, match="larger than|declares|damaged"):
        read_npz(raw, ("pos",), 2**21)
    events = zip_bomb(tmp_path / "events.npz", "e.npy", 3072, head, declared)
    with at_most(32), pytest.raises(InputError, match="declare|damaged"):
        read_events(events)


def test_a_zip_bomb_as_archive_is_refused(tmp_path):
    for declared in (None, 1000):
        archive = zip_bomb(tmp_path / "a.zip", "x.npz", 1024, declared=declared)
        with at_most(32), pytest.raises(InputError, match="declares|not of the size|damaged"):
            unpack([archive], tmp_path / "out", LIMITS)
        assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_bomb_in_a_compressed_tar_is_refused(tmp_path, pack):
    info = tarfile.TarInfo("x.npz")
    info.size = 16 * MIB
    (tmp_path / "a.tar.x").write_bytes(pack(info.tobuf() + bytes(16 * MIB)))
    with at_most(64), pytest.raises(InputError, match="declares"):
        unpack([tmp_path / "a.tar.x"], tmp_path / "out", LIMITS)
    assert not any((tmp_path / "out").iterdir())


def test_a_zip_bomb_as_checkpoint_is_refused(tmp_path):
    torch.save({"a": torch.zeros(16 * MIB // 4)}, tmp_path / "whole.pt")
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as whole,
        zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with (
        at_most(8),
        pytest.raises(InputError, match="is compressed, unlike files that torch writes"),
    ):
        load_state(tmp_path / "a.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_with_a_slow_name_is_refused(tmp_path, legacy):
    """torch searches the text of its own error, which has the name in it, in quadratic time."""
    torch.save({"a": Odd()}, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    data = (tmp_path / "a.pt").read_bytes()
    if legacy:
        (tmp_path / "a.pt").write_bytes(data.replace(b"\nOdd\n", b"\n" + b"x" * 300_000 + b"\n"))
    else:
        with zipfile.ZipFile(tmp_path / "a.pt") as sound:
            members = {name: sound.read(name) for name in sound.namelist()}
        with zipfile.ZipFile(tmp_path / "a.pt", "w") as changed:
            for name, content in members.items():
                changed.writestr(name, content.replace(b"\nOdd\n", b"\n" + b"x" * 300_000 + b"\n"))
    started = time.process_time()
    with pytest.raises(InputError, match="a name of 300,0.. characters"):
        load_state(tmp_path / "a.pt")
    assert time.process_time() - started < 20  # half an hour without the check


class Odd:
    """A class that no checkpoint has."""


def pickled(path, pickle, legacy=False):
    """Write a torch file with this pickle (protocol 2, without its first two bytes)."""
    torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=not legacy)
    if legacy:
        data = path.read_bytes()
        start = data.index(b"\x80\x02}q\x00X\x01\x00\x00\x00a")
        path.write_bytes(data[:start] + b"\x80\x02" + pickle + data[data.index(b".", start) + 1 :])
        return path
    with zipfile.ZipFile(path) as sound:
        members = {name: sound.read(name) for name in sound.namelist()}
    with zipfile.ZipFile(path, "w") as changed:
        for name, content in members.items():
            changed.writestr(name, b"\x80\x02" + pickle if name.endswith("data.pkl") else content)
    return path


def long(value):
    return b"\x8a\x08" + value.to_bytes(8, "little")


HUGE_NUMBER = long(3 << 30)
STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0%sX\x03\0\0\0cpu%stQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(%sK\0%s\x85K\x01\x85\x89}tR"
THOUSANDS = b"](" + b"K\x01" * 20_000 + b"eq\x01"
PICKLES = {
    "bytearray": (b"cbuiltins\nbytearray\n" + HUGE_NUMBER + b"\x85R.", "asks for builtins.byte"),
    "a tensor": (b"ctorch\nTensor\n" + HUGE_NUMBER + b"\x85R.", "not callable"),
    "a storage": (b"ctorch.storage\nUntypedStorage\n" + HUGE_NUMBER + b"\x85R.", "not callable"),
    "a new tensor": (b"ctorch\nFloatTensor\n" + HUGE_NUMBER + b"\x85\x81.", "asks for torch.Float"),
    "a new storage": (b"ctorch\nFloatStorage\n" + HUGE_NUMBER + b"\x85\x81.", "makes an object"),
    "doubling": (b"c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0hex\x86R.", "asks for _codecs"),
    "numbers without data": (STORAGE % (b"0", HUGE_NUMBER) + b".", "declares 12,884,901,888 bytes"),
    "no such member": (STORAGE % (b"7", b"K\x01") + b".", "declares 4 bytes"),
    "larger than its storage": (
        TENSOR % (STORAGE % (b"0", b"K\x02"), HUGE_NUMBER) + b".",
        "more numbers than its storage",
    ),
    "sets": (
        THOUSANDS + b"(" + b"c__builtin__\nset\nh\x01\x85R" * 3000 + b"t.",
        "copies the same values",
    ),
    "a key that takes forever": (b"}K\x01" + b"q\x01h\x01\x86" * 200 + b"K\x01s.", "a key in it"),
    "attributes": (b"ctorch\nSize\n)\x85R}b.", "sets attributes"),
}


@pytest.mark.parametrize("case", PICKLES)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_with_a_pickle_bomb_is_refused(tmp_path, case, legacy):
    """torch calls bytearray(3 << 30) for an untrusted file even with weights_only=True."""
    content, message = PICKLES[case]
    if legacy:
        content = content.replace(b"tQ", b"NtQ")
        message = "can't be read" if case == "no such member" else message  # the data that it lacks
    path = pickled(tmp_path / "a.pt", content, legacy)
    with at_most(8), pytest.raises(InputError, match=message):
        load_state(path)


def test_a_checkpoint_of_two_archives_is_refused(tmp_path):
    """zipfile adds the bytes before an archive to its offsets, but torch does not."""
    path = pickled(tmp_path / "a.pt", b"}.")
    plain = path.read_bytes()
    for data in (b"PK\x03\x04" + plain, plain + b"\0", plain[:-2] + b"\1\0 "):
        path.write_bytes(data)
        with pytest.raises(InputError, match="end of its archive"):
            load_state(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/DATA.PKL", b"\x80\x02}.")
    with pytest.raises(InputError, match="two members"):
        load_state(path)


def test_a_checkpoint_of_a_huge_shape_without_data_is_refused(tmp_path):
    """With strides of zero, one number is a tensor of any shape; its mean would take forever."""
    torch.save({"stem.conv.weight": torch.zeros(1).expand(8, 10**12, 7, 7)}, tmp_path / "a.pt")
    with at_most(8), pytest.raises(InputError, match="'stem.conv.weight' is .* more numbers"):
        load_state(tmp_path / "a.pt")


def test_image_bombs_take_little_memory(tmp_path):
    """Images have 60,000 x 60,000 pixels, or pixels, text or a profile that inflate without end."""
    path = tmp_path / "a.png"
    for content, says in (
        (png(60_000, 60_000, (b"IDAT", zlib_zeros(1))), f"more than {MAX_PIXELS:,}"),
        (png(30_000, 1000, (b"IDAT", zlib_zeros(1))), "can't be decoded"),
        (png(8, 8, (b"zTXt", b"k\0\0" + zlib_zeros(1024))), "can't be decoded"),
    ):
        path.write_bytes(content)
        with at_most(260), pytest.raises(InputError, match=says):
            read_picture(path)
    for chunk in ((b"IDAT", zlib_zeros(1024)), (b"iCCP", b"k\0\0" + zlib_zeros(1024))):
        path.write_bytes(png(8, 8, chunk, (b"IDAT", zlib_zeros(1))))
        with at_most(64), contextlib.suppress(InputError):
            assert not read_picture(path).any()


def test_a_video_of_an_absurd_size_is_refused(tmp_path):
    """The header and the second frame have different sizes, one of them 16,000 x 16,000 pixels."""
    av = pytest.importorskip("av")
    path = tmp_path / "a.mov"
    frames = [png(64, 48, (b"IDAT", zlib.compress(bytes(193 * 48))))] * 2
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        for number, data in enumerate([frames[0], png(16_000, 16_000, (b"IDAT", zlib_zeros(770)))]):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts = stream, number, number
            container.mux(packet)
    with at_most(64), pytest.raises(InputError, match="can't be decoded"):
        read_clip(path, VideoSettings(steps=1, size=(48, 64)))
    content = path.read_bytes()
    at = content.index(b"png ", content.index(b"stsd")) + 28
    assert content[at : at + 4] == struct.pack(">HH", 64, 48)
    path.write_bytes(content[:at] + struct.pack(">HH", 65_000, 65_000) + content[at + 4 :])
    with at_most(64), pytest.raises(InputError):
        read_clip(path, VideoSettings(steps=1, size=(48, 64)))


# Huge declared shapes.


@pytest.mark.parametrize("shape", ["(10**12, 3)", f"({10**12}, 3)", f"({2**63}, {2**63})", "()"])
def test_an_npy_file_of_a_huge_shape_is_refused(tmp_path, shape):
    (tmp_path / "a.npy").write_bytes(npy_head(shape) + bytes(30))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("pos.npy", npy_head(shape) + bytes(30))
    with at_most(8), pytest.raises(InputError, match="damaged header|do not fit"):
        read_events(tmp_path / "a.npy")
    with at_most(8), pytest.raises(InputError, match="damaged header|do not fit"):
        read_npz(tmp_path / "a.npz", ("pos",), 1000)
    folder = tmp_path / "DVSGesture/ibmGestureTrain/user01_lab"
    folder.mkdir(parents=True)
    shutil.copy(tmp_path / "a.npy", folder / "1.npy")
    with at_most(32), pytest.raises(InputError, match="1.npy"):
        eventdata.convert("tonic:DVSGesture", tmp_path, tmp_path / "out.zarr", frames=2)


def test_recordings_with_an_event_bomb_are_refused(tmp_path):
    """A few kilobytes unpack to 512 MiB: in one packet, in many, or as columns."""
    whole = recordings.aedat4_file("ZSTD")
    zeros = zstandard.ZstdCompressor().compress(bytes(16 * MIB))
    for name, content in (
        ("a.aedat4", whole + recordings.aedat4_packet(zeros * 32)),
        ("b.aedat4", whole + recordings.aedat4_packet(zeros) * 32),
        ("c.aedat4", recordings.aedat4_file("LZ4") + recordings.aedat4_packet(lz4_zeros(512))),
    ):
        (tmp_path / name).write_bytes(content)
        # the first packet of zeros is no flatbuffer of events
        with (
            at_most(96),
            pytest.raises(InputError, match="damaged" if name[0] == "b" else "too many"),
        ):
            read_events(tmp_path / name)
        with at_most(8), pytest.raises(InputError, match="too many"):
            check_aedat4(tmp_path / name)
    columns = dict.fromkeys("xytp", np.zeros(2**23, np.uint8))
    write_npz(tmp_path / "d.npz", **columns)
    with at_most(64), pytest.raises(InputError, match="too many for a file of"):
        read_events(tmp_path / "d.npz")


def lz4_zeros(mib):
    with lz4.frame.LZ4FrameCompressor() as packer:
        parts = [packer.begin(), *(packer.compress(bytes(MIB)) for _ in range(mib))]
        return b"".join([*parts, packer.flush()])


def test_recordings_of_a_huge_sensor_are_refused(tmp_path):
    """The sensor size in a header decides a sample's size, which is limited to half a GiB."""
    es = recordings.es_file()
    for name, content in (
        ("a.es", es[:16] + struct.pack("<HH", 65_535, 65_535) + es[20:]),
        ("b.es", es[:16] + struct.pack("<HH", 32_767, 32_767) + es[20:]),
        ("c.raw", recordings.evt3_file().replace(b"32x16", b"99999x99999")),
        ("d.aedat4", recordings.aedat4_file().replace(b">16<", b">2147483647<")),
    ):
        folder = tmp_path / name.replace(".", "-")
        (folder / "class").mkdir(parents=True)
        (folder / "class" / name).write_bytes(content)
        with at_most(32), pytest.raises(EventDataError):
            eventdata.convert("recordings", folder, tmp_path / "out.zarr", frames=100)


def grid(document):
    return document["chunk_grid"]["configuration"]["chunk_shape"]


def both(document, axis, value):
    """Set a side of the samples in every document of the store that has it."""
    inner = document["codecs"][0]["configuration"]["chunk_shape"]
    for shape in (document["shape"], grid(document), inner):
        shape[axis] = value


HUGE = {
    "samples": array("all/frames", lambda d: d["shape"].__setitem__(0, 10**12)),
    "samples everywhere": lambda store: [
        array(f"all/{path.parent.name}", lambda d: d["shape"].__setitem__(0, 10**12))(store)
        for path in store.glob("all/*/zarr.json")
    ],
    "rows": array("all/frames", lambda d: both(d, 3, 10**9)),
    "rows and columns": array("all/frames", lambda d: [both(d, 3, 2**40), both(d, 4, 2**40)]),
    "shard": array("all/frames", lambda d: grid(d).__setitem__(0, 10**15)),
    "steps": header(lambda d: d.update(steps=10**15)),
    "shard that lies in a file": lambda store: [
        array("all/frames", lambda d: grid(d).__setitem__(0, 2**36))(store),
        os.truncate(store / "all/frames/c/0/0/0/0/0", 1 << 40),
    ],
    "endless number": array("all/frames", lambda d: d["shape"].__setitem__(0, 10**4000)),
    "no rows": array("all/frames", lambda d: both(d, 3, 0)),
    "column": array("all/label", lambda d: d["shape"].__setitem__(0, 10**12)),
    "chunk of a column": array("all/label", lambda d: grid(d).__setitem__(0, 10**12)),
    "chunk of names": array("all/name", lambda d: grid(d).__setitem__(0, 2**31)),
    "type": array("all/frames", lambda d: d.update(data_type="S999999999")),
}


@pytest.mark.parametrize(
    "key",
    [
        "zarr.json",
        "skipped.json",
        "all/zarr.json",
        "all/frames/zarr.json",
        "all/label/zarr.json",
        "all/label/c/0",
        "all/name/c/0",
        "all/frames/c/0/0/0/0/0",
    ],
)
def test_a_huge_sparse_file_in_a_store_is_reported(store, key):
    """A sparse file of a terabyte takes no space on the disk."""
    with (store / key).open("ab") as file:
        file.truncate(1 << 40)
    with at_most(8):
        with contextlib.suppress(StoreError):
            describe(eventdata.open_store(store))
        try:
            problems = eventdata.verify(store).problems
        except StoreError as error:
            problems = [error]
    assert any(f"{key}: damaged (1,099,511,627,776 bytes" in str(one) for one in problems)


@pytest.mark.parametrize("case", HUGE)
def test_a_store_of_a_huge_shape_is_reported(store, case):
    """Every command refuses the store or reports the fault at once."""
    HUGE[case](store)

    def look():
        opened = eventdata.open_store(store)
        facts = describe(opened)
        columns = opened.split("all").labels, opened.split("all").sample_names
        eventdata.FrameDataset(store, "all")[0]
        return facts, columns

    with at_most(32), contextlib.suppress(StoreError):
        look()
    with at_most(32):
        try:
            sound = eventdata.verify(store).ok
        except StoreError:
            sound = False
    assert not sound


def test_zstd_that_declares_or_holds_too_much_is_refused(store):
    """A column's chunk holds 256 MiB of zeros, or declares a TiB."""
    packer = zstandard.ZstdCompressor(level=1)
    bomb = packer.compress(bytes(256 * MIB))
    declares = bytearray(zstandard.ZstdCompressor(level=1).compress(bytes(2**17)))
    assert declares[4] == 0x84 or declares[4] & 0xC0  # the size takes four bytes or more
    for content in (bomb, bytes(declares[:5]) + b"\xff" * 8 + bytes(declares[13:])):
        for name in ("label", "name"):
            (store / f"all/{name}/c/0").write_bytes(chunk_file(content))
            opened = eventdata.open_store(store)
            with at_most(32), pytest.raises(StoreError, match="damaged"):
                opened.split("all").labels, opened.split("all").sample_names


def test_names_that_unpack_to_too_much_are_refused(store):
    """Letters of four bytes each take most memory once one of them is uncommon."""
    (store / "all/name/c/0").unlink()
    document = json.loads((store / "all/name/zarr.json").read_text())
    (chunk,) = document["chunk_grid"]["configuration"]["chunk_shape"]
    text = ("a" * (8 * MIB // chunk) + "\U0001f600").encode()
    raw = chunk.to_bytes(4, "little") + chunk * (len(text).to_bytes(4, "little") + text)
    packed = zstandard.ZstdCompressor(level=1).compress(raw)
    assert len(packed) < 2**13
    (store / "all/name/c/0").write_bytes(chunk_file(packed))
    with at_most(8), pytest.raises(StoreError, match="declares"):
        list(eventdata.open_store(store).split("all").sample_names)


def test_lists_of_a_tib_are_refused(tmp_path):
    """Lists of zeros take no space on the disk."""
    events = make_es_imagenet(tmp_path / "events", train=1, val=0)
    images = make_images(tmp_path / "images", train=2, val=0)
    lists = tmp_path / "lists"
    lists.mkdir()
    for path in (events / "trainlabel.txt", tmp_path / "list.txt", lists / "classInd.txt"):
        path.touch()
        os.truncate(path, 2**40)
    for source, folder, options in (
        ("es-imagenet", events, {}),
        ("images", images, {"list": tmp_path / "list.txt"}),
        ("images", images, {"classes": tmp_path / "list.txt"}),
        ("es-ucf101", make_es_ucf101(tmp_path / "ucf"), {"splits": lists, "fold": 1}),
    ):
        with at_most(16), pytest.raises(InputError, match="1,099,511,627,776 bytes are more than"):
            eventdata.convert(source, folder, tmp_path / "out.zarr", **options)


def test_long_lists_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("eventdata.raw.listing.MAX_LIST_BYTES", 10)
    url = f"memory://{uuid.uuid4().hex}"
    for text in (b"123456789\n", b"1234567890\n"):
        (tmp_path / "list.txt").write_bytes(text)
        with fsspec.open(f"{url}/list.txt", "wb") as file:
            file.write(text)
        for place in (tmp_path, url):
            path = open_input(place) / "list.txt"
            if len(text) == 10:
                assert read_lines(path) == ["123456789"]
                continue
            with pytest.raises(InputError, match=f"^{path}: 11 bytes are more than the 10 of a li"):
                read_lines(path)


def no_memory(*_, **__):
    raise MemoryError


def test_memory_that_runs_out_in_listing_is_an_error(tmp_path, monkeypatch):
    for name in "ab":
        write_npz(tmp_path / "raw" / name / "1.npz", **{key: np.arange(9) % 2 for key in "xytp"})
    given = {"frames": 2, "sensor_size": "2x2"}
    for target, options in (
        ("eventdata.formats.columns.list_members", {"frames": 2}),
        ("eventdata.formats.columns.list_members", given),
        ("eventdata.formats.columns.list_members", {**given, "every": 4}),
        ("eventdata.raw.recordings.survey", {**given, "every": 4}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, no_memory)
            with pytest.raises(EventDataError, match=r"a/1.npz: memory ran out"):
                eventdata.convert("recordings", tmp_path / "raw", tmp_path / "out.zarr", **options)
    monkeypatch.setattr(Path, "read_text", no_memory)
    (tmp_path / "list.txt").touch()
    options = {"list": tmp_path / "list.txt"}
    with pytest.raises(EventDataError, match=r"list.txt: memory ran out"):
        eventdata.convert("images", tmp_path / "raw", tmp_path / "out.zarr", **options)


def test_deep_images_take_no_more_memory_than_others(tmp_path):
    """A small white image of 16 bits per pixel has many pixels."""
    deep = np.full((4096, 4096), 65535, np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    del deep
    with at_most(16 * 20):
        assert (read_picture(tmp_path / "a.png") == 255).all()


def test_a_chunk_that_is_a_bomb_or_lies_outside_is_refused(store):
    """Index and checksums are right, but the chunk unpacks to 32 MiB or lies outside the shard."""
    path = store / "all/frames/c/0/0/0/0/0"
    content = path.read_bytes()
    index = np.frombuffer(content[-16 * 4 - 4 : -4], "<u8").copy()
    bomb = chunk_file(zstandard.ZstdCompressor(level=1).compress(bytes(32 * MIB)))
    index[:4] = (0, len(bomb)) * 2  # both are bytes
    path.write_bytes(bomb + chunk_file(index.tobytes()))
    with at_most(8), pytest.raises(StoreError, match="holds 33554432 bytes, not 512"):
        eventdata.FrameDataset(store, "all")[0]
    for offset, length in ((2**64 - 2, 8), (0, 2**63), (2**63, 2**63), (len(content), 1)):
        index[:2] = offset, length
        path.write_bytes(content[: -16 * 4 - 4] + chunk_file(index.tobytes()))
        with at_most(32), pytest.raises(StoreError, match="points outside|impossible"):
            eventdata.FrameDataset(store, "all")[0]


def test_huge_sparse_files_in_the_output_are_refused(tmp_path):
    """Files where a command will write are read with the same limits."""
    raw, images = make_es_imagenet(tmp_path / "raw"), make_images(tmp_path / "images")
    whole = tmp_path / "whole.zarr"
    eventdata.convert("es-imagenet", raw, whole, shard_size=4)
    begun = whole / ".work"
    begun.mkdir()
    text = (whole / "zarr.json").read_text().replace('"complete": true', '"complete": false')
    (whole / "zarr.json").write_text(text)
    record = begun / "train-0.json"
    record.touch()
    os.truncate(record, 1 << 40)
    with at_most(32):
        assert eventdata.convert("es-imagenet", raw, whole, shard_size=4).done_before == 0
    for path in (whole / "train/label/c/0", whole / "zarr.json"):
        kept = path.read_bytes()
        os.truncate(path, 1 << 40)
        with at_most(32), pytest.raises(StoreError, match=f"{path}: damaged|{path.parent.parent}"):
            eventdata.convert("es-imagenet", raw, whole, shard_size=4)
        path.write_bytes(kept)
    (tmp_path / "made").mkdir()
    (tmp_path / "made/generated.json").touch()
    os.truncate(tmp_path / "made/generated.json", 1 << 40)
    with at_most(32), pytest.raises(StoreError, match="generated.json: damaged; choose another"):
        generate("es-imagenet", images, tmp_path / "made")


def test_huge_sparse_recipes_and_results_are_refused(tmp_path):
    for name, read, message in (
        ("a.toml", lambda path: load(str(path)), "at most 1,048,576"),
        ("result.json", read_json, "at most 1,073,741,824"),
        ("epochs.csv", read_rows, "at most 1,073,741,824"),
    ):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 40)
        with at_most(8), pytest.raises(InputError, match=message):
            read(tmp_path / name)
