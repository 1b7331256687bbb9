"""One committed shard into another cache that has the same set: objects first, the part last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.storage_specs.errors import CacheCorrupt
from stillroom.storage_specs.layout import part_path
from stillroom.storage_specs.manifest import decode_part, entry_of

if TYPE_CHECKING:
    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.files.object_store import ObjectStore


def copy_shard(source: ArtifactSet, target: ArtifactSet, shard: int) -> int:
    """Copy the bytes of one shard, each object checked against its sha256; their number.

    Args:
        source, target: sets of one definition

    Raises:
        CacheCorrupt: an object or the part is not as it was committed; nothing is recorded then.
        CacheUnwritable: no space, no permission.
    """
    definition = source.definition
    path = part_path(source.source, source.name, shard)
    recorded = _read(source.store, path)
    part = decode_part(recorded, path)
    if part.fingerprint != target.fingerprint:
        raise CacheCorrupt(f"{source.store.where(path)}: it belongs to another set")
    copied = 0
    for stored in (each for spec in definition.arrays for each in definition.stored(spec)):
        place = stored.object_path(shard)
        content = _read(source.store, place)
        if entry_of(content) != part.objects[stored.path]:
            raise CacheCorrupt(
                f"{source.store.where(place)}: its bytes are not those that were "
                "committed; run `stillroom cache verify`"
            )
        target.store.write_whole(place, content)
        copied += len(content)
    target.store.write_whole(path, recorded)
    return copied


def _read(store: ObjectStore, path: str) -> bytes:
    try:
        return store.read(path)
    except OSError as error:
        raise CacheCorrupt(
            f"{store.where(path)}: committed, but it cannot be read ({error.strerror}); "
            "run `stillroom cache verify`"
        ) from error
