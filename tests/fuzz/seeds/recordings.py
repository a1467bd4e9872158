"""Recordings of each format, assembled byte by byte, and datasets of Tonic."""

import io
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import hdf5plugin
import lz4.frame
import numpy as np
import zstandard
from numpy.typing import NDArray

from eventdata.events import EVENT_DTYPE
from tests.fuzz.seeds.trees import Real, Tree, drawn, npy, npz, real_files
from tools.bags import write_bag


def events(count: int = 200, side: int = 16) -> NDArray[np.void]:
    """Return events of a small sensor, in order."""
    rng = drawn()
    made = np.zeros(count, EVENT_DTYPE)
    made["x"], made["y"] = rng.integers(0, side, (2, count))
    made["t"] = np.cumsum(rng.integers(0, 50, count))
    made["p"] = rng.integers(0, 2, count)
    return made


def bin_file() -> bytes:
    """Return a file in N-MNIST's format."""
    parts = events()
    rows = [parts["x"], parts["y"], parts["p"] << 7 | (t := parts["t"]) >> 16, t >> 8, t]
    return np.stack([np.asarray(row) & 0xFF for row in rows], axis=1).astype(np.uint8).tobytes()


def dat_file() -> bytes:
    """Return a file in Prophesee's DAT format."""
    parts = events()
    word = parts["x"].astype(np.uint32) | parts["y"].astype(np.uint32) << 14
    word |= parts["p"].astype(np.uint32) << 28
    body = np.stack([parts["t"].astype(np.uint32), word], axis=1).astype("<u4").tobytes()
    return b"% Data file\n% Version 2\n% Width 16\n% Height 16\n\x0c\x08" + body


def evt2_file() -> bytes:
    """Return a file in Prophesee's EVT 2.0 format."""
    words = [8 << 28]
    for x, y, t, p in events().tolist():
        words += [8 << 28 | t >> 6] if t >> 6 != words[-1] & 0xFFF_FFFF else []
        words.append(int(p) << 28 | (t & 63) << 22 | x << 11 | y)
    header = b"% evt 2.0\n% format EVT2;height=16;width=16\n% end\n"
    return header + np.array(words, "<u4").tobytes()


def dat1_file() -> bytes:
    """Return a file in version 1 of Prophesee's DAT format."""
    parts = events()
    word = parts["x"].astype(np.uint32) | parts["y"].astype(np.uint32) << 9
    word |= parts["p"].astype(np.uint32) << 17
    body = np.stack([parts["t"].astype(np.uint32), word], axis=1).astype("<u4").tobytes()
    return b"% Data file\n% Version 1\n\x00\x08" + body


def evt21_file() -> bytes:
    """Return a file in Prophesee's EVT 2.1 format."""
    words = []
    for x, y, t, p in events().tolist():
        words += [8 << 60 | (t >> 6) << 32, int(p) << 60 | (t & 63) << 54 | y << 32 | 1 << x | 8]
    header = b"% evt 2.1\n% format EVT21;height=16;width=32;endianness=little\n% end\n"
    return header + np.array(words, "<u8").tobytes()


def text_file() -> bytes:
    """Return text in the form of RPG's events.txt."""
    rows = (f"{t / 1e6:.9f} {x} {y} {p:d}\n" for x, y, t, p in events().tolist())
    return ("16 16\n" + "".join(rows)).encode()


def csv_file() -> bytes:
    """Return text with names, commas and whole numbers."""
    rows = (f"{x},{y},{p:d},{t}\r\n" for x, y, t, p in events().tolist())
    return ("# events\r\nx,y,polarity,timestamp [us]\r\n" + "".join(rows)).encode()


def bag_file() -> bytes:
    """Return a ROS 1 bag."""
    rows = [(1 + t // 10**6, t % 10**6 * 1000, x, y, bool(p)) for x, y, t, p in events().tolist()]
    with tempfile.TemporaryDirectory() as folder:
        write_bag(Path(folder) / "a.bag", {"/dvs/events": rows})
        return (Path(folder) / "a.bag").read_bytes()


def evt3_file() -> bytes:
    """Return a file in Prophesee's EVT 3.0 format, with single events and vectors."""
    words = []
    for x, y, t, p in events().tolist():
        words += [8 << 12 | t >> 12, 6 << 12 | t & 4095, y, 2 << 12 | int(p) << 11 | x]
        words += [3 << 12 | int(p) << 11, 5 << 12 | 0x81, 4 << 12 | 0x101]
    header = b"% evt 3.0\n% geometry 32x16\n% end\n"
    return header + np.array(words, "<u2").tobytes()


def es_file() -> bytes:
    """Return a file in the Event Stream 2 format."""
    body = bytearray(b"Event Stream\x02\x00\x00\x01" + struct.pack("<HH", 16, 16))
    before = 0
    for x, y, t, p in events().tolist():
        pauses, rest = divmod(t - before, 127)
        body += b"\xff" * pauses + struct.pack("<BHH", rest << 1 | int(p), x, y)
        before = t
    return bytes(body)


def aedat2_file() -> bytes:
    """Return AEDAT 2.0 of a DVS128."""
    parts = events(side=128)
    address = (127 - parts["x"].astype(np.int64)) << 1 | (127 - parts["y"].astype(np.int64)) << 8
    body = np.stack([address | ~parts["p"] & 1, parts["t"]], axis=1).astype(">u4").tobytes()
    return b"#!AER-DAT2.0\r\n# AEChip: DVS128\r\n" + body


def davis_file() -> bytes:
    """Return AEDAT 2.0 of a DAVIS240C, with words of other types."""
    parts = events(side=128)
    address = (239 - parts["x"].astype(np.int64)) << 12 | (179 - parts["y"].astype(np.int64)) << 22
    address |= parts["p"].astype(np.int64) << 11 | (np.arange(len(parts)) % 7 == 0) << 10
    body = np.stack([address, parts["t"]], axis=1).astype(">u4").tobytes()
    return b"#!AER-DAT2.0\r\n# AEChip: eu.seebetter.ini.chips.davis.DAVIS240C\r\n" + body


def aedat3_file() -> bytes:
    """Return AEDAT 3.1 of a DVS128, with a packet of special events."""
    content = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"
    for kind, part in ((1, events()[:90]), (0, events()[:5]), (1, events()[90:])):
        x, y, p = (part[field].astype(np.int64) for field in "xyp")
        word = x << 17 | y << 2 | p << 1 | 1
        count = len(part)
        content += struct.pack("<hhiiiiii", kind, 1, 8, 4, 0, count, count, count)
        content += np.stack([word, part["t"]], axis=1).astype("<u4").tobytes()
    return content


def gesture_folder(_: Real) -> list[Tree]:
    """Return DVS128 Gesture with a recording in each split."""
    tree: Tree = {}
    last = int(events()["t"][-1])
    for split, name in (("train", "user01_led"), ("test", "user24_lab")):
        tree[f"trials_to_{split}.txt"] = f"{name}.aedat\n".encode()
        tree[f"{name}.aedat"] = aedat3_file()
        rows = f"class,startTime_usec,endTime_usec\n1,0,{last // 2}\n11,{last // 2},{last}\n"
        tree[f"{name}_labels.csv"] = rows.encode()
    return [tree]


AEDAT4_XML = """<dv version="2.0"><node name="outInfo" path="/mainloop/Recorder/outInfo/">\
<node name="0" path="/mainloop/Recorder/outInfo/0/">\
<attr key="compression" type="string">{compression}</attr>\
<attr key="originalModuleName" type="string">capture</attr>\
<attr key="typeIdentifier" type="string">EVTS</attr>\
<node name="info" path="/mainloop/Recorder/outInfo/0/info/">\
<attr key="sizeX" type="int">16</attr><attr key="sizeY" type="int">16</attr>\
<attr key="source" type="string">DVXplorer</attr></node></node></node></dv>"""


def aedat4_file(compression: str = "NONE") -> bytes:
    """Return AEDAT 4.0, packed by NONE, LZ4 or ZSTD, with flatbuffers assembled here."""
    number, pack = AEDAT4_PACKERS[compression]
    xml = AEDAT4_XML.format(compression=compression).encode()
    xml += bytes(-len(xml) % 4 or 4)  # ends with a zero
    text = struct.pack("<I", len(xml.rstrip(b"\0"))) + xml
    # Root offset and name; vtable; table: compression, offset of the text, place of the data table.
    header = struct.pack("<I4s5H2x", 20, b"IOHE", 10, 20, 4, 12, 8)
    header += struct.pack("<iiIq", 12, number, 12, -1) + text
    parts = np.array_split(events(), 3)
    packets = b"".join(aedat4_packet(pack(_aedat4_events(part))) for part in parts)
    return b"#!AER-DAT4.0\r\n" + struct.pack("<I", len(header)) + header + packets


def aedat4_packet(content: bytes) -> bytes:
    """Return a packet of the first stream."""
    return struct.pack("<II", 0, len(content)) + content


def _aedat4_events(part: NDArray[np.void]) -> bytes:
    rows = np.zeros(len(part), "<i8, <i2, <i2, u1, V3")
    rows["f0"], rows["f1"], rows["f2"], rows["f3"] = (part[key] for key in "txyp")
    # The same; the table holds the offset of the events, which lie at a multiple of 8.
    body = struct.pack("<I4s3H2xiI4x", 16, b"EVTS", 6, 8, 4, 8, 8)
    body += struct.pack("<I", len(rows))
    body += rows.tobytes()
    return struct.pack("<I", len(body)) + body


# By name: the number in the header, and the function that packs a packet.
AEDAT4_PACKERS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "NONE": (0, bytes),
    "LZ4": (1, lz4.frame.compress),
    "ZSTD": (3, zstandard.ZstdCompressor().compress),
}


def hdf5_file(layout: str = "columns") -> bytes:
    """Return HDF5 with columns, a table or compounds of events, each compressed in another manner.

    The bytes are the same for each call: h5py stores no times.
    """
    made, content = events(), io.BytesIO()
    with h5py.File(content, "w") as file:
        if layout == "columns":
            for name in "xytp":
                column = made[name].astype("u4")
                file.create_dataset(
                    f"events/{name}", data=column, chunks=(64,), **hdf5plugin.Zstd()
                )
            file["ms_to_idx"] = np.arange(5)
        elif layout == "table":
            table = np.stack([made[name].astype("f8") for name in "xytp"], axis=1)
            for side, compression in (("left", "gzip"), ("right", "lzf")):
                options = {"chunks": (50, 4), "compression": compression, "shuffle": True}
                file.create_dataset(f"davis/{side}/events", data=table, **options)
        else:
            records = made.astype([("x", "u2"), ("y", "u2"), ("p", "i2"), ("t", "i8")])
            file.create_dataset("CD/events", data=records, chunks=(64,), **hdf5plugin.Blosc())
            file.attrs["geometry"] = "16x16"
    return content.getvalue()


def recordings(
    suffix: str, *makes: Callable[[], bytes], pattern: str = "none"
) -> Callable[[Real], list[Tree]]:
    """Return a function that makes recordings of a format, with real ones of ``pattern``."""

    def seeds(real: Real) -> list[Tree]:
        made: list[Tree] = [{f"a{suffix}": make()} for make in makes]
        return made + real_files(real, pattern, 1 << 22)

    return seeds


def table() -> NDArray[np.int64]:
    """Return events as a table with the columns t, x, y, p."""
    return np.stack([events()[name].astype(np.int64) for name in "txyp"], axis=1)


def npz_events() -> bytes:
    """Return event columns in an npz."""
    return npz(**{name: events()[name] for name in "xytp"})


def class_folders(_: Real) -> list[Tree]:
    """Return recordings of several formats in class folders."""
    return [
        {"left/a.npz": npz_events(), "left/b.dat": dat_file(), "right/a.es": es_file()},
        {f"{split}/{name}/a.raw": evt3_file() for split in ("train", "test") for name in "ab"},
    ]


def tonic_sets(real: Real) -> list[Tree]:
    """Return datasets as Tonic finds them."""
    gesture = np.column_stack([events()[name].astype(np.int64) for name in "xypt"])
    hand = np.column_stack([events()[name].astype(np.int64) for name in "txyp"])
    return [
        {f"NMNIST/Train/{label}/{n}.bin": bin_file() for label in (0, 7) for n in (1, 2)},
        {f"DVSGesture/ibmGestureTrain/user0{n}_lab/{n}.npy": npy(gesture) for n in (1, 2)},
        {f"POKERDVS/pips_train/{suit}/0.npy": npy(hand) for suit in ("he", "cl")},
        {f"CIFAR10DVS/{name}/a.aedat4": aedat4_file() for name in ("cat", "truck")},
    ]
