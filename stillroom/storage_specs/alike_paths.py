"""Names that are two files on most disks, and one where upper and lower case are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from stillroom.storage_specs.files.object_store import ObjectStore
    from stillroom.storage_specs.layout import Definition


def refuse_alike(store: ObjectStore, definition: Definition) -> None:
    """Refuse layers whose names differ in case only, where that makes them one file.

    Args:
        store: with the cache's own zarr.json in it

    Raises:
        ConfigError: the second array would be written over the first.
    """
    seen: dict[str, str] = {}
    for spec in definition.arrays:
        for stored in definition.stored(spec):
            other = seen.setdefault(stored.path.lower(), stored.path)
            if other != stored.path and store.exists("ZARR.JSON"):
                raise ConfigError(
                    f"{store.where(stored.path)}: this disk takes it for {other}, since it does "
                    "not tell upper from lower case; leave one of the two layers out, or point "
                    "cache.path at another disk"
                )
