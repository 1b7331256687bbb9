"""`verify --repair` against a store that answers wrong now and then, and is right about nothing."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from stillroom.cli import main
from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.verify import verify_cache
from stillroom.pipeline.run_file.loading import load_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from object_stores import Answer, Bucket, Proxy

PLACE = "runs/street"


def short(body: bytes) -> bytes:
    return body[: len(body) // 2]


def flipped(body: bytes) -> bytes:
    changed = bytearray(body)
    changed[random.Random(len(body)).randrange(len(body))] ^= 4
    return bytes(changed)


def lie(
    proxy: Proxy, spoil: Callable[[bytes], bytes], times: int, kinds: tuple[str, ...]
) -> Counter[str]:
    """Answer wrong the first so many times that an object of these kinds is fetched."""
    told: Counter[str] = Counter()

    def change(request: str, answer: Answer) -> None:
        place = request.partition("?")[0]
        hit = place.endswith(kinds) or ("c." in kinds and "/c." in place)
        wanted = request.startswith("GET") and hit
        if wanted and answer.status in (200, 206) and answer.body and told[place] < times:
            told[place] += 1
            answer.body = spoil(answer.body)
            answer.headers["Content-Length"] = str(len(answer.body))

    proxy.spoil = change
    return told


@pytest.fixture
def url(run_file: Path, bucket: Bucket) -> str:
    build(load_run(run_file, [f"cache.path={bucket.url}/{PLACE}"]))
    return f"{bucket.url}/{PLACE}"


@pytest.mark.parametrize("spoil", [short, flipped])
@pytest.mark.parametrize(
    "kinds", [("c.",), (".parquet",), ("tiny/zarr.json", "logits/zarr.json"), ("street/zarr.json",)]
)
def test_what_was_read_wrong_once_is_said_and_nothing_is_withdrawn(
    kinds: tuple[str, ...],
    spoil: Callable[[bytes], bytes],
    url: str,
    bucket: Bucket,
    proxy: Proxy,
) -> None:
    before = bucket.objects(PLACE)
    told = lie(proxy, spoil, 1, kinds)
    shown = CliRunner().invoke(main, ["cache", "verify", url, "--repair"])
    assert told
    assert bucket.objects(PLACE) == before
    assert "repair " not in shown.stdout
    if shown.exit_code:  # else the lie was told to a request whose answer is only a hint
        assert "read wrong once, right the second time" in shown.stdout
        assert "nothing that is stored is damaged, and nothing is withdrawn" in shown.stdout
    else:
        assert kinds == (".parquet",)
    assert "complete and sound" in CliRunner().invoke(main, ["cache", "verify", url]).stdout


def test_bytes_that_differ_each_time_are_no_damage(url: str, bucket: Bucket, proxy: Proxy) -> None:
    before, turns = bucket.objects(PLACE), iter(range(10**6))

    def another(body: bytes) -> bytes:
        changed = bytearray(body)
        changed[next(turns) % len(body)] ^= 1
        return bytes(changed)

    lie(proxy, another, 10**6, ("c.",))
    report = verify_cache(url, repair=True)
    assert {fault.kind for fault in report.faults} == {"reading"}
    assert "never twice the same" in report.faults[0].message
    assert report.repaired == []
    assert bucket.objects(PLACE) == before


def test_true_damage_beside_a_lie_is_withdrawn_and_it_alone(
    url: str, bucket: Bucket, proxy: Proxy, run_file: Path
) -> None:
    good = bucket.objects(PLACE)
    bucket.flip(f"{PLACE}/street/tiny/logits/c.1.0.0.0", 100)
    lie(proxy, flipped, 1, ("labels/c.0.0.0",))
    report = verify_cache(url, repair=True)
    assert report.repaired == ["withdrew street/tiny, shard 1"]
    assert {fault.array: fault.kind for fault in report.faults} == {
        "street/tiny/logits": "chunk", "street/labels": "reading",
    }  # fmt: skip
    assert good.keys() - bucket.objects(PLACE).keys() == {"manifest/street/tiny/00001.parquet"}


def test_a_disk_is_read_again_too(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stillroom.storage_specs.files.folder_store import FolderStore

    build(load_run(run_file))
    read, told = FolderStore.read, set()

    def once_wrong(self: Any, path: str, limit: int | None = None) -> bytes:
        content: bytes = read(self, path, limit)
        if "/c." in path and path not in told:
            told.add(path)
            return flipped(content)
        return content

    monkeypatch.setattr(FolderStore, "read", once_wrong)
    report = verify_cache("street.cache", repair=True)
    assert {fault.kind for fault in report.faults} == {"reading"}
    assert len({fault.array for fault in report.faults}) > 10
    assert report.repaired == []
