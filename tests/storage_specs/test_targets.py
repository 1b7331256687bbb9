"""Targets among a source's frames: version 2 of the format, and version 1 where there are none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stillroom.storage_specs.codecs.log import Log
from stillroom.storage_specs.codecs.plain import Exact, Raw
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.manifest import FrameRow
from stillroom.storage_specs.repair import repair_root, withdraw_set
from stillroom.storage_specs.store import Cache
from stillroom.storage_specs.verify import verify_definition, verify_shard

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.storage_specs.artifact_set import ArtifactSet

PHOTO = ArraySpec("frames", (4, 6, 3), Raw())
LABELS = ArraySpec("labels", (4, 6), Raw())
DEPTH = ArraySpec("depth", (4, 6), Log(), attributes={"stride": 1})
NORMALS = ArraySpec("normals", (3, 4, 6), Exact(), attributes={"stride": 1})


def built(cache: Cache, source: str, name: str, *specs: ArraySpec) -> ArtifactSet:
    made = cache.define(source, name, {}, 2, 2, specs)
    writer = made.writer(0)
    for index in range(2):
        arrays = {s.artifact: np.ones(s.shape, s.kind.dtype) for s in specs}
        writer.put(FrameRow(index, f"f{index}"), arrays)
    writer.commit()
    return made


def version_of(folder: Path) -> Any:
    about = json.loads((folder / "zarr.json").read_text())["attributes"]["stillroom"]
    return about.get("format_version") or about["layout"]["format_version"]


def test_a_cache_is_of_version_2_from_the_first_further_target_on(tmp_path: Path) -> None:
    cache = Cache.create(tmp_path / "c")
    labelled = built(cache, "street", "frames", PHOTO, LABELS)
    before = {p: p.read_bytes() for p in (tmp_path / "c").rglob("*") if p.is_file()}
    assert version_of(tmp_path / "c") == version_of(tmp_path / "c" / "street") == 1
    kitchen = built(cache, "kitchen", "frames", PHOTO, DEPTH, NORMALS)
    assert version_of(tmp_path / "c") == version_of(tmp_path / "c" / "kitchen") == 2
    for path, content in before.items():
        assert path.parent == tmp_path / "c" or path.read_bytes() == content
    again = Cache.open(tmp_path / "c")
    assert again.sets() == [("kitchen", "frames"), ("street", "frames")]
    for made in (labelled, kitchen):
        found = again.artifact_set(made.source, "frames")
        assert found.fingerprint == made.fingerprint
        assert verify_definition(found) == verify_shard(found, 0) == []
    np.testing.assert_allclose(again.artifact_set("kitchen", "frames").read("depth", 1), 1, 1e-4)


def test_a_teacher_s_set_may_have_a_target_s_name_where_its_source_has_none(tmp_path: Path) -> None:
    cache = Cache.create(tmp_path / "c")
    built(cache, "street", "frames", PHOTO, LABELS)
    teacher = built(cache, "street", "depth", DEPTH)
    assert version_of(tmp_path / "c") == 1
    assert cache.sets() == [("street", "frames"), ("street", "depth")]
    withdraw_set(cache, "street", "frames")
    assert cache.sets() == [("street", "depth")]
    assert verify_definition(teacher) == verify_shard(teacher, 0) == []


def test_repair_keeps_the_version_and_withdraws_targets_with_their_set(tmp_path: Path) -> None:
    cache = Cache.create(tmp_path / "c")
    built(cache, "kitchen", "frames", PHOTO, DEPTH)
    before = (tmp_path / "c" / "zarr.json").read_bytes()
    (tmp_path / "c" / "zarr.json").unlink()
    repair_root(cache)
    assert (tmp_path / "c" / "zarr.json").read_bytes() == before
    (tmp_path / "c" / "kitchen" / "zarr.json").write_text("{")
    withdraw_set(cache, "kitchen", "frames")
    for name in ("frames", "depth"):
        assert not (tmp_path / "c" / "kitchen" / name / "zarr.json").exists()
    built(cache, "kitchen", "frames", PHOTO, DEPTH)
    assert cache.sets() == [("kitchen", "frames")]


@pytest.mark.parametrize(("name", "spec"), [("fpn", NORMALS), ("frames", PHOTO)])
def test_what_does_not_belong_into_a_set_is_refused(
    tmp_path: Path, name: str, spec: ArraySpec
) -> None:
    logits = ArraySpec("logits", (2, 4, 6), Exact())
    specs = [spec] if name == "fpn" else [spec, logits]
    with pytest.raises(
        ConfigError, match=r"labels, depth, normals, boxes\) make up the set 'frames'"
    ):
        Cache.create(tmp_path / "c").define("street", name, {}, 2, 2, specs)
