"""The npz reader reports any fault of a file as one clear InputError."""

import contextlib
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventdata.errors import InputError
from eventdata.formats import npz as npz_module
from eventdata.formats.npz import list_members, parse_npz, read_npz

LIMIT = 100_000


def npz(compress=True, **arrays):
    stream = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(stream, **arrays)
    return stream.getvalue()


def zipped(compression=zipfile.ZIP_DEFLATED, **members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return stream.getvalue()


def npy_header(descr="|u1", shape="(5, 3)", order="False"):
    text = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


events = np.arange(30, dtype=np.uint8).reshape(10, 3)


@pytest.mark.parametrize("compress", [True, False])
def test_files_of_numpy_are_read(tmp_path, compress):
    path = tmp_path / "a.npz"
    path.write_bytes(npz(compress, pos=events, neg=np.asfortranarray(events[:4])))
    pos, neg = read_npz(path, ("pos", "neg"), LIMIT)
    np.testing.assert_array_equal(pos, events)
    np.testing.assert_array_equal(neg, events[:4])
    assert not pos.flags.writeable


def commented(content):
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a") as file:
        file.comment = b"made by hand"
    return stream.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        commented,
        lambda content: b"#!/bin/sh\n" + content,
        lambda content: content.replace(b"neg.npy", "né.npy".encode()),
    ],
    ids=["comment", "something before", "a name in UTF-8"],
)
def test_unusual_zips_are_read(change):
    """The result equals that of zipfile, and of the fast path for plain zips."""
    content = npz(pos=events, neg=events)
    assert list_members(content) == {
        member.name: member for member in (npz_module._list_plain(content) or ())
    }
    changed = change(content)
    assert npz_module._list_plain(changed) is None
    (pos,) = parse_npz(changed, ("pos",), LIMIT)
    np.testing.assert_array_equal(pos, events)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_damaged_directory_gives_the_same_as_zipfile(data):
    content = bytearray(npz(pos=events, neg=events))
    start = content.find(b"PK\x01\x02")
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(start, len(content) - 1))] = data.draw(st.integers(0, 255))
    plain = npz_module._list_plain(bytes(content))
    if plain is not None:
        infos = zipfile.ZipFile(io.BytesIO(content)).infolist()
        assert [(m.name, m.header, m.method, m.packed_size, m.size, m.crc) for m in plain] == [
            (i.filename, i.header_offset, i.compress_type, i.compress_size, i.file_size, i.CRC)
            for i in infos
        ]


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle from a file was loaded",))


BAD = {
    "truncated": (npz(pos=events)[:-30], "not a whole zip"),
    "not a zip": (b"hello world, this is no zip file", "not a whole zip"),
    "empty": (b"", "not a whole zip"),
    "missing key": (npz(neg=events), "no array 'pos'"),
    "other dtype": (npz(pos=events.astype(np.int32)), "holds int32, not uint8"),
    "objects": (npz(pos=np.array([Evil()], dtype=object)), "never unpickled"),
    "raw pickle": (zipped(pos=pickle.dumps(Evil())), "damaged header"),
    "unknown version": (zipped(pos=b"\x93NUMPY\x09\x00" + bytes(50)), "damaged header"),
    "header is code": (
        zipped(pos=npy_header(shape="__import__('os')") + bytes(15)),
        "damaged header",
    ),
    "too few data": (zipped(pos=npy_header() + bytes(14)), "do not fit"),
    "too many data": (zipped(pos=npy_header() + bytes(16)), "do not fit"),
    "huge shape": (zipped(pos=npy_header(shape="(2**40, 3)") + bytes(15)), "damaged header"),
    "huge number": (zipped(pos=npy_header(shape=f"({10**15}, 3)") + bytes(15)), "do not fit"),
    "overflowing shape": (zipped(pos=npy_header(shape=f"({2**32}, {2**32})")), "do not fit"),
    "endless number": (
        zipped(pos=npy_header(shape=f"({'9' * 5000},)")),
        "damaged header|do not fit",
    ),
    "truth as a length": (zipped(pos=npy_header(shape="(True, 3)") + bytes(3)), "do not fit"),
    "negative shape": (zipped(pos=npy_header(shape="(-5, -3)") + bytes(15)), "do not fit"),
    "too many axes": (zipped(pos=npy_header(shape=f"({'1, ' * 65})") + bytes(1)), "no arrays"),
    "empty but too large": (zipped(pos=npy_header(shape=f"(0, {10**15}, {10**15})")), "no arrays"),
    "declares too much": (zipped(pos=npy_header() + bytes(LIMIT)), "declares"),
    "odd compression": (zipped(zipfile.ZIP_BZIP2, pos=npy_header() + bytes(15)), "unknown method"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_clear_error(tmp_path, case):
    content, says = BAD[case]
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        read_npz(path, ("pos",), LIMIT)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bomb_is_not_inflated():
    """A member that inflates to more than its header says is refused after one extra byte."""
    data = bytearray(zipped(pos=npy_header() + bytes(50_000_000)))
    for at in (data.find(b"PK\x03\x04") + 22, data.find(b"PK\x01\x02") + 24):
        data[at : at + 4] = struct.pack("<I", 500)
    with pytest.raises(InputError, match="damaged"):
        parse_npz(bytes(data), ("pos",), LIMIT)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200) | st.text("(),0123456789TrueL'{}: ", max_size=80).map(str.encode))
def test_any_header_is_an_input_error_or_read(shape):
    content = npy_header(shape="SHAPE").replace(b"SHAPE", shape)
    length = len(content) - 10
    content = content[:8] + struct.pack("<H", length % 65536) + content[10:]
    with contextlib.suppress(InputError):
        parse_npz(zipped(pos=content + bytes(12)), ("pos",), LIMIT)


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(InputError, match="not a plain file"):
        read_npz(tmp_path / "pipe.npz", ("pos",), LIMIT)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="can't be read"):
        read_npz(tmp_path / "none.npz", ("pos",), LIMIT)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_damage_is_an_input_error_or_harmless(data):
    content = bytearray(npz(pos=events, neg=events))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        arrays = parse_npz(bytes(content), ("pos", "neg"), LIMIT)
    except InputError:
        return
    for array in arrays:  # checksums cover the data, but not every byte of the zip's own headers
        np.testing.assert_array_equal(array, events)
