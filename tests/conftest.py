"""Fixtures that every test may ask for.

shared_data   the folder of real CamVid, COCO and weights; skips with a reason where it is absent
bucket        an empty bucket of an S3 server on this machine, which the environment points at
"""

from __future__ import annotations

import logging
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# Before torch is imported: tests run side by side, and a thread each is fastest for all of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = Path(os.environ.get("STILLROOM_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set STILLROOM_SHARED_DATA to its folder")
    return folder


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


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    import boto3

    for name in [name for name in os.environ if name.startswith(("AWS_", "STILLROOM_SHARD"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",  # boto3's name for it
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    made = Bucket(f"stillroom-{uuid.uuid4().hex[:12]}", s3_endpoint, client)
    client.create_bucket(Bucket=made.name)
    yield made
    client.close()
