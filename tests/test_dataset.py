"""FrameDataset in every use that torch makes of one."""

import asyncio
import multiprocessing
import pickle
import re
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import eventdata
from eventdata.errors import OptionError, StoreError
from eventdata.store.layout import SampleFormat
from tests.drawn import Drawn, make_store
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


TYPES = [torch.uint8, torch.int32, torch.float16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("dtype", [*TYPES, np.uint8, np.int32, np.float16, "float32"], ids=str)
@pytest.mark.parametrize("layout", ["TPHW", "PTHW"])
def test_types_and_layouts_of_samples(store, truth, dtype, layout):
    ds = eventdata.FrameDataset(store, dtype=dtype, layout=layout)
    expected = truth if layout == "TPHW" else truth.swapaxes(1, 2)
    frames, _ = ds[4]
    if isinstance(dtype, torch.dtype):
        assert (type(frames), frames.dtype) == (torch.Tensor, dtype)
        assert torch.equal(frames, torch.from_numpy(expected[4].copy()).to(dtype))
    else:
        assert (type(frames), frames.dtype) == (np.ndarray, np.dtype(dtype))
        assert np.array_equal(frames, expected[4])
    batch, labels = next(iter(DataLoader(ds, 3, collate_fn=eventdata.collate)))
    assert np.array_equal(batch.float().numpy(), expected[:3])
    assert labels.tolist() == ds.labels[:3].tolist()


def test_wide_counts_need_a_wide_type(tmp_path):
    path = make_store(tmp_path / "wide.zarr", kind="wide")
    frames, _ = eventdata.FrameDataset(path)[0]
    assert frames.dtype == torch.int32
    assert frames.max() == 300
    assert torch.equal(eventdata.FrameDataset(path, dtype=torch.float32)[0][0], frames.float())
    for dtype in (torch.uint8, np.float16, torch.int64, "complex64", "bfloat16", "float"):
        with pytest.raises(OptionError, match="dtype"):
            eventdata.FrameDataset(path, dtype=dtype)
    with pytest.raises(OptionError, match="layout must be TPHW or PTHW"):
        eventdata.FrameDataset(path, layout="NTPHW")


def test_memory_is_used_again_but_never_while_it_is_kept(store, truth):
    ds = eventdata.FrameDataset(store, dtype=torch.float32)
    kept = [ds[index][0] for index in range(20)]
    assert all(np.array_equal(one, truth[i]) for i, one in enumerate(kept))
    places = set()
    for _ in range(10):
        places.add(ds[3][0].data_ptr())
    assert len(places) <= 3
    assert all(np.array_equal(one, truth[i]) for i, one in enumerate(kept))


def test_names_of_other_libraries(store):
    ds = eventdata.FrameDataset(store)
    assert ds.targets == ds.labels.tolist()
    assert ds.class_to_idx == {name: i for i, name in enumerate(ds.classes)}
    assert list(ds.class_counts) == ds.classes
    assert sum(ds.class_counts.values()) == len(ds)
    assert ds.class_counts["class0"] == ds.targets.count(0)


def test_slices_are_datasets(store, truth):
    ds = eventdata.FrameDataset(store)
    for part in (slice(3, 9), slice(None, None, 2), slice(-4, None), slice(9, 3), slice(9, 3, -1)):
        found = ds[part]
        assert isinstance(found, eventdata.FrameDataset)
        assert found.labels.tolist() == ds.labels[part].tolist()
        assert all(
            np.array_equal(frames, expected)
            for (frames, _), expected in zip(found, truth[part], strict=True)
        )


def test_select_renumbers_labels(tmp_path):
    ds = eventdata.FrameDataset(make_store(tmp_path / "a.zarr"))
    part = ds.select(classes=["c2", "c0"])
    assert part.classes == ["c2", "c0"]
    assert part.attrs["classes"] == ["c2", "c0"]
    assert part.names == [n for n, label in zip(ds.names, ds.labels, strict=True) if label != 1]
    assert part.targets == [1 - label // 2 for label in ds.targets if label != 1]
    assert part.class_counts == {"c2": 20, "c0": 20}
    assert part.select(["c0"]).targets == [0] * 20
    assert len(ds.select([])) == 0
    for wrong, words in ((["c7"], "no class 'c7'; choose from c0, c1, c2"), (["c0"] * 2, "twice")):
        with pytest.raises(OptionError, match=words):
            ds.select(wrong)


@pytest.mark.parametrize("kind", ["binary", "count", "wide", "image"])
def test_concat_unites_classes_by_name(tmp_path, kind):
    a = eventdata.FrameDataset(make_store(tmp_path / "a.zarr", kind=kind))
    other = make_store(tmp_path / "b.zarr", kind=kind, names="t{:04}", n_classes=5, first_label=2)
    b = eventdata.FrameDataset(other).select(["c4", "c2", "c3"])
    both = eventdata.concat([a, b, a[:3]])
    assert both.classes == ["c0", "c1", "c2", "c4", "c3"]
    assert both.names == [*a.names, *b.names, *a.names[:3]]
    parts = [(one, sample) for one in (a, b, a[:3]) for sample in one]
    expected = [one.classes[label] for one, (_, label) in parts]
    assert [both.classes[label] for label in both.labels] == expected
    for (frames, _), (_, (theirs, _)) in zip(both, parts, strict=True):
        assert torch.equal(frames, theirs)
    assert both.event_counts.tolist() == [*a.event_counts, *b.event_counts, *a.event_counts[:3]]
    again = pickle.loads(pickle.dumps(both + a))
    assert len(again) == len(both) + len(a)
    assert torch.equal(again[-1][0], a[-1][0])
    order = np.random.default_rng(0).permutation(len(both))
    batch, _ = next(iter(DataLoader(both, len(both), sampler=order, collate_fn=eventdata.collate)))
    assert all(torch.equal(batch[i], both[j][0]) for i, j in enumerate(order))


def test_shards_of_a_concatenation_are_numbered_on(tmp_path):
    a = eventdata.FrameDataset(make_store(tmp_path / "a.zarr"))
    eventdata.convert(Drawn(), "", tmp_path / "b.zarr", shard_size=7)
    b = eventdata.FrameDataset(tmp_path / "b.zarr")
    shards = eventdata.concat([a, b, a]).shards
    assert shards.tolist() == [*a.shards, *(b.shards + 1), *(a.shards + 1 + b.shards.max() + 1)]


def test_concat_refuses_what_does_not_match(tmp_path):
    a = eventdata.FrameDataset(make_store(tmp_path / "a.zarr"))
    others = {
        "the format of samples": eventdata.FrameDataset(make_store(tmp_path / "b.zarr", side=8)),
        "dtype": eventdata.FrameDataset(tmp_path / "a.zarr", dtype=torch.float32),
        "layout": eventdata.FrameDataset(tmp_path / "a.zarr", layout="PTHW"),
        "transform": eventdata.FrameDataset(tmp_path / "a.zarr", transform=torch.neg),
    }
    framed = eventdata.FrameDataset(tmp_path / "a.zarr")
    framed.attrs = {**framed.attrs, "parameters": {"window": 1000}}
    others["framing"] = framed
    for words, other in others.items():
        with pytest.raises(OptionError, match=words):
            eventdata.concat([a, other])
    for wrong in ([], [a, [1]]):
        with pytest.raises(OptionError, match="needs a list of FrameDatasets"):
            eventdata.concat(wrong)


def test_the_only_split_is_the_default(tmp_path):
    only = make_store(tmp_path / "a.zarr", counts=(("all", 9),))
    assert eventdata.FrameDataset(only).split == "all"
    several = make_store(tmp_path / "b.zarr", counts=(("dev", 3), ("test", 3)))
    with pytest.raises(OptionError, match="no split 'train' but dev, test; pass split="):
        eventdata.FrameDataset(several)
    assert eventdata.FrameDataset(make_store(tmp_path / "c.zarr")).split == "train"


def test_home_folder(tmp_path, monkeypatch):
    make_store(tmp_path / "a.zarr")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(eventdata.FrameDataset("~/a.zarr")) == 60


@pytest.mark.parametrize("writer", ["zarr", "zipfile", "folder inside"])
def test_zipped_stores_are_read(tmp_path, writer):
    import zarr

    plain = eventdata.FrameDataset(make_store(tmp_path / "a.zarr"))
    path = tmp_path / "a.zarr.zip"
    if writer == "zarr":
        zipped = zarr.storage.ZipStore(path, mode="w")
        source = zarr.storage.LocalStore(tmp_path / "a.zarr")

        prototype = zarr.core.buffer.default_buffer_prototype()

        async def copy() -> None:
            async for key in source.list():
                await zipped.set(key, await source.get(key, prototype))

        asyncio.run(copy())
        zipped.close()
    else:
        top = "" if writer == "zipfile" else "a.zarr/"
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted((tmp_path / "a.zarr").rglob("*")):
                archive.write(file, top + file.relative_to(tmp_path / "a.zarr").as_posix())
    ds = pickle.loads(pickle.dumps(eventdata.FrameDataset(path, "train")))
    assert ds.names == plain.names
    assert all(torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(ds, plain, strict=True))
    assert not eventdata.verify(path).problems
    both = eventdata.concat([ds, plain])
    assert torch.equal(both[60][0], plain[0][0])
    with pytest.raises(StoreError, match="a zipped store is only read"):
        eventdata.convert(Drawn(kind="count"), "", path, overwrite=True)
    with pytest.raises(StoreError, match=r"new\.zip"):
        make_store(tmp_path / "new.zip")


def test_damaged_and_packed_zips_are_refused(tmp_path):
    make_store(tmp_path / "a.zarr")
    path = tmp_path / "b.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in (tmp_path / "a.zarr").rglob("*"):
            archive.write(file, file.relative_to(tmp_path / "a.zarr"))
    with pytest.raises(StoreError, match="compressed or encrypted"):
        eventdata.FrameDataset(path)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((tmp_path / "a.zarr").rglob("*")):
            archive.write(file, file.relative_to(tmp_path / "a.zarr"))
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PK", whole.replace(b"PK\3\4", b"XX\3\4")):
        path.write_bytes(content)
        with pytest.raises(StoreError, match=re.escape(str(path))):
            list(eventdata.FrameDataset(path))
    with pytest.raises(StoreError, match="missing|No such file"):
        eventdata.FrameDataset(tmp_path / "gone.zip")


def test_transforms_of_tonic_and_of_tensors(store, truth):
    from tonic.transforms import Compose, DropPixel

    drop = Compose([DropPixel(coordinates=[(3, 5)]), np.float32])
    ds = eventdata.FrameDataset(store, dtype=np.uint8, transform=drop)
    frames, _ = ds[2]
    expected = truth[2].astype(np.float32)
    expected[:, :, 5, 3] = 0
    assert frames.dtype == np.float32
    assert np.array_equal(frames, expected)
    batch, _ = next(iter(DataLoader(ds, 4, collate_fn=eventdata.collate)))
    assert batch.shape == (4, 8, 2, 224, 224)
    tensor, _ = eventdata.FrameDataset(store, transform=drop)[2]
    assert torch.equal(tensor, torch.from_numpy(expected))
    tensor, _ = eventdata.FrameDataset(store, transform=lambda x: x.float().flip(-1))[2]
    assert np.array_equal(tensor, truth[2][..., ::-1])
