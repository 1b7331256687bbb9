"""Shard objects put together here are, byte for byte, those that zarr-python writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from stillroom.storage_specs.artifacts import ARTIFACTS
from stillroom.storage_specs.layout import ArraySpec, Definition
from stillroom.storage_specs.presets import PRESETS, load_preset
from stillroom.storage_specs.shards.shard_chunks import chunks_of, shard_object
from stillroom.storage_specs.shards.zarr_arrays import array_json

if TYPE_CHECKING:
    from stillroom.storage_specs.shards.stored_array import StoredArray

COUNT, SHARD_FRAMES = 13, 5  # three shards, the last of three frames
SIDES = {"y": 20, "x": 24, "rgb": 3, "uv": 2, "xyz": 3, "channel": 4, "box": 7, "corners": 5}


def written_by_zarr(stored: StoredArray, shard: int, values: np.ndarray) -> bytes:
    document = array_json(stored, COUNT, SHARD_FRAMES)
    kept: dict[str, Any] = {"zarr.json": default_buffer_prototype().buffer.from_bytes(document)}
    with zarr.config.set({"array.write_empty_chunks": True}):
        array = zarr.open_array(MemoryStore(kept), mode="r+")
        array[shard * SHARD_FRAMES : shard * SHARD_FRAMES + len(values)] = values
    return bytes(kept[stored.object_path(shard).removeprefix(f"{stored.path}/")].to_bytes())


def stored_arrays(artifact: str, preset: str, tile: tuple[int, int] | None) -> list[StoredArray]:
    row = ARTIFACTS[artifact]
    shape = tuple(SIDES[axis] for axis in row.axes)
    storage = load_preset(preset, {}).storage(artifact)
    if tile and not (row.has_map and storage.codec.tileable):
        pytest.skip("steps predicted from their neighbours cannot be cut into tiles")
    name = f"{artifact}/layer" if row.layered else artifact
    spec = ArraySpec(name, shape, storage.codec, storage.compressor, {}, tile)
    set_name = "frames" if row.made_by == "source" else "t"
    return Definition("s", set_name, {}, COUNT, SHARD_FRAMES, (spec,)).stored(spec)


@pytest.mark.parametrize("tile", [None, (8, 8), (9, 24), (20, 5)])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_a_shard_is_the_object_that_zarr_makes_of_its_arrays(
    artifact: str, preset: str, tile: tuple[int, int] | None
) -> None:
    rng = np.random.default_rng(0)
    for stored in stored_arrays(artifact, preset, tile):
        for shard, frames in ((0, 5), (2, 3)):
            numbers = rng.integers(0, 50, (frames, *stored.shape)).cumsum(axis=-1)
            values = numbers.astype(stored.dtype) if stored.shape else np.zeros(frames, "<f4")
            values[1] = stored.fill  # as of a bad frame
            made = shard_object(stored, SHARD_FRAMES, [chunks_of(stored, v) for v in values])
            assert made == written_by_zarr(stored, shard, values), (stored.path, shard)
