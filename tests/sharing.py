"""Programs in which processes and threads share a dataset or a loader.

    python sharing.py CASE STORE        prints a digest of the samples that each of them has read

The digest covers all samples of an epoch with their labels, in any order.
"""

import hashlib
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils.data import DataLoader

import eventdata

BATCH = 4
FORKS = 20


def digest(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> str:
    """Return the digest of all samples and labels of an epoch, in any order."""
    samples = [
        hashlib.sha256(frames.numpy().tobytes() + bytes([int(label)])).hexdigest()
        for batch in batches
        for frames, label in zip(*batch, strict=True)
    ]
    return hashlib.sha256(json.dumps(sorted(samples)).encode()).hexdigest()


def loader(dataset: eventdata.FrameDataset) -> eventdata.FrameLoader:
    return eventdata.FrameLoader(dataset, BATCH, shuffle=True, seed=0, threads=2)


def put_digests(dataset: eventdata.FrameDataset, used: eventdata.FrameLoader, queue) -> None:
    """Read in another process: by the dataset, by an inherited loader and by a new one."""
    queue.put(digest(DataLoader(dataset, BATCH)))
    queue.put(digest(used))
    queue.put(digest(loader(dataset)))


def by_process(store: str, method: str) -> list[str]:
    """Read in a process that is started in the middle of an epoch, after both readers were used."""
    dataset = eventdata.FrameDataset(store)
    used = loader(dataset)
    found = [digest(DataLoader(dataset, BATCH)), digest(used)]
    open_epoch = iter(loader(dataset))
    next(open_epoch)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=put_digests, args=(dataset, used, queue))
    process.start()
    found += [queue.get() for _ in range(3)]
    process.join()
    assert len(list(open_epoch)) == -(-len(dataset) // BATCH) - 1
    return found


def by_fork_during_threads(store: str) -> list[str]:
    """Fork at random moments while threads read: the child must inherit no held lock."""
    digest([(torch.zeros(1, 1), torch.zeros(1))])  # operators of torch that only this file calls
    dataset = eventdata.FrameDataset(store)
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            digest(loader(dataset))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    found = []
    for _ in range(FORKS):
        read_end, write_end = os.pipe()
        if not os.fork():
            os.write(write_end, digest(loader(dataset)).encode())
            os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end) as pipe:
            found.append(pipe.read())
        os.wait()
    stop.set()
    for reader in readers:
        reader.join()
    return found


def by_threads(store: str) -> list[str]:
    """Read by eight threads at once: four FrameLoaders and four DataLoaders of one dataset."""
    dataset = eventdata.FrameDataset(store)
    readers = [lambda: digest(loader(dataset)), lambda: digest(DataLoader(dataset, BATCH))] * 4
    with ThreadPoolExecutor(len(readers)) as threads:
        return [one.result() for one in [threads.submit(reader) for reader in readers]]


def by_data_loader(store: str, method: str) -> list[str]:
    """Read two epochs by persistent workers, after the parent has used a FrameLoader."""
    dataset = eventdata.FrameDataset(store)
    found = [digest(loader(dataset))]
    workers = DataLoader(
        dataset,
        BATCH,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context=method,
        shuffle=True,
    )
    return [*found, digest(workers), digest(workers)]


def by_method(store: str, method: str) -> list[str]:
    """Run both cases in one program, because imports take most of its time."""
    return by_process(store, method) + by_data_loader(store, method)


def by_ddp(store: str, folder: str) -> list[str]:
    """Train by Lightning's DDP; each sample must be seen by one process, with either loader."""
    from lightning.pytorch import LightningModule, Trainer

    class Net(LightningModule):
        def __init__(self, kind: str) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 3)
            self.kind = kind
            self.seen: list[str] = []

        def train_dataloader(self) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
            dataset = eventdata.FrameDataset(store)
            if self.kind == "torch":
                return DataLoader(dataset, BATCH)  # Lightning gives it a sampler by rank
            rank, size = self.trainer.global_rank, self.trainer.world_size
            return eventdata.FrameLoader(dataset, BATCH, rank=rank, world_size=size)

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            self.seen += [hashlib.sha256(one.numpy().tobytes()).hexdigest() for one in batch[0]]
            features = batch[0].float().mean((2, 3, 4))
            return torch.nn.functional.cross_entropy(self.layer(features), batch[1])

        def on_train_end(self) -> None:
            name = f"{self.kind}-{self.global_rank}.json"
            Path(folder, name).write_text(json.dumps(self.seen))
            self.trainer.strategy.barrier()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    for kind in ("torch", "ours"):
        Trainer(
            strategy="ddp",
            devices=2,
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(Net(kind))
    dataset = eventdata.FrameDataset(store)
    whole = sorted(hashlib.sha256(one.numpy().tobytes()).hexdigest() for one, _ in dataset)
    for kind in ("torch", "ours"):
        ranks = [json.loads(Path(folder, f"{kind}-{rank}.json").read_text()) for rank in (0, 1)]
        assert all(ranks)
        assert sorted(ranks[0] + ranks[1]) == whole, kind
    return [digest(DataLoader(dataset, BATCH))]


CASES = {
    **{f"by {m}": (by_method, m) for m in ("fork", "spawn", "forkserver")},
    "fork during threads": (by_fork_during_threads,),
    "threads": (by_threads,),
}

if __name__ == "__main__":
    if sys.argv[1] == "ddp":
        is_first = os.environ.get("LOCAL_RANK", "0") == "0"
        found = by_ddp(*sys.argv[2:])
        if is_first:  # two processes that print at once may share a line
            print(json.dumps(found))
    else:
        case, *words = CASES[sys.argv[1]]
        print(json.dumps(case(sys.argv[2], *words)))
