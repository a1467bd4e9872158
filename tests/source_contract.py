"""The promises of a conversion from any source: one class, subclassed for each source."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import eventdata
from eventdata.conversion import convert
from eventdata.errors import IncompleteStoreError, InputError, MismatchError, OptionError
from eventdata.jobs.job import Task
from eventdata.raw.one_sample import read_sample
from eventdata.raw.registry import build_source
from tests.makers import tree_digest


class SourceContract:
    """A contract; subclasses name a source and make an input of at least five samples for it."""

    source: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    other: ClassVar[dict[str, Any]] = {}
    """Options that make another store from the same input; empty if the source has none."""

    def make(self, folder: Path) -> Path:
        """Write the input below the folder and return it."""
        raise NotImplementedError

    def damage(self, raw: Path) -> str:
        """Make one sample unreadable and return its name."""
        raise NotImplementedError

    def file_of_a_sample(self, raw: Path) -> Path:
        """Return a file that is read for a sample."""
        raise NotImplementedError

    @pytest.fixture
    def made(self, tmp_path_factory) -> tuple[Path, Path]:
        """Return an input and its store, made once per class for tests that change neither."""
        cls = type(self)
        if "_made" not in vars(cls):
            folder = tmp_path_factory.mktemp(self.source)
            raw = self.make(folder)
            self.run(raw, folder / "out.zarr")
            cls._made = raw, folder / "out.zarr"
        return cls._made

    @pytest.fixture
    def raw(self, made, tmp_path) -> Path:
        """Return a copy of the input with its modification times."""
        return Path(shutil.copytree(made[0], tmp_path / made[0].name))

    def run(self, raw: Path, out: Path, **options: Any) -> Any:
        return convert(self.source, raw, out, **{"shard_size": 2, **self.options, **options})

    def test_any_number_of_workers_writes_the_same_bytes(self, made, tmp_path):
        raw, out = made
        result = self.run(raw, tmp_path / "two.zarr", workers=2)
        assert result.state == "complete"
        assert sum(result.samples.values()) >= 5
        assert tree_digest(tmp_path / "two.zarr") == tree_digest(out)

    def test_a_resumed_conversion_writes_the_same_bytes(self, made, tmp_path, monkeypatch):
        raw, whole = made
        out, real = tmp_path / "out.zarr", Task.run
        calls = []

        def stop_at_the_second(*args):
            calls.append(args)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return real(*args)

        monkeypatch.setattr(Task, "run", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            self.run(raw, out)
        with pytest.raises(IncompleteStoreError):
            eventdata.open_store(out)
        assert self.run(raw, out).done_before == 2
        assert tree_digest(out) == tree_digest(whole)
        assert self.run(raw, out).state == "already complete"

    def test_other_settings_are_refused(self, made):
        raw, out = made
        before = tree_digest(out)
        for key, value in {"limit": 1, **self.other}.items():
            with pytest.raises(MismatchError, match=f"{key} is .* in the store"):
                self.run(raw, out, **{key: value})
        with pytest.raises(OptionError, match="has no option 'nonsense'; choose from"):
            self.run(raw, out, nonsense=1)
        assert tree_digest(out) == before

    def test_changed_input_is_refused(self, raw, tmp_path):
        out = tmp_path / "out.zarr"
        self.run(raw, out)
        path = self.file_of_a_sample(raw)
        # later than the file and its folder, as an editor leaves it
        later = path.stat().st_mtime_ns + 10**12
        os.utime(path, ns=(later, later))
        with pytest.raises(MismatchError, match="is a file that was changed since"):
            self.run(raw, out)
        path.write_bytes(path.read_bytes() + b"more")
        with pytest.raises(MismatchError, match=r"(different size|changed since)"):
            self.run(raw, out)

    def test_a_damaged_sample_stops_it_or_is_skipped(self, raw, tmp_path):
        out, name = tmp_path / "out.zarr", self.damage(raw)
        with pytest.raises(InputError) as error:
            self.run(raw, out)
        assert "\n" not in str(error.value)
        result = self.run(raw, out, on_error="skip")
        assert result.skipped == 1
        (entry,) = json.loads((out / "skipped.json").read_text())
        assert entry["name"] == name
        assert str(tmp_path) in entry["reason"]
        store = eventdata.open_store(out)
        split = store.split(entry["split"])
        assert split.sample_names[~split.valid].tolist() == [name]
        assert eventdata.verify(out).ok

    def test_verify_compares_every_sample(self, made, tmp_path):
        raw, out = made
        result = eventdata.verify(out, against=raw, samples=None, **self.against)
        assert result.ok, result.problems
        assert result.compared == result.samples >= 5

    @property
    def against(self) -> dict[str, Any]:
        """Options that `verify` can't read from the store."""
        return {key: self.options[key] for key in ("list", "classes") if key in self.options}

    def test_a_dry_run_writes_nothing(self, made, tmp_path):
        raw, out = made
        dry = self.run(raw, tmp_path / "none.zarr", dry_run=True)
        assert not (tmp_path / "none.zarr").exists()
        assert (dry.state, dry.done_before) == ("dry run", 0)
        store = eventdata.open_store(out)
        assert dry.samples == {name: len(split) for name, split in store.splits.items()}
        shards = [path for array in ("frames", "images") for path in out.glob(f"*/{array}/c/**/0")]
        stored = sum(path.stat().st_size for path in shards if path.is_file())
        assert dry.bytes == pytest.approx(stored, rel=0.01)

    def build(self, raw: Path) -> Any:
        return build_source(self.source, raw, self.options)

    def test_a_pickled_source_is_small_and_reads_the_same(self, made):
        raw, out = made
        source = self.build(raw)
        listing = source.splits()
        pickled = pickle.dumps(source)
        assert len(pickled) < 2000  # the listing of a million images must not go with every shard
        there = pickle.loads(pickled)
        for name, split in eventdata.open_store(out).splits.items():
            stored = np.empty(split.sample.packed_shape, split.sample.dtype)
            again = np.full_like(stored, 77)
            listing[name].inspect_files()
            for index in np.flatnonzero(split.valid).tolist():
                events = read_sample(there, listing[name], index, again)
                split.reader().read(index, stored)
                np.testing.assert_array_equal(again, stored)
                assert events == split.event_counts[index]


class SettingsContract(SourceContract):
    """The contract of a source whose ``other`` settings make other frames of the same input."""

    def test_verify_reports_other_frames(self, made, tmp_path):
        """A store whose parameters contradict its frames is reported."""
        raw, _ = made
        out = tmp_path / "other.zarr"
        key, value = next(iter(self.other.items()))
        self.run(raw, out, **{key: value})
        document = json.loads((out / "zarr.json").read_text())
        own = self.build(raw).parameters
        document["attributes"]["eventdata"]["parameters"][key] = own[key]
        (out / "zarr.json").write_text(json.dumps(document))
        result = eventdata.verify(out, against=raw, samples=None, **self.against)
        assert any(
            "frames differ from those in the store" in problem.message
            for problem in result.problems
        )
