"""Object stores: the same operations as a folder's, and what their failures say."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
import uuid
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stillroom.storage_specs.errors import (
    CacheCorrupt,
    CacheIncomplete,
    CacheMismatch,
    CacheUnwritable,
    ConfigError,
    StoreUnavailable,
)
from stillroom.storage_specs.files import remote_store, store_connection
from stillroom.storage_specs.files.object_store import store_at
from stillroom.storage_specs.files.remote_store import RemoteStore
from stillroom.storage_specs.store import Cache
from stillroom.storage_specs.verify import verify_definition, verify_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.files.object_store import ObjectStore

    Define = Callable[..., ArtifactSet]


@pytest.fixture(params=["folder", "memory", "s3", "rclone", "gcs"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return store_at(tmp_path / "files")
    if request.param == "memory":
        return store_at(f"memory://{uuid.uuid4().hex}")
    place = {"s3": "bucket", "rclone": "rclone_bucket", "gcs": "gcs"}[request.param]
    return store_at(request.getfixturevalue(place).url + "/some/prefix")


@pytest.fixture
def remote_set(full_set: Any, bucket: Any, define: Define) -> Any:
    """`full_set` again, in a bucket."""
    made = type(full_set)(define(f"{bucket.url}/my.cache"))
    for shard in range(made.set.shards):
        made.commit(shard)
    return made


def test_every_store_answers_as_a_folder_does(objects: ObjectStore) -> None:
    assert objects.entries() == []
    assert (objects.files("a"), objects.folders("")) == ([], [])
    objects.make()
    assert objects.write_whole("a/b/zarr.json", b"0123456789")
    assert objects.write_whole("a/one", b"")
    assert not objects.write_whole("a/b/zarr.json", b"other", keep=True)
    assert objects.write_whole("a/two", b"first", keep=True)
    assert objects.read("a/b/zarr.json") == b"0123456789"
    file = objects.open("a/b/zarr.json")

    def piece(start: int, length: int) -> bytes:
        return file.read(start, length).tobytes()

    assert piece(2, 3) == b"234"
    assert piece(8, 50) == b"89"
    assert piece(50, 5) == b""
    assert piece(-4, 4) == b"6789"
    assert piece(-40, 40) == b"0123456789"
    first, second = bytearray(2), bytearray(b"....")
    assert file.read_into([memoryview(first), second], 6) == 4
    assert (first, second) == (b"67", b"89..")
    assert set(objects.folders("")) - {"manifest"} == {"a"}  # there a folder has its staging
    assert objects.folders("a") == ["b"]
    before = {file.name: file for file in objects.files("a")}
    assert {name: file.bytes for name, file in before.items()} == {"one": 0, "two": 5}
    assert objects.write_whole("a/two", b"other, longer")
    after = {file.name: file for file in objects.files("a")}
    assert after["one"] == before["one"]
    assert after["two"].signature != before["two"].signature
    assert (objects.exists("a/one"), objects.exists("a"), objects.exists("c")) == (
        True, not objects.remote, False,
    )  # fmt: skip
    assert (objects.remove("a/one"), objects.remove("a/one")) == (True, False)
    for ask in (objects.read, lambda path: objects.open(path).read(0, 1)):
        with pytest.raises(FileNotFoundError):
            ask("a/one")
    assert objects.sweep() == 0


def test_two_caches_of_a_bucket_do_not_see_each_other(bucket: Any) -> None:
    one, other = (store_at(f"{bucket.url}/{name}") for name in ("cache", "cache2"))
    one.write_whole("x/zarr.json", b"1")
    assert (other.entries(), other.folders("")) == ([], [])
    assert store_at(f"{bucket.url}/cache/") == one


def test_a_large_object_is_sent_in_parts_and_is_one_object(bucket: Any) -> None:
    content = np.random.default_rng(0).bytes(2 * remote_store.PART_BYTES + 5)
    store_at(f"{bucket.url}/c").write_whole("big", content)
    assert bucket.objects("c") == {"big": content}


def test_where_a_store_has_no_put_if_absent_the_check_and_the_write_are_two(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore
    from obstore.exceptions import NotSupportedError

    put = obstore.put

    def without_create(*arguments: Any, **options: Any) -> Any:
        if options.pop("mode", None) == "create":
            raise NotSupportedError("no such request here")
        return put(*arguments, **options)

    monkeypatch.setattr(obstore, "put", without_create)
    objects = store_at(f"{bucket.url}/c")
    assert objects.write_whole("zarr.json", b"first", keep=True)
    assert not objects.write_whole("zarr.json", b"second", keep=True)
    assert objects.read("zarr.json") == b"first"


def test_a_set_in_a_bucket_is_byte_for_byte_that_in_a_folder(
    remote_set: Any, full_set: Any, bucket: Any
) -> None:
    assert bucket.objects("my.cache") == full_set.files()
    said, local = remote_set.set, full_set.set
    assert said.committed() == {0, 1, 2}
    assert said.rows().equals(local.rows())
    assert said.sizes() == local.sizes()
    for index in said.usable():
        for artifact in said.arrays:
            assert np.array_equal(said.read(artifact, index), local.read(artifact, index))
    assert Cache(said.place).sets() == [("camvid", "fpn")]
    assert [verify_shard(said, shard) for shard in range(3)] == [[], [], []]
    assert verify_definition(said) == []
    assert said.discard(1)
    assert said.committed() == {0, 2}
    with pytest.raises(CacheIncomplete, match=rf"{bucket.url}/my.cache: frames 4 to 7"):
        said.part(1)


def test_damage_in_a_bucket_is_found_where_it_is_and_a_rebuilt_object_is_read(
    remote_set: Any, bucket: Any
) -> None:
    said, key = remote_set.set, "my.cache/camvid/fpn/logits/c.0.0.0.0"
    sound, content = said.read("logits", 0), bucket.get(key)
    bucket.flip(key, 10)
    with pytest.raises(CacheCorrupt, match=rf"{bucket.url}/.*logits: frame 0 \(shard 0\) is dama"):
        said.read("logits", 0)
    (fault,) = verify_shard(said, 0)
    assert (fault.array, fault.index, fault.kind) == ("camvid/fpn/logits", 0, "chunk")
    # Other chunk lengths: the index that was read before no longer fits.
    bucket.put(key, content)
    assert np.array_equal(said.read("logits", 0), sound)
    bucket.put(key, content[:9] + content[-68:])
    with pytest.raises(CacheCorrupt):
        said.read("logits", 1)
    bucket.client.delete_object(Bucket=bucket.name, Key=key)
    with pytest.raises(CacheCorrupt, match="its object is missing"):
        said.read("logits", 0)


def test_a_bucket_with_something_else_in_it_is_refused(bucket: Any) -> None:
    bucket.put("photos/holiday.jpg", b"")
    for door in (Cache.create, Cache.open):
        with pytest.raises(CacheMismatch, match=rf"{bucket.url}/photos holds .*holiday\.jpg"):
            door(f"{bucket.url}/photos")
    with pytest.raises(CacheIncomplete, match=rf"{bucket.url}/none: there is no cache"):
        Cache.open(f"{bucket.url}/none")


def test_a_pickled_set_connects_anew(remote_set: Any) -> None:
    copy = pickle.loads(pickle.dumps(remote_set.set))
    assert copy.store == remote_set.set.store
    assert np.array_equal(copy.read("logits", 3), remote_set.set.read("logits", 3))


CHILDREN = """
import multiprocessing as mp, os, sys
from stillroom.storage_specs.errors import StillroomError, StoreUnavailable
from stillroom.storage_specs.store import Cache

def read(said, end):
    try:
        end.send(float(said.read("logits", 3).sum()))
    except StoreUnavailable as error:
        end.send(str(error))
        return
    end.send(sorted(said.committed()))
    end.send([said.store.write_whole(f"by/{os.getpid()}", b"x" * 9, keep=True),
              said.store.remove(f"by/{os.getpid()}"), said.store.exists("by")])
    try:
        Cache(said.place).artifact_set("camvid", "nobody")
    except StillroomError as error:
        end.send(type(error).__name__)

def answers(method, said, count):
    context = mp.get_context(method)
    ours, theirs = context.Pipe()
    child = context.Process(target=read, args=(said, theirs), daemon=True)
    child.start()
    theirs.close()
    assert ours.poll(100), method
    found = [ours.recv() for _ in range(count)]
    child.join(60)
    assert child.exitcode == 0, (method, child.exitcode)
    return found

if __name__ == "__main__":
    said = Cache.open(sys.argv[1]).artifact_set("camvid", "fpn")
    expected = float(said.read("logits", 3).sum())
    assert answers("spawn", said, 4) == [
        expected, [0, 1, 2], [True, True, False], "CacheIncomplete"]
    (refusal,) = answers("fork", said, 1)
    assert float(said.read("logits", 3).sum()) == expected
    print(refusal)
"""


def test_a_spawned_child_reads_what_its_parent_has_read_and_a_forked_one_is_told_what_to_do(
    remote_set: Any, tmp_path: Path
) -> None:
    script = tmp_path / "children.py"
    script.write_text(CHILDREN)
    done = subprocess.run(
        [sys.executable, str(script), remote_set.set.place],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert 'use threads, or start processes with multiprocessing_context="spawn"' in done.stdout


def test_what_memory_holds_is_not_there_in_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = RemoteStore("memory://here")
    objects.write_whole("a", b"1")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(StoreUnavailable, match="memory://here: lives in the process"):
        objects.read("a")


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch, bucket: Any) -> Iterator[Callable[[int, str], None]]:
    """`answering(status, body)`: every request gets this from now on."""
    said: list[tuple[int, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            status, body = said[-1]
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body.encode())

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def answer(status: int, body: str) -> None:
            said.append((status, body))
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")

        yield answer
        server.shutdown()


def test_a_store_that_refuses_says_which_rights_are_wanted(
    answering: Callable[[int, str], None],
) -> None:
    answering(403, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
    url = "s3://theirs/my.cache"
    with pytest.raises(StoreUnavailable, match=r"(?s)no permission to read.*403.*s3:GetObject"):
        Cache.open(url)
    with pytest.raises(CacheUnwritable, match=r"no permission to write.*AWS_ACCESS_KEY_ID"):
        store_at(url).write_whole("zarr.json", b"")
    with pytest.raises(StoreUnavailable, match="no permission"):
        store_at(url).files("manifest")


def test_a_bucket_that_is_not_there_is_named(bucket: Any) -> None:
    url = "s3://no-such-bucket/my.cache"
    for door in (Cache.open, Cache.create):
        with pytest.raises(
            StoreUnavailable, match=r"no bucket 'no-such-bucket' at http.*create it"
        ):
            door(url)


def test_plain_http_has_to_be_asked_for(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(StoreUnavailable, match="set AWS_ALLOW_HTTP=true"):
        Cache.open(f"{bucket.url}/c")


@pytest.mark.parametrize("listens", [False, True])
def test_an_endpoint_that_does_not_answer_is_given_up(
    listens: bool, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = timedelta(milliseconds=300)
    monkeypatch.setattr(store_connection, "TIMEOUTS", {"connect_timeout": short, "timeout": short})
    monkeypatch.setitem(store_connection.RETRIES, "retry_timeout", timedelta(seconds=1))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if listens:  # and accepts, and says nothing
            taken.listen()
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(StoreUnavailable, match=rf"{address} does not answer.*AWS_ENDPOINT_URL"):
            Cache.open(f"{bucket.url}/c")


def test_the_bounds_on_a_request_are_seconds_and_few_tries() -> None:
    worst = store_connection.RETRIES["retry_timeout"] + store_connection.TIMEOUTS["timeout"]
    assert worst < timedelta(seconds=90)


def test_a_store_out_of_reach_is_not_taken_for_damage_or_for_what_is_missing(
    remote_set: Any, answering: Callable[[int, str], None], bucket: Any
) -> None:
    before = bucket.objects("my.cache")
    answering(403, "<Error><Code>AccessDenied</Code></Error>")
    said = Cache(remote_set.set.place)
    fresh = type(remote_set.set)(said.store, remote_set.set.definition)
    for ask in (
        fresh.committed,
        lambda: verify_shard(fresh, 0),
        lambda: verify_definition(fresh),
        said.sets,
        lambda: fresh.read("logits", 0),
        lambda: type(remote_set)(fresh).commit(0),
    ):
        with pytest.raises((StoreUnavailable, CacheUnwritable)):
            ask()
    assert bucket.objects("my.cache") == before


def test_without_obstore_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigError, match=r"s3://b/c.*pip install obstore"):
        Cache.open("s3://b/c")
