"""Looks again before anything is called damaged: a store, a network or memory may be wrong once.

What is damaged is the same bytes whenever it is read; what was only read wrong is other bytes, or
right, the next time. Only the first is a fault that a repair withdraws.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.artifact_set import ArtifactSet
from stillroom.storage_specs.errors import CacheError
from stillroom.storage_specs.files.cautious_reads import drop_from_memory
from stillroom.storage_specs.layout import set_folder
from stillroom.storage_specs.store import Cache
from stillroom.storage_specs.verify import READING, Fault, verify_definition, verify_shard

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.storage_specs.files.object_store import ObjectStore

LOOKS = 3
"""Looks at a suspect after the first, until two in a row were given the same bytes."""


class _Recorder:
    """A store that keeps a digest of what each file was when it was read."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.seen: dict[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def read(self, path: str, limit: int | None = None) -> bytes:
        """As the store's, from the disk itself where it is one."""
        if not self.store.remote:
            drop_from_memory(self.store.where(path))
        try:
            content = self.store.read(path, limit)
        except OSError as error:
            self.seen[path] = str(error)
            raise
        self.seen[path] = hashlib.sha256(content).hexdigest()
        return content


def check_shard(of: ArtifactSet, shard: int) -> list[Fault]:
    """`verify_shard`, confirmed: what a further look does not find is of the kind "reading"."""

    def look(store: ObjectStore) -> list[Fault]:
        return verify_shard(ArtifactSet(store, of.definition), shard)

    return _confirmed(look, of.store)


def check_definition(of: ArtifactSet) -> list[Fault]:
    """`verify_definition`, confirmed in the same way."""

    def look(store: ObjectStore) -> list[Fault]:
        return verify_definition(ArtifactSet(store, of.definition))

    return _confirmed(look, of.store)


def check_group(cache: Cache, source: str, set_name: str) -> list[Fault]:
    """Whether a set opens, confirmed in the same way; "reading" only: it does on a further try."""

    def look(store: ObjectStore) -> list[Fault]:
        again = Cache(cache.path)
        object.__setattr__(again, "store", store)
        try:
            again.artifact_set(source, set_name)
        except CacheError as error:
            folder = set_folder(source, set_name)
            return [Fault(source, set_name, None, folder, None, "metadata", str(error))]
        return []

    return _confirmed(look, cache.store)


def confirmed_damage(faults: list[Fault]) -> list[Fault]:
    """Leave out what was only read wrong."""
    return [fault for fault in faults if fault.kind != READING]


def _confirmed(look: Callable[[Any], list[Fault]], store: ObjectStore) -> list[Fault]:
    first = look(store)
    if not first:
        return []
    before: dict[str, str] | None = None
    for _ in range(LOOKS):
        recorder = _Recorder(store)
        faults = look(recorder)
        if not faults:
            when = "the second time" if before is None else "later"
            return _only_read(first, f"read wrong once, right {when}")
        if recorder.seen == before:
            return faults
        before = recorder.seen
    return _only_read(first, f"read {LOOKS + 1} times, never twice the same")


def _only_read(faults: list[Fault], what: str) -> list[Fault]:
    return [replace(each, kind=READING, message=f"{what}: {each.message}") for each in faults]
