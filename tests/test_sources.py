"""Every source keeps the same promises, and real data gives the published frames."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner

import eventdata
from eventdata.cli import main
from eventdata.conversion import convert
from eventdata.errors import OptionError
from eventdata.raw.registry import source_entry
from tests.makers import make_clips, make_es_imagenet, make_es_ucf101, make_images
from tests.source_contract import SettingsContract, SourceContract


class TestEsImageNet(SourceContract):
    source = "es-imagenet"

    def make(self, folder):
        return make_es_imagenet(folder / "raw", train=4, val=2)

    def file_of_a_sample(self, raw):
        return sorted(raw.glob("train/*/*.npz"))[0]

    def damage(self, raw):
        path = self.file_of_a_sample(raw)
        path.write_bytes(path.read_bytes()[:100])
        return path.relative_to(raw / "train").as_posix()


class TestEsUcf101(SourceContract):
    source = "es-ucf101"

    def make(self, folder):
        return make_es_ucf101(folder / "raw", clips=5)

    def file_of_a_sample(self, raw):
        return raw / "v_Archery_g01_c01.npz"

    def damage(self, raw):
        self.file_of_a_sample(raw).write_bytes(b"PK\x03\x04")
        return "v_Archery_g01_c01.npz"


class TestImageNet(SettingsContract):
    source = "imagenet"
    options: ClassVar[dict[str, Any]] = {"long_side": 62, "crop": 48, "min_events": 20}
    other: ClassVar[dict[str, Any]] = {
        "threshold": 0.3,
        "odg": "published",
        "resampling": "area",
        "min_events": 10,
        "trace": "1,1 0,0 1,1",
        "long_side": 60,
        "crop": 40,
    }

    def make(self, folder):
        return make_images(folder / "raw")

    def file_of_a_sample(self, raw):
        return raw / "train" / "n01440764" / "n01440764_2.JPEG"

    def damage(self, raw):
        path = self.file_of_a_sample(raw)
        path.write_bytes(path.read_bytes()[:300])
        return "n01440764/n01440764_2.JPEG"


class TestImageNetByAList(TestImageNet):
    """The layout of ImageNet's val: one folder of images, with labels in a file."""

    other: ClassVar[dict[str, Any]] = {"threshold": 0.3}

    def make(self, folder):
        raw = make_images(folder / "raw")
        lines = []
        for path in sorted((raw / "val").rglob("*.JPEG")):
            path.rename(raw / "val" / path.name)
            lines.append(f"{path.name} {path.parent.name}")
            path.parent.rmdir()
        (folder / "val.txt").write_text("\n".join(lines))
        (folder / "classes.txt").write_text("n02119789 0\nn01440764 1\n")
        type(self).options = {
            **TestImageNet.options,
            "list": folder / "val.txt",
            "classes": folder / "classes.txt",
        }
        return raw


class TestImages(TestImageNet):
    source = "images"
    options: ClassVar[dict[str, Any]] = {"short_side": 40, "crop": 32}
    other: ClassVar[dict[str, Any]] = {"short_side": 36, "crop": 24, "grey": True}


class TestGreyFromEvents(SourceContract):
    source = "images"
    options: ClassVar[dict[str, Any]] = {"grey_from_events": True}

    def make(self, folder):
        raw, events = make_es_imagenet(folder / "raw", train=5, val=2), folder / "events.zarr"
        convert("es-imagenet", raw, events, shard_size=1)
        return events

    def file_of_a_sample(self, raw):
        return raw / "train/frames/c/1/0/0/0/0"

    def damage(self, raw):
        path = self.file_of_a_sample(raw)
        content = bytearray(path.read_bytes())
        content[20] ^= 1
        path.write_bytes(content)
        return str(eventdata.open_store(raw).split("train").sample_names[1])


class TestUcf101(SettingsContract):
    source = "ucf101"
    options: ClassVar[dict[str, Any]] = {"steps": 4, "size": "32x40"}
    other: ClassVar[dict[str, Any]] = {
        "event_ratio": 0.3,
        "mode": 2,
        "interpolation": "area",
        "steps": 5,
        "size": "32x48",
    }

    def make(self, folder):
        return make_clips(folder / "raw")

    def file_of_a_sample(self, raw):
        return raw / "v_PushUps_g01_c01" / "frame000002.jpg"

    def damage(self, raw):
        for path in (raw / "v_PushUps_g01_c01").iterdir():
            path.write_bytes(path.read_bytes()[:200])
        return "v_PushUps_g01_c01"


def test_options_are_read_from_the_command_line(tmp_path):
    """Options are read from the command line, and back from the store by verify."""
    raw = make_images(tmp_path / "images")
    (tmp_path / "classes.txt").write_text("n02119789 0\nn01440764 1\n")
    out = tmp_path / "out.zarr"
    words = ["--odg", "published", "--long-side", "60", "--crop", "40", "--threshold", "0.1"]
    words += ["--min-events", "5", "--resampling", "area", "--trace", "0,1 1,0 2,2"]
    words += ["--classes", str(tmp_path / "classes.txt"), "--split", "train", "--workers", "1"]
    call = CliRunner().invoke
    result = call(main, ["convert", "imagenet", str(raw), str(out), *words])
    assert result.exit_code == 0, result.output
    store = eventdata.open_store(out)
    assert store.header.classes == ["n02119789", "n01440764"]
    assert store.header.steps == 2
    result = call(main, ["verify", str(out), "--against", str(raw), "--workers", "1"])
    assert "sound; 4 samples, 4 compared" in result.output
    clips, out = make_clips(tmp_path / "clips"), tmp_path / "clips.zarr"
    words = ["--mode", "2", "--seed", "3", "--event-ratio", "0.2", "--steps", "4"]
    words += ["--size", "32x40", "--interpolation", "area", "--workers", "1"]
    result = call(main, ["convert", "ucf101", str(clips), str(out), *words])
    assert result.exit_code == 0, result.output
    result = call(main, ["verify", str(out), "--against", str(clips), "--workers", "1"])
    assert "sound; 5 samples, 5 compared" in result.output
    result = call(main, ["convert", "ucf101", str(clips), str(out), "--crop", "5"])
    assert result.exit_code == 2
    assert "ucf101 has no option 'crop'; it belongs to imagenet and images." in result.output


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("es-imagenet", {"split": ["train"]}, "split is ['train'], not text"),
        ("es-ucf101", {"splits": 7}, "splits is 7, not a path"),
        ("imagenet", {"threshold": "much"}, "threshold is 'much', not a number"),
        ("imagenet", {"long_side": 254.5}, "long_side is 254.5, not a whole number"),
        ("imagenet", {"trace": 5}, "trace is 5, not placements row,column"),
        ("ucf101", {"mode": float("inf")}, "mode is inf: choose 1, 2"),
        ("ucf101", {"seed": 1}, "--seed is for --mode 2; remove it"),
        ("ucf101", {"draws": "counter"}, "--draws is for --mode 2; remove it"),
        ("images", {"crop": True}, "crop is True, not a whole number"),
        ("imagenet", {"threshold": True}, "threshold is True, not a number"),
        ("recordings", {"frames": 3, "every": "long"}, "every is 'long', not a whole number"),
        (
            "recordings",
            {"frames": 3, "transform": [1]},
            "transform is [1], not text or a list",
        ),
        (
            "recordings",
            {"frames": 3, "sensor_size": (float("inf"), 1)},
            "sensor_size is (inf, 1), not WID",
        ),
        ("tonic:NMNIST", {"frames": 3, "split": ["a"]}, "split is ['a'], not text"),
    ],
)
def test_values_of_another_type_are_refused(tmp_path, source, options, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        convert(source, tmp_path, tmp_path / "out.zarr", **options)


@pytest.mark.parametrize("whole", [2**61 - 1, int("10" * 30), 7])
def test_integers_of_any_length_and_form_are_read(whole):
    """A float has 53 bits, so integers must not be read through one."""
    forms = [whole, str(whole), *([7.0, np.int64(7), np.float32(7)] if whole == 7 else [])]
    for value in forms:
        for source, option in (("recordings", "overlap"), ("ucf101", "seed")):
            read = source_entry(source).options[option].read(value)
            assert (read, type(read)) == (whole, int)
    assert source_entry("recordings").options["overlap"].read("0.5") == 0.5


def digests(store: Path) -> dict[str, str]:
    """Return the SHA-256 of each sample's dense frames by name."""
    return {
        name: hashlib.sha256(frames.numpy().tobytes()).hexdigest()
        for split in eventdata.open_store(store).splits
        for ds in [eventdata.FrameDataset(store, split)]
        for name, (frames, _) in zip(ds.names, ds, strict=True)
    }


def test_photographs_give_the_published_frames(shared, tmp_path):
    expected = json.loads((shared / "es_imagenet" / "expected_frames.json").read_text())
    classes = shared / "labels" / "imagenet_wnid_to_index.txt"
    raw, out = shared / "imagenet_samples", tmp_path / "out.zarr"
    convert("imagenet", raw, out, odg="published", classes=classes)
    by_image = {image: raw.split("/", 1) for raw, image in expected["source_image"].items()}
    seen = 0
    for split in ("train", "val"):
        ds = eventdata.FrameDataset(out, split)
        for index, name in enumerate(ds.names):
            frames, label = ds[index]
            facts = expected["frames"][split][by_image[f"{split}/{name}"][1]]
            assert hashlib.sha256(frames.numpy().tobytes()).hexdigest() == facts["sha256"]
            assert (label, ds.event_counts[index]) == (facts["label"], facts["ones"])
            assert ds.classes[label] == name.split("/")[0]
            seen += 1
    assert seen == 128


def test_frame_folders_give_the_published_frames(shared, tmp_path):
    expected = json.loads((shared / "es_ucf101" / "expected_frames.json").read_text())["frames"]
    convert(
        "ucf101",
        shared / "es_ucf101" / "jpegs_256",
        tmp_path / "out.zarr",
        splits=shared / "ucf101" / "ucfTrainTestlist",
        fold=2,
    )
    made = digests(tmp_path / "out.zarr")
    assert made == {name: expected[f"{name}.npz"]["sha256"] for name in made}
    assert len(made) == 3


def test_videos_are_split_by_the_official_lists(shared, tmp_path):
    """A clip of each class is read as published: AVI in class folders."""
    pytest.importorskip("av")
    for folder in sorted((shared / "ucf101" / "UCF-101").iterdir()):
        for clip in sorted(folder.iterdir())[:1]:
            (tmp_path / "raw" / folder.name).mkdir(parents=True)
            shutil.copy(clip, tmp_path / "raw" / folder.name)
    options = {"splits": shared / "ucf101" / "ucfTrainTestlist", "size": "64x86"}
    out = tmp_path / "out.zarr"
    convert("ucf101", tmp_path / "raw", out, fold=1, **options)
    seen = 0
    for split in eventdata.open_store(out).splits:
        ds = eventdata.FrameDataset(out, split)
        assert [ds.classes[label] for label in ds.labels] == [
            name.split("_")[1] for name in ds.names
        ]
        rates = ds.event_counts / (30 * 64 * 86)
        assert (rates > 0.1).all()
        assert (rates <= 0.15).all()
        seen += len(ds)
    assert seen == 6


def test_mode_2_depends_on_seed_and_clip(tmp_path):
    raw = make_clips(tmp_path / "raw", clips=2)
    shutil.copytree(raw / "v_Archery_g01_c01", raw / "v_Archery_g09_c01")
    made = []
    for number, seed in enumerate((0, 0, 1)):
        out = tmp_path / f"{number}.zarr"
        convert("ucf101", raw, out, mode=2, seed=seed, steps=5, size="48x64")
        made.append(digests(out))
    assert made[0] == made[1]
    assert not set(made[0].values()) & set(made[2].values())
    assert made[0]["v_Archery_g01_c01"] != made[0]["v_Archery_g09_c01"]  # equal frames


def test_images_with_few_events_keep_an_invalid_slot(tmp_path):
    from PIL import Image

    raw = make_images(tmp_path / "raw", val=0)
    Image.new("RGB", (100, 80), "grey").save(raw / "train" / "n01440764" / "plain.JPEG")
    result = convert("imagenet", raw, tmp_path / "out.zarr", min_events=20)
    assert (result.samples, result.skipped) == ({"train": 5}, 1)
    (entry,) = json.loads((tmp_path / "out.zarr" / "skipped.json").read_text())
    assert entry["name"] == "n01440764/plain.JPEG"
    assert "gives 0 events, fewer than the 20 asked for" in entry["reason"]
    assert len(eventdata.FrameDataset(tmp_path / "out.zarr")) == 4


def test_a_replaced_frame_of_a_clip_is_an_error(tmp_path):
    """The folder's time shows it, because the new file has the old size and is older."""
    import os

    from eventdata.errors import MismatchError

    raw = make_clips(tmp_path / "raw", clips=1)
    convert("ucf101", raw, tmp_path / "out.zarr", steps=3, size="8x8")
    frame = raw / "v_Archery_g01_c01" / "frame000001.jpg"
    other = tmp_path / "other.jpg"
    other.write_bytes(frame.read_bytes())
    os.utime(other, ns=(10**15, 10**15))
    other.replace(frame)
    with pytest.raises(MismatchError, match="changed since"):
        convert("ucf101", raw, tmp_path / "out.zarr", steps=3, size="8x8")


def test_grey_images_from_direct_and_raw_frames_are_equal(shared, tmp_path):
    """The published reconstruction does not depend on how the event frames were made."""
    convert("imagenet", shared / "imagenet_samples", tmp_path / "a", odg="published", split="val")
    convert("es-imagenet", shared / "es_imagenet", tmp_path / "b", split="val")
    pictures = []
    for name in ("a", "b"):
        out = tmp_path / f"grey-{name}"
        convert("images", tmp_path / name, out, grey_from_events=True)
        ds = eventdata.FrameDataset(out, "val")
        assert ds.sample_format.array_shape == (1, 224, 224)
        assert ds.labels.tolist() == eventdata.FrameDataset(tmp_path / name, "val").labels.tolist()
        pictures.append(np.stack([image.numpy() for image, _ in ds]))
    np.testing.assert_array_equal(*pictures)
    assert len(pictures[0]) == 32
