# ruff: noqa: D102  (object_store.py documents the operations)
"""A cache in an object store, through obstore: each request bounded in time.

There a PUT is whole or not there: no temporary name, no rename.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.storage_specs.errors import ConfigError, StoreUnavailable
from stillroom.storage_specs.files.cautious_reads import check_size
from stillroom.storage_specs.files.listed import Listed
from stillroom.storage_specs.files.ranged_file import RangedFile
from stillroom.storage_specs.files.store_errors import explained, is_of_bucket

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

# A store that refuses connections is asked again for seconds, one that keeps silent for a minute.
RETRIES = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=40),
    "backoff": {
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=4),
        "base": 2,
    },
}
TIMEOUTS = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=30)}
PART_BYTES = 8 * 1024 * 1024
"""Larger objects are sent in parts, each within the timeout; the whole appears in one step."""
PAST_THE_END = re.compile(r"\b416\b|InvalidRange|Invalid range")

_memory: dict[str, Any] = {}  # by URL: what memory:// holds lives as long as the process
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
        _demand_obstore(url)
        self.url = url
        self._connection: Any = None

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
        """A store has no folders to make."""

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
            content = bytes(obstore.get(store, path).bytes())
        check_size(len(content), limit, self.where(path))
        return content

    def open(self, path: str) -> RemoteFile:
        return RemoteFile(self, path)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """As `RangedFile.read`."""
        import obstore
        from obstore.exceptions import GenericError

        span: Any = {"suffix": -start} if start < 0 else (start, start + length)
        with self._asking(path) as store:
            try:
                content = bytes(obstore.get(store, path, options={"range": span}).bytes())
            except GenericError as error:
                if not PAST_THE_END.search(str(error)):
                    raise
                return b""
        return content[:length]

    def write_whole(self, path: str, content: bytes, *, keep: bool = False) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        with self._asking(path, writing=True) as store:
            if not keep:
                obstore.put(
                    store,
                    path,
                    content,
                    use_multipart=len(content) > PART_BYTES,
                    chunk_size=PART_BYTES,
                    max_concurrency=4,
                )
                return True
            try:
                obstore.put(store, path, content, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False
            except NotSupportedError:
                pass
            else:
                return True
        # This store has no such request: the check and the write are two steps.
        return not self.exists(path) and self.write_whole(path, content)

    def remove(self, path: str) -> bool:
        import obstore

        if not self.exists(path):
            return False
        with self._asking(path, writing=True) as store:
            obstore.delete(store, path)
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
            raise explained(self.url, path, str(error), writing=writing) from error

    def _connect(self) -> None:
        global _used_in  # obstore's threads are the process's
        if _used_in not in (None, os.getpid()):
            raise StoreUnavailable(_in_a_fork(self.url))
        if self._connection is None:
            self._connection = _connected(self.url)
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


def _connected(url: str) -> Any:
    """The store of a URL, as obstore has it; no request is made yet."""
    from obstore.store import GCSStore, MemoryStore, S3Store

    scheme, _, rest = url.partition("://")
    if scheme == "memory":
        return _memory.setdefault(url, MemoryStore())
    bucket, _, prefix = rest.partition("/")
    # Passed on explicitly: given client options, obstore does not read this variable itself.
    http = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes")
    options: Any = {
        "prefix": prefix or None,
        "client_options": {**TIMEOUTS, **({"allow_http": True} if http else {})},
        "retry_config": RETRIES,
    }
    return S3Store(bucket, **options) if scheme == "s3" else GCSStore(bucket, **options)


def _demand_obstore(url: str) -> None:
    try:
        import obstore  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"{url}: an object store needs the package obstore, which cannot be imported "
            f"({error}); run `pip install obstore`"
        ) from error
