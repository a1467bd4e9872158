"""An S3 server (moto) in this process that records requests and fails them on demand."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SLOW_DOWN = (
    b'<?xml version="1.0"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)


class Request(NamedTuple):
    """A request that the server received."""

    method: str
    path: str
    range: str | None


class S3:
    """A server: its address, the requests it received, and which requests fail."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *_: Any) -> None: ...

        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet
        )
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self.requests: list[Request] = []
        self.fails: Callable[[int, Request], str | None] = lambda number, request: None
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextlib.contextmanager
    def failing(self, fails: Callable[[int, Request], str | None]) -> Iterator[None]:
        """Make requests, numbered from 0, fail by "503" or "cut" inside the block; None passes."""
        self.requests.clear()
        self.fails = fails
        try:
            yield
        finally:
            self.fails = lambda number, request: None

    def take_requests(self) -> list[Request]:
        """Return the requests since the last call."""
        requests, self.requests = self.requests, []
        return requests

    def _answer(self, environ: dict[str, Any], start: Any) -> Any:
        request = Request(
            environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE")
        )
        self.requests.append(request)
        fault = self.fails(len(self.requests) - 1, request)
        if fault is None:
            return self._moto(environ, start)
        if fault == "cut":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError  # no answer is sent
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start("503 Slow Down", [("Content-Type", "application/xml")])
        return [SLOW_DOWN]


@contextlib.contextmanager
def serve(patch: pytest.MonkeyPatch) -> Iterator[S3]:
    """Start the server, and set an environment in which S3 exists only there."""
    import s3fs

    server = S3()
    for name in list(os.environ):
        if name.startswith("AWS_"):
            patch.delenv(name)
    patch.setenv("AWS_ENDPOINT_URL", server.address)
    patch.setenv("AWS_ACCESS_KEY_ID", "key")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_CONFIG_FILE", os.devnull)
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    patch.setenv("AWS_MAX_ATTEMPTS", "1")
    forkserver._forkserver._stop()  # one of earlier tests lacks these variables
    patch.setattr(s3fs.S3FileSystem, "retries", 1)  # fast, and shows our own retries
    s3fs.S3FileSystem.clear_instance_cache()  # instances keep the address
    try:
        yield server
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.close()


def upload(folder: Path, url: str) -> None:
    """Upload a folder, then give its files the modification times that the objects have."""
    from fsspec.core import url_to_fs

    system, root = url_to_fs(url)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            system.pipe_file(f"{root}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    system.invalidate_cache()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file():
            info = system.info(f"{root}/{path.relative_to(folder).as_posix()}")
            time = int((info.get("LastModified") or info["created"]).timestamp()) * 10**9
        else:
            time = max((inside.stat().st_mtime_ns for inside in path.iterdir()), default=0)
        os.utime(path, ns=(time, time))


def download(url: str, folder: Path) -> Path:
    """Download all files below a URL into a folder."""
    from fsspec.core import url_to_fs

    system, root = url_to_fs(url)
    for key in system.find(root):
        path = folder / key[len(root) + 1 :]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(system.cat_file(key))
    return folder
