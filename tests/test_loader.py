"""FrameLoader: the right samples in the right order, with every option."""

import gc
import itertools
import json
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

import eventdata
from eventdata.batches import BufferPool, Decoding, make_dense, unpack_frames
from eventdata.errors import OptionError, StoreError
from eventdata.loader import FrameLoader
from eventdata.order import batch_count, epoch_order, rank_batches
from tests.drawn import Drawn, make_store
from tests.makers import make_es_imagenet, make_es_ucf101


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    raw = make_es_imagenet(folder / "raw", train=23)
    eventdata.convert("es-imagenet", raw, folder / "store.zarr", shard_size=5)
    ucf = make_es_ucf101(folder / "ucf", clips=4)
    eventdata.convert("es-ucf101", ucf, folder / "ucf.zarr")
    return folder


@pytest.fixture(scope="module")
def dataset(folder):
    return eventdata.FrameDataset(folder / "store.zarr")


@pytest.fixture(scope="module")
def truth(dataset):
    return torch.stack([frames for frames, _ in dataset])


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Return a dataset of every representation."""
    folder = tmp_path_factory.mktemp("kinds")
    return {
        kind: eventdata.FrameDataset(make_store(folder / f"{kind}.zarr", kind=kind))
        for kind in ("binary", "count", "image")
    }


def indices_of(dataset, loader):
    """Return the indices of the samples in the loader's batches, found by their frames."""
    by_frames = {frames.numpy().tobytes(): i for i, (frames, _) in enumerate(dataset)}
    return [[by_frames[one.numpy().tobytes()] for one in frames] for frames, _ in loader]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


@pytest.mark.parametrize("layout", ["NTPHW", "TNPHW"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
def test_types_and_layouts(dataset, truth, dtype, layout):
    loader = FrameLoader(dataset, 10, dtype=dtype, layout=layout)
    start = 0
    for frames, labels in loader:
        assert frames.dtype == dtype
        assert frames.is_contiguous()
        frames = frames.transpose(0, 1) if layout == "TNPHW" else frames
        assert torch.equal(frames, truth[start : start + 10].to(dtype))
        assert labels.tolist() == dataset.labels[start : start + 10].tolist()
        start += len(labels)
    assert start == 23
    assert len(loader) == 3


def test_steps_that_do_not_fill_a_byte(folder):
    dataset = eventdata.FrameDataset(folder / "ucf.zarr", "all")
    ((frames, _),) = FrameLoader(dataset, 4)
    assert torch.equal(frames, torch.stack([one for one, _ in dataset]))


@pytest.mark.parametrize("layout", ["NTPHW", "TNPHW"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["binary", "count", "image"])
def test_threads_and_devices_agree(kinds, kind, dtype, layout):
    """Dense batches by threads equal packed batches unpacked on a device."""
    dataset = kinds[kind]
    dense = FrameLoader(dataset, 7, dtype=dtype, layout=layout)
    packed = FrameLoader(dataset, 7, layout="packed")
    start = 0
    for (frames, labels), (stored, same) in zip(dense, packed, strict=True):
        assert torch.equal(labels, same)
        on_device = make_dense(stored, dataset.sample_format, dtype, layout)
        assert (frames.dtype, frames.shape) == (dtype, on_device.shape)
        assert torch.equal(frames, on_device)
        expected = torch.stack([dataset[start + n][0] for n in range(len(labels))]).to(dtype)
        if layout == "TNPHW" and kind != "image":
            expected = expected.transpose(0, 1)
        assert torch.equal(frames, expected)
        start += len(labels)
    assert start == len(dataset)


def test_packed_batches_are_as_stored(dataset):
    loader = FrameLoader(dataset, 10, layout="packed")
    stored = torch.cat([frames.clone() for frames, _ in loader])
    assert stored.shape == (23, 1, 224, 224, 2)
    for index, frames in enumerate(stored):
        assert np.array_equal(frames.numpy(), dataset.packed(index))


def test_unpack_frames(folder):
    for store, split in (("store.zarr", "train"), ("ucf.zarr", "all")):
        dataset = eventdata.FrameDataset(folder / store, split)
        packed = torch.stack([torch.from_numpy(dataset.packed(i)) for i in range(3)])
        steps = dataset.attrs["steps"]
        expected = torch.stack([dataset[i][0] for i in range(3)])
        assert torch.equal(unpack_frames(packed, steps), expected)


def test_each_epoch_is_another_order_of_all_samples(dataset):
    loader = FrameLoader(dataset, 4, shuffle=True, seed=3)
    epochs = [flat(indices_of(dataset, loader)) for _ in range(3)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    again = FrameLoader(dataset, 5, shuffle=True, seed=3, threads=3, prefetch=4)
    again.epoch = 2
    assert flat(indices_of(dataset, again)) == epochs[2]


def test_by_shards_reads_few_shards_at_a_time(dataset):
    order = epoch_order(dataset.shards, shuffle=True, order="shards", window=2, seed=0, epoch=0)
    assert sorted(order) == list(range(23))
    assert len(set(dataset.shards[order][:8])) == 2  # two shards hold at least eight samples
    loader = FrameLoader(dataset, 4, shuffle=True, order="shards")
    assert sorted(flat(indices_of(dataset, loader))) == list(range(23))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 50), st.integers(1, 7), st.integers(1, 4), st.booleans())
def test_ranks_share_an_epoch(count, batch_size, world_size, drop_last):
    options = {"batch_size": batch_size, "world_size": world_size, "drop_last": drop_last}
    shares = [rank_batches(np.arange(count), rank=rank, **options) for rank in range(world_size)]
    counts = [batch_count(count, rank=rank, **options) for rank in range(world_size)]
    assert counts == [len(batches) for batches in shares]
    seen = sorted(int(i) for batches in shares for batch in batches for i in batch)
    whole = count // (batch_size * world_size) * batch_size * world_size
    assert seen == list(range(whole if drop_last else count))
    if drop_last:
        assert len({tuple(map(len, batches)) for batches in shares}) == 1


def test_by_shards_whatever_the_order_of_a_subset(dataset):
    """Samples of a shard are read together even if the subset separates them."""
    mixed = dataset.subset(np.random.default_rng(0).permutation(23))
    order = epoch_order(mixed.shards, shuffle=True, order="shards", window=1, seed=0, epoch=0)
    assert sorted(order) == list(range(23))
    assert len(list(itertools.groupby(mixed.shards[order]))) == len(set(mixed.shards))


def test_unfinished_epoch_is_over(dataset):
    """Looking at one batch must not remove it from the next epoch."""
    loader = FrameLoader(dataset, 4, shuffle=True, seed=5)
    next(iter(loader))
    assert loader.state_dict()["position"] == 1
    assert sorted(flat(indices_of(dataset, loader))) == list(range(23))
    assert loader.epoch == 2
    next(iter(loader))
    loader.epoch = 1
    again = flat(indices_of(dataset, loader))
    fresh = FrameLoader(dataset, 4, shuffle=True, seed=5)
    fresh.epoch = 1
    assert again == flat(indices_of(dataset, fresh))


def test_resumes_in_the_middle_of_an_epoch(dataset):
    options = {"shuffle": True, "seed": 1}
    whole = FrameLoader(dataset, 4, **options)
    expected = indices_of(dataset, whole) + indices_of(dataset, whole)
    first = FrameLoader(dataset, 4, **options)
    seen = []
    for frames, _ in first:
        seen.append(frames)
        if len(seen) == 2:
            break
    state = first.state_dict()
    assert (state["epoch"], state["position"]) == (0, 2)
    second = FrameLoader(dataset, 4, **options)
    second.load_state_dict(state)
    rest = indices_of(dataset, second) + indices_of(dataset, second)
    assert rest == expected[2:]
    for other in ({"seed": 2}, {"shuffle": False}, {"order": "shards"}, {"drop_last": True}):
        with pytest.raises(OptionError, match=f"can't resume: the state has {next(iter(other))}="):
            FrameLoader(dataset, 4, **{**options, **other}).load_state_dict(state)
    for part in (
        dataset.subset(range(len(dataset) - 1, -1, -1)),
        dataset.subset([0] * len(dataset)),
    ):
        with pytest.raises(OptionError, match="can't resume: the state has digest="):
            FrameLoader(part, 4, **options).load_state_dict(state)
    with pytest.raises(OptionError, match="version"):
        second.load_state_dict({**state, "version": 1})


def test_any_rank_can_load_the_state_of_another(dataset):
    """A rank without a share of the last, short batch waits for the others to finish the epoch."""
    part = dataset.subset(range(9))
    ranks = [FrameLoader(part, 4, rank=rank, world_size=2) for rank in (0, 1)]
    assert [len(loader) for loader in ranks] == [2, 1]
    states = [ranks[0].state_dict() for _ in ranks[0]]
    assert [state["position"] for state in states] == [1, 2]
    owns = [0, 2, 4, 6, 8], [1, 3, 5, 7]
    for loader, own, rest in zip(ranks, owns, ([8], []), strict=True):
        loader.load_state_dict(states[0])
        assert flat(indices_of(part, loader)) == rest
        loader.load_state_dict(states[1])
        assert loader.epoch == 1
        assert flat(indices_of(part, loader)) == own


def test_batch_that_fails_is_not_counted(dataset):
    """An error in the transform, as when a device is full, ends the epoch before its batch."""
    calls = itertools.count()

    def fails_at_the_third(frames):
        if next(calls) == 2:
            raise MemoryError
        return frames

    loader = FrameLoader(dataset, 4, transform=fails_at_the_third)
    seen = []
    with pytest.raises(MemoryError):
        seen += [frames for frames, _ in loader]
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (0, 2)
    loader.load_state_dict(state)
    assert flat(indices_of(dataset, loader)) == list(range(8, 23))


def test_the_state_is_that_of_the_latest_iteration(dataset):
    loader = FrameLoader(dataset, 4)
    first, second = iter(loader), None
    next(first)
    second = iter(loader)
    next(second)
    for batches in (first, first, second):
        next(batches)
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (1, 2)
    assert len(list(first)) == 3
    assert len(list(second)) == 4
    assert (loader.epoch, loader.state_dict()["position"]) == (2, 0)


def test_numbers_of_numpy(dataset):
    numbers = {"seed": np.int64(3), "rank": np.int32(0), "threads": np.uint8(2)}
    loader = FrameLoader(dataset, np.int64(4), prefetch=np.int64(1), shuffle=np.True_, **numbers)
    loader.epoch = np.int64(2)
    next(iter(loader))
    state = json.loads(json.dumps(loader.state_dict()))
    other = FrameLoader(dataset, 4, shuffle=True, seed=3)
    other.load_state_dict(state)
    assert (other.epoch, state["position"]) == (2, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position": 99}, "batch 99 in"),
        ({"position": -1}, "position must be a whole number of at least 0"),
        ({"epoch": None}, "epoch must be a whole number of at least 0"),
        ({"epoch": -1}, "epoch must be a whole number of at least 0"),
    ],
)
def test_impossible_states(dataset, change, message):
    loader = FrameLoader(dataset, 4)
    with pytest.raises(OptionError, match=message):
        loader.load_state_dict({**loader.state_dict(), **change})
    for nothing in (None, {}, {"epoch": 1}):
        with pytest.raises(OptionError, match="not the state of a FrameLoader"):
            loader.load_state_dict(nothing)


def test_kept_batch_is_not_overwritten(dataset, truth):
    """Buffers are reused, but never while a tensor refers to one."""
    loader = FrameLoader(dataset, 4)
    kept = [frames[0, 0] for frames, _ in loader]  # a view keeps the whole batch
    memory = {frames.data_ptr() for _ in range(5) for frames, _ in loader}
    for number, frames in enumerate(kept):
        assert torch.equal(frames, truth[4 * number, 0])
    del kept
    gc.collect()
    assert len(memory) <= 6 * 2 + 6  # of five epochs of six batches: memory was reused


def test_threads_share_a_batch(dataset, monkeypatch):
    parts = []

    def fill(self, batch, part, reader, stored):
        parts.append((len(stored), part.start, part.stop))

    monkeypatch.setattr(Decoding, "fill", fill)
    list(FrameLoader(dataset, 10, threads=3))
    tenths, rest = [(10, 0, 3), (10, 3, 6), (10, 6, 10)], [(3, 0, 1), (3, 1, 2), (3, 2, 3)]
    assert sorted(parts) == sorted(2 * tenths + rest)


def test_pickled_without_its_buffers(dataset, truth):
    loader = FrameLoader(dataset, 4, seed=1)
    list(loader)
    content = pickle.dumps(loader)
    assert len(content) < 100_000
    frames, _ = next(iter(pickle.loads(content)))
    assert torch.equal(frames, truth[:4])


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("eventdata-loader")]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_in_the_loop_leaves_no_threads(dataset, error):
    def train():
        for _ in FrameLoader(dataset, 2, threads=3, prefetch=5):
            raise error

    with pytest.raises(error) as caught:
        train()
    caught.value.__traceback__ = None  # it holds the loop, and so the loader
    del caught
    gc.collect()
    assert not loader_threads()


ENDLESS = """
import sys, threading, time, eventdata
loader = eventdata.FrameLoader(eventdata.FrameDataset(sys.argv[1]), 4, shuffle=True)
try:
    while True:
        for batch in loader:
            print("batch", flush=True)
finally:
    del batch
    # A thread that was just starting when Ctrl-C came ends a little later.
    deadline = time.monotonic() + 20
    left = [None]
    while left and time.monotonic() < deadline:
        left = [t.name for t in threading.enumerate() if t.name.startswith("eventdata-loader")]
        time.sleep(0.01)
    print("left", left, flush=True)
"""


def test_ctrl_c_ends_it(folder):
    """It ends at once, with nothing but KeyboardInterrupt."""
    words = [sys.executable, "-c", ENDLESS, folder / "store.zarr"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "batch\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert output.endswith("left []\n")  # perhaps in the line of a batch
    assert "Exception ignored" not in errors


def test_transform(dataset):
    loader = FrameLoader(dataset, 8, dtype=torch.float32, transform=lambda x: x.mean(1))
    assert next(iter(loader))[0].shape == (8, 2, 224, 224)


def test_damage_ends_it_with_the_error(folder, tmp_path):
    copy = shutil.copytree(folder / "store.zarr", tmp_path / "copy.zarr")
    path = copy / "train/frames/c/3/0/0/0/0"
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)
    had = []

    def read():
        for _, labels in FrameLoader(eventdata.FrameDataset(copy), 4):
            had.append(len(labels))

    with pytest.raises(StoreError, match="shard 3, sample 15: a chunk fails its checksum"):
        read()
    assert had == [4, 4, 4]  # the batches before it were whole
    assert not loader_threads()


@dataclass(frozen=True)
class WideCounts(Drawn):
    """Counts that need two bytes each."""

    kind: str = "count"

    @property
    def sample_format(self):
        return replace(super().sample_format, dtype="uint16")

    def read(self, sample, out):
        out[:] = 1000 + sample.details[0]
        return int(out.sum())


def test_counts_of_two_bytes(tmp_path):
    eventdata.convert(WideCounts(counts=(("train", 3),)), "", tmp_path / "wide.zarr")
    dataset = eventdata.FrameDataset(tmp_path / "wide.zarr")
    for dtype in (torch.uint8, torch.float16, torch.bfloat16):
        with pytest.raises(OptionError, match=f"uint16, which {dtype} does not hold"):
            FrameLoader(dataset, 3, dtype=dtype)
    ((frames, _),) = FrameLoader(dataset, 3, dtype=torch.float32)
    assert frames[:, 0, 0, 0, 0].tolist() == [1000, 1001, 1002]
    ((packed, _),) = FrameLoader(dataset, 3, layout="packed")
    assert packed.dtype == torch.uint16
    assert [int(one.max()) for one, _ in dataset] == [1000, 1001, 1002]  # not torch's uint16


def test_bad_options(dataset):
    for options in (
        {"batch_size": 0},
        {"batch_size": 2.0},
        {"seed": -1},
        {"rank": 2, "world_size": 2},
        {"layout": "NPTHW"},
        {"order": "random"},
        {"dtype": torch.int64},
        {"dtype": torch.float32, "layout": "packed"},
        {"threads": 0},
        {"device": "gpu"},
        {"device": None},
        {"device": "meta"},
        {"device": "xpu"},
        {"dtype": [1]},
        {"transform": 3},
    ):
        with pytest.raises(OptionError):
            FrameLoader(dataset, **{"batch_size": 4, **options})


def test_only_frame_datasets(folder, dataset):
    for other in (TensorDataset(torch.ones(3)), folder / "store.zarr"):
        with pytest.raises(OptionError, match=r"reads a FrameDataset, .* dataset.subset"):
            FrameLoader(other, 4)
    for transform in ("transform", "target_transform"):
        transformed = eventdata.FrameDataset(folder / "store.zarr", **{transform: lambda x: x})
        with pytest.raises(OptionError, match="get whole batches"):
            FrameLoader(transformed, 4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu(dataset):
    with pytest.raises(OptionError, match="device is cuda:1, but torch finds no GPUs here"):
        FrameLoader(dataset, 4, device="cuda:1")


def test_pool_is_freed_with_copies_in_flight():
    pool = BufferPool(100, keep=2, pinned=False)
    batch = torch.from_numpy(pool.take((10,), np.dtype(np.uint8)))
    pool._copies.append((None, batch))
    gone = weakref.ref(pool)
    del pool, batch
    gc.collect()
    assert gone() is None


def test_buffers_are_reused():
    pool = BufferPool(100, keep=2, pinned=False)

    def take():
        batch = torch.from_numpy(pool.take((5, 2), np.dtype(np.uint8)))
        return batch, batch.data_ptr()

    first, place = take()
    view = first[1:]
    del first
    second, other = take()
    assert other != place  # a view of the first still exists
    del view
    third, again = take()
    assert again == place
    many = [take() for _ in range(9)]  # no buffer has two users
    assert len({other, again, *(there for _, there in many)}) == 11
    del many, second, third
    assert take()[1] in {take()[1] for _ in range(3)}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("layout", ["NTPHW", "TNPHW", "packed"])
def test_gpu_batches_equal_cpu_batches(dataset, layout):
    """Pinned buffers are filled again only after their copy is done."""
    here, there = (
        FrameLoader(dataset, 3, shuffle=True, layout=layout, device=device)
        for device in ("cpu", "cuda")
    )
    for _ in range(5):
        mine = [(frames.clone(), labels) for frames, labels in here]
        for (frames, labels), (copied, numbers) in zip(mine, list(there), strict=True):
            assert torch.equal(frames, copied.cpu())
            assert torch.equal(labels, numbers.cpu())
