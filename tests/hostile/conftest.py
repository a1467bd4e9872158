"""A small sound store for tests to damage."""

import shutil
from pathlib import Path

import pytest

import eventdata
from tests.nasty import stores, trees


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Return the files of a small store of binary frames by their keys."""
    made = stores.store_inputs()[0]
    folder = tmp_path_factory.mktemp("sound")
    trees.write_tree(folder / "raw", made.tree)
    eventdata.convert(made.source, folder / "raw", folder / "out", shard_size=2, **made.options)
    return folder


@pytest.fixture
def store(sound, tmp_path):
    return Path(shutil.copytree(sound / "out", tmp_path / "store.zarr"))
