"""Tests of the decoders of recordings: real files, other implementations, and damage of every kind.

Each decoder is compared with a library or with a plain statement of its format.
"""

import io
import struct
import sys
import tracemalloc
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tonic.io
from expelliarmus import Wizard
from hypothesis import given, settings
from hypothesis import strategies as st

from eventdata.errors import InputError, OptionError
from eventdata.events import EVENT_DTYPE, EventChecker, make_events
from eventdata.formats.decoding import END_MISSING, DecodeOptions, Recording
from eventdata.formats.recording import DECODERS, read_events, read_recording

# name: bytes before the events, bytes an event, (W, H), microseconds, whether the file says (W, H)
RECORDINGS = {
    "DVS128-2017-03-21-short.aedat": (3383, 8, (128, 128), 6_181_499, True),
    "davis.aedat4": (0, None, (346, 260), 129_999, True),
    "dvs.es": (20, None, (320, 240), 999_000, True),
    "evt2_sample.raw": (163, None, (640, 480), 50_000, True),
    "faces_easy_0001.bin": (0, 5, (151, 173), 299_358, False),
    "sample.aedat4": (0, None, (320, 240), 589_917, True),
    "sample_ncars.dat": (93, 8, (78, 42), 99_952, False),
    "sample_nmnist.bin": (0, 5, (34, 34), 310_521, False),
}


@pytest.fixture(params=RECORDINGS)
def recording(request, shared):
    return shared / "recordings" / request.param


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def columns(events):
    return [events[field].tolist() for field in "xytp"]


def test_recordings_are_read_whole(recording):
    header, each, size, duration, says_size = RECORDINGS[recording.name]
    events, found = read_events(recording)
    assert (events.dtype, found) == (EVENT_DTYPE, size)
    if each:
        assert len(events) == (recording.stat().st_size - header) / each
    t = events["t"]
    assert np.all(np.diff(t) >= 0)
    assert t[-1] - t[0] == duration
    for field, side in zip("xy", size, strict=True):
        assert events[field].min() >= 0
        assert side // 2 < events[field].max() < side
    assert 0.4 < events["p"].mean() < 0.7
    if says_size:
        with pytest.raises(InputError, match="off the sensor of 16x16 pixels"):
            read_events(recording, (16, 16))
    else:
        assert read_events(recording, (400, 300))[1] == (400, 300)


def test_reading_takes_memory_in_proportion_to_events(recording):
    read_events(recording)
    tracemalloc.start()
    events, _ = read_events(recording)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * events.nbytes + 100_000


def test_a_new_format_is_one_module_and_one_line(tmp_path, monkeypatch):
    def read(path, options):
        if path.read_bytes() != b"toy":
            raise InputError("not a toy file")
        return Recording.whole(np.array([3]), np.array([2]), np.array([1]), np.array([1]), (8, 6))

    module = types.ModuleType("eventdata.formats.toy")
    module.read = read
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(DECODERS, ".toy", "toy")
    path = write(tmp_path, "a.TOY", b"toy")
    events, size = read_events(path)
    assert (events.tolist(), size) == ([(3, 2, 1, True)], (8, 6))
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"a.TOY: not a toy file$"):
        read_events(path)


def test_times_that_fall_are_sorted_with_a_warning(tmp_path):
    t = np.array([10, 40, 25, 30, 50, 49])
    x = np.arange(6)
    np.savez(tmp_path / "a.npz", x=x, y=x, t=t, p=x % 2)
    expected = (
        "a.npz: time falls, and the events were sorted: 3 events, by 15 us at most, at event 2"
    )
    with pytest.warns(UserWarning, match=expected):
        events, _ = read_events(tmp_path / "a.npz", time_unit="us")
    assert events["x"].tolist() == [0, 2, 3, 1, 5, 4]


def test_a_missing_end_is_a_warning(tmp_path):
    row = struct.pack("<II", 5, 1)
    path = write(tmp_path, "a.dat", b"% Version 2\n\x00\x08" + 2 * row + row[:3])
    with pytest.warns(UserWarning, match="a.dat: the end is missing; everything before it"):
        events, _ = read_events(path)
    assert len(events) == 2


# Each decoder compared with a library.


@pytest.mark.parametrize("name", ["faces_easy_0001.bin", "sample_nmnist.bin"])
def test_bin_equals_tonic(shared, name):
    path = shared / "recordings" / name
    events, _ = read_events(path)
    np.testing.assert_array_equal(events, tonic.io.read_mnist_file(str(path), EVENT_DTYPE))


@pytest.mark.parametrize(
    ("name", "encoding"), [("evt2_sample.raw", "evt2"), ("sample_ncars.dat", "dat")]
)
def test_prophesee_files_equal_expelliarmus(shared, name, encoding):
    path = shared / "recordings" / name
    assert columns(read_events(path)[0]) == columns(Wizard(encoding=encoding).read(path))


def test_evt3_reads_what_expelliarmus_writes(shared, tmp_path):
    events, _ = read_events(shared / "recordings" / "evt2_sample.raw")
    events = events[:100_000]
    path = tmp_path / "evt3.raw"
    Wizard(encoding="evt3").save(path, events)
    again, size = read_events(path)
    assert size == (1280, 720)
    assert columns(again) == columns(events)


@pytest.mark.parametrize("name", ["davis.aedat4", "sample.aedat4"])
def test_aedat4_equals_tonic(shared, name):
    path = shared / "recordings" / name
    assert columns(read_events(path)[0]) == columns(tonic.io.read_aedat4(str(path)))


def test_aedat2_follows_jaer(shared):
    path = shared / "recordings" / "DVS128-2017-03-21-short.aedat"
    with pytest.raises(ValueError, match="too many values"):
        tonic.io.read_dvs_128(str(path))  # Tonic's own reader of this camera does not run
    version, start, _ = tonic.io.read_aedat_header_from_file(str(path))
    raw = tonic.io.get_aer_events_from_file(str(path), version, start)
    address = raw["address"].astype(int)
    events, _ = read_events(path)
    assert events["x"].tolist() == (127 - (address >> 1) % 128).tolist()
    assert events["y"].tolist() == (127 - (address >> 8) % 128).tolist()
    assert events["p"].tolist() == (address % 2 == 0).tolist()
    assert events["t"].tolist() == raw["timeStamp"].tolist()


def test_nmnist_archive_equals_tonic(shared, tmp_path):
    with zipfile.ZipFile(shared / "nmnist_550.zip") as archive:
        archive.extractall(tmp_path)
    paths = sorted(tmp_path.glob("NMNIST/*/*/*.bin"))
    assert len(paths) == 550
    for path in paths:
        events, size = read_events(path, (34, 34))
        assert size == (34, 34)
        assert len(events) == path.stat().st_size // 5
        assert 250_000 < events["t"][-1] < 350_000
        np.testing.assert_array_equal(events, tonic.io.read_mnist_file(str(path), EVENT_DTYPE))


# Each decoder compared with a plain statement of its format.

words16 = st.builds(
    lambda kind, value: kind << 12 | value,
    st.sampled_from([0, 2, 3, 4, 5, 6, 7, 8, 8, 10, 14, 15]),
    st.one_of(st.integers(0, 4095), st.sampled_from([0, 1, 2047, 4094, 4095])),
)


def evt3_state_machine(words):
    """The events of EVT 3.0 words, one word after the other."""
    events, high, low, y, base = [], None, 0, None, None
    for word in words:
        kind, value = word >> 12, word & 0xFFF
        pixels = []
        if kind == 0:
            y = value & 0x7FF
        elif kind == 2:
            pixels = [(value & 0x7FF, value >> 11)]
        elif kind == 3:
            base = [value & 0x7FF, value >> 11]
        elif kind in (4, 5) and base is not None:
            width = 12 if kind == 4 else 8
            pixels = [(base[0] + i, base[1]) for i in range(width) if value >> i & 1]
            base[0] += width
        elif kind == 6 and high is not None:
            low = value + 4096 * (low // 4096 + (value - low % 4096 < -2048))
        elif kind == 8:
            turns, before = divmod(0 if high is None else high, 4096)
            now = value + 4096 * (turns + (value - before < -2048))
            low = low if now == high else 0
            high = now
        if high is not None and y is not None:
            events += [(x, y, 4096 * high + low, bool(p)) for x, p in pixels]
    return sorted(events, key=lambda event: event[2])


@pytest.mark.filterwarnings("ignore:.*time falls:UserWarning")
@settings(deadline=None, max_examples=200)
@given(words=st.lists(words16, min_size=1, max_size=60))
def test_evt3_equals_a_state_machine(tmp_path_factory, words):
    folder = tmp_path_factory.getbasetemp()
    header = b"% evt 3.0\n% geometry 30000x2048\n% end\n"
    path = write(folder, "words.raw", header + struct.pack(f"<{len(words)}H", *words))
    events, size = read_events(path)
    assert size == (30_000, 2048)
    assert events.tolist() == evt3_state_machine(words)


words32 = st.builds(
    lambda kind, value: kind << 28 | value,
    st.sampled_from([0, 0, 1, 1, 8, 8, 10, 14, 15]),
    st.one_of(st.integers(0, 2**28 - 1), st.sampled_from([0, 2**28 - 1])),
)


@pytest.mark.filterwarnings("ignore:.*time falls:UserWarning")
@settings(deadline=None, max_examples=100)
@given(words=st.lists(words32, min_size=1, max_size=40))
def test_evt2_equals_a_state_machine(tmp_path_factory, words):
    expected, high = [], None
    for word in words:
        kind, value = word >> 28, word & (2**28 - 1)
        if kind == 8:
            turns, before = divmod(0 if high is None else high, 2**28)
            high = value + 2**28 * (turns + (value - before < -(2**27)))
        elif kind < 2 and high is not None:
            t = high << 6 | value >> 22
            expected.append((value >> 11 & 0x7FF, value & 0x7FF, t, kind == 1))
    folder = tmp_path_factory.getbasetemp()
    header = b"% format EVT2;height=2048;width=2048\n"
    path = write(folder, "words.raw", header + struct.pack(f"<{len(words)}I", *words))
    assert read_events(path)[0].tolist() == sorted(expected, key=lambda event: event[2])


es_events = st.tuples(
    st.integers(0, 1000), st.integers(0, 319), st.integers(0, 239), st.booleans(), st.booleans()
)


@settings(deadline=None, max_examples=100)
@given(rows=st.lists(es_events, max_size=30))
def test_event_stream_follows_its_specification(tmp_path_factory, rows):
    content, expected, t = b"Event Stream\x02\0\0\x01" + struct.pack("<HH", 320, 240), [], 0
    for pause, x, y, on, mark in rows:
        t += pause
        content += b"\xfe" * mark + b"\xff" * (pause // 127)
        content += struct.pack("<BHH", pause % 127 << 1 | on, x, y)
        expected.append((x, 239 - y, t, on))  # y counts from the bottom
    events, size = read_events(write(tmp_path_factory.getbasetemp(), "events.es", content))
    assert (events.tolist(), size) == (expected, (320, 240))


def test_aedat2_decodes_each_bit(tmp_path):
    header = b"#!AER-DAT2.0\r\n# AEChip: ch.unizh.ini.jaer.chip.retina.DVS128\r\n"
    rows = [(0, 2**32 - 5), (3 << 8 | 2 << 1 | 1, 2**32 - 1), (0x8000, 0), (127 << 8, 4)]
    path = write(tmp_path, "a.aedat", header + b"".join(struct.pack(">II", *row) for row in rows))
    # The clock turned once, and the trigger is no event.
    expected = [
        (127, 127, 2**32 - 5, True),
        (125, 124, 2**32 - 1, False),
        (127, 0, 2**32 + 4, True),
    ]
    assert read_events(path)[0].tolist() == expected


def test_dat_clock_wraps_and_its_header_has_the_size(tmp_path):
    header = b"% Width 304\n% Height 240\n\x0c\x08"
    rows = [(2**32 - 2, 303 | 239 << 14 | 1 << 28), (3, 0)]
    path = write(tmp_path, "a.dat", header + b"".join(struct.pack("<II", *row) for row in rows))
    events, size = read_events(path)
    assert size == (304, 240)
    assert events.tolist() == [(303, 239, 2**32 - 2, True), (0, 0, 2**32 + 3, False)]


def test_bin_overflow_entries_advance_the_clock(tmp_path):
    path = write(tmp_path, "a.bin", bytes([1, 2, 0x80, 0, 9, 0, 240, 0, 0, 0, 3, 4, 0x01, 0, 1]))
    assert read_events(path)[0].tolist() == [(1, 2, 9, True), (3, 4, 2**16 + 2**13 + 1, False)]


# Damage.


def test_truncated_files(recording, tmp_path):
    """A truncated file is refused, or a shorter recording, with a note if an event is cut."""
    content = recording.read_bytes()
    whole, _ = read_events(recording)
    rng = np.random.default_rng(0)
    stops = [*range(0, 40, 7), *rng.integers(40, 4000, 12), *rng.integers(0, len(content), 12)]
    header, each, *_ = RECORDINGS[recording.name]
    for stop in stops:
        path = write(tmp_path, f"cut{recording.suffix}", content[: min(stop, len(content) - 1)])
        try:
            found = read_recording(path, DecodeOptions())
            events = found.events(EventChecker(time_unit=found.time_unit))
        except InputError:
            continue
        assert recording.suffix != ".aedat4"
        np.testing.assert_array_equal(events, whole[: len(events)])
        assert len(events) < len(whole)
        if each:
            assert len(events) == (path.stat().st_size - header) // each
            inside = (path.stat().st_size - header) % each > 0
            assert found.notes == ([END_MISSING] if inside else [])


@pytest.mark.filterwarnings("ignore:.*time falls:UserWarning")
def test_flipped_bits_are_an_input_error_or_harmless(recording, tmp_path):
    content = recording.read_bytes()
    rng = np.random.default_rng(1)
    for trial in range(24):
        damaged = bytearray(content)
        reach = len(content) if trial % 2 else min(len(content), 4000)
        for place in rng.integers(0, reach, rng.choice([1, 20])):
            damaged[place] ^= 1 << rng.integers(0, 8)
        path = write(tmp_path, f"flipped{recording.suffix}", damaged)
        try:
            events, (width, height) = read_events(path)
        except InputError:
            continue
        assert np.all((events["x"] >= 0) & (events["x"] < width))
        assert np.all((events["y"] >= 0) & (events["y"] < height))
        assert np.all(np.diff(events["t"]) >= 0)


def test_aedat4_headers_that_make_the_decoder_abort(shared, tmp_path):
    content = (shared / "recordings" / "sample.aedat4").read_bytes()
    first = 18 + struct.unpack_from("<I", content, 14)[0]
    in_text = content.index(b"typeDescription")
    for place, byte in ((first + 7, 0x7F), (in_text, 0xE1)):
        damaged = bytearray(content)
        damaged[place] = byte
        path = write(tmp_path, "damaged.aedat4", damaged)
        with pytest.raises(InputError, match="truncated or damaged AEDAT 4 file; get it again$"):
            read_events(path)  # the message shows that the decoder did not run


def test_a_missing_package_for_aedat4_is_an_option_error(shared, monkeypatch):
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    with pytest.raises(OptionError, match=r"pip install 'eventdata\[recordings\]'"):
        read_events(shared / "recordings" / "sample.aedat4")


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npz(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


COLUMNS = {"x": [0, 1, 2], "y": [2, 1, 0], "t": [5, 5, 9], "p": [1, 0, 1]}
BYTES = {name: npy(np.array(column)) for name, column in COLUMNS.items()}
EVENTS = make_events(*COLUMNS.values())


def test_numpy_files(tmp_path):
    structured = npy(EVENTS)
    for name, content in (
        ("a.npz", npz(**BYTES)),
        ("A.NPZ", npz(other=structured, **BYTES)),
        ("b.npz", npz(events=structured)),
        ("c.npy", structured),
    ):
        events, size = read_events(str(write(tmp_path, name, content)))
        assert (events.tolist(), size) == (EVENTS.tolist(), (3, 3))
    unnamed = npz(**{f"arr_{i}": BYTES[name] for i, name in enumerate("xytp")})
    with pytest.warns(UserWarning, match="were read as x, y, t, p, and their values do not show"):
        events, size = read_events(str(write(tmp_path, "c.npz", unnamed)))
    assert (events.tolist(), size) == (EVENTS.tolist(), (3, 3))
    seconds = npz(**BYTES | {"t": npy(np.array([0.5, 0.5, 1.25]))})
    path = write(tmp_path, "d.npz", seconds)
    assert read_events(path)[0]["t"].tolist() == [500_000, 500_000, 1_250_000]


def bomb(name):
    """An npz in which a member's declared size is not what its bytes can hold."""
    content = bytearray(npz(**BYTES))
    entry = content.index(b"PK\x01\x02")
    while content[entry + 46 : entry + 47] != name:
        entry = content.index(b"PK\x01\x02", entry + 1)
    struct.pack_into("<I", content, entry + 24, 2**31)
    return bytes(content)


def with_shape(shape):
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': %s, }\n" % shape
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(24)


HEADERS = {"aedat": b"#!AER-DAT2.0\r\n", "evt2": b"% evt 2.0\n", "es": b"Event Stream"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz", b"1 2 3 4", "not a recording; supported suffixes are .aedat4, .aedat, .raw"),
        ("a", b"", "not a recording"),
        ("a.bin", b"", "truncated: the file has no events"),
        ("a.bin", bytes(4), "truncated: the file has no events"),
        ("a.bin", bytes([0, 240, 0, 0, 0]), "no events to derive the sensor size from"),
        ("a.aedat", b"PK\x03\x04" * 9, "does not begin with #!AER-DAT"),
        (
            "a.aedat",
            b"#!AER-DAT1.0\r\n" + bytes(99),
            "AEDAT 1.0 is not supported",
        ),
        ("a.aedat", HEADERS["aedat"] + b"# no end", "ends inside its header"),
        ("a.aedat", HEADERS["aedat"], "no events"),
        (
            "a.aedat",
            HEADERS["aedat"] + b"# AEChip: Cochlea\r\n" + bytes(8),
            "chip Cochlea is not",
        ),
        ("a.aedat4", b"#!AER-DAT4.0\r\n", "truncated or damaged AEDAT 4"),
        ("a.raw", bytes(64), "not a Prophesee file"),
        ("a.raw", b"% Date today\n" + bytes(64), "encoding 'EVT[?]' is not supported"),
        ("a.raw", b"% format EVT4;height=1\n" + bytes(64), "encoding 'EVT4' is not supported"),
        ("a.raw", b"% evt 2.1\n" + bytes(64), "does not state the byte order"),
        ("a.raw", b"% format EVT21;endianness=odd\n" + bytes(64), "byte order 'odd'"),
        ("a.raw", HEADERS["evt2"] + bytes(3), "truncated: the file has no events"),
        ("a.raw", HEADERS["evt2"] + b"\0\0\0\x30", "1 words of unknown types [(]3[)]"),
        ("a.raw", b"% evt 3.0\n\0\x10\0\x90", "2 words of unknown types [(]1, 9[)]"),
        ("a.dat", bytes(64), "not a Prophesee file"),
        ("a.dat", b"% Version 2\n\x0e\x08" + bytes(8), "not a DAT file of 8-byte CD events"),
        ("a.dat", b"% Version 2\n\x0c", "not a DAT file of 8-byte CD events"),
        ("a.dat", b"% Version 2\n\x0c\x08" + bytes(7), "truncated: the file has no events"),
        ("a.dat", b"% Version 3\n\x0c\x08" + bytes(8), "DAT version 3 is not supported"),
        ("a.dat", b"% Version 1\n\x0c\x08" + b"\xff" * 8, "more bits than version 1 has"),
        ("a.dat", b"% Version 2\n\x0c\x08" + b"\xff" * 8, "p has the values"),
        ("a.es", b"Even", "not an Event Stream file"),
        ("a.es", HEADERS["es"] + bytes(3), "truncated inside its header"),
        ("a.es", HEADERS["es"] + b"\x01\0\0\x01" + bytes(4), "version 1, type 1"),
        ("a.es", HEADERS["es"] + b"\x02\0\0\x02" + bytes(4), "version 2, type 2"),
        (
            "a.es",
            HEADERS["es"] + b"\x02\0\0\x01\x08\0\x08\0\0\x08\0\0\0",
            "1 of 1 event lies off the sensor of 8x8 pixels",
        ),
        ("a.npz", b"nonsense", "not a whole zip"),
        ("a.npz", npz(**BYTES)[:-30], "not a whole zip"),
        ("a.npz", npz(), "no arrays x, y, t, p"),
        (
            "a.npz",
            npz(x=BYTES["x"], y=BYTES["y"]),
            r"no arrays x, y, t, p.* \(found: x \(3, int64\), y \(3, int64\)\)",
        ),
        ("a.npz", npz(**{f"{name}a": BYTES[name] for name in "yxtp"}), r"found: ya .*, xa .*, ta "),
        ("a.npz", npz(**BYTES | {"p": npy(np.zeros(2))}), "columns of one length"),
        ("a.npz", npz(**BYTES | {"t": npy(np.array([1, "a", None]))}), "never unpickled"),
        ("a.npz", npz(**BYTES | {"t": npy(np.zeros((3, 2)))}), "no arrays x, y, t, p"),
        ("a.npz", npz(**BYTES | {"t": b"\x93NUMPY\x01\0\x04\0{'a("}), "damaged header"),
        ("a.npz", npz(**BYTES | {"x": with_shape(b"(4000000000000,)")}), "its data do not fit"),
        ("a.npz", bomb(b"t"), "declares 2,147,4.* bytes, too many"),
        ("a.npy", npy(np.zeros(4)), "no event array with these fields"),
        ("a.npy", npy(EVENTS)[:-1], "its data do not fit"),
        ("a.npy", npy(np.empty(0, EVENT_DTYPE)), "no events"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # an npz contains the time
)
def test_other_files_are_refused_with_path_and_reason(tmp_path, name, content, message):
    path = write(tmp_path, name, content)
    with pytest.raises(InputError, match=message) as error:
        read_events(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone.es: can't be read \(No such file"):
        read_events(tmp_path / "gone.es")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(InputError, match=r"can't be read \(Is a directory"):
        read_events(Path(tmp_path / "folder.npz"))
