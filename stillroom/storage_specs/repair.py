"""Undoes damage: withdraws what the next build makes again, rewrites what follows from a set."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from stillroom.storage_specs.artifacts import FRAMES, TARGETS
from stillroom.storage_specs.errors import CacheError
from stillroom.storage_specs.layout import check_names, group_json, part_folder, set_folder
from stillroom.storage_specs.shards.zarr_arrays import array_json
from stillroom.storage_specs.store import Cache, root_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.files.object_store import ObjectStore
    from stillroom.storage_specs.verify import Fault


def damaged_cache(path: Path | str) -> Cache | None:
    """Open a cache with a damaged root zarr.json, recognised by a whole set in it; else None."""
    cache = Cache(path)
    for pair in cache.sets():
        try:
            target = cache.artifact_set(*pair)
        except CacheError:
            continue
        if target.committed():
            return cache
    return None


def repair_root(cache: Cache) -> list[str]:
    """Write the cache's own zarr.json again; return a line for each change."""
    cache.store.write_whole("zarr.json", root_json(_version_of(cache)))
    return ["rewrote zarr.json"]


def _version_of(cache: Cache) -> int:
    """Find the format version of a cache by those of its sets that are whole."""
    versions = [1]
    for pair in cache.sets():
        with suppress(CacheError):
            versions.append(cache.artifact_set(*pair).definition.version)
    return max(versions)


def repair_set(target: ArtifactSet, faults: Sequence[Fault]) -> list[str]:
    """Withdraw every shard that a fault names, rewrite metadata; return a line for each."""
    done = []
    for folder in dict.fromkeys(fault.array for fault in faults if fault.shard is None):
        _rewrite_metadata(target, folder)
        done.append(f"rewrote {folder}/zarr.json")
    for shard in sorted({fault.shard for fault in faults if fault.shard is not None}):
        target.discard(shard)
        done.append(f"withdrew {target.source}/{target.name}, shard {shard}")
    return done


def withdraw_set(cache: Cache, source: str, set_name: str) -> list[str]:
    """Remove a set with a damaged group: its parts, its arrays' metadata, then its group.

    Its objects stay until the next build, which puts the same or others in their place.
    """
    check_names(source, set_name)
    folder = part_folder(source, set_name)
    above = set_folder(source, set_name)
    inner = sorted(cache.store.folders(above))
    if set_name == FRAMES:  # a teacher may have a target's name
        inner = [FRAMES, *(name for name in TARGETS if (source, name) not in cache.sets())]
    links = _remove_links(cache, [above, folder, *(f"{above}/{name}" for name in inner)])
    names = sorted(file.name for file in cache.store.files(folder))
    places = [f"{folder}/{name}" for name in names if name.endswith(".parquet")]
    # The arrays' may be damaged too, and without the group their right content is unknown.
    places += [place for name in inner for place in _metadata_in(cache.store, f"{above}/{name}")]
    done = [f"withdrew {place}" for place in places if cache.store.remove(place)]
    group = f"{set_folder(source, set_name)}/zarr.json"
    if set_name == FRAMES:  # the source's group, in which the teachers' sets lie
        cache.store.write_whole(group, group_json({}))
    else:
        cache.store.remove(group)
    return [*links, *done, f"withdrew {group}"]


def _remove_links(cache: Cache, folders: list[str]) -> list[str]:
    """Remove links in the place of a set's folders, so that nothing is removed behind them."""
    done = []
    while link := cache.store.first_link(_with_inner(cache.store, folders)):
        cache.store.remove(link)
        done.append(f"removed the link {link}")
    return done


def _with_inner(objects: ObjectStore, folders: list[str]) -> list[str]:
    """Folders, and those in them that are reached without a link; links come last."""
    found = []
    for folder in folders:
        found.append(folder)
        if objects.first_link([folder]) is None:
            inner = [f"{folder}/{name}" for name in sorted(objects.folders(folder))]
            found += _with_inner(objects, inner)
    return found


def _metadata_in(objects: ObjectStore, folder: str) -> list[str]:
    """Paths of the zarr.json of a folder and of those below it."""
    inner = sorted(objects.folders(folder))
    below = [path for name in inner for path in _metadata_in(objects, f"{folder}/{name}")]
    return [f"{folder}/zarr.json", *below]


def _rewrite_metadata(target: ArtifactSet, folder: str) -> None:
    definition = target.definition
    content = group_json({})
    for spec in definition.arrays:
        for stored in definition.stored(spec):
            if stored.path == folder:
                content = array_json(stored, definition.count, definition.shard_frames)
    if folder == definition.source and (definition.source, FRAMES) in Cache(target.place).sets():
        return  # it is that of the frames, and their own repair sees to it
    target.store.write_whole(f"{folder}/zarr.json", content)
