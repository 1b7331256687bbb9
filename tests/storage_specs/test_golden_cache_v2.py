"""A cache of format version 2, kept in the tree: read by every later stillroom.

tests/data/make_cache_v2.py made it, and says what is in it. If a test here fails, old caches have
become unreadable: raise the format version instead.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from stillroom.storage_specs.errors import FrameError
from stillroom.storage_specs.store import Cache
from stillroom.storage_specs.verify import verify_definition, verify_shard

DATA = Path(__file__).resolve().parent.parent / "data"
GOLDEN = DATA / "cache_v2.zarr"
MAKER = DATA / "make_cache_v2.py"
SETS = {  # version and fingerprint
    ("garden", "frames"): (1, "7e6744778dcf28b5c7ed733dde47f3abb38e118a7eae8dc19c46c664dd5cded6"),
    ("garden", "depth"): (1, "97c04bd15aec930a238a5c7934679990ae33d81530cdeb2b0a24e664b068d5ee"),
    ("room", "frames"): (2, "edddfc25a83971a285fda2bc843d26a10af17f48c60adf3597669c9b627d5435"),
    ("sensor", "frames"): (2, "abb5af366a3f22cc83fd8aaa1d55c4d9425b470e0b30506f4199ccfb5a0ec733"),
}


def test_it_holds_its_sets_and_a_teacher_s_set_of_a_target_s_name() -> None:
    assert sorted(Cache.open(GOLDEN).sets()) == sorted(SETS)


@pytest.mark.parametrize("name", SETS, ids="/".join)
def test_a_set_reads_as_it_was_made(maker: Any, name: tuple[str, str]) -> None:
    made = Cache.open(GOLDEN).artifact_set(*name)
    assert (made.definition.version, made.fingerprint) == SETS[name]
    assert made.usable().tolist() == [0, 1, 3]
    for index in made.usable().tolist():
        for artifact, spec in made.arrays.items():
            x, y = maker.arrays(spec, index), made.read(artifact, index)
            assert y.dtype == x.dtype
            assert (np.abs(y.astype(np.float64) - x) <= spec.codec.bound(x)).all()
    with pytest.raises(FrameError, match="image file is truncated"):
        made.read(artifact, maker.BAD)
    rows = made.rows().drop_columns("bytes").to_pylist()
    expected = [vars(maker.row(index)) for index in range(maker.COUNT)]
    assert rows == [{k: v for k, v in row.items() if k != "bytes"} for row in expected]
    assert verify_definition(made) == []
    assert [verify_shard(made, shard) for shard in range(made.shards)] == [[], []]


def test_plain_zarr_reads_its_targets(maker: Any) -> None:
    group = zarr.open_group(GOLDEN, mode="r")
    depth, normals = (group[f"{name}"][:] for name in ("sensor/depth", "room/normals"))
    for index in (0, 1, 3):
        _, own = maker.SETS["sensor", "frames"]
        np.testing.assert_array_equal(depth[index], maker.arrays(own, index))
        faces = maker.arrays(maker.SETS["room", "frames"][3], index)
        np.testing.assert_array_equal(normals[index], faces.astype(np.float16))


def test_a_build_goes_on_from_it(maker: Any, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "c")
    cache = Cache.create(tmp_path / "c")
    cache.artifact_set("room", "frames").discard(0)
    maker.make(cache)
    room = cache.artifact_set("room", "frames")
    assert room.fingerprint == SETS["room", "frames"][1]
    assert verify_shard(room, 0) == []
    assert (tmp_path / "c" / "zarr.json").read_bytes() == (GOLDEN / "zarr.json").read_bytes()
