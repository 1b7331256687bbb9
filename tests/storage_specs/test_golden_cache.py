"""A cache of format version 1, kept in the tree: read by every later stillroom.

tests/data/make_cache_v1.py made it, and says what is in it. If a test here fails, old caches have
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
GOLDEN = DATA / "cache_v1.zarr"
MAKER = DATA / "make_cache_v1.py"
FINGERPRINTS = {
    "frames": "9aa884cd8735533231e327f0019e9b50d15e8329a9cb26a5a8c30b69eac9b329",
    "fpn": "6803e53851e1a2b1ed57d6bde6a542b462064192aba8d9813411ad7334c9e8e2",
}


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_the_golden_cache_reads_as_it_was_made(maker: Any, name: str) -> None:
    made = Cache.open(GOLDEN).artifact_set("garden", name)
    assert made.usable().tolist() == [0, 1, 2, 4]
    for index in made.usable():
        for artifact, spec in made.arrays.items():
            x = maker.arrays(spec, index)
            y = made.read(artifact, index)
            assert y.dtype == x.dtype
            assert (np.abs(y.astype(np.float64) - x) <= spec.codec.bound(x)).all()
    with pytest.raises(FrameError, match="image file is truncated"):
        made.read(artifact, maker.BAD)


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_the_golden_cache_has_its_rows_and_no_fault(maker: Any, name: str) -> None:
    made = Cache.open(GOLDEN).artifact_set("garden", name)
    rows = made.rows().drop_columns("bytes").to_pylist()
    expected = [vars(maker.row(index)) for index in range(maker.COUNT)]
    assert rows == [{k: v for k, v in row.items() if k != "bytes"} for row in expected]
    assert verify_definition(made) == []
    assert [verify_shard(made, shard) for shard in range(made.shards)] == [[], [], []]


def test_plain_zarr_reads_the_golden_cache(maker: Any) -> None:
    group = zarr.open_group(GOLDEN, mode="r")
    for spec in maker.FRAMES:
        x = np.stack([maker.arrays(spec, index) for index in (0, 1, 2, 4)])
        np.testing.assert_array_equal(group[f"garden/{spec.artifact}"][:][[0, 1, 2, 4]], x)


def test_fingerprints_are_what_they_were(maker: Any, tmp_path: Path) -> None:
    made = maker.define(Cache.create(tmp_path / "c"))
    assert {each.name: each.fingerprint for each in made} == FINGERPRINTS


def test_a_build_goes_on_from_the_golden_cache(maker: Any, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "c")
    frames, _ = maker.define(Cache.create(tmp_path / "c"))
    frames.discard(1)
    assert frames.committed() == {0, 2}
    maker.fill(frames)
    x = maker.arrays(frames.arrays["labels"], 2)
    np.testing.assert_array_equal(frames.read("labels", 2), x)
    assert verify_shard(frames, 1) == []
