# ruff: noqa: D102  (object_store.py documents the operations)
"""A cache in an object store, through obstore: each request bounded in time.

There a PUT is whole or not there: no temporary name, no rename.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.storage_specs.errors import CacheUnwritable, StoreUnavailable
from stillroom.storage_specs.files.cautious_reads import check_size
from stillroom.storage_specs.files.conditional_put import created, keeps_what_is_there
from stillroom.storage_specs.files.listed import Listed
from stillroom.storage_specs.files.ranged_file import RangedFile
from stillroom.storage_specs.files.store_connection import connected, demand_obstore
from stillroom.storage_specs.files.store_errors import (
    encoded_body,
    explained,
    is_of_bucket,
    not_for_two_builders,
    ranges_ignored,
    said,
    still_there,
    was_retried,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

PART_BYTES = 8 * 1024 * 1024
"""Larger objects are sent in parts, each within the timeout; the whole appears in one step."""
PAST_THE_END = re.compile(r"status code: 416\b|InvalidRange|Invalid range")
OTHER_RANGE = re.compile(r"non-partial response|Content-Range header not present|Requested .* got ")
PLAIN = ("identity", "aws-chunked", "")  # encodings that leave the bytes as they are
CONFLICTS = 5  # in a row, between a PUT if absent and others, before the store is given up

LOG = logging.getLogger(__name__)
_used_in: int | None = None  # the process that obstore's threads belong to


class RemoteFile(RangedFile):
    """One object, read by a request a piece."""

    def __init__(self, store: RemoteStore, path: str) -> None:
        self.store = store
        self.path = path

    def read(self, start: int, length: int) -> NDArray[np.uint8]:
        return np.frombuffer(self.store.read_range(self.path, start, length), np.uint8)


class RemoteStore:
    """Objects below a URL; `ObjectStore` documents the operations.

    Pickled and compared by its URL; connects when it is first asked. Threads may share it, forks
    of a process that used it may not. All operations raise StoreUnavailable, and CacheUnwritable
    where writing is not allowed.

    Raises:
        ConfigError: obstore is not installed.
    """

    def __init__(self, url: str) -> None:
        demand_obstore(url)
        self.url = url
        self._connection: Any = None
        self._ignores_ranges = False

    def __reduce__(self) -> tuple[type[RemoteStore], tuple[str]]:
        return RemoteStore, (self.url,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteStore) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    @property
    def remote(self) -> bool:
        return True

    def where(self, path: str) -> str:
        return f"{self.url}/{path}" if path else self.url

    def make(self) -> None:
        """A store has no folders to make; but one where two builders are not safe is told of."""
        with self._asking("", writing=True) as store:
            if keeps_what_is_there(store):
                return
        LOG.warning("%s", not_for_two_builders(self.url))

    def entries(self) -> list[str] | None:
        files, folders = self._list("")
        return [file.name for file in files] + folders

    def exists(self, path: str) -> bool:
        import obstore

        try:
            with self._asking(path) as store:
                obstore.head(store, path)
        except FileNotFoundError:
            return False
        return True

    def files(self, folder: str) -> list[Listed]:
        return self._list(folder)[0]

    def folders(self, folder: str) -> list[str]:
        return self._list(folder)[1]

    def read(self, path: str, limit: int | None = None) -> bytes:
        import obstore

        with self._asking(path) as store:
            content = self._body(obstore.get(store, path), path)
        check_size(len(content), limit, self.where(path))
        return content

    def _body(self, answer: Any, path: str) -> bytes:
        """The bytes of an answer, which must be those of the object (StoreUnavailable)."""
        encoding = answer.attributes.get("Content-Encoding", "identity")
        if encoding not in PLAIN:
            raise StoreUnavailable(encoded_body(self.where(path), encoding))
        return bytes(answer.bytes())

    def open(self, path: str) -> RemoteFile:
        return RemoteFile(self, path)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """As `RangedFile.read`; a store that answers with the whole object is taken at that."""
        if not self._ignores_ranges:
            content = self._range(path, start, length)
            if content is not None:
                return content[:length]
        whole = self.read(path)
        first = max(0, len(whole) + start) if start < 0 else start
        piece = whole[first : first + length]
        if len(piece) < len(whole) and not self._ignores_ranges:
            self._ignores_ranges = True
            LOG.warning("%s", ranges_ignored(self.url))
        return piece

    def _range(self, path: str, start: int, length: int) -> bytes | None:
        """Ask for a range; None where the whole object has to be asked for instead."""
        import obstore
        from obstore.exceptions import GenericError

        span: Any = {"suffix": -start} if start < 0 else (start, start + length)
        with self._asking(path) as store:
            try:
                return self._body(obstore.get(store, path, options={"range": span}), path)
            except GenericError as error:
                if OTHER_RANGE.search(str(error)):
                    return None
                if not PAST_THE_END.search(str(error)):
                    raise
        # Of an object shorter than its suffix, the suffix is all of it: some stores refuse that.
        return None if start < 0 else b""

    def write_whole(self, path: str, content: bytes, *, keep: bool = False) -> bool:
        import obstore

        if keep:
            return self._put_if_absent(path, content)
        with self._asking(path, writing=True) as store:
            obstore.put(
                store,
                path,
                content,
                use_multipart=len(content) > PART_BYTES,
                chunk_size=PART_BYTES,
                max_concurrency=4,
            )
        return True

    def _put_if_absent(self, path: str, content: bytes) -> bool:
        """Look first, whatever the store says that it does: the condition may be ignored."""
        from obstore.exceptions import NotSupportedError

        for _ in range(CONFLICTS):
            if self.exists(path):
                return False
            with self._asking(path, writing=True) as store:
                try:
                    if created(store, path, content):
                        return True
                except NotSupportedError:
                    break
        else:  # S3 answers 409 where another PUT is under way, which may yet come to nothing
            raise StoreUnavailable(
                f"{self.where(path)}: the store refuses to put it and says that it is not there; "
                "run the same command again"
            )
        # This store has no such request: the check and the write are two steps.
        return self.write_whole(path, content)

    def remove(self, path: str) -> bool:
        import obstore

        if not self.exists(path):
            return False
        with self._asking(path, writing=True) as store:
            obstore.delete(store, path)
        if self.exists(path):
            raise CacheUnwritable(still_there(self.where(path)))
        return True

    def locked(self, path: str, place: int) -> AbstractContextManager[None]:
        del path, place
        return nullcontext()

    def first_link(self, places: Iterable[str]) -> str | None:
        del places
        return None

    def sweep(self) -> int:
        return 0  # there is no staging: what was not put whole was never there

    def _list(self, folder: str) -> tuple[list[Listed], list[str]]:
        """List a folder's objects, and the names of its folders."""
        import obstore

        with self._asking(folder) as store:
            found = obstore.list_with_delimiter(store, folder or None)
        files = [
            Listed(
                name=each["path"].rpartition("/")[2],
                bytes=each["size"],
                signature=[each["e_tag"] or str(each["last_modified"]), each["size"]],
            )
            for each in found["objects"]
            if each["path"] != folder  # "folder/", which consoles make where a folder is wanted
        ]
        return files, [name.rpartition("/")[2] for name in found["common_prefixes"]]

    @contextmanager
    def _asking(self, path: str, *, writing: bool = False) -> Iterator[Any]:
        """Give obstore's store; turn what it raises into what the user has to do."""
        from obstore.exceptions import BaseError

        try:
            self._connect()
            yield self._connection
        except FileNotFoundError as error:
            if writing or is_of_bucket(str(error)):
                raise explained(self.url, path, str(error), writing=writing) from error
            where = self.where(path)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where) from error
        except (BaseError, OSError) as error:
            if was_retried(str(error)):
                LOG.warning("%s: given up: %s", self.where(path), said(str(error)))
            raise explained(self.url, path, str(error), writing=writing) from error

    def _connect(self) -> None:
        global _used_in  # obstore's threads are the process's
        if _used_in not in (None, os.getpid()):
            raise StoreUnavailable(_in_a_fork(self.url))
        if self._connection is None:
            self._connection = connected(self.url)
        _used_in = os.getpid()


def _in_a_fork(url: str) -> str:
    if url.startswith("memory://"):
        return (
            f"{url}: lives in the process that made it, and this is a fork of that one; "
            "use threads, or a folder"
        )
    return (
        f"{url}: this process is a fork of one that has used an object store, whose connections do "
        'not come along; use threads, or start processes with multiprocessing_context="spawn"'
    )
