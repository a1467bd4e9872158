"""Tests of the contract of `Files` for folders and for fsspec."""

import errno
import pickle
import uuid

import pytest

from eventdata.errors import StoreError
from eventdata.files import local as module
from eventdata.files import open_files
from eventdata.files.local import LocalFiles


class FilesContract:
    def make(self, tmp_path):
        raise NotImplementedError

    @pytest.fixture
    def files(self, tmp_path):
        opened = self.make(tmp_path)
        opened.prepare()
        return opened

    def test_write_then_read(self, files):
        files.write({"a/b/c": b"one"})
        files.write({"a/b/c": bytearray(b"two")})
        assert files.read("a/b/c") == b"two"
        assert files.size("a/b/c") == 3
        assert files.read("a/b") is None or files.read("a/none") is None
        assert files.size("a/none") is None

    def test_lists_and_totals(self, files):
        for key in ("b/2", "a/1", "b/c/3", "top"):
            files.write({key: b"1234"})
        assert files.list("b") == ["b/2", "b/c/3"]
        assert files.list("none") == []
        assert set(files.names()) - {".work"} == {"a", "b", "top"}
        assert files.total_bytes() == 16

    def test_remove(self, files):
        for key in ("b/2", "b/c/3", "top"):
            files.write({key: b"1"})
        for prefix in ("b", "top", "none"):
            files.remove(prefix)
        assert set(files.names()) <= {".work"}

    def test_pickles(self, files):
        files.write({"a": b"1"})
        assert pickle.loads(pickle.dumps(files)).read("a") == b"1"


class TestLocal(FilesContract):
    def make(self, tmp_path):
        return open_files(tmp_path / "store")

    def test_a_write_that_fails_leaves_nothing(self, files, monkeypatch):
        files.write({"a": b"old"})

        def full(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(module.os, "fsync", full)
        with pytest.raises(StoreError, match=r"No space left on device\); free some space"):
            files.write({"a": b"new"})
        assert files.read("a") == b"old"
        assert files.list(".work") == []

    def test_nothing_is_written_after_the_end(self, files):
        """A worker that outlives its conversion must not create .work again."""
        files.remove(".work")
        with pytest.raises(StoreError):
            files.write({"a": b"1"})
        assert not (files.root / ".work").exists()

    def test_a_folder_that_cannot_be_created_is_an_error(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match="can't be written"):
            LocalFiles(tmp_path / "file" / "store").prepare()


class TestRemote(FilesContract):
    def make(self, tmp_path):
        return open_files(f"memory://{uuid.uuid4().hex}/store")

    def test_parts_of_several_files_are_read_at_once(self, files):
        files.write({"a": b"0123456789", "b/c": b"abcdef"})
        parts = [("b/c", -2, None), ("a", 3, 5), ("a", 8, 20), ("b/c", 0, 1)]
        assert files.read_parts(parts) == [b"ef", b"34", b"89", b"a"]
        assert files.read_parts([]) == []
        with pytest.raises(StoreError, match="store/none: can't be read .it is gone."):
            files.read_parts([("a", 0, 1), ("none", 0, 1)])

    def test_an_unknown_protocol_is_an_error(self):
        with pytest.raises(StoreError, match="nope"):
            open_files("nope://bucket/store")
