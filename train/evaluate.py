"""Evaluate a trained network on a store: accuracies, confusion matrix, firing rates.

Legend: N samples, K classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from eventdata.dataset import FRAMING_KEYS, FrameDataset
from eventdata.errors import EventDataError, InputError, MismatchError, OptionError
from eventdata.files.local import read_plain
from eventdata.store.layout import Parameters, SampleFormat
from eventdata.store.read import Store, open_store
from train.data import Epoch, check_labels, open_data
from train.model import ModelInfo, load_model
from train.networks.layers import Network
from train.operations import measure
from train.recipe import load
from train.runs.folder import weight_facts
from train.runs.module import balanced_accuracy, prepare
from train.toml import MAX_BYTES, parse_toml

BATCH = 32
MEASURED = 64  # samples for firing rates
FRAMED = tuple(key for key in FRAMING_KEYS if key not in ("steps", "representation", "count_dtype"))
"""Parameters that decide samples of the same shape and dtype."""
MOST_CLASSES = 12  # of a confusion matrix that is printed whole

Progress = Callable[[int, int], None]


def evaluate(
    network: str | Path,
    data: str | None = None,
    *,
    split: str | None = None,
    recipe: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate a network: the command `eventdata evaluate`.

    Args:
        network: folder of a run, or a file of weights (`train.load_model`).
        data: store; None: that of the run.
        split: split of the store. Default: the test part of the run if the store is its own, drawn
            or not; otherwise test, val or the only split.
        recipe: recipe of a file of weights without settings.
        progress: called with samples done and in total.

    Returns:
        weights, store, split, samples; top1, top5 (from six classes on), balanced and loss;
        classes, confusion (K, K) with a row for each true class; rates (share of nonzero outputs)
        by layer; notes.

    Raises:
        InputError: the network or the store can't be read, there are no samples, or a label is not
            that of a class.
        MismatchError: the store's samples or classes are not those of the network.
        OptionError: the store or the split is missing, or has to be named.
    """
    model, info = load_model(network, recipe)
    own = run_of(network)
    if data is None:
        stores = own["stores"] if own is not None else {}
        if info.settings.data not in stores:
            raise OptionError(f"{network} is not of a run with a store; pass the store with --data")
        data = str(stores[info.settings.data].get("path"))
    store = open_store(data)
    part, split, notes = _part(own, store, split)
    check_labels(part, data, split)
    notes += check_sample(info, part.sample_format, store.header.parameters, data)
    own_data = own is not None and own["stores"].get("data", {}).get("sha256") == store.digest
    if not own_data and split != "test" and weight_facts(info.file).get("store") == store.digest:
        notes.append("the weights were trained on samples of this store, perhaps on these ones")
    numbers, matched = class_numbers(part.classes, info, data)
    notes += matched
    if not len(part):
        raise InputError(f"{data}: the split {split} has no samples; pass another with --split")
    classes = len(info.classes)
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    loss, top5, done = 0.0, 0, 0
    for logits, labels in outputs(model, info, part):
        truth = torch.from_numpy(numbers)[labels]
        confusion.view(-1).index_add_(
            0, truth * classes + logits.argmax(dim=1), torch.ones_like(truth)
        )
        loss += float(functional.cross_entropy(logits, truth, reduction="sum"))
        if classes > 5:
            top5 += int((logits.topk(5).indices == truth[:, None]).sum())
        done += len(truth)
        if progress is not None:
            progress(done, len(part))
    samples, hits = confusion.sum(dim=1), confusion.diagonal()
    if int(confusion.any(dim=0).sum()) == 1 and int((samples > 0).sum()) > 1:
        notes.append("the network takes all samples for the same class")
    chosen = part.subset(np.linspace(0, len(part) - 1, min(MEASURED, len(part))).astype(int))
    batches = (prepare(frames, info.settings) for frames, _ in _batches(chosen, info, model))
    return {
        "weights": str(info.file),
        "store": data,
        "split": split,
        "samples": done,
        "top1": int(hits.sum()) / done,
        **({"top5": top5 / done} if classes > 5 else {}),
        "balanced": balanced_accuracy(samples, hits),
        "loss": loss / done,
        "classes": info.classes,
        "confusion": confusion.tolist(),
        "rates": measure(model, batches).rates,
        "notes": notes,
    }


def run_of(network: str | Path) -> dict[str, Any] | None:
    """Return the config.toml of the run that a network belongs to; None for other files."""
    path = Path(network).absolute()
    config = (path if path.is_dir() else path.parent.parent) / "config.toml"
    try:
        table = parse_toml(read_plain(config, MAX_BYTES).decode())
        stores = {name: dict(store) for name, store in table["stores"].items()}
    except (EventDataError, OSError, AttributeError, KeyError, TypeError, ValueError):
        return None
    return {"config": str(config), "stores": stores}


def _part(
    own: Mapping[str, Any] | None, store: Store, split: str | None
) -> tuple[FrameDataset, str, list[str]]:
    """Return the samples to evaluate on, the name of their split, and notes about them."""
    where = store.files.where
    trained = ""
    if own is not None and own["stores"].get("data", {}).get("sha256") == store.digest:
        run = load(own["config"], check_weights=False).run
        parts = open_data(
            where,
            share=run.held_out,
            seed=run.split_seed,
            test_share=run.test_share,
            published=run.protocol == "published",
        )
        if "test" in parts.drawn and parts.test is not None and split in (None, "test"):
            return parts.test, "test", ["the test samples are those that the run has drawn"]
        trained = parts.train.split
    split = pick_split(store, split)
    notes = [f"the run was trained on samples of the split {split}"] if split == trained else []
    return FrameDataset(where, split), split, notes


def pick_split(store: Store, split: str | None) -> str:
    """Return a split by its name, or without it test, val or the only split.

    Raises:
        OptionError: there is no such split, or several without test and val.
    """
    names = list(store.splits)
    for name in [split] if split else ["test", "val", *names[: len(names) == 1]]:
        if name in names:
            return name
    raise OptionError(
        f"{store.files.where}: has the splits {', '.join(names)}; pass one of them with --split"
    )


def check_sample(
    info: ModelInfo, sample: SampleFormat, parameters: Parameters, where: object
) -> list[str]:
    """Return notes on samples that were framed otherwise than those of a network's training.

    Args:
        info: the network.
        sample, parameters: of the samples.
        where: their place, for messages.

    Raises:
        MismatchError: they are not of the kind that the network was trained on.
    """
    if info.framing is None:
        return _check_unstated(info, sample, where)
    here, there = sample, info.framing.sample
    if here == there:
        own = info.framing.parameters
        apart = [key for key in FRAMED if own.get(key) != parameters.get(key)]
        words = (f"{key} {parameters.get(key)}, not {own.get(key)}" for key in apart)
        text = f"the samples were framed otherwise than for the training: {', '.join(words)}"
        return [text] if apart else []
    settings = " ".join(f"{key}={value}" for key, value in info.framing.parameters.items())
    raise MismatchError(
        f"{where}: its samples are {_form(here)}, but the network was trained on {_form(there)}; "
        f"convert the data as for that store ({settings})"
    )


def _check_unstated(info: ModelInfo, sample: SampleFormat, where: object) -> list[str]:
    """Check samples for weights that do not state what they were trained on, and note that."""
    images = info.recipe.pipeline == "pipe-s" or info.settings.data == "images"
    of_either = info.settings.neuron.kind == "ann" and not images
    if images != (sample.steps is None) and not of_either:
        kind = "images" if images else "event frames"
        raise MismatchError(f"{where}: its samples are {_form(sample)}, but the recipe's {kind}")
    if images and info.settings.normalise == "imagenet" and sample.channels != 3:
        raise MismatchError(
            f"{where}: its images have {sample.channels} channels, and the recipe's 3; convert "
            "them again"
        )
    return ["the weights do not state how their samples were made; make sure that these were alike"]


def _form(sample: SampleFormat) -> str:
    axes = "C, H, W" if sample.steps is None else "T, P, H, W"
    return f"{sample.representation} ({axes}) = {sample.dense_shape}"


def class_numbers(
    classes: Sequence[str], info: ModelInfo, where: object
) -> tuple[NDArray[np.int64], list[str]]:
    """Return the network's output for each class of a store, matched by name, and notes.

    Raises:
        MismatchError: a class is not one of the network's.
    """
    places = {name: place for place, name in enumerate(info.classes)}
    unknown = [name for name in classes if name not in places]
    if not unknown:
        return np.array([places[name] for name in classes], np.int64), []
    numbers = list(map(str, range(len(places))))
    if info.classes == numbers and len(classes) == len(places):
        return np.arange(len(classes)), ["the weights name no classes, so they match by number"]
    raise MismatchError(
        f"{where}: the network does not know {len(unknown)} of the {len(classes)} classes, such as "
        f"{unknown[0]!r}. Its classes are {', '.join(info.classes[:5])}"
        + (f" and {len(places) - 5} more" if len(places) > 5 else "")
    )


def _batches(part: FrameDataset, info: ModelInfo, network: Network) -> Epoch:
    stage = info.settings
    return Epoch(
        part=part,
        batch_size=BATCH,
        steps=stage.steps,
        downscale=stage.downscale,
        align=stage.align,
        device=next(network.parameters()).device,
    )


@torch.no_grad()
def answers(network: Network, info: ModelInfo, frames: Tensor) -> Tensor:
    """Return the logits (N, K) on the CPU for a batch of `train.data.Epoch`."""
    logits: Tensor = network(prepare(frames, info.settings))
    return logits.float().cpu()


def outputs(
    network: Network, info: ModelInfo, part: FrameDataset
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits (N, K) and labels (N,) of all samples in order, on the CPU.

    The network moves to the GPU, if there is one.
    """
    to_device(network)
    for frames, labels in _batches(part, info, network):
        yield answers(network, info, frames), labels.cpu()


def to_device(network: Network) -> torch.device:
    """Move a network to the GPU, if there is one, and return its device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)
    return device


def text(result: Mapping[str, Any]) -> str:
    """Return the result of `evaluate` as lines of text."""
    top5 = f", top-5 {result['top5']:.1%}" if "top5" in result else ""
    lines = [
        f"{result['store']} {result['split']}: top-1 {result['top1']:.1%}{top5}, balanced over "
        f"classes {result['balanced']:.1%}, loss {result['loss']:.4g}",
        f"{result['samples']:,} samples, weights {result['weights']}",
        *(f"note: {note}" for note in result["notes"]),
        "",
        *_confusion(result["classes"], result["confusion"]),
        "",
        "firing rates (share of nonzero outputs):",
        *(f"  {name:24} {rate:.4f}" for name, rate in result["rates"].items()),
    ]
    return "\n".join(lines)


def _confusion(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> list[str]:
    if len(classes) <= MOST_CLASSES:
        width = max(6, *(min(len(name), 12) + 1 for name in classes))
        short = [name[:12] for name in classes]
        rows = [
            f"{name:>{width}}" + "".join(f"{count:{width}}" for count in row)
            for name, row in zip(short, confusion, strict=True)
        ]
        head = " " * width + "".join(f"{name:>{width}}" for name in short)
        return ["confusion (rows: true class, columns: predicted class):", head, *rows]
    pairs = [
        (count, classes[true], classes[taken])
        for true, row in enumerate(confusion)
        for taken, count in enumerate(row)
        if count and true != taken
    ]
    most = sorted(pairs, key=lambda pair: -pair[0])[:MOST_CLASSES]
    return [
        "most frequent confusions (--json prints the whole matrix):",
        *(f"  {count:6} {true} taken for {taken}" for count, true, taken in most),
    ]
