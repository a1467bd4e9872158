"""FrameLoader in other people's programs: samplers, torch.distributed, Lightning, accelerate."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    random_split,
)
from torch.utils.data.distributed import DistributedSampler

import eventdata
from eventdata.errors import OptionError
from eventdata.loader import FrameLoader
from tests.drawn import make_store

N = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("scripts") / "a.zarr")


@pytest.fixture(scope="module")
def dataset(store):
    return eventdata.FrameDataset(store)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batches_of(dataset, loader):
    """Return the indices in each batch, found by their frames."""
    by_frames = {frames.numpy().tobytes(): i for i, (frames, _) in enumerate(dataset)}
    assert len(by_frames) == len(dataset)
    return [[by_frames[one.numpy().tobytes()] for one in frames] for frames, _ in loader]


def flat(batches):
    return [index for batch in batches for index in batch]


def test_a_loader_made_anew_has_another_order_unless_it_has_a_seed(dataset):
    orders = [flat(batches_of(dataset, FrameLoader(dataset, 8, shuffle=True))) for _ in range(3)]
    assert all(sorted(order) == list(range(N)) for order in orders)
    assert len(set(map(tuple, orders))) == 3
    seeded = [batches_of(dataset, FrameLoader(dataset, 8, shuffle=True, seed=1)) for _ in range(2)]
    assert seeded[0] == seeded[1]
    repeated = []
    for _ in range(2):  # torch's own seed decides, as for DataLoader
        torch.manual_seed(5)
        repeated.append(batches_of(dataset, FrameLoader(dataset, 8, shuffle=True)))
    assert repeated[0] == repeated[1]


def test_a_loader_without_a_seed_resumes(dataset):
    loader = FrameLoader(dataset, 8, shuffle=True)
    whole = batches_of(dataset, loader)
    loader.epoch = 0
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    state = json.loads(json.dumps(loader.state_dict()))
    other = FrameLoader(dataset, 8, shuffle=True)
    other.load_state_dict(state)
    assert batches_of(dataset, other) == whole[3:]
    with pytest.raises(OptionError, match="seed"):
        FrameLoader(dataset, 8, shuffle=True, seed=3).load_state_dict(state)


def test_the_state_after_the_last_batch_continues_with_the_next_epoch(dataset):
    loader = FrameLoader(dataset, 8, shuffle=True, seed=1)
    batches = iter(loader)
    for _ in range(len(loader)):
        next(batches)
    other = FrameLoader(dataset, 8, shuffle=True, seed=1)
    other.load_state_dict(loader.state_dict())
    second = FrameLoader(dataset, 8, shuffle=True, seed=1)
    second.epoch = 1
    assert batches_of(dataset, other) == batches_of(dataset, second)


SAMPLERS = {
    "sequential": SequentialSampler,
    "random": lambda d: RandomSampler(d, generator=generator()),
    "replacement": lambda d: RandomSampler(d, True, 25, generator=generator()),
    "subset": lambda d: SubsetRandomSampler(range(5, 40, 2), generator=generator()),
    "weighted": lambda d: WeightedRandomSampler(
        np.linspace(0.1, 1, N).tolist(), 33, generator=generator()
    ),
    "distributed": lambda d: DistributedSampler(d, num_replicas=2, rank=1, seed=4),
    "list": lambda d: [5, 3, 3, 0],
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("drop_last", [False, True])
def test_samplers_decide_the_order(dataset, name, drop_last):
    make = SAMPLERS[name]
    ours, theirs = make(dataset), make(dataset)
    loader = FrameLoader(dataset, 8, sampler=ours, drop_last=drop_last)
    for epoch in range(2):
        if hasattr(theirs, "set_epoch"):
            theirs.set_epoch(epoch)
        expected = list(BatchSampler(theirs, 8, drop_last))
        assert len(loader) == len(expected)
        assert batches_of(dataset, loader) == expected


def test_batch_samplers(dataset):
    for size in (None, 7):
        sampler = BatchSampler(RandomSampler(dataset, generator=generator()), 7, True)
        again = BatchSampler(RandomSampler(dataset, generator=generator()), 7, True)
        loader = FrameLoader(dataset, size, sampler=sampler)
        assert batches_of(dataset, loader) == list(again)
        assert len(loader) == 8
    lists = [[3, 1], [4], [1, 5, 9]]
    assert batches_of(dataset, FrameLoader(dataset, None, sampler=lists)) == lists
    with pytest.raises(OptionError, match="batches of 7, not 8"):
        FrameLoader(dataset, 8, sampler=sampler)


@pytest.mark.parametrize("name", ["random", "weighted", "distributed", "list"])
def test_samplers_resume_within_an_epoch(dataset, name):
    make = SAMPLERS[name]
    expected = FrameLoader(dataset, 2, sampler=make(dataset))
    epochs = [batches_of(dataset, expected) for _ in range(3)]
    for done in (0, 1, len(epochs[1]) - 1):
        loader = FrameLoader(dataset, 2, sampler=make(dataset))
        batches_of(dataset, loader)
        batches = iter(loader)
        for _ in range(done):
            next(batches)
        other = FrameLoader(dataset, 2, sampler=make(dataset))
        other.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        rest = FrameLoader(dataset, 2, sampler=make(dataset))
        rest.load_state_dict(other.state_dict())  # passed on before it was used
        assert batches_of(dataset, rest) == epochs[1][done:]
        assert batches_of(dataset, rest) == epochs[2]


def test_a_sampler_that_can_not_repeat_its_order_does_not_resume_silently(dataset):
    loader = FrameLoader(dataset, 4, sampler=RandomSampler(dataset))
    next(iter(loader))
    other = FrameLoader(dataset, 4, sampler=RandomSampler(dataset))
    other.load_state_dict(loader.state_dict())
    with pytest.raises(OptionError, match="another order than before; pass it a generator"):
        next(iter(other))


def test_wrong_uses_of_samplers(dataset):
    wrong = {
        "the sampler decides the order": {"shuffle": True},
        "omit shuffle and order": {"order": "shards"},
    }
    for words, options in wrong.items():
        with pytest.raises(OptionError, match=words):
            FrameLoader(dataset, 4, sampler=SequentialSampler(dataset), **options)
    with pytest.raises(OptionError, match="without a length may never end"):
        FrameLoader(dataset, 4, sampler=iter(range(9)))
    with pytest.raises(OptionError, match="needs a batch sampler"):
        FrameLoader(dataset, None)
    with pytest.raises(OptionError, match=r"indices -1 to 3, but the dataset has 60 samples"):
        next(iter(FrameLoader(dataset, 4, sampler=[3, -1])))
    for sampler, words in (
        (RandomSampler(dataset), "without a generator"),
        (BatchSampler(SequentialSampler(dataset), 4, False), "the same batches"),
    ):
        loader = FrameLoader(dataset, 4, sampler=sampler, rank=0, world_size=2)
        with pytest.raises(OptionError, match=words):
            next(iter(loader))
    with pytest.raises(OptionError, match="the same seed"):
        FrameLoader(dataset, 4, shuffle=True, rank=0, world_size=2)


def test_ranks_share_a_seeded_sampler(dataset):
    loaders = [
        FrameLoader(dataset, 4, sampler=SAMPLERS["random"](dataset), rank=rank, world_size=3)
        for rank in range(3)
    ]
    parts = [flat(batches_of(dataset, loader)) for loader in loaders]
    assert sorted(flat(parts)) == list(range(N))


def test_subsets_and_concatenations_of_torch(dataset, tmp_path):
    first, second = random_split(dataset, [0.7, 0.3], generator=generator())
    assert flat(batches_of(dataset, FrameLoader(first, 8))) == list(first.indices)
    swapped = ConcatDataset([second, first])
    assert flat(batches_of(dataset, FrameLoader(swapped, 8))) == [*second.indices, *first.indices]
    other = make_store(tmp_path / "b.zarr", names="t{:04}", n_classes=5, first_label=2)
    b = eventdata.FrameDataset(other)
    loader = FrameLoader(ConcatDataset([dataset.select(["c2", "c0"]), b]), 100)
    assert loader.dataset.classes == ["c2", "c0", "c1", "c3", "c4"]
    _, labels = next(iter(loader))
    names = [loader.dataset.classes[label] for label in labels]
    assert names == [f"c{i % 3}" for i in range(N) if i % 3 != 1] + [
        f"c{i % 3 + 2}" for i in range(N)
    ]


def test_the_type_of_the_dataset_is_the_default(store):
    for dtype in (torch.float32, torch.float16, np.int32):
        dataset = eventdata.FrameDataset(store, dtype=dtype)
        frames, _ = next(iter(FrameLoader(dataset, 8)))
        assert frames.dtype == dataset.dtype
        assert torch.equal(frames[3], torch.as_tensor(dataset[3][0]))
        assert next(iter(FrameLoader(dataset, 8, layout="packed")))[0].dtype == torch.uint8
    with pytest.raises(OptionError, match="layout PTHW is for single samples"):
        FrameLoader(eventdata.FrameDataset(store, layout="PTHW"), 8)


def test_transforms_of_labels(dataset):
    loader = FrameLoader(
        dataset, 8, target_transform=lambda labels: torch.nn.functional.one_hot(labels, 3)
    )
    labels = torch.cat([labels for _, labels in loader])
    assert labels.argmax(1).tolist() == dataset.targets
    with pytest.raises(OptionError, match="target_transform must be a function"):
        FrameLoader(dataset, 8, target_transform=3)


def test_without_a_process_group_ranks_are_warned(dataset, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.warns(UserWarning, match="WORLD_SIZE is 2, but torch.distributed is not set up"):
        assert len(batches_of(dataset, FrameLoader(dataset, 8))) == 8
    FrameLoader(dataset, 8, rank=0, world_size=2)  # no warning where ranks are passed


RANKS = """
import json, os, sys
import torch.distributed as dist
from torch.utils.data import RandomSampler
import torch
from eventdata import FrameDataset, FrameLoader
early = FrameLoader(FrameDataset(sys.argv[1]), 4, shuffle=True)  # before the group is set up
dist.init_process_group("gloo")
torch.manual_seed(dist.get_rank())  # as careless scripts do
dataset = FrameDataset(sys.argv[1])
names = {frames.numpy().tobytes(): i for i, (frames, _) in enumerate(dataset)}
seen = {}
for what, loader in {
    "shuffled": FrameLoader(dataset, 4, shuffle=True),
    "in order": FrameLoader(dataset, 4),
    "early": early,
}.items():
    seen[what] = [
        [names[one.numpy().tobytes()] for frames, _ in loader for one in frames] for _ in range(2)
    ]
with open(f"{sys.argv[2]}/{dist.get_rank()}.json", "w") as file:
    json.dump(seen, file)
dist.destroy_process_group()
"""


def test_two_ranks_see_each_sample_once_without_any_argument(store, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*command, str(program), store, str(tmp_path)],
        check=True,
        timeout=300,
    )
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for what in ranks[0]:
        epochs = [rank[what] for rank in ranks]
        for epoch in range(2):
            assert sorted(epochs[0][epoch] + epochs[1][epoch]) == list(range(N))
    assert ranks[0]["shuffled"][0] != ranks[0]["shuffled"][1]


def test_accelerate_prepares_and_skips(dataset):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    options = {"shuffle": True, "seed": 2, "dtype": torch.float32, "layout": "TNPHW"}
    loader = accelerator.prepare(FrameLoader(dataset, 8, device=accelerator.device, **options))
    epochs = [[(frames.clone(), labels) for frames, labels in loader] for _ in range(2)]
    loader.set_epoch(1)
    for skipped in (3, 0, len(loader)):
        loader.set_epoch(1)
        rest = list(accelerate.skip_first_batches(loader, skipped))
        assert loader.epoch == 2
        assert len(rest) == len(loader) - skipped
        for (ours, labels), (frames, expected) in zip(rest, epochs[1][skipped:], strict=True):
            assert ours.dtype == torch.float32
            assert torch.equal(ours, frames)
            assert torch.equal(labels, expected)
    packed = FrameLoader(dataset, 8, layout="packed")
    with pytest.raises(OptionError, match="not packed"):
        next(iter(accelerate.skip_first_batches(packed, 1)))


def _fit(
    loader,
    steps,
    folder: Path,
    *,
    resume=None,
    reload=0,
    at_epoch_end=None,
    module=None,
    estimate=False,
):
    """Train for some epochs with Lightning; return the digest of each batch with its epoch.

    With `estimate`, configure_optimizers asks for the number of steps, so that Lightning sets up
    the loaders before it reads the checkpoint to resume.
    """
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Model(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(4 * 2 * 16 * 16, 3)
            self.seen = []

        def training_step(self, batch, _):
            frames, labels = batch
            self.seen.append((self.current_epoch, hash(frames.numpy().tobytes())))
            return torch.nn.functional.cross_entropy(self.head(frames.flatten(1)), labels)

        def validation_step(self, batch, _):
            pass

        def configure_optimizers(self):
            if estimate:
                assert self.trainer.estimated_stepping_batches == 3 * steps
            return torch.optim.SGD(self.parameters(), 0.01)

        if module is None:

            def train_dataloader(self):
                return loader()

            def val_dataloader(self):
                return loader()

    when = {"every_n_train_steps": 1} if at_epoch_end is None else {"every_n_epochs": 1}
    saving = ModelCheckpoint(
        folder, filename="{step}", save_top_k=-1, save_on_train_epoch_end=at_epoch_end, **when
    )
    trainer = lightning.Trainer(
        max_epochs=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=reload,
        callbacks=[saving],
    )
    model = Model()
    trainer.fit(model, datamodule=module, ckpt_path=resume)
    return model.seen, trainer


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lightning_resumes_at_any_batch(dataset, tmp_path):
    def loader():
        return FrameLoader(dataset, 20, shuffle=True, seed=3, dtype=torch.float32)

    whole, trainer = _fit(loader, 3, tmp_path / "a")
    assert trainer.estimated_stepping_batches == 9
    assert [epoch for epoch, _ in whole] == [0] * 3 + [1] * 3 + [2] * 3
    assert len(set(whole)) == len({digest for _, digest in whole}) == 9
    for step in (1, 3, 4, 6, 8):
        for estimate in (False, True):
            file = tmp_path / f"a/step={step}.ckpt"
            resumed, _ = _fit(loader, 3, tmp_path / "b", resume=file, estimate=estimate)
            assert resumed == whole[step:]
    for at_end in (True, False):
        folder = tmp_path / f"end-{at_end}"
        assert _fit(loader, 3, folder, at_epoch_end=at_end)[0] == whole
        resumed, _ = _fit(loader, 3, tmp_path / "c", resume=folder / "step=3.ckpt")
        assert resumed == whole[3:]
    assert _fit(loader, 3, tmp_path / "d", reload=1)[0] == whole
    resumed, _ = _fit(loader, 3, tmp_path / "e", resume=tmp_path / "a/step=4.ckpt", reload=1)
    assert resumed == whole[4:]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_data_module_trains_and_resumes(store, tmp_path):
    from eventdata.lightning import EventDataModule

    whole, _ = _fit(None, 2, tmp_path / "a", module=EventDataModule(store, 20))
    assert [epoch for epoch, _ in whole] == [0] * 3 + [1] * 3
    assert len(set(whole)) == 6
    for step in (2, 3, 4):
        resume = tmp_path / f"a/step={step}.ckpt"
        module = EventDataModule(store, 20)
        resumed, _ = _fit(None, 2, tmp_path / "b", resume=resume, module=module, estimate=True)
        assert resumed == whole[step:]


def test_the_data_module_draws_missing_splits(store, tmp_path):
    from eventdata.lightning import EventDataModule

    module = EventDataModule(store, 10)  # with the splits train and test
    assert module.test_data.split == "test"
    assert len(module.val_data) == 6
    assert list(module.val_data.class_counts.values()) == [2, 2, 2]
    names = [*module.val_data.names, *module.train_data.names]
    assert sorted(names) == sorted(eventdata.FrameDataset(store).names)
    frames, labels = next(iter(module.train_dataloader()))
    assert (frames.shape, frames.dtype) == ((10, 4, 2, 16, 16), torch.float32)
    assert labels.dtype == torch.int64
    loaders = (module.val_dataloader(), module.test_dataloader(), module.predict_dataloader())
    assert [sum(len(labels) for _, labels in loader) for loader in loaders] == [6, 24, 24]

    only = make_store(tmp_path / "b.zarr", counts=(("all", 60),), names="file{:03}#1")
    drawn = EventDataModule(only, 10, held_out=0.2, held_out_seed=5)
    again = EventDataModule(only, 10, held_out=0.2, held_out_seed=5)
    parts = [drawn.train_data, drawn.val_data, drawn.test_data]
    assert [len(part) for part in parts] == [39, 9, 12]
    assert len(set().union(*(part.names for part in parts))) == 60
    assert drawn.test_data.names == again.test_data.names
    for share in (0, 1, -1):
        with pytest.raises(OptionError, match="held_out must be"):
            EventDataModule(only, held_out=share)
    few = make_store(tmp_path / "c.zarr", counts=(("all", 3),))
    with pytest.raises(OptionError, match="no class has two recordings"):
        EventDataModule(few)
