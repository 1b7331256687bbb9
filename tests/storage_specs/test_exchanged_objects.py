"""Objects that are sound and in the wrong place, and sets that are built again under a reader."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stillroom.storage_specs.codecs.quantised import Byte
from stillroom.storage_specs.errors import CacheCorrupt, CacheIncomplete
from stillroom.storage_specs.files.ranged_file import HeldBytes
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.manifest import FrameRow, entry_of
from stillroom.storage_specs.shards import object_checks
from stillroom.storage_specs.shards.object_checks import Watch
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stillroom.storage_specs.artifact_set import ArtifactSet

FRAMES = 8
PLAIN = (ArraySpec("logits", (3, 4, 6), Byte(), {"name": "none"}, {"stride": 4}),)


def opened(target: ArtifactSet) -> ArtifactSet:
    return Cache.open(target.place).artifact_set("camvid", "fpn")


def exchange(one: Path, other: Path) -> None:
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def paths_of(target: ArtifactSet) -> Iterator[tuple[str, Path, Path]]:
    """Each stored array's artifact, and its objects of shards 0 and 1."""
    for spec in target.definition.arrays:
        for stored in target.definition.stored(spec):
            files = [Path(target.place) / stored.object_path(shard) for shard in (0, 1)]
            yield spec.artifact, files[0], files[1]


def test_an_object_in_anothers_place_is_not_believed(full_set: Any) -> None:
    """Sizes tell where chunks are compressed; a watched set's sha256 tells of every array."""
    told_by_size = 0
    for artifact, one, other in paths_of(full_set.set):
        exchange(one, other)
        if one.stat().st_size != other.stat().st_size:
            told_by_size += 1
            with pytest.raises(CacheCorrupt, match=r"holds [\d,]+ bytes, and [\d,]+ were"):
                opened(full_set.set).read(artifact, 0)
        watched = opened(full_set.set)
        watched.watch()
        with pytest.raises(CacheCorrupt, match=r"shard 0 is damaged.*cache verify --repair"):
            watched.read(artifact, 0)
        exchange(one, other)
        watched = opened(full_set.set)
        watched.watch()
        np.testing.assert_array_equal(
            watched.read(artifact, 0), opened(full_set.set).read(artifact, 0)
        )
    assert told_by_size >= 2


def build(place: Path, scale: float, shards: tuple[int, ...] = (0, 1)) -> ArtifactSet:
    """Two shards of frames, all of the same size on disk whatever the scale."""
    target = Cache.create(place).define(
        "camvid", "fpn", {}, count=FRAMES, shard_frames=4, arrays=PLAIN
    )
    for shard in shards:
        target.discard(shard)
        writer = target.writer(shard)
        for index in target.shard_range(shard):
            logits = np.random.default_rng(index).normal(0, 9, (3, 4, 6)) * scale
            row = FrameRow(index, f"{index}", valid_height=16, valid_width=24)
            writer.put(row, {"logits": logits.astype(np.float32)})
        writer.commit()
    return target


@pytest.mark.parametrize("read_before", [(), (0,), (0, 1, 2, 3)])
def test_an_open_reader_gives_what_is_there_after_a_rebuild(
    tmp_path: Path, read_before: tuple[int, ...]
) -> None:
    reader = build(tmp_path / "a.cache", 1.0)
    for index in read_before:
        reader.read("logits", index)
    build(tmp_path / "a.cache", 100.0)
    for index in range(FRAMES):
        np.testing.assert_array_equal(
            reader.read("logits", index), opened(reader).read("logits", index)
        )


def test_a_side_that_was_read_before_a_rebuild_is_not_used_after_it(tmp_path: Path) -> None:
    """The side first and the values later, of which this reader knows nothing yet."""
    reader = build(tmp_path / "a.cache", 1.0)
    inner = reader._readers["logits"]
    inner.side(0, 0, 4)
    build(tmp_path / "a.cache", 100.0)
    np.testing.assert_array_equal(reader.read("logits", 0), opened(reader).read("logits", 0))


def test_a_shard_that_was_withdrawn_under_a_reader_is_said_to_be_missing(tmp_path: Path) -> None:
    reader = build(tmp_path / "a.cache", 1.0)
    reader.read("logits", 0)
    other = opened(reader)
    build(tmp_path / "a.cache", 100.0)
    other.discard(0)
    with pytest.raises(CacheIncomplete, match="frames 0 to 3 of camvid are not in 'fpn'"):
        reader.read("logits", 0)


def test_a_side_that_was_read_just_before_another_thread_met_the_rebuild_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = build(tmp_path / "a.cache", 1.0)
    *_, inner = reader._readers["logits"]._side_readers.values()
    whole, calls = inner.whole, []

    def read_and_be_overtaken(shard: int, frames: int) -> Any:
        found = whole(shard, frames)
        calls.append(shard)
        if len(calls) == 1:
            build(tmp_path / "a.cache", 100.0)
            reader._parts.renew(shard, reader._forget)
        return found

    monkeypatch.setattr(inner, "whole", read_and_be_overtaken)
    found = reader.read("logits", 1)
    np.testing.assert_array_equal(found, opened(reader).read("logits", 1))
    assert len(calls) == 2


def test_a_rebuild_is_not_old_news_before_what_was_read_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = build(tmp_path / "a.cache", 1.0)
    reader.read("logits", 1)
    build(tmp_path / "a.cache", 100.0)
    forget, between = reader._forget, []

    def let_another_read_first(shard: int) -> None:
        if not between:
            between.append(None)
            between.append(reader.read("logits", 1).copy())
        forget(shard)

    monkeypatch.setattr(reader, "_forget", let_another_read_first)
    reader.read("logits", 1)
    np.testing.assert_array_equal(between[1], opened(reader).read("logits", 1))


def test_threads_that_read_while_shards_are_built_again_never_see_a_mixture(
    tmp_path: Path,
) -> None:
    scales = [1.0, 100.0, 0.01, 30.0]
    whole = {s: build(tmp_path / f"{s}.cache", s).read("logits", 1).copy() for s in scales}
    reader = build(tmp_path / "a.cache", 1.0)
    stop, mixed, reads = threading.Event(), [], []

    def read() -> None:
        while not stop.is_set():
            try:
                found = reader.read("logits", 1)
            except CacheIncomplete:  # just now
                continue
            reads.append(1)
            if not any(np.array_equal(found, one) for one in whole.values()):
                mixed.append(found)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for scale in scales * 6:
        build(tmp_path / "a.cache", scale, shards=(0,))
    stop.set()
    for thread in threads:
        thread.join()
    assert reads
    assert not mixed


def test_what_there_is_no_time_for_is_compared_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(object_checks.time, "monotonic", lambda: now)
    watch = Watch(share=0.01, at_once=0.0)
    watch.add(HeldBytes(b"right"), entry_of(b"right"), "one")
    watch.add(HeldBytes(b"wrong"), entry_of(b"right"), "two")
    watch.go_on()
    now = 1.0
    with pytest.raises(CacheCorrupt, match="two is damaged: it holds other bytes"):
        watch.go_on()
    watch.go_on()
