"""Stores that tests of training share."""

import pytest

from tests.drawn import make_store


@pytest.fixture(scope="session")
def events(tmp_path_factory):
    """A store of event frames: 60 to train on, 24 to test on, 3 classes."""
    return make_store(tmp_path_factory.mktemp("stores") / "events.zarr")


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A store of still images of the same samples."""
    folder = tmp_path_factory.mktemp("stores")
    return make_store(folder / "images.zarr", kind="image", channels=3)
