"""All real samples, from raw files through the store, have the published loader's digests."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr

import eventdata

STEPS = {"es-imagenet": 8, "es-ucf101": 30}


@pytest.fixture(scope="module")
def stores(shared, tmp_path_factory):
    """Convert both real datasets, ES-UCF101 by its first official split."""
    folder = tmp_path_factory.mktemp("stores")
    eventdata.convert("es-imagenet", shared / "es_imagenet", folder / "es-imagenet", shard_size=40)
    eventdata.convert(
        "es-ucf101",
        shared / "es_ucf101" / "event_dvs",
        folder / "es-ucf101",
        splits=shared / "ucf101" / "ucfTrainTestlist",
        fold=1,
    )
    return folder


def expected(shared: Path, dataset: str) -> dict[str, dict[str, object]]:
    """Return the facts of each sample by its name."""
    frames = json.loads((shared / dataset.replace("-", "_") / "expected_frames.json").read_text())[
        "frames"
    ]
    if dataset == "es-imagenet":
        return {name: facts for split in frames.values() for name, facts in split.items()}
    return frames


def digest(frames: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest()


@pytest.mark.parametrize(("dataset", "count"), [("es-imagenet", 128), ("es-ucf101", 45)])
def test_our_reader_gives_the_published_frames(shared, stores, dataset, count):
    facts = expected(shared, dataset)
    seen = 0
    for split in eventdata.open_store(stores / dataset).splits:
        ds = eventdata.FrameDataset(stores / dataset, split)
        for index, name in enumerate(ds.names):
            frames, label = ds[index]
            assert digest(frames.numpy()) == facts[name]["sha256"], name
            assert ds.event_counts[index] == facts[name]["ones"]
            assert label == facts[name].get("label", label)
            assert ds.classes[label] in (f"class{label}", name.split("_")[1])
            seen += 1
    assert seen == count


def zarr_frames(path: Path) -> np.ndarray:
    return zarr.open_array(path, mode="r")[:]


def tensorstore_frames(path: Path) -> np.ndarray:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    return tensorstore.open(spec, open=True).result().read().result()


@pytest.mark.parametrize("read", [zarr_frames, tensorstore_frames])
@pytest.mark.parametrize("dataset", ["es-imagenet", "es-ucf101"])
def test_other_readers_and_one_unpackbits_give_the_published_frames(shared, stores, dataset, read):
    facts = expected(shared, dataset)
    seen = 0
    for group in sorted(stores.joinpath(dataset).glob("*/")):
        names = zarr.open_array(group / "name", mode="r")[:]
        for name, packed in zip(names, read(group / "frames"), strict=True):
            frames = np.unpackbits(packed, axis=0, count=STEPS[dataset])
            assert digest(frames) == facts[str(name)]["sha256"]
            seen += 1
    assert seen == len(facts)


def test_a_store_is_a_fifth_of_the_raw_files(shared, stores):
    raw = sum(path.stat().st_size for path in (shared / "es_imagenet").rglob("*.npz"))
    store = sum(
        path.stat().st_size for path in (stores / "es-imagenet").rglob("*") if path.is_file()
    )
    assert store <= 0.20 * raw


def test_verify_finds_no_difference_from_the_raw_files(shared, stores):
    for dataset, raw in (("es-imagenet", "es_imagenet"), ("es-ucf101", "es_ucf101/event_dvs")):
        result = eventdata.verify(stores / dataset, against=shared / raw, samples=None)
        assert result.ok, result.problems
        assert result.compared == result.samples == {"es-imagenet": 128}.get(dataset, 45)
