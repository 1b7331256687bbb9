"""Zarr's side of the contract: an array's metadata, and where in an object its chunks lie.

zarr-python itself says both, in memory; what goes to disk goes there whole
(`durable_files.write_whole`), since Zarr's own store neither syncs nor renames.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from stillroom.storage_specs.files.cautious_reads import json_of
from stillroom.storage_specs.layout import KEY
from stillroom.storage_specs.shards.shard_index import index_bytes, parse_index

if TYPE_CHECKING:
    from zarr.abc.codec import BytesBytesCodec
    from zarr.core.buffer import Buffer

    from stillroom.storage_specs.shards.stored_array import StoredArray


def array_json(stored: StoredArray, count: int, shard_frames: int) -> bytes:
    """The array's zarr.json, a pure function of its arguments."""
    import zarr
    from zarr.storage import MemoryStore

    kept: dict[str, Buffer] = {}
    zarr.create_array(
        MemoryStore(kept),
        shape=(count, *stored.shape),
        chunks=(1, *stored.chunk_shape),
        shards=(shard_frames, *stored.shard_shape),
        dtype=np.dtype(stored.dtype),
        fill_value=stored.fill,
        compressors=_zarr_codecs(stored),
        dimension_names=("frame", *stored.axes),
        attributes={KEY: stored.attributes},
        # All shards of an array in one folder: no four folders to create and sync for each.
        chunk_key_encoding={"name": "default", "separator": "."},
        zarr_format=3,
        # A chunk of zeros that is not written could not be distinguished from a lost one.
        config={"write_empty_chunks": True},
    )
    return kept["zarr.json"].to_bytes()


@lru_cache(maxsize=64)
def order_in_shard(grid: tuple[int, ...]) -> tuple[int, ...]:
    """The order in which zarr-python writes the chunks of a shard into its object.

    Args:
        grid: chunks of the shard along each axis

    Returns:
        numbers of chunks, which count along the last axis first
    """
    import zarr
    from zarr.storage import MemoryStore

    kept: dict[str, Buffer] = {}
    array = zarr.create_array(
        MemoryStore(kept),
        shape=grid,
        chunks=(1,) * len(grid),
        shards=grid,
        dtype="uint8",
        compressors=None,
        config={"write_empty_chunks": True},
    )
    array[...] = 0
    content = next(value for key, value in kept.items() if key != "zarr.json").to_bytes()
    chunks = math.prod(grid)
    index = parse_index(content[-index_bytes(chunks) :], chunks, len(content))
    return tuple(int(number) for number in index[:, 0].argsort())


def metadata_differences(
    found: bytes, stored: StoredArray, count: int, shard_frames: int
) -> list[str]:
    """Return the names of the fields of an array's zarr.json that differ from its definition.

    Only fields that change the values read: a later zarr may write the rest otherwise.
    """
    expected = json.loads(array_json(stored, count, shard_frames))
    try:
        actual = json_of(found)
    except ValueError:
        return ["JSON"]
    decisive = (
        "zarr_format", "node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding",
        "fill_value", "codecs", "dimension_names",
    )  # fmt: skip
    if not isinstance(actual, dict):
        return ["JSON"]
    return [
        *(name for name in decisive if actual.get(name) != expected[name]),
        *(["attributes"] if actual.get("attributes") != expected["attributes"] else []),
        # A reader of Zarr has to refuse an unknown field.
        *sorted(actual.keys() - expected.keys()),
    ]


def _zarr_codecs(stored: StoredArray) -> list[BytesBytesCodec]:
    from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

    options = stored.compressor
    if options["name"] == "zstd":
        return [ZstdCodec(level=options["level"], checksum=False), Crc32cCodec()]
    if options["name"] == "blosc":
        typesize = np.dtype(stored.dtype).itemsize
        blosc = BloscCodec(
            typesize=typesize,
            cname=options["cname"],
            clevel=options["clevel"],
            shuffle=options["shuffle"],
            blocksize=0,
        )
        return [blosc, Crc32cCodec()]
    return [Crc32cCodec()]
