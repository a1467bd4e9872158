"""FrameDataset in every use that torch makes of one."""

import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import eventdata
from eventdata.errors import OptionError, StoreError
from eventdata.store.layout import SampleFormat
from tests.makers import make_es_imagenet, make_es_ucf101


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    raw = make_es_imagenet(folder / "raw", train=20)
    eventdata.convert("es-imagenet", raw, folder / "store.zarr", shard_size=6)
    return folder / "store.zarr"


@pytest.fixture(scope="module")
def truth(store):
    """Return all training frames, read by zarr-python."""
    import zarr

    packed = zarr.open_array(store / "train/frames", mode="r")[:]
    return np.stack([np.unpackbits(sample, axis=0) for sample in packed])


def test_samples(store, truth):
    ds = eventdata.FrameDataset(store, split="train")
    assert len(ds) == 20
    frames, label = ds[3]
    assert (frames.shape, frames.dtype) == ((8, 2, 224, 224), torch.uint8)
    assert type(label) is int
    for index in range(-20, 20):
        assert np.array_equal(ds[index][0].numpy(), truth[index])
    assert ds.labels.tolist() == [label for _, label in ds]
    assert ds.classes[:2] == ["class0", "class1"]
    assert len(ds.names) == 20
    assert ds.attrs["steps"] == 8
    assert "20 samples of 8x2x224x224" in repr(ds)
    for index in (20, -21):
        with pytest.raises(IndexError):
            ds[index]


def test_batched_reads(store, truth):
    ds = eventdata.FrameDataset(store)
    picked = [19, 0, 7, 7, -1]
    batch = ds.__getitems__(picked)
    for (frames, label), index in zip(batch, picked, strict=True):
        assert np.array_equal(frames.numpy(), truth[index])
        assert label == ds.labels[index]


def test_indices(store, truth):
    ds = eventdata.FrameDataset(store)
    for index in (-1, np.int64(19), np.uint8(19), torch.tensor(19)):
        frames, label = ds[index]
        assert np.array_equal(frames.numpy(), truth[19])
        assert label == ds.labels[19]
        assert np.array_equal(ds.packed(index), ds.packed(19))
    for index in ([0, 1], np.array([0, 1]), 1.0, "0", None):
        with pytest.raises(TypeError, match=r"an index is a whole number, .* ds.subset"):
            ds[index]
    assert ds.__getitems__([]) == []


def test_packed_is_what_unpackbits_takes(store, truth):
    ds = eventdata.FrameDataset(store)
    packed = np.moveaxis(ds.packed(5), -1, 1)
    assert np.array_equal(np.unpackbits(packed, axis=0, count=8), truth[5])


def test_subset_has_the_chosen_samples(store, truth):
    ds = eventdata.FrameDataset(store, transform=torch.Tensor.float)
    picked = [19, 3, 3, 7]
    part = ds.subset(picked)
    assert len(part) == 4
    for index, (frames, label) in enumerate(part):
        assert frames.dtype == torch.float32
        assert np.array_equal(frames.numpy(), truth[picked[index]])
        assert label == ds.labels[picked[index]]
    assert part.names == [ds.names[index] for index in picked]
    assert part.labels.tolist() == ds.labels[picked].tolist()
    assert part.event_counts.tolist() == ds.event_counts[picked].tolist()
    assert part.shards.tolist() == ds.shards[picked].tolist()
    assert part.reader is ds.reader
    assert len(ds) == 20
    of_part = part.subset(np.array([False, True, False, True]))
    assert of_part.names == [ds.names[3], ds.names[7]]
    assert len(ds.subset([])) == 0
    for outside in ([20], [-21], [True] * 19):
        with pytest.raises(IndexError):
            ds.subset(outside)


def test_transforms(store, truth):
    ds = eventdata.FrameDataset(
        store, transform=lambda frames: frames.float().mean(0), target_transform=lambda y: -y
    )
    frames, label = ds[2]
    assert torch.equal(frames, torch.from_numpy(truth[2]).float().mean(0))
    assert label == -ds.labels[2]


def check_loader(ds, truth, **options):
    seen = 0
    for frames, labels in DataLoader(ds, batch_size=6, **options):
        for one, label in zip(frames, labels, strict=True):
            assert np.array_equal(one.numpy(), truth[seen])
            assert label == ds.labels[seen]
            seen += 1
    assert seen == 20


def test_dataloader_in_this_process(store, truth):
    check_loader(eventdata.FrameDataset(store), truth)


TRANSFORMS = {
    "none": None,
    "of another type": lambda frames: frames.float(),
    "a view of the same shape": lambda frames: frames.transpose(-1, -2),
    "the same in place": lambda frames: frames.mul_(3),
    "part of it": lambda frames: frames[:4],
    "no tensor": lambda frames: int(frames.sum()),
    "a view of a single number": lambda frames: torch.tensor(float(frames.sum())).view(1),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_collate_equals_that_of_torch(store, transform):
    ds = eventdata.FrameDataset(store, transform=transform)
    batches = [DataLoader(ds, 6, **options) for options in ({"collate_fn": eventdata.collate}, {})]
    for ours, theirs in zip(*batches, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.dtype == other.dtype
            assert torch.equal(mine, other)


def test_collate_copies_nothing(store):
    samples = eventdata.FrameDataset(store).__getitems__([3, 1, 2])
    frames, _ = eventdata.collate(samples)
    assert [one.data_ptr() for one in frames] == [one.data_ptr() for one, _ in samples]
    frames, _ = eventdata.collate(samples[:2])
    assert torch.equal(frames, torch.stack([one for one, _ in samples[:2]]))


# The parent has threads by then, of torch and zarr, which is the case to survive.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_dataloader_workers_after_the_parent_has_read(store, truth, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    ds = eventdata.FrameDataset(store)
    assert ds.names
    assert np.array_equal(ds[0][0].numpy(), truth[0])
    options = {"num_workers": 2, "multiprocessing_context": method, "timeout": 60}
    check_loader(ds, truth, collate_fn=eventdata.collate, **options)


def test_pickles_after_reading(store, truth):
    ds = eventdata.FrameDataset(store)
    ds[0]
    again = pickle.loads(pickle.dumps(ds))
    assert np.array_equal(again[11][0].numpy(), truth[11])
    assert again.names == ds.names


def test_threads_share_it(store, truth):
    ds = eventdata.FrameDataset(store)
    with ThreadPoolExecutor(8) as threads:
        for index, (frames, _) in zip(
            list(range(20)) * 3, threads.map(ds.__getitem__, list(range(20)) * 3), strict=True
        ):
            assert np.array_equal(frames.numpy(), truth[index])


def test_steps_that_do_not_fill_a_byte(tmp_path):
    raw = make_es_ucf101(tmp_path / "raw", clips=2)
    eventdata.convert("es-ucf101", raw, tmp_path / "ucf.zarr")
    ds = eventdata.FrameDataset(tmp_path / "ucf.zarr", "all")
    with np.load(raw / ds.names[1]) as file:
        expected = file["arr_0"].swapaxes(0, 1)
    assert np.array_equal(ds[1][0].numpy(), expected)


def test_damage_is_reported(store, tmp_path):
    import shutil

    copy = shutil.copytree(store, tmp_path / "copy.zarr")
    path = copy / "train/frames/c/0/0/0/0/0"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    ds = eventdata.FrameDataset(copy)
    with pytest.raises(StoreError, match="shard 0, sample 0: a chunk fails its checksum"):
        ds[0]
    path.write_bytes(b"")
    with pytest.raises(StoreError, match=r"the shard is cut short \(0 bytes\)"):
        eventdata.FrameDataset(copy)[0]
    path.unlink()
    with pytest.raises(StoreError, match="can't be read"):
        eventdata.FrameDataset(copy)[0]


def test_more_shards_than_files_may_be_open(tmp_path):
    """Each shard in use is an open file; a large store has thousands."""
    raw = make_es_imagenet(tmp_path / "raw", train=150, val=0)
    eventdata.convert("es-imagenet", raw, tmp_path / "store.zarr", shard_size=1)
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "import eventdata, sys\n"
        "ds, other = (eventdata.FrameDataset(sys.argv[1]) for _ in range(2))\n"
        "assert all(one[i][0].sum() == ds.event_counts[i] for i in [*range(150), 0, 77]"
        " for one in (ds, other))\n"
        "rest = [open(sys.executable) for _ in range(28)]\n"  # files of the rest of the program
        "assert all(one[i][0].sum() == ds.event_counts[i] for i in range(150)"
        " for one in (ds, other))\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "store.zarr"], check=True)


def test_relative_path_and_another_folder(store, tmp_path, monkeypatch, truth):
    monkeypatch.chdir(store.parent)
    ds = eventdata.FrameDataset(store.name)
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(ds[0][0].numpy(), truth[0])


def test_wrong_split_and_no_store(store, tmp_path):
    with pytest.raises(OptionError, match="no split 'test'; the store has train, val"):
        eventdata.FrameDataset(store, "test")
    with pytest.raises(StoreError, match="no store found"):
        eventdata.FrameDataset(tmp_path)


@pytest.mark.parametrize("planes", [1, 4])
def test_sample_format_checks(planes):
    assert (
        SampleFormat(
            representation="binary", steps=8 * planes - 1, channels=2, height=2, width=2
        ).planes
        == planes
    )
    with pytest.raises(StoreError):
        SampleFormat(representation="image", steps=8, channels=3, height=2, width=2)
