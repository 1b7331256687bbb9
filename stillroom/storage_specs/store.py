"""The one door to a cache on disk: create it, define sets in it, open them.

The contract is docs/storage_format.md. Nothing outside this room knows about files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import stillroom
from stillroom.storage_specs.array_objects import array_json
from stillroom.storage_specs.artifact_set import ArtifactSet, mismatch
from stillroom.storage_specs.cautious_reads import (
    LINK,
    METADATA_BYTES,
    first_link,
    json_of,
    read_whole,
)
from stillroom.storage_specs.durable_files import make_folder, sweep, unwritable, write_whole
from stillroom.storage_specs.errors import (
    CacheCorrupt,
    CacheError,
    CacheIncomplete,
    CacheMismatch,
    ConfigError,
)
from stillroom.storage_specs.file_locks import locked
from stillroom.storage_specs.fingerprint import differences
from stillroom.storage_specs.layout import (
    FORMAT_VERSION,
    FRAMES,
    KEY,
    ArraySpec,
    Definition,
    check_names,
    group_json,
    part_folder,
    set_folder,
)
from stillroom.storage_specs.shard_writer import ShardWriter
from stillroom.storage_specs.verify import Fault

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ArraySpec", "ArtifactSet", "Cache", "Fault", "ShardWriter"]

BUILD = "run `stillroom cache build`"
BAD_DOCUMENT = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
DEFINING = 2**62
"""The byte that is locked to define the frames of a source; shards lock that of their number."""


@dataclass(frozen=True)
class Cache:
    """A cache folder. `create` and `open` check it; the plain constructor does not."""

    path: Path

    @classmethod
    def create(cls, path: str | Path) -> Cache:
        """Make the folder a cache, or open the cache that it is; sweep what crashes left there.

        Raises:
            CacheMismatch: the folder holds something else.
            CacheUnwritable: no space or no permission.
        """
        root = _local(path)
        if root.exists() and not (root / "zarr.json").exists():
            _refuse_foreign(root, unless_made=True)
        try:
            make_folder(root)
        except OSError as error:
            raise unwritable(error, root, 0) from error
        # Whoever writes first wins: two versions of stillroom may start at once.
        write_whole(root, "zarr.json", root_json(), keep=True)
        sweep(root)
        return cls.open(root)

    @classmethod
    def open(cls, path: str | Path) -> Cache:
        """Open a cache that is there.

        Raises:
            CacheIncomplete: there is none.
            CacheMismatch: it is no cache, or one of another format version.
            CacheCorrupt: its metadata cannot be read.
        """
        root = _local(path)
        about = _own_attributes(root, "")
        if about is None:
            if root.is_dir() and any(root.iterdir()):
                _refuse_foreign(root, unless_made=True)
            raise CacheIncomplete(f"{root}: there is no cache here; {BUILD}")
        version = about.get("format_version")
        if version != FORMAT_VERSION:
            raise CacheMismatch(_other_version(root, version, about.get("created_by")))
        return cls(root)

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
            ConfigError: a name is reserved or not of a-z, 0-9, '_' and '-'.
            CacheUnwritable: no space or no permission.
        """
        wanted = Definition(source, set_name, identity, count, shard_frames, tuple(arrays))
        found = self._definition(source, set_name)
        if found is None:
            self._refuse_links(wanted)
            self._place(wanted)
            found = self._definition(source, set_name) or wanted
        if found.fingerprint != wanted.fingerprint:
            raise mismatch(self, found, _between(found, wanted))
        self._place_arrays(found)
        return ArtifactSet(self, found)

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
        return ArtifactSet(self, found)

    def sets(self) -> list[tuple[str, str]]:
        """(source, set) of every set, sorted, a source's frames first.

        By place, not by content: a set with a damaged group or with none, but with a manifest, is
        among them; `artifact_set` then raises CacheCorrupt.
        """
        groups = {path.parts[-3:-1] for path in self.path.glob("*/*/zarr.json")}
        groups = {(source, name) for source, name in groups if name != FRAMES}
        sources = {path.parts[-2] for path in self.path.glob("*/zarr.json")}
        groups |= {(source, FRAMES) for source in sources if self._holds_frames(source)}
        groups |= {
            folder.parts[-2:]
            for folder in self.path.glob("manifest/*/*")
            if any(folder.glob("*.parquet"))
        }
        named = [(source, name) for source, name in groups if _has_place(source, name)]
        return sorted(named, key=lambda each: (each[0], each[1] != FRAMES, each[1]))

    def _holds_frames(self, source: str) -> bool:
        """Whether a source's group is more than a bare one; a damaged one counts as more."""
        try:
            return bool(_own_attributes(self.path, source))
        except CacheError:
            return True

    def _definition(self, source: str, set_name: str) -> Definition | None:
        folder = set_folder(source, set_name)
        about = _own_attributes(self.path, folder)
        if not about:
            parts = part_folder(source, set_name)
            if any((self.path / parts).glob("*.parquet")):
                what = "is missing" if about is None else "says nothing of the set"
                raise CacheCorrupt(_damaged(self.path / folder, f"it {what}, but {parts} is there"))
            if about is not None and set_name != FRAMES:
                raise CacheCorrupt(_damaged(self.path / folder, "it says nothing of the set"))
            return None
        try:
            found = Definition.from_document(about)
            claimed = about["fingerprint"]
            whole = json.loads(json.dumps(found.document())) == about
        except BAD_DOCUMENT as error:
            raise CacheCorrupt(_damaged(self.path / folder, str(error))) from error
        if claimed != found.fingerprint:
            raise CacheCorrupt(_damaged(self.path / folder, "its fingerprint does not match it"))
        if not whole or (found.source, found.name) != (source, set_name):
            raise CacheCorrupt(_damaged(self.path / folder, "it is not that of this set"))
        self._refuse_links(found)
        return found

    def _refuse_links(self, definition: Definition) -> None:
        """Nothing of a set may lie outside its cache, to be read or written there."""
        link = first_link(self.path, definition.folders())
        if link is not None:
            raise CacheCorrupt(
                f"{self.path}/{link}: {LINK}, so that nothing of it lies elsewhere; put the folder "
                "itself there, or link to the whole cache"
            )

    def _place(self, wanted: Definition) -> None:
        """Put the set's group there unless somebody else just did."""
        source_group = f"{wanted.source}/zarr.json"
        content = group_json(wanted.document())
        if wanted.name != FRAMES:
            write_whole(self.path, source_group, group_json({}), keep=True)
            write_whole(self.path, f"{wanted.source}/{wanted.name}/zarr.json", content, keep=True)
        elif not write_whole(self.path, source_group, content, keep=True):
            # A teacher's set came first and left a bare group for the source.
            with locked(self.path / source_group, DEFINING):
                if self._definition(wanted.source, FRAMES) is None:
                    write_whole(self.path, source_group, content)

    def _place_arrays(self, definition: Definition) -> None:
        """Write what is missing of the set's groups and arrays; all of it follows from the set."""
        for folder in definition.bare_groups():
            self._place_missing(folder, group_json({}))
        for spec in definition.arrays:
            for stored in definition.stored(spec):
                if not (self.path / stored.path / "zarr.json").exists():
                    content = array_json(stored, definition.count, definition.shard_frames)
                    self._place_missing(stored.path, content)

    def _place_missing(self, folder: str, content: bytes) -> None:
        if not (self.path / folder / "zarr.json").exists():
            write_whole(self.path, f"{folder}/zarr.json", content, keep=True)


def root_json() -> bytes:
    """The zarr.json of the cache itself, as this stillroom writes it."""
    by = f"stillroom {stillroom.__version__}"
    return group_json({"format_version": FORMAT_VERSION, "created_by": by})


def _has_place(source: str, name: str) -> bool:
    try:
        check_names(source, name)
    except ConfigError:
        return False
    return True


def _local(path: str | Path) -> Path:
    if "://" in str(path):
        raise ConfigError(f"cache.path = {path}: only local folders so far; mount it, or copy it")
    return Path(path)


def _between(found: Definition, wanted: Definition) -> list[Any]:
    """What differs: the identity, or what the layout adds where the identity agrees."""
    return differences(found.identity, wanted.identity) or differences(
        {"layout": found.layout()}, {"layout": wanted.layout()}
    )


def _own_attributes(root: Path, folder: str) -> dict[str, Any] | None:
    """Our attributes of a group, {} if it has none; None if there is no group."""
    path = root / folder / "zarr.json"
    try:
        document = json_of(read_whole(path, METADATA_BYTES))
        if document["node_type"] != "group":
            return {}
        own = document["attributes"].get(KEY)
        zarr_format = document["zarr_format"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CacheError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheCorrupt(_damaged(path.parent, str(error))) from error
    if zarr_format != 3:
        raise CacheCorrupt(_damaged(path.parent, f"zarr_format {zarr_format}, expected 3"))
    if folder == "" and own is None:
        _refuse_foreign(root)
    return own if isinstance(own, dict) else {}


def _refuse_foreign(root: Path, *, unless_made: bool = False) -> None:
    """CacheMismatch where a folder holds other things.

    unless_made: another builder may have made it a cache while we looked
    """
    strangers = (
        [] if not root.is_dir() else [p.name for p in root.iterdir() if p.name != "manifest"]
    )
    if unless_made and (root / "zarr.json").exists():
        return
    if strangers or not root.is_dir():
        raise CacheMismatch(
            f"{root} holds something that is not a stillroom cache"
            + (f" ({sorted(strangers)[0]})" if strangers else "")
            + "; point cache.path at an empty or new folder"
        )


def _other_version(root: Path, version: Any, maker: Any) -> str:
    if isinstance(version, int) and version < FORMAT_VERSION:
        todo = "bring it over with `stillroom cache transcode`, use the stillroom that built it"
    else:
        todo = "install the stillroom that built it, or a later one"
    return (
        f"{root}: cache format version {version!r:.20}, this stillroom reads {FORMAT_VERSION}; "
        f"it was built by {maker!r:.60}: {todo}, or build into another folder"
    )


def _damaged(folder: Path, why: str) -> str:
    return (
        f"{folder}/zarr.json is damaged ({why}); run `stillroom cache verify CACHE --repair`, "
        "then `stillroom cache build`"
    )
