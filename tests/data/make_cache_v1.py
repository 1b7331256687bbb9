"""Made tests/data/cache_v1.zarr, which every later stillroom must read.

    python tests/data/make_cache_v1.py tests/data/cache_v1.zarr

Run once, when format version 1 was fixed. Do not run it again: a change of the format gets a new
version, a new file and a new script; this one then stands for what version 1 meant.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from stillroom.storage_specs.codecs.plain import Exact, Half, Raw
from stillroom.storage_specs.codecs.quantised import Byte, Flow, Unit
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.manifest import FrameRow
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from stillroom.storage_specs.artifact_set import ArtifactSet

COUNT, SHARD_FRAMES, BAD = 5, 2, 3
CLASSES = ["grass", "path", "wall"]
LZ4 = {"name": "blosc", "cname": "lz4", "clevel": 5, "shuffle": "noshuffle"}
ZSTD = {"name": "blosc", "cname": "zstd", "clevel": 3, "shuffle": "bitshuffle"}
IDENTITY = {
    "source": {"kind": "demo", "listing_sha256": "0123456789abcdef" * 4},
    "canvas": {"height": 8, "width": 12},
}
TEACHER = {"teacher": {"builder": "smp", "weights_sha256": "fedcba9876543210" * 4, "pad": 32}}

FRAMES = (
    ArraySpec("frames", (8, 12, 3), Raw(), LZ4),
    ArraySpec("labels", (8, 12), Raw(), {"name": "zstd", "level": 1}, {"classes": CLASSES}),
)
SIGNALS = (
    ArraySpec("logits", (3, 4, 6), Byte(), LZ4, {"stride": 2, "classes": CLASSES}),
    ArraySpec("features/penultimate", (4, 4, 6), Half(), {"name": "zstd", "level": 3}),
    ArraySpec("features/stem", (2, 8, 12), Exact(), {"name": "none"}),
    ArraySpec("pseudo_label", (8, 12), Raw(), LZ4, {"classes": CLASSES}),
    ArraySpec("confidence", (4, 6), Unit(), LZ4),
    ArraySpec("flow", (2, 8, 12), Flow(), ZSTD),
)


def arrays(spec: ArraySpec, index: int) -> np.ndarray:
    """A frame's array by plain arithmetic, the same on any machine for ever."""
    grid = np.indices(spec.shape)
    steps = sum(axis * weight for axis, weight in zip(grid, (13, 5, 3), strict=False)) + 7 * index
    if spec.artifact == "frames":
        return (steps % 256).astype(np.uint8)
    if spec.kind.geometry == "label":
        return np.array([0, 1, 2, 255], np.uint8)[steps % 4]
    if spec.artifact == "confidence":
        return (steps % 33 / 32).astype(np.float32)
    return ((steps % 41 - 20) / 3).astype(np.float32)


def row(index: int) -> FrameRow:
    """A frame's row; `bytes` is filled in by the commit."""
    frame_id = f"garden/{index:06d}"
    if index == BAD:
        return FrameRow(index, frame_id, "bad", "image file is truncated")
    return FrameRow(index, frame_id, "ok", "", 8, 10, 0, 4_000_000_000 + index, 0.5, 0.75)


def fill(made: ArtifactSet) -> ArtifactSet:
    """Commit every shard of a set."""
    for shard in range(made.shards):
        writer = made.writer(shard)
        for index in made.shard_range(shard):
            if index == BAD:
                writer.bad(row(index))
            else:
                specs = made.arrays.items()
                writer.put(row(index), {name: arrays(spec, index) for name, spec in specs})
        writer.commit()
    return made


def define(cache: Cache) -> tuple[ArtifactSet, ArtifactSet]:
    """The two sets of the golden cache."""
    return (
        cache.define("garden", "frames", IDENTITY, COUNT, SHARD_FRAMES, FRAMES),
        cache.define("garden", "fpn", {**IDENTITY, **TEACHER}, COUNT, SHARD_FRAMES, SIGNALS),
    )


if __name__ == "__main__":
    for each in define(Cache.create(sys.argv[1])):
        fill(each)
