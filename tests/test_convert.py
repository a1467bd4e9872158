"""A conversion always writes the same bytes, and the same command resumes it."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import eventdata
from eventdata.conversion import convert
from eventdata.errors import (
    IncompleteStoreError,
    InputError,
    MismatchError,
    OptionError,
    StoreError,
)
from eventdata.jobs.job import Task
from tests.drawn import Drawn
from tests.gated import Laggard
from tests.makers import (
    make_es_imagenet,
    make_es_ucf101,
    make_images,
    published_es_imagenet_frames,
    tree_digest,
    write_npz,
)


@pytest.fixture
def raw(tmp_path):
    return make_es_imagenet(tmp_path / "raw")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.zarr"


def run(raw, out, **options):
    return convert("es-imagenet", raw, out, **{"shard_size": 4, **options})


def break_file(raw, number):
    """Truncate one raw file but keep its time of change; return its manifest name."""
    name = (raw / "trainlabel.txt").read_text().splitlines()[number].split()[0]
    path = raw / "train" / name
    path.write_bytes(path.read_bytes()[:100])
    return name


def test_store_holds_the_frames_of_the_published_loader(raw, out):
    result = run(raw, out)
    assert (result.state, result.samples) == ("complete", {"train": 12, "val": 4})
    for split in ("train", "val"):
        ds = eventdata.FrameDataset(out, split)
        lines = [line.split() for line in (raw / f"{split}label.txt").read_text().splitlines()]
        assert ds.names == [line[0] for line in lines]
        for index, (name, label, height, width) in enumerate(lines):
            frames, stored_label = ds[index]
            expected = published_es_imagenet_frames(raw / split / name, int(height), int(width))
            np.testing.assert_array_equal(frames.numpy(), expected)
            assert stored_label == int(label)
            assert ds.event_counts[index] == expected.sum()


def test_header(raw, out):
    run(raw, out)
    header = json.loads((out / "zarr.json").read_text())["attributes"]["eventdata"]
    assert {k: header[k] for k in ("dataset", "representation", "steps", "polarity")} == {
        "dataset": "es-imagenet",
        "representation": "binary",
        "steps": 8,
        "polarity": ["positive", "negative"],
    }
    assert header["complete"] is True
    assert len(header["classes"]) == 1000
    assert set(header) >= {"version", "parameters", "parameters_sha256"}


def test_same_bytes_from_every_executor(raw, tmp_path):
    run(raw, tmp_path / "1.zarr")
    run(raw, tmp_path / "2.zarr", workers=2)
    with ThreadPoolExecutor(3) as threads:
        run(raw, tmp_path / "3.zarr", executor=threads)
    digests = [tree_digest(tmp_path / f"{n}.zarr") for n in (1, 2, 3)]
    assert digests[0] == digests[1] == digests[2]
    assert not any(key.startswith(".work") for key in digests[0])


def test_running_tasks_have_ended_when_the_caller_stops(tmp_path):
    """A user's own threads would otherwise write after the lock is released."""

    def stop(done, total):
        if done:
            raise StoppedError

    class StoppedError(Exception):
        pass

    source = Laggard(gate=str(tmp_path), torn=False)
    with ThreadPoolExecutor(2) as threads:
        with pytest.raises(StoppedError):
            eventdata.convert(
                source, "", tmp_path / "o", shard_size=4, executor=threads, progress=stop
            )
        assert (tmp_path / "ended").exists()


def stop_before_finish(monkeypatch):
    """Interrupt every conversion after its last shard, by a ZeroDivisionError."""
    monkeypatch.setattr("eventdata.store.write.finish", lambda *_: 1 / 0)


def test_records_of_another_plan_do_not_count(tmp_path, monkeypatch):
    """A worker that outlives its conversion may write records into a folder that another uses."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    eventdata.convert(Drawn(), "", whole, shard_size=16)
    stop_before_finish(monkeypatch)
    for source, place in ((Drawn(), out), (Drawn(first_label=1), tmp_path / "other")):
        with pytest.raises(ZeroDivisionError):
            eventdata.convert(source, "", place, shard_size=16)
    monkeypatch.undo()
    for key in (".work/train-1.json", "train/frames/c/1/0/0/0/0"):
        shutil.copy(tmp_path / "other" / key, out / key)
    result = eventdata.convert(Drawn(), "", out, shard_size=16)
    assert result.samples["train"] - 16 <= result.done_before < sum(result.samples.values())
    assert tree_digest(out) == tree_digest(whole)


def test_interrupted_then_finished(raw, out, tmp_path, monkeypatch):
    """Stop after each shard in turn: the next call resumes and writes the same bytes."""
    run(raw, tmp_path / "whole.zarr")
    real = Task.run

    class StopError(Exception):
        pass

    done = 0
    for _ in range(4):

        def stop_after_one(*args, _calls=[], **kwargs):  # noqa: B006
            if _calls:
                raise StopError
            _calls.append(1)
            return real(*args, **kwargs)

        monkeypatch.setattr(Task, "run", stop_after_one)
        try:
            result = run(raw, out)
        except StopError:
            done += 4
            with pytest.raises(IncompleteStoreError, match="has not finished"):
                eventdata.open_store(out)
            assert run(raw, out, dry_run=True).done_before == done
    assert result.done_before == done == 12
    assert tree_digest(out) == tree_digest(tmp_path / "whole.zarr")


def test_second_call_does_nothing(raw, out):
    run(raw, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    (out / ".work").mkdir()  # as a kill just before the end leaves it
    result = run(raw, out)
    assert result.state == "already complete"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} | {out: 0} == before | {
        out: 0
    }


@pytest.mark.parametrize("complete", [True, False])
def test_other_parameters_are_refused(raw, out, complete, monkeypatch):
    if complete:
        run(raw, out)
    else:
        stop_before_finish(monkeypatch)
        with pytest.raises(ZeroDivisionError):
            run(raw, out)
    before = tree_digest(out)
    with pytest.raises(MismatchError, match="shard_size is 4 in the store, 8 in this call"):
        run(raw, out, shard_size=8)
    with pytest.raises(MismatchError, match="limit is None in the store, 2 in this call"):
        run(raw, out, limit=2)
    with pytest.raises(MismatchError, match="split_names"):
        run(raw, out, split="val")
    with pytest.raises(MismatchError, match="dataset is 'es-imagenet'"):
        convert("es-ucf101", make_es_ucf101(raw.parent / "ucf", clips=2), out)
    assert tree_digest(out) == before


def test_a_conversion_without_a_shard_is_replaced(raw, out):
    """It stopped at its first sample, perhaps because of a wrong option."""
    break_file(raw, 0)
    with pytest.raises(InputError):
        run(raw, out, shard_size=2, limit=3)
    assert (out / "zarr.json").exists()
    shutil.rmtree(raw)
    make_es_imagenet(raw)
    assert run(raw, out, dry_run=True).done_before == 0
    run(raw, out)
    assert eventdata.verify(out, against=raw).ok


def test_other_input_is_refused(raw, out):
    run(raw, out)
    manifest = raw / "trainlabel.txt"
    text = manifest.read_text()
    lines = text.splitlines()
    name, label, height, width = lines[2].split()

    manifest.write_text("\n".join(lines[:-1]))
    with pytest.raises(MismatchError, match="train has 12 samples in the store, 11 in the input;"):
        run(raw, out)
    manifest.write_text("\n".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(MismatchError, match="sample 0 of train, .* is a different sample"):
        run(raw, out)
    lines[2] = f"{name} {(int(label) + 1) % 1000} {height} {width}"
    manifest.write_text("\n".join(lines))
    with pytest.raises(MismatchError, match="sample 2 of train, .* has a different label"):
        run(raw, out)
    manifest.write_text(text)

    path = raw / "train" / name
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(MismatchError, match=f"{name}, is a file that was changed since"):
        run(raw, out)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(MismatchError, match=f"{name}, is a file of a different size"):
        run(raw, out)
    assert run(raw, out, overwrite=True).state == "complete"


def test_file_that_changes_while_it_is_read(raw, out, monkeypatch):
    from eventdata.raw.es_imagenet import EsImageNet

    read = EsImageNet.read

    def touch_then_read(self, sample, packed):
        os.utime(sample.path, ns=(1, 1))
        return read(self, sample, packed)

    monkeypatch.setattr(EsImageNet, "read", touch_then_read)
    with pytest.raises(MismatchError, match="changed while it was read"):
        run(raw, out, on_error="skip")


def test_bad_sample_fails_then_is_skipped(raw, out):
    name = break_file(raw, 5)
    with pytest.raises(InputError, match=f"{name}: not a whole zip"):
        run(raw, out)
    with pytest.raises(IncompleteStoreError):
        eventdata.FrameDataset(out)
    result = run(raw, out, on_error="skip")
    assert (result.skipped, result.done_before) == (1, 4)
    (entry,) = json.loads((out / "skipped.json").read_text())
    assert (entry["split"], entry["index"], entry["name"]) == ("train", 5, name)
    assert "not a whole zip" in entry["reason"]
    ds = eventdata.FrameDataset(out)
    assert len(ds) == len(ds.labels) == len(ds.names) == 11
    assert name not in ds.names
    store = eventdata.open_store(out)
    assert store.splits["train"].valid.tolist() == [i != 5 for i in range(12)]
    assert eventdata.verify(out).ok


def test_shards_with_skips_are_converted_again_without_on_error_skip(raw, out, monkeypatch):
    break_file(raw, 5)
    stop_before_finish(monkeypatch)
    with pytest.raises(ZeroDivisionError):
        run(raw, out, on_error="skip")
    with pytest.raises(InputError, match="not a whole zip"):
        run(raw, out, on_error="fail")


def test_bad_manifest_lines_fail_or_are_skipped(raw, out):
    manifest = raw / "trainlabel.txt"
    lines = manifest.read_text().splitlines()
    lines += ["class1/a.npz 1 254", "class1/none.npz 1 254 254", lines[0], "../x.npz 1 254 254"]
    manifest.write_text("\r\n".join(lines))
    with pytest.raises(InputError, match=r"trainlabel.txt:13: 3 fields.*\(and 3 more in train\)"):
        run(raw, out)
    assert not out.exists()
    assert run(raw, out, on_error="skip").skipped == 4
    assert len(eventdata.FrameDataset(out)) == 12
    assert eventdata.open_store(out).splits["train"].count == 16
    result = eventdata.verify(out, against=raw, samples=None)
    assert result.ok, result.problems


def test_all_samples_bad(raw, out):
    for number in range(12):
        break_file(raw, number)
    run(raw, out, on_error="skip")
    assert len(eventdata.FrameDataset(out)) == 0
    assert eventdata.verify(out).ok


def test_error_in_a_worker_process(raw, out):
    break_file(raw, 9)
    with pytest.raises(InputError, match="not a whole zip"):
        run(raw, out, workers=2)
    assert run(raw, out, workers=2, on_error="skip").skipped == 1


def test_temporary_files_below_a_long_path(raw, out, tmp_path):
    """Workers are spawned if the path of the fork server's socket would be too long."""
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    words = ["convert", "es-imagenet", str(raw), str(out), "--workers", "2"]
    environment = os.environ | {"TMPDIR": str(deep)}
    subprocess.run([sys.executable, "-m", "eventdata", *words], check=True, env=environment)
    assert eventdata.verify(out).ok


def test_dry_run_changes_nothing_and_estimates(raw, out):
    estimate = run(raw, out, dry_run=True)
    assert not out.exists()
    assert (estimate.state, estimate.samples, estimate.done_before) == (
        "dry run",
        {"train": 12, "val": 4},
        0,
    )
    arrays = sum(p.stat().st_size for p in _converted(raw, out).rglob("frames/c/*/*/*/*/*"))
    assert estimate.bytes == pytest.approx(arrays, rel=0.01)
    assert run(raw, out, dry_run=True).done_before == 16
    with pytest.raises(MismatchError):
        run(raw, out, dry_run=True, shard_size=5)


def _converted(raw, out):
    run(raw, out)
    return out


def test_limit_and_split(raw, out):
    result = run(raw, out, limit=3, split="train")
    assert result.samples == {"train": 3}
    assert len(eventdata.FrameDataset(out)) == 3
    with pytest.raises(OptionError, match="no split 'val'; the store has train"):
        eventdata.FrameDataset(out, "val")


def test_out_that_is_not_a_store_is_refused(raw, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("precious")
    (tmp_path / "foreign.zarr").mkdir()
    (tmp_path / "foreign.zarr" / "zarr.json").write_text('{"zarr_format": 3, "attributes": {}}')
    for place in (other, other / "thesis.tex", tmp_path / "foreign.zarr"):
        before = tree_digest(tmp_path)
        for overwrite in (False, True):
            with pytest.raises(StoreError):
                run(raw, place, overwrite=overwrite)
        assert tree_digest(tmp_path) == before
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run(raw, empty).state == "complete"


def test_overwrite_removes_only_the_store(raw, out):
    run(raw, out)
    (out / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match=r"holds 'thesis.tex', which is not part of the store"):
        run(raw, out, overwrite=True)
    assert (out / "thesis.tex").read_text() == "precious"
    assert len(eventdata.FrameDataset(out)) == 12
    for place in (raw, raw.parent):
        with pytest.raises(OptionError, match="contains the input"):
            run(raw, place, overwrite=True)


def test_no_store_in_an_input_whose_folders_are_walked(tmp_path):
    """The next call would list the store as a class."""
    folder = tmp_path / "recordings"
    for name in ("train/a", "train/b", "test/a", "test/b"):
        write_npz(folder / name / "1.npz", **{key: np.arange(9) % 2 for key in "xytp"})
    (tmp_path / "link").symlink_to(folder)
    options = {"frames": 2, "sensor_size": "10x100"}
    before = tree_digest(tmp_path)
    for given, out in (
        (folder, folder / "out.zarr"),
        (folder, folder / "train/a/out.zarr"),
        (folder, tmp_path / "link/out.zarr"),
        (tmp_path / "link", f"file://{folder}/out.zarr"),
    ):
        for more in ({}, {"overwrite": True}, {"dry_run": True}):
            with pytest.raises(OptionError, match="lies in the input; choose an OUT outside"):
                convert("recordings", given, out, **options, **more)
    assert tree_digest(tmp_path) == before
    convert("recordings", folder, tmp_path / "recordings.zarr", **options)
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(InputError, match="round"):
        convert("recordings", tmp_path / "round", tmp_path / "other.zarr", **options)


def test_a_store_next_to_the_folders_of_a_manifest(raw):
    run(raw, raw / "out.zarr")
    assert run(raw, raw / "out.zarr").state == "already complete"


def test_names_that_are_not_text(tmp_path):
    """A file name that is not UTF-8 is stored with backslash escapes."""
    raw = make_es_ucf101(tmp_path / "raw", clips=2)
    odd = os.fsencode(raw) + b"/v_Archery_g09_\xff_c01.npz"
    with open(odd, "wb") as file:  # noqa: PTH123 pathlib takes no bytes
        file.write(b"")
    convert("es-ucf101", raw, tmp_path / "ucf.zarr", on_error="skip")
    names = eventdata.open_store(tmp_path / "ucf.zarr").splits["all"].sample_names
    assert any("\\xff" in name for name in names)


@pytest.mark.parametrize("source", ["images", "imagenet", "recordings"])
def test_class_folders_and_files_whose_names_are_not_text(tmp_path, source):
    folder = tmp_path / "raw"
    options = {"min_events": 0} if source == "imagenet" else {}
    if source == "recordings":
        options = {"frames": 2, "sensor_size": "10x100"}
        for number, name in enumerate("abc"):
            columns = {key: np.arange(9) % 2 for key in "xyp"}
            write_npz(folder / name / "1.npz", **columns, t=np.arange(9) + number)
    else:
        make_images(folder, train=4, val=0)
        folder /= "train"
    first, second = sorted(folder.iterdir())[:2]
    inside = sorted(first.iterdir())[0]
    os.rename(inside, os.fsencode(first) + b"/x\xff" + os.fsencode(inside.suffix))  # noqa: PTH104
    os.rename(second, os.fsencode(folder) + b"/c\xff")  # noqa: PTH104
    out = tmp_path / "out.zarr"
    result = convert(source, folder, out, **options)
    assert result.skipped == 0
    assert convert(source, folder, out, **options).state == "already complete"
    assert eventdata.verify(out, against=folder).ok
    store = eventdata.open_store(out)
    (split,) = store.splits.values()
    assert rf"{first.name}/x\xff{inside.suffix}" in list(split.sample_names)
    classes = store.header.classes
    assert "c\\xff" in classes
    for name, label in zip(split.sample_names, split.labels, strict=True):
        assert classes[label] == name.split("/")[0]


def test_overwrite_that_was_interrupted(raw, out, tmp_path, monkeypatch):
    run(raw, tmp_path / "whole.zarr")
    run(raw, out, shard_size=3)
    real = shutil.rmtree
    monkeypatch.setattr("eventdata.files.local.shutil.rmtree", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(raw, out, overwrite=True)
    monkeypatch.setattr("eventdata.files.local.shutil.rmtree", real)
    with pytest.raises(IncompleteStoreError):
        eventdata.open_store(out)
    run(raw, out)
    assert tree_digest(out) == tree_digest(tmp_path / "whole.zarr")


def test_two_at_once(raw, out):
    """The second stops; a lock file that a crash left does not stop any."""
    started = []

    def second(done, total):
        if not started:
            started.append(1)
            with pytest.raises(StoreError, match="another command is writing"):
                run(raw, out)

    run(raw, out, progress=second)
    assert started
    (out / ".work").mkdir()
    (out / ".work" / "lock").touch()
    assert run(raw, out, overwrite=True).state == "complete"


def test_bad_options(raw, out):
    for options in (
        {"workers": 0},
        {"shard_size": 0},
        {"limit": 0},
        {"limit": True},
        {"on_error": "ignore"},
        {"fold": 1},
        {"nonsense": 1},
    ):
        with pytest.raises(OptionError):
            run(raw, out, **options)
    with pytest.raises(OptionError, match="unknown source 'imagenette'"):
        convert("imagenette", raw, out)


def test_a_source_that_is_an_object(out):
    """Options for a named source would be ignored, so they are refused."""
    with pytest.raises(OptionError, match="framez, split: not allowed with a Source object"):
        convert(Drawn(), None, out, split="val", framez=3)
    assert convert(Drawn(), None, out).state == "complete"
    with pytest.raises(OptionError, match="input is None; pass the folder"):
        convert("es-imagenet", None, out)


def test_dry_run_with_an_empty_split(out):
    source = Drawn(counts=(("train", 3), ("test", 0)))
    estimate = convert(source, None, out, dry_run=True)
    assert estimate.samples == convert(source, None, out).samples == {"train": 3, "test": 0}
    assert estimate.bytes > 0


def test_whole_numbers_of_numpy(raw, out, tmp_path):
    numpy = {"limit": np.int64(2), "shard_size": np.uint16(3), "workers": np.int64(2)}
    assert run(raw, out, **numpy).samples == {"train": 2, "val": 2}
    run(raw, tmp_path / "same.zarr", limit=2, shard_size=3)
    assert tree_digest(out) == tree_digest(tmp_path / "same.zarr")


def test_remote_store_has_the_same_bytes(raw, out):
    import fsspec

    run(raw, out)
    result = run(raw, "memory://bucket/out.zarr")
    assert result.state == "complete"
    system = fsspec.filesystem("memory")
    for path in out.rglob("*"):
        if path.is_file():
            key = f"/bucket/out.zarr/{path.relative_to(out).as_posix()}"
            assert system.cat_file(key) == path.read_bytes()
    remote = eventdata.FrameDataset("memory://bucket/out.zarr")
    local = eventdata.FrameDataset(out)
    for (a, label_a), (b, label_b) in zip(remote, local, strict=True):
        assert label_a == label_b
        assert (a == b).all()
    assert eventdata.verify("memory://bucket/out.zarr").ok


def test_file_urls(raw, out, tmp_path):
    """A file URL is treated as a local folder in all respects."""
    result = run(f"file://{raw}", f"file://{out}")
    assert (result.state, result.out) == ("complete", str(out))
    run(raw, tmp_path / "by-path.zarr")
    assert tree_digest(out) == tree_digest(tmp_path / "by-path.zarr")
    assert run(f"local://{raw}", out).state == "already complete"
    assert len(eventdata.FrameDataset(f"file://{out}")) == 12
    assert eventdata.verify(f"file://{out}", against=f"file://{raw}").ok
    with pytest.raises(OptionError, match="contains the input"):
        run(raw, f"file://{raw.parent}", overwrite=True)


def test_stores_with_the_same_content_are_equal(raw, tmp_path):
    """The time and place of conversion do not matter."""

    def digest(name):
        run(raw, tmp_path / name)
        return eventdata.open_store(tmp_path / name).digest

    first = digest("first.zarr")
    for path in raw.rglob("*.npz"):
        os.utime(path, (1e9, 1e9))
    assert digest("later.zarr") == first
    manifest = raw / "trainlabel.txt"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[1:] + lines[:1]))
    assert digest("other order.zarr") != first
    manifest.write_text("".join(lines))
    name = lines[0].split()[0]
    write_npz(raw / "train" / name, pos=np.ones((1, 3), np.uint8), neg=np.ones((1, 3), np.uint8))
    assert digest("other events.zarr") != first
