"""Open or create a cache on disk, and define and open the sets in it.

The contract is docs/storage_format.md. No other package reads or writes a cache's files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.alike_paths import refuse_alike
from stillroom.storage_specs.artifact_set import ArtifactSet, mismatch
from stillroom.storage_specs.artifacts import FRAMES, TARGETS
from stillroom.storage_specs.errors import (
    CacheCorrupt,
    CacheError,
    CacheIncomplete,
    CacheMismatch,
    ConfigError,
)
from stillroom.storage_specs.files.cautious_reads import LINK, METADATA_BYTES, json_of
from stillroom.storage_specs.files.object_store import place_of, store_at
from stillroom.storage_specs.fingerprint import differences, identity_differences
from stillroom.storage_specs.layout import (
    FORMAT_VERSION,
    KEY,
    ArraySpec,
    Definition,
    check_names,
    group_json,
    part_folder,
    set_folder,
    teacher_of,
)
from stillroom.storage_specs.shards.zarr_arrays import array_json
from stillroom.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stillroom.storage_specs.files.object_store import ObjectStore

BUILD = "run `stillroom cache build RUN.toml`"
BAD_DOCUMENT = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
DEFINING = 2**62
"""The byte that is locked to define the frames of a source; shards lock that of their number."""


@dataclass(frozen=True)
class Cache:
    """A cache. `create` and `open` check it; the plain constructor does not.

    Attributes:
        path: its folder, or the URL of its place in an object store
        store: the files there
    """

    path: Path | str
    store: ObjectStore = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", place_of(self.path))
        object.__setattr__(self, "store", store_at(self.path))

    @classmethod
    def create(cls, path: str | Path) -> Cache:
        """Make the folder a cache, or open the cache that it is; sweep what crashes left there.

        Raises:
            CacheMismatch: the folder holds something else.
            CacheUnwritable: no space or no permission.
        """
        cache = cls(path)
        if not cache.store.exists("zarr.json"):
            _refuse_foreign(cache, unless_made=True)
        cache.store.make()
        # Whoever writes first wins: two versions of stillroom may start at once.
        cache.store.write_whole("zarr.json", root_json(), keep=True)
        cache.store.sweep()
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> Cache:
        """Open a cache that is there.

        Raises:
            CacheIncomplete: there is none.
            CacheMismatch: it is no cache, or one of another format version.
            CacheCorrupt: its metadata cannot be read.
        """
        cache = cls(path)
        about = _own_attributes(cache, "")
        if about is None:
            if cache.store.entries():
                _refuse_foreign(cache, unless_made=True)
            raise CacheIncomplete(f"{cache.path}: there is no cache here; {BUILD}")
        version = about.get("format_version")
        if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
            raise CacheMismatch(_other_version(cache, version, about.get("created_by")))
        return cache

    def define(
        self,
        source: str,
        set_name: str,
        identity: dict[str, Any],
        count: int,
        shard_frames: int,
        arrays: Sequence[ArraySpec],
    ) -> ArtifactSet:
        """The set of this definition, made if it is not there yet; any number may do so at once.

        Raises:
            CacheMismatch: it is there with another definition; names each differing field.
            ConfigError: a name is reserved or not of a-z, 0-9, '_' and '-', or two layers are one
                file on this disk.
            CacheUnwritable: no space or no permission.
        """
        wanted = Definition(source, set_name, identity, count, shard_frames, tuple(arrays))
        found = self._definition(source, set_name)
        if found is None:
            self._refuse_links(wanted)
            refuse_alike(self.store, wanted)
            self._demand_version(wanted.version)
            self._place(wanted)
            found = self._definition(source, set_name) or wanted
        # Fingerprints may differ where the identities agree: in names, or a Digest's older form.
        if found.fingerprint != wanted.fingerprint and (other := _between(found, wanted)):
            raise mismatch(str(self.path), found, other)
        self._place_arrays(found)
        made = ArtifactSet(self.store, found)
        made.identity = wanted.identity  # which agrees with older forms, for `Reuse` to compare
        return made

    def _demand_version(self, version: int) -> None:
        """Raise the cache's format version before it holds what older readers do not know."""
        about = _own_attributes(self, "")
        if about is not None and about.get("format_version", version) < version:
            self.store.write_whole("zarr.json", root_json(version))

    def artifact_set(self, source: str, set_name: str) -> ArtifactSet:
        """A set that is there.

        Raises:
            CacheIncomplete: it is not; the message lists those that are.
            CacheCorrupt: its metadata are damaged.
        """
        check_names(source, set_name)
        found = self._definition(source, set_name)
        if found is None:
            known = ", ".join("/".join(each) for each in self.sets()) or "none"
            raise CacheIncomplete(
                f"{self.path}: no set {set_name!r} on {source!r} (there are: {known}); {BUILD}"
            )
        return ArtifactSet(self.store, found)

    def teacher_sets(self, source: str, teacher: str) -> list[ArtifactSet]:
        """Return a teacher's sets on a source: its own first, then its extensions.

        Each artifact is in one of them; none of them where nothing is cached.
        """
        names = [name for of, name in self.sets() if of == source and teacher_of(name) == teacher]
        return [self.artifact_set(source, name) for name in names]

    def sets(self) -> list[tuple[str, str]]:
        """(source, set) of every set, sorted, a source's frames first.

        By place, not by content: a set with a damaged group or with none, but with a manifest, is
        among them; `artifact_set` then raises CacheCorrupt.
        """
        files = self.store
        groups: set[tuple[str, str]] = set()
        for source in files.folders(""):
            if not _has_place(source, FRAMES):
                continue
            if self._holds_frames(source):
                groups.add((source, FRAMES))
            for name in files.folders(source):
                of_teacher = name != FRAMES and _has_place(source, name)
                if of_teacher and self._holds_set(f"{source}/{name}", name):
                    groups.add((source, name))
        for source in files.folders("manifest"):
            names = files.folders(f"manifest/{source}")
            groups |= {(source, name) for name in names if self._has_parts(source, name)}
        named = [(source, name) for source, name in groups if _has_place(source, name)]
        return sorted(named, key=lambda each: (each[0], each[1] != FRAMES, each[1]))

    def _holds_frames(self, source: str) -> bool:
        """Return whether a source's group is more than a bare one; a damaged one counts as more."""
        try:
            return bool(_own_attributes(self, source))
        except CacheError:
            return True

    def _holds_set(self, folder: str, name: str) -> bool:
        """Return whether a folder is a set's, and not the array of a target."""
        if name not in TARGETS:
            return self.store.exists(f"{folder}/zarr.json")
        try:
            return bool(_own_attributes(self, folder))  # an array has none
        except CacheError:
            return False

    def _has_parts(self, source: str, set_name: str) -> bool:
        files = self.store.files(part_folder(source, set_name))
        return any(file.name.endswith(".parquet") for file in files)

    def _definition(self, source: str, set_name: str) -> Definition | None:
        folder = set_folder(source, set_name)
        about = _own_attributes(self, folder)
        if not about:
            if self._has_parts(source, set_name):
                what = "is missing" if about is None else "says nothing of the set"
                but = f"but {part_folder(source, set_name)} is there"
                raise CacheCorrupt(_damaged(self, folder, f"it {what}, {but}"))
            if about is not None and set_name != FRAMES:
                raise CacheCorrupt(_damaged(self, folder, "it says nothing of the set"))
            return None
        try:
            found = Definition.from_document(about)
            claimed = about["fingerprint"]
            whole = json.loads(json.dumps(found.document())) == about
        except BAD_DOCUMENT as error:
            raise CacheCorrupt(_damaged(self, folder, str(error))) from error
        if claimed != found.fingerprint:
            raise CacheCorrupt(_damaged(self, folder, "its fingerprint does not match it"))
        if not whole or (found.source, found.name) != (source, set_name):
            raise CacheCorrupt(_damaged(self, folder, "it is not that of this set"))
        self._refuse_links(found)
        return found

    def _refuse_links(self, definition: Definition) -> None:
        """Nothing of a set may lie outside its cache, to be read or written there."""
        link = self.store.first_link(definition.folders())
        if link is not None:
            raise CacheCorrupt(
                f"{self.store.where(link)}: {LINK}, so that nothing of it lies elsewhere; "
                "put the folder itself there, or link to the whole cache"
            )

    def _place(self, wanted: Definition) -> None:
        """Put the set's group there unless somebody else just did."""
        source_group = f"{wanted.source}/zarr.json"
        content = group_json(wanted.document())
        if wanted.name != FRAMES:
            self.store.write_whole(source_group, group_json({}), keep=True)
            self.store.write_whole(f"{wanted.source}/{wanted.name}/zarr.json", content, keep=True)
        elif not self.store.write_whole(source_group, content, keep=True):
            # A teacher's set came first and left a bare group for the source.
            with self.store.locked(source_group, DEFINING):
                if self._definition(wanted.source, FRAMES) is None:
                    self.store.write_whole(source_group, content)

    def _place_arrays(self, definition: Definition) -> None:
        """Write what is missing of the set's groups and arrays; all of it follows from the set."""
        for folder in definition.bare_groups():
            self._place_missing(folder, group_json({}))
        for spec in definition.arrays:
            for stored in definition.stored(spec):
                if not self.store.exists(f"{stored.path}/zarr.json"):
                    content = array_json(stored, definition.count, definition.shard_frames)
                    self._place_missing(stored.path, content)

    def _place_missing(self, folder: str, content: bytes) -> None:
        if not self.store.exists(f"{folder}/zarr.json"):
            self.store.write_whole(f"{folder}/zarr.json", content, keep=True)


def root_json(version: int = 1) -> bytes:
    """The zarr.json of a cache of a format version, as this stillroom writes it."""
    by = f"stillroom {__version__}"
    return group_json({"format_version": version, "created_by": by})


def _has_place(source: str, name: str) -> bool:
    try:
        check_names(source, name)
    except ConfigError:
        return False
    return True


def _between(found: Definition, wanted: Definition) -> list[Any]:
    """Compare the identities, and where they agree, the layouts; names of classes may differ."""
    return identity_differences(found.identity, wanted.identity) or differences(
        *({"layout": _unnamed(each.layout())} for each in (found, wanted))
    )


def _unnamed(layout: dict[str, Any]) -> dict[str, Any]:
    """The layout without the names of classes, which arrays carry for people to read."""
    arrays = {
        name: {
            **spec,
            "attributes": {k: v for k, v in spec["attributes"].items() if k != "classes"},
        }
        for name, spec in layout["arrays"].items()
    }
    return {**layout, "arrays": arrays}


def _own_attributes(cache: Cache, folder: str) -> dict[str, Any] | None:
    """Our attributes of a group, {} if it has none; None if there is no group."""
    path = f"{folder}/zarr.json" if folder else "zarr.json"
    try:
        document = json_of(cache.store.read(path, METADATA_BYTES))
        if document["node_type"] != "group":
            return {}
        own = document["attributes"].get(KEY)
        zarr_format = document["zarr_format"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        where = cache.store.where(path)
        raise CacheError(f"{where}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheCorrupt(_damaged(cache, folder, str(error))) from error
    if zarr_format != 3:
        raise CacheCorrupt(_damaged(cache, folder, f"zarr_format {zarr_format}, expected 3"))
    if folder == "" and own is None:
        _refuse_foreign(cache)
    return own if isinstance(own, dict) else {}


def _refuse_foreign(cache: Cache, *, unless_made: bool = False) -> None:
    """Raise CacheMismatch where a folder holds other files.

    Args:
        unless_made: accept that another builder has made it a cache in the meantime
    """
    entries = cache.store.entries()
    strangers = sorted(name for name in entries or () if name != "manifest")
    if unless_made and cache.store.exists("zarr.json"):
        return
    if strangers or entries is None:
        raise CacheMismatch(
            f"{cache.path} holds something that is not a stillroom cache"
            + (f" ({strangers[0]})" if strangers else "")
            + "; point cache.path at an empty or new folder"
        )


def _other_version(cache: Cache, version: Any, maker: Any) -> str:
    if isinstance(version, int) and version < 1:
        todo = "use the stillroom that built it"
    else:
        todo = "install the stillroom that built it, or a later one"
    return (
        f"{cache.path}: cache format version {version!r:.20}, this stillroom reads 1 to "
        f"{FORMAT_VERSION}; it was built by {maker!r:.60}: {todo}, or build into another folder"
    )


def _damaged(cache: Cache, folder: str, why: str) -> str:
    return (
        f"{cache.store.where(folder)}/zarr.json is damaged ({why}); "
        "run `stillroom cache verify CACHE --repair`, then `stillroom cache build RUN.toml`"
    )
