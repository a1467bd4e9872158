"""Failing requests are repeated if that may help, and reported in one sentence otherwise."""

import errno
import os
import pickle
import random
import re
import sys
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError

import eventdata
from eventdata.errors import InputError, OptionError, StoreError
from eventdata.files import path_or_url
from eventdata.files import remote as module
from eventdata.files.remote import Remote

PASSING = [
    OSError(errno.EBUSY, "Please reduce your request rate"),
    OSError("503"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    TimeoutError(),
    EndpointConnectionError(endpoint_url="http://here"),
]
LASTING = [
    PermissionError("Access Denied"),
    OSError(errno.EINVAL, "The requested range is not satisfiable"),
    NoCredentialsError(),
    ValueError("no such bucket name"),
]


@pytest.fixture
def waits(monkeypatch):
    """Return the list of seconds waited."""
    waited = []
    monkeypatch.setattr(module.time, "sleep", waited.append)
    return waited


@pytest.fixture
def place():
    return Remote("memory://retries/store/", StoreError)


class Fails:
    """A request that fails some times, then succeeds."""

    def __init__(self, error, times):
        self.error, self.left = error, times

    def __call__(self, system, path):
        if self.left:
            self.left -= 1
            raise self.error
        return path


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_passing_faults_are_repeated_after_growing_waits(place, waits, error):
    assert place.ask("read", "a/b", Fails(error, 3)) == "/retries/store/a/b"
    assert len(waits) == 3
    assert all(0 < wait <= most for wait, most in zip(waits, module.WAITS, strict=False))
    assert waits[0] < waits[2]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_a_passing_fault_that_stays_is_reported(place, waits, error):
    with pytest.raises(StoreError) as raised:
        place.ask("written", "a/b", Fails(error, 99))
    text = str(raised.value)
    assert text.startswith("memory://retries/store/a/b: can't be written (")
    assert "finished work is kept: run the same command again to resume" in text
    assert "\n" not in text
    assert len(waits) == len(module.WAITS)


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_lasting_faults_are_reported_at_once(place, waits, error):
    with pytest.raises(StoreError, match="memory://retries/store: can't be read"):
        place.ask("read", "", Fails(error, 1))
    assert waits == []


def test_requests_are_not_repeated_after_the_limit(place, waits, monkeypatch):
    clock = iter(range(0, 1000, 20))  # each request takes 20 s, like one to a dead host
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(StoreError):
        place.ask("read", "", Fails(TimeoutError(), 99))
    assert len(waits) == 1


def test_a_missing_file_raises_file_not_found(place, waits):
    with pytest.raises(FileNotFoundError):
        place.ask("read", "", Fails(FileNotFoundError("a"), 1))
    assert waits == []


def test_errors_have_the_class_given(waits):
    with pytest.raises(InputError):
        Remote("memory://x", InputError).ask("read", "", Fails(PermissionError("no"), 1))


def test_draws_of_the_program_do_not_depend_on_faults(place, waits):
    random.seed(1)
    expected = random.random()
    random.seed(1)
    place.ask("read", "", Fails(TimeoutError(), 2))
    assert random.random() == expected


def test_pickles(place):
    again = pickle.loads(pickle.dumps(place))
    assert (again.url, again.kind) == (place.url, StoreError)


def test_each_process_opens_its_own(place, monkeypatch):
    here, path = place._open()
    assert place._open()[0] is here
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in a fork
    opened = []
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda *args, **kw: (opened.append(args), path))
    place.ask("read", "", lambda system, path: None)
    assert opened == [("memory://retries/store",)]


def test_missing_protocols(monkeypatch):
    with pytest.raises(StoreError, match="nope://bucket/x: can't be reached .*nope"):
        Remote("nope://bucket/x", StoreError)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(StoreError, match=r"^s3://bucket/x: s3fs is missing; run: pip install 'ev"):
        Remote("s3://bucket/x", StoreError)


def test_file_urls_are_paths():
    for place, path in (
        ("file:///a/b c%20", "/a/b c%20"),
        ("local:///a/", "/a/"),
        ("FILE:///a", "/a"),
        ("a/b", "a/b"),
        (Path("/a"), "/a"),
        ("s3://bucket", "s3://bucket"),
        ("memory:///a", "memory:///a"),
    ):
        assert path_or_url(place) == path


@pytest.mark.parametrize(
    "url",
    [
        "file://",
        "local://",
        "file://a/b",
        "://",
        "://a",
        "s3://",
        "s3:///",
        "s3:///a",
        "memory://",
        "a\0",
    ],
)
def test_incomplete_urls(url):
    def convert(place):
        return eventdata.convert("images", place, "x")

    for use in (eventdata.open_store, convert, path_or_url):
        with pytest.raises(OptionError, match="^" + re.escape(str(OptionError(url)))):
            use(url)
