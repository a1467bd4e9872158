"""Make files by rules instead of damage; hypothesis draws them and knows awkward values."""

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import hypothesis
import numpy as np
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning
from hypothesis.extra import numpy as hnp

from tests.fuzz.seeds import raw, recordings, trees
from tests.fuzz.seeds.trees import Tree

Strategy = st.SearchStrategy[Any]

words = st.one_of(
    st.text(max_size=12),
    st.integers().map(str),
    st.sampled_from(["0", "1", "254", "255", "999", "1000", "a.npz", "..", "../x", "/x", "-"]),
)
values: Strategy = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside),
    max_leaves=8,
)
texts: Strategy = st.one_of(
    st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=300),
)


def lines(*fields: Strategy) -> Strategy:
    """Draw a file of lines with these fields, and some lines with fewer, more or other fields."""
    sound = st.tuples(*fields)
    line = st.one_of(sound, sound, st.lists(words, max_size=6)).map(" ".join)
    return st.builds(
        lambda end, rows: end.join(rows).encode("utf-8", "surrogatepass"),
        st.sampled_from(["\n", "\n", "\r\n", "\n\n"]),
        st.lists(line, max_size=5),
    )


def json_of(document: Mapping[str, Any]) -> Strategy:
    """Draw a document with other values in place of some of its own."""
    known = {key: st.one_of(st.just(value), values) for key, value in document.items()}
    return st.fixed_dictionaries(known).map(lambda made: json.dumps(made).encode())


numbers = st.one_of(st.integers(0, 300).map(str), words)
paths = st.one_of(st.sampled_from(["class0/class0_1.npz", "a.npz"]), words)
clips = st.one_of(
    st.sampled_from([f"{c}/v_{c}_g0{g}_c01.avi" for c in raw.CLASS_NAMES for g in (1, 2)]), words
)


def _npy_header() -> Strategy:
    shape = st.one_of(
        st.lists(st.integers(-1, 2**70), max_size=4).map(tuple).map(repr), st.text(max_size=20)
    )
    kinds = [
        "|u1",
        "<i8",
        "<f8",
        "|O",
        "<U9999999",
        "|V0",
        ">M8[ns]",
        "[('x', '<i2'), ('t', '<f8')]",
    ]
    kind = st.one_of(st.sampled_from(kinds).map(repr), st.text(max_size=20))
    order = st.sampled_from(["False", "True", "1", "None"])
    return st.builds(
        lambda k, o, s: f"{{'descr': {k}, 'fortran_order': {o}, 'shape': {s}, }}",
        kind,
        order,
        shape,
    ).map(lambda text: text.encode("utf-8", "surrogatepass"))


def _npy() -> Strategy:
    return st.builds(
        lambda header, body: b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + body,
        _npy_header(),
        st.binary(max_size=200),
    )


def _words(code: str, kinds: int, header: bytes) -> Strategy:
    """Draw binary words of a format with all values of their highest four bits."""
    width = 8 * np.dtype(code).itemsize
    word = st.builds(
        lambda kind, value: kind << width - 4 | value,
        st.integers(0, kinds - 1),
        st.integers(0, 2 ** (width - 4) - 1),
    )
    return st.lists(word, max_size=80).map(
        lambda made: header + np.array(made, np.dtype(code)).tobytes()
    )


def _packets() -> Strategy:
    """Draw AEDAT 3.1: headers of packets with awkward numbers, and bytes behind them."""
    number = st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(0, 9))
    head = st.builds(
        lambda kind, size, rest: struct.pack("<hhiiiiii", kind, 1, size, 4, *rest),
        st.integers(-1, 4),
        st.one_of(st.just(8), number),
        st.lists(number, min_size=4, max_size=4),
    )
    packets = st.lists(st.builds(lambda a, b: a + b, head, st.binary(max_size=90)), max_size=6)
    start = recordings.aedat3_file()[:61]
    return packets.map(lambda parts: start + b"".join(parts))


def _columns() -> Strategy:
    """Draw an npz of event columns of all numeric types and lengths."""
    kinds = st.one_of(hnp.scalar_dtypes(), hnp.integer_dtypes(), hnp.floating_dtypes())
    column = hnp.arrays(kinds, st.one_of(st.just(5), st.integers(0, 6)))
    return st.fixed_dictionaries(dict.fromkeys("xytp", column)).map(lambda c: trees.npz(**c))


_RESULT = {"label": "a", "seed": 0, "store": "0", "stages": [], "test": None}
_RECORD = {"events": [1, 2], "skipped": {}, "size": 100, "notes": {}}

STRATEGIES: Mapping[str, Mapping[str, Strategy]] = {
    "manifests": {
        "trainlabel.txt": lines(paths, numbers, numbers, numbers),
        "vallabel.txt": lines(paths, words),
    },
    "split-lists": {
        "lists/classInd.txt": lines(numbers, st.sampled_from(raw.CLASS_NAMES)),
        "lists/trainlist01.txt": lines(clips, numbers),
        "lists/testlist01.txt": lines(clips),
    },
    "image-lists": {"list.txt": lines(paths, numbers), "classes.txt": lines(paths, numbers)},
    "npz-coordinates": {"a.npz": _npy().map(lambda data: _zipped(pos=data, neg=data))},
    "npz-dense": {"a.npz": _npy().map(lambda data: _zipped(arr_0=data))},
    "npz-events": {"a.npz": st.one_of(_columns(), _npy().map(lambda data: _zipped(x=data)))},
    "npy-events": {"a.npy": _npy()},
    "evt2": {"a.raw": _words("<u4", 16, b"% evt 2.0\n% geometry 2048x2048\n% end\n")},
    "evt3": {"a.raw": _words("<u2", 16, b"% evt 3.0\n% geometry 4096x2048\n% end\n")},
    "dat": {"a.dat": _words("<u4", 16, b"% Width 16\n% Height 16\n\x0c\x08")},
    "bin": {"a.bin": st.binary(max_size=200)},
    "es": {"a.es": st.binary(max_size=200).map(lambda data: recordings.es_file()[:20] + data)},
    "aedat2": {"a.aedat": _words(">u4", 16, b"#!AER-DAT2.0\r\n")},
    "aedat3": {"a.aedat": _packets()},
    "unfinished-stores": {"out/.work/all-0.json": json_of(_RECORD)},
    "recipes": {"recipe.toml": texts},
    "runs": {
        "result.json": json_of(_RESULT),
        "lif/operations.json": json_of({"synaptic": 1}),
        "lif/epochs.csv": texts,
    },
}
"""Strategies for files that replace those of the first seed, by reader."""


def _zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return stream.getvalue()


def generated(name: str, seed: int, count: int) -> list[Tree]:
    """Return about ``count`` trees of a reader's strategy, the same for the same seed."""
    made: list[Tree] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.fixed_dictionaries(dict(STRATEGIES[name])))
    def collect(tree: Tree) -> None:
        made.append(tree)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisWarning)
        collect()
    return made
