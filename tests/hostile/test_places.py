"""Things that are not regular files, and paths and links that lead out of their folder."""

import io
import json
import os
import pickle
import shutil
import stat
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

import eventdata
from eventdata.errors import EventDataError, InputError, StoreError
from eventdata.info import describe
from tests.makers import make_es_imagenet, make_images
from tests.nasty import LIMITS, READ_ONE, at_most, edit, header, recordings, training, trees, unpack
from tests.nasty import raw as raw_seeds
from train.report import read_run
from train.runs.folder import read_rows


@pytest.fixture(params=READ_ONE)
def reader(request, tmp_path):
    return tmp_path / request.param, READ_ONE[request.param]


def test_only_lists_may_be_empty(reader):
    path, read = reader
    path.touch()
    if path.suffix in (".txt", ".csv"):
        assert read(path) == []
        return
    with pytest.raises(EventDataError, match=path.stem):
        read(path)


def test_a_folder_in_place_of_a_file_is_refused(reader):
    path, read = reader
    path.mkdir()
    with pytest.raises(EventDataError, match=path.name):
        read(path)


def test_pipes_and_devices_are_not_waited_for(reader):
    path, read = reader
    os.mkfifo(path)
    with pytest.raises(EventDataError, match=rf"{path.name}.*pipe or device"):
        read(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with at_most(16), pytest.raises(EventDataError, match=rf"{path.name}.*pipe or device"):
        read(path)


def test_broken_and_circular_links_are_refused(reader):
    path, read = reader
    if path.name == "epochs.csv":
        return  # no rows yet
    for target in ("gone", path.name):
        path.symlink_to(target)
        with pytest.raises(EventDataError, match=path.name):
            read(path)
        path.unlink()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_a_file_without_permission_is_an_error(reader):
    path, read = reader
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(EventDataError, match=path.name):
        read(path)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"a \xed\xa0\x80 0\n", b"a\xc0\xaf"])
def test_invalid_utf8_is_refused(tmp_path, data):
    for name, read in READ_ONE.items():
        if Path(name).suffix in (".txt", ".toml", ".json"):
            (tmp_path / name).write_bytes(data)
            with pytest.raises(EventDataError, match=name):
                read(tmp_path / name)
    (tmp_path / "epochs.csv").write_bytes(b"epoch,top1\n1,0.5\n" + data)
    assert read_rows(tmp_path / "epochs.csv") == [{"epoch": 1, "top1": 0.5}]


def test_names_and_values_from_files_make_one_short_line():
    error = InputError("a\nb\x1b[2J\ud800\0" + "x" * 10_000 + "\u202e")
    assert str(error).startswith(r"a\nb\x1b[2J\ud800\x00xxx")
    assert str(error).isprintable()
    assert len(str(error)) <= 2000
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


# Paths that lead out of their folder.


OUTSIDE = ("../outside", "a/../../outside", "/outside", "..\\outside", "a\0b", "http://x/y", "a::b")


@pytest.mark.parametrize("name", OUTSIDE)
def test_lists_whose_paths_leave_the_folder_are_refused(tmp_path, name):
    """A bad path in manifests, split lists and lists of images is a fault of its line."""
    events = make_es_imagenet(tmp_path / "events", train=1, val=0)
    (events / "trainlabel.txt").write_text(f"{name}.npz 0 190 254\n")
    with pytest.raises(InputError, match="leaves the folder"):
        eventdata.convert("es-imagenet", events, tmp_path / "out.zarr")
    images = make_images(tmp_path / "images", train=2, val=0)
    (tmp_path / "list.txt").write_text(f"{name}.JPEG 0\n")
    (images / "train" / "n01440764").rename(images / "train" / ".hidden")
    shutil.rmtree(images / "train" / "n02119789")
    with pytest.raises(InputError, match="leaves the folder"):
        eventdata.convert("images", images, tmp_path / "out.zarr", list=tmp_path / "list.txt")
    trees.write_tree(tmp_path / "ucf", raw_seeds.split_lists(None)[0])
    train = tmp_path / "ucf/lists/trainlist01.txt"
    train.write_text(f"{name}/v_Archery_g01_c01.avi 1\n")
    options = {"splits": tmp_path / "ucf/lists", "fold": 1}
    with pytest.raises(InputError, match="leaves the folder"):
        eventdata.convert("ucf101", tmp_path / "ucf/clips", tmp_path / "out.zarr", **options)


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/../../outside", "..\\outside"])
def test_archives_whose_names_leave_the_folder_are_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, b"1")
    info = tarfile.TarInfo(name)
    inner, outer = io.BytesIO(), io.BytesIO()
    for stream, member, data in ((inner, info, b""), (outer, tarfile.TarInfo("x.tar"), inner)):
        content = data if isinstance(data, bytes) else data.getvalue()
        member.size = len(content)
        with tarfile.open(fileobj=stream, mode="w") as archive:
            archive.addfile(member, io.BytesIO(content))
    (tmp_path / "a.tar").write_bytes(inner.getvalue())
    (tmp_path / "b.tar").write_bytes(outer.getvalue())
    for archive_name in ("a.zip", "a.tar", "b.tar"):
        if (archive_name, name[0]) == ("b.tar", "/"):
            continue  # below its own folder, this path stays inside
        with pytest.raises(InputError, match="leaves the folder"):
            unpack([tmp_path / archive_name], tmp_path / "deep/out", LIMITS)
    assert not [path for path in tmp_path.rglob("*") if "outside" in path.name]


@pytest.mark.parametrize(
    "name", ["../outside", "..", "", "/etc", "a/b", ".work", "zarr.json", "\ud800"]
)
def test_a_store_whose_splits_lie_outside_is_refused(store, name):
    def add(values):
        values["parameters"]["split_names"] = ["all", name]

    header(add)(store)
    with pytest.raises(StoreError, match="attributes in zarr.json are damaged"):
        eventdata.open_store(store)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no such files here")
@pytest.mark.parametrize("key", ["zarr.json", "skipped.json", "all/label/c/0"])
def test_links_from_a_store_to_kernel_files_are_refused(store, key, monkeypatch):
    """Files of /proc have a size of zero but hold bytes, or block readers (/proc/kmsg)."""
    (store / key).unlink(missing_ok=True)
    (store / key).symlink_to("/proc/self/status")
    opened = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (opened.append(path), read(path))[1])
    with suppress(StoreError):
        describe(eventdata.open_store(store))
    assert store / key not in opened


def test_paths_in_a_store_are_never_opened(store, sound, tmp_path):
    """`verify --against` takes options from the store, except paths."""
    os.mkfifo(tmp_path / "pipe")

    def lists(values):
        values["parameters"] = {"source": "ucf101", "splits": str(tmp_path), "fold": 1}
        values["parameters"] |= {"split_names": ["all"], "list": str(tmp_path / "pipe")}

    header(lists)(store)
    with pytest.raises(InputError, match="no clips"):
        eventdata.verify(store, against=sound / "raw")


def test_a_run_whose_stage_lies_outside_is_refused(tmp_path):
    tree = training.runs(None)[0]
    trees.write_tree(tmp_path, tree)
    assert read_run(tmp_path).label == "small"
    edit(tmp_path / "result.json", lambda d: d["stages"][-1].update(name="../../outside"))
    with pytest.raises(InputError, match="result.json: is damaged"):
        read_run(tmp_path)


# Links.


def test_nothing_is_written_through_links(tmp_path):
    """A conversion stops before it writes if folders or the lock of its store are links."""
    raw = make_es_imagenet(tmp_path / "raw", train=3, val=1)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.tmp").write_text("precious")
    (outside / "file").write_text("precious")
    before = trees.tree_of(outside)
    for key, target in ((".work", outside), (".work/lock", outside / "file"), ("train", outside)):
        out = tmp_path / f"{key.replace('/', '-')}.zarr"
        (out / key).parent.mkdir(parents=True)
        (out / key).symlink_to(target)
        if key == "train":
            document = json.dumps({"attributes": {"eventdata": unfinished_header()}})
            (out / "zarr.json").write_text(document)
        for overwrite in (False, True):
            with pytest.raises(StoreError, match="is a link"):
                eventdata.convert("es-imagenet", raw, out, overwrite=overwrite)
            assert trees.tree_of(outside) == before


def test_nothing_is_written_through_links_below_a_file_url(tmp_path):
    raw = make_es_imagenet(tmp_path / "raw", train=3, val=1)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/a.tmp").write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.work").symlink_to(tmp_path / "outside")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="is a link"):
            eventdata.convert("es-imagenet", raw, f"file://{tmp_path}/out", overwrite=overwrite)
    assert trees.tree_of(tmp_path / "outside") == {"a.tmp": b"precious"}


def unfinished_header():
    return {
        **{"dataset": "es-imagenet", "representation": "binary", "steps": 8, "polarity": []},
        **{"classes": [], "parameters": {"split_names": ["train"]}, "parameters_sha256": ""},
        **{"complete": False, "version": 1},
    }


def test_archives_with_links_are_refused(tmp_path):
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            archive.addfile(info)
        with pytest.raises(InputError, match="is a link or device"):
            unpack([tmp_path / "a.tar"], tmp_path / "out", LIMITS)
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="is a link"):
        unpack([tmp_path / "a.zip"], tmp_path / "out", LIMITS)
    assert not any((tmp_path / "out").iterdir())


def test_archives_are_not_unpacked_through_links(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("precious")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr("a/b", "1")
    (tmp_path / "part/a").mkdir(parents=True)
    (tmp_path / "part/a/b.part").symlink_to(tmp_path / "outside/file")
    assert unpack([tmp_path / "a.zip"], tmp_path / "part", LIMITS) == 1
    assert (tmp_path / "part/a/b").read_text() == "1"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="a.zip: .*folder/a: is a link; remove it: nothing"):
        unpack([tmp_path / "a.zip"], tmp_path / "folder", LIMITS)
    assert trees.tree_of(tmp_path / "outside") == {"file": b"precious"}


@pytest.fixture
def nest():
    """Make nested folders that ordinary tools can't remove."""
    nests = []

    def make(folder):
        path = str(folder)
        for _ in range(1500):
            path += "/d"
            os.mkdir(path)  # noqa: PTH102 a Path splits its parts
        nests.append((folder, path))

    yield make
    for folder, path in nests:
        while path != str(folder):
            if os.path.isdir(path):  # noqa: PTH112
                os.rmdir(path)  # noqa: PTH106
            path = path[:-2]


def test_deeply_nested_folders_are_handled(tmp_path, nest):
    """From Python 3.12 on, all this may succeed."""
    images = make_images(tmp_path / "images", train=4, val=0)
    folder = tmp_path / "recordings"
    trees.write_tree(folder, {f"{name}/a.npz": recordings.npz_events() for name in "ab"})
    store = tmp_path / "store"
    raw = make_es_imagenet(tmp_path / "raw", train=3, val=1)
    eventdata.convert("es-imagenet", raw, store)
    for place in (images / "train/n01440764", folder / "a", store / "train"):
        nest(place)
    options = {"frames": 2, "sensor_size": "16x16"}
    for use in (
        lambda: eventdata.convert("images", images, tmp_path / "a.zarr", short_side=9, crop=9),
        lambda: eventdata.convert("recordings", folder, tmp_path / "b.zarr", **options),
        lambda: describe(eventdata.open_store(store)),
        lambda: eventdata.verify(store),
        lambda: eventdata.convert("es-imagenet", raw, store, overwrite=True),
    ):
        try:
            use()
        except EventDataError as error:
            assert "nested too deeply" in str(error)  # noqa: PT017 it need not be raised


def test_folders_that_contain_themselves_by_a_link_are_handled(tmp_path):
    images = make_images(tmp_path / "images", train=4, val=0)
    (images / "train/n01440764/round").symlink_to(images)
    result = eventdata.convert("images", images, tmp_path / "a.zarr", short_side=16, crop=16)
    assert result.samples == {"train": 4}
    folder = tmp_path / "recordings"
    trees.write_tree(folder, {f"{name}/a.npz": recordings.npz_events() for name in "ab"})
    (folder / "a/round").symlink_to(folder)
    options = {"frames": 2, "sensor_size": "16x16"}
    result = eventdata.convert("recordings", folder, tmp_path / "b.zarr", **options)
    assert sum(result.samples.values()) == 2
