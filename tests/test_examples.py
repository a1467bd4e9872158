"""Each example runs, and learns the same from our batches as from those of a zarr-python loop."""

import importlib
import runpy
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

import eventdata

EXAMPLES = Path(__file__).parent.parent / "examples"
TIME_FIRST = {
    "plain_torch": False,
    "spikingjelly_lif": True,
    "snntorch_lif": True,
    "norse_lif": True,
    "accelerate_train": False,
}
LIBRARIES = {
    "spikingjelly_lif": "spikingjelly.activation_based",
    "snntorch_lif": "snntorch",
    "norse_lif": "norse.torch",
    "accelerate_train": "accelerate",
    "lightning_fit": "lightning",
}


@pytest.fixture(scope="module")
def store(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    with zipfile.ZipFile(shared / "nmnist_550.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".bin")]
        chosen = [name for name in names if "/Train/" in name][:320]
        archive.extractall(folder, chosen + [name for name in names if "/Test/" in name][:20])
    eventdata.convert("tonic:NMNIST", folder, folder / "nmnist.zarr", frames=5)
    return folder / "nmnist.zarr"


@pytest.fixture
def example(request, monkeypatch):
    """Import an example, if its library is installed."""
    if request.param in LIBRARIES:
        try:  # some of these libraries fail otherwise where a package is missing
            importlib.import_module(LIBRARIES[request.param])
        except ImportError as error:
            pytest.skip(f"{request.param} needs a package: {error}")
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module(request.param)


def by_zarr(store: Path, split: str, batches, *, time_first: bool):
    """Return batches of samples, read and unpacked by zarr-python and NumPy."""
    group = zarr.open_group(store, mode="r")[split]
    steps = group["frames"].attrs["steps"]
    found = []
    for indices in batches:
        packed = group["frames"].oindex[np.array(indices)]
        frames = np.unpackbits(packed, axis=1, count=steps).astype(np.float32)
        frames = frames.swapaxes(0, 1) if time_first else frames
        labels = group["label"].oindex[np.array(indices)].astype(np.int64)
        found.append((torch.from_numpy(frames.copy()), torch.from_numpy(labels)))
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Norse, which uses torch.jit
@pytest.mark.parametrize("example", TIME_FIRST, indirect=True)
def test_example_learns_the_same_from_a_zarr_loop(example, store, capsys, monkeypatch):
    time_first = TIME_FIRST[example.__name__]
    dataset = eventdata.FrameDataset(store)
    layout = "TNPHW" if time_first else "NTPHW"
    loader = eventdata.FrameLoader(dataset, 16, dtype=torch.float32, layout=layout)
    plain = by_zarr(store, "train", loader.batch_sampler, time_first=time_first)
    accuracies = []
    for batches in (list(loader), plain):
        torch.manual_seed(0)
        accuracies.append(example.train(batches * 4, len(dataset.classes)))  # four epochs
    assert accuracies[0] == accuracies[1]
    assert 0 < accuracies[0] < 1

    monkeypatch.setattr(sys, "argv", [f"{example.__name__}.py", str(store)])
    runpy.run_path(str(EXAMPLES / f"{example.__name__}.py"), run_name="__main__")
    assert "accuracy " in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("example", ["lightning_fit"], indirect=True)
def test_lightning_example_learns_the_same_from_a_zarr_loop(
    example, store, tmp_path, monkeypatch, capsys
):
    import lightning

    from eventdata.lightning import EventDataModule

    class Plain:
        def __init__(self, loader) -> None:
            self.batch_sampler = loader.batch_sampler
            self.dataset = loader.dataset

        def __len__(self) -> int:
            return len(self.batch_sampler)

        def __iter__(self):
            indices = [self.dataset.stored[batch] for batch in self.batch_sampler]
            yield from by_zarr(store, self.dataset.split, indices, time_first=False)

    class PlainModule(lightning.LightningDataModule):
        def __init__(self) -> None:
            super().__init__()
            self.ours = EventDataModule(store, 16)

        def train_dataloader(self):
            return Plain(self.ours.train_dataloader())

        def val_dataloader(self):
            return Plain(self.ours.val_dataloader())

        def test_dataloader(self):
            return Plain(self.ours.test_dataloader())

    monkeypatch.chdir(tmp_path)
    accuracies = []
    for data in (EventDataModule(store, 16), PlainModule()):
        torch.manual_seed(0)
        accuracies.append(example.train(data, 10))
    assert accuracies[0] == accuracies[1]
    monkeypatch.setattr(sys, "argv", ["lightning_fit.py", str(store)])
    runpy.run_path(str(EXAMPLES / "lightning_fit.py"), run_name="__main__")
    assert "accuracy " in capsys.readouterr().out


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*TIME_FIRST, "lightning_fit"}
