"""Stores and proxies that do not keep to what S3 says: what is told apart, what is never lost."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stillroom.storage_specs.errors import StoreUnavailable
from stillroom.storage_specs.files.object_store import store_at
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
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


def test_a_failure_of_416_milliseconds_is_not_the_end_of_a_file(
    bucket: Bucket, proxy: Proxy
) -> None:
    objects = store_at(f"{bucket.url}/c")
    objects.write_whole("416", b"0123456789")

    def fail(request: str, answer: Answer) -> None:
        answer.status = 403

    proxy.spoil = fail
    with pytest.raises(StoreUnavailable):
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
