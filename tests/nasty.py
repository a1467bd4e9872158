"""Make malicious files by hand, and bound the memory that reading them may take."""

import contextlib
import json
import struct
import zlib
from pathlib import Path

from eventdata.formats.image import read_picture
from eventdata.formats.npz import read_npz
from eventdata.formats.recording import read_events
from eventdata.formats.video import read_clip
from eventdata.kernels.video import VideoSettings
from eventdata.raw.listing import read_lines
from eventdata.store.shard import crc32c
from tests.fuzz.cases import reset_peak
from tests.fuzz.seeds import raw, recordings, stores, training, trees
from tools.archives import Limits, unpack
from tools.bench.report import resident
from train.recipe import load
from train.runs.folder import read_json, read_rows
from train.weights import load_state

__all__ = [
    "raw",
    "recordings",
    "stores",
    "training",
    "trees",
    "unpack",
]  # for tests in folders that can't import these modules

MIB = 1 << 20
CAN_MEASURE = Path("/proc/self/clear_refs").exists()
LIMITS = Limits(file_bytes=4 * MIB, total_bytes=8 * MIB)

# A reader for each kind of file that is read on its own, by the file's name.
READ_ONE = {
    "a.npz": lambda path: read_npz(path, ("pos",), 1000),
    "trainlabel.txt": read_lines,
    "a.jpg": read_picture,
    "a.avi": lambda path: read_clip(path, VideoSettings()),
    **{
        f"a{suffix}": read_events
        for suffix in (".aedat4", ".aedat", ".raw", ".dat", ".bin", ".es", ".npy")
    },
    "events.npz": read_events,
    "a.zip": lambda path: unpack([path], path.parent / "out", LIMITS),
    "a.toml": lambda path: load(str(path)),
    "a.pt": load_state,
    "a.safetensors": load_state,
    "result.json": read_json,
    "epochs.csv": read_rows,
}


@contextlib.contextmanager
def at_most(mib):
    """Assert that the block needs at most this much more memory; only Linux reports it."""
    if not CAN_MEASURE:
        yield
        return
    reset_peak()
    before = resident("VmRSS")
    yield
    assert resident("VmHWM") - before < mib * MIB


def zeros_deflated(mib):
    """Return a raw deflate stream of this many MiB of zeros, in blocks that can be repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * mib + packer.flush()


def zip_bomb(path, name, mib, head=b"", declared=None):
    """Write a zip whose member inflates to ``head`` and ``mib`` MiB but may declare less."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH) + zeros_deflated(mib)
    size = len(head) + mib * MIB if declared is None else declared
    crc = zlib.crc32(head)
    fields = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, crc, len(data), size, len(name), 0)
    local = b"PK\x03\x04" + fields + name.encode() + data
    entry = b"PK\x01\x02\x14\0" + fields + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name.encode()
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local), 0)
    path.write_bytes(local + entry + end)
    return path


def npy_head(shape, descr="|u1"):
    """Return the header of an npy file that declares a shape."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def png(width, height, *chunks):
    """Return a PNG of 8-bit RGB with these chunks (type, data) and correct checksums."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    made = b"\x89PNG\r\n\x1a\n"
    for kind, data in (header, *chunks, (b"IEND", b"")):
        made += struct.pack(">I", len(data)) + kind + data
        made += struct.pack(">I", zlib.crc32(kind + data))
    return made


def zlib_zeros(mib):
    """Return this many MiB of zeros, compressed by zlib."""
    return b"\x78\x9c" + zeros_deflated(mib) + struct.pack(">I", 1)


def chunk_file(content):
    """Return bytes with their checksum, as in a chunk of a store."""
    return content + crc32c(content)


def edit(path, change):
    """Change a JSON document in place."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def header(change):
    """Return a function that changes the `eventdata` attributes of a store."""

    def change_header(document):
        change(document["attributes"]["eventdata"])

    return lambda store: edit(store / "zarr.json", change_header)


def array(key, change):
    """Return a function that changes an array's zarr.json in a store."""
    return lambda store: edit(store / key / "zarr.json", change)
