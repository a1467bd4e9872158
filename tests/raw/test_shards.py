"""Shards of WebDataset and Parquet keep the promises of a folder and hold its images."""

import json
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import eventdata
from eventdata.conversion import convert
from eventdata.errors import InputError, MismatchError
from eventdata.files.archives import indexes
from tests.makers import contents, make_images, tar, tree_digest
from tests.s3 import serve, upload
from tests.source_contract import SourceContract


@pytest.fixture(scope="module")
def s3():
    with pytest.MonkeyPatch.context() as patch, serve(patch) as server:
        yield server


class TestWebDataset(SourceContract):
    source = "images"
    options: ClassVar[dict[str, Any]] = {"short_side": 40, "crop": 32}

    def make(self, folder):
        shards(make_images(folder / "folder"), folder / "raw", kind="cls")
        return folder / "raw"

    def file_of_a_sample(self, raw):
        return raw / "imagenet-train-000000.tar"

    def damage(self, raw):
        path = self.file_of_a_sample(raw)
        name = "n02119789_3.jpg"
        place = indexes.index_of(str(path)).find(name)
        with path.open("r+b") as file:
            file.seek(place.start + 100)
            file.write(bytes(place.size - 100))
        return name


class TestParquet(SourceContract):
    source = "images"
    options: ClassVar[dict[str, Any]] = {"short_side": 40, "crop": 32}

    def make(self, folder):
        return parquet_shards(make_images(folder / "folder"), folder / "raw", ["a", "b"])

    def file_of_a_sample(self, raw):
        return raw / "data" / "train-00000-of-00002.parquet"

    def damage(self, raw):
        from pyarrow import parquet

        path = self.file_of_a_sample(raw)
        table = parquet.read_table(path)
        rows = table.to_pylist()
        rows[1]["image"]["bytes"] = rows[1]["image"]["bytes"][:100]
        parquet.write_table(type(table).from_pylist(rows, table.schema), path, row_group_size=2)
        return rows[1]["image"]["path"]

    def test_changed_input_is_refused(self, raw, tmp_path):
        """A shard with bytes after its end is no Parquet, which an error reports first."""
        out, path = tmp_path / "out.zarr", self.file_of_a_sample(raw)
        self.run(raw, out)
        os.utime(path, ns=(10**18, 10**18))
        with pytest.raises(MismatchError, match="is a file that was changed since"):
            self.run(raw, out)
        path.write_bytes(path.read_bytes() + b"more")
        with pytest.raises(InputError, match="can't be read as Parquet"):
            self.run(raw, out)


def shards(raw: Path, out: Path, *, kind: str, per_shard: int = 2) -> dict[str, dict[str, int]]:
    """Write WebDataset shards of a folder of images; return the label of each name by split."""
    labels: dict[str, dict[str, int]] = {}
    out.mkdir()
    for split in ("train", "val"):
        paths = sorted((raw / split).rglob("*.JPEG"), reverse=True)
        labels[split] = {}
        for start in range(0, len(paths), per_shard):
            files = {}
            for path in paths[start : start + per_shard]:
                label = 11 if path.parent.name == "n01440764" else 2
                files[f"{path.stem}.jpg"] = path.read_bytes()
                if kind == "cls":
                    files[f"{path.stem}.cls"] = str(label).encode()
                else:
                    files[f"{path.stem}.json"] = b'{"label": %d, "width": 3}' % label
                labels[split][f"{path.stem}.jpg"] = label
            tar(out / f"imagenet-{split}-{start // per_shard:06}.tar", files)
    return labels


@pytest.mark.parametrize("kind", ["cls", "json"])
@pytest.mark.parametrize("place", ["folder", "pattern", "range"])
def test_webdataset_shards_give_the_images_of_the_folder(tmp_path, kind, place):
    raw = make_images(tmp_path / "raw", train=5)
    labels = shards(raw, tmp_path / "in", kind=kind)
    given = {
        "folder": tmp_path / "in",
        "pattern": tmp_path / "in" / "imagenet-train-*.tar",
        "range": tmp_path / "in" / "imagenet-train-{000000..000002}.tar",
    }[place]
    convert("images", raw, tmp_path / "a", crop=20, short_side=30)
    convert("images", given, tmp_path / "b", crop=20, short_side=30, shard_size=2)
    store = eventdata.open_store(tmp_path / "b")
    assert list(store.splits) == (["train", "val"] if place == "folder" else ["train"])
    for split in store.splits:
        ds, folder = (eventdata.FrameDataset(tmp_path / name, split) for name in "ba")
        assert dict(zip(ds.names, ds.labels, strict=True)) == labels[split]
        assert list(ds.names) == list(labels[split])  # in the order of the shards
        images = {Path(name).stem: folder[i][0] for i, name in enumerate(folder.names)}
        for index, name in enumerate(ds.names):
            np.testing.assert_array_equal(ds[index][0], images[Path(name).stem])
    assert eventdata.verify(tmp_path / "b", against=given, samples=None).ok


def test_samples_of_shards_without_a_label_or_with_two_images_are_refused(tmp_path):
    image = next(iter(contents(make_images(tmp_path / "raw")).values()))
    good = {"a.jpg": image, "a.cls": b"0"}
    tar(tmp_path / "one.tar", {**good, "b.jpg": image})
    with pytest.raises(InputError, match=r"one\.tar/b\.jpg: has no label"):
        convert("images", tmp_path / "one.tar", tmp_path / "out", crop=20)
    tar(tmp_path / "two.tar", {**good, "a.png": image})
    with pytest.raises(InputError, match=r"two\.tar/a\.png: a second image of the sample a"):
        convert("images", tmp_path / "two.tar", tmp_path / "out", crop=20)
    with pytest.raises(InputError, match=r"no \.tar of such a name"):
        convert("images", tmp_path / "x-*.tar", tmp_path / "out", crop=20)


def test_shards_that_a_pattern_misses_are_an_error_or_noted(tmp_path):
    shards(make_images(tmp_path / "raw", train=5), tmp_path / "in", kind="cls", per_shard=1)
    given = tmp_path / "in" / "imagenet-{train,val}-{000000..000001}.tar"
    assert convert("images", given, tmp_path / "a", crop=20).samples == {"train": 2, "val": 2}
    with pytest.raises(InputError, match=r"imagenet-val-000002\.tar missing; get them, or"):
        convert("images", str(given).replace("01}", "02}"), tmp_path / "b", crop=20)
    with pytest.raises(InputError, match=r"more than 100,000 shards"):
        convert("images", str(given).replace("000001}", "999999}"), tmp_path / "b", crop=20)
    for split, number in (("train", 4), ("val", 1)):
        path = tmp_path / "in" / f"imagenet-{split}-00000{number}.tar"
        path.rename(path.with_name(f"imagenet-{split}-00000-of-00003.tar"))
    given = tmp_path / "in" / "imagenet-*-of-*.tar"
    notes = convert("images", given, tmp_path / "c", crop=20).notes
    assert sum("1 of 3 shards are in the input" in note for note in notes) == 2


def test_shards_without_labels_are_not_taken_for_classes(tmp_path):
    """img2dataset's documents have no label by default, and its shards are called by numbers."""
    image = next(iter(contents(make_images(tmp_path / "raw")).values()))
    (tmp_path / "in").mkdir()
    for name in ("00000", "00001"):
        facts = json.dumps({"caption": "a", "key": name, "status": "success"}).encode()
        files = {f"{name}.jpg": image, f"{name}.json": facts, f"{name}.txt": b"a"}
        tar(tmp_path / "in" / f"{name}.tar", files)
    with pytest.raises(InputError, match=r"00000\.jpg: has no label in a \.cls or \.json member"):
        convert("images", tmp_path / "in", tmp_path / "out", crop=20)
    tar(tmp_path / "one.tar", {"a.jpg": image, "a.cls": b"0", "b.cls": b"1", "b.npy": b""})
    notes = convert("images", tmp_path / "one.tar", tmp_path / "out", crop=20).notes
    assert any("shards that have a label but no image: 1" in one for one in notes)


def test_equal_names_in_several_shards_begin_with_the_shard(tmp_path):
    image = next(iter(contents(make_images(tmp_path / "raw")).values()))
    (tmp_path / "in").mkdir()
    for name in ("s-0", "s-1"):
        tar(tmp_path / "in" / f"{name}.tar", {"a.jpg": image, "a.cls": b"cat"})
    convert("images", tmp_path / "in", tmp_path / "out", crop=20)
    ds = eventdata.FrameDataset(tmp_path / "out", "train")
    assert list(ds.names) == ["s-0/a.jpg", "s-1/a.jpg"]
    assert list(ds.classes) == ["cat"]


@pytest.mark.parametrize(
    "content", [b"[" * 60000, b'{"label": true}', b'{"label": 1e400}', b"\xff"]
)
def test_hostile_labels_are_no_labels(tmp_path, content):
    image = next(iter(contents(make_images(tmp_path / "raw")).values()))
    tar(tmp_path / "a.tar", {"a.jpg": image, "a.cls": b"0", "b.jpg": image, "b.json": content})
    with pytest.raises(InputError, match=r"a\.tar/b\.jpg: has no label"):
        convert("images", tmp_path / "a.tar", tmp_path / "out", crop=20)


def parquet_shards(raw: Path, out: Path, names: list[str]) -> Path:
    """Write a folder of images as Parquet shards of the hub, two rows in a group."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (out / "data").mkdir(parents=True)
    for split, stem in (("train", "train-00000-of-00002"), ("val", "validation-00000-of-00001")):
        paths = sorted((raw / split).rglob("*.JPEG"))
        for number, part in enumerate((paths[:3], paths[3:])):
            if not part:
                continue
            images = [{"bytes": path.read_bytes(), "path": path.name} for path in part]
            labels = [int(path.parent.name == "n01440764") for path in part]
            facts = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
            table = pyarrow.table({"image": images, "label": labels})
            table = table.replace_schema_metadata({"huggingface": json.dumps(facts)})
            name = stem.replace("00000", f"{number:05}", 1)
            parquet.write_table(table, out / "data" / f"{name}.parquet", row_group_size=2)
    return out


@pytest.mark.parametrize("place", ["", "data", "data/train-*.parquet"])
def test_parquet_shards_give_the_images_of_the_folder(tmp_path, place):
    raw = make_images(tmp_path / "raw", train=5)
    given = parquet_shards(raw, tmp_path / "hub", ["tench, Tinca", "crane"]) / place
    convert("images", raw, tmp_path / "a", crop=20, short_side=30)
    convert("images", given, tmp_path / "b", crop=20, short_side=30, shard_size=2)
    store = eventdata.open_store(tmp_path / "b")
    assert store.header.classes == ["tench, Tinca", "crane"]
    assert list(store.splits) == (["train"] if "*" in place else ["train", "val"])
    for split in store.splits:
        ds, folder = (eventdata.FrameDataset(tmp_path / name, split) for name in ("b", "a"))
        assert list(ds.names) == [Path(name).name for name in folder.names]
        assert list(ds.labels) == [1 - label for label in folder.labels]
        for index in range(len(ds)):
            np.testing.assert_array_equal(ds[index][0], folder[index][0])
    assert eventdata.verify(tmp_path / "b", against=given, samples=None).ok
    path = sorted((tmp_path / "hub/data").iterdir())[0]
    os.utime(path, ns=(1, 1))
    with pytest.raises(MismatchError, match="changed since"):
        convert("images", given, tmp_path / "b", crop=20, short_side=30, shard_size=2)


@pytest.mark.parametrize("names", [("mask", "image"), ("mask", "picture")])
def test_of_several_columns_of_images_that_of_the_name_is_read(tmp_path, names):
    parquet = pytest.importorskip("pyarrow.parquet")
    raw = make_images(tmp_path / "raw")
    hub = parquet_shards(raw, tmp_path / "hub", ["tench", "crane"])
    convert("images", hub, tmp_path / "one", crop=20)
    for path in (hub / "data").iterdir():
        table = parquet.read_table(path)
        images = table.column("image").combine_chunks()
        masks = images.take(np.roll(np.arange(len(images)), 1))
        rest = table.drop_columns(["image"])
        for name, column in zip(names, (masks, images), strict=True):
            rest = rest.append_column(name, column)
        parquet.write_table(rest, path)
    if "image" not in names:
        with pytest.raises(InputError, match="mask and picture are columns of images; rename the"):
            convert("images", hub, tmp_path / "two", crop=20)
        return
    convert("images", hub, tmp_path / "two", crop=20)
    one, two = (eventdata.FrameDataset(tmp_path / name, "train") for name in ("one", "two"))
    np.testing.assert_array_equal(one[0][0], two[0][0])


def test_damaged_parquet_and_doubled_class_names(tmp_path):
    raw = make_images(tmp_path / "raw")
    hub = parquet_shards(raw, tmp_path / "hub", ["crane", "crane"])
    convert("images", hub, tmp_path / "out", crop=20)
    assert eventdata.open_store(tmp_path / "out").header.classes == ["crane (0)", "crane (1)"]
    for cut in (0, 4, 100, 2000):
        path = sorted((hub / "data").iterdir())[0]
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(InputError, match=rf"{path.name}: can't be read as Parquet"):
            convert("images", hub, tmp_path / f"out{cut}", crop=20)


def test_rows_of_one_name_and_labels_that_are_no_labels(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    image = next(iter(contents(make_images(tmp_path / "raw")).values()))
    rows = {"image": [{"bytes": image, "path": "a.jpg"}] * 3, "label": ["ant", "bee", "ant"]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "a.parquet", row_group_size=2)
    convert("images", tmp_path / "a.parquet", tmp_path / "out", crop=20)
    ds = eventdata.FrameDataset(tmp_path / "out", "train")
    assert list(ds.names) == ["a/0-0/a.jpg", "a/0-1/a.jpg", "a/1-0/a.jpg"]
    assert [ds.classes[label] for label in ds.labels] == ["ant", "bee", "ant"]
    for labels in ([0.5, 1, 2], [[1], [2], [3]], [b"a", b"b", b"c"]):
        parquet.write_table(pyarrow.table({**rows, "label": labels}), tmp_path / "b.parquet")
        with pytest.raises(InputError, match=r"b\.parquet: its labels are neither whole numbers"):
            convert("images", tmp_path / "b.parquet", tmp_path / "out2", crop=20)


def test_a_split_without_labels_is_skipped(tmp_path):
    """The hub's test set of ImageNet has the label -1 everywhere."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    image = next(iter(contents(make_images(tmp_path / "raw")).values()))
    (tmp_path / "in").mkdir()
    for split, labels in (("train", [0, 1]), ("test", [-1, -1])):
        rows = {"image": [{"bytes": image, "path": f"{n}.jpg"} for n in (0, 1)], "label": labels}
        path = tmp_path / "in" / f"{split}-00000-of-00001.parquet"
        parquet.write_table(pyarrow.table(rows), path)
    result = convert("images", tmp_path / "in", tmp_path / "out", crop=20)
    assert result.samples == {"train": 2}
    assert "test: skipped, because none of its samples has a label" in result.notes
    with pytest.raises(InputError, match="has no label, or an unknown one"):
        convert("images", tmp_path / "in", tmp_path / "out2", crop=20, split="test")


def test_shards_behind_a_url_are_indexed_together_and_once(s3, tmp_path):
    from fsspec.core import url_to_fs

    shards(make_images(tmp_path / "raw", train=6), tmp_path / "in", kind="cls")
    url_to_fs("s3://wds")[0].mkdir("wds")
    upload(tmp_path / "in", "s3://wds/in")

    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    given = "s3://wds/in/imagenet-train-{000000..000002}.tar"
    with pytest.raises(KeyboardInterrupt):
        convert("images", given, tmp_path / "a", crop=20, shard_size=2, progress=stop)
    assert len([*(tmp_path / "a" / ".work").glob("index-*")]) == 3
    s3.take_requests()
    convert("images", given, tmp_path / "a", crop=20, shard_size=2)
    assert sum(one.method == "GET" and ".tar" in one.path for one in s3.take_requests()) == 2
    convert(
        "images", tmp_path / "in" / given.rpartition("/")[2], tmp_path / "b", crop=20, shard_size=2
    )
    assert tree_digest(tmp_path / "a") == tree_digest(tmp_path / "b")


def test_parquet_behind_a_url(s3, tmp_path):
    from fsspec.core import url_to_fs

    hub = parquet_shards(make_images(tmp_path / "raw"), tmp_path / "hub", ["a", "b"])
    url_to_fs("s3://hub")[0].mkdir("hub")
    upload(hub, "s3://hub/in")
    convert("images", hub, tmp_path / "a.zarr", crop=20, shard_size=2)
    convert("images", "s3://hub/in", tmp_path / "b.zarr", crop=20, shard_size=2)
    assert tree_digest(tmp_path / "a.zarr") == tree_digest(tmp_path / "b.zarr")
