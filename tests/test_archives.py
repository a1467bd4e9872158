"""Archives as input keep the promises of a folder and give the same stores."""

import io
import os
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import eventdata
from eventdata.conversion import convert
from eventdata.errors import InputError, MismatchError
from eventdata.files.archives import indexes, members
from eventdata.files.archives.index import Index
from eventdata.files.archives.paths import Archived
from eventdata.generation import generate
from tests.makers import (
    contents,
    make_es_imagenet,
    make_es_ucf101,
    make_images,
    tar,
    tree_digest,
    zipped,
)
from tests.s3 import serve, upload
from tests.source_contract import SourceContract

FOLDERS: dict[str, Any] = {
    "images": ({"short_side": 40, "crop": 32}, make_images),
    "es-imagenet": ({}, make_es_imagenet),
    "es-ucf101": ({}, make_es_ucf101),
}


def imagenet_tars(raw: Path, out: Path) -> Path:
    """Write the tars of a folder of images as ImageNet has them; its val is flat, with a list."""
    out.mkdir()
    classes = {}
    for folder in sorted((raw / "train").iterdir()):
        inner = tar(out / "inner", contents(folder))
        classes[f"{folder.name}.tar"] = inner.read_bytes()
        inner.unlink()
    tar(out / "ILSVRC2012_img_train.tar", classes)
    val = {Path(name).name: data for name, data in contents(raw / "val").items()}
    tar(out / "ILSVRC2012_img_val.tar", val)
    return out


def flatten(raw: Path) -> Path:
    """Move the images of val out of their class folders; return a list of their labels."""
    lines = []
    for path in sorted((raw / "val").rglob("*.JPEG")):
        lines.append(f"{path.name} {path.parent.name}")
        path.rename(raw / "val" / path.name)
    for folder in [path for path in (raw / "val").iterdir() if path.is_dir()]:
        folder.rmdir()
    listed = raw.parent / "val.txt"
    listed.write_text("\n".join(lines))
    return listed


def same_times(*places: Path) -> None:
    """Give all files one time of change, so that the columns of times are equal too."""
    for place in places:
        for path in [place, *place.rglob("*")]:
            os.utime(path, ns=(10**18, 10**18))


class ArchiveContract(SourceContract):
    """The contract of a source whose input is one archive."""

    form = "zip"

    def pack(self, folder, content):
        return {"zip": zipped, "tar": tar}[self.form](folder / f"raw.{self.form}", content)

    @pytest.fixture
    def raw(self, made, tmp_path):
        return Path(shutil.copy2(made[0], tmp_path))

    def file_of_a_sample(self, raw):
        return raw

    def damage(self, raw):
        index = indexes.index_of(str(raw))
        name = next(name for name in index.names if name.endswith(self.damaged))
        place = index.find(name)
        with raw.open("r+b") as file:
            file.seek(place.start + place.packed // 2)
            file.write(bytes(place.packed // 2))
        return self.damaged

    damaged: ClassVar[str]


class TestImagesInAZip(ArchiveContract):
    source = "images"
    options: ClassVar[dict[str, Any]] = FOLDERS["images"][0]
    damaged = "n01440764/n01440764_2.JPEG"

    def make(self, folder):
        return self.pack(folder, contents(make_images(folder / "raw")))


class TestImagesInATar(TestImagesInAZip):
    form = "tar"


class TestEsImageNetInAZip(ArchiveContract):
    source = "es-imagenet"

    def make(self, folder):
        raw = make_es_imagenet(folder / "ES-imagenet-0.18", train=4, val=2)
        self.damaged = next(name for name in contents(raw / "train") if name.endswith("npz"))
        type(self).damaged = self.damaged
        return self.pack(folder, contents(folder))


class TestEsImageNetInATar(TestEsImageNetInAZip):
    form = "tar"


class TestEsUcf101InATar(ArchiveContract):
    source = "es-ucf101"
    damaged = "v_Archery_g01_c01.npz"
    form = "tar"

    def make(self, folder):
        raw = make_es_ucf101(folder / "raw", clips=5, folders=True)
        return self.pack(folder, contents(raw))


class TestEsUcf101InAZip(TestEsUcf101InATar):
    form = "zip"


class TestImageNetInTars(SourceContract):
    source = "imagenet"
    options: ClassVar[dict[str, Any]] = {"long_side": 62, "crop": 48, "min_events": 20}

    def make(self, folder):
        raw = make_images(folder / "folder")
        type(self).options = {**self.options, "list": flatten(raw)}
        return imagenet_tars(raw, folder / "raw")

    def file_of_a_sample(self, raw):
        return raw / "ILSVRC2012_img_train.tar"

    def damage(self, raw):
        path = self.file_of_a_sample(raw)
        place = indexes.index_of(str(path)).find("n01440764/n01440764_2.JPEG")
        with path.open("r+b") as file:
            file.seek(place.start + 100)
            file.write(bytes(place.size - 100))
        return "n01440764/n01440764_2.JPEG"


def test_imagenet_tars_give_the_store_of_the_folder(tmp_path):
    raw = make_images(tmp_path / "raw")
    listed = flatten(raw)
    tars = imagenet_tars(raw, tmp_path / "tars")
    same_times(raw, tars)
    for name in ("raw", "tars"):
        convert("images", tmp_path / name, tmp_path / f"{name}.zarr", list=listed, crop=20)
    assert tree_digest(tmp_path / "raw.zarr") == tree_digest(tmp_path / "tars.zarr")
    assert eventdata.verify(tmp_path / "raw.zarr", against=tars, list=listed).compared == 6


@pytest.mark.parametrize("source", FOLDERS)
@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_archive_gives_the_store_of_its_folder(tmp_path, source, kind, wrapped):
    options, make = FOLDERS[source]
    raw = make(tmp_path / "top" / "raw")
    write = zipped if kind == "zip" else tar
    path = write(tmp_path / f"raw.{kind}", contents(tmp_path / "top" if wrapped else raw))
    same_times(raw, path)
    convert(source, raw, tmp_path / "a.zarr", **options)
    convert(source, path, tmp_path / "b.zarr", **options)
    assert tree_digest(tmp_path / "a.zarr") == tree_digest(tmp_path / "b.zarr")


@pytest.mark.parametrize("place", ["train", "train/n01440764"])
def test_archives_of_splits_and_classes_give_the_store_of_the_folders(tmp_path, place):
    raw = make_images(tmp_path / "raw")
    parent = (raw / place).parent
    shutil.copytree(parent, tmp_path / "tars")
    for folder in list((tmp_path / "tars").iterdir()):
        tar(tmp_path / "tars" / f"{folder.name}.tar", contents(folder))
        shutil.rmtree(folder)
    same_times(parent, tmp_path / "tars")
    convert("images", parent, tmp_path / "a.zarr", short_side=40, crop=32)
    convert("images", tmp_path / "tars", tmp_path / "b.zarr", short_side=40, crop=32)
    assert tree_digest(tmp_path / "a.zarr") == tree_digest(tmp_path / "b.zarr")


def test_raw_files_are_generated_from_archives(tmp_path):
    raw = make_images(tmp_path / "raw")
    path = zipped(tmp_path / "raw.zip", contents(raw))
    same_times(raw, path)
    for one in (raw, path):
        generate("es-imagenet", one, tmp_path / f"{one.name}.out", min_events=10)
    assert tree_digest(tmp_path / "raw.out") == tree_digest(tmp_path / "raw.zip.out")


def test_an_archive_is_indexed_once(tmp_path, monkeypatch):
    """A stopped conversion reads the index that it kept, and an archive that changed anew."""
    path = zipped(tmp_path / "raw.zip", contents(make_images(tmp_path / "raw")))
    walks = []
    real = indexes.zip_members
    monkeypatch.setattr(indexes, "zip_members", lambda *given: walks.append(given) or real(*given))

    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    for _ in range(2):
        indexes._read_index.cache_clear()
        with pytest.raises(KeyboardInterrupt):
            convert("images", path, tmp_path / "out", shard_size=2, crop=20, progress=stop)
    assert len(walks) == 1
    (kept,) = (tmp_path / "out/.work").glob("index-*")
    kept.write_bytes(kept.read_bytes()[:-9])
    indexes._read_index.cache_clear()
    with pytest.raises(KeyboardInterrupt):
        convert("images", path, tmp_path / "out", shard_size=2, crop=20, progress=stop)
    assert len(walks) == 2
    convert("images", path, tmp_path / "out", shard_size=2, crop=20)
    assert not (tmp_path / "out/.work").exists()
    os.utime(path, ns=(1, 1))
    with pytest.raises(MismatchError, match="changed since"):
        convert("images", path, tmp_path / "out", shard_size=2, crop=20)


def test_an_archive_that_changes_during_a_conversion_is_noticed(tmp_path, monkeypatch):
    path = zipped(tmp_path / "raw.zip", contents(make_images(tmp_path / "raw")))
    real = members.content_at

    def change(read, place):
        os.utime(path, ns=(2, 2))
        return real(read, place)

    monkeypatch.setattr(members, "content_at", change)
    with pytest.raises(MismatchError, match="changed while it was read"):
        convert("images", path, tmp_path / "out", crop=20, on_error="skip")


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("seed", range(4))
def test_members_of_drawn_archives_are_read_back(tmp_path, kind, seed):
    """Names of all lengths and scripts, empty and random members, long headers."""
    rng = np.random.default_rng(seed)
    files = {}
    for number in range(30):
        depth = rng.integers(0, 4)
        parts = ["".join(rng.choice([*"abé日 .-"], rng.integers(1, 60))) for _ in range(depth)]
        parts = [f"{number}{part}x" for part in parts]
        content = rng.integers(0, rng.choice([2, 256]), rng.integers(0, 3000)).astype(np.uint8)
        files["/".join([*parts, f"{number}.bin"])] = content.tobytes()
    formats = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]
    if kind == "zip":
        path = zipped(tmp_path / "a.zip", files, (0, 8)[seed % 2])
    else:
        path = tar(tmp_path / "a.tar", files, format=formats[seed % 2])
    index = indexes.index_of(str(path))
    assert index.names == sorted(files)
    for name, content in files.items():
        found = members.read_member(name, str(path), index.find(name))[0]
        assert found == content
    places = sorted((index.find(name), name) for name in files)
    found = members.read_members(str(path), [place for place, _ in places])[0]
    assert found == [files[name] for _, name in places]
    top = Archived(str(path))
    assert {entry.name for entry, _ in top.inside()} == {name.split("/")[0] for name in files}
    again = Index.from_bytes(index.to_bytes(["a"]), ["a"])
    assert again.names == index.names
    np.testing.assert_array_equal(again.places, index.places)
    assert Index.from_bytes(index.to_bytes(["a"]), ["b"]) is None


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_headers_of_tars_are_read_as_tarfile_reads_them(tmp_path, kind):
    """Folders, prefixes of names, long names, times before 1970, owners outside ASCII."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=kind, encoding="utf-8") as archive:
        for number, name in enumerate(("a", "b/" + 20 * "long/" + "c", f"{80 * 'd'}/{80 * 'e'}.x")):
            for mark in (tarfile.REGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE, tarfile.AREGTYPE):
                info = tarfile.TarInfo(f"{ord(mark)}/{name}")
                info.type, info.size = mark, 600 * number * (mark != tarfile.DIRTYPE)
                info.uid, info.uname = 7 * number, "né"
                info.mtime = 0 if kind == tarfile.USTAR_FORMAT else -(10**9)
                archive.addfile(info, io.BytesIO(bytes(info.size)))
        if kind != tarfile.USTAR_FORMAT:
            big = tarfile.TarInfo("big")
            big.size = 9 << 33  # as bits or as text, and a hole in the file
            archive.fileobj.write(big.tobuf(kind))
            archive.fileobj.seek(big.size, os.SEEK_CUR)
            archive.offset = archive.fileobj.tell()
    with tarfile.open(path) as archive:
        files = {info.name: info for info in archive if info.isfile()}
    index = indexes.index_of(str(path))
    assert index.names == sorted(files)
    for name, info in files.items():
        assert index.find(name)[:3] == (info.offset_data, info.size, info.size)


@pytest.mark.parametrize(("encoding", "flag"), [("utf-8", 0x800), ("utf-8", 0), ("cp437", 0)])
def test_names_in_zips_are_utf_8_with_and_without_the_flag(tmp_path, encoding, flag):
    """The zip of Linux and of macOS writes UTF-8 without saying so."""
    name = "caf\u00e9/1.png".encode(encoding)
    path = zipped(tmp_path / "a.zip", {"x" * len(name): b"1"})
    data = path.read_bytes().replace(b"x" * len(name), name)
    directory = data.index(b"PK\1\2")
    data = data[: directory + 8] + struct.pack("<H", flag) + data[directory + 10 :]
    path.write_bytes(data)
    assert indexes.index_of(str(path)).names == ["caf\u00e9/1.png"]


def test_directories_of_zips_are_read_as_zipfile_reads_them(tmp_path, monkeypatch):
    """zip64, sizes after the content as streams have them, bytes before the archive, comments."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    path = tmp_path / "a.zip"

    class Stream(io.BytesIO):
        def seek(self, *_: Any) -> int:
            raise OSError

    stream = Stream()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, name in enumerate(("a", "日/é", "b/", "c/d.x", "e" * 300)):
            archive.writestr(name, b"" if name[-1] == "/" else bytes([number]) * 500 * number)
        archive.comment = b"PK but no signature"
    path.write_bytes(b"before" + stream.getvalue())
    index = indexes.index_of(str(path))
    with zipfile.ZipFile(path) as archive:
        files = {info.filename: info for info in archive.infolist() if not info.is_dir()}
        assert index.names == sorted(files)
        for name, info in files.items():
            place = index.find(name)
            assert place[:3] == (info.header_offset, info.compress_size, info.file_size)
            assert members.read_member(name, str(path), place)[0] == archive.read(name)


def link(path: Path, **fields: Any) -> Path:
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("train/a/b.JPEG")
        for key, value in fields.items():
            setattr(info, key, value)
        archive.addfile(info, io.BytesIO(bytes(2000)))
    return path


def edited(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path


ONE = {"train/a/b.JPEG": b"x" * 600}
HOSTILE = {
    "names outside": (lambda path: tar(path, {"../x.JPEG": b"1"}), "leaves the folder"),
    "absolute names": (lambda path: zipped(path, {"/etc/x": b"1"}), "leaves the folder"),
    "URLs as names": (lambda path: tar(path, {"a/s3://b.JPEG": b"1"}), "leaves the folder"),
    "long names": (lambda path: tar(path, {"a" * 5000: b"1"}), "leaves the folder"),
    "links": (lambda path: link(path, type=tarfile.SYMTYPE, linkname="/etc/passwd"), "is a link"),
    "hard links": (lambda path: link(path, type=tarfile.LNKTYPE, linkname="x"), "is a link"),
    "devices": (lambda path: link(path, type=tarfile.CHRTYPE), "is a link, device"),
    "sparse": (
        lambda path: link(
            path, size=10, pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "9999999999"}
        ),
        "sparse",
    ),
    "two of one name": (
        lambda path: tar(path, {"a/b.JPEG": b"1", "./a/b.JPEG": b"2"}),
        r"holds 'a/b\.JPEG' twice",
    ),
    "compressed": (
        lambda path: (
            [
                tarfile.open(path, "w:gz").close(),
            ][0]
            or path
        ),
        "a compressed tar",
    ),
    "compressed tars inside": (
        lambda path: tar(path, {"a.tar.gz": b"1"}),
        r"'a\.tar\.gz' is a compressed tar",
    ),
    "encrypted": (
        lambda path: edited(
            edited(zipped(path, ONE), b"PK\3\4\x14\0\0", b"PK\3\4\x14\0\1"),
            b"PK\1\2\x14\3\x14\0\0",
            b"PK\1\2\x14\3\x14\0\1",
        ),
        "is encrypted",
    ),
    "other methods": (lambda path: zipped(path, ONE, zipfile.ZIP_LZMA), "another method"),
    "cut tars": (
        lambda path: [path, tar(path, ONE), os.truncate(path, 900)][0],
        "cut short",
    ),
    "tars without an end": (
        lambda path: [path, tar(path, ONE), os.truncate(path, 512 + 1024)][0],
        "cut short",
    ),
    "cut zips": (
        lambda path: [path, zipped(path, ONE), os.truncate(path, 60)][0],
        "not a whole zip",
    ),
    "joined tars": (
        lambda path: [path, path.write_bytes(2 * tar(path, ONE).read_bytes())][0],
        "another tar follows its end",
    ),
    "extended headers without end": (
        lambda path: edited(link(path, pax_headers={"comment": "x" * 99}), b"112 com", b"999 com"),
        "an extended header is damaged",
    ),
    "nothing": (lambda path: [path, path.touch()][0], "not a whole zip or tar"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archives_are_refused(tmp_path, kind):
    make, message = HOSTILE[kind]
    path = make(tmp_path / "raw.tar")
    with pytest.raises(InputError, match=message) as error:
        convert("images", path, tmp_path / "out")
    assert str(path) in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_compressed_tar_is_refused_by_its_name(tmp_path):
    (tmp_path / "raw.tar.gz").touch()
    with pytest.raises(InputError, match=r"raw\.tar\.gz: a compressed tar.*decompress it"):
        convert("images", tmp_path / "raw.tar.gz", tmp_path / "out")


def test_a_member_that_inflates_to_more_is_damaged(tmp_path):
    raw = make_images(tmp_path / "raw")
    path = zipped(tmp_path / "raw.zip", contents(raw))
    index = indexes.index_of(str(path))
    place = index.find(index.names[0])
    with pytest.raises(InputError, match="damaged"):
        members.read_member("x", str(path), place._replace(size=place.size - 1))
    with pytest.raises(InputError, match="at most 268,435,456"):
        members.read_member("x", str(path), place._replace(size=1 << 40))


def test_members_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(indexes, "MAX_MEMBERS", 3)
    path = tar(tmp_path / "raw.tar", contents(make_images(tmp_path / "raw")))
    with pytest.raises(InputError, match="more than 3 members"):
        convert("images", path, tmp_path / "out")


def test_an_archive_beside_folders_is_not_read(tmp_path):
    raw = make_images(tmp_path / "raw")
    tar(raw / "ILSVRC2012_img_train.tar", contents(raw / "train"))
    result = convert("images", raw, tmp_path / "out", crop=20)
    assert result.samples == {"train": 4, "val": 2}
    assert any("1 .tar (ILSVRC2012_img_train.tar)" in note for note in result.notes)


def test_sources_that_need_folders_refuse_archives(tmp_path):
    path = tar(tmp_path / "raw.tar", ONE)
    for source, options in (("ucf101", {}), ("recordings", {"frames": 2})):
        with pytest.raises(InputError, match="can't be read in an archive; unpack it"):
            convert(source, path, tmp_path / "out", **options)


@pytest.fixture(scope="module")
def s3():
    with pytest.MonkeyPatch.context() as patch, serve(patch) as server:
        yield server


@pytest.mark.parametrize("source", ["images", "es-imagenet"])
def test_archives_behind_a_url_are_read_by_ranges(s3, tmp_path, source):
    from fsspec.core import url_to_fs

    options, make = FOLDERS[source]
    raw = make(tmp_path / "top" / "raw")
    (tmp_path / "up").mkdir()
    zipped(tmp_path / "up" / "raw.zip", contents(raw))
    tar(tmp_path / "up" / "raw.tar", contents(raw))
    bucket = f"s3://archives-{source}"
    url_to_fs(bucket)[0].mkdir(f"archives-{source}")
    upload(tmp_path / "up", bucket)
    for name in ("raw.zip", "raw.tar"):
        convert(source, tmp_path / "up" / name, tmp_path / "a.zarr", overwrite=True, **options)
        s3.take_requests()
        convert(source, f"{bucket}/{name}", tmp_path / "b.zarr", overwrite=True, **options)
        requests = [one for one in s3.take_requests() if "raw." in one.path]
        got = [one for one in requests if one.method == "GET"]
        assert all(one.range for one in got)
        if source == "images":  # in the order of the archive, so that neighbours are read together
            assert 0 < len(got) <= 4 < len(contents(raw))
            assert len(requests) <= 20
        assert tree_digest(tmp_path / "a.zarr") == tree_digest(tmp_path / "b.zarr")


def test_a_damaged_neighbour_behind_a_url_is_skipped_alone(s3, tmp_path):
    """Neighbours are read as one range, also with long headers and members that inflate a lot."""
    from fsspec.core import url_to_fs

    files = contents(make_images(tmp_path / "raw"))
    (tmp_path / "up").mkdir()
    with zipfile.ZipFile(path := tmp_path / "up" / "raw.zip", "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.extra = b"\xff\xff\xf0\x0f" + bytes(0xFF0)
            archive.writestr(info, content)
        archive.writestr("big.bin", bytes(members.MAX_MEMBER // 8), zipfile.ZIP_DEFLATED)
    bad = "train/n01440764/n01440764_0.JPEG"
    place = indexes.index_of(str(path)).find(bad)
    with path.open("r+b") as file:
        file.seek(place.start + 0x1000 + 100)
        file.write(bytes(100))
    url_to_fs("s3://neighbours")[0].mkdir("neighbours")
    upload(tmp_path / "up", "s3://neighbours")
    url = "s3://neighbours/raw.zip"
    with pytest.raises(InputError, match=rf"{url}/{bad}: damaged"):
        convert("images", url, tmp_path / "out", crop=20)
    assert convert("images", url, tmp_path / "out", crop=20, on_error="skip").skipped == 1
    assert convert("images", path, tmp_path / "b", crop=20, on_error="skip").skipped == 1
    frames = [tree_digest(tmp_path / name / "train/images") for name in ("out", "b")]
    assert frames[0] == frames[1]


def test_imagenet_tars_behind_a_url(s3, tmp_path):
    from fsspec.core import url_to_fs

    raw = make_images(tmp_path / "raw")
    listed = flatten(raw)
    tars = imagenet_tars(raw, tmp_path / "tars")
    url_to_fs("s3://tars")[0].mkdir("tars")
    upload(tars, "s3://tars/in")
    convert("images", tars, tmp_path / "a.zarr", list=listed, crop=20, shard_size=2)
    convert("images", "s3://tars/in", tmp_path / "b.zarr", list=listed, crop=20, shard_size=2)
    assert tree_digest(tmp_path / "a.zarr") == tree_digest(tmp_path / "b.zarr")
