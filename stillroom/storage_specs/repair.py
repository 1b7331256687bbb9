"""Undoes damage: withdraws what the next build makes again, rewrites what follows from a set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.storage_specs.array_objects import array_json
from stillroom.storage_specs.cautious_reads import first_link
from stillroom.storage_specs.durable_files import remove, write_whole
from stillroom.storage_specs.errors import CacheError
from stillroom.storage_specs.layout import (
    FRAMES,
    check_names,
    group_json,
    part_folder,
    set_folder,
)
from stillroom.storage_specs.store import Cache, root_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.verify import Fault


def damaged_cache(path: Path) -> Cache | None:
    """A cache whose own zarr.json says nothing, told by a set in it that is whole; else None."""
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
    """Write the cache's own zarr.json again; lines that say so."""
    write_whole(cache.path, "zarr.json", root_json())
    return ["rewrote zarr.json"]


def repair_set(target: ArtifactSet, faults: Sequence[Fault]) -> list[str]:
    """Withdraw every shard that a fault names, rewrite metadata; a line for each."""
    done = []
    for folder in dict.fromkeys(fault.array for fault in faults if fault.shard is None):
        _rewrite_metadata(target, folder)
        done.append(f"rewrote {folder}/zarr.json")
    for shard in sorted({fault.shard for fault in faults if fault.shard is not None}):
        target.discard(shard)
        done.append(f"withdrew {target.source}/{target.name}, shard {shard}")
    return done


def withdraw_set(cache: Cache, source: str, set_name: str) -> list[str]:
    """Forget a set whose own group is damaged: its parts, its arrays' metadata, then its group.

    Its objects stay until the next build, which puts the same or others in their place.
    """
    check_names(source, set_name)
    inner = ("frames", "labels") if set_name == FRAMES else ("*",)
    links = _remove_links(cache, source, set_name, inner)
    parts = sorted((cache.path / part_folder(source, set_name)).glob("*.parquet"))
    # The arrays' may be damaged too, and without the group nobody can say what they should be.
    folder = cache.path / set_folder(source, set_name)
    arrays = sorted(path for name in inner for path in folder.glob(f"{name}/**/zarr.json"))
    places = [path.relative_to(cache.path).as_posix() for path in (*parts, *arrays)]
    done = [f"withdrew {place}" for place in places if remove(cache.path, place)]
    group = f"{set_folder(source, set_name)}/zarr.json"
    if set_name == FRAMES:  # the source's group, in which the teachers' sets lie
        write_whole(cache.path, group, group_json({}))
    else:
        remove(cache.path, group)
    return [*links, *done, f"withdrew {group}"]


def _remove_links(cache: Cache, source: str, set_name: str, inner: tuple[str, ...]) -> list[str]:
    """Remove links in the place of a set's folders, so that nothing is removed behind them."""
    done = []
    places = (set_folder(source, set_name), part_folder(source, set_name))
    while link := first_link(cache.path, places):
        remove(cache.path, link)
        done.append(f"removed the link {link}")
    folder = cache.path / set_folder(source, set_name)
    for pattern in (form for name in inner for form in (name, f"{name}/**/*")):
        for path in sorted(folder.glob(pattern)):
            if path.is_symlink():
                link = path.relative_to(cache.path).as_posix()
                remove(cache.path, link)
                done.append(f"removed the link {link}")
    return done


def _rewrite_metadata(target: ArtifactSet, folder: str) -> None:
    definition = target.definition
    content = group_json({})
    for spec in definition.arrays:
        for stored in definition.stored(spec):
            if stored.path == folder:
                content = array_json(stored, definition.count, definition.shard_frames)
    if folder == definition.source and (definition.source, FRAMES) in target.cache.sets():
        return  # it is that of the frames, and their own repair sees to it
    write_whole(target.cache.path, f"{folder}/zarr.json", content)
