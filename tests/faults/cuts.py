"""Cut the power at each operation of a job, lose what POSIX lets a disk lose, and run it again.

A job is recorded once (`tests.faults.recorder`). Each moment of the record has states that a power
loss could leave (`tests.faults.disk`). On each of them these must hold: a file with its final name
is whole; what opens or counts as finished is complete; the next call ends with the content of an
undisturbed one and leaves nothing over.

A job may be recorded after a kill, whose changes are in memory only, or after another power loss.
"""

import contextlib
import copy
import hashlib
import io
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import eventdata
from eventdata.errors import EventDataError, StoreError
from tests.faults import jobs
from tests.faults.disk import LOSSES, Disk, File, Loss, Operation, State, Tree
from tests.faults.jobs import (
    Content,
    Job,
    convert_job,
    generate_job,
    leftovers,
    train_job,
    without_work,
)
from tests.faults.recorder import PowerLoss, Recorder
from tests.makers import make_clips, make_es_imagenet

Before = Literal["nothing", "kill", "power cut"]
BEFORE: tuple[Before, ...] = ("nothing", "kill", "power cut")

OUT = "run/out"
"""The output below the recorded folder, in a folder that the command makes."""


@dataclass(frozen=True)
class Record:
    """A call that was recorded.

    disk: the file system before it; earlier: the operations of a call before it that was killed;
    operations: those of the call; end: the tree afterwards.
    """

    before: Before
    disk: Disk
    earlier: tuple[Operation, ...]
    operations: tuple[Operation, ...]
    end: Tree

    def moments(self) -> Iterator[tuple[int, Disk]]:
        """Yield the number of operations of the call that are done, and the file system then."""
        disk = copy.deepcopy(self.disk)
        for one in self.earlier:
            disk.apply(one)
        yield 0, disk
        for number, one in enumerate(self.operations, 1):
            disk.apply(one)
            yield number, disk


@dataclass(frozen=True)
class Cut:
    """A power loss. operation: how many operations came before it; faults: what was wrong."""

    job: str
    before: Before
    operation: int
    state: State
    faults: tuple[str, ...]

    @property
    def kinds(self) -> list[str]:
        """The losses, and the event before the call."""
        lost = ["entries lost"] if self.state.entries else []
        lost += [f"bytes {loss}" for loss in self.state.losses]
        return [
            *(lost or ["nothing lost"]),
            *([f"after a {self.before}"] * (self.before != "nothing")),
        ]


def tree_of(root: Path) -> Tree:
    """Return the tree that a folder holds."""
    return {
        path.relative_to(root).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
    }


class Place:
    """A folder in which a job is called in this process."""

    def __init__(self, folder: Path, job: Job) -> None:
        self.job = job
        self.root, self.temporary = folder / f"{job.name} disk", folder / f"{job.name} tmp"
        self.out = self.root / OUT
        self.temporary.mkdir(parents=True, exist_ok=True)

    def renew(self, tree: Tree) -> None:
        """Make the folder hold a tree."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir()
        for path, data in tree.items():  # folders come before what is in them
            if data is None:
                (self.root / path).mkdir()
            else:
                (self.root / path).write_bytes(data)

    def call(self) -> str:
        """Run the job; return "" or what it said as it failed."""
        from eventdata.cli import main

        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                words = self.job.arguments(self.out)
                code: Any = main(words, prog_name="eventdata", standalone_mode=False)
            except (Exception, SystemExit) as error:
                code = f"{type(error).__name__}: {error}"
        return f"{said.getvalue()} {code}" if code else ""

    def record(self, start: Tree, draw: random.Random, before: Before = "nothing") -> Record:
        """Record a call on a tree, on which a call may have been stopped before."""
        last = None
        if before != "nothing":
            whole = self.record(start, draw)
            last = draw.randrange(1, len(whole.operations))
            if before == "power cut":
                disk = next(disk for number, disk in whole.moments() if number == last)
                start = draw.choice(disk.states(draw, 10))().tree
        self.renew(start)
        disk = Disk(self.root)
        earlier = Recorder(self.root, last)
        if before == "kill":
            with earlier.recording(), contextlib.suppress(PowerLoss):
                self.call()
        recorder = Recorder(self.root)
        with recorder.recording():
            failure = self.call()
        if failure:
            raise RuntimeError(f"{self.job.name} after {before}: {failure}")
        operations = (tuple(earlier.operations), tuple(recorder.operations))
        for one in (*operations[0], *operations[1]):
            if one.kind == "unknown":
                raise RuntimeError(f"{self.job.name}: not recorded: {one.path}")
        record = Record(before, disk, *operations, tree_of(self.root))
        *_, (_, last_disk) = record.moments()
        if last_disk.seen() != record.end:
            raise RuntimeError(f"{self.job.name}: its record gives other files than the call")
        return record


def states(record: Record, count: int, seed: str, *, more: int = 6) -> Iterator[tuple[int, State]]:
    """Yield up to ``count`` different states of a record, about as many of each moment.

    Args:
        record: the record.
        count: number of states.
        seed: random seed of the choice.
        more: states of each moment that are drawn at random.
    """
    draw, known = random.Random(seed), set()
    moments = range(len(record.operations) + 1)
    each = 1
    while count and each < 1000:
        chosen = set(draw.sample(moments, min(count, len(moments))))
        for number, disk in record.moments():
            if number not in chosen:
                continue
            left = each
            made = disk.states(draw, more)
            for make in draw.sample(made, len(made)):
                state = make()
                if count and left and (digest := digest_of(state.tree)) not in known:
                    known.add(digest)
                    left, count = left - 1, count - 1
                    yield number, state
                if not left:
                    break
        each *= 2


def digest_of(tree: Tree) -> bytes:
    """Return a digest of a tree."""
    digest = hashlib.sha256()
    for path, data in sorted(tree.items()):
        digest.update(f"{path}\0{-1 if data is None else len(data)}\0".encode())
        digest.update(data or b"")
    return digest.digest()


@dataclass(frozen=True)
class CutJob:
    """A job, and what its output holds before it: a tree below the output."""

    job: Job
    start: Tree


def convert_cuts(folder: Path) -> CutJob:
    """Convert raw files to a new store."""
    return CutJob(convert_job(folder, samples=16, workers=1), {})


def overwrite_cuts(folder: Path) -> CutJob:
    """Replace a store of other raw files, with as many samples of the same shape."""
    job = convert_job(folder, samples=16, workers=1)
    other = make_es_imagenet(folder / "other", train=12, val=4, seed=1)
    out = folder / "other.zarr"
    eventdata.convert("es-imagenet", other, out, shard_size=4)
    return CutJob(replace(job, name="overwrite", words=(*job.words, "--overwrite")), tree_of(out))


def archive_cuts(folder: Path) -> CutJob:
    """Convert a tar, whose index is kept with the work, and skip a damaged sample."""
    job = convert_job(folder, samples=16, workers=1)
    packed = folder / "raw.tar"
    with tarfile.open(packed, "w") as tar:
        for path in sorted(job.inputs.rglob("*.*")):
            member = tarfile.TarInfo(path.relative_to(job.inputs).as_posix())
            data = path.read_bytes()
            data = data[: len(data) // 2] if path.name.endswith("_1.npz") else data
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    words = [str(packed) if word == str(job.inputs) else word for word in job.words]
    return CutJob(replace(job, name="archive", words=(*words, "--on-error", "skip")), {})


def generate_cuts(folder: Path) -> CutJob:
    """Generate raw files from images."""
    return CutJob(generate_job(folder, samples=8, workers=1), {})


def clips_cuts(folder: Path) -> CutJob:
    """Generate raw files from clips."""
    job = generate_job(folder, samples=8, workers=1)
    clips = make_clips(folder / "clips", clips=3)
    words = ("generate", "es-ucf101", str(clips), jobs.OUT, "--workers", "1")
    return CutJob(replace(job, name="clips", words=words), {})


def train_cuts(folder: Path) -> CutJob:
    """Train two stages of two epochs."""
    return CutJob(train_job(folder), {})


def extend_cuts(folder: Path) -> CutJob:
    """Train the last stage of a finished run for another epoch."""
    job = train_job(folder)
    place = Place(folder / "finished", job)
    place.renew({"run": None})
    if failure := place.call():
        raise RuntimeError(failure)
    words = (*job.words, "--set", "lif.epochs=3")
    return CutJob(replace(job, name="extend", words=words), tree_of(place.out))


CUT_JOBS: dict[str, dict[str, tuple[Callable[[Path], CutJob], float]]] = {
    "convert": {
        "convert": (convert_cuts, 0.25),
        "overwrite": (overwrite_cuts, 0.2),
        "archive": (archive_cuts, 0.12),
    },
    "generate": {"generate": (generate_cuts, 0.18), "clips": (clips_cuts, 0.05)},
    "train": {"train": (train_cuts, 0.12), "extend": (extend_cuts, 0.08)},
}
"""The jobs by command and name, and the share of the states that each has."""


def cut_power(
    cut_job: CutJob,
    folder: Path,
    count: int,
    *,
    before: Sequence[Before] = BEFORE,
    seed: int = 0,
) -> Iterator[Cut]:
    """Judge ``count`` states that a power loss could leave in calls of a job.

    Args:
        cut_job: the job, which is recorded once for each of ``before``.
        folder: the folder to work in.
        count: number of states in all.
        before: what happens before the recorded call.
        seed: random seed of everything.
    """
    job = cut_job.job
    place, draw = Place(folder, job), random.Random(f"{seed} {job.name}")
    start: Tree = {}
    if cut_job.start:
        start = {"run": None, OUT: None}
        start |= {f"{OUT}/{path}": data for path, data in cut_job.start.items()}
    shares = [count // len(before) + (n < count % len(before)) for n in range(len(before))]
    for share, one in zip(shares, before, strict=True):
        place.renew(start)
        complete = [job.content(place.out)] if start else []
        record = place.record(start, draw, one)
        judge = Judge(place, record, complete)
        for number, state in states(record, share, f"{seed} {job.name} {one}"):
            yield Cut(job.name, one, number, state, tuple(judge.faults(number, state)))


def torn_stores(folder: Path, count: int, *, seed: int = 0) -> Iterator[tuple[Tree, bool]]:
    """Yield damaged stores that open, and whether `verify` finds the damage.

    A disk that reports syncs which it has not done leaves them: each file is damaged by each loss,
    then up to five files at once. A store whose header is damaged does not open.
    """
    place, draw = Place(folder, convert_cuts(folder).job), random.Random(f"{seed} torn")
    place.renew({})
    if failure := place.call():
        raise RuntimeError(failure)
    whole = tree_of(place.root)
    files = {path: data for path, data in whole.items() if data is not None}
    damages: list[Loss | None] = [*LOSSES[1:], None]  # None: the file is missing
    single = [[(path, damage)] for path in files for damage in damages]
    several = [
        [(path, draw.choice(damages)) for path in draw.sample(sorted(files), draw.randint(2, 5))]
        for _ in range(count)
    ]
    known = {digest_of(whole)}
    for chosen in (*draw.sample(single, len(single)), *several):
        tree = dict(whole)
        for path, damage in chosen:
            del tree[path]
            if damage is not None:
                tree[path] = File(b"", bytearray(files[path])).after(damage, draw)
        place.renew(tree)
        with contextlib.suppress(StoreError):
            eventdata.open_store(place.out)
            if count and digest_of(tree) not in known:
                known.add(digest_of(tree))
                count -= 1
                yield tree, not eventdata.verify(place.out).ok


class Judge:
    """The judge of the states of a record.

    versions: all that each file has held, by path; complete: the content of complete outputs.
    """

    def __init__(self, place: Place, record: Record, complete: Sequence[Content]) -> None:
        self.place, self.record = place, record
        self.whole = place.job.content(place.out)
        self.complete = [without_work(content) for content in (self.whole, *complete)]
        self.versions: dict[str, set[bytes]] = {}
        for _, disk in record.moments():
            for path, data in disk.seen().items():
                if data is not None:
                    self.versions.setdefault(path, set()).add(data)

    def faults(self, number: int, state: State) -> Iterator[str]:
        """Yield what is wrong with a state after ``number`` operations, and after the next call."""
        place, job = self.place, self.place.job
        place.renew(state.tree)
        torn = [
            path
            for path, data in state.tree.items()
            if data is not None and not is_temporary(path) and data not in self.versions[path]
        ]
        if torn:
            yield f"not whole: {', '.join(torn)}"
            return
        if job.finished(place.out):
            if without_work(job.content(place.out)) not in self.complete:
                yield "counts as finished, but is not"
        elif opens(job, place.out):
            yield "opens, but is not finished"
        elif number == len(self.record.operations):
            yield "had ended, and is not finished"
        with mock.patch("os.fsync"):  # the power stays on, and waiting for the disk takes long
            failure = place.call()
        if failure:
            yield f"the next call fails: {failure[-2000:]}"
            return
        if (content := job.content(place.out)) != self.whole:
            different = sorted(
                key for key in {*content, *self.whole} if content.get(key) != self.whole.get(key)
            )
            yield f"content differs from that of an undisturbed call: {', '.join(different)}"
        if left := leftovers(place.out, place.temporary):
            yield f"left over: {', '.join(left)}"


def is_temporary(path: str) -> bool:
    """Return whether nothing relies on a file: it has no final name, or is for TensorBoard only."""
    return path.endswith((".part", ".tmp", "lock")) or "/tensorboard/" in path


def opens(job: Job, out: Path) -> bool:
    """Return whether a store opens. The network of an unfinished run opens, or is refused."""
    if job.words[0] == "convert":
        for split in ("train", "val"):
            with contextlib.suppress(StoreError):
                eventdata.FrameDataset(out, split)
                return True
    if job.words[0] == "train":
        from train import load_model

        with contextlib.suppress(EventDataError):  # its file is whole, which is checked for all
            load_model(out)
    return False
