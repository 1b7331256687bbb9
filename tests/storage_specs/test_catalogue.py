"""The catalogue: the same answers as the parts give, for one read instead of many."""

from __future__ import annotations

import gc
import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from stillroom.storage_specs import catalogue
from stillroom.storage_specs.codecs.quantised import Unit
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.manifest import FrameRow, ShardPart
from stillroom.storage_specs.parts import Parts
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from stillroom.storage_specs.artifact_set import ArtifactSet

SHARDS = 6
FILE = "manifest/garden/fpn.catalogue"


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactSet:
    """A set of six shards of two frames, shard 3 not committed, frame 4 bad; few are many here."""
    monkeypatch.setattr(catalogue, "WORTH_SAVING", 2)
    spec = ArraySpec("confidence", (2, 3), Unit())
    target = Cache.create(tmp_path / "a.cache").define("garden", "fpn", {}, 11, 2, [spec])
    for shard in range(SHARDS):
        if shard != 3:
            commit(target, shard)
    return target


def commit(target: ArtifactSet, shard: int, value: float = 0.5) -> None:
    writer = target.writer(shard)
    for index in target.shard_range(shard):
        if index == 4:
            writer.bad(FrameRow(index, f"{index}", status="bad", reason="torn"))
        else:
            writer.put(
                FrameRow(index, f"{index}", confidence=value),
                {"confidence": np.full((2, 3), value, np.float32)},
            )
    writer.commit()


def opened(target: ArtifactSet) -> ArtifactSet:
    return Cache.open(target.place).artifact_set("garden", "fpn")


def parts_read(target: ArtifactSet, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The shards whose parts are read from now on."""
    read: list[int] = []
    part = Parts.read

    def counted(self: Parts, shard: int) -> object:
        read.append(shard)
        return part(self, shard)

    monkeypatch.setattr(Parts, "read", counted)
    return read


def check_same(target: ArtifactSet) -> None:
    """A fresh look through the catalogue tells what the parts tell."""
    with_it = opened(target)
    place = Path(target.place) / FILE
    hidden = place.rename(place.with_suffix(".away"))
    without = opened(target)
    assert with_it.committed() == without.committed()
    assert with_it.rows().to_pylist() == without.rows().to_pylist()
    assert with_it.usable().tolist() == without.usable().tolist()
    assert with_it.sizes() == without.sizes()
    assert with_it.fidelity() == without.fidelity()
    hidden.rename(place)


def test_it_tells_what_the_parts_tell_without_reading_them(
    built: ArtifactSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert built.save_catalogue()
    assert not built.save_catalogue()  # nothing new
    check_same(built)
    read = parts_read(built, monkeypatch)
    fresh = opened(built)
    assert fresh.committed() == {0, 1, 2, 4, 5}
    assert fresh.usable().tolist() == [0, 1, 2, 3, 5, 8, 9, 10]
    assert fresh.rows()["reason"].to_pylist()[4] == "torn"
    assert fresh.fidelity()["confidence"]["largest_error"] < 1 / 255
    assert read == []


def test_shards_that_were_committed_withdrawn_or_made_again_since_are_read_themselves(
    built: ArtifactSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    built.save_catalogue()
    commit(built, 3)
    built.discard(0)
    built.discard(5)
    commit(built, 5, value=0.75)
    read = parts_read(built, monkeypatch)
    fresh = opened(built)
    assert fresh.committed() == {1, 2, 3, 4, 5}
    assert sorted(read) == [3, 5]
    assert fresh.rows()["index"].to_pylist() == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert fresh.rows()["confidence"].to_pylist()[-1] == 0.75
    check_same(built)


def test_one_reader_sees_what_another_writer_does(built: ArtifactSet) -> None:
    built.save_catalogue()
    reader = opened(built)
    assert 3 not in reader.committed()
    commit(built, 3)
    built.discard(1)
    assert reader.committed() == {0, 2, 3, 4, 5}
    assert reader.rows()["index"].to_pylist() == [0, 1, 4, 5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_a_damaged_one_counts_as_none(built: ArtifactSet, damage: str) -> None:
    built.save_catalogue()
    place = Path(built.place) / FILE
    content = bytearray(place.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
    changed = {"flip": content, "cut": content[:-40], "empty": b"", "other": b"PAR1" * 30}[damage]
    place.write_bytes(changed)
    check_same(built)


def test_that_of_another_definition_is_not_believed(built: ArtifactSet) -> None:
    built.save_catalogue()
    other = Cache.create(Path(built.place).parent / "b.cache").define(
        "garden", "fpn", {"teacher": "other"}, 11, 2, list(built.definition.arrays)
    )
    for shard in (0, 1, 2):
        commit(other, shard, value=0.25)
        place = f"manifest/garden/fpn/{shard:05d}.parquet"
        times = (Path(built.place) / place).stat()
        os.utime(Path(other.place) / place, ns=(times.st_atime_ns, times.st_mtime_ns))
    content = (Path(built.place) / FILE).read_bytes()
    (Path(other.place) / FILE).write_bytes(content)
    assert set(opened(other).rows()["confidence"].to_pylist()) == {0.25, None}


def test_small_sets_have_none(built: ArtifactSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "WORTH_SAVING", 128)
    assert not built.save_catalogue()
    assert not (Path(built.place) / FILE).exists()


def test_parts_are_read_and_forgotten_a_few_at_a_time(
    built: ArtifactSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "READ_TOGETHER", 2)
    read: list[int] = []
    alive: list[int] = []
    parts: weakref.WeakSet[ShardPart] = weakref.WeakSet()
    part = Parts.read

    def watched(self: Parts, shard: int) -> ShardPart:
        gc.collect()
        alive.append(len(parts))
        found = part(self, shard)
        parts.add(found)
        read.append(shard)
        return found

    monkeypatch.setattr(ShardPart, "__hash__", object.__hash__)
    monkeypatch.setattr(Parts, "read", watched)
    rows = opened(built).rows()
    assert read == [0, 1, 2, 4, 5]
    assert max(alive) <= 3  # the two before this one may be alive, and the one being read
    assert rows["index"].to_pylist() == [0, 1, 2, 3, 4, 5, 8, 9, 10]


def test_a_table_that_grew_by_a_shard_at_a_time_is_put_together(
    built: ArtifactSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "MANY_CHUNKS", 2)
    reader = opened(built)
    for shard in (0, 1, 2, 4, 5):
        built.discard(shard)
    for shard in (4, 0, 5, 1, 3, 2):
        commit(built, shard)
        assert shard in reader.committed()
        assert reader.rows()["index"].num_chunks <= 2
    assert reader.rows()["index"].to_pylist() == list(range(11))
