"""The auto-encoder that wrote a set of codes, kept beside the manifests of its sets.

`manifest/<set>.safetensors`, one file for the sets of that name on all sources. Readers of codes do
not need it; whoever goes on writing them does. docs/storage_format.md, section 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.storage_specs.artifacts import FRAMES
from stillroom.storage_specs.errors import CacheError
from stillroom.storage_specs.layout import check_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stillroom.storage_specs.store import Cache

MOST_BYTES = 2**32


def weights_path(set_name: str) -> str:
    """Path of the file, from the cache's root."""
    check_names(FRAMES[:-1], set_name)
    return f"manifest/{set_name}.safetensors"


def read_weights(cache: Cache, set_name: str) -> bytes | None:
    """The file; None where there is none.

    Raises:
        CacheError: it cannot be read.
    """
    path = weights_path(set_name)
    try:
        return cache.store.read(path, MOST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CacheError(f"{cache.store.where(path)}: cannot be read: {error.strerror}") from error


def keep_weights(cache: Cache, set_name: str, content: bytes) -> bytes:
    """Put the file there unless there is one, and return what is there: whoever is first wins.

    Raises:
        CacheUnwritable: no space or no permission.
    """
    if cache.store.write_whole(weights_path(set_name), content, keep=True):
        return content
    return read_weights(cache, set_name) or content


def copy_weights(origin: Cache, made: Cache, set_names: Iterable[str]) -> None:
    """Copy the files of these sets, where there are any and none yet.

    Raises:
        CacheError: one cannot be read.
        CacheUnwritable: no space or no permission.
    """
    for name in sorted(set(set_names)):
        content = read_weights(origin, name)
        if content is not None:
            made.store.write_whole(weights_path(name), content, keep=True)
