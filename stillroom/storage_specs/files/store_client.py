"""One object store through obstore: its requests, each bounded in time."""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.files.listed import Listed
from stillroom.storage_specs.files.store_errors import explained, is_of_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator

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
_at_work_in: int | None = None


def usable_here() -> bool:
    """Whether obstore works in this process: in a fork of one that used it, it would hang."""
    return _at_work_in in (None, os.getpid())


class StoreClient:
    """Requests by path below a URL. Threads may share it, forks may not.

    All of them raise StoreUnavailable (CacheUnwritable where writing is not allowed).

    Raises:
        ConfigError: obstore is not installed.
    """

    def __init__(self, url: str) -> None:
        global _at_work_in  # obstore's threads are the process's
        self.url = url
        with self._explaining(""):
            self._store = _connected(url)
        _at_work_in = os.getpid()

    def get(self, path: str, start: int | None = None, length: int = 0) -> bytes:
        """An object, or `length` bytes from `start`, from its end if negative; fewer at the end.

        Raises:
            FileNotFoundError: there is no such object.
        """
        import obstore
        from obstore.exceptions import GenericError

        options: Any = None
        if start is not None:
            options = {"range": {"suffix": -start} if start < 0 else (start, start + length)}
        with self._explaining(path):
            try:
                content = bytes(obstore.get(self._store, path, options=options).bytes())
            except GenericError as error:
                if start is None or not PAST_THE_END.search(str(error)):
                    raise
                return b""
        return content if start is None else content[:length]

    def exists(self, path: str) -> bool:
        """Whether there is an object of this name."""
        import obstore

        try:
            with self._explaining(path):
                obstore.head(self._store, path)
        except FileNotFoundError:
            return False
        return True

    def list(self, folder: str) -> tuple[list[Listed], list[str]]:
        """What lies directly in a folder: its objects, and the names of its folders."""
        import obstore

        with self._explaining(folder):
            found = obstore.list_with_delimiter(self._store, folder or None)
        files = [
            Listed(
                name=each["path"].rpartition("/")[2],
                bytes=each["size"],
                signature=[each["e_tag"] or str(each["last_modified"]), each["size"]],
            )
            for each in found["objects"]
        ]
        return files, [name.rpartition("/")[2] for name in found["common_prefixes"]]

    def put(self, path: str, content: bytes, keep: bool = False) -> bool:
        """Write an object in one step; with `keep`, leave one that is there and return False."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        with self._explaining(path, writing=True):
            if not keep:
                obstore.put(
                    self._store,
                    path,
                    content,
                    use_multipart=len(content) > PART_BYTES,
                    chunk_size=PART_BYTES,
                    max_concurrency=4,
                )
                return True
            try:
                obstore.put(self._store, path, content, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False
            except NotSupportedError:
                pass
            else:
                return True
        # This store has no such request: the check and the write are two steps.
        return not self.exists(path) and self.put(path, content)

    def delete(self, path: str) -> bool:
        """Remove an object; False where there was none."""
        import obstore

        if not self.exists(path):
            return False
        with self._explaining(path, writing=True):
            obstore.delete(self._store, path)
        return True

    @contextmanager
    def _explaining(self, path: str, *, writing: bool = False) -> Iterator[None]:
        """Turn what obstore raises into what the user has to do."""
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError as error:
            if writing or is_of_bucket(str(error)):
                raise explained(self.url, path, str(error), writing=writing) from error
            where = f"{self.url}/{path}"
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where) from error
        except (BaseError, OSError) as error:
            raise explained(self.url, path, str(error), writing=writing) from error


def _connected(url: str) -> Any:
    """The store of a URL, as obstore has it; no request is made yet."""
    from obstore.store import GCSStore, MemoryStore, S3Store

    scheme, _, rest = url.partition("://")
    if scheme == "memory":
        return _memory.setdefault(url, MemoryStore())
    bucket, _, prefix = rest.partition("/")
    # Told to obstore in so many words: with options of a client it no longer looks for this one.
    http = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes")
    options: Any = {
        "prefix": prefix or None,
        "client_options": {**TIMEOUTS, **({"allow_http": True} if http else {})},
        "retry_config": RETRIES,
    }
    return S3Store(bucket, **options) if scheme == "s3" else GCSStore(bucket, **options)


def demand_obstore(url: str) -> None:
    """Refuse to go on without the package (ConfigError)."""
    try:
        import obstore  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"{url}: an object store needs the package obstore, which cannot be imported "
            f"({error}); run `pip install obstore`"
        ) from error
