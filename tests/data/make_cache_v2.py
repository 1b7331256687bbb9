"""Made tests/data/cache_v2.zarr, which every later stillroom must read.

    python tests/data/make_cache_v2.py tests/data/cache_v2.zarr

Run once, when format version 2 was fixed. Do not run it again: a change of the format gets a new
version, a new file and a new script; this one then stands for what version 2 meant.
"""

from __future__ import annotations

import sys

import numpy as np

from stillroom.storage_specs.codecs.log import Log
from stillroom.storage_specs.codecs.plain import Exact, Half, Raw
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.manifest import FrameRow
from stillroom.storage_specs.store import Cache

COUNT, SHARD_FRAMES, BAD, WITHOUT = 4, 3, 2, 3
LZ4 = {"name": "blosc", "cname": "lz4", "clevel": 5, "shuffle": "bitshuffle"}
PHOTOS = ArraySpec("frames", (8, 12, 3), Raw(), LZ4)
SETS = {
    ("room", "frames"): (
        PHOTOS,
        ArraySpec("labels", (8, 12), Raw(), LZ4, {"stride": 1, "classes": ["wall", "floor"]}),
        ArraySpec("depth", (8, 12), Log(), LZ4, {"stride": 1}),
        ArraySpec("normals", (3, 8, 12), Half(), LZ4, {"stride": 1}),
    ),
    ("sensor", "frames"): (
        PHOTOS,
        ArraySpec("depth", (8, 12), Exact(), LZ4, {"stride": 1}, (4, 6)),
    ),
    # these are of version 1
    ("garden", "frames"): (PHOTOS,),
    ("garden", "depth"): (ArraySpec("depth", (4, 6), Log(low=0.2), LZ4, {"stride": 2}),),
}
FACES = np.array([[0, 0, -1], [0.6, 0, -0.8], [0, -1, 0], [0, 0, 0]], np.float32)


def arrays(spec: ArraySpec, index: int) -> np.ndarray:
    """A frame's array by plain arithmetic, the same on any machine for ever."""
    shape = spec.shape[-2:] if spec.artifact == "normals" else spec.shape
    grid = np.indices(shape)
    steps = sum(axis * weight for axis, weight in zip(grid, (13, 5, 3), strict=False)) + 7 * index
    if spec.artifact == "frames":
        return (steps % 256).astype(np.uint8)
    if spec.artifact == "labels":
        return np.array([0, 1, 255], np.uint8)[steps % 3]
    there = index != WITHOUT
    if spec.artifact == "normals":
        return np.ascontiguousarray(FACES[steps % 4].transpose(2, 0, 1)) * np.float32(there)
    return np.where(steps % 7 == 0, 0, 0.5 + steps % 41 / 4).astype(np.float32) * np.float32(there)


def row(index: int) -> FrameRow:
    """A frame's row; `bytes` is filled in by the commit."""
    frame_id = f"f{index}"
    if index == BAD:
        return FrameRow(index, frame_id, "bad", "image file is truncated")
    reason = "f3.png: 96 of 96 depths are negative" if index == WITHOUT else ""
    return FrameRow(index, frame_id, "ok", reason, 8, 10, 0, 4_000_000_000 + index, 0.5)


def make(cache: Cache) -> None:
    """Define every set, and commit its shards."""
    for (source, name), specs in SETS.items():
        made = cache.define(source, name, {"source": source}, COUNT, SHARD_FRAMES, specs)
        for shard in range(made.shards):
            writer = made.writer(shard)
            for index in made.shard_range(shard):
                if index == BAD:
                    writer.bad(row(index))
                else:
                    writer.put(row(index), {spec.artifact: arrays(spec, index) for spec in specs})
            writer.commit()


if __name__ == "__main__":
    make(Cache.create(sys.argv[1]))
