"""Stores and raw input behind URLs have the same bytes as in folders, even on a bad network."""

import errno
import json
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import uuid
from functools import partial
from pathlib import Path

import fsspec
import pytest
import torch
from click.testing import CliRunner
from torch.utils.data import DataLoader

import eventdata
from eventdata.cli import main
from eventdata.errors import (
    EventDataError,
    IncompleteStoreError,
    InputError,
    MismatchError,
    OptionError,
    StoreError,
)
from eventdata.files import remote
from eventdata.files.fetch import fetch_ahead, local_copy
from eventdata.files.remote import RemoteFiles
from eventdata.generation import generate
from eventdata.loader import FrameLoader
from eventdata.store import read_remote as store_remote
from tests.drawn import Drawn
from tests.makers import make_clips, make_es_imagenet, make_es_ucf101, make_images, tree_digest
from tests.s3 import download, serve, upload


@pytest.fixture(scope="module")
def s3():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "WAITS", (0.01, 0.02, 0.02, 0.02))
        with serve(patch) as server:
            yield server


@pytest.fixture
def bucket(s3):
    """Make a new bucket and return its URL."""
    name = f"b{uuid.uuid4().hex}"
    fsspec.filesystem("s3").mkdir(name)
    s3.take_requests()
    return f"s3://{name}"


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Return a folder with raw samples and their store."""
    folder = tmp_path_factory.mktemp("local")
    raw = make_es_imagenet(folder / "raw", train=13, val=2)
    eventdata.convert("es-imagenet", raw, folder / "store.zarr", shard_size=5)
    return folder


@pytest.fixture(scope="module")
def store(s3, local):
    """Return the URL of the same store."""
    fsspec.filesystem("s3").mkdir("shared-bucket")
    eventdata.convert("es-imagenet", local / "raw", "s3://shared-bucket/a/store", shard_size=5)
    return "s3://shared-bucket/a/store"


def convert(raw, out, **options):
    return eventdata.convert("es-imagenet", raw, out, **{"shard_size": 5, **options})


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def same(url, store, folder):
    return tree_digest(download(url, folder / uuid.uuid4().hex)) == tree_digest(store)


class TestStore:
    def test_the_same_bytes(self, store, local, tmp_path):
        assert same(store, local / "store.zarr", tmp_path)
        assert convert(local / "raw", store).state == "already complete"

    def test_verify_and_info(self, store, local):
        result = eventdata.verify(store, against=local / "raw")
        assert (result.ok, result.samples, result.compared) == (True, 15, 15)
        opened = eventdata.open_store(f"{store}/")
        assert opened.files.where == store
        assert opened.files.total_bytes() == result.bytes
        done = CliRunner().invoke(main, ["info", store, "--json"])
        assert json.loads(done.stdout)["bytes"] == result.bytes

    def test_damage_is_reported(self, s3, bucket, local):
        convert(local / "raw", f"{bucket}/store")
        system = fsspec.filesystem("s3")
        key = f"{bucket}/store/train/frames/c/1/0/0/0/0"
        shard = bytearray(system.cat_file(key))
        shard[100] ^= 1
        system.pipe_file(key, bytes(shard))
        (problem,) = eventdata.verify(f"{bucket}/store").problems
        assert (problem.split, problem.shard, problem.sample) == ("train", 1, 5)
        dataset = eventdata.FrameDataset(f"{bucket}/store")
        with pytest.raises(StoreError, match=rf"{bucket}/store/train, shard 1, sample 5: .*check"):
            dataset[5]
        with pytest.raises(StoreError, match="sample 5: a chunk fails its checksum"):
            list(FrameLoader(dataset, 8))
        system.rm(key)
        with pytest.raises(StoreError, match=rf"{key}: can't be read \(it is gone\)"):
            eventdata.FrameDataset(f"{bucket}/store")[5]

    def test_a_place_with_other_files_is_refused(self, bucket, local):
        fsspec.filesystem("s3").pipe_file(f"{bucket}/mine/thesis.tex", b"")
        with pytest.raises(StoreError, match="is not an eventdata store"):
            convert(local / "raw", f"{bucket}/mine")

    def test_another_store_is_replaced_only_with_overwrite(self, bucket, local, tmp_path):
        out = f"{bucket}/store"
        convert(local / "raw", out, limit=2)
        with pytest.raises(MismatchError, match="limit is 2 in the store"):
            convert(local / "raw", out)
        convert(local / "raw", out, overwrite=True)
        assert same(out, local / "store.zarr", tmp_path)

    def test_an_output_that_contains_the_input_is_refused(self, bucket):
        with pytest.raises(OptionError, match="contains the input"):
            eventdata.convert(Drawn(), f"{bucket}/out/raw", f"{bucket}/out")


class TestNeverHalfVisible:
    def test_a_conversion_stopped_at_any_write_resumes(self, monkeypatch):
        """If any write fails, no store opens, and the next call finishes it."""
        source = Drawn(counts=(("train", 9), ("test", 4)))
        real = RemoteFiles._write_one

        def attempt(out, number):
            """Convert while write ``number`` fails; return the number of writes."""
            writes = 0

            def write(self, key, data):
                nonlocal writes
                writes += 1
                if writes - 1 == number:
                    raise StoreError("no")
                real(self, key, data)

            monkeypatch.setattr(RemoteFiles, "_write_one", write)
            try:
                eventdata.convert(source, "", out, shard_size=4)
            finally:
                monkeypatch.setattr(RemoteFiles, "_write_one", real)
            return writes

        total = attempt(f"memory://whole/{uuid.uuid4().hex}", -1)
        assert total > 30
        for number in range(total):
            out = f"memory://parts/{uuid.uuid4().hex}"
            with pytest.raises(StoreError, match="no"):
                attempt(out, number)
            with pytest.raises(StoreError, match="no store found" if number == 0 else "finish"):
                eventdata.open_store(out)
            assert eventdata.convert(source, "", out, shard_size=4).state == "complete"
            assert eventdata.verify(out).ok

    def test_a_resumed_conversion_keeps_finished_shards(self, s3, bucket, local, tmp_path):
        def third_shard(number, request):
            wanted = request.method == "PUT" and "frames/c/2" in request.path
            return "503" if wanted else None

        with s3.failing(third_shard), pytest.raises(StoreError) as raised:
            convert(local / "raw", f"{bucket}/store")
        assert str(raised.value) == (
            f"{bucket}/store/train/frames/c/2/0/0/0/0: can't be written (Please reduce your "
            "request rate.); check the address and the network; finished work is kept: run the "
            "same command again to resume"
        )
        with pytest.raises(IncompleteStoreError, match="not finished"):
            eventdata.FrameDataset(f"{bucket}/store")
        assert convert(local / "raw", f"{bucket}/store").done_before == 10
        assert same(f"{bucket}/store", local / "store.zarr", tmp_path)


class TestReading:
    @pytest.mark.parametrize(
        "options",
        [{}, {"shuffle": True}, {"shuffle": True, "order": "shards"}, {"rank": 1, "world_size": 2}],
        ids=str,
    )
    def test_the_same_batches(self, store, local, options):
        loaders = [
            FrameLoader(eventdata.FrameDataset(place), 4, seed=3, **options)
            for place in (store, local / "store.zarr")
        ]
        for _ in range(2):
            count = 0
            for (frames, labels), (expected, wanted) in zip(*loaders, strict=True):
                assert torch.equal(frames, expected)
                assert torch.equal(labels, wanted)
                count += len(labels)
            assert count == 13 // options.get("world_size", 1)

    def test_indices_are_read_once_and_neighbours_together(self, s3, store):
        dataset = eventdata.FrameDataset(store)
        s3.take_requests()
        dataset.__getitems__([0, 1, 2, 7])
        requests = s3.take_requests()
        ranges = [request.range for request in requests]
        assert ranges.count("bytes=-84") == 2  # the index of each shard
        assert len(ranges) == 4  # samples 0 to 2 together, and sample 7
        dataset[1]
        assert [request.method for request in s3.take_requests()] == ["GET"]

    def test_the_order_of_shards_reads_whole_shards(self, s3, store):
        dataset = eventdata.FrameDataset(store)
        s3.take_requests()
        assert len(list(FrameLoader(dataset, 4, shuffle=True, order="shards"))) == 4
        requests = s3.take_requests()
        assert sorted(request.path[-9:] for request in requests if request.method == "GET") == [
            f"{number}/0/0/0/0" for number in range(3)
        ]
        assert not any(request.range for request in requests)

    def test_an_order_across_shards_reads_nothing_ahead(self, s3, store, monkeypatch):
        """Reading ahead by whole shards would hold nearly all of them."""
        monkeypatch.setattr(store_remote, "DOWNLOADS", 1)
        reader = eventdata.FrameDataset(store).reader
        order = [0, 5, 10, 1, 6, 11, 2, 7, 12]  # from three shards in turn
        with reader.ahead(order, 1) as scattered:
            assert scattered is reader
        with reader.ahead(sorted(order), 1) as ahead:
            assert ahead is not reader

    def test_an_epoch_resumes_in_the_middle(self, s3, store):
        loader = FrameLoader(eventdata.FrameDataset(store), 4, shuffle=True, order="shards")
        whole = [labels.tolist() for _, labels in loader]
        loader.epoch = 0
        for _ in zip(range(2), loader):  # noqa: B905 stopped before the end
            pass
        state = loader.state_dict()
        again = FrameLoader(eventdata.FrameDataset(store), 4, shuffle=True, order="shards")
        again.load_state_dict(state)
        assert [labels.tolist() for _, labels in again] == whole[2:]

    def test_large_shards_are_read_by_ranges(self, s3, store, monkeypatch):
        monkeypatch.setattr("eventdata.store.read_remote.AHEAD_BYTES", 1000)
        dataset = eventdata.FrameDataset(store)
        s3.take_requests()
        list(FrameLoader(dataset, 4))
        assert all(request.range for request in s3.take_requests() if request.method == "GET")

    def test_dataloader_workers_read_after_the_parent_has_read(self, store, local):
        dataset = eventdata.FrameDataset(store)
        expected = eventdata.FrameDataset(local / "store.zarr")
        assert torch.equal(dataset[3][0], expected[3][0])
        loader = DataLoader(dataset, 8, num_workers=2, multiprocessing_context="fork", timeout=120)
        frames = torch.cat([batch for batch, _ in loader])
        assert torch.equal(frames, torch.stack([frames for frames, _ in expected]))
        again = pickle.loads(pickle.dumps(dataset))
        assert torch.equal(again[3][0], expected[3][0])


class TestRaw:
    def test_the_same_bytes(self, s3, bucket, tmp_path):
        raw = make_es_imagenet(tmp_path / "raw", train=7, val=1)
        upload(raw, f"{bucket}/raw")
        convert(raw, tmp_path / "store.zarr")
        done = CliRunner().invoke(
            main,
            ["convert", "es-imagenet", f"{bucket}/raw/", f"{bucket}/store", "--shard-size=5"],
        )
        assert done.exit_code == 0, done.output
        assert same(f"{bucket}/store", tmp_path / "store.zarr", tmp_path)
        assert eventdata.verify(f"{bucket}/store", against=f"{bucket}/raw").compared == 8
        assert convert(f"{bucket}/raw", tmp_path / "other.zarr").state == "complete"
        assert tree_digest(tmp_path / "other.zarr") == tree_digest(tmp_path / "store.zarr")

    @pytest.mark.parametrize(
        ("source", "make", "options"),
        [
            ("es-ucf101", lambda root: make_es_ucf101(root, clips=4, folders=True), {}),
            ("imagenet", make_images, {"min_events": 1}),
            ("images", make_images, {"crop": 64, "short_side": 64}),
            ("ucf101", make_clips, {"steps": 4, "size": "32x48", "mode": 2}),
        ],
        ids=["es-ucf101", "imagenet", "images", "ucf101"],
    )
    def test_all_sources_of_separate_files_read_urls(self, tmp_path, source, make, options):
        raw = make(tmp_path / "raw")
        url = f"memory://{uuid.uuid4().hex}"
        upload(raw, f"{url}/raw")
        eventdata.convert(source, raw, tmp_path / "store.zarr", **options)
        eventdata.convert(source, f"{url}/raw", tmp_path / "remote.zarr", **options)
        assert tree_digest(tmp_path / "remote.zarr") == tree_digest(tmp_path / "store.zarr")
        assert eventdata.verify(tmp_path / "store.zarr", against=f"{url}/raw").ok

    @pytest.mark.parametrize("options", [{"workers": 2}, {"scheduler": "tcp://nowhere:1"}])
    def test_memory_urls_need_one_process(self, tmp_path, options):
        raw, out, where = tmp_path / "raw", tmp_path / "out", "memory://x/raw"
        for call in (
            partial(eventdata.convert, "es-imagenet", where, out),
            partial(eventdata.convert, "es-imagenet", raw, where),
            partial(generate, "es-imagenet", where, out),
            partial(eventdata.verify, where),
            partial(eventdata.verify, out, against=where),
        ):
            with pytest.raises(OptionError, match="x/raw: is in the memory of this process"):
                call(**options)

    def test_generate_reads_urls(self, tmp_path):
        images = make_images(tmp_path / "images")
        url = f"memory://{uuid.uuid4().hex}"
        upload(images, url)
        generate("es-imagenet", images, tmp_path / "raw", min_events=1)
        generate("es-imagenet", url, tmp_path / "remote", min_events=1)
        assert tree_digest(tmp_path / "remote") == tree_digest(tmp_path / "raw")
        with pytest.raises(OptionError, match="raw files need a folder"):
            generate("es-imagenet", images, f"{url}/raw")

    @pytest.mark.parametrize(
        ("source", "options", "what"),
        [
            ("tonic:NMNIST", {"frames": 4}, "a dataset of Tonic"),
            ("recordings", {"frames": 4}, "recordings"),
            ("images", {"grey_from_events": True}, "the store for --grey-from-events"),
        ],
    )
    def test_sources_that_need_a_folder_refuse_urls(self, tmp_path, source, options, what):
        with pytest.raises(InputError, match=f"{what} must be on this machine"):
            eventdata.convert(source, "memory://x/raw", tmp_path / "out.zarr", **options)

    def test_errors_name_the_url(self, tmp_path):
        raw = make_es_imagenet(tmp_path / "raw", train=4, val=0)
        name = (raw / "trainlabel.txt").read_text().split()[0]
        (raw / "train" / name).write_bytes(b"no zip")
        url = f"memory://{uuid.uuid4().hex}/raw"
        upload(raw, url)
        with pytest.raises(InputError) as raised:
            convert(url, tmp_path / "out.zarr")
        assert str(raised.value).startswith(f"{url}/train/{name}: not a whole zip file")
        result = convert(url, tmp_path / "out.zarr", on_error="skip")
        assert result.skipped == 1
        (entry,) = eventdata.open_store(tmp_path / "out.zarr").skipped
        assert entry["reason"].startswith(f"{url}/train/{name}: ")

    @pytest.mark.parametrize("gone", [False, True])
    def test_files_that_change_or_vanish_are_errors(self, tmp_path, monkeypatch, gone):
        raw = make_es_imagenet(tmp_path / "raw", train=4, val=0)
        url = f"memory://{uuid.uuid4().hex}/raw"
        upload(raw, url)
        name = (raw / "trainlabel.txt").read_text().split()[0]
        system, path = fsspec.core.url_to_fs(f"{url}/train/{name}")
        real = eventdata.store.write.begin

        def begin(*args, **options):
            real(*args, **options)
            if gone:
                system.rm(path)
            else:
                system.pipe_file(path, system.cat_file(path) + b"\0")

        monkeypatch.setattr("eventdata.store.write.begin", begin)
        how = "vanished while it was read" if gone else "changed while it was read"
        with pytest.raises(MismatchError, match=f"{url}/train/{name}: {how}"):
            convert(url, tmp_path / "out.zarr", on_error="skip")

    def test_a_missing_listed_file_is_an_error(self, tmp_path):
        raw = make_es_imagenet(tmp_path / "raw", train=12, val=0)
        name = (raw / "trainlabel.txt").read_text().split()[0]
        (raw / "train" / name).unlink()
        url = f"memory://{uuid.uuid4().hex}/raw"
        upload(raw, url)
        with pytest.raises(InputError, match=f"{url}/train/{name}: the file is missing"):
            convert(url, tmp_path / "out.zarr")

    def test_no_temporary_files_are_left(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with subprocess.Popen([sys.executable, "-c", ""]) as process:
            process.wait()
        host = socket.gethostname()
        owners = (f"={os.getpid()}", f"={process.pid}", f"={10**30}", f"-17={process.pid}")
        mine, dead, none, other = (tmp_path / f"eventdata-{host}{owner}-x" for owner in owners)
        for folder in (mine, dead, none, other):  # the last belongs to another host
            (folder / "0").mkdir(parents=True)
        fsspec.filesystem("memory").pipe_file("/left/a.npz", b"1")
        with fetch_ahead(["memory://left/a.npz"], [1]), local_copy("memory://left/a.npz") as path:
            assert Path(path).read_bytes() == b"1"
            assert not dead.exists()
            assert not none.exists()
        assert not Path(path).exists()
        assert set(tmp_path.iterdir()) == {mine, other}

    @pytest.mark.parametrize(
        "call", [partial(eventdata.convert, "imagenet"), partial(generate, "es-imagenet")]
    )
    def test_a_full_disk_skips_no_sample(self, tmp_path, monkeypatch, call):
        """A full disk is not an error of a sample, but a name that is too long is one."""
        url = f"memory://{uuid.uuid4().hex}/raw"
        upload(make_images(tmp_path / "images"), url)
        for target in ("tempfile.TemporaryDirectory", "pathlib.Path.write_bytes"):
            with monkeypatch.context() as patch:
                patch.setattr(target, full_disk)
                with pytest.raises(EventDataError) as raised:
                    call(url, tmp_path / "out", min_events=1, on_error="skip")
            assert "can't write a temporary file" in str(raised.value)
            assert not isinstance(raised.value, InputError)
        fsspec.filesystem("memory").pipe_file(f"{url}/train/n01440764/{'a' * 300}.JPEG", b"1")
        with pytest.raises(InputError, match="its name is too long for this machine"):
            call(url, tmp_path / "other", min_events=1)

    def test_a_huge_file_is_not_fetched(self):
        with (
            pytest.raises(InputError, match=r"memory://huge/a: 1,000,000,000,000 bytes; a raw"),
            fetch_ahead(["memory://huge/a"], [10**12]),
            local_copy("memory://huge/a"),
        ):
            pass


class TestFaults:
    def test_failed_requests_are_repeated(self, s3, bucket, tmp_path):
        """Some requests are throttled or cut in a conversion, in verify and in reading."""
        raw = make_es_imagenet(tmp_path / "raw", train=7, val=1)
        upload(raw, f"{bucket}/raw")
        convert(raw, tmp_path / "store.zarr")

        failed = set()

        def fifth(number, request):  # each once: after five failures a request is given up
            if number % 5 or request in failed:
                return None
            failed.add(request)
            return ("503", "cut")[number % 2]

        with s3.failing(fifth):
            convert(f"{bucket}/raw", f"{bucket}/store")
            assert eventdata.verify(f"{bucket}/store").ok
            dataset = eventdata.FrameDataset(f"{bucket}/store")
            whole = eventdata.FrameDataset(tmp_path / "store.zarr")
            for order in ("samples", "shards"):
                for (frames, _), (expected, _) in zip(
                    FrameLoader(dataset, 5, shuffle=True, seed=0, order=order),
                    FrameLoader(whole, 5, shuffle=True, seed=0, order=order),
                    strict=True,
                ):
                    assert torch.equal(frames, expected)
            assert len(s3.take_requests()) > 100
            assert len(failed) > 10
        assert same(f"{bucket}/store", tmp_path / "store.zarr", tmp_path)

    @pytest.mark.parametrize("fault", ["503", "cut"])
    def test_requests_that_always_fail_give_one_sentence(self, s3, bucket, store, local, fault):
        dataset = eventdata.FrameDataset(store)
        with s3.failing(lambda number, request: fault):
            for attempt in (
                lambda: convert(local / "raw", f"{bucket}/store"),
                lambda: convert(f"{bucket}/raw", f"{bucket}/store"),
                lambda: eventdata.open_store(store),
                lambda: dataset[0],
                lambda: list(FrameLoader(dataset, 4, shuffle=True, order="shards")),
            ):
                with pytest.raises(EventDataError, match=r"^s3://\S+: can't be \w+ \(.*network; "):
                    attempt()

    def test_a_network_that_is_down_skips_no_sample(self, s3, bucket, tmp_path):
        raw = make_es_imagenet(tmp_path / "raw", train=4, val=0)
        upload(raw, f"{bucket}/raw")

        def files(number, request):
            return "503" if request.method == "GET" and request.path.endswith(".npz") else None

        with s3.failing(files), pytest.raises(EventDataError, match="can't be read") as raised:
            convert(f"{bucket}/raw", tmp_path / "out.zarr", on_error="skip")
        assert not isinstance(raised.value, InputError)
        assert convert(f"{bucket}/raw", tmp_path / "out.zarr", on_error="skip").skipped == 0

    def test_a_missing_bucket_is_an_error(self, s3, local, tmp_path):
        for attempt in (
            lambda: convert(local / "raw", "s3://no-such-bucket/store"),
            lambda: convert("s3://no-such-bucket/raw", tmp_path / "out.zarr"),
            lambda: eventdata.open_store("s3://no-such-bucket/store"),
        ):
            with pytest.raises(
                EventDataError,
                match=r"^s3://no-such-bucket/.*bucket does not exist\); create the bucket or corr",
            ):
                attempt()

    def test_a_missing_store_is_an_error(self, bucket):
        with pytest.raises(StoreError, match=f"{bucket}/none: no store found"):
            eventdata.open_store(f"{bucket}/none")
        with pytest.raises(InputError, match=f"{bucket}/none: no trainlabel.txt"):
            convert(f"{bucket}/none", f"{bucket}/out")

    def test_missing_credentials_are_an_error(self, s3, monkeypatch, local):
        import s3fs

        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            done = CliRunner().invoke(
                main, ["convert", "es-imagenet", str(local / "raw"), "s3://bucket/x"]
            )
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
        assert done.exit_code == 1
        assert done.stderr == (
            "eventdata: s3://bucket/x/zarr.json: can't be read (Unable to locate credentials); set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE\n"
        )
