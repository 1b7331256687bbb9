from __future__ import annotations

import errno
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zarr

from stillroom.storage_specs.codecs.plain import Half, Raw
from stillroom.storage_specs.errors import (
    CacheCorrupt,
    CacheError,
    CacheIncomplete,
    CacheMismatch,
    CacheUnwritable,
    ConfigError,
)
from stillroom.storage_specs.files.durable_files import STAGING
from stillroom.storage_specs.fingerprint import ANY
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.storage_specs.artifact_set import ArtifactSet

    Define = Callable[..., ArtifactSet]

FRAMES = (ArraySpec("frames", (16, 24, 3), Raw()), ArraySpec("labels", (16, 24), Raw()))


def frames_set(cache: Cache, **identity: Any) -> ArtifactSet:
    return cache.define("camvid", "frames", identity, count=10, shard_frames=4, arrays=FRAMES)


def test_creating_twice_opens_what_is_there(tmp_path: Path) -> None:
    made = Cache.create(str(tmp_path / "deep" / "my.cache"))
    before = (made.path / "zarr.json").read_bytes()
    assert Cache.create(made.path) == Cache.open(made.path) == made
    assert (made.path / "zarr.json").read_bytes() == before


def test_creating_sweeps_what_a_killed_writer_left(tmp_path: Path) -> None:
    cache = Cache.create(tmp_path / "c")
    (cache.path / STAGING / "0123456789ab.1.part").write_bytes(b"half")
    Cache.create(cache.path)
    assert list((cache.path / STAGING).iterdir()) == []


def test_no_cache_is_incomplete_and_says_how_to_build_one(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(CacheIncomplete, match="stillroom cache build"):
            Cache.open(path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    for door in (Cache.create, Cache.open):
        with pytest.raises(CacheMismatch, match=r"not a stillroom cache.*holiday\.jpg"):
            door(tmp_path)
    with pytest.raises(CacheMismatch, match="not a stillroom cache"):
        Cache.create(tmp_path / "holiday.jpg")


def test_a_foreign_zarr_group_is_refused(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "z", mode="w")
    for door in (Cache.create, Cache.open):
        with pytest.raises(CacheMismatch, match="not a stillroom cache"):
            door(tmp_path / "z")


def test_another_format_version_is_refused_with_who_wrote_it(tmp_path: Path) -> None:
    cache = Cache.create(tmp_path / "c")
    document = json.loads((cache.path / "zarr.json").read_bytes())
    document["attributes"]["stillroom"].update(format_version=3, created_by="stillroom 9.0")
    (cache.path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(CacheMismatch, match=r"version 3.*reads 1 to 2.*stillroom 9\.0"):
        Cache.open(cache.path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"node_type": "group"}', b"\xff"])
def test_damaged_metadata_of_a_cache_are_named(tmp_path: Path, content: bytes) -> None:
    cache = Cache.create(tmp_path / "c")
    (cache.path / "zarr.json").write_bytes(content)
    with pytest.raises(CacheCorrupt, match=r"zarr\.json is damaged"):
        Cache.open(cache.path)


def test_metadata_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    cache = Cache.create(tmp_path / "c")
    (cache.path / "zarr.json").unlink()
    (cache.path / "zarr.json").mkdir()
    with pytest.raises(CacheError, match="cannot be read: Is a directory"):
        Cache.open(cache.path)


@pytest.mark.parametrize("url", ["ftp://host/my.cache", "s3://", "s3:///my.cache", "s3://b/a//c"])
def test_a_place_of_another_kind_is_refused_with_those_that_there_are(url: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a folder, s3://bucket/prefix"):
        Cache.create(url)


def test_an_unwritable_place_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CacheUnwritable, match="no permission to write"):
        Cache.create(tmp_path / "c")


def test_defining_twice_changes_nothing(tmp_path: Path, define: Define) -> None:
    first = define(tmp_path / "c")
    before = {p: p.read_bytes() for p in Path(first.place).rglob("*.json")}
    second = define(tmp_path / "c", arrays=tuple(reversed(list(first.arrays.values()))))
    assert second.fingerprint == first.fingerprint
    assert {p: p.read_bytes() for p in Path(first.place).rglob("*.json")} == before


def test_a_set_is_found_again_as_it_was_defined(tmp_path: Path, define: Define) -> None:
    made = define(tmp_path / "c")
    found = Cache.open(tmp_path / "c").artifact_set("camvid", "fpn")
    assert found.definition == made.definition
    assert (found.count, found.shard_frames, found.shards) == (10, 4, 3)
    assert found.arrays["logits"].attributes["classes"] == ["sky", "car", "tree"]
    assert [list(found.shard_range(k)) for k in (0, 2)] == [[0, 1, 2, 3], [8, 9]]
    with pytest.raises(ConfigError, match="has shards 0 to 2, not 3"):
        found.shard_range(3)


def test_many_may_define_at_once(tmp_path: Path, define: Define) -> None:
    Cache.create(tmp_path / "c")

    def work(i: int) -> str:
        if i % 2:
            return frames_set(Cache.create(tmp_path / "c")).fingerprint
        return define(tmp_path / "c").fingerprint

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(work, range(24)))) == 2
    assert Cache.open(tmp_path / "c").sets() == [("camvid", "frames"), ("camvid", "fpn")]


def test_frames_and_teachers_of_a_source_may_come_in_either_order(
    tmp_path: Path, define: Define
) -> None:
    define(tmp_path / "a")
    frames_set(Cache.open(tmp_path / "a"))
    frames_set(Cache.create(tmp_path / "b"))
    define(tmp_path / "b")
    files = [
        {p.relative_to(tmp_path / x): p.read_bytes() for p in (tmp_path / x).rglob("*.json")}
        for x in "ab"
    ]
    assert files[0] == files[1]


def test_another_identity_is_refused_naming_each_field(tmp_path: Path, define: Define) -> None:
    made = define(tmp_path / "c")
    other = {
        "teacher": {**made.identity["teacher"], "weights_sha256": "71" * 32, "device": "cuda"},
        "pseudo_label": {"threshold": 0.7},
    }
    with pytest.raises(CacheMismatch) as caught:
        define(tmp_path / "c", identity=other)
    lines = str(caught.value).splitlines()
    assert "'fpn' on 'camvid' was built from something else" in lines[0]
    assert [" ".join(line.split()) for line in lines[1:-1]] == [
        "teacher.weights_sha256 cache 9f9f9f9f9f9f... run 717171717171...",
        "teacher.device cache cpu run cuda",
        'pseudo_label cache (absent) run {"threshold":0.7}',
    ]
    assert "stillroom cache build" in lines[-1]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"count": 11}, "layout.count   cache 10   run 11"),
        ({"shard_frames": 5}, "layout.shard_frames"),
        ({"arrays": (FRAMES[0],)}, None),
        ({"arrays": (ArraySpec("logits", (3, 4, 6), Half()),)}, "layout.arrays.logits.codec.name"),
    ],
)
def test_another_layout_is_refused_naming_each_field(
    tmp_path: Path, define: Define, changes: dict[str, Any], field: str | None
) -> None:
    define(tmp_path / "c")
    with pytest.raises(ConfigError if field is None else CacheMismatch) as caught:
        define(tmp_path / "c", **changes)
    assert (field or "does not belong") in str(caught.value)


def test_a_run_is_held_against_the_identity(tmp_path: Path, define: Define) -> None:
    made = define(tmp_path / "c")
    teacher = made.identity["teacher"]
    made.require(made.identity)
    made.require({**made.identity, "teacher": {**teacher, "device": ANY}})
    with pytest.raises(CacheMismatch, match=r"teacher\.device +cache cpu +run cuda"):
        made.require({**made.identity, "teacher": {**teacher, "device": "cuda"}})


def test_a_fingerprint_follows_what_the_bytes_follow(tmp_path: Path, define: Define) -> None:
    base = define(tmp_path / "a")
    renamed = replace(base.definition, source="elsewhere", name="other")
    assert renamed.fingerprint == base.fingerprint  # a name is not content
    changed = define(tmp_path / "b", identity={"canvas": {"height": 8, "width": 24}})
    assert changed.fingerprint != base.fingerprint
    fewer = define(tmp_path / "c", arrays=[base.arrays["logits"]])
    assert fewer.fingerprint != base.fingerprint
    assert fewer.fingerprints["logits"] == base.fingerprints["logits"]
    assert set(base.fingerprints) == set(base.arrays)


@pytest.mark.parametrize(
    ("source", "name", "says"),
    [
        ("manifest", "fpn", "source name 'manifest' is reserved"),
        ("frames", "fpn", "reserved"),
        ("camvid", "labels", "set name 'labels' is reserved"),
        ("CamVid", "fpn", "use a-z"),
        ("camvid", "../up", "use a-z"),
        ("camvid", "", "use a-z"),
    ],
)
def test_a_name_without_a_place_is_refused(
    tmp_path: Path, source: str, name: str, says: str
) -> None:
    cache = Cache.create(tmp_path / "c")
    with pytest.raises(ConfigError, match=says):
        cache.define(source, name, {}, 1, 1, [ArraySpec("logits", (1, 1, 1), Half())])
    with pytest.raises(ConfigError, match=says):
        cache.artifact_set(source, name)


def test_a_definition_that_makes_no_sense_is_refused(tmp_path: Path, define: Define) -> None:
    logits = ArraySpec("logits", (1, 1, 1), Half())
    for changes, says in (
        ({"count": 0}, "count = 0; at least 1"),
        ({"shard_frames": 0}, "shard_frames = 0"),
        ({"arrays": ()}, "at least one array"),
        ({"arrays": (logits, logits)}, "two arrays would both be stored as camvid/fpn/logits"),
        ({"identity": {"x": float("nan")}}, "identity.x|^x: nan"),
    ):
        with pytest.raises(ConfigError, match=says):
            define(tmp_path / "c", **changes)


def test_a_set_that_is_not_there_is_incomplete_and_lists_those_that_are(
    tmp_path: Path, define: Define
) -> None:
    made = define(tmp_path / "c")
    for source, name in (("camvid", "psp"), ("coco", "fpn"), ("camvid", "frames")):
        with pytest.raises(CacheIncomplete, match="there are: camvid/fpn"):
            Cache(made.place).artifact_set(source, name)


def test_a_changed_definition_on_disk_is_found(tmp_path: Path, define: Define) -> None:
    made = define(tmp_path / "c")
    path = Path(made.place) / "camvid" / "fpn" / "zarr.json"
    good = path.read_text()
    for old, new in (('"cpu"', '"gpu"'), ('"count": 10', '"count": 90'), ("9f9f", "9f9e")):
        assert old in good
        path.write_text(good.replace(old, new))
        with pytest.raises(CacheCorrupt, match="fingerprint does not match"):
            Cache(made.place).artifact_set("camvid", "fpn")
    path.write_text(good.replace('"byte"', '"bite"'))
    with pytest.raises(CacheCorrupt, match="unknown codec"):
        Cache(made.place).artifact_set("camvid", "fpn")


def test_a_definition_cut_off_half_way_is_completed(tmp_path: Path, define: Define) -> None:
    made = define(tmp_path / "c")
    lost = [Path(made.place) / "camvid/fpn" / x for x in ("logits_scale", "features")]
    before = [(path / "zarr.json").read_bytes() for path in lost]
    for path in lost:
        (path / "zarr.json").unlink()
    define(tmp_path / "c")
    assert [(path / "zarr.json").read_bytes() for path in lost] == before


def test_importing_the_store_brings_no_heavy_package() -> None:
    code = (
        "import sys, stillroom.storage_specs.store\n"
        "print([m for m in ('zarr', 'torch', 'ray', 'dask', 'click') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
