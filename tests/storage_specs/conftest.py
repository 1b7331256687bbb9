"""A small teacher's set to fill, break and read.

Made       an artifact set and the arrays that belong into it
empty_set  defined, nothing committed; 10 frames in shards of 4, frame 5 is bad
full_set   the same, all three shards committed (a copy of one that is built once)
maker      the script MAKER of a test's module, which made a cache that is kept in the tree
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stillroom.storage_specs.codecs.plain import Half, Raw
from stillroom.storage_specs.codecs.quantised import Byte, Unit
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.manifest import FrameRow
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.manifest import ShardPart
    from stillroom.storage_specs.shards.shard_writer import ShardWriter

IDENTITY = {
    "teacher": {"builder": "smp", "weights_sha256": "9f" * 32, "device": "cpu", "mean": [127, 127]},
    "canvas": {"height": 16, "width": 24},
}
LZ4 = {"name": "blosc", "cname": "lz4", "clevel": 5, "shuffle": "noshuffle"}
SPECS = (
    ArraySpec("logits", (3, 4, 6), Byte(), LZ4, {"stride": 4, "classes": ["sky", "car", "tree"]}),
    ArraySpec("features/penultimate", (5, 4, 6), Half(), {"name": "zstd", "level": 1}),
    ArraySpec("pseudo_label", (16, 24), Raw(), LZ4, {"classes": ["sky", "car", "tree"]}),
    ArraySpec("confidence", (4, 6), Unit(), {"name": "none"}),
)
BAD = 5


@dataclass
class Made:
    """An artifact set and what belongs into it."""

    set: ArtifactSet

    def arrays(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(index)
        return {
            "logits": rng.normal(0, 9, (3, 4, 6)).astype(np.float32),
            "features/penultimate": rng.normal(0, 2, (5, 4, 6)).astype(np.float32),
            "pseudo_label": rng.choice(np.array([0, 1, 2, 255], np.uint8), (16, 24)),
            "confidence": rng.random((4, 6), np.float32),
        }

    def row(self, index: int, seconds: float = 0.25) -> FrameRow:
        if index == BAD:
            return FrameRow(index, f"clip/{index:04d}", "bad", "image file is truncated")
        return FrameRow(
            index,
            f"clip/{index:04d}",
            valid_height=16,
            valid_width=20,
            crc32c=index * 1000,
            seconds=seconds,
            confidence=0.5,
        )

    def filled_writer(self, shard: int, seconds: float = 0.25) -> ShardWriter:
        writer = self.set.writer(shard)
        for index in self.set.shard_range(shard):
            row = self.row(index, seconds)
            if row.status == "bad":
                writer.bad(row)
            else:
                writer.put(row, self.arrays(index))
        return writer

    def commit(self, shard: int, seconds: float = 0.25) -> ShardPart:
        return self.filled_writer(shard, seconds).commit()

    def files(self) -> dict[str, bytes]:
        """Every file of the cache by its path."""
        root = Path(self.set.place)
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }


def define(path: Path, **changes: Any) -> ArtifactSet:
    identity = {**IDENTITY, **changes.pop("identity", {})}
    given: dict[str, Any] = {"count": 10, "shard_frames": 4, "arrays": SPECS, **changes}
    return Cache.create(path).define("camvid", "fpn", identity, **given)


@pytest.fixture
def empty_set(tmp_path: Path) -> Made:
    return Made(define(tmp_path / "my.cache"))


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Made(define(tmp_path_factory.mktemp("built") / "my.cache"))
    for shard in range(made.set.shards):
        made.commit(shard)
    return Path(made.set.place)


@pytest.fixture
def full_set(built_once: Path, tmp_path: Path) -> Made:
    shutil.copytree(built_once, tmp_path / "my.cache")
    return Made(define(tmp_path / "my.cache"))


@pytest.fixture(name="define")
def fixture_define() -> Any:
    """`define(path, **changes)`: the set of this page with some of its definition changed."""
    return define


@pytest.fixture(scope="module")
def maker(request: pytest.FixtureRequest) -> Any:
    place: Path = request.module.MAKER
    spec = importlib.util.spec_from_file_location(place.stem, place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[place.stem] = module
    spec.loader.exec_module(module)
    return module
