"""Code in data is never run; deeply nested documents and odd numbers are refused."""

import contextlib
import io
import json
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import eventdata
from eventdata.errors import EventDataError, InputError, OptionError, StoreError
from eventdata.formats.npz import read_npz
from eventdata.formats.recording import read_events
from eventdata.info import describe
from tests.makers import make_es_imagenet, make_images, write_npz
from tests.nasty import READ_ONE, at_most, header
from train.recipe import load
from train.runs.folder import read_json, weight_facts
from train.runs.record import WholeCheckpoints
from train.splits import sample_keys
from train.weights import load_state


class Evil:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def evil_npy(canary):
    stream = io.BytesIO()
    np.save(stream, np.array([Evil(canary)], dtype=object), allow_pickle=True)
    return stream.getvalue()


def test_pickles_are_not_loaded(tmp_path):
    """npz and npy files, checkpoints of both kinds and label maps may contain pickles."""
    canary = tmp_path / "loaded"
    Path(tmp_path / "proof.pkl").write_bytes(pickle.dumps(Evil(canary)))
    pickle.loads((tmp_path / "proof.pkl").read_bytes())
    canary.unlink()  # the pickle works
    pickled = pickle.dumps(Evil(canary), protocol=2)
    write_npz(tmp_path / "a.npz", pos=np.array([Evil(canary)], dtype=object))
    with pytest.raises(InputError, match="never unpickled"):
        read_npz(tmp_path / "a.npz", ("pos",), 10**6)
    (tmp_path / "a.npy").write_bytes(evil_npy(canary))
    with pytest.raises(InputError, match="never unpickled"):
        read_events(tmp_path / "a.npy")
    folder = tmp_path / "DVSGesture/ibmGestureTrain/user01_lab"
    folder.mkdir(parents=True)
    (folder / "1.npy").write_bytes(evil_npy(canary))
    with pytest.raises(InputError, match="1.npy"):
        eventdata.convert("tonic:DVSGesture", tmp_path, tmp_path / "out.zarr", frames=2)
    for name, settings in (("a.pt", {}), ("b.pt", {"_use_new_zipfile_serialization": False})):
        torch.save({"a": torch.zeros(2), "b": Evil(canary)}, tmp_path / name, **settings)
        with pytest.raises(InputError, match="can't be read as a checkpoint"):
            load_state(tmp_path / name)
        with pytest.raises(InputError, match="is damaged"):
            WholeCheckpoints().load_checkpoint(tmp_path / name, weights_only=True)
    for name in ("c.pt", "c.safetensors", "c.npy", "c.npz", "c.toml", "trainlabel.txt", "c.json"):
        (tmp_path / name).write_bytes(pickled)
        read = READ_ONE.get(name.replace("c.", "a."), read_json)
        with contextlib.suppress(EventDataError):
            read(tmp_path / name)
    for option in ("list", "classes"):
        images = make_images(tmp_path / f"images-{option}", train=2, val=1)
        with pytest.raises(EventDataError):
            eventdata.convert(
                "images", images, tmp_path / "out.zarr", **{option: tmp_path / "proof.pkl"}
            )
    assert not canary.exists()


def test_options_in_a_store_are_not_evaluated(store, sound):
    """`verify --against` parses the transforms that a store names."""

    def evil(values):
        values["parameters"]["transform"] = ["CropTime(min=__import__('os').system('true'))"]

    header(evil)(store)
    with pytest.raises(StoreError, match="damaged .*write it as Name"):
        eventdata.verify(store, against=sound / "raw")


# Documents.


DEEP = 100_000


def test_nested_json_and_odd_values_are_refused(store, tmp_path):
    deep, half_deep = ("[" * depth + "]" * depth for depth in (DEEP, 600))
    header_text = (store / "zarr.json").read_text()
    frames_text = (store / "all/frames/zarr.json").read_text()
    for value in (
        deep,
        half_deep,
        "NaN",
        "Infinity",
        "1e999",
        "9" * 5000,
        "-0.5",
        "true",
        '"8"',
        "null",
    ):
        for key, text, old, new in (
            ("zarr.json", header_text, '"version": 2', f'"version": {value}'),
            ("all/frames/zarr.json", frames_text, '"shape": [', f'"shape": [{value},'),
        ):
            assert old in text
            (store / key).write_text(text.replace(old, new))
            with pytest.raises(StoreError):
                eventdata.open_store(store)
            (store / key).write_text(text)
    # As deep as Python parses, and too deep to copy or print.
    (store / "zarr.json").write_text(
        header_text.replace('"parameters": {', f'"parameters": {{"a": {half_deep}, ', 1)
    )
    with pytest.raises(StoreError, match="not an eventdata store"):
        eventdata.FrameDataset(store, "all")
    (store / "zarr.json").write_text(header_text)
    eventdata.open_store(store)
    for key in ("skipped.json", "all/zarr.json", "all/label/zarr.json"):
        kept = (store / key).read_bytes() if (store / key).exists() else None
        (store / key).write_text(deep)
        assert not eventdata.verify(store).ok
        with contextlib.suppress(StoreError):
            describe(eventdata.open_store(store))
        (store / key).unlink() if kept is None else (store / key).write_bytes(kept)
    assert eventdata.verify(store).ok
    (tmp_path / "result.json").write_text(deep)
    with pytest.raises(InputError, match="nested too deep"):
        read_json(tmp_path / "result.json")


def test_facts_in_a_checkpoint_are_checked(tmp_path):
    path = tmp_path / "a.safetensors"
    seconds = [f'{{"seconds": {value}}}' for value in ("NaN", '"long"', "1e999", "null", "[]")]
    for facts in ("[" * DEEP, "NaN", "[]", "", *seconds):
        save_file({"a": torch.zeros(1)}, path, {"train": facts})
        assert weight_facts(path) == {}


def test_no_text_takes_more_than_linear_time(tmp_path):
    """Names that nearly match and many classes take time only in proportion to their bytes."""
    started = time.monotonic()
    name = "v_" * 250_000
    assert sample_keys([name], ["a"]) == [f"a/{name}"]
    folder = tmp_path / "lists"
    folder.mkdir()
    count = 50_000
    (folder / "classInd.txt").write_text("".join(f"{n} C{n}\n" for n in range(1, count + 1)))
    lines = [f"C{n}/v_c{n}_g01_c01.avi {n}\n" for n in range(1, count + 1)]
    (folder / "trainlist01.txt").write_text("".join(lines))
    (folder / "testlist01.txt").write_text("".join(lines))
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / f"v_c{count}_g01_c01.avi").write_bytes(b"RIFF")
    with pytest.raises(InputError, match="listed twice"):
        eventdata.convert("ucf101", tmp_path / "clips", tmp_path / "o.zarr", splits=folder, fold=1)
    assert time.monotonic() - started < 60


def test_nested_toml_is_refused(tmp_path):
    recipe = tmp_path / "a.toml"
    for text in (
        "a = " + "[" * DEEP,
        "a = " + "{a = " * DEEP,
        "a." * 2000 + "a = 1",
        "[" + "a." * 2000 + "a]",
        "[stages.a]\n" + "a." * 2000 + "a = 1",
        "base = 'digits'\n[network]\n" + "a." * 2000 + "a = 1",
        "[stages.a]\nepochs = " + "9" * 5000,
        "[stages.a]\nlearning_rate = nan",
        "[stages.a]\nlearning_rate = 1e999",
        "name = 1\npipeline = []\n[network]\nname = {}\n[stages.a]\n",
    ):
        recipe.write_text(text)
        with at_most(64), pytest.raises(OptionError):
            load(str(recipe))
    deep = "network." + "a." * 2000 + "a=1"
    for change in ("all.epochs=" + "[" * DEEP, "all.epochs=" + "9" * 5000, deep):
        with pytest.raises(OptionError):
            load("digits", changes=[change])


@pytest.mark.parametrize("change", [{"split_names": []}, {"trace": 12}])
def test_grey_images_from_impossible_parameters_are_refused(tmp_path, change):
    frames = tmp_path / "frames.zarr"
    raw = make_es_imagenet(tmp_path / "raw", train=2, val=1)
    eventdata.convert("es-imagenet", raw, frames)
    document = json.loads((frames / "zarr.json").read_text())
    document["attributes"]["eventdata"]["parameters"] |= change
    (frames / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(EventDataError):
        eventdata.convert("images", frames, tmp_path / "grey.zarr", grey_from_events=True)
