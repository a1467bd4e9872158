"""Predictions for stores and for raw files without labels, framed as the store of the run was."""

import csv
import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import eventdata
from eventdata.cli import main
from eventdata.errors import InputError, MismatchError, OptionError
from tests.drawn import TINY_RECIPE, make_store
from tests.makers import make_clips, make_es_imagenet, make_es_ucf101, make_images, write_npz
from tests.raw.test_dvs_gesture import write_gestures as write_published_gestures
from tests.raw.test_tonic_source import write_gestures
from train import load_model
from train.predict import predict, table
from train.recipe import load
from train.runs.folder import write_weights
from train.runs.run import run

W, H = 16, 12
FRAMES = {"frames": 4, "sensor_size": f"{W}x{H}"}


def record(path: Path, *, right: bool, seed: int, length: int = 4000, size=(W, H)) -> Path:
    """Write a recording with events on one half of the sensor."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, length, 200))
    t[0], t[-1] = 0, length - 1
    x = rng.integers(0, size[0] // 2, 200) + right * (size[0] // 2)
    y, p = rng.integers(0, size[1], 200), rng.integers(0, 2, 200)
    write_npz(path, x=x, y=y, t=t, p=p)
    return path


def record_hands(root: Path) -> Path:
    for number in range(24):
        name = ("left", "right")[number % 2]
        record(root / name / f"{number}.npz", right=number % 2 == 1, seed=number)
    return root


def train_on(store: Path, folder: Path, *, pipeline="pipe-d", epochs=1, more="") -> Path:
    recipe = folder.with_suffix(".toml")
    text = TINY_RECIPE.replace("pipe-d", pipeline) + "[stages.last]\nbatch_size = 2\n"
    recipe.write_text(f"{text}epochs = {epochs}\nlearning_rate = 0.1\n{more}")
    run(load(str(recipe)), folder, data=str(store))
    return folder


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    """A store of recordings and a network that separates left from right."""
    base = tmp_path_factory.mktemp("hands")
    eventdata.convert("recordings", record_hands(base / "raw"), base / "hands.zarr", **FRAMES)
    return train_on(base / "hands.zarr", base / "run", epochs=10)


def plain_loop(folder: Path, store: Path) -> dict[str, list[float]]:
    """Return the probabilities of each sample of a store, by its name."""
    network, info = load_model(folder)
    part = eventdata.FrameDataset(store, next(iter(eventdata.open_store(store).splits)))
    frames = torch.stack([part[index][0] for index in range(len(part))]).float()
    if frames.ndim == 4:
        frames = (frames / 255 - 0.45) / 0.225
    with torch.no_grad():
        shares = network(frames).softmax(dim=1)
    assert part.classes == info.classes
    return dict(zip(part.names, shares.tolist(), strict=True))


def check_same(found, wanted, classes):
    """Compare predictions with probabilities by file name."""
    assert len(found) == len(wanted)
    for one in found:
        mark = f"#{one.sample}" if f"{one.file}#{one.sample}" in wanted else ""
        shares = wanted[one.file + mark]
        ((name, share),) = one.best
        assert share == pytest.approx(max(shares), abs=1e-5)
        assert shares[classes.index(name)] == pytest.approx(share, abs=1e-5)
        assert one.note == ""


def test_new_recordings_are_predicted_as_a_plain_loop_does(tmp_path, hands):
    new = tmp_path / "new"
    for number in range(6):
        record(new / f"day{number // 4}/{number}.npz", right=number > 2, seed=90 + number)
    found = predict(hands, new)
    names = [f"day{number // 4}/{number}.npz" for number in range(6)]
    assert [one.file for one in found] == names
    assert [one.best[0][0] for one in found] == ["left"] * 3 + ["right"] * 3
    # The same files in class folders, converted and read in a loop.
    for name in names:
        target = tmp_path / "labelled" / ("right" if int(name[5]) > 2 else "left") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(new / name, target)
    eventdata.convert("recordings", tmp_path / "labelled", tmp_path / "s.zarr", **FRAMES)
    loop = plain_loop(hands, tmp_path / "s.zarr")
    check_same(
        found, {name.partition("/")[2]: row for name, row in loop.items()}, ["left", "right"]
    )
    check_same(predict(hands, tmp_path / "s.zarr"), loop, ["left", "right"])
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for path in sorted((tmp_path / "s.zarr").rglob("*")):
            archive.write(path, path.relative_to(tmp_path))
    check_same(predict(hands, tmp_path / "s.zip"), loop, ["left", "right"])


def test_a_single_file_and_a_flat_folder_are_predicted(tmp_path, hands):
    path = record(tmp_path / "one" / "x.npz", right=True, seed=50)
    single, flat = predict(hands, path), predict(hands, path.parent)
    assert single == flat
    assert [(one.file, one.best[0][0]) for one in single] == [("x.npz", "right")]


def test_recordings_are_cut_as_those_of_the_store(tmp_path):
    raw = record_hands(tmp_path / "raw")
    cut = {"every": 2000, "window": 500, "sensor_size": f"{W}x{H}"}
    eventdata.convert("recordings", raw, tmp_path / "s.zarr", **cut)
    folder = train_on(tmp_path / "s.zarr", tmp_path / "run")
    found = predict(folder, raw)
    assert [(one.file, one.sample) for one in found[:3]] == [
        ("left/0.npz", 0),
        ("left/0.npz", 1),
        ("left/10.npz", 0),
    ]
    check_same(found, plain_loop(folder, tmp_path / "s.zarr"), ["left", "right"])


def test_files_that_cannot_be_read_have_a_note(tmp_path, hands):
    new = tmp_path / "new"
    record(new / "good.npz", right=True, seed=1)
    (new / "broken.npz").write_bytes(b"PK not a zip")
    record(new / "wide.npz", right=True, seed=1, size=(W * 4, H))
    (new / ".hidden.npz").touch()
    (new / "notes.txt").touch()
    broken, good, wide = predict(hands, new)
    assert good.best[0][0] == "right"
    assert good.note == ""
    assert broken.best == wide.best == ()
    assert "broken.npz" in broken.note
    assert "wide.npz" in wide.note
    (new / "good.npz").unlink()
    with pytest.raises(InputError, match="nothing in it can be read; the first reason: .*broken"):
        predict(hands, new)


def test_images_are_predicted(tmp_path):
    raw = make_images(tmp_path / "raw", train=16, val=4)
    sizes = {"short_side": 20, "crop": 16}
    eventdata.convert("images", raw, tmp_path / "s.zarr", **sizes)
    more = "neuron = { kind = 'ann' }\n"
    folder = train_on(tmp_path / "s.zarr", tmp_path / "run", pipeline="pipe-s", more=more)
    found = predict(folder, raw / "train")
    network, info = load_model(folder)
    assert network.sample_shape == (3, 16, 16)
    check_same(found, plain_loop(folder, tmp_path / "s.zarr"), info.classes)


def test_images_are_predicted_as_events(tmp_path):
    raw = make_images(tmp_path / "raw", train=16, val=4)
    odg = {"long_side": 32, "crop": 32, "min_events": 0, "resampling": "area"}
    eventdata.convert("imagenet", raw, tmp_path / "s.zarr", **odg)
    folder = train_on(tmp_path / "s.zarr", tmp_path / "run")
    found = predict(folder, raw / "train")
    check_same(found, plain_loop(folder, tmp_path / "s.zarr"), load_model(folder)[1].classes)
    Image.new("RGB", (40, 40)).save(tmp_path / "plain.png")
    assert predict(folder, raw / "val")[0].file.startswith("n01440764/")


def test_clips_are_predicted(tmp_path):
    raw = make_clips(tmp_path / "raw", clips=12, frames=6)
    eventdata.convert("ucf101", raw, tmp_path / "s.zarr", steps=4, size="24x32")
    folder = train_on(tmp_path / "s.zarr", tmp_path / "run")
    loop = plain_loop(folder, tmp_path / "s.zarr")
    classes = ["Archery", "PushUps"]
    check_same(predict(folder, raw), loop, classes)
    name = "v_Archery_g01_c01"
    check_same(predict(folder, raw / name), {name: loop[name]}, classes)
    shutil.copytree(raw / name, tmp_path / "new" / "mine")
    check_same(predict(folder, tmp_path / "new"), {"mine": loop[name]}, classes)


def test_es_imagenet_files_need_the_sizes_in_the_manifests(tmp_path):
    raw = make_es_imagenet(tmp_path / "raw", train=8, val=2)
    lines = (raw / "trainlabel.txt").read_text().splitlines()
    split = [
        " ".join([*line.split()[:1], str(n % 2), *line.split()[2:]]) for n, line in enumerate(lines)
    ]
    (raw / "trainlabel.txt").write_text("\n".join(split) + "\n")
    eventdata.convert("es-imagenet", raw, tmp_path / "s.zarr", split="train")
    folder = train_on(tmp_path / "s.zarr", tmp_path / "run", more="downscale = 14\n")
    found = predict(folder, raw / "train")
    in_store = {one.file: one.best for one in predict(folder, tmp_path / "s.zarr")}
    assert len(found) == 8
    for one in found:
        assert one.best[0][1] == pytest.approx(in_store[one.file][0][1], abs=1e-5)
    assert predict(folder, raw / "val" / "ILSVRC2012_val_00000001.npz")[0].note == ""
    shutil.copy(raw / "val" / "ILSVRC2012_val_00000001.npz", tmp_path / "lone.npz")
    with pytest.raises(InputError, match="no manifest .* has the size of its image"):
        predict(folder, tmp_path / "lone.npz")


def test_raw_es_ucf101_is_predicted(tmp_path):
    """A folder as published, a flat folder and a single file; no lists of splits are needed."""
    raw = make_es_ucf101(tmp_path / "raw", clips=12)
    eventdata.convert("es-ucf101", raw, tmp_path / "s.zarr")
    more = "downscale = 16\nsteps = 4\n"
    folder = train_on(tmp_path / "s.zarr", tmp_path / "run", more=more)
    loop = {one.file: one for one in predict(folder, tmp_path / "s.zarr")}
    found = predict(folder, raw)
    assert len(found) == 12
    for one in found:
        ((name, share),) = one.best
        ((wanted, same),) = loop[one.file].best
        assert (name, one.note) == (wanted, "")
        assert share == pytest.approx(same, abs=1e-5)
    single = raw / "v_Archery_g01_c01.npz"
    assert predict(folder, single) == [one for one in found if one.file == single.name]
    shutil.copy(single, tmp_path / "mine.npz")
    (mine,) = predict(folder, tmp_path / "mine.npz")
    assert (mine.file, mine.best) == ("mine.npz", loop[single.name].best)


@pytest.mark.parametrize("name", ["DVSGesture", "NMNIST"])
def test_a_data_set_of_tonic_is_predicted(tmp_path, shared, name):
    """Tonic lists the folder; the samples are those of the store, with the same predictions."""
    if name == "DVSGesture":
        raw = tmp_path / "raw"
        for seed in range(4):  # each writes samples of four classes
            write_gestures(tmp_path / f"{seed}", samples=4, users=1, seed=seed)
            users = raw / "DVSGesture" / ("ibmGestureTest" if seed == 3 else "ibmGestureTrain")
            for user in (tmp_path / f"{seed}").glob("DVSGesture/*/user*"):
                shutil.copytree(user, users / f"user{seed:02d}_lab")
        options, more = {"frames": 4}, "downscale = 4\n"
    else:
        with zipfile.ZipFile(shared / "nmnist_550.zip") as archive:
            archive.extractall(tmp_path / "raw", sorted(archive.namelist())[::25])
        raw, options, more = tmp_path / "raw", {"frames": 4}, ""
    store = tmp_path / "s.zarr"
    eventdata.convert(f"tonic:{name}", raw, store, **options)
    folder = train_on(store, tmp_path / "run", more=more)
    in_store = [one for split in ("train", "test") for one in predict(folder, store, split=split)]
    found = {one.file: one for one in predict(folder, raw)}
    assert len(found) == len(in_store)
    for one in in_store:
        ((label, share),) = found[one.file].best
        assert label == one.best[0][0]
        assert share == pytest.approx(one.best[0][1], abs=1e-5)


def test_gestures_are_predicted_by_lists_by_label_files_or_whole(tmp_path):
    raw = tmp_path / "raw"
    users = [f"user{number:02d}_led" for number in range(3, 11)]
    write_published_gestures(raw, {"train": users[:7], "test": users[7:]})
    eventdata.convert("dvs-gesture", raw, tmp_path / "s.zarr", frames=4)
    folder = train_on(tmp_path / "s.zarr", tmp_path / "run", more="downscale = 8\n")
    in_store = [
        one
        for split in ("train", "test")
        for one in predict(folder, tmp_path / "s.zarr", split=split)
    ]
    assert len(in_store) == 24
    for by in ("lists", "label files"):
        found = {(one.file, one.sample): one for one in predict(folder, raw)}
        assert len(found) == 24, by
        for one in in_store:
            ((label, share),) = found[one.file, one.sample].best
            assert label == one.best[0][0]
            assert share == pytest.approx(one.best[0][1], abs=1e-5)
        for path in raw.glob("trials_to_*.txt"):
            path.unlink()
    for path in raw.glob("*_labels.csv"):
        path.unlink()
    whole = predict(folder, raw)
    assert [one.file for one in whole] == [f"{user}.aedat" for user in users]
    assert all(one.best for one in whole)


def test_what_cannot_be_framed_raises_an_error(tmp_path, hands, events):
    with pytest.raises(InputError, match="no such file or folder"):
        predict(hands, tmp_path / "missing")
    with pytest.raises(InputError, match="no files of recordings in it"):
        predict(hands, tmp_path)
    with pytest.raises(OptionError, match="--split is only for a store"):
        predict(hands, tmp_path, split="test")
    with pytest.raises(MismatchError, match="but the network was trained on"):
        predict(hands, events)
    custom = train_on(Path(make_store(tmp_path / "s.zarr")), tmp_path / "run")
    with pytest.raises(OptionError, match="learned from drawn, which is not made from raw files"):
        predict(custom, tmp_path)
    network, _ = load_model(hands)
    write_weights(tmp_path / "w.safetensors", network.state_dict(), {})
    recipe = str(hands.with_suffix(".toml"))
    with pytest.raises(OptionError, match="does not state how its input was made"):
        predict(tmp_path / "w.safetensors", hands.parent / "raw", recipe=recipe)


def test_the_command_writes_a_table(tmp_path, hands):
    new = tmp_path / "new"
    record(new / "a,b.npz", right=True, seed=60)
    (new / "c.npz").write_bytes(b"")
    words = ["predict", str(hands), str(new), "--top", "9"]  # there are two classes
    printed = CliRunner().invoke(main, words, catch_exceptions=False)
    assert printed.exit_code == 0
    assert "1 of 2 samples can't be read" in printed.stderr
    out = tmp_path / "out.csv"
    CliRunner().invoke(main, [*words, "-o", str(out)], catch_exceptions=False)
    assert printed.stdout == out.read_text()
    first, second = csv.DictReader(io.StringIO(out.read_text()))
    assert (first["file"], first["sample"], first["class"]) == ("a,b.npz", "0", "right")
    assert first["class_2"] == "left"
    assert "class_3" not in first
    total = float(first["probability"]) + float(first["probability_2"])
    assert total == pytest.approx(1, abs=1e-4)
    assert second["class"] == ""
    assert "c.npz" in second["note"]
    assert table([]) == "file,sample,class,probability,note\n"
