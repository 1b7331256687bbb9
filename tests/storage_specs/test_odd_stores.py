"""Stores and proxies that do not keep to what S3 says: what is told apart, what is never lost."""

from __future__ import annotations

import gzip
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stillroom.storage_specs.codecs.quantised import Byte
from stillroom.storage_specs.errors import CacheUnwritable, ConfigError, StoreUnavailable
from stillroom.storage_specs.files import remote_store
from stillroom.storage_specs.files.folder_store import FolderStore
from stillroom.storage_specs.files.object_store import store_at
from stillroom.storage_specs.files.store_connection import RETRIES
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from pathlib import Path

    from object_stores import Answer, Bucket, Proxy

CONDITION = "if-none-match"
TWO_BUILDERS = "One build at a time of this cache is safe"


def test_a_store_that_ignores_the_condition_keeps_what_is_there_and_is_told_of(
    bucket: Bucket, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    Cache.create(f"{bucket.url}/sound")
    assert TWO_BUILDERS not in caplog.text
    proxy.dropped = {CONDITION}
    Cache.create(f"{bucket.url}/c")
    assert f"{bucket.url}/c" in caplog.text
    assert TWO_BUILDERS in caplog.text
    objects = store_at(f"{bucket.url}/c")
    assert objects.write_whole("a/zarr.json", b"first", keep=True)
    assert not objects.write_whole("a/zarr.json", b"second", keep=True)
    assert objects.read("a/zarr.json") == b"first"
    assert set(bucket.objects("c")) == {"zarr.json", "a/zarr.json"}  # of the probe nothing stays


def test_rclones_server_is_told_apart(
    rclone_bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    Cache.create(f"{rclone_bucket.url}/c")
    assert TWO_BUILDERS in caplog.text  # should it learn the condition: turn this round
    assert set(rclone_bucket.objects("c")) == {"zarr.json"}


@pytest.mark.parametrize("status", [400, 501])
def test_a_store_that_has_no_condition_is_asked_without(
    status: int, bucket: Bucket, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(request: str, answer: Answer) -> None:
        if request.startswith("PUT") and answer.headers.pop("x-refused", ""):
            answer.status = status
            answer.body = b"<Error><Code>NotImplemented</Code><Message>no</Message></Error>"
            answer.headers["Content-Length"] = str(len(answer.body))

    proxy.spoil = refuse
    proxy.refused = CONDITION
    Cache.create(f"{bucket.url}/c")
    assert TWO_BUILDERS in caplog.text
    assert set(bucket.objects("c")) == {"zarr.json"}


def test_a_conflict_that_leaves_nothing_behind_is_tried_again(bucket: Bucket, proxy: Proxy) -> None:
    conflicts = [409, 409]

    def conflict(request: str, answer: Answer) -> None:
        if request.startswith("PUT") and conflicts:
            answer.status = conflicts.pop()
            bucket.client.delete_object(Bucket=bucket.name, Key="c/a")

    proxy.spoil = conflict
    objects = store_at(f"{bucket.url}/c")
    assert objects.write_whole("a", b"1", keep=True)
    assert bucket.objects("c") == {"a": b"1"}
    conflicts += [409] * 9
    bucket.client.delete_object(Bucket=bucket.name, Key="c/a")
    with pytest.raises(StoreUnavailable, match="refuses to put it and says that it is not there"):
        objects.write_whole("a", b"1", keep=True)


def test_a_whole_object_for_an_answer_to_a_range_is_cut(
    bucket: Bucket, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    objects = store_at(f"{bucket.url}/c")
    objects.write_whole("a", b"0123456789")
    proxy.dropped = {"range"}
    file = objects.open("a")
    assert file.read(0, 10).tobytes() == b"0123456789"
    assert caplog.text == ""  # it was asked for all
    for (start, length), right in {
        (2, 3): b"234", (8, 50): b"89", (50, 5): b"", (-4, 4): b"6789", (-40, 40): b"0123456789",
    }.items():  # fmt: skip
        assert file.read(start, length).tobytes() == right
    assert caplog.text.count("each frame costs a whole shard; set STILLROOM_SHARD_CACHE") == 1
    with pytest.raises(FileNotFoundError):
        objects.open("none").read(2, 3)


@pytest.mark.parametrize("dropped", [set(), {"range"}])
def test_a_set_is_read_alike_whatever_a_store_makes_of_ranges(
    dropped: set[str], full_set: Any, define: Any, bucket: Bucket, proxy: Proxy
) -> None:
    made = type(full_set)(define(f"{bucket.url}/my.cache"))
    for shard in range(made.set.shards):
        made.commit(shard)
    proxy.dropped = dropped
    for index in full_set.set.usable():
        for artifact in full_set.set.arrays:
            right = full_set.set.read(artifact, index)
            assert np.array_equal(made.set.read(artifact, index), right)


def test_a_failure_beside_the_number_416_is_not_the_end_of_a_file(
    bucket: Bucket, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RETRIES["backoff"], "init_backoff", timedelta(milliseconds=1))
    objects = store_at(f"{bucket.url}/c")
    objects.write_whole("416", b"0123456789")

    def fail(request: str, answer: Answer) -> None:
        answer.status = 500

    proxy.spoil = fail
    with pytest.raises(StoreUnavailable, match="answered 500"):
        objects.open("416").read(2, 3)


def test_a_proxy_that_compresses_bodies_is_not_taken_for_damage(
    bucket: Bucket, proxy: Proxy
) -> None:
    objects = store_at(f"{bucket.url}/c")
    objects.write_whole("a", b"0123456789")

    def compress(request: str, answer: Answer) -> None:
        if request.startswith("GET"):
            answer.body = gzip.compress(answer.body)
            answer.headers |= {
                "Content-Encoding": "gzip", "Content-Length": str(len(answer.body)),
            }  # fmt: skip

    proxy.spoil = compress
    with pytest.raises(StoreUnavailable, match="in the encoding 'gzip': a proxy compresses"):
        objects.read("a")


@pytest.mark.parametrize("name", ["ä", "100%41", "%2F", "+", "a=b&c", "~a!"])
@pytest.mark.parametrize("store", ["bucket", "rclone_bucket", "gcs"])
def test_a_prefix_of_any_characters_is_one_place(
    store: str, name: str, request: pytest.FixtureRequest
) -> None:
    objects = store_at(f"{request.getfixturevalue(store).url}/{name}")
    objects.write_whole("x/zarr.json", b"1")
    assert (objects.entries(), objects.folders("")) == (["x"], ["x"])
    assert [file.name for file in objects.files("x")] == ["zarr.json"]
    assert objects.read("x/zarr.json") == b"1"


def error(code: str, message: str) -> bytes:
    inner = f"<Code>{code}</Code>\n<Message>{message}</Message>"
    return f"<?xml version='1.0'?>\n<Error>\n{inner}\n</Error>".encode()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (
            503,
            error("SlowDown", "Reduce your\n connection rate"),
            "503 Service Unavailable, SlowDown: Reduce your connection rate (asked 5 times in ",
        ),
        (
            500,
            b'{"error": {"code": 500, "message": "the \\"disk\\" is gone"}}',
            'answered 500 Internal Server Error, the \\"disk\\" is gone (asked 5 times in ',
        ),
        (429, b"too many", "answered 429 Too Many Requests, too many (asked 5 times in "),
        (502, b"", "answered 502 Bad Gateway (asked 5 times in "),
        (400, error("EntityTooLarge", "4 GB"), "answered 400 Bad Request, EntityTooLarge: 4 GB;"),
    ],
)
@pytest.mark.parametrize("request_kind", ["GET", "PUT", "LIST"])
def test_a_failure_says_what_the_server_answered(
    request_kind: str,
    status: int,
    body: bytes,
    said: str,
    bucket: Bucket,
    proxy: Proxy,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(RETRIES["backoff"], "max_backoff", timedelta(milliseconds=10))
    monkeypatch.setitem(RETRIES["backoff"], "init_backoff", timedelta(milliseconds=1))
    objects = store_at(f"{bucket.url}/c")

    def fail(request: str, answer: Answer) -> None:
        answer.status, answer.body = status, body
        answer.headers["Content-Length"] = str(len(body))

    proxy.spoil = fail
    ask = {
        "GET": lambda: objects.read("a"),
        "PUT": lambda: objects.write_whole("a", b"1"),
        "LIST": lambda: objects.files("a"),
    }
    with pytest.raises(StoreUnavailable) as raised:
        ask[request_kind]()
    assert said in str(raised.value)
    assert "does not answer" not in str(raised.value)
    if "asked" in said:
        assert said in caplog.text
        assert f"{bucket.url}/c/a: given up: " in caplog.text


@pytest.mark.parametrize(
    ("status", "code", "kind", "todo"),
    [
        (403, "RequestTimeTooSkewed", StoreUnavailable, "this machine's clock is not the store's"),
        (405, "MethodNotAllowed", CacheUnwritable, "takes no writes here"),
        (403, "AccessDenied", CacheUnwritable, "no permission to write"),
    ],
)
def test_a_write_that_is_refused_says_what_to_change(
    status: int, code: str, kind: type[Exception], todo: str, bucket: Bucket, proxy: Proxy
) -> None:
    def refuse(request: str, answer: Answer) -> None:
        if request.startswith("PUT"):
            answer.status, answer.body = status, error(code, "no")
            answer.headers["Content-Length"] = str(len(answer.body))

    proxy.spoil = refuse
    for write in (
        lambda: store_at(f"{bucket.url}/c").write_whole("a", b"1"),
        lambda: Cache.create(f"{bucket.url}/new"),
    ):
        with pytest.raises(kind, match=f"{todo}.*{code}: no"):
            write()


def test_an_upload_that_fails_in_an_answer_of_200_is_no_success(
    bucket: Bucket, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_store, "PART_BYTES", 5 * 1024 * 1024)

    def fail(request: str, answer: Answer) -> None:
        if request.startswith("POST") and "uploadId" in request:
            answer.body = error("InternalError", "try again")
            answer.headers["Content-Length"] = str(len(answer.body))

    proxy.spoil = fail
    with pytest.raises(StoreUnavailable):
        store_at(f"{bucket.url}/c").write_whole("a", bytes(6 * 1024 * 1024))


def test_what_a_store_does_not_delete_is_not_said_to_be_gone(bucket: Bucket, proxy: Proxy) -> None:
    objects = store_at(f"{bucket.url}/c")
    objects.write_whole("a", b"1")

    def restore(request: str, answer: Answer) -> None:
        if "delete" in request or request.startswith("DELETE"):
            bucket.put("c/a", b"1")

    proxy.spoil = restore
    with pytest.raises(CacheUnwritable, match="c/a: the store says that it deleted it, and has it"):
        objects.remove("a")


def test_a_store_without_etags_on_reading_is_read(bucket: Bucket, proxy: Proxy) -> None:
    objects = store_at(f"{bucket.url}/c")
    objects.write_whole("x/a", b"0123456789")

    def drop(request: str, answer: Answer) -> None:
        answer.headers.pop("ETag", None)
        answer.body = re.sub(rb"<ETag>.*?</ETag>", b"", answer.body)
        if not request.startswith("HEAD"):
            answer.headers["Content-Length"] = str(len(answer.body))

    proxy.spoil = drop
    assert objects.read("x/a") == b"0123456789"
    assert objects.open("x/a").read(2, 3).tobytes() == b"234"
    assert (objects.exists("x/a"), objects.files("x")[0].bytes) == (True, 10)
    with pytest.raises(StoreUnavailable, match="ETag"):
        objects.write_whole("x/a", b"1")


def test_a_listing_that_lags_costs_work_and_nothing_else(
    full_set: Any, define: Any, bucket: Bucket, proxy: Proxy
) -> None:
    made = type(full_set)(define(f"{bucket.url}/my.cache"))
    for shard in range(made.set.shards):
        made.commit(shard)
    before = bucket.objects("my.cache")

    def lag(request: str, answer: Answer) -> None:
        if "list-type" in request:
            answer.body = re.sub(
                rb"<Contents><Key>[^<]*00001.parquet.*?</Contents>", b"", answer.body, flags=re.S
            )
            answer.headers["Content-Length"] = str(len(answer.body))

    proxy.spoil = lag
    fresh = Cache.open(f"{bucket.url}/my.cache").artifact_set("camvid", "fpn")
    assert fresh.committed() == {0, 2}
    type(full_set)(fresh).commit(1)  # looks at the part itself, and leaves it
    assert bucket.objects("my.cache") == before
    proxy.spoil = lambda request, answer: None
    bucket.client.delete_object(
        Bucket=bucket.name, Key="my.cache/manifest/camvid/fpn/00002.parquet"
    )
    assert fresh.committed() == {0, 1}


def test_a_lookup_that_is_forbidden_is_not_taken_for_absence(bucket: Bucket, proxy: Proxy) -> None:
    def refuse(request: str, answer: Answer) -> None:
        if request.startswith("HEAD"):
            answer.status = 403

    objects = store_at(f"{bucket.url}/c")
    objects.write_whole("a", b"first")
    proxy.spoil = refuse
    with pytest.raises(StoreUnavailable, match="no permission to read"):
        objects.write_whole("a", b"second", keep=True)
    assert bucket.objects("c") == {"a": b"first"}


@pytest.mark.parametrize("lie", ["logits/c.1", "00001.parquet"])
def test_a_committed_shard_is_not_withdrawn_for_one_wrong_answer(
    lie: str, full_set: Any, define: Any, bucket: Bucket, proxy: Proxy
) -> None:
    made = type(full_set)(define(f"{bucket.url}/my.cache"))
    for shard in range(made.set.shards):
        made.commit(shard)
    before, told = bucket.objects("my.cache"), []

    def once(request: str, answer: Answer) -> None:
        if request.startswith("GET") and lie in request and not told:
            told.append(request)
            answer.body = answer.body[:-9] + bytes(9)

    proxy.spoil = once
    proxy.asked.clear()
    made.commit(1)
    assert told
    assert proxy.asked_for("delete") == 0
    assert bucket.objects("my.cache") == before


def test_layers_that_are_one_file_on_a_disk_without_cases_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [ArraySpec(f"features/{name}", (3, 6, 7), Byte()) for name in ("Conv", "conv")]
    Cache.create(tmp_path / "c").define("garden", "fpn", {}, 3, 2, specs)  # here they are two
    exists = FolderStore.exists
    lowered = lambda self, path: exists(self, path.lower())  # noqa: E731
    monkeypatch.setattr(FolderStore, "exists", lowered)
    with pytest.raises(ConfigError, match="takes it for garden/fpn/features/Conv"):
        Cache.create(tmp_path / "d").define("garden", "fpn", {}, 3, 2, specs)
    Cache.create(tmp_path / "d").define("garden", "fpn", {}, 3, 2, specs[:1])


@pytest.mark.parametrize("store", ["bucket", "gcs"])
def test_a_folder_that_a_console_made_is_no_file(
    store: str, request: pytest.FixtureRequest
) -> None:
    place = request.getfixturevalue(store)
    if store == "bucket":
        place.put("c/", b"")
    else:
        place.held["c/"] = b""
    objects = store_at(f"{place.url}/c")
    assert (objects.entries(), objects.files("")) == ([], [])
    assert Cache.create(f"{place.url}/c").sets() == []
