"""`generate` makes the published bytes, and `convert` reads them to the same frames."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import eventdata
from eventdata import generation
from eventdata.cli import main
from eventdata.conversion import convert
from eventdata.errors import InputError, MismatchError, OptionError, StoreError
from eventdata.files.local import LocalFiles
from eventdata.generation import generate
from eventdata.jobs.job import Task
from tests.makers import make_clips, make_images, tree_digest

SMALL = {"min_events": 20}


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "BATCH", 2)
    return make_images(tmp_path / "images", train=5, val=2)


def frames(store: Path) -> dict[str, list[np.ndarray]]:
    return {
        split: [sample.numpy() for sample, _ in eventdata.FrameDataset(store, split)]
        for split in eventdata.open_store(store).splits
    }


def assert_same_frames(first: Path, second: Path) -> int:
    one, other = frames(first), frames(second)
    assert list(one) == list(other)
    for split in one:
        np.testing.assert_array_equal(one[split], other[split])
    return sum(map(len, one.values()))


def test_the_published_files_of_the_photographs(shared, tmp_path):
    """Compare the bytes of every npz and the manifests."""
    options = {"odg": "published", "classes": shared / "labels" / "imagenet_wnid_to_index.txt"}
    result = generate("es-imagenet", shared / "imagenet_samples", tmp_path / "raw", **options)
    assert result.samples == {"train": 96, "val": 32}
    published = shared / "es_imagenet"
    for path in published.rglob("*.npz"):
        made = np.load(tmp_path / "raw" / path.relative_to(published))
        with np.load(path) as expected:
            assert made.files == expected.files
            for key in ("pos", "neg"):
                np.testing.assert_array_equal(made[key], expected[key])
    for name in ("trainlabel.txt", "vallabel.txt"):
        lines = (tmp_path / "raw" / name).read_text().splitlines()
        assert sorted(lines) == sorted((published / name).read_text().splitlines())


@pytest.mark.parametrize("odg", ["published", "centred"])
def test_raw_files_give_the_frames_made_directly(shared, tmp_path, odg):
    """Compare both modes, although the layout was made for one.

    Centred events lie where the crop wants them after the reader's centring, for a landscape
    image above the published window, rows 17 to 239.
    """
    photographs = shared / "imagenet_samples"
    generate("es-imagenet", photographs, tmp_path / "raw", odg=odg, split="val")
    convert("es-imagenet", tmp_path / "raw", tmp_path / "by-raw.zarr")
    convert("imagenet", photographs, tmp_path / "direct.zarr", odg=odg, split="val")
    assert assert_same_frames(tmp_path / "by-raw.zarr", tmp_path / "direct.zarr") == 32
    rows = np.concatenate([np.load(p)["pos"][:, 0] for p in tmp_path.glob("raw/val/*.npz")])
    assert (rows.min() < 17) == (odg == "centred")


def test_clips(shared, tmp_path):
    """Compare with the published arrays of three folders of JPEG frames, and with direct frames."""
    clips = shared / "es_ucf101" / "jpegs_256"
    assert generate("es-ucf101", clips, tmp_path / "raw").samples == {"all": 3}
    for path in (tmp_path / "raw").glob("*.npz"):
        with np.load(path) as made, np.load(clips.parent / "event_dvs" / path.name) as expected:
            np.testing.assert_array_equal(made["arr_0"], expected["arr_0"])
    convert("es-ucf101", tmp_path / "raw", tmp_path / "by-raw.zarr")
    convert("ucf101", clips, tmp_path / "direct.zarr")
    assert assert_same_frames(tmp_path / "by-raw.zarr", tmp_path / "direct.zarr") == 3


def test_mode_2_through_raw_files(tmp_path):
    clips = make_clips(tmp_path / "clips", clips=2)
    generate("es-ucf101", clips, tmp_path / "raw", mode=2, seed=5)
    convert("es-ucf101", tmp_path / "raw", tmp_path / "by-raw.zarr")
    convert("ucf101", clips, tmp_path / "direct.zarr", mode=2, seed=5)
    assert assert_same_frames(tmp_path / "by-raw.zarr", tmp_path / "direct.zarr") == 2


def test_same_bytes_whatever_the_workers_and_interruptions(images, tmp_path, monkeypatch):
    generate("es-imagenet", images, tmp_path / "one", **SMALL)
    generate("es-imagenet", images, tmp_path / "two", workers=2, **SMALL)
    whole = tree_digest(tmp_path / "one")
    assert tree_digest(tmp_path / "two") == whole
    real, out = Task.run, tmp_path / "stopped"
    for done in (0, 2, 4):

        def stop_after_one(batch, calls=[]):  # noqa: B006
            if calls:
                raise KeyboardInterrupt
            calls.append(1)
            return real(batch)

        monkeypatch.setattr(Task, "run", stop_after_one)
        with pytest.raises(KeyboardInterrupt):
            generate("es-imagenet", images, out, **SMALL)
        assert not list(out.glob("*.txt"))  # the manifests come last
        with pytest.raises(InputError):
            convert("es-imagenet", out, tmp_path / "x.zarr")
        assert len(list(out.rglob("*.npz"))) >= done
        assert len(list((out / ".work").glob("*.json"))) == done // 2 + 1
    monkeypatch.setattr(Task, "run", real)
    (out / ".work" / "left.tmp").touch()
    lost = sorted(out.rglob("*.npz"))[0]
    lost.write_bytes(b"")  # an incomplete file is made again
    record = max((out / ".work").glob("train-*.json"))
    torn = json.loads(record.read_text()) | {
        "lines": ["\ud800"]
    }  # and so is one with a damaged record
    record.write_text(json.dumps(torn))
    result = generate("es-imagenet", images, out, **SMALL)
    assert result.done_before == 2  # of the 5 in train, the first two again, and the last
    assert tree_digest(out) == whole
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    assert generate("es-imagenet", images, out, **SMALL).state == "already complete"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")} == before
    lost.unlink()
    assert generate("es-imagenet", images, out, **SMALL).state == "complete"
    assert tree_digest(out) == whole


def test_a_worker_that_outlives_its_call(images, tmp_path, monkeypatch):
    """It writes neither files nor a record once another call uses the folder."""
    late, out, tasks, real = tmp_path / "late", tmp_path / "out", [], Task.run
    with monkeypatch.context() as patched:
        patched.setattr(generation, "_finish", lambda *_: 1 / 0)
        patched.setattr(Task, "run", lambda task: tasks.append(task) or real(task))
        for folder, least in ((late, 20), (out, 1)):
            with pytest.raises(ZeroDivisionError):
                generate("es-imagenet", images, folder, min_events=least)
    with pytest.raises(StoreError, match="another command has finished or replaced it"):
        real(replace(tasks[0], claim=replace(tasks[0].claim, files=LocalFiles(out))))
    shutil.copy(late / ".work/train-0.json", out / ".work/train-0.json")
    assert generate("es-imagenet", images, out, min_events=1).done_before == 5
    generate("es-imagenet", images, tmp_path / "whole", min_events=1)
    assert tree_digest(out) == tree_digest(tmp_path / "whole")


def test_unfinished_raw_clips_are_not_converted(tmp_path, monkeypatch):
    clips = make_clips(tmp_path / "clips", clips=3)
    monkeypatch.setattr(generation, "_finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate("es-ucf101", clips, tmp_path / "raw")
    with pytest.raises(InputError, match="not finished"):
        convert("es-ucf101", tmp_path / "raw", tmp_path / "out.zarr")


def test_other_settings_or_input_are_refused(images, tmp_path):
    out = tmp_path / "raw"
    generate("es-imagenet", images, out, **SMALL)
    before = tree_digest(out)
    with pytest.raises(MismatchError, match="threshold is 0.18 there, 0.3 in this call"):
        generate("es-imagenet", images, out, threshold=0.3, **SMALL)
    with pytest.raises(MismatchError, match=r"splits is \['train', 'val'\] there"):
        generate("es-imagenet", images, out, split="val", **SMALL)
    with pytest.raises(MismatchError, match="kind is 'es-imagenet' there"):
        generate("es-ucf101", make_clips(tmp_path / "clips"), out)
    path = sorted(images.rglob("*.JPEG"))[0]
    os.utime(path, ns=(1, 1))
    with pytest.raises(MismatchError, match="made from other input"):
        generate("es-imagenet", images, out, **SMALL)
    assert tree_digest(out) == before


def test_skipped_and_damaged_images(images, tmp_path):
    """Neither kind is in a manifest; the others can be converted and verified."""
    Image.new("RGB", (99, 80), "grey").save(images / "train" / "n01440764" / "a_plain.JPEG")
    damaged = images / "train" / "n01440764" / "b_damaged.JPEG"
    damaged.write_bytes(b"\xff\xd8\xff")
    out = tmp_path / "raw"
    with pytest.raises(InputError, match="b_damaged.JPEG: not an image"):
        generate("es-imagenet", images, out, **SMALL)
    result = generate("es-imagenet", images, out, on_error="skip", **SMALL)
    assert (result.samples, result.left_out, result.skipped) == ({"train": 5, "val": 2}, 1, 1)
    about = json.loads((out / "generated.json").read_text())
    assert "a_plain.JPEG" in about["left_out"]["train/class0/class0_1.npz"]
    assert "b_damaged.JPEG" in about["skipped"]["train/class0/class0_2.npz"]
    lines = (out / "trainlabel.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines if line.startswith("class0")] == [
        f"class0/class0_{number}.npz" for number in (3, 4, 5)
    ]
    assert sorted(p.name for p in out.glob("train/class0/*")) == [
        f"class0_{number}.npz" for number in (3, 4, 5)
    ]
    convert("es-imagenet", out, tmp_path / "out.zarr")
    assert eventdata.verify(tmp_path / "out.zarr", against=out, samples=None).ok


def test_val_keeps_the_numbers_of_imagenet(tmp_path):
    images = make_images(tmp_path / "images", train=0, val=2)
    for number, path in zip((40551, 7), sorted(images.rglob("*.JPEG")), strict=True):
        path.rename(path.with_name(f"ILSVRC2012_val_{number:08d}.JPEG"))
    generate("es-imagenet", images, tmp_path / "raw", **SMALL)
    names = [line.split()[0] for line in (tmp_path / "raw/vallabel.txt").read_text().splitlines()]
    assert names == ["ILSVRC2012_val_00040551.npz", "ILSVRC2012_val_00000007.npz"]
    one, other = sorted(images.rglob("*.JPEG"))
    other.rename(other.with_name(one.name))
    with pytest.raises(InputError, match="the same number"):
        generate("es-imagenet", images, tmp_path / "again", **SMALL)


def test_image_that_changes_meanwhile(images, tmp_path, monkeypatch):
    from eventdata.raw.imagenet import ImageNet

    real = ImageNet.events

    def touch_then_read(self, path):
        os.utime(path, ns=(1, 1))
        return real(self, path)

    monkeypatch.setattr(ImageNet, "events", touch_then_read)
    with pytest.raises(MismatchError, match="changed while it was read"):
        generate("es-imagenet", images, tmp_path / "raw", on_error="skip", **SMALL)


def test_a_limit_of_numpy(images, tmp_path):
    made = generate("es-imagenet", images, tmp_path / "raw", limit=np.int64(1), **SMALL)
    assert sum(made.samples.values()) == 2


def test_bad_options_and_places(images, tmp_path):
    for options in ({"long_side": 100}, {"steps": 5}, {"splits": "x"}, {"odg": "other"}):
        with pytest.raises(OptionError):
            generate("es-imagenet", images, tmp_path / "raw", **options)
    with pytest.raises(OptionError, match="has no option 'split'; it belongs to es-im"):
        generate("es-ucf101", images, tmp_path / "raw", split="train")
    with pytest.raises(OptionError, match="unknown source 'imagenet'; did you mean 'es-imagenet'"):
        generate("imagenet", images, tmp_path / "raw")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(StoreError, match="is not empty"):
        generate("es-imagenet", images, tmp_path / "other", **SMALL)
    shutil.copytree(images / "val", images / "test")
    with pytest.raises(OptionError, match="remove 'test' from the input"):
        generate("es-imagenet", images, tmp_path / "raw", **SMALL)


def test_command(images, tmp_path):
    words = ["generate", "es-imagenet", str(images), str(tmp_path / "raw"), "--min-events", "20"]
    result = CliRunner().invoke(main, [*words, "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert "complete, files: train 5, val 2" in result.output
    result = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert (result["state"], result["done_before"]) == ("already complete", 7)
    help_page = CliRunner().invoke(main, ["generate", "--help"]).output
    assert "--odg" in help_page
    assert "--long-side" not in help_page


def test_raw_folder_and_input_lie_apart(images):
    before = tree_digest(images.parent)
    for out, says in ((images / "raw", "lies in the input"), (images.parent, "contains the input")):
        for place in (out, f"file://{out}"):
            with pytest.raises(OptionError, match=says):
                generate("es-imagenet", images, place, **SMALL)
    assert tree_digest(images.parent) == before
    assert generate("es-imagenet", images, f"file://{images}-raw", **SMALL).out == f"{images}-raw"
