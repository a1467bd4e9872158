"""Stores of each released version are read, verified and finished by this one."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

import eventdata
from eventdata.cli import main
from eventdata.errors import StoreError
from eventdata.store.layout import FORMAT_VERSION
from tests.stores.make import CONVERSIONS, digests, set_times

STORES = Path(__file__).parent / "stores"
KEPT = sorted(path.stem for path in STORES.glob("*.zip"))


@pytest.fixture(scope="module", params=KEPT)
def kept(request, tmp_path_factory):
    """Return the stores of a version, and their raw data with the original times."""
    folder = tmp_path_factory.mktemp(f"version-{request.param}")
    with zipfile.ZipFile(STORES / f"{request.param}.zip") as archive:
        archive.extractall(folder)
    set_times(folder / "raw")
    return folder


def test_this_version_has_kept_stores():
    assert eventdata.__version__ in KEPT, "run python -m tests.stores.make"
    assert all((STORES / f"{version}.zip").stat().st_size < 100_000 for version in KEPT)


@pytest.mark.parametrize("name", [name for name in CONVERSIONS if name != "unfinished"])
def test_an_older_store_is_read(kept, tmp_path, name):
    source, options = CONVERSIONS[name]
    store, raw = kept / f"{name}.zarr", kept / "raw" / source
    frames = json.loads((kept / "frames.json").read_text())[name]
    assert digests(store) == frames
    result = eventdata.verify(store, against=raw, samples=None)
    assert result.ok, result.problems
    assert result.compared == sum(map(len, frames.values()))
    assert eventdata.convert(source, raw, store, **options).state == "already complete"
    eventdata.convert(source, raw, tmp_path / "new.zarr", **options)
    assert digests(tmp_path / "new.zarr") == frames


def test_an_unfinished_store_of_an_older_version_is_finished(kept, tmp_path):
    source, options = CONVERSIONS["unfinished"]
    store = shutil.copytree(kept / "unfinished.zarr", tmp_path / "store.zarr")
    result = eventdata.convert(source, kept / "raw" / source, store, **options)
    assert result.done_before == options["shard_size"]
    assert eventdata.verify(store).ok
    fresh = tmp_path / "fresh.zarr"
    eventdata.convert(source, kept / "raw" / source, fresh, **options)
    for key in ("zarr.json", "train/frames/zarr.json", "val/frames/zarr.json"):
        assert (store / key).read_bytes() == (fresh / key).read_bytes(), "as this version writes it"
    assert digests(store) == json.loads((kept / "frames.json").read_text())["binary"]


def test_a_newer_store_is_refused_and_not_changed(kept, tmp_path):
    store = shutil.copytree(kept / "binary.zarr", tmp_path / "store.zarr")
    path = store / "zarr.json"
    document = json.loads(path.read_text())
    header = json.loads(CliRunner().invoke(main, ["info", str(store), "--json"]).stdout)
    assert header["version"] == document["attributes"]["eventdata"]["version"] <= FORMAT_VERSION
    document["attributes"]["eventdata"] = {"version": FORMAT_VERSION + 1, "unknown": "key"}
    path.write_text(json.dumps(document))
    newer = f"format version {FORMAT_VERSION + 1}, this eventdata reads up to .*upgrade eventdata"
    source, options = CONVERSIONS["binary"]
    raw = kept / "raw" / source
    for use in (
        eventdata.open_store,
        eventdata.FrameDataset,
        eventdata.verify,
        lambda place: eventdata.convert(source, raw, place, **options),
        lambda place: eventdata.convert(source, raw, place, overwrite=True, **options),
    ):
        with pytest.raises(StoreError, match=newer):
            use(store)
    assert json.loads(path.read_text()) == document
