"""Predict the classes of a store's samples, or of raw files framed as the store of a run was.

Legend: N samples, K classes, T steps, H rows, W columns.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eventdata.dataset import FrameDataset
from eventdata.errors import EventDataError, InputError, OptionError, StoreError, reading
from eventdata.files import open_files
from eventdata.files.inputs import files_below
from eventdata.files.local import LocalFiles
from eventdata.formats.recording import DECODERS
from eventdata.formats.video import FRAME_SUFFIXES
from eventdata.raw.dvs_gesture import LISTS, labels_of, list_gestures
from eventdata.raw.es_imagenet import MANIFESTS, EsImageNet
from eventdata.raw.hold_out import PIECE
from eventdata.raw.image_lists import SUFFIXES
from eventdata.raw.listing import stored_name
from eventdata.raw.one_sample import read_sample
from eventdata.raw.recordings import Recordings, is_recording
from eventdata.raw.registry import build_source, given_options, source_entry
from eventdata.raw.source import Samples, Source, collect_notes
from eventdata.raw.ucf101_lists import FOLDERS, ClipFolders
from eventdata.store.layout import HEADER_KEY
from eventdata.store.read import open_store
from train.align import shifts_of
from train.data import unpack_batch
from train.evaluate import BATCH, Progress, answers, check_sample, outputs, pick_split, to_device
from train.model import Framing, ModelInfo, load_model
from train.networks.layers import Network


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction for one sample."""

    file: str
    """The sample's file, relative to the input."""
    sample: int
    """The number of the piece, if the file was cut into several samples."""
    best: tuple[tuple[str, float], ...] = ()
    """The most probable classes with their probabilities; empty for a file that can't be read."""
    note: str = ""
    """Why it can't be read, what was changed in reading it, or how its framing is another one."""


def predict(
    network: str | Path,
    data: str | Path,
    *,
    split: str | None = None,
    recipe: str | None = None,
    top: int = 1,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Predict the class of each sample: the command `eventdata predict`.

    Args:
        network: folder of a run, or a file of weights (`train.load_model`).
        data: a store; or a file or folder of raw files, of the kind that the run's store was made
            from. They are framed as that store was.
        split: split of the store. Default: test, val or the only one.
        recipe: recipe of a file of weights without settings.
        top: how many classes to return for each sample.
        progress: called with samples done and in total.

    Raises:
        InputError: the network can't be read, there is no input, or none of it can be read.
        MismatchError: the input's samples are not of the network's shape.
        OptionError: the input can't be framed, because the weights do not state how.
    """
    model, info = load_model(network, recipe)
    top = min(top, len(info.classes))
    files = open_files(data)  # those in a zip file or behind a URL are a store's
    if not isinstance(files, LocalFiles) or files.size(HEADER_KEY) is not None:
        return list(_of_store(model, info, str(data), split, top, progress))
    if split is not None:
        raise OptionError(f"--split is only for a store, and {data} holds raw files. Omit it")
    found = list(_of_files(model, info, Path(data), top, progress))
    if not any(one.best for one in found):
        raise InputError(f"{data}: nothing in it can be read; the first reason: {found[0].note}")
    return found


def table(predictions: Sequence[Prediction]) -> str:
    """Return predictions as CSV: file, sample, class, probability, class_2, ..., note."""
    top = max((len(one.best) for one in predictions), default=1)
    numbers = ["", *(f"_{place}" for place in range(2, top + 1))]
    columns = [f"{key}{number}" for number in numbers for key in ("class", "probability")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["file", "sample", *columns, "note"])
    for one in predictions:
        best = [cell for name, share in one.best for cell in (name, f"{share:.6g}")]
        best += [""] * (len(columns) - len(best))
        writer.writerow([one.file, one.sample, *best, one.note])
    return out.getvalue()


def _of_store(
    network: Network,
    info: ModelInfo,
    place: str,
    split: str | None,
    top: int,
    progress: Progress | None,
) -> Iterator[Prediction]:
    store = open_store(place)
    part = FrameDataset(place, pick_split(store, split))
    note = "; ".join(check_sample(info, part.sample_format, store.header.parameters, place))
    names = iter(part.names)
    done = 0
    for logits, _ in outputs(network, info, part):
        for best in _best(logits, info, top):
            yield _named(next(names), best=best, note=note)
        done += len(logits)
        if progress is not None:
            progress(done, len(part))


def _of_files(
    network: Network, info: ModelInfo, place: Path, top: int, progress: Progress | None
) -> Iterator[Prediction]:
    source, samples = list_unlabelled(info, place)
    check_sample(info, source.sample_format, source.parameters, place)
    samples.inspect_files()
    sample, settings, device = source.sample_format, info.settings, to_device(network)
    shifts = shifts_of(source.parameters, source.sample_format, place) if settings.align else None
    packed = np.zeros((BATCH, *sample.packed_shape), sample.dtype)
    for start in range(0, len(samples), BATCH):
        read: dict[int, int] = {}  # sample -> its place in the batch
        notes: dict[int, str] = {}
        indices = range(start, min(start + BATCH, len(samples)))
        for index in indices:
            with collect_notes() as found:
                try:
                    read_sample(source, samples, index, packed[len(read)])
                    read[index] = len(read)
                    notes[index] = "; ".join(one.replace("\n", ": ") for one in found)
                except EventDataError as error:
                    notes[index] = str(error)
        best: list[tuple[tuple[str, float], ...]] = []
        if read:
            batch = torch.from_numpy(packed[: len(read)]).to(device)
            frames = unpack_batch(batch, sample, settings.steps, settings.downscale, shifts)
            best = _best(answers(network, info, frames), info, top)
        for index in indices:
            own = best[read[index]] if index in read else ()
            yield _named(samples.names[index], best=own, note=notes[index])
        if progress is not None:
            progress(indices.stop, len(samples))


def _best(logits: Tensor, info: ModelInfo, top: int) -> list[tuple[tuple[str, float], ...]]:
    shares, places = logits.softmax(dim=1).topk(top)
    return [
        tuple((info.classes[place], share) for place, share in zip(*row, strict=True))
        for row in zip(places.tolist(), shares.tolist(), strict=True)
    ]


def _named(name: str, **result: Any) -> Prediction:
    piece = PIECE.search(name)
    number = int(piece[0][1:]) if piece else 0
    return Prediction(file=PIECE.sub("", name), sample=number, **result)


def list_unlabelled(info: ModelInfo, place: Path) -> tuple[Source, Samples]:
    """Return raw files without labels, and the source that frames them as a network needs.

    Args:
        info: the facts about the network.
        place: a file, or a folder that is searched at any depth.

    Raises:
        InputError: there are no such files.
        OptionError: the facts do not state how to frame them.
    """
    framing = info.framing
    if framing is None:
        raise OptionError(
            f"{info.file} does not state how its input was made, so raw files can't be framed; "
            "convert them, then pass the store"
        )
    name = str(framing.parameters.get("source"))
    lister = _as_source if name.startswith("tonic:") else LISTERS.get(name)
    if lister is None or framing.parameters.get("grey_from_events"):
        raise OptionError(
            f"the network learned from {framing.dataset}, which is not made from raw files; "
            "convert them as for its store, then pass the new store"
        )
    if not place.exists():
        raise InputError(f"{place}: no such file or folder; check the path")
    with reading(place):
        source, samples = lister(name, framing, place)
    if not len(samples):
        raise InputError(
            f"{place}: no files of {name} in it; pass files of the kind that the network's store "
            "was made from"
        )
    return source, samples


def _options(name: str, framing: Framing) -> dict[str, Any]:
    """Return the options that a run's store was converted with, without those that name files."""
    entry = source_entry(name)
    safe = [
        key
        for key, option in entry.options.items()
        if key in framing.parameters and key not in entry.files and not option.needs
    ]
    try:
        return given_options(name, {key: framing.parameters[key] for key in safe})
    except OptionError as error:
        raise StoreError(f"the network's settings of {name} are damaged ({error})") from None


def _files(place: Path, suffixes: Sequence[str]) -> tuple[Path, list[str]]:
    """Return a folder and the sorted names in it of files with a suffix, or the one file."""
    if not place.is_dir():
        return place.parent, [place.name]
    names = (name for name in files_below(place) if name.lower().endswith(tuple(suffixes)))
    return place, sorted(names)


def _listed(
    folder: Path,
    names: Sequence[str],
    details: Sequence[Sequence[int]] | None = None,
    problems: dict[int, str] | None = None,
) -> Samples:
    return Samples(
        names=[stored_name(name) for name in names],
        labels=np.full(len(names), -1, np.int32),
        paths=[str(folder / name) for name in names],
        details=np.array(details or [[]] * len(names), np.int64).reshape(len(names), -1)
        if names
        else np.empty((0, 0), np.int64),
        problems=problems or {},
    )


def _recordings(name: str, framing: Framing, place: Path) -> tuple[Source, Samples]:
    folder, names = _files(place, list(DECODERS))
    if place.is_dir():
        names = list(filter(is_recording, names))
    source = build_source(name, folder, _options(name, framing))
    assert isinstance(source, Recordings)
    if not names:
        return source, _listed(folder, [])
    sample = framing.sample
    stated = source.frames.sensor_size is not None or bool(source.frames.transforms)
    size = None if stated else (sample.width, sample.height)
    folder = folder.absolute()
    source = source.of_files(folder, names, size)
    samples = source.splits()["all"]
    samples.names = [one.removeprefix(f"{stored_name(folder.name)}/") for one in samples.names]
    return source, samples


def _images(name: str, framing: Framing, place: Path) -> tuple[Source, Samples]:
    folder, names = _files(place, SUFFIXES)
    return build_source(name, folder, _options(name, framing)), _listed(folder, names)


def _clips(name: str, framing: Framing, place: Path) -> tuple[Source, Samples]:
    """List videos, and folders that hold images and no videos."""
    source = build_source(name, place, _options(name, framing))
    assert isinstance(source, ClipFolders)
    suffixes = [suffix for suffix in source.suffixes if suffix != FOLDERS]
    folder, names = _files(place, suffixes)
    if FOLDERS in source.suffixes and place.is_dir():
        _, frames = _files(place, FRAME_SUFFIXES)
        parents = {Path(one).parent.as_posix() for one in frames}
        if parents == {"."}:
            folder, names = place.parent, [place.name]
        else:
            names = sorted({*names, *(parents - {"."})})
    return source, _listed(folder, names)


def _es_imagenet(name: str, framing: Framing, place: Path) -> tuple[Source, Samples]:
    """List npz files; the manifest in a folder above them has the size of each image."""
    folder, names = _files(place, (".npz",))
    sizes: dict[str, list[int]] = {}
    for root in (folder, *list(folder.absolute().parents)[:3]):
        if any((root / manifest).is_file() for manifest in MANIFESTS.values()):
            for part in EsImageNet(root).splits().values():
                pairs = zip(part.paths, part.details.tolist(), strict=True)
                sizes |= {str(Path(path).resolve()): size for path, size in pairs if path}
    known = [sizes.get(str((folder / one).resolve())) for one in names]
    problems = {
        index: f"{folder / names[index]}: no manifest ({' or '.join(MANIFESTS.values())}) in a "
        "folder above it has the size of its image. Add its line"
        for index, size in enumerate(known)
        if size is None
    }
    details = [size or [1, 1] for size in known]
    source = build_source(name, folder, _options(name, framing))
    return source, _listed(folder, names, details, problems)


def _gestures(name: str, framing: Framing, place: Path) -> tuple[Source, Samples]:
    """List gestures by the lists or label files of the data set, else whole recordings."""
    folder, names = _files(place, (".aedat",))
    if any(
        (place / inner / one).is_file() for inner in ("", "DvsGesture") for one in LISTS.values()
    ):
        return _as_source(name, framing, place)
    if not any(labels_of(folder / one).is_file() for one in names):
        return _recordings("recordings", framing, place)
    return build_source(name, folder, _options(name, framing)), list_gestures("", folder, names)


def _as_source(name: str, framing: Framing, place: Path) -> tuple[Source, Samples]:
    """List a data set as its source does for a conversion."""
    source = build_source(name, place, _options(name, framing))
    rows = [(part, index) for part in source.splits().values() for index in range(len(part))]
    return source, Samples.gather(rows)


Lister = Callable[[str, Framing, Path], tuple[Source, Samples]]
LISTERS: dict[str, Lister] = {
    "recordings": _recordings,
    "images": _images,
    "imagenet": _images,
    "es-imagenet": _es_imagenet,
    "ucf101": _clips,
    "es-ucf101": _clips,
    "dvs-gesture": _gestures,
}
"""Functions that list raw files without labels, by source. Tonic lists its data sets itself."""
