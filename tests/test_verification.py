"""`verify` finds every kind of damage and says where it is."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

import eventdata
from eventdata.errors import InputError, OptionError, StoreError
from eventdata.store.columns import encode_column
from tests import flips
from tests.makers import make_es_imagenet, make_es_ucf101, make_images, write_npz


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checking")
    raw = make_es_imagenet(folder / "raw")
    eventdata.convert("es-imagenet", raw, folder / "store.zarr", shard_size=5)
    return folder


@pytest.fixture
def store(sound, tmp_path):
    return shutil.copytree(sound / "store.zarr", tmp_path / "store.zarr")


def messages(store, **options):
    return [str(problem) for problem in eventdata.verify(store, **options).problems]


def replace_column(store, split, name, values):
    for key, data in encode_column(name, values).items():
        (store / split / key).write_bytes(data)


def test_sound_store(sound):
    result = eventdata.verify(sound / "store.zarr", against=sound / "raw", workers=2)
    assert result.ok
    assert (result.samples, result.compared) == (16, 16)


@pytest.fixture
def flip_bits(store, tmp_path):
    """Run `python -m tests.flips` on the store; return its exit code and report."""

    def run(count):
        output = tmp_path / "flips.json"
        done = CliRunner().invoke(
            flips.main, [str(store), f"--flips={count}", f"--output={output}"]
        )
        return done.exit_code, json.loads(output.read_text())

    return run


def test_any_flipped_bit_of_any_file_is_found(flip_bits, store):
    """Flip a hundred bits in data chunks, shard indices, columns and zarr.json."""
    code, report = flip_bits(100)
    assert (code, report["found"], report["missed"]) == (0, 100, [])
    assert (
        report["files"] == 4 + 12 + 1 + 2 * 8
    )  # shards, columns, a zarr.json of each group, array
    assert eventdata.verify(store).ok  # only a copy was changed


def test_a_flip_that_is_missed_is_reported(flip_bits, monkeypatch):
    monkeypatch.setattr(eventdata, "verify", lambda store: SimpleNamespace(ok=True))
    code, report = flip_bits(3)
    assert (code, report["flips"], report["found"]) == (1, 3, 0)
    assert [place.partition(": bit ")[0] for place in report["missed"]] == [
        f"train/event_count/{name}" for name in ("c/0", "zarr.json")
    ] + ["train/frames/c/0/0/0/0/0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quick": True}, "quick: only valid with against"),
        ({"workers": 0}, "workers must be a whole number of at least 1, not 0"),
        ({"workers": True}, "workers must be a whole number of at least 1, not True"),
        ({"against": "raw", "samples": 0}, "samples must be a whole number of at least 1, not 0"),
        ({"against": "raw", "samples": "all"}, "samples must be a whole number of .*, not 'all'"),
        ({"against": "raw", "seed": "7"}, "seed must be a whole number of at least 0, not '7'"),
        ({"samples": 3}, "--samples and --seed need --against"),
        ({"samples": None}, "--samples and --seed need --against"),
        ({"seed": 0}, "--samples and --seed need --against"),
    ],
)
def test_options_that_make_no_sense(store, options, message):
    with pytest.raises(OptionError, match=message):
        eventdata.verify(store, **options)


def test_damaged_sample_is_named(store):
    name = eventdata.FrameDataset(store).names[7]
    path = store / "train/frames/c/1/0/0/0/0"
    content = bytearray(path.read_bytes())
    middle = len(content) - 5 * 16 - 4
    content[middle // 2] ^= 1
    path.write_bytes(content)
    (problem,) = eventdata.verify(store).problems
    assert (problem.split, problem.shard, problem.sample, problem.name) == ("train", 1, 7, name)
    assert "checksum" in problem.message


def test_missing_and_foreign_files(store):
    (store / "train/frames/c/2/0/0/0/0").unlink()
    (store / "val/label/c/0").unlink()
    foreign = ("notes.txt", "train/label/junk.bin", "val/valid/c/99", "val/name/c/00")
    for key in foreign:
        (store / key).write_text("x")
    found = " ".join(messages(store))
    assert "the shard is missing" in found
    assert "chunk 0 is missing" in found
    assert all(f"{key}: a file that does not belong" in found for key in foreign)


def test_swapped_shards_are_found_by_event_counts(store):
    a, b = (store / f"train/frames/c/{n}/0/0/0/0" for n in (0, 1))
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    assert "event_count is" in messages(store)[0]


def test_columns_against_each_other(store):
    opened = eventdata.open_store(store).splits["train"]
    labels, counts = opened.labels.copy(), opened.event_counts.copy()
    valid, names = opened.valid.copy(), opened.sample_names.copy()
    labels[3] = 1000
    counts[4] += 1
    valid[5] = False
    names[6] = names[7]
    for name, values in (
        ("label", labels),
        ("event_count", counts),
        ("valid", valid),
        ("name", names),
    ):
        replace_column(store, "train", name, values)
    found = "\n".join(messages(store))
    assert "sample 3, name" in found
    assert "label 1000 has no class" in found
    assert f"event_count is {counts[4]:,}" in found
    assert "sample 5 is only marked invalid" in found
    assert "2 samples have this name" in found
    assert "skipped, but it has data" in found


def test_columns_of_another_length_or_type(store):
    replace_column(store, "val", "label", np.zeros(3, np.int32))
    assert any("3 values for 4 samples" in text for text in messages(store))
    (store / "val/label/zarr.json").write_text("{")
    assert any("is damaged" in text for text in messages(store))


def test_leftovers_of_a_kill_at_the_end_are_accepted(store):
    (store / ".work").mkdir()
    (store / ".work" / "lock").touch()
    assert eventdata.verify(store).ok


def test_damaged_list_of_skips(store):
    for content in ("{", "[{}]", '[{"split": 1}]', "5"):
        (store / "skipped.json").write_text(content)
        assert any("skipped.json: damaged" in text for text in messages(store))
        with pytest.raises(StoreError, match="damaged"):
            eventdata.open_store(store).skipped  # noqa: B018


def test_split_names_that_are_paths_out_of_the_store(store):
    path = store / "zarr.json"
    document = json.loads(path.read_text())
    for names in (5, ["../../etc"], [".."], [3]):
        document["attributes"]["eventdata"]["parameters"]["split_names"] = names
        path.write_text(json.dumps(document))
        with pytest.raises(StoreError, match="damaged"):
            eventdata.open_store(store)


def test_header_that_was_edited(store):
    path = store / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"]["eventdata"]["parameters"]["shard_size"] = 7
    path.write_text(json.dumps(document))
    assert "parameters do not match" in messages(store)[0]
    for content in ("", "{}", "[" * 5000, '{"attributes": {"eventdata": {"version": 1}}}'):
        path.write_text(content)
        with pytest.raises(StoreError):
            eventdata.verify(store)
    document["attributes"]["eventdata"]["version"] = 3
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="format version 3, this eventdata reads up to 2; upgrade"):
        eventdata.verify(store)


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize(
    ("change", "seen_in_older"),
    [
        (lambda root: root.update(zarr_format=2), True),
        (lambda root: root.update(node_type="array"), True),
        (lambda root: root["attributes"].update(more=1), True),
        (lambda root: root["attributes"]["eventdata"]["polarity"].reverse(), True),
        (lambda root: root["attributes"]["eventdata"]["classes"].reverse(), False),
        (lambda root: root["attributes"]["eventdata"].update(dataset="other"), False),
    ],
)
def test_root_document_that_was_edited(store, change, seen_in_older, older):
    """Changed names are found by the digest, which stores of the first version lack."""
    path = store / "zarr.json"
    document = json.loads(path.read_text())
    if older:
        del document["attributes"]["eventdata_sha256"]
    path.write_text(json.dumps(document))
    assert eventdata.verify(store).ok
    change(document)
    path.write_text(json.dumps(document))
    assert any("zarr.json" in text for text in messages(store)) == (seen_in_older or not older)


def test_frames_metadata_that_was_edited(store):
    path = store / "val/frames/zarr.json"
    text = path.read_text()
    for old, new in (("transpose", "transpoze"), ('"zstd"', '"gzip"'), ("224", "223")):
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(StoreError, match="damaged or not of this layout"):
            eventdata.verify(store)
    path.unlink()
    with pytest.raises(StoreError, match="missing"):
        eventdata.verify(store)


def test_against_other_raw_data(sound, store, tmp_path):
    raw = shutil.copytree(sound / "raw", tmp_path / "raw")
    lines = (raw / "vallabel.txt").read_text().splitlines()
    changed, gone = lines[0].split()[0], lines[1].split()[0]
    other = np.array([[100, 100, 1]], np.uint8)
    write_npz(raw / "val" / changed, pos=other, neg=other)
    (raw / "val" / gone).unlink()
    name, label, height, width = lines[2].split()
    lines[2] = f"{name} {(int(label) + 1) % 1000} {height} {width}"
    (raw / "vallabel.txt").write_text("\n".join(lines))
    result = eventdata.verify(store, against=raw, samples=None)
    assert result.compared == 16
    found = {problem.name: problem.message for problem in result.problems}
    assert set(found) == {changed, gone, name}
    assert "frames differ" in found[changed]
    assert "is missing" in found[gone]
    assert "class class" in found[name]


def test_against_draws_at_random_and_by_seed(sound):
    some = [
        eventdata.verify(sound / "store.zarr", against=sound / "raw", samples=3, seed=seed)
        for seed in (0, 1)
    ]
    assert [result.compared for result in some] == [6, 6]
    numpy = {"samples": np.int64(3), "seed": np.uint8(1), "workers": np.int64(1)}
    assert eventdata.verify(sound / "store.zarr", against=sound / "raw", **numpy).compared == 6
    with pytest.raises(InputError):
        eventdata.verify(sound / "store.zarr", against=sound / "none")


def test_against_ucf101_without_its_lists(tmp_path):
    raw = make_es_ucf101(tmp_path / "raw", clips=4)
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\n2 PushUps\n")
    clips = sorted(path.stem for path in raw.glob("*.npz"))
    (lists / "trainlist01.txt").write_text("".join(f"{clip}.avi\n" for clip in clips[:2]))
    (lists / "testlist01.txt").write_text("".join(f"{clip}.avi\n" for clip in clips[2:]))
    out = tmp_path / "ucf.zarr"
    eventdata.convert("es-ucf101", raw, out, splits=lists, fold=1)
    for options in ({}, {"splits": lists}):
        result = eventdata.verify(out, against=raw, **options)
        assert result.ok, result.problems
        assert result.compared == 4


def test_against_images_without_their_list(tmp_path):
    """ImageNet's val folder has no classes: without the list, its images are taken for train."""
    raw = make_images(tmp_path / "raw")
    lines = [f"val/{path.name} {path.parent.name}" for path in sorted((raw / "val").rglob("*.*"))]
    for path in sorted((raw / "val").rglob("*.*")):
        path.rename(raw / "val" / path.name)
        path.parent.rmdir()
    listed = {"list": tmp_path / "val.txt"}
    listed["list"].write_text("\n".join(lines))
    eventdata.convert("images", raw, tmp_path / "out.zarr", short_side=40, crop=32, **listed)
    message = "no sample of val is in the raw data; pass --classes and --list as for convert"
    with pytest.raises(OptionError, match=message):
        eventdata.verify(tmp_path / "out.zarr", against=raw)
    assert eventdata.verify(tmp_path / "out.zarr", against=raw, **listed).compared == 6


def test_no_store(tmp_path):
    with pytest.raises(StoreError, match="no store found"):
        eventdata.verify(tmp_path / "none")
